//! The machine: what one user's rotation does next. Pure: the row, what was seen and the time go in, one
//! action comes out.
//!
//! What makes it safe, whatever fails and wherever it is killed:
//! - the user is only told `[current, pending]`, when it is active (so that every node knows the old list, which
//!   holds the current password, and then the new one, which holds it too);
//! - the pending version becomes current only after the user was seen active again with it;
//! - each action may be repeated: a version's id follows from the row, telling a user the same passwords twice
//!   changes nothing, and a stage moves only from where the row says that it is.

use keystile_model::db_user::DbUserAuth;
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{CacheUser, SecretRecord, Stage, UserStatus};
use keystile_model::rotation::proof::Proven;
use keystile_model::rotation::row::{LeftAlone, RotationRow, RotationState};
use keystile_model::rotation::secret::{DEPLOYMENT_TAG, OWNER_TAG, pending_version};

/// Teleport rotates each 15 to 17.5 minutes; a version younger than two such periods means that it still does.
pub const TELEPORT_QUIET_S: i64 = 35 * 60;
/// How long a user must have been seen active before a version counts without a proof, in seconds.
pub const UNPROVEN_AFTER_S: i64 = 120;
/// And in how many looks: a clock that jumps must not stand for them.
pub const UNPROVEN_LOOKS: u32 = 3;
/// How long nodes may refuse a version of an active user before it is told again, in seconds.
pub const REFUSED_FOR_S: i64 = 10 * 60;
/// How often the secret of a user at rest is looked at, in seconds: once a period, within these.
const SECRET_LOOK_S: (i64, i64) = (15 * 60, 3_600);
/// How often the reason why a user is left alone is looked at again, in seconds.
pub const RECHECK_S: i64 = 5 * 60;
/// Versions that a secret may get in 24 hours: Secrets Manager's limit is 100.
pub const VERSIONS_A_DAY: u32 = 96;
/// The longest that a call may take, in seconds: two answers nearer to each other tell no order.
const ANSWER_S: i64 = 30;
/// Nothing is ever put off by more than this, in seconds: a longer wait is a clock that jumped back.
const LONGEST_WAIT_S: i64 = 3_600;
/// Looks that must agree before something odd is believed: lists may lag behind.
const ODD_LOOKS: u32 = 2;

/// Whether discovery still wants a user managed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is tagged.
    Yes,
    /// It is not, by fewer than two complete listings: nothing new is begun.
    Unsure,
    /// It is not, by two complete listings.
    No,
}

/// What was seen of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSeen {
    /// Nobody looked.
    NotAsked,
    /// There is none.
    Missing,
    /// It is there.
    There(SecretRecord),
}

/// What was seen of Teleport's secret for the same user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeleportSeen {
    /// Nobody looked, or there is none.
    Nothing,
    /// It is there; its current version is so old, in seconds.
    There {
        /// The secret's name.
        name: String,
        /// Age of the current version, in seconds; none where it could not be told.
        age_s: Option<i64>,
    },
}

/// What a step sees.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    /// The user; none if a complete list lacks it.
    pub user: Option<&'a CacheUser>,
    /// What discovery says.
    pub wanted: Wanted,
    /// The secret, where [`needs`] asks for it.
    pub secret: SecretSeen,
    /// Teleport's secret, where [`needs`] asks for it.
    pub teleport: TeleportSeen,
    /// What proxies proved, where [`needs`] asks for it.
    pub proven: Proven,
    /// Whether the user's groups allow a change now.
    pub free: bool,
    /// Whether proxies may still hold the password before the current one, which the next change ends.
    pub held: bool,
    /// Whether it is worth asking although it is listed as being modified: that should be over.
    pub probe: bool,
    /// When AWS last took a change of ours of another user of its groups that is under way: that explains why
    /// it is not active.
    pub explained: Option<i64>,
    /// Our deployment's name.
    pub deployment: &'a str,
    /// Whether the secret lacks tags, or has a proxy group's that it should not.
    pub untagged: bool,
}

