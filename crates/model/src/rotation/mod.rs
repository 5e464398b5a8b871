//! Rotation of managed users: what the proxies are told ([`Rotation`]), what the job remembers ([`row`]), what
//! the proxies answer ([`proof`]), the secret's value and name ([`secret`]), and the job's ports ([`ports`]).
//!
//! ```text
//! rotate ── Rotation (inventory feed) ──► proxies ── ProofRecord (runtime table) ──► rotate
//!    └───── RotationRow (runtime table): what only rotate reads and writes
//! ```

pub mod ports;
pub mod proof;
pub mod report;
pub mod row;
pub mod secret;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;

/// The least period of rotation, in seconds: 15 minutes, 96 secret versions a day.
pub const MIN_PERIOD_S: u64 = 15 * 60;
/// The longest period of rotation, in seconds: 90 days.
pub const MAX_PERIOD_S: u64 = 90 * 24 * 3_600;

/// The id of one version of a secret: the idempotency token that it was written with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VersionId(String);

impl VersionId {
    /// An id as Secrets Manager sent it, or a token to send.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for VersionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a user's password is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// The secret's whole ARN; its region is where it is read.
    pub arn: Arn,
    /// Its name.
    pub name: String,
}

/// What a rotation means to a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationPhase {
    /// Being taken over: there is no password yet, so logins are refused as "not ready". The secret's current
    /// version may be a placeholder.
    TakingOver,
    /// At rest: the current password logs in.
    Ready,
    /// A new password is on its way: the current one logs in, the pending one may.
    Rotating,
    /// Break-glass: both passwords are being replaced. Sessions are cut and logins refused until it is
    /// [`RotationPhase::Ready`] again.
    Locked,
    /// Left alone, with the reason. With a `current` version, that password is the best guess; without one,
    /// logins are refused.
    LeftAlone,
    /// No longer managed: the password was given up. Logins are refused.
    Withdrawn,
}

impl RotationPhase {
    /// The word used in texts and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TakingOver => "taking-over",
            Self::Ready => "ready",
            Self::Rotating => "rotating",
            Self::Locked => "locked",
            Self::LeftAlone => "left-alone",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// The rotation of one AWS user, as the proxies see it: an entity of the inventory feed, written by rotate
/// only. A projection of [`row::RotationRow`]; when the two differ, the next tick writes it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The user; the key.
    pub arn: Arn,
    /// What it means to a proxy.
    pub phase: RotationPhase,
    /// Counts takeovers: another number means that nothing cached before it is worth anything.
    pub generation: u64,
    /// Where the password is; none before the secret was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// The version (stage AWSCURRENT) whose password logs in; none before the end of the takeover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<VersionId>,
    /// The version (stage AWSPENDING) that is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<VersionId>,
    /// Asks the proxies to log in with this version (stage AWSPENDING) and, unless the phase is
    /// [`RotationPhase::TakingOver`] or [`RotationPhase::Locked`], with the current one, at each node, and to
    /// write a [`proof::ProofRecord`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prove: Option<VersionId>,
    /// For people: why it is left alone, what fails. Empty when all is well. Never holds a password.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Rotation {
    /// Why a login cannot be tried, in words for the client; none when the current password may be used.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let because = |text: &str| {
            if self.reason.is_empty() { text.to_owned() } else { format!("{text}: {}", self.reason) }
        };
        match self.phase {
            RotationPhase::TakingOver => Some(because("its password is not ready yet (taking-over)")),
            RotationPhase::Locked => Some(because("its passwords are being replaced (locked)")),
            RotationPhase::Withdrawn => Some(because("it is no longer managed (withdrawn)")),
            RotationPhase::LeftAlone if self.current.is_none() => {
                Some(because("its password is not ours (left-alone)"))
            }
            _ if self.current.is_none() => Some(because("its password is not ready yet")),
            _ => None,
        }
    }
}
