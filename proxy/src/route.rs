//! Which database and db user a connection is for. Pure; docs/AUTH-TABLE.md is this module as a table.
//!
//! Three things may name a route: the certificate, the TLS server name (`<database>.<domain>`), and the user
//! name of the first AUTH or HELLO (`<db user>@<database>`). The first that does decides; one that says
//! something else is an error, never a correction.

use keystile_identity::client::Route;
use keystile_model::policy::Policy;

use crate::refusal::Refusal;
use crate::session::auth_request::Credentials;

/// What a connection is for. The database is the name or alias that it was asked by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The database's name, or what was asked for where there is none of that name.
    pub database: String,
    /// The db user, where one was named.
    pub db_user: Option<String>,
}

/// The database that a TLS server name asks for: what stands before `.<domain>`, one label.
#[must_use]
pub fn from_server_name<'a>(server_name: Option<&'a str>, domain: &str) -> Option<&'a str> {
    let label = server_name?.strip_suffix(domain)?.strip_suffix('.')?;
    (!domain.is_empty() && !label.is_empty() && !label.contains('.')).then_some(label)
}

/// What is known before the first command: all of it for a routed certificate.
///
/// # Errors
/// [`Refusal::Route`] where certificate and server name disagree.
pub fn before_first_command(
    policy: &Policy,
    certificate: Option<&Route>,
    server_name: Option<&str>,
) -> Result<Option<Target>, Refusal> {
    let named = server_name.map(|name| canonical(policy, name));
    match (certificate, named) {
        (Some(route), Some(named)) if named != route.database.as_str() => Err(Refusal::Route(format!(
            "the certificate is for {}, the TLS server name asks for {named}: connect with the server name of \
             {}, or fetch a certificate for {named} with 'keystile db config {named}'",
            route.database, route.database
        ))),
        (Some(route), _) => Ok(Some(Target {
            database: route.database.to_string(),
            db_user: Some(route.db_user.to_string()),
        })),
        (None, Some(named)) => Ok(Some(Target { database: named, db_user: None })),
        (None, None) => Ok(None),
    }
}

/// The route once the first command is there; `credentials` are those of an AUTH or a HELLO with AUTH.
///
/// # Errors
/// [`Refusal::Route`] where nothing names a database or two things disagree; [`Refusal::Denied`] never.
pub fn with_first_command(
    policy: &Policy,
    known: Option<Target>,
    credentials: Option<&Credentials>,
) -> Result<Target, Refusal> {
    let given = credentials.and_then(|credentials| credentials.user.as_deref());
    let Some(known) = known else {
        return match given.and_then(|user| user.rsplit_once('@')) {
            Some((user, database)) if !user.is_empty() && !database.is_empty() => {
                Ok(Target { database: canonical(policy, database), db_user: Some(user.to_owned()) })
            }
            _ => Err(Refusal::Route(
                "which database? Sign in with AUTH <db user>@<database> x, or use the TLS server name \
                 <database>.<domain>, or a certificate of 'keystile db config <database>'"
                    .to_owned(),
            )),
        };
    };
    let Some(given) = given else { return Ok(known) };
    // A routed certificate has named the user: the session answers its AUTH by the same rules.
    let (user, database) = match given.rsplit_once('@') {
        Some((user, database)) if known.db_user.as_deref() != Some(given) => (user, Some(database)),
        _ => (given, None),
    };
    if let Some(database) = database
        && canonical(policy, database) != known.database
    {
        return Err(Refusal::Route(format!(
            "AUTH asks for {}, this connection is for {}: connect to one of them",
            database.chars().take(200).collect::<String>(),
            known.database
        )));
    }
    match &known.db_user {
        Some(own) if own != user => Err(Refusal::DbUser(format!(
            "the certificate is for {own}@{}, not for '{}': fetch another with 'keystile db config {} \
             --db-user …'",
            known.database,
            user.chars().take(100).collect::<String>(),
            known.database
        ))),
        Some(_) => Ok(known),
        None => Ok(Target { db_user: Some(user.to_owned()), ..known }),
    }
}

