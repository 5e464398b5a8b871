//! How the row changes after a step. Pure.

use keystile_model::rotation::ports::CallError;
use keystile_model::rotation::row::{Failure, RotationRow, RotationState};
use keystile_model::rotation::{SecretRef, VersionId};

use super::machine::{RECHECK_S, TeleportSeen};
use super::period::jitter_s;

/// The first pause after a failure, in seconds: a tick.
const FIRST_PAUSE_S: i64 = 60;
/// How often ticks look, in seconds.
const TICK_S: i64 = 60;
/// The longest, in seconds.
const LONGEST_PAUSE_S: i64 = 900;
/// How long puts are remembered, in hours.
const PUTS_KEPT_H: i64 = 25;

/// Another state.
pub(crate) fn moved(row: &mut RotationRow, state: RotationState, now: i64) {
    if std::mem::discriminant(&row.state) != std::mem::discriminant(&state) {
        row.moved_at = now;
    }
    match (&row.state, &state) {
        (RotationState::Settling { sent_at, .. }, RotationState::Proving { .. }) => {
            // Seen by ticks of a minute: it took this long at least.
            row.update_s = u32::try_from((now - sent_at - TICK_S).max(1)).ok();
        }
        // Looked at again after a while, not every minute.
        (_, RotationState::LeftAlone { why }) if !why.needs_force() => row.not_before = now + RECHECK_S,
        _ => {}
    }
    if matches!(state, RotationState::Scrubbing { .. } | RotationState::Deleting) {
        // A pause ends with the tag: should that come back, nobody would know of it. Break-glass does not: the
        // user may know the new password alone.
        row.paused = false;
    }
    if matches!(state, RotationState::LeftAlone { .. }) {
        row.force = false;
        row.odd = 0;
    }
    row.state = state;
}

/// Times that a clock wrote which was ahead: a turn is at most a period away, and what was done is done.
pub(crate) fn anchored(row: &mut RotationRow, now: i64) {
    let period = i64::try_from(row.period_s).unwrap_or(i64::MAX);
    if row.due_at.saturating_sub(now) > period.saturating_mul(2) {
        row.due_at = now.saturating_add(period);
    }
    row.rotated_at = row.rotated_at.map(|at| at.min(now));
}

/// A step succeeded.
pub(crate) fn succeeded(row: &mut RotationRow) {
    row.failure = None;
    if !matches!(row.state, RotationState::LeftAlone { .. }) {
        row.not_before = 0;
    }
}

/// Everything begins anew, as a takeover: what was known of the user and the secret is worth nothing.
pub(crate) fn started_over(row: &mut RotationRow, now: i64) {
    row.generation += 1;
    row.taken = false;
    row.current = None;
    row.secret = None;
    row.passwords = 0;
    row.teleport_secret = None;
    row.unwanted_since = None;
    row.unscrubbed = false;
    row.proof = None;
    row.odd = 0;
    row.due_at = now;
    moved(row, RotationState::Found, now);
}

/// The secret is there.
pub(crate) fn secret_is_there(
    row: &mut RotationRow,
    secret: SecretRef,
    current: Option<VersionId>,
    now: i64,
) {
    row.secret = Some(secret);
    row.current = current;
    row.secret_seen_at = now;
    moved(row, RotationState::Ready, now);
}

/// Where the user comes from: Teleport's password stays valid as the second one.
pub(crate) fn comes_from(row: &mut RotationRow, teleport: TeleportSeen) {
    row.teleport_secret = match teleport {
        TeleportSeen::There { name, .. } => Some(name),
        TeleportSeen::Nothing => None,
    };
}

/// A pending version is there.
pub(crate) fn put(row: &mut RotationRow, version: VersionId, now: i64) {
    let hour = now / 3_600;
    row.puts.retain(|at, _| (hour - PUTS_KEPT_H..=hour).contains(at));
    *row.puts.entry(hour).or_default() += 1;
    if row.lock {
        row.lock_version = Some(version.clone());
    }
    // From begin to begin: how long AWS takes does not add to the period.
    row.due_at =
        now.saturating_add(i64::try_from(row.period_s).unwrap_or(i64::MAX)).saturating_add(jitter_s(row));
    moved(row, RotationState::Setting { version, sent: false }, now);
}

