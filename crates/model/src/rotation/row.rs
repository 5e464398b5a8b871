//! What rotate remembers of one user: an item of the runtime table that only rotate reads and writes, each
//! write on condition of the version that was read. Holds no password.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::proof::Proof;
use super::{Rotation, RotationPhase, SecretRef, VersionId};
use crate::arn::Arn;
use crate::db_user::DbUserService;
use crate::store::RuntimeKey;

/// The partition of the rows; the sort key is the user's ARN.
pub const ROWS: &str = "rotation";

/// The key of a user's row.
#[must_use]
pub fn row_key(arn: &Arn) -> RuntimeKey {
    RuntimeKey::new(ROWS, arn.as_str())
}

/// Where a user's rotation stands. Each state can be entered again after a crash: what it does is either
/// harmless when repeated or looked up first.
///
/// ```text
///            due: a pending version is put
/// Found ─► Ready ─► Setting ─► Settling ⇄ Proving ─► Promoting ─► Ready
///   │        │         ▲                     │
///   │        │         └─────────────────────┘ refused by a node: told again
///   └────────┴──► LeftAlone ─► Found            any ─► Scrubbing ─► Deleting ─► Withdrawn ─► Found
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum RotationState {
    /// To be looked at: is it ours to take, and is there a secret?
    Found,
    /// At rest until its turn (a takeover's turn is now). A turn begins by putting a pending version, whose id
    /// follows from the row: putting it again makes nothing new.
    Ready,
    /// The pending version is there; the user must be told.
    Setting {
        /// The pending version.
        version: VersionId,
        /// Whether a call may have taken effect.
        sent: bool,
    },
    /// The user was told; its nodes learn it one by one.
    Settling {
        /// The pending version.
        version: VersionId,
        /// When the call was answered, in Unix seconds.
        sent_at: i64,
    },
    /// The user is active again; proxies prove the version.
    Proving {
        /// The pending version.
        version: VersionId,
        /// Since when it was seen active at every look, in Unix seconds.
        active_since: i64,
        /// How many looks in a row saw it active.
        looks: u32,
        /// When the call was answered, in Unix seconds.
        sent_at: i64,
    },
    /// The pending version becomes the current one.
    Promoting {
        /// The pending version.
        version: VersionId,
    },
    /// Not ours to rotate now.
    LeftAlone {
        /// Why.
        why: LeftAlone,
    },
    /// No longer managed: the password is replaced by one that nobody knows.
    Scrubbing {
        /// Whether a call may have taken effect.
        sent: bool,
    },
    /// Scrubbed; the secret is to be deleted.
    Deleting,
    /// The secret waits out its recovery window.
    Withdrawn {
        /// Since when, in Unix seconds.
        since: i64,
    },
}

impl RotationState {
    /// The word used in reports and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::Ready => "ready",
            Self::Setting { .. } => "setting",
            Self::Settling { .. } => "settling",
            Self::Proving { .. } => "proving",
            Self::Promoting { .. } => "promoting",
            Self::LeftAlone { .. } => "left-alone",
            Self::Scrubbing { .. } => "scrubbing",
            Self::Deleting => "deleting",
            Self::Withdrawn { .. } => "withdrawn",
        }
    }

    /// The version under way.
    #[must_use]
    pub fn pending(&self) -> Option<&VersionId> {
        match self {
            Self::Setting { version, .. }
            | Self::Settling { version, .. }
            | Self::Proving { version, .. }
            | Self::Promoting { version } => Some(version),
            _ => None,
        }
    }
}

/// Why a tagged user is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeftAlone {
    /// It signs in by IAM: there is no password to rotate. Looked at again when that changes.
    Iam,
    /// Teleport still rotates it. Looked at again every few minutes.
    TeleportRotates,
    /// Its passwords were changed by somebody else. Until `keystile rotate run --db-user U --force`.
    PasswordChanged,
    /// A secret of its name is there and is not ours. Looked at again every few minutes.
    SecretOfAnother,
    /// The secret's current version was changed by somebody else. Until forced.
    SecretChanged,
}

impl LeftAlone {
    /// The reason with what to do, for reports and refusals.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Iam => "it signs in by IAM and has no password to rotate",
            Self::TeleportRotates => {
                "Teleport still rotates its password: stop that, and it is taken over 35 minutes later"
            }
            Self::PasswordChanged => {
                "its passwords were changed by somebody else: find out who, then run \
                 keystile rotate run --db-user NAME --force to take it over again"
            }
            Self::SecretOfAnother => {
                "a secret of its name exists and was not made by Keystile: remove it, or set another prefix"
            }
            Self::SecretChanged => {
                "the current version of its secret was changed by somebody else: find out who, then run \
                 keystile rotate run --db-user NAME --force"
            }
        }
    }

    /// Whether only a person's `--force` ends it.
    #[must_use]
    pub fn needs_force(self) -> bool {
        matches!(self, Self::PasswordChanged | Self::SecretChanged)
    }
}

