//! What an invocation asks for: a scheduler's tick (anything), or a person's wish by way of functions/access.

use keystile_control::discover::Ask;
use keystile_control::matchers::from_document;
use keystile_model::document::Document;
use keystile_model::matcher::Matcher;
use keystile_model::removals::Removals;
use serde::Deserialize;
use serde_json::Value;

/// Most matchers that one dry run may try.
const MAX_MATCHERS: usize = 100;

/// The fields that we know; a scheduler's event has others.
#[derive(Debug, Default, Deserialize)]
struct Wish {
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    matchers: Option<Vec<Tried>>,
    #[serde(default)]
    only: Option<String>,
    #[serde(default)]
    allow_removals: Removals,
    #[serde(default)]
    asked_by: Option<String>,
}

/// A matcher to try: as people write it, or as it is stored.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Tried {
    Document(Document),
    Matcher(Box<Matcher>),
}

impl Tried {
    fn matcher(self) -> anyhow::Result<Matcher> {
        match self {
            Self::Document(document) => from_document(document).map_err(anyhow::Error::msg),
            Self::Matcher(matcher) => Ok(*matcher),
        }
    }
}

/// Reads an event. `time_left_ms` is how long until the platform ends the run.
pub(crate) fn ask(event: Value, time_left_ms: Option<u64>) -> anyhow::Result<Ask> {
    let wish: Wish = if event.is_object() {
        serde_json::from_value(event).map_err(|error| anyhow::anyhow!("the event cannot be read: {error}"))?
    } else {
        Wish::default()
    };
    let only_users = match wish.only.as_deref() {
        None => false,
        Some("users") => true,
        Some(other) => anyhow::bail!("only {other:?} is unknown: use \"users\", or leave it out"),
    };
    let matchers = wish
        .matchers
        .map(|documents| {
            anyhow::ensure!(documents.len() <= MAX_MATCHERS, "at most {MAX_MATCHERS} matchers can be tried");
            documents.into_iter().map(Tried::matcher).collect()
        })
        .transpose()?;
    Ok(Ask {
        dry_run: wish.dry_run,
        matchers,
        only_users,
        allow_removals: wish.allow_removals,
        asked_by: wish.asked_by,
        time_left_ms,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tick_is_a_whole_run() {
        for tick in
            [Value::Null, json!({}), json!({"source": "aws.scheduler", "detail-type": "Scheduled Event"})]
        {
            let ask = ask(tick, None).unwrap();
            assert!(!ask.dry_run && !ask.only_users && ask.matchers.is_none());
            assert!(ask.allow_removals.is_braked() && ask.asked_by.is_none());
        }
    }

    #[test]
    fn wishes() {
        let document = json!({"kind": "matcher", "version": "ks1", "metadata": {"name": "m"},
            "spec": {"types": ["memorydb"], "regions": ["us-east-1"], "tags": {"*": "*"}}});
        let wish = ask(json!({"dry_run": true, "matchers": [document], "only": "users"}), Some(9)).unwrap();
        assert!(wish.dry_run && wish.only_users);
        let matchers = wish.matchers.unwrap();
        assert_eq!(matchers[0].name, "m");
        let stored = json!({"dry_run": true, "matchers": matchers});
        assert_eq!(ask(stored, None).unwrap().matchers.unwrap(), matchers);
        assert!(ask(json!({"only": "caches"}), None).is_err());
        let scope = "123456789012/us-east-1/memorydb";
        let meant = ask(json!({"allow_removals": [scope], "asked_by": "alice"}), None).unwrap();
        assert_eq!(
            (meant.allow_removals.words(), meant.asked_by.as_deref()),
            (vec![scope.to_owned()], Some("alice"))
        );
        assert_eq!(ask(json!({"allow_removals": true}), None).unwrap().allow_removals, Removals::All);
        assert!(ask(json!({"allow_removals": ["memorydb"]}), None).is_err());
        assert!(
            ask(json!({"matchers": [{"kind": "role", "version": "ks1", "metadata": {"name": "m"}}]}), None)
                .is_err()
        );
    }
}
