//! The two feeds of the policy table: what they hold, and how a change looks.

use serde::{Deserialize, Serialize};

use crate::database::{Database, DatabaseAuth};
use crate::db_user::DbUser;
use crate::matcher::Matcher;
use crate::policy::{CaCertificate, Lock, NameClaim, Settings};
use crate::role::Role;
use crate::rotation::Rotation;
use crate::user::{ArnRule, User};

/// The version of the items' shapes that this build writes and reads. A head whose `min_reader` is above
/// it cannot be read.
pub const READER_VERSION: u32 = 1;
/// Most entities that one change may carry: a DynamoDB transaction has 100 actions.
pub const MAX_CHANGES: usize = 90;
/// Largest log item, in bytes of JSON (a DynamoDB item ends at 400 KB).
pub const MAX_LOG_BYTES: usize = 300 * 1024;
/// How long log items are kept, in seconds: 7 days.
pub const LOG_RETENTION_S: i64 = 7 * 24 * 3_600;

/// A feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// Who may do what; written by functions/access only; polled each second.
    Access,
    /// What there is; written by the control plane's jobs; polled each 5 seconds.
    Inventory,
}

impl Feed {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Access, Self::Inventory];

    /// The word used in keys and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Inventory => "inventory",
        }
    }
}

/// The kinds of entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityKind {
    /// The deployment's settings; one item.
    Settings,
    /// A user.
    User,
    /// An ARN rule.
    ArnRule,
    /// A role.
    Role,
    /// A lock.
    Lock,
    /// A matcher.
    Matcher,
    /// A static database.
    StaticDatabase,
    /// How a discovered database is signed in to, where an admin said so.
    #[serde(rename = "db_auth")]
    DatabaseAuth,
    /// A certificate of one of the CAs.
    CaCertificate,
    /// A discovered database.
    Database,
    /// A discovered db user.
    DbUser,
    /// Who holds a database name.
    NameClaim,
    /// The rotation of a managed db user; written by rotate only.
    Rotation,
}

impl EntityKind {
    /// All kinds, with the feed each belongs to.
    pub const ALL: [Self; 13] = [
        Self::Settings,
        Self::User,
        Self::ArnRule,
        Self::Role,
        Self::Lock,
        Self::Matcher,
        Self::StaticDatabase,
        Self::DatabaseAuth,
        Self::CaCertificate,
        Self::Database,
        Self::DbUser,
        Self::NameClaim,
        Self::Rotation,
    ];

    /// The feed that holds it.
    #[must_use]
    pub fn feed(self) -> Feed {
        match self {
            Self::Database | Self::DbUser | Self::NameClaim | Self::Rotation => Feed::Inventory,
            _ => Feed::Access,
        }
    }

    /// The word used in keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::User => "user",
            Self::ArnRule => "arn_rule",
            Self::Role => "role",
            Self::Lock => "lock",
            Self::Matcher => "matcher",
            Self::StaticDatabase => "static_database",
            Self::DatabaseAuth => "db_auth",
            Self::CaCertificate => "ca_certificate",
            Self::Database => "database",
            Self::DbUser => "db_user",
            Self::NameClaim => "name_claim",
            Self::Rotation => "rotation",
        }
    }
}

/// What an entity is found by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntityKey {
    /// Its kind.
    pub kind: EntityKind,
    /// Unique within its kind: a name, or the ARN of a db user (also of its rotation).
    pub id: String,
}

impl std::fmt::Display for EntityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.id)
    }
}

/// One thing in a feed. Unknown fields are refused: an item of a newer version is never half-read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entity {
    /// See [`EntityKind::Settings`].
    Settings(Box<Settings>),
    /// See [`EntityKind::User`].
    User(User),
    /// See [`EntityKind::ArnRule`].
    ArnRule(ArnRule),
    /// See [`EntityKind::Role`].
    Role(Box<Role>),
    /// See [`EntityKind::Lock`].
    Lock(Lock),
    /// See [`EntityKind::Matcher`].
    Matcher(Box<Matcher>),
    /// See [`EntityKind::StaticDatabase`].
    StaticDatabase(Box<Database>),
    /// See [`EntityKind::DatabaseAuth`].
    #[serde(rename = "db_auth")]
    DatabaseAuth(DatabaseAuth),
    /// See [`EntityKind::CaCertificate`].
    CaCertificate(CaCertificate),
    /// See [`EntityKind::Database`].
    Database(Box<Database>),
    /// See [`EntityKind::DbUser`].
    DbUser(Box<DbUser>),
    /// See [`EntityKind::NameClaim`].
    NameClaim(NameClaim),
    /// See [`EntityKind::Rotation`].
    Rotation(Box<Rotation>),
}

impl Entity {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> EntityKind {
        match self {
            Self::Settings(_) => EntityKind::Settings,
            Self::User(_) => EntityKind::User,
            Self::ArnRule(_) => EntityKind::ArnRule,
            Self::Role(_) => EntityKind::Role,
            Self::Lock(_) => EntityKind::Lock,
            Self::Matcher(_) => EntityKind::Matcher,
            Self::StaticDatabase(_) => EntityKind::StaticDatabase,
            Self::DatabaseAuth(_) => EntityKind::DatabaseAuth,
            Self::CaCertificate(_) => EntityKind::CaCertificate,
            Self::Database(_) => EntityKind::Database,
            Self::DbUser(_) => EntityKind::DbUser,
            Self::NameClaim(_) => EntityKind::NameClaim,
            Self::Rotation(_) => EntityKind::Rotation,
        }
    }

    /// What it is found by.
    #[must_use]
    pub fn key(&self) -> EntityKey {
        let id = match self {
            Self::Settings(_) => "settings".to_owned(),
            Self::User(user) => user.name.to_string(),
            Self::ArnRule(rule) => rule.name.clone(),
            Self::Role(role) => role.name.to_string(),
            Self::Lock(lock) => lock.name.clone(),
            Self::Matcher(matcher) => matcher.name.clone(),
            Self::StaticDatabase(database) | Self::Database(database) => database.name.to_string(),
            Self::DatabaseAuth(auth) => auth.database.to_string(),
            Self::CaCertificate(ca) => ca.id(),
            Self::DbUser(user) => user.arn.to_string(),
            Self::NameClaim(claim) => claim.name.to_string(),
            Self::Rotation(rotation) => rotation.arn.to_string(),
        };
        EntityKey { kind: self.kind(), id }
    }
}

/// One step of a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// The whole new image.
    Put(Entity),
    /// A tombstone.
    Delete(EntityKey),
}

impl Change {
    /// What it is about.
    #[must_use]
    pub fn key(&self) -> EntityKey {
        match self {
            Self::Put(entity) => entity.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

/// Where a feed stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Changes when the table was restored or made anew: everything is read again.
    pub generation: String,
    /// The last change; 0 before the first.
    pub revision: u64,
    /// The oldest change that the log still has; a reader that is behind it reads everything again.
    pub min_log_revision: u64,
    /// The lowest [`READER_VERSION`] that can read the items.
    pub min_reader: u32,
}

/// One change as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Consecutive within a feed and generation.
    pub revision: u64,
    /// The generation that it belongs to.
    pub generation: String,
    /// Who wrote it: a function's name, or a user's.
    pub author: String,
    /// When, in Unix seconds by the writer's clock.
    pub at: i64,
    /// What changed, at most [`MAX_CHANGES`].
    pub changes: Vec<Change>,
}