/// The last failure, until a step succeeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// [`super::ports::CallError::kind`], or a word of the machine's.
    pub kind: String,
    /// What happened, for people.
    pub text: String,
    /// Since when, in Unix seconds.
    pub since: i64,
    /// How often in a row.
    pub count: u32,
}

/// What to do about a user that was given up with its last password still on it.
pub const UNSCRUBBED: &str = "it was given up with its last password still on it: AWS did not let Keystile replace \
                              it, since a user without the tag is not Keystile's to change. Tag it \
                              keystile.dev/managed=false and run keystile rotate run --db-user NAME --force, or set \
                              another password by hand";

/// The row. Unknown fields are kept out by nobody: only rotate reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationRow {
    /// The user.
    pub arn: Arn,
    /// Its service.
    pub service: DbUserService,
    /// Its id.
    pub id: String,
    /// What AUTH is given.
    pub name: String,
    /// Where it stands.
    #[serde(flatten)]
    pub state: RotationState,
    /// Counts takeovers.
    pub generation: u64,
    /// Part of the pending version's token; grows when a version turned out to be unusable.
    #[serde(default)]
    pub attempt: u64,
    /// Whether the current version's password is on the user: from the end of the takeover on.
    #[serde(default)]
    pub taken: bool,
    /// Whether break-glass is under way.
    #[serde(default)]
    pub lock: bool,
    /// The version that ends it: put after it was asked for, and told alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock_version: Option<VersionId>,
    /// Whether no new turn is begun.
    #[serde(default)]
    pub paused: bool,
    /// Whether its turn is now, whatever the time.
    #[serde(default)]
    pub force: bool,
    /// The secret, once made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The version that holds AWSCURRENT as far as we made it so; of a takeover the placeholder, or a version
    /// of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<VersionId>,
    /// How many passwords the user has by what we last set; 0 where that is not known.
    #[serde(default)]
    pub passwords: u8,
    /// The secret of Teleport's whose password stays valid as the second one until the first rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teleport_secret: Option<String>,
    /// The period that holds for it, in seconds.
    #[serde(default)]
    pub period_s: u64,
    /// Why that is longer than asked; empty when it is not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub widened: String,
    /// Looks in a row that saw something that does not fit: the user missing, or another number of passwords.
    #[serde(default)]
    pub odd: u32,
    /// When its next turn is, in Unix seconds.
    #[serde(default)]
    pub due_at: i64,
    /// When its password was last promoted, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotated_at: Option<i64>,
    /// When it last left a state, in Unix seconds.
    #[serde(default)]
    pub moved_at: i64,
    /// Nothing is tried before, in Unix seconds.
    #[serde(default)]
    pub not_before: i64,
    /// The last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The discovery run (its `started`) whose complete listing first lacked the user or its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwanted_since: Option<String>,
    /// Whether it was given up with its last password still on it: AWS did not permit the change.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unscrubbed: bool,
    /// When the secret was last looked at, in Unix seconds.
    #[serde(default)]
    pub secret_seen_at: i64,
    /// Versions put, by hour (Unix seconds / 3,600), of the last 25 hours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub puts: BTreeMap<i64, u32>,
    /// How long AWS took for the last change, in seconds, as seen by the ticks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_s: Option<u32>,
    /// How the current version was proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

impl RotationRow {
    /// The row of a user that was just found.
    #[must_use]
    pub fn found(arn: Arn, service: DbUserService, id: String, name: String, now: i64) -> Self {
        Self {
            arn,
            service,
            id,
            name,
            state: RotationState::Found,
            generation: 1,
            attempt: 0,
            taken: false,
            lock: false,
            lock_version: None,
            paused: false,
            force: false,
            secret: None,
            current: None,
            passwords: 0,
            teleport_secret: None,
            period_s: 0,
            widened: String::new(),
            odd: 0,
            due_at: now,
            rotated_at: None,
            moved_at: now,
            not_before: 0,
            failure: None,
            unwanted_since: None,
            unscrubbed: false,
            secret_seen_at: 0,
            puts: BTreeMap::new(),
            update_s: None,
            proof: None,
        }
    }

