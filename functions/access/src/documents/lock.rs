//! Locks: standing refusals.

use keystile_api::LockSpec;
use keystile_model::document::Document;
use keystile_model::feed::Entity;
use keystile_model::name::{DocumentName, RoleName, UserName};
use keystile_model::policy::{Lock, LockTarget, Policy};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Reading, named, spec};
use crate::failure::Failure;

/// Longest message and longest part of a target, in bytes.
const MAX_TEXT: usize = 1_000;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name = DocumentName::parse(document.metadata.name).map_err(|e| named(&e))?;
    let body: LockSpec = spec(document.spec)?;
    if body.target == LockTarget::default() {
        return Err(Failure::bad(
            "a lock without a target locks nothing: name a user, role, database or db_user",
        ));
    }
    let target = &body.target;
    let texts = [&target.user, &target.role, &target.database, &target.db_user].into_iter().flatten();
    let bad = |text: &String| text.len() > MAX_TEXT || text.chars().any(char::is_control);
    if texts.chain([&body.message]).any(bad) {
        return Err(Failure::bad(format!(
            "a lock's texts have at most {MAX_TEXT} bytes and no control characters"
        )));
    }
    let expires_at = body.expires.as_deref().map(|text| end(text, reading.now)).transpose()?;
    warnings.extend(missing(reading.policy, target));
    Ok(Entity::Lock(Lock { name: name.into(), target: body.target, message: body.message, expires_at }))
}

/// A slip of the pen would leave somebody in whom everybody believes to be locked out.
fn missing(policy: &Policy, target: &LockTarget) -> Vec<String> {
    let user = target
        .user
        .as_ref()
        .filter(|name| UserName::parse(name.as_str()).ok().and_then(|name| policy.user(&name)).is_none());
    let role = target.role.as_ref().filter(|name| {
        !RoleName::parse(name.as_str())
            .is_ok_and(|name| policy.role(&name).is_some() || policy.broken_role(&name).is_some())
    });
    let database = target.database.as_ref().filter(|name| policy.database(name).is_none());
    let db_user = target
        .db_user
        .as_ref()
        .filter(|name| !policy.db_users().any(|known| known.name.as_str() == name.as_str()));
    let absent = |what: &str, name: &String| {
        format!(
            "{what} {name} does not exist: this locks nothing until it does; if that is a slip, remove the lock"
        )
    };
    let mut told = Vec::new();
    told.extend(user.map(|name| absent("user", name)));
    told.extend(role.map(|name| absent("role", name)));
    told.extend(database.map(|name| match policy.database_or_alias(name) {
        Some(known) => format!("the database {name} is called {}: locks go by that name", known.name),
        None => absent("database", name),
    }));
    told.extend(db_user.map(|name| {
        format!("db_user {name} was not discovered: this locks only who signs in to a static database by that name")
    }));
    told
}

fn end(text: &str, now: i64) -> Result<i64, Failure> {
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| Failure::bad("expires is a time such as 2027-01-02T15:04:05Z"))?
        .unix_timestamp();
    if at > now { Ok(at) } else { Err(Failure::bad("the lock would have expired already")) }
}
