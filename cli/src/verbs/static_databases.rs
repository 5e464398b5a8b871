//! `db add` and `db set`: what an editor writes down of databases.

use keystile_model::database::CacheAuth;
use keystile_model::document::{DatabaseAuthSpec, Document, StaticDatabaseSpec};
use keystile_model::labels::Labels;

use crate::args::DbAdd;
use crate::context::Context;
use crate::failure::Failure;
use crate::home;
use crate::verbs::documents;
use crate::verbs::users::value;

/// Largest CA file, in bytes.
const MAX_CA: u64 = 64 * 1024;

/// Writes a static database down.
pub(crate) fn add(context: &Context, add: DbAdd) -> Result<(), Failure> {
    let ca = match &add.ca {
        None => None,
        Some(file) => Some(home::read_text(file, MAX_CA)?.ok_or_else(|| {
            Failure::usage(format!("there is no file {}", file.display()))
                .next("give the PEM of the CA that signed the cache's certificate")
        })?),
    };
    documents::write(context, &[document(add, ca)?])
}

/// Says how a database is signed in to.
pub(crate) fn set(context: &Context, name: &str, auth: CacheAuth) -> Result<(), Failure> {
    let spec = value(&DatabaseAuthSpec { auth })?;
    documents::write(context, &[documents::document("db_auth", name, "", spec)])
}

fn document(add: DbAdd, ca: Option<String>) -> Result<Document, Failure> {
    let spec =
        StaticDatabaseSpec { protocol: add.protocol, uri: add.uri, ca, auth: add.auth.unwrap_or_default() };
    let mut document = documents::document("db", &add.name, &add.description, value(&spec)?);
    document.metadata.labels = labels(&add.labels)?;
    Ok(document)
}

/// `k=v`, each key once.
fn labels(texts: &[String]) -> Result<Labels, Failure> {
    let mut labels = Labels::new();
    for text in texts {
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Failure::usage(format!("{text:?} is no label"))
                .next("keystile db add NAME … --labels env=dev,team=shop")
        })?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("label {key:?} is given twice")));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::{Db, Verb, parse};

    fn added(line: &str) -> Result<Document, Failure> {
        let args = format!("keystile db add {line}");
        let (cli, _) =
            parse(args.split_whitespace().map(Into::into)).map_err(|e| Failure::usage(e.to_string()))?;
        let Verb::Db(Db::Add(add)) = cli.verb else { return Err(Failure::usage("not db add")) };
        document(add, None)
    }

    #[test]
    fn a_static_database_as_a_document() {
        let line = "legacy --protocol redis --uri rediss://10.0.0.5:6380 --labels env=dev,team=a=b --auth secret:shop/token";
        let document = added(line).unwrap();
        assert_eq!((document.kind.as_str(), document.metadata.name.as_str()), ("db", "legacy"));
        assert_eq!(document.metadata.labels["team"], "a=b");
        assert_eq!(
            document.spec,
            json!({"protocol": "redis", "uri": "rediss://10.0.0.5:6380", "auth": "secret:shop/token"})
        );
        assert_eq!(added("x --protocol valkey --uri h:1").unwrap().spec["auth"], "auto");
        for bad in [
            "x --uri h:1",
            "x --protocol redis",
            "x --protocol memcached --uri h:1",
            "x --protocol redis --uri h:1 --auth password",
            "x --protocol redis --uri h:1 --labels env",
            "x --protocol redis --uri h:1 --labels env=a,env=b",
        ] {
            assert_eq!(added(bad).unwrap_err().exit, 2, "{bad}");
        }
    }
}
