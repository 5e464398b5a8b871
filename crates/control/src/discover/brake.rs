//! The brake on removals: a scope that would lose much at once loses nothing, until somebody says that it is
//! meant. Pure.

use std::collections::BTreeSet;

use keystile_model::removals::Removals;
use keystile_model::report::ScopeId;

use super::plan::scope_of;
use super::seen::{Known, Seen};
use super::users::user_scope;

/// A scope may lose this many in a run whatever its size.
const BRAKE_FREE: usize = 3;
/// Above that, it may lose this part of them: a fifth.
const BRAKE_PART: usize = 5;

/// Whether so many removals from a scope are too many at once.
fn too_many(removals: usize, known: usize) -> bool {
    removals > BRAKE_FREE && removals * BRAKE_PART > known
}

/// The alarm of a scope that would lose too much; none where its removals may go on. `things` is what they
/// are, in the plural, with why. It begins with the scope, and ends with the line to type.
pub(crate) fn held(
    scope: &ScopeId,
    removals: usize,
    known: usize,
    things: &str,
    allowed: &Removals,
) -> Option<String> {
    (too_many(removals, known) && !allowed.allow(scope)).then(|| {
        format!(
            "{scope}: {removals} of {known} {things} would be removed; nothing of it was. Look; if it is meant: \
             keystile discover run --allow-removals {}",
            scope.path()
        )
    })
}

/// Whether an alarm is about this scope.
pub(crate) fn is_held(scope: &ScopeId, alarms: &[String]) -> bool {
    alarms.iter().any(|alarm| alarm.starts_with(&format!("{scope}:")))
}

/// A line for each scope that was named and that nothing is known of: a slip of the pen.
pub(crate) fn misnamed(allowed: &Removals, seen: &Seen, known: &Known) -> Vec<String> {
    let mut standing: BTreeSet<ScopeId> = seen.scopes.iter().map(|scope| scope.id.clone()).collect();
    standing.extend(seen.users.iter().map(|scope| scope.id.clone()));
    standing.extend(known.databases.values().map(scope_of));
    let users = known.db_users.values();
    standing.extend(users.map(|user| user_scope(user.arn.account(), user.arn.region(), user.service)));
    let unknown = allowed.named().filter(|scope| !standing.contains(scope));
    unknown.map(|scope| format!("removals were allowed for {scope}, of which nothing is known")).collect()
}
