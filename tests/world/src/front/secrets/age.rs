//! The secret of Teleport's is two hours old, though it was made when the world started.

use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::fixture;

/// How old it is made to look, in seconds.
const TELEPORT_AGE: f64 = 7200.0;
/// ministack's dates are whole seconds, and its clock is read after ours.
const SLACK: f64 = 5.0;

/// Makes the dates of Teleport's secret older wherever they stand in an answer, if they are not later than
/// `made`: what somebody puts into it afterwards is as new as it is.
pub(super) fn aged(output: &mut Value, made: OffsetDateTime) -> bool {
    #[allow(clippy::cast_precision_loss, reason = "a date of our time is far below 2^52")]
    let latest = made.unix_timestamp() as f64 + SLACK;
    walk(output, latest)
}

fn walk(output: &mut Value, latest: f64) -> bool {
    let name = fixture::teleport_secret_name("legacy-app");
    match output {
        Value::Object(fields) => {
            let own = fields.get("Name").and_then(Value::as_str) == Some(&name);
            let mut changed = false;
            for (field, value) in fields.iter_mut() {
                if own && field.ends_with("Date") {
                    changed |= date(value, latest);
                } else if own && field == "Versions" {
                    let versions = value.as_array_mut().into_iter().flatten();
                    changed |= versions
                        .filter_map(|version| version.get_mut("CreatedDate"))
                        .fold(false, |changed, value| date(value, latest) | changed);
                } else {
                    changed |= walk(value, latest);
                }
            }
            changed
        }
        Value::Array(items) => items.iter_mut().fold(false, |changed, item| walk(item, latest) | changed),
        _ => false,
    }
}

fn date(value: &mut Value, latest: f64) -> bool {
    let Some(seconds) = value.as_f64().filter(|seconds| *seconds <= latest) else { return false };
    *value = json!(seconds - TELEPORT_AGE);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_world_began_with_looks_older() {
        let name = fixture::teleport_secret_name("legacy-app");
        let made = OffsetDateTime::from_unix_timestamp(10_000).unwrap();
        let mut list = json!({"SecretList": [{"Name": name, "CreatedDate": 10_000.0, "LastChangedDate": 10_060},
            {"Name": "other", "CreatedDate": 10_000.0}]});
        assert!(aged(&mut list, made));
        assert_eq!(list["SecretList"][0]["CreatedDate"], 2_800.0);
        assert_eq!(list["SecretList"][0]["LastChangedDate"], 10_060);
        assert_eq!(list["SecretList"][1]["CreatedDate"], 10_000.0);
        let mut versions =
            json!({"Name": name, "Versions": [{"CreatedDate": 10_000}, {"CreatedDate": 10_900}]});
        assert!(aged(&mut versions, made));
        assert_eq!(versions["Versions"][0]["CreatedDate"], 2_800.0);
        assert_eq!(versions["Versions"][1]["CreatedDate"], 10_900);
    }
}
