//! Roles, ours and Teleport's.

use keystile_model::document::{Document, RoleSpec};
use keystile_model::feed::Entity;
use keystile_model::name::RoleName;
use keystile_model::role::{Conditions, Role, RoleVersion};

use super::{named, spec, teleport};
use crate::failure::Failure;

/// Most entries of one list of a role.
const MAX_ENTRIES: usize = 1_000;

pub(super) fn read(document: Document, warnings: &mut Vec<String>) -> Result<Entity, Failure> {
    let name = RoleName::parse(document.metadata.name).map_err(|e| named(&e))?;
    let version: RoleVersion = serde_json::from_value(serde_json::Value::String(document.version.clone()))
        .map_err(|_| {
            let shown: String = document.version.chars().take(40).collect();
            Failure::bad(format!(
                "version {shown:?} is unknown: write ks1, or v3 to v8 for a role of Teleport's"
            ))
        })?;
    let body = if version == RoleVersion::Ks1 {
        document.spec
    } else {
        teleport::translated(document.spec, warnings)?
    };
    for part in ["allow", "deny", "options"] {
        if body.get(part).is_some_and(|value| !value.is_object()) {
            return Err(Failure::bad(format!("{part} must be a mapping")));
        }
    }
    let body: RoleSpec = spec(body)?;
    within_limits(&body.allow)?;
    within_limits(&body.deny)?;
    remark(&body, warnings)?;
    let role = Role {
        name,
        version,
        description: document.metadata.description,
        allow: body.allow,
        deny: body.deny,
        options: body.options,
    };
    role.compile().map_err(|e| named(&e))?;
    Ok(Entity::Role(Box::new(role)))
}

fn remark(body: &RoleSpec, warnings: &mut Vec<String>) -> Result<(), Failure> {
    if !(body.allow.db_names.is_empty() && body.deny.db_names.is_empty()) {
        warnings.push("db_names is not enforced: Redis has no database names".to_owned());
    }
    // A deny that silently matches nobody would be a hole; an allow that matches nobody is only useless.
    if body.deny.db_users.iter().any(|text| text.contains("{{")) {
        return Err(Failure::bad("deny.db_users holds a template, and templates are not filled in yet")
            .why("the deny would match nobody"));
    }
    if let Some((key, _)) = body.deny.db_labels.iter().find(|(_, values)| values.values().is_empty()) {
        return Err(Failure::bad(format!("deny.db_labels: {key:?} has no values"))
            .why("no database has a label of no value, so the deny would match nothing"));
    }
    if body.allow.db_users.iter().any(|text| text.contains("{{")) {
        warnings.push("allow.db_users: templates are not filled in yet and match nobody".to_owned());
    }
    if body.allow.request.is_some() || body.deny.request.is_some() {
        warnings.push("request is kept and has no effect yet".to_owned());
    }
    Ok(())
}

fn within_limits(conditions: &Conditions) -> Result<(), Failure> {
    let lists = [
        conditions.db_users.len(),
        conditions.db_names.len(),
        conditions.db_commands.len(),
        conditions.db_keys.len(),
        conditions.db_channels.len(),
        conditions.rules.len(),
        conditions.db_labels.values().map(|values| values.values().len()).sum(),
    ];
    if lists.iter().any(|length| *length > MAX_ENTRIES) {
        return Err(Failure::bad(format!("a list of a role has at most {MAX_ENTRIES} entries")));
    }
    Ok(())
}
