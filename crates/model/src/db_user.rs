//! A user of a cache's own ACL, as discovery saw it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::database::{Database, DatabaseKind};
use crate::name::DbUserName;

/// Which service a db user belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DbUserService {
    /// ElastiCache: replication groups and serverless caches.
    Elasticache,
    /// MemoryDB.
    Memorydb,
}

/// How a db user signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DbUserAuth {
    /// A short-lived IAM token.
    Iam,
    /// One or two passwords.
    Password,
    /// No password at all.
    None,
}

/// One user of ElastiCache or MemoryDB. The ARN is the key: names are not unique.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DbUser {
    /// AWS's name for it.
    pub arn: Arn,
    /// The user id (ElastiCache), or the name again (MemoryDB).
    pub id: String,
    /// What AUTH is given.
    pub name: DbUserName,
    /// Whose user it is.
    pub service: DbUserService,
    /// How it signs in.
    pub auth: DbUserAuth,
    /// `active`, `modifying`, `deleting`, in lower case.
    pub status: String,
    /// The ACL rules that AWS reports; holds no password.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub access_string: String,
    /// User groups or ACLs that it is in, by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// Whether its owner tagged it for Keystile to rotate its password. Of an IAM user that says nothing: it is
    /// left alone.
    #[serde(default)]
    pub managed: bool,
}

impl DbUser {
    /// Whether it can sign in to the database: same account, region and service, and in one of its groups.
    #[must_use]
    pub fn serves(&self, database: &Database) -> bool {
        let service = match database.kind {
            DatabaseKind::Elasticache | DatabaseKind::ElasticacheServerless => DbUserService::Elasticache,
            DatabaseKind::Memorydb => DbUserService::Memorydb,
            DatabaseKind::Static => return false,
        };
        service == self.service
            && self.arn.account() == database.account_id
            && self.arn.region() == database.region
            && !self.groups.is_disjoint(&database.groups)
    }
}
