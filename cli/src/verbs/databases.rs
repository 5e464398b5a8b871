//! `db ls`, `show`, `login`, `logout`, `env` and `config`; what is written down is in `static_databases`.

use std::collections::BTreeMap;

use keystile_api::{DatabaseList, DatabaseView};

use crate::access::Access;
use crate::args::{Db, RouteArgs};
use crate::context::{Context, wait};
use crate::failure::{Failure, printable};
use crate::home;
use crate::output::say;
use crate::route::{Route, Settings, with_lines};
use crate::table;
use crate::verbs::{documents, static_databases};

/// Runs `db …`, all but `connect`.
pub(crate) fn run(context: &Context, verb: Db) -> Result<(), Failure> {
    match verb {
        Db::Ls { label, search } => list(context, &label, search.as_deref()),
        Db::Show { name } => show(context, &name),
        Db::Login(route) => login(context, &route),
        Db::Logout { name } => logout(context, name.as_deref()),
        Db::Env(route) => env(context, &route),
        Db::Config(route) => config(context, &route),
        Db::Add(add) => static_databases::add(context, add),
        Db::Set { name, auth } => static_databases::set(context, &name, auth),
        Db::Rm { name } => documents::remove_one(context, "db", &name),
        Db::Connect { .. } => Err(Failure::failed("connect is run elsewhere")),
    }
}

fn list(context: &Context, labels: &[String], search: Option<&str>) -> Result<(), Failure> {
    let conditions = labels.iter().map(|label| Condition::parse(label)).collect::<Result<Vec<_>, _>>()?;
    let list: DatabaseList = wait(async { Access::open(context).await?.get("/v1/databases").await })?;
    let total = list.total;
    let shown: Vec<DatabaseView> = list
        .databases
        .into_iter()
        .filter(|database| conditions.iter().all(|condition| condition.holds(&database.labels)))
        .filter(|database| search.is_none_or(|words| mentions(database, words)))
        .collect();
    context.output.emit(&shown, || rows(&shown, context.output.bold))?;
    if context.output.format == crate::output::Format::Text {
        for database in &shown {
            for warning in &database.warnings {
                say(&format!("warning: {}: {}", printable(&database.name), printable(warning)));
            }
        }
        say(&format!("{} of {total} databases. ACCESS: the db users that you may use.", shown.len()));
    }
    Ok(())
}

/// A condition on a label: `k=v` or `k!=v`.
#[derive(Debug, PartialEq, Eq)]
struct Condition {
    key: String,
    value: String,
    equal: bool,
}

impl Condition {
    fn parse(text: &str) -> Result<Self, Failure> {
        let parts = text
            .split_once("!=")
            .map(|(key, value)| (key, value, false))
            .or_else(|| text.split_once('=').map(|(key, value)| (key, value, true)));
        match parts {
            Some((key, value, equal)) if !key.is_empty() => {
                Ok(Self { key: key.to_owned(), value: value.to_owned(), equal })
            }
            _ => Err(Failure::usage(format!("{text:?} is no condition on a label"))
                .next("keystile db ls --label env=prod,team!=ads")),
        }
    }

    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        (labels.get(&self.key) == Some(&self.value)) == self.equal
    }
}

/// Whether every word is in the name, the description, the kind, the engine or a label; case does not matter.
fn mentions(database: &DatabaseView, words: &str) -> bool {
    let mut text =
        [&database.name, &database.description, &database.kind, &database.engine, &database.region]
            .map(String::as_str)
            .join(" ");
    for (key, value) in &database.labels {
        text.push_str(&format!(" {key}={value}"));
    }
    let text = text.to_lowercase();
    words.to_lowercase().split_whitespace().all(|word| text.contains(word))
}

fn rows(databases: &[DatabaseView], bold: bool) -> String {
    let rows: Vec<Vec<String>> = databases
        .iter()
        .map(|database| {
            vec![
                database.name.clone(),
                format!("{} {}", database.kind, database.endpoint_type).trim().to_owned(),
                format!("{} {}", database.engine, database.engine_version).trim().to_owned(),
                database.region.clone(),
                users(database),
                database.health.clone(),
                labels(&database.labels),
            ]
        })
        .collect();
    table::render(&["NAME", "TYPE", "ENGINE", "REGION", "ACCESS", "HEALTH", "LABELS"], &rows, bold)
}

fn users(database: &DatabaseView) -> String {
    if database.db_users.is_empty() { "-".to_owned() } else { database.db_users.join(",") }
}

