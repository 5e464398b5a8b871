//! `users`.

use std::collections::BTreeMap;

use keystile_api::{ArnRuleSpec, UserSpec};
use keystile_model::document::Document;
use serde::Serialize;
use serde_json::Value;

use crate::args::Users;
use crate::context::Context;
use crate::failure::Failure;
use crate::verbs::documents;

/// Runs `users …`.
pub(crate) fn run(context: &Context, verb: Users) -> Result<(), Failure> {
    match verb {
        Users::Ls => documents::list_rows(context, "user", &["NAME", "ROLES", "TRAITS"], cells),
        Users::Add { name, roles, db_users, db_names } => {
            let traits = [("db_users", db_users), ("db_names", db_names)]
                .into_iter()
                .filter(|(_, values)| !values.is_empty())
                .map(|(name, values)| (name.to_owned(), values))
                .collect::<BTreeMap<_, _>>();
            let spec = UserSpec { roles, traits };
            documents::write(context, &[documents::document("user", &name, "", value(&spec)?)])
        }
        Users::Rm { name } => documents::remove_one(context, "user", &name),
        Users::MapArn { arn, user, sso, unique_id, name } => {
            let name = name.unwrap_or_else(|| arn.clone());
            let spec = ArnRuleSpec { arn, user, sso, unique_id };
            documents::write(context, &[documents::document("arn_rule", &name, "", value(&spec)?)])
        }
    }
}

/// A `spec` as a document holds it.
pub(crate) fn value(spec: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(spec).map_err(|error| Failure::failed("no document of that").why(error.to_string()))
}

/// The strings of a list in a `spec`, with commas.
pub(crate) fn joined(list: &Value) -> String {
    let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.collect::<Vec<_>>().join(",")
}

fn cells(document: &Document) -> Vec<String> {
    let traits = document.spec["traits"].as_object().into_iter().flatten();
    let traits: Vec<_> = traits.map(|(name, values)| format!("{name}={}", joined(values))).collect();
    vec![document.metadata.name.clone(), joined(&document.spec["roles"]), traits.join(" ")]
}