/// A database's own name, where this names one by name or alias.
fn canonical(policy: &Policy, name: &str) -> String {
    policy
        .database_or_alias(name)
        .map_or_else(|| name.chars().take(200).collect(), |database| database.name.to_string())
}

#[cfg(test)]
mod tests {
    use keystile_model::feed::Entity;
    use keystile_model::name::{DatabaseName, DbUserName};

    use super::*;
    use crate::testing::database;

    /// One line of docs/AUTH-TABLE.md: certificate, server name, user of AUTH, and what follows.
    struct Line(
        u32,
        Option<(&'static str, &'static str)>,
        Option<&'static str>,
        Option<&'static str>,
        Outcome,
    );

    enum Outcome {
        Is(&'static str, Option<&'static str>),
        Error(&'static str),
    }

    fn outcome(line: &Line, alias: &str) -> Result<Target, String> {
        let policy = Policy::new(
            [database("orders"), database("carts")].map(|known| Entity::Database(Box::new(known))),
        );
        let certificate = line.1.map(|(name, db_user)| Route {
            database: DatabaseName::parse(name).unwrap(),
            db_user: DbUserName::parse(db_user).unwrap(),
        });
        let named = line.2.map(|name| name.replace("ALIAS", alias));
        let named = from_server_name(named.as_deref(), "ks.test");
        let credentials = line.3.map(|user| Credentials {
            user: (!user.is_empty()).then(|| user.replace("ALIAS", alias)),
            proof: false,
        });
        before_first_command(&policy, certificate.as_ref(), named)
            .and_then(|known| with_first_command(&policy, known, credentials.as_ref()))
            .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_table_line_by_line() {
        use Outcome::{Error, Is};
        let routed = Some(("orders", "iam-ro"));
        let orders = Some("orders.ks.test");
        let lines = [
            Line(1, routed, None, None, Is("orders", Some("iam-ro"))),
            Line(1, routed, Some("proxy.example"), Some("iam-ro"), Is("orders", Some("iam-ro"))),
            Line(2, routed, orders, Some(""), Is("orders", Some("iam-ro"))),
            Line(2, routed, Some("ALIAS.ks.test"), None, Is("orders", Some("iam-ro"))),
            Line(3, routed, Some("carts.ks.test"), None, Error("the certificate is for orders")),
            Line(4, None, orders, Some("iam-ro"), Is("orders", Some("iam-ro"))),
            Line(5, None, orders, Some("iam-ro@orders"), Is("orders", Some("iam-ro"))),
            Line(5, None, orders, Some("iam-ro@ALIAS"), Is("orders", Some("iam-ro"))),
            Line(6, None, orders, Some("iam-ro@carts"), Error("AUTH asks for carts")),
            Line(8, None, orders, Some(""), Is("orders", None)),
            Line(8, None, orders, None, Is("orders", None)),
            Line(9, None, None, Some("iam-ro@orders"), Is("orders", Some("iam-ro"))),
            Line(9, None, Some("localhost"), Some("a@b@ALIAS"), Is("orders", Some("a@b"))),
            Line(10, None, None, Some("iam-ro"), Error("which database?")),
            Line(10, None, None, Some("@orders"), Error("which database?")),
            Line(10, None, Some("x.orders.ks.test"), None, Error("which database?")),
            Line(10, None, Some("ks.test"), None, Error("which database?")),
            Line(22, routed, None, Some("iam-rw"), Error("the certificate is for iam-ro@orders")),
            Line(22, routed, None, Some("iam-ro@carts"), Error("AUTH asks for carts")),
        ];
        let alias = database("orders").alias();
        for line in &lines {
            match (&line.4, outcome(line, &alias)) {
                (Is(name, db_user), Ok(target)) => {
                    assert_eq!((target.database.as_str(), target.db_user.as_deref()), (*name, *db_user));
                }
                (Error(words), Err(text)) => assert!(text.contains(words), "line {}: {text}", line.0),
                (_, other) => panic!("line {}: {other:?}", line.0),
            }
        }
    }
}
