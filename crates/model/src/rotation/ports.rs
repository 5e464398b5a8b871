//! The ports of rotation: the services' users, and secrets. Each method is one call (a list is all its pages);
//! when to try again is the machine's decision, so an adapter retries only what surely never took effect.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use secrecy::SecretString;

use super::VersionId;
use crate::arn::Arn;
use crate::cloud::{Place, Tags};
use crate::db_user::{DbUserAuth, DbUserService};

/// Why a call failed, by what the machine does about it. Texts hold no password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Too many calls: later, more slowly.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The user is not `active` (`InvalidUserState`, `InvalidUserStateFault`): nothing changed; later.
    #[error("the user is being modified: {0}")]
    Busy(String),
    /// There is no such user, secret or version.
    #[error("not found: {0}")]
    NotFound(String),
    /// The secret's name, or the token with another value, is there already.
    #[error("it is there already: {0}")]
    Exists(String),
    /// The secret is marked for deletion.
    #[error("the secret is scheduled for deletion: {0}")]
    Scheduled(String),
    /// The stage is not where the call said: somebody else moved it.
    #[error("the stage was moved by somebody else: {0}")]
    Moved(String),
    /// Too many versions of the secret, or another quota that waiting alone heals.
    #[error("quota: {0}")]
    Quota(String),
    /// The right is missing.
    #[error("no permission: {0}")]
    Denied(String),
    /// The key of the secret refuses.
    #[error("the KMS key refuses: {0}")]
    Key(String),
    /// The service will never take this.
    #[error("refused: {0}")]
    Refused(String),
    /// No answer, or a failure of the service: it may have taken effect.
    #[error("unknown whether it took effect: {0}")]
    Unknown(String),
}

impl CallError {
    /// The fixed word for metrics and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Throttled(_) => "throttled",
            Self::Busy(_) => "busy",
            Self::NotFound(_) => "not-found",
            Self::Exists(_) => "exists",
            Self::Scheduled(_) => "scheduled",
            Self::Moved(_) => "moved",
            Self::Quota(_) => "quota",
            Self::Denied(_) => "denied",
            Self::Key(_) => "key",
            Self::Refused(_) => "refused",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A user's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UserStatus {
    /// Can be changed.
    Active,
    /// Changes: itself, one of its groups, or a cache of those. Also any word that is not known.
    Modifying,
    /// Goes.
    Deleting,
}

impl UserStatus {
    /// Reads a service's word, whatever its case.
    #[must_use]
    pub fn parse(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "active" => Self::Active,
            "deleting" => Self::Deleting,
            _ => Self::Modifying,
        }
    }
}

/// A user as its service describes it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUser {
    /// Its ARN, as sent.
    pub arn: String,
    /// User id; of MemoryDB the name again.
    pub id: String,
    /// What AUTH is given.
    pub name: String,
    /// Its status.
    pub status: UserStatus,
    /// User groups or ACLs.
    pub groups: BTreeSet<String>,
    /// How it signs in; none for a word that is not known.
    pub auth: Option<DbUserAuth>,
    /// How many passwords it has; 0 where the service does not say.
    pub passwords: u8,
}

/// The users of the caches' ACLs.
#[async_trait]
pub trait CacheUsers: Send + Sync {
    /// Every user of a service: all pages, or an error.
    async fn users(&self, place: &Place, service: DbUserService) -> Result<Vec<CacheUser>, CallError>;

    /// Replaces a user's passwords, one or two, and makes password its way to sign in. [`CallError::Busy`]
    /// unless it is active.
    async fn set_passwords(
        &self,
        place: &Place,
        service: DbUserService,
        id: &str,
        passwords: &[SecretString],
    ) -> Result<(), CallError>;
}

/// The stages that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// AWSCURRENT.
    Current,
    /// AWSPENDING.
    Pending,
    /// AWSPREVIOUS.
    Previous,
}

impl Stage {
    /// The service's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "AWSCURRENT",
            Self::Pending => "AWSPENDING",
            Self::Previous => "AWSPREVIOUS",
        }
    }
}

/// A secret as DescribeSecret has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRecord {
    /// Its whole ARN.
    pub arn: Arn,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: Tags,
    /// The stages of [`Stage`], and the versions that hold them.
    pub stages: BTreeMap<Stage, VersionId>,
    /// When its deletion was asked for, in Unix seconds; none while it lives.
    pub deleted_at: Option<i64>,
}

impl SecretRecord {
    /// The version that holds a stage.
    #[must_use]
    pub fn version(&self, stage: Stage) -> Option<&VersionId> {
        self.stages.get(&stage)
    }
}

/// A secret to be made.
#[derive(Debug, Clone)]
pub struct NewSecret {
    /// Its name.
    pub name: String,
    /// The id of its first version.
    pub token: VersionId,
    /// Its first value.
    pub value: SecretString,
    /// For people.
    pub description: String,
    /// The key; none for the account's own.
    pub kms_key: Option<String>,
    /// Its tags.
    pub tags: Tags,
}

/// One version's value.
#[derive(Debug, Clone)]
pub struct SecretRead {
    /// Which version.
    pub version: VersionId,
    /// Its value (of a binary secret its text).
    pub value: SecretString,
    /// When it was made, in Unix seconds, where the service says so.
    pub created_at: Option<i64>,
}

/// Which version to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one that holds a stage.
    Stage(Stage),
    /// This one.
    Version(VersionId),
}

/// Secrets Manager, in our own account and region. `secret` is a name or an ARN.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// None if there is no such secret; one that is marked for deletion is there.
    async fn describe(&self, secret: &str) -> Result<Option<SecretRecord>, CallError>;

    /// Makes a secret and answers its ARN. [`CallError::Exists`] or [`CallError::Scheduled`] if the name is
    /// taken; the same token with the same value again is no error.
    async fn create(&self, new: &NewSecret) -> Result<Arn, CallError>;

    /// Adds a version with stage AWSPENDING and this id. [`CallError::Exists`] if that version is there with
    /// another value.
    async fn put_pending(
        &self,
        secret: &str,
        token: &VersionId,
        value: &SecretString,
    ) -> Result<(), CallError>;

    /// Reads a version. [`CallError::NotFound`] if there is no such secret or version.
    async fn read(&self, secret: &str, which: &Which) -> Result<SecretRead, CallError>;

    /// Moves AWSCURRENT from one version to another. [`CallError::Moved`] if it is not at `from`.
    async fn promote(&self, secret: &str, from: &VersionId, to: &VersionId) -> Result<(), CallError>;

    /// Adds tags.
    async fn tag(&self, secret: &str, tags: &Tags) -> Result<(), CallError>;

    /// Removes tags.
    async fn untag(&self, secret: &str, keys: &[String]) -> Result<(), CallError>;

    /// Deletes it after so many days (7 to 30).
    async fn delete(&self, secret: &str, recovery_days: u8) -> Result<(), CallError>;

    /// Takes a deletion back.
    async fn restore(&self, secret: &str) -> Result<(), CallError>;
}

/// The operating system's randomness.
pub trait Entropy: Send + Sync {
    /// Fills the buffer.
    fn fill(&self, buffer: &mut [u8]);
}