/// The labels that people gave; those of discovery are columns already.
fn labels(labels: &BTreeMap<String, String>) -> String {
    let own = labels.iter().filter(|(key, _)| !keystile_model::labels::is_owned(key));
    own.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn show(context: &Context, name: &str) -> Result<(), Failure> {
    let path = format!("/v1/databases/{name}");
    let database: DatabaseView = wait(async { Access::open(context).await?.get(&path).await })?;
    context.output.emit(&database, || {
        let all: Vec<String> = database.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table::facts(&[
            ("name", database.name.clone()),
            ("alias", database.alias.clone()),
            ("description", database.description.clone()),
            ("kind", database.kind.clone()),
            ("endpoint", database.endpoint_type.clone()),
            ("engine", format!("{} {}", database.engine, database.engine_version)),
            ("uri", database.uri.clone()),
            ("region", database.region.clone()),
            ("account", database.account_id.clone()),
            ("auth", database.auth.clone()),
            ("db users", users(&database)),
            ("health", database.health.clone()),
            ("labels", all.join(" ")),
            ("warnings", database.warnings.join("; ")),
        ])
    })
}

/// A route in files; an ambiguous one with the lines to type.
pub(crate) fn settings(context: &Context, args: &RouteArgs, verb: &str) -> Result<Settings, Failure> {
    let kept = wait(async {
        let access = Access::open(context).await?;
        Route::keep(context, &access, &args.name, args.db_user.as_deref()).await
    });
    kept.map(|(_, settings)| settings).map_err(|failure| {
        with_lines(failure, |user| format!("keystile {verb} {} --db-user {user}", args.name))
    })
}

fn login(context: &Context, args: &RouteArgs) -> Result<(), Failure> {
    let settings = settings(context, args, "db login")?;
    context.output.emit(&settings, || {
        format!(
            "Connection information for database {:?} has been saved, valid until {}.\n  keystile db connect {} --db-user {}\n",
            settings.database,
            settings.valid_until,
            settings.database,
            quoted(&settings.db_user)
        )
    })
}

fn logout(context: &Context, name: Option<&str>) -> Result<(), Failure> {
    let folder = name.map_or_else(|| context.home.routes(), |name| context.home.database_routes(name));
    let was = home::remove(&folder)?;
    match (name, was) {
        (Some(name), true) => say(&format!("Logged out of database {name}.")),
        (Some(name), false) => {
            return Err(Failure::not_found(format!("not logged in to database {name}"))
                .next("keystile db login NAME"));
        }
        (None, true) => say("Logged out of all databases."),
        (None, false) => say("Not logged in to any database."),
    }
    Ok(())
}

fn config(context: &Context, args: &RouteArgs) -> Result<(), Failure> {
    let settings = settings(context, args, "db config")?;
    context.output.emit(&settings, || facts(&settings))
}

/// The lines for people.
pub(crate) fn facts(settings: &Settings) -> String {
    table::facts(&[
        ("host", settings.host.clone()),
        ("port", settings.port.to_string()),
        ("server name", settings.server_name.clone()),
        ("ca", settings.ca.display().to_string()),
        ("cert", settings.cert.display().to_string()),
        ("key", settings.key.display().to_string()),
        ("db user", settings.db_user.clone()),
        ("valid until", settings.valid_until.clone()),
    ])
}

fn env(context: &Context, args: &RouteArgs) -> Result<(), Failure> {
    let settings = settings(context, args, "db env")?;
    let vars = variables(&settings);
    context.output.emit(&vars, || {
        vars.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
    })
}

fn variables(settings: &Settings) -> BTreeMap<&'static str, String> {
    let host =
        if settings.host.contains(':') { format!("[{}]", settings.host) } else { settings.host.clone() };
    let cli = [
        "--tls",
        "-h",
        &quoted(&settings.host),
        "-p",
        &settings.port.to_string(),
        "--sni",
        &quoted(&settings.server_name),
        "--cacert",
        &quoted(&settings.ca.display().to_string()),
        "--cert",
        &quoted(&settings.cert.display().to_string()),
        "--key",
        &quoted(&settings.key.display().to_string()),
    ]
    .join(" ");
    BTreeMap::from([
        ("REDIS_URL", format!("rediss://{host}:{}", settings.port)),
        ("REDIS_HOST", settings.host.clone()),
        ("REDIS_PORT", settings.port.to_string()),
        ("REDIS_TLS_SERVER_NAME", settings.server_name.clone()),
        ("REDIS_TLS_CA_FILE", settings.ca.display().to_string()),
        ("REDIS_TLS_CERT_FILE", settings.cert.display().to_string()),
        ("REDIS_TLS_KEY_FILE", settings.key.display().to_string()),
        ("REDIS_CLI_ARGS", cli),
    ])
}

/// For a POSIX shell.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> DatabaseView {
        DatabaseView {
            name: "orders".to_owned(),
            description: "Shop orders".to_owned(),
            kind: "elasticache".to_owned(),
            engine: "valkey".to_owned(),
            engine_version: "8.0".to_owned(),
            endpoint_type: "primary".to_owned(),
            uri: "rediss://x:6379".to_owned(),
            region: "us-east-1".to_owned(),
            account_id: "123456789012".to_owned(),
            labels: [("env", "prod"), ("region", "us-east-1")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            db_users: vec!["iam-ro".to_owned(), "iam-rw".to_owned()],
            health: "ok".to_owned(),
            alias: String::new(),
            auth: "auto".to_owned(),
            warnings: Vec::new(),
        }
    }

    #[test]
    fn the_table_of_databases() {
        let text = rows(&[database()], false);
        assert_eq!(
            text,
            "NAME    TYPE                 ENGINE      REGION     ACCESS         HEALTH  LABELS\n\
             orders  elasticache primary  valkey 8.0  us-east-1  iam-ro,iam-rw  ok      env=prod\n"
        );
    }

    #[test]
    fn conditions_and_words() {
        let holds = |text: &str| Condition::parse(text).unwrap().holds(&database().labels);
        assert!(holds("env=prod") && holds("env!=dev") && holds("team!=ads"));
        assert!(!holds("env=dev") && !holds("team=ads") && !holds("env!=prod"));
        assert_eq!(Condition::parse("env").unwrap_err().exit, 2);
        assert_eq!(Condition::parse("=x").unwrap_err().exit, 2);
        assert!(mentions(&database(), "SHOP env=prod") && !mentions(&database(), "shop dev"));
    }

    #[test]
    fn shell_lines_are_quoted() {
        assert_eq!(quoted("/a/b-c.pem"), "/a/b-c.pem");
        assert_eq!(quoted("a b'c$(x)"), r"'a b'\''c$(x)'");
        assert_eq!(quoted(""), "''");
    }
}
