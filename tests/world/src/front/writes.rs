//! What a DynamoDB call reads or writes, as far as IAM tells calls apart: action and leading key.
//!
//! IAM has no action for a transaction: its parts are what a policy grants.

use serde::Serialize;
use serde_json::Value;

/// One item that a call touches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Touched {
    /// The IAM action, without the service.
    pub action: String,
    /// The item's partition key; empty where the call names none.
    pub key: String,
}

/// The items of a call's body, each action and key once.
#[must_use]
pub(crate) fn touched(operation: &str, body: &[u8]) -> Vec<Touched> {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Vec::new() };
    let mut found = match operation {
        "TransactWriteItems" => {
            let actions = body["TransactItems"].as_array().into_iter().flatten();
            let named = |action: &Value| {
                let (name, item) = action.as_object()?.iter().next()?;
                let right =
                    if name == "ConditionCheck" { "ConditionCheckItem" } else { &format!("{name}Item") };
                Some(Touched { action: right.to_owned(), key: key_of(item) })
            };
            actions.filter_map(named).collect()
        }
        "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" => {
            vec![Touched { action: operation.to_owned(), key: key_of(&body) }]
        }
        _ => Vec::new(),
    };
    found.sort();
    found.dedup();
    found
}

fn key_of(item: &Value) -> String {
    let key = item.get("Key").or_else(|| item.get("Item"));
    key.and_then(|key| key["pk"]["S"].as_str()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_its_parts() {
        let body = r#"{"TransactItems": [
            {"Put": {"Item": {"pk": {"S": "inventory#log"}}}},
            {"Put": {"Item": {"pk": {"S": "inventory#log"}}}},
            {"Update": {"Key": {"pk": {"S": "inventory#head"}}}},
            {"ConditionCheck": {"Key": {"pk": {"S": "x"}}}}
        ]}"#;
        let found = touched("TransactWriteItems", body.as_bytes());
        let pairs: Vec<_> = found.iter().map(|t| (t.action.as_str(), t.key.as_str())).collect();
        assert_eq!(
            pairs,
            [("ConditionCheckItem", "x"), ("PutItem", "inventory#log"), ("UpdateItem", "inventory#head")]
        );
        assert!(touched("Query", b"{}").is_empty());
    }
}
