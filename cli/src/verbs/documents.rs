//! `create`, `get`, `edit` and `rm`: documents of any kind, and what the narrower verbs share with them.

use std::io::Read as _;
use std::path::Path;

use keystile_api::{DocumentList, WriteAnswer};
use keystile_model::document::{Document, MAX_BYTES, VERSION};
use serde_json::{Value, json};

use crate::access::Access;
use crate::context::{Context, wait};
use crate::failure::{Failure, printable};
use crate::home;
use crate::output::{Format, say, yaml};
use crate::table;

/// Longest file of documents, in bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Creates or replaces the documents of a file, in its order. All are read before the first is written.
pub(crate) fn create(context: &Context, file: &Path) -> Result<(), Failure> {
    let documents = read(file)?;
    write(context, &documents)
}

/// Prints one document, or all of a kind.
pub(crate) fn show(context: &Context, what: &str) -> Result<(), Failure> {
    let (kind, name) = split(what)?;
    wait(async {
        let access = Access::open(context).await?;
        match name {
            Some(name) => {
                let document: Value = access.get(&path(&kind, Some(&name))).await?;
                context.output.write(&rendered(context.output.format, &document)?)
            }
            None => {
                let list = list(&access, &kind).await?;
                context.output.write(&rendered_list(context.output.format, &list)?)
            }
        }
    })
}

/// Changes a document in an editor, or replaces it by a file.
pub(crate) fn edit(context: &Context, what: &str, file: Option<&Path>) -> Result<(), Failure> {
    let (kind, name) = named(what)?;
    let documents = match file {
        Some(file) => read(file)?,
        None => match edited(context, &kind, &name)? {
            Some(document) => vec![document],
            None => {
                say("Nothing changed.");
                return Ok(());
            }
        },
    };
    match documents.as_slice() {
        [one] if kind_of(&one.kind) == kind && one.metadata.name == name => write(context, &documents),
        [one] => Err(Failure::usage(format!(
            "the document is {}/{}, not {kind}/{name}",
            one.kind, one.metadata.name
        ))),
        _ => Err(Failure::usage(format!("there are {} documents; edit takes one", documents.len()))),
    }
}

/// Removes a document.
pub(crate) fn remove(context: &Context, what: &str) -> Result<(), Failure> {
    let (kind, name) = named(what)?;
    remove_one(context, &kind, &name)
}

/// Removes a document of a kind by its name.
pub(crate) fn remove_one(context: &Context, kind: &str, name: &str) -> Result<(), Failure> {
    let answer: WriteAnswer =
        wait(async { Access::open(context).await?.delete(&path(kind, Some(name))).await })?;
    report(context, &[(kind.to_owned(), name.to_owned(), answer)])
}

/// A document of ours.
pub(crate) fn document(kind: &str, name: &str, description: &str, spec: Value) -> Document {
    let metadata = keystile_model::document::Metadata {
        name: name.to_owned(),
        description: description.to_owned(),
        ..Default::default()
    };
    Document { kind: kind.to_owned(), version: VERSION.to_owned(), metadata, spec }
}

/// Writes documents one after the other; what was written before a failure is said.
pub(crate) fn write(context: &Context, documents: &[Document]) -> Result<(), Failure> {
    let mut done = Vec::new();
    let outcome = wait(async {
        let access = Access::open(context).await?;
        for document in documents {
            let (kind, name) = (kind_of(&document.kind), document.metadata.name.clone());
            let answer: WriteAnswer = access.put(&path(&kind, Some(&name)), document).await?;
            done.push((kind, name, answer));
        }
        Ok(())
    });
    if outcome.is_ok() || !done.is_empty() {
        report(context, &done)?;
    }
    outcome
}

/// All documents of a kind.
pub(crate) async fn list(access: &Access, kind: &str) -> Result<Vec<Document>, Failure> {
    Ok(access.get::<DocumentList>(&path(kind, None)).await?.documents)
}

/// Rows of a kind for `ls --format json`: the `spec` with its name, labels and description beside it.
pub(crate) fn row(document: &Document) -> Value {
    let mut row = match &document.spec {
        Value::Object(spec) => spec.clone(),
        other => serde_json::Map::from_iter([("spec".to_owned(), other.clone())]),
    };
    row.insert("name".to_owned(), json!(document.metadata.name));
    row.insert("version".to_owned(), json!(document.version));
    row.insert("description".to_owned(), json!(document.metadata.description));
    row.insert("labels".to_owned(), json!(document.metadata.labels));
    Value::Object(row)
}

