//! Documents: `kind`, `version`, `metadata`, `spec`, as people write and read them.

use serde::{Deserialize, Serialize};

use crate::labels::Labels;

/// The version of our own documents.
pub const VERSION: &str = "ks1";
/// Largest document that is read, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;

/// What a document says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Its name, unique within its kind.
    pub name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// A word for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A document of any kind; the `spec` is checked by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// `role`, `matcher`, `db`, `user`, `lock`, …
    pub kind: String,
    /// `ks1`; Teleport's `v3` to `v8` for roles.
    pub version: String,
    /// Its name, labels and description.
    pub metadata: Metadata,
    /// The body.
    #[serde(default)]
    pub spec: serde_json::Value,
}

/// The `spec` of a `db` document: a static database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticDatabaseSpec {
    /// `redis` or `valkey`.
    pub protocol: crate::database::Engine,
    /// `rediss://host:port` or `host:port`; TLS always.
    pub uri: String,
    /// PEM of the CA that signs its certificate; the public roots otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// How to sign in. Without it sessions are refused.
    #[serde(default)]
    pub auth: crate::database::CacheAuth,
}

/// The `spec` of a `db_auth` document: how a discovered database is signed in to, over what its matcher says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseAuthSpec {
    /// How to sign in; `auto` is as the db user says.
    pub auth: crate::database::CacheAuth,
}

/// The `spec` of a `role` document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSpec {
    /// What it allows.
    #[serde(default)]
    pub allow: crate::role::Conditions,
    /// What it denies.
    #[serde(default)]
    pub deny: crate::role::Conditions,
    /// Limits on sessions.
    #[serde(default)]
    pub options: crate::role::RoleOptions,
}
