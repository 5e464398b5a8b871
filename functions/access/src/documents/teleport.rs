//! A role of Teleport's (`v3` to `v8`) with what has a meaning here. What has none is dropped and named; what
//! would turn a restriction into nothing is refused.

use serde_json::{Map, Value};

use crate::failure::Failure;

/// Fields of `allow` and `deny` that mean the same here.
const KNOWN: [&str; 8] =
    ["db_labels", "db_users", "db_names", "db_commands", "db_keys", "db_channels", "rules", "request"];
/// Fields whose loss would widen a deny.
const NEEDED_IN_DENY: [&str; 1] = ["db_labels_expression"];
/// Options that mean the same here.
const KNOWN_OPTIONS: [&str; 5] =
    ["max_session_ttl", "client_idle_timeout", "max_connections", "locking_mode", "audit"];

/// The spec as ours.
pub(super) fn translated(spec: Value, warnings: &mut Vec<String>) -> Result<Value, Failure> {
    let mut spec = object(spec, "spec")?;
    let mut ours = Map::new();
    for half in ["allow", "deny"] {
        if let Some(conditions) = spec.remove(half).filter(|value| !value.is_null()) {
            let conditions = conditions_of(object(conditions, half)?, half, warnings)?;
            ours.insert(half.to_owned(), Value::Object(conditions));
        }
    }
    if let Some(options) = spec.remove("options").filter(|value| !value.is_null()) {
        ours.insert("options".to_owned(), Value::Object(options_of(object(options, "options")?, warnings)));
    }
    for field in spec.keys() {
        warnings.push(format!("{field} has no meaning here and is dropped"));
    }
    Ok(Value::Object(ours))
}

fn object(value: Value, what: &str) -> Result<Map<String, Value>, Failure> {
    match value {
        Value::Object(fields) => Ok(fields),
        Value::Null => Ok(Map::new()),
        _ => Err(Failure::bad(format!("{what} must be a mapping"))),
    }
}

fn conditions_of(
    mut fields: Map<String, Value>,
    half: &str,
    warnings: &mut Vec<String>,
) -> Result<Map<String, Value>, Failure> {
    let mut ours = Map::new();
    for known in KNOWN {
        if let Some(value) = fields.remove(known).filter(|value| !value.is_null()) {
            ours.insert(known.to_owned(), value);
        }
    }
    for field in fields.keys() {
        if half == "deny" && NEEDED_IN_DENY.contains(&field.as_str()) {
            return Err(Failure::bad(format!("deny.{field} cannot be translated"))
                .why("without it the role would deny less")
                .next("write it as deny.db_labels"));
        }
        warnings.push(format!("{half}.{field} has no meaning here and is dropped"));
    }
    if let Some(Value::Array(rules)) = ours.remove("rules") {
        let rules = rules.into_iter().filter_map(|rule| rule_of(rule, half, warnings)).collect();
        ours.insert("rules".to_owned(), Value::Array(rules));
    }
    Ok(ours)
}

/// A rule with a condition (`where`) cannot be judged: it allows nothing, and denies whatever it may.
fn rule_of(rule: Value, half: &str, warnings: &mut Vec<String>) -> Option<Value> {
    let Value::Object(mut fields) = rule else { return Some(rule) };
    if fields.remove("where").is_some() {
        if half == "allow" {
            warnings
                .push("allow.rules: a rule with where is dropped, conditions are not judged here".to_owned());
            return None;
        }
        warnings.push("deny.rules: where is dropped, so the rule always denies".to_owned());
    }
    if fields.remove("actions").is_some() {
        warnings.push(format!("{half}.rules: actions has no meaning here and is dropped"));
    }
    Some(Value::Object(fields))
}

fn options_of(mut fields: Map<String, Value>, warnings: &mut Vec<String>) -> Map<String, Value> {
    let mut ours = Map::new();
    if let Some(mode) = fields.remove("lock") {
        fields.entry("locking_mode").or_insert(mode);
    }
    for known in KNOWN_OPTIONS {
        if let Some(value) = fields.remove(known).filter(|value| !value.is_null()) {
            ours.insert(known.to_owned(), value);
        }
    }
    for field in fields.keys() {
        warnings.push(format!("options.{field} has no meaning here and is not enforced"));
    }
    ours
}
