//! `locks`.

use keystile_api::LockSpec;
use keystile_model::document::Document;
use keystile_model::policy::LockTarget;
use serde_json::json;

use crate::args::{LockAdd, Locks};
use crate::context::Context;
use crate::failure::Failure;
use crate::verbs::documents;

/// Runs `locks …`.
pub(crate) fn run(context: &Context, verb: Locks) -> Result<(), Failure> {
    match verb {
        Locks::Ls => documents::list_rows(context, "lock", &["NAME", "TARGET", "EXPIRES", "MESSAGE"], cells),
        Locks::Add(add) => {
            let made_up = || format!("lock-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
            let name = add.name.clone().unwrap_or_else(made_up);
            let now = context.now().unix_timestamp();
            documents::write(context, &[lock(add, &name, now)])
        }
        Locks::Rm { name } => documents::remove_one(context, "lock", &name),
    }
}

fn lock(add: LockAdd, name: &str, now: i64) -> Document {
    let target = LockTarget { user: add.user, role: add.role, database: add.database, db_user: add.db_user };
    let end = add.ttl.map(|ttl| now.saturating_add_unsigned(ttl.seconds));
    let end = end.and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok());
    let expires = end.and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    documents::document("lock", name, "", json!(LockSpec { target, message: add.message, expires }))
}

fn cells(document: &Document) -> Vec<String> {
    let spec = &document.spec;
    let target = spec["target"].as_object().into_iter().flatten();
    let target: Vec<_> =
        target.filter_map(|(part, value)| Some(format!("{part}={}", value.as_str()?))).collect();
    vec![
        document.metadata.name.clone(),
        target.join(" "),
        spec["expires"].as_str().unwrap_or("never").to_owned(),
        spec["message"].as_str().unwrap_or_default().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_names_its_target_and_its_end() {
        let add = LockAdd {
            name: None,
            user: Some("bob".to_owned()),
            role: None,
            database: None,
            db_user: None,
            message: "away".to_owned(),
            ttl: keystile_model::role::Span::parse("1h").ok(),
        };
        let document = lock(add, "l", 0);
        assert_eq!(
            document.spec,
            json!({"target": {"user": "bob"}, "message": "away", "expires": "1970-01-01T01:00:00Z"})
        );
        assert_eq!(cells(&document), ["l", "user=bob", "1970-01-01T01:00:00Z", "away"]);
    }
}