/// The pending version cannot be used: the next one gets another token, after a look at the secret.
pub(crate) fn unusable(row: &mut RotationRow, now: i64) {
    row.attempt += 1;
    row.secret_seen_at = 0;
    moved(row, RotationState::Ready, now);
}

/// The user was told so many passwords.
pub(crate) fn told(row: &mut RotationRow, version: VersionId, passwords: u8, now: i64) {
    row.passwords = passwords;
    succeeded(row);
    moved(row, RotationState::Settling { version, sent_at: now }, now);
}

/// The pending version is the current one.
pub(crate) fn promoted(row: &mut RotationRow, version: VersionId, now: i64) {
    if row.lock_version.as_ref() == Some(&version) {
        row.lock = false;
        row.lock_version = None;
    }
    row.current = Some(version);
    row.taken = true;
    row.force = false;
    row.attempt = 0;
    row.teleport_secret = None;
    row.rotated_at = Some(now);
    succeeded(row);
    moved(row, RotationState::Ready, now);
}

/// The user keeps its password, which its secret takes along.
pub(crate) fn unscrubbed(row: &mut RotationRow, now: i64) {
    row.unscrubbed = true;
    row.taken = false;
    moved(row, RotationState::Deleting, now);
}

/// A call failed.
pub(crate) fn failed(row: &mut RotationRow, error: &CallError, now: i64) {
    let (since, count) = match &row.failure {
        Some(failure) if failure.kind == error.kind() => (failure.since, failure.count.saturating_add(1)),
        _ => (now, 1),
    };
    row.failure = Some(Failure { kind: error.kind().to_owned(), text: error.to_string(), since, count });
    row.not_before = now + pause_s(error, count);
    match error {
        // The turn is skipped; the password of now stays good.
        CallError::Quota(_) => {
            row.force = false;
            row.due_at = now.saturating_add(i64::try_from(row.period_s).unwrap_or(i64::MAX));
        }
        // The secret is not what it was: looked at before anything else.
        CallError::NotFound(_) | CallError::Scheduled(_) if secret_is_suspect(row) => unusable(row, now),
        _ => {}
    }
}

/// Whether "not found" can only mean the secret: promotions look at it by themselves.
fn secret_is_suspect(row: &RotationRow) -> bool {
    matches!(row.state, RotationState::Ready | RotationState::Setting { .. })
}

fn pause_s(error: &CallError, count: u32) -> i64 {
    match error {
        // May have worked: looked at in the next tick.
        CallError::Unknown(_) | CallError::Moved(_) | CallError::NotFound(_) | CallError::Scheduled(_)
            if count <= 2 =>
        {
            0
        }
        _ => (FIRST_PAUSE_S << count.saturating_sub(1).min(8)).min(LONGEST_PAUSE_S) - 5,
    }
}

#[cfg(test)]
mod tests {
    use keystile_model::arn::Arn;
    use keystile_model::db_user::DbUserService;

    use super::*;

    #[test]
    fn pauses_grow_to_a_quarter_of_an_hour() {
        let throttled = CallError::Throttled(String::new());
        let pauses: Vec<i64> = (1..8).map(|count| pause_s(&throttled, count)).collect();
        assert_eq!(pauses, [55, 115, 235, 475, 895, 895, 895]);
        assert_eq!(pause_s(&CallError::Unknown(String::new()), 1), 0);
        assert_eq!(pause_s(&throttled, u32::MAX), 895);
    }

    #[test]
    fn a_quota_skips_the_turn() {
        let arn = Arn::parse("arn:aws:memorydb:eu-west-1:123456789012:user/app").unwrap();
        let mut row = RotationRow::found(arn, DbUserService::Memorydb, "app".into(), "app".into(), 0);
        (row.period_s, row.force) = (900, true);
        failed(&mut row, &CallError::Quota("100 versions".into()), 1_000);
        assert_eq!((row.due_at, row.force), (1_900, false));
        assert_eq!(row.failure.unwrap().kind, "quota");
    }
}