/// Prints the rows of a kind; `cells` gives a row of the table.
pub(crate) fn list_rows(
    context: &Context,
    kind: &str,
    header: &[&str],
    cells: impl Fn(&Document) -> Vec<String>,
) -> Result<(), Failure> {
    let documents = wait(async { list(&Access::open(context).await?, kind).await })?;
    let rows: Vec<Value> = documents.iter().map(row).collect();
    context.output.emit(&rows, || {
        let cells: Vec<_> = documents.iter().map(&cells).collect();
        table::render(header, &cells, context.output.bold)
    })
}

/// Reads the documents of a file, `-` for standard input, and checks their outer shape.
pub(crate) fn read(file: &Path) -> Result<Vec<Document>, Failure> {
    let text = read_file(file)?;
    let named = file.display();
    let documents: Vec<Document> = serde_saphyr::from_multiple(&text).map_err(|error| {
        Failure::usage(format!("{named} is not made of documents")).why(error.to_string())
    })?;
    if documents.is_empty() {
        return Err(Failure::usage(format!("{named} holds no document")));
    }
    for document in &documents {
        let size = serde_json::to_vec(document).map_or(0, |bytes| bytes.len());
        if size > MAX_BYTES {
            return Err(Failure::usage(format!(
                "{}/{} has {size} bytes; at most {MAX_BYTES} are taken",
                document.kind, document.metadata.name
            )));
        }
        if document.kind.is_empty() || document.metadata.name.is_empty() {
            return Err(Failure::usage(format!("a document of {named} has no kind or no name")));
        }
    }
    Ok(documents)
}

fn read_file(file: &Path) -> Result<String, Failure> {
    if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text);
        read.map_err(|error| Failure::usage("standard input can't be read").why(error.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(Failure::usage(format!("standard input has more than {MAX_FILE} bytes")));
        }
        return Ok(text);
    }
    match home::read_text(file, MAX_FILE) {
        Ok(Some(text)) => Ok(text),
        Ok(None) => Err(Failure::usage(format!("there is no file {}", file.display()))),
        Err(mut failure) => {
            failure.exit = crate::failure::exit::USAGE;
            Err(failure)
        }
    }
}

fn edited(context: &Context, kind: &str, name: &str) -> Result<Option<Document>, Failure> {
    let editor =
        context.environment.var("VISUAL").or_else(|| context.environment.var("EDITOR")).unwrap_or("vi");
    if !context.environment.can_prompt() {
        return Err(Failure::usage("an editor needs a terminal")
            .next(format!("keystile get {kind}/{name} > FILE, then: keystile create -f FILE")));
    }
    let before: Document = wait(async { Access::open(context).await?.get(&path(kind, Some(name))).await })?;
    let draft = context.home.state_file(&format!("edit-{}.yaml", uuid::Uuid::new_v4().simple()));
    home::write_private(&draft, yaml(&before)?.as_bytes())?;
    // An editor may be a line of words, as in EDITOR="code --wait": the shell splits it, and the file is "$1".
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(&draft)
        .status()
        .map_err(|error| Failure::failed(format!("{editor} could not start")).why(error.to_string()))?;
    if !status.success() {
        home::remove(&draft)?;
        return Err(Failure::failed(format!("{editor} ended with {status}; nothing was changed")));
    }
    let kept = |failure: Failure| failure.next(format!("keystile edit {kind}/{name} -f {}", draft.display()));
    let mut after = read(&draft).map_err(kept)?;
    home::remove(&draft)?;
    let after = if after.len() == 1 {
        after.remove(0)
    } else {
        return Err(Failure::usage("edit takes one document"));
    };
    Ok((after != before).then_some(after))
}

fn report(context: &Context, done: &[(String, String, WriteAnswer)]) -> Result<(), Failure> {
    for (kind, name, answer) in done {
        for warning in &answer.warnings {
            say(&format!("warning: {kind}/{name}: {}", printable(warning)));
        }
    }
    let rows: Vec<Value> = done
        .iter()
        .map(|(kind, name, answer)| {
            json!({
                "kind": kind, "name": name, "outcome": answer.outcome,
                "revision": answer.revision, "warnings": answer.warnings,
            })
        })
        .collect();
    context.output.emit(&rows, || {
        done.iter()
            .map(|(kind, name, answer)| format!("{kind}/{name} {}\n", printable(&answer.outcome)))
            .collect()
    })
}