    /// What it means to a proxy.
    #[must_use]
    pub fn phase(&self) -> RotationPhase {
        match &self.state {
            RotationState::Scrubbing { .. } | RotationState::Deleting | RotationState::Withdrawn { .. } => {
                RotationPhase::Withdrawn
            }
            _ if self.lock => RotationPhase::Locked,
            RotationState::LeftAlone { .. } => RotationPhase::LeftAlone,
            _ if !self.taken => RotationPhase::TakingOver,
            RotationState::Proving { .. } | RotationState::Promoting { .. } => RotationPhase::Rotating,
            _ => RotationPhase::Ready,
        }
    }

    /// The entity for the proxies. It changes twice a rotation: when the pending version is to be proved, and
    /// when it is promoted.
    #[must_use]
    pub fn projection(&self) -> Rotation {
        let known = matches!(self.state, RotationState::Proving { .. } | RotationState::Promoting { .. });
        let pending = self.state.pending().filter(|_| known).cloned();
        let prove = match &self.state {
            RotationState::Proving { version, .. } => Some(version.clone()),
            _ => None,
        };
        Rotation {
            arn: self.arn.clone(),
            phase: self.phase(),
            generation: self.generation,
            secret: self.secret.clone(),
            current: self.current.clone().filter(|_| self.taken),
            pending,
            prove,
            reason: self.reason(),
        }
    }

    /// Why it is left alone, or what fails; empty when all is well. Without counts and times, so that a lasting
    /// failure is one change of the feed.
    #[must_use]
    pub fn reason(&self) -> String {
        match (&self.state, &self.failure) {
            (RotationState::LeftAlone { why }, _) => why.reason().to_owned(),
            _ if self.unscrubbed => UNSCRUBBED.to_owned(),
            // A hitch that the next tick heals is not news.
            (_, Some(failure)) if failure.count >= 3 => failure.text.clone(),
            _ => String::new(),
        }
    }
}

/// One line of `keystile rotate status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationStatus {
    /// The db user's name.
    pub name: String,
    /// Its ARN.
    pub arn: Arn,
    /// [`RotationState::as_str`].
    pub state: String,
    /// What it means to a proxy.
    pub phase: RotationPhase,
    /// When its password was last replaced, RFC 3339.
    pub rotated_at: Option<String>,
    /// How that was proved.
    pub proof: Option<Proof>,
    /// When its next turn is, RFC 3339; none where it has none.
    pub due_at: Option<String>,
    /// The period that holds, in seconds.
    pub period_s: u64,
    /// Why that is longer than asked; empty when it is not.
    #[serde(default)]
    pub widened: String,
    /// Whether no new turn is begun.
    #[serde(default)]
    pub paused: bool,
    /// Counts takeovers.
    pub generation: u64,
    /// The secret's name; empty before it was made.
    #[serde(default)]
    pub secret: String,
    /// The databases that it belongs to, by name.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Why it is left alone, or the last failure; empty when all is well.
    #[serde(default)]
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> RotationRow {
        let arn = Arn::parse("arn:aws:memorydb:eu-west-1:123456789012:user/app").unwrap();
        RotationRow::found(arn, DbUserService::Memorydb, "app".to_owned(), "app".to_owned(), 1)
    }

    #[test]
    fn a_row_survives_its_json() {
        let mut row = row();
        row.current = Some(VersionId::new("v0"));
        let v = || VersionId::new("v1");
        for state in [
            RotationState::Found,
            RotationState::Ready,
            RotationState::Setting { version: v(), sent: true },
            RotationState::Settling { version: v(), sent_at: 5 },
            RotationState::Proving { version: v(), active_since: 9, looks: 2, sent_at: 5 },
            RotationState::Promoting { version: v() },
            RotationState::LeftAlone { why: LeftAlone::Iam },
            RotationState::Scrubbing { sent: false },
            RotationState::Deleting,
            RotationState::Withdrawn { since: 7 },
        ] {
            row.state = state;
            let json = serde_json::to_value(&row).unwrap();
            assert_eq!(json["state"], row.state.as_str());
            assert_eq!(serde_json::from_value::<RotationRow>(json).unwrap(), row);
        }
    }

    #[test]
    fn a_placeholder_is_never_shown_as_current() {
        let mut row = row();
        row.current = Some(VersionId::new("placeholder"));
        row.state = RotationState::Ready;
        let shown = row.projection();
        assert_eq!((shown.phase, shown.current.as_ref()), (RotationPhase::TakingOver, None));
        assert!(shown.refusal().is_some());
        row.taken = true;
        let shown = row.projection();
        assert_eq!(shown.phase, RotationPhase::Ready);
        assert!(shown.current.is_some() && shown.refusal().is_none());
        row.lock = true;
        assert!(row.projection().refusal().unwrap().contains("locked"));
    }
}
