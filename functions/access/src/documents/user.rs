//! Users.

use std::collections::BTreeSet;

use keystile_api::UserSpec;
use keystile_model::document::Document;
use keystile_model::feed::Entity;
use keystile_model::name::{RoleName, UserName};
use keystile_model::user::User;

use super::{Reading, named, spec};
use crate::failure::Failure;

/// Most roles of a user.
const MAX_ROLES: usize = 100;
/// Most traits of a user, and most values of a trait.
const MAX_TRAITS: usize = 100;
/// Longest name or value of a trait, in bytes.
const MAX_TRAIT: usize = 256;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name = UserName::parse(document.metadata.name).map_err(|e| named(&e))?;
    let body: UserSpec = spec(document.spec)?;
    if body.roles.len() > MAX_ROLES {
        return Err(Failure::bad(format!("{} roles; a user has at most {MAX_ROLES}", body.roles.len())));
    }
    let roles = body
        .roles
        .into_iter()
        .map(RoleName::parse)
        .collect::<Result<BTreeSet<_>, _>>()
        .map_err(|e| named(&e))?;
    for role in &roles {
        if reading.policy.role(role).is_none() {
            warnings.push(format!("role {role} does not exist: it gives nothing until it is created"));
        }
    }
    let short = |text: &String| text.len() <= MAX_TRAIT && !text.chars().any(char::is_control);
    let legal = body.traits.len() <= MAX_TRAITS
        && body
            .traits
            .iter()
            .all(|(key, values)| short(key) && values.len() <= MAX_TRAITS && values.iter().all(short));
    if !legal {
        return Err(Failure::bad(format!(
            "a user has at most {MAX_TRAITS} traits of {MAX_TRAITS} values, each of {MAX_TRAIT} bytes without control characters"
        )));
    }
    // Certificates of somebody who had this name before are not the new user's.
    let not_before = match reading.policy.user(&name) {
        Some(known) => known.not_before,
        None => Some(reading.now),
    };
    Ok(Entity::User(User { name, roles, traits: body.traits, not_before }))
}