/// Documents for people are YAML: they can be edited and given back.
fn rendered(format: Format, document: &Value) -> Result<String, Failure> {
    match format {
        Format::Json => Ok(format!("{document:#}\n")),
        Format::Text | Format::Yaml => yaml(document),
    }
}

fn rendered_list(format: Format, documents: &[Document]) -> Result<String, Failure> {
    if format == Format::Json {
        return Ok(format!("{:#}\n", json!(documents)));
    }
    documents.iter().map(|document| Ok(format!("---\n{}", yaml(document)?))).collect()
}

fn path(kind: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("/v1/documents/{kind}/{name}"),
        None => format!("/v1/documents/{kind}"),
    }
}

/// `KIND` or `KIND/NAME`; the name may hold more slashes, as an ARN does.
fn split(what: &str) -> Result<(String, Option<String>), Failure> {
    let (kind, name) = match what.split_once('/') {
        Some((kind, name)) => (kind, Some(name)),
        None => (what, None),
    };
    let legal = |c: char| c.is_ascii_lowercase() || c == '_';
    let kind = kind_of(kind);
    if kind.is_empty() || !kind.chars().all(legal) || name == Some("") {
        return Err(
            Failure::usage(format!("{what:?} is neither KIND nor KIND/NAME")).next("keystile get role")
        );
    }
    Ok((kind, name.map(str::to_owned)))
}

fn named(what: &str) -> Result<(String, String), Failure> {
    match split(what)? {
        (kind, Some(name)) => Ok((kind, name)),
        (kind, None) => Err(Failure::usage(format!("which {kind}?")).next(format!("keystile get {kind}"))),
    }
}

/// The kind as the API spells it; plurals and hyphens are taken too.
fn kind_of(word: &str) -> String {
    let word = word.to_lowercase().replace('-', "_");
    match word.as_str() {
        "users" | "roles" | "locks" | "matchers" | "dbs" | "db_auths" | "db_users" | "db_servers"
        | "arn_rules" | "tokens" => word.trim_end_matches('s').to_owned(),
        "database" | "databases" => "db".to_owned(),
        "proxies" => "proxy".to_owned(),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_names() {
        assert_eq!(split("roles").unwrap(), ("role".to_owned(), None));
        assert_eq!(split("db/orders").unwrap(), ("db".to_owned(), Some("orders".to_owned())));
        let arn = "arn-rule/arn:aws:iam::1:role/a";
        assert_eq!(split(arn).unwrap(), ("arn_rule".to_owned(), Some("arn:aws:iam::1:role/a".to_owned())));
        for bad in ["", "/", "role/", "../x", "ro le"] {
            assert_eq!(split(bad).unwrap_err().exit, 2, "{bad}");
        }
        assert_eq!(named("role").unwrap_err().exit, 2);
    }

    #[test]
    fn a_file_of_several_documents() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let one = "kind: role\nversion: ks1\nmetadata: {name: a}\nspec: {allow: {db_users: ['*']}}\n";
        std::fs::write(&file, format!("{one}---\n{}", one.replace("name: a", "name: b"))).unwrap();
        let documents = read(&file).unwrap();
        assert_eq!(documents.iter().map(|d| d.metadata.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        for bad in [
            "",
            "kind: role\n",
            "kind: role\nversion: ks1\nmetadata: {name: ''}\n",
            "kind: role\nversion: ks1\nmetadata: {name: a}\nsurplus: 1\n",
            "{",
        ] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(read(&file).unwrap_err().exit, 2, "{bad:?}");
        }
        assert_eq!(read(&folder.path().join("none")).unwrap_err().exit, 2);
    }

    #[test]
    fn rows_carry_their_name_beside_the_spec() {
        let row = row(&document("user", "bob", "", json!({"roles": ["dev"]})));
        assert_eq!(row["name"], "bob");
        assert_eq!(row["roles"][0], "dev");
    }

    #[test]
    fn documents_are_printed_so_that_they_can_be_read_back() {
        let documents =
            [document("user", "bob", "", json!({"roles": ["*"]})), document("user", "x", "d", json!({}))];
        let text = rendered_list(Format::Text, &documents).unwrap();
        let back: Vec<Document> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(back, documents);
    }
}