/// What a step must look up before it is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The secret.
    pub secret: bool,
    /// Teleport's secret.
    pub teleport: bool,
    /// The proxies' proofs.
    pub proof: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing, and why.
    Wait(&'static str),
    /// Only what is remembered changes, for the secret was looked at; and why no more.
    Note(&'static str),
    /// What was seen is odd: counted, and believed at the next look.
    Odd(&'static str),
    /// Another state, no call.
    Move(RotationState),
    /// Everything begins anew: a takeover of a user that we once had.
    StartOver(&'static str),
    /// Make the secret, with a placeholder.
    CreateSecret,
    /// Take the secret's deletion back.
    RestoreSecret,
    /// Set the secret's tags right.
    TagSecret,
    /// The secret is there and ours: remember it.
    KeepSecret(SecretRecord),
    /// Put a pending version.
    Put(VersionId),
    /// Tell the user its passwords.
    Tell(VersionId),
    /// Make the pending version current. With `known`, it is so already.
    Promote {
        /// The version.
        version: VersionId,
        /// Whether AWSCURRENT was seen there.
        known: bool,
    },
    /// Leave it alone.
    LeaveAlone(LeftAlone),
    /// Replace its passwords by one that nobody knows.
    Scrub,
    /// That is not permitted: the secret goes without it.
    GiveUpScrub,
    /// Delete the secret, with its recovery window.
    DeleteSecret,
    /// Remove the row: nothing is left to do.
    Forget,
}

/// What must be looked up for the row's next step.
#[must_use]
pub fn needs(row: &RotationRow, wanted: Wanted, now: i64) -> Needs {
    let leaving = wanted == Wanted::No && !matches!(row.state, RotationState::Promoting { .. });
    if waits(row, now) || leaving {
        return Needs::default();
    }
    match &row.state {
        RotationState::Found
        | RotationState::LeftAlone { why: LeftAlone::TeleportRotates | LeftAlone::SecretOfAnother } => {
            Needs { secret: true, teleport: true, proof: false }
        }
        RotationState::Ready => {
            let every =
                i64::try_from(row.period_s).unwrap_or(i64::MAX).clamp(SECRET_LOOK_S.0, SECRET_LOOK_S.1);
            let look = begins(row, wanted, now) || (now - row.secret_seen_at).abs() >= every;
            Needs { secret: look, ..Needs::default() }
        }
        RotationState::Proving { .. } => Needs { proof: true, ..Needs::default() },
        RotationState::Promoting { .. } => Needs { secret: true, ..Needs::default() },
        _ => Needs::default(),
    }
}

/// The next step.
#[must_use]
pub fn next(row: &RotationRow, seen: &Seen<'_>, now: i64) -> Action {
    if waits(row, now) {
        return Action::Wait("backing off");
    }
    withdrawal(row, seen, now).or_else(|| unlike(row, seen)).unwrap_or_else(|| forward(row, seen, now))
}

/// Whether the row's turn is now, were it wanted and its secret fine.
#[must_use]
pub fn is_due(row: &RotationRow, now: i64) -> bool {
    row.lock || row.force || !row.taken || now >= row.due_at
}

fn begins(row: &RotationRow, wanted: Wanted, now: i64) -> bool {
    let allowed = row.lock || (wanted == Wanted::Yes && !row.paused);
    allowed && is_due(row, now) && (row.lock || row.force || puts_of_a_day(row, now) < VERSIONS_A_DAY)
}

/// Versions put in the last 24 hours.
#[must_use]
pub fn puts_of_a_day(row: &RotationRow, now: i64) -> u32 {
    row.puts.range(now / 3_600 - 24..=now / 3_600).map(|(_, count)| *count).sum()
}

fn waits(row: &RotationRow, now: i64) -> bool {
    row.not_before > now && row.not_before - now <= LONGEST_WAIT_S
}

/// The way out, and the way back in.
fn withdrawal(row: &RotationRow, seen: &Seen<'_>, now: i64) -> Option<Action> {
    let there = seen.user.filter(|user| user.status != UserStatus::Deleting);
    match (&row.state, seen.wanted) {
        (RotationState::Scrubbing { sent: false }, Wanted::Yes) => Some(Action::Move(RotationState::Ready)),
        (
            RotationState::Scrubbing { .. } | RotationState::Deleting | RotationState::Withdrawn { .. },
            Wanted::Yes,
        ) => Some(Action::StartOver("its tag came back")),
        (RotationState::Scrubbing { .. }, _) => Some(match there {
            Some(user) if user.auth != Some(DbUserAuth::Iam) => {
                if refused_for_good(row) {
                    Action::GiveUpScrub
                } else if user.status == UserStatus::Active && seen.free {
                    Action::Scrub
                } else {
                    Action::Wait("the user or its group is being modified")
                }
            }
            _ => Action::Move(RotationState::Deleting),
        }),
        (RotationState::Deleting, _) if row.secret.is_none() => Some(Action::Forget),
        (RotationState::Deleting, _) => Some(Action::DeleteSecret),
        // 30 days of recovery window and a day on top.
        (RotationState::Withdrawn { since }, _) => {
            Some(if now - since > 31 * 24 * 3_600 { Action::Forget } else { Action::Wait("withdrawn") })
        }
        // What a call may have made current must be known before it is given up.
        (RotationState::Promoting { .. }, Wanted::No) => None,
        (state, Wanted::No) => Some(leave(row, state, there)),
        _ => None,
    }
}

/// A scrub that is not permitted (a policy may allow changes of tagged users only) must not keep the secret.
fn refused_for_good(row: &RotationRow) -> bool {
    row.failure
        .as_ref()
        .is_some_and(|failure| failure.count >= 3 && ["denied", "refused"].contains(&failure.kind.as_str()))
}

/// The first step of a user that is not wanted any more.
fn leave(row: &RotationRow, state: &RotationState, there: Option<&CacheUser>) -> Action {
    let told = row.taken
        || matches!(
            state,
            RotationState::Setting { sent: true, .. }
                | RotationState::Settling { .. }
                | RotationState::Proving { .. }
        );
    // A password that somebody else made is none of ours to replace.
    let ours = told && !matches!(state, RotationState::LeftAlone { .. });
    match there {
        Some(user) if ours && user.auth != Some(DbUserAuth::Iam) => {
            Action::Move(RotationState::Scrubbing { sent: false })
        }
        _ if row.secret.is_some() => Action::Move(RotationState::Deleting),
        _ => Action::Forget,
    }
}

/// What does not fit what the row remembers of the user.
fn unlike(row: &RotationRow, seen: &Seen<'_>) -> Option<Action> {
    let Some(user) = seen.user else {
        return Some(match (&row.state, row.odd + 1 >= ODD_LOOKS) {
            (RotationState::Found, _) => Action::Wait("the user is gone"),
            (_, false) => Action::Odd("the user is not listed"),
            (_, true) => Action::StartOver("the user is gone"),
        });
    };
    if user.status == UserStatus::Deleting {
        return Some(Action::Wait("the user is being deleted"));
    }
    let iam = RotationState::LeftAlone { why: LeftAlone::Iam };
    match user.auth {
        None => return Some(Action::Wait("how the user signs in is not known")),
        Some(DbUserAuth::Iam) if row.state == iam => return Some(Action::Wait("it signs in by IAM")),
        Some(DbUserAuth::Iam) => return Some(Action::LeaveAlone(LeftAlone::Iam)),
        _ if row.state == iam => return Some(Action::StartOver("it signs in by password again")),
        _ => {}
    }
    if let RotationState::LeftAlone { why } = &row.state
        && why.needs_force()
    {
        return Some(if row.force || row.lock {
            Action::StartOver("forced")
        } else {
            Action::Wait("left alone")
        });
    }
    let knows = match &row.state {
        RotationState::Ready | RotationState::Setting { sent: false, .. } => row.taken,
        RotationState::Proving { .. } | RotationState::Promoting { .. } => true,
        _ => false,
    };
    let other = user.passwords != row.passwords && user.passwords > 0 && row.passwords > 0;
    let open = user.auth == Some(DbUserAuth::None);
    if knows && user.status == UserStatus::Active && (other || open) && !row.force {
        return Some(if row.odd + 1 >= ODD_LOOKS {
            Action::LeaveAlone(LeftAlone::PasswordChanged)
        } else {
            Action::Odd("it has another number of passwords than we gave it")
        });
    }
    None
}

/// The way of a rotation.
fn forward(row: &RotationRow, seen: &Seen<'_>, now: i64) -> Action {
    let active = seen.user.is_some_and(|user| user.status == UserStatus::Active);
    match &row.state {
        RotationState::Found => found(row, seen),
        RotationState::LeftAlone { why } => match found(row, seen) {
            Action::LeaveAlone(same) if same == *why => Action::Wait("left alone"),
            action => action,
        },
        RotationState::Ready => ready(row, seen, now),
        RotationState::Setting { .. } if !active && !seen.probe => Action::Wait("the user is being modified"),
        RotationState::Setting { .. } if !seen.free => Action::Wait("its group is being modified"),
        RotationState::Setting { .. } if seen.held && !row.lock => {
            Action::Wait("proxies may still hold the password of before")
        }
        RotationState::Setting { version, .. } => Action::Tell(version.clone()),
        RotationState::Settling { version, sent_at } if active => {
            let (version, sent_at) = (version.clone(), *sent_at);
            Action::Move(RotationState::Proving { version, active_since: now, looks: 1, sent_at })
        }
        RotationState::Settling { .. } => Action::Wait("the change is being applied"),
        RotationState::Proving { version, active_since, looks, sent_at } => {
            let settling = RotationState::Settling { version: version.clone(), sent_at: *sent_at };
            // Somebody else's change may have begun; or the first look came before AWS began ours. A change of
            // ours that AWS took afterwards is none of these: the group was through with this one by then.
            if !active && seen.explained.is_none_or(|taken_at| taken_at <= *sent_at + ANSWER_S) {
                return Action::Move(settling);
            }
            proving(row, seen.proven, version, (*active_since, *looks, *sent_at), now)
        }
        RotationState::Promoting { version } => promoting(row, seen, version),
        RotationState::Scrubbing { .. } | RotationState::Deleting | RotationState::Withdrawn { .. } => {
            Action::Wait("withdrawn")
        }
    }
}

fn found(row: &RotationRow, seen: &Seen<'_>) -> Action {
    if seen.wanted != Wanted::Yes || (row.paused && !row.lock) {
        return Action::Wait("paused, or not tagged any more");
    }
    if let TeleportSeen::There { age_s: Some(age), .. } = seen.teleport
        && age < TELEPORT_QUIET_S
    {
        return Action::LeaveAlone(LeftAlone::TeleportRotates);
    }
    match &seen.secret {
        SecretSeen::NotAsked => Action::Wait("its secret was not looked at"),
        SecretSeen::Missing => Action::CreateSecret,
        SecretSeen::There(record) if !is_ours(record, row, seen.deployment) => {
            Action::LeaveAlone(LeftAlone::SecretOfAnother)
        }
        SecretSeen::There(record) if record.deleted_at.is_some() => Action::RestoreSecret,
        SecretSeen::There(record) => Action::KeepSecret(record.clone()),
    }
}

/// Whether this deployment made the secret for this user.
fn is_ours(record: &SecretRecord, row: &RotationRow, deployment: &str) -> bool {
    let says = |key: &str, value: &str| record.tags.get(key).is_some_and(|found| found == value);
    says(OWNER_TAG, row.arn.as_str()) && says(DEPLOYMENT_TAG, deployment)
}

fn ready(row: &RotationRow, seen: &Seen<'_>, now: i64) -> Action {
    let begins = begins(row, seen.wanted, now);
    match &seen.secret {
        SecretSeen::NotAsked if begins => return Action::Wait("its secret was not looked at"),
        SecretSeen::NotAsked => return Action::Wait(resting(row, seen)),
        SecretSeen::Missing => return Action::StartOver("its secret was deleted"),
        SecretSeen::There(record) => {
            if record.deleted_at.is_some() {
                return Action::RestoreSecret;
            }
            if !is_ours(record, row, seen.deployment) {
                return Action::LeaveAlone(LeftAlone::SecretOfAnother);
            }
            if record.version(Stage::Current) != row.current.as_ref() {
                return Action::LeaveAlone(LeftAlone::SecretChanged);
            }
        }
    }
    if seen.untagged {
        return Action::TagSecret;
    }
    if begins {
        Action::Put(pending_version(&row.arn, row.current.as_ref(), row.attempt))
    } else {
        Action::Note(resting(row, seen))
    }
}

/// Why no turn begins.
fn resting(row: &RotationRow, seen: &Seen<'_>) -> &'static str {
    if row.paused {
        "paused: its turn begins after keystile rotate resume"
    } else if seen.wanted != Wanted::Yes {
        "its tag is gone: the next complete listing of discovery decides"
    } else {
        "not its turn"
    }
}

fn proving(
    row: &RotationRow,
    proven: Proven,
    version: &VersionId,
    (active_since, looks, sent_at): (i64, u32, i64),
    now: i64,
) -> Action {
    let version = version.clone();
    // A clock that jumped back: count from here.
    if active_since > now {
        return Action::Move(RotationState::Proving { version, active_since: now, looks: 1, sent_at });
    }
    let active_s = now - active_since;
    let again = Action::Move(RotationState::Proving {
        version: version.clone(),
        active_since,
        looks: looks.saturating_add(1),
        sent_at,
    });
    let long_enough = active_s >= UNPROVEN_AFTER_S && looks + 1 >= UNPROVEN_LOOKS;
    match proven {
        Proven::Everywhere => Action::Promote { version, known: false },
        Proven::Silent | Proven::Partly if long_enough => Action::Promote { version, known: false },
        Proven::BothRefused if long_enough && row.taken && !row.lock => {
            Action::LeaveAlone(LeftAlone::PasswordChanged)
        }
        Proven::Refused | Proven::BothRefused if active_s >= REFUSED_FOR_S && looks >= UNPROVEN_LOOKS => {
            Action::Move(RotationState::Setting { version, sent: true })
        }
        // Counted only until it is enough: a wait of hours is not a write a minute.
        _ if looks < UNPROVEN_LOOKS => again,
        _ => Action::Wait("nodes have not taken the new password yet"),
    }
}

fn promoting(row: &RotationRow, seen: &Seen<'_>, version: &VersionId) -> Action {
    match &seen.secret {
        SecretSeen::NotAsked => Action::Wait("its secret was not looked at"),
        SecretSeen::Missing => Action::StartOver("its secret was deleted"),
        SecretSeen::There(record) => match record.version(Stage::Current) {
            Some(current) if current == version => Action::Promote { version: version.clone(), known: true },
            _ if record.deleted_at.is_some() => Action::RestoreSecret,
            current if current == row.current.as_ref() => {
                Action::Promote { version: version.clone(), known: false }
            }
            _ => Action::LeaveAlone(LeftAlone::SecretChanged),
        },
    }
}
