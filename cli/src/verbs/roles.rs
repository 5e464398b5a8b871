//! `roles`.

use keystile_model::document::{Document, RoleSpec};
use keystile_model::labels::OneOrMany;
use keystile_model::role::{Conditions, RoleOptions};
use serde_json::Value;

use crate::args::{RoleAdd, Roles};
use crate::context::Context;
use crate::failure::Failure;
use crate::verbs::documents;
use crate::verbs::users::{joined, value};

/// Runs `roles …`.
pub(crate) fn run(context: &Context, verb: Roles) -> Result<(), Failure> {
    match verb {
        Roles::Ls => documents::list_rows(
            context,
            "role",
            &["NAME", "DATABASES", "DB USERS", "COMMANDS", "KEYS AND CHANNELS"],
            cells,
        ),
        Roles::Add(add) => documents::write(context, &[role(add)?]),
        Roles::Rm { name } => documents::remove_one(context, "role", &name),
    }
}

fn role(add: RoleAdd) -> Result<Document, Failure> {
    let mut allow = Conditions {
        db_users: add.db_users,
        db_commands: add.db_commands,
        db_keys: add.db_keys,
        db_channels: add.db_channels,
        ..Conditions::default()
    };
    for label in &add.db_labels {
        let (key, wanted) = label.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
            Failure::usage(format!("{label:?} is no label"))
                .next("keystile roles add NAME --db-labels env=dev")
        })?;
        let values = match allow.db_labels.remove(key) {
            Some(earlier) => earlier.values().iter().cloned().chain([wanted.to_owned()]).collect(),
            None => vec![wanted.to_owned()],
        };
        allow.db_labels.insert(key.to_owned(), OneOrMany::Many(values));
    }
    let options = RoleOptions { max_session_ttl: add.max_session_ttl, ..RoleOptions::default() };
    let spec = RoleSpec { allow, options, ..RoleSpec::default() };
    Ok(documents::document("role", &add.name, &add.description, value(&spec)?))
}

fn cells(document: &Document) -> Vec<String> {
    let allow = &document.spec["allow"];
    let labels = allow["db_labels"].as_object().into_iter().flatten();
    let labels: Vec<_> = labels
        .map(|(key, wanted)| match wanted {
            Value::String(wanted) => format!("{key}={wanted}"),
            list => format!("{key}={}", joined(list)),
        })
        .collect();
    let limits = [joined(&allow["db_keys"]), joined(&allow["db_channels"])];
    vec![
        document.metadata.name.clone(),
        labels.join(" "),
        joined(&allow["db_users"]),
        joined(&allow["db_commands"]),
        limits.join(" ").trim().to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Verb, parse};

    fn add(line: &str) -> Result<Document, Failure> {
        let line = format!("keystile roles add {line}");
        match parse(line.split(' ').map(Into::into)).unwrap().0.verb {
            Verb::Roles(Roles::Add(add)) => role(add),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_make_a_role_that_the_model_reads() {
        let line = "dev --db-labels env=dev,env=test,team=* --db-users iam-ro,iam-rw --db-commands +@read,-keys --max-session-ttl 2h";
        let document = add(line).unwrap();
        let spec: RoleSpec = serde_json::from_value(document.spec.clone()).unwrap();
        assert_eq!(spec.allow.db_labels["env"].values(), ["dev", "test"]);
        assert_eq!(spec.allow.db_commands, ["+@read", "-keys"]);
        assert_eq!(spec.options.max_session_ttl.unwrap().seconds, 7_200);
        assert_eq!(cells(&document), ["dev", "env=dev,test team=*", "iam-ro,iam-rw", "+@read,-keys", ""]);
        assert_eq!(add("dev --db-labels env").unwrap_err().exit, 2);
    }
}
