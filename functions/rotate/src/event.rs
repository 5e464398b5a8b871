//! What an invocation asks for: the scheduler's tick (anything), or a person's wish by way of functions/access.

use keystile_control::rotate::Operation;
use keystile_model::db_user::DbUser;
use serde::Deserialize;
use serde_json::Value;

/// Longest name of a db user or of a person.
const NAME_LIMIT: usize = 512;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// One tick.
    Tick,
    /// One tick now, for a person: perhaps with turns that are due now, perhaps only told.
    Run(Run),
    /// A pause or its end, or break-glass, which begins with a tick at once.
    Operate { operation: Operation, db_user: Option<String>, by: String },
}

/// A tick for a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Run {
    /// One user only, by name, id or ARN.
    pub(crate) db_user: Option<String>,
    /// Its turn is due now.
    pub(crate) force: bool,
    /// Tell only.
    pub(crate) dry_run: bool,
    /// Withdrawals above the brake are meant.
    pub(crate) allow_removals: bool,
    /// Who asks.
    pub(crate) by: String,
    /// Managed users that a dry look found and did not write down; only with `dry_run`.
    pub(crate) found: Vec<DbUser>,
}

/// The fields that we know; a scheduler's event has others.
#[derive(Debug, Default, Deserialize)]
struct Fields {
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    db_user: Option<String>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    allow_removals: bool,
    #[serde(default)]
    by: Option<String>,
    #[serde(default)]
    found: Option<Vec<DbUser>>,
}

/// Reads an event.
pub(crate) fn wish(event: Value) -> anyhow::Result<Wish> {
    if !event.is_object() {
        return Ok(Wish::Tick);
    }
    let fields: Fields = serde_json::from_value(event)
        .map_err(|error| anyhow::anyhow!("the event cannot be read: {error}"))?;
    let Some(operation) = fields.operation else { return Ok(Wish::Tick) };
    let by = fields.by.unwrap_or_else(|| "keystile-rotate".to_owned());
    let db_user = fields.db_user;
    let long = by.len() > NAME_LIMIT || db_user.as_ref().is_some_and(|name| name.len() > NAME_LIMIT);
    anyhow::ensure!(!long, "db_user and by have at most {NAME_LIMIT} characters");
    let operate = |operation| Wish::Operate { operation, db_user: db_user.clone(), by: by.clone() };
    Ok(match operation.as_str() {
        "run" => Wish::Run(Run {
            force: fields.force,
            dry_run: fields.dry_run,
            allow_removals: fields.allow_removals,
            db_user,
            by,
            found: fields.found.filter(|_| fields.dry_run).unwrap_or_default(),
        }),
        "pause" => operate(Operation::Pause),
        "resume" => operate(Operation::Resume),
        "lock" => operate(Operation::Lock),
        other => anyhow::bail!("operation {other:?} is unknown: use run, pause, resume or lock"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schedulers_event_is_a_tick() {
        for event in
            [Value::Null, json!({}), json!({"source": "aws.scheduler", "detail-type": "Scheduled Event"})]
        {
            assert_eq!(wish(event).unwrap(), Wish::Tick);
        }
    }

    #[test]
    fn wishes() {
        let run = wish(json!({"operation": "run", "db_user": "app", "force": true, "by": "alice"})).unwrap();
        assert_eq!(
            run,
            Wish::Run(Run {
                db_user: Some("app".to_owned()),
                force: true,
                by: "alice".to_owned(),
                ..Run::default()
            })
        );
        let lock = wish(json!({"operation": "lock", "db_user": "app", "by": "alice"})).unwrap();
        assert!(matches!(lock, Wish::Operate { operation: Operation::Lock, .. }));
        assert!(wish(json!({"operation": "explode"})).is_err());
        assert!(wish(json!({"operation": "pause", "db_user": "x".repeat(513)})).is_err());
        assert!(wish(json!({"operation": 7})).is_err());
    }
}
