//! Locks: standing refusals.

use keystile_api::LockSpec;
use keystile_model::document::Document;
use keystile_model::feed::Entity;
use keystile_model::name::DocumentName;
use keystile_model::policy::{Lock, LockTarget};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Reading, named, spec};
use crate::failure::Failure;

/// Longest message and longest part of a target, in bytes.
const MAX_TEXT: usize = 1_000;

pub(super) fn read(reading: &Reading<'_>, document: Document) -> Result<Entity, Failure> {
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
    Ok(Entity::Lock(Lock { name: name.into(), target: body.target, message: body.message, expires_at }))
}

fn end(text: &str, now: i64) -> Result<i64, Failure> {
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| Failure::bad("expires is a time such as 2027-01-02T15:04:05Z"))?
        .unix_timestamp();
    if at > now { Ok(at) } else { Err(Failure::bad("the lock would have expired already")) }
}
