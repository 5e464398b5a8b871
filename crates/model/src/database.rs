//! A database: one endpoint that people connect to.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::labels::Labels;
use crate::name::DatabaseName;

/// Where a database comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatabaseKind {
    /// A replication group of ElastiCache.
    Elasticache,
    /// A serverless cache of ElastiCache.
    ElasticacheServerless,
    /// A MemoryDB cluster.
    Memorydb,
    /// Written down by an admin.
    Static,
}

impl DatabaseKind {
    /// The word used in documents, names and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elasticache => "elasticache",
            Self::ElasticacheServerless => "elasticache-serverless",
            Self::Memorydb => "memorydb",
            Self::Static => "static",
        }
    }

    /// The service that signs IAM tokens for it, if any: `elasticache` or `memorydb`.
    #[must_use]
    pub fn signing_service(self) -> Option<&'static str> {
        match self {
            Self::Elasticache | Self::ElasticacheServerless => Some("elasticache"),
            Self::Memorydb => Some("memorydb"),
            Self::Static => None,
        }
    }
}

/// Which of a cache's endpoints a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointType {
    /// The writer of a replication group with cluster mode off.
    Primary,
    /// Its readers, or the reader endpoint of a serverless cache.
    Reader,
    /// The configuration endpoint of a replication group with cluster mode on.
    Configuration,
    /// A MemoryDB cluster.
    Cluster,
    /// A serverless cache.
    Serverless,
    /// One node, or a static database.
    Node,
}

impl EndpointType {
    /// The word used in documents and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Reader => "reader",
            Self::Configuration => "configuration",
            Self::Cluster => "cluster",
            Self::Serverless => "serverless",
            Self::Node => "node",
        }
    }
}

/// The server software.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Redis OSS.
    Redis,
    /// Valkey.
    Valkey,
}

impl Engine {
    /// The word used in documents and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Valkey => "valkey",
        }
    }
}

/// A host and a port as AWS described them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// DNS name or address; also the name that its certificate is checked for.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One server of a cache, as discovery saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// AWS's id of the node, such as `orders-001`.
    pub id: String,
    /// `primary`, `replica`, or empty where AWS does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Where it listens, where AWS says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// Hash slots of its shard as inclusive ranges, 0 to 16,383; empty where AWS does not say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<(u16, u16)>,
}

/// How the proxy signs in to the cache, where the db user itself does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum CacheAuth {
    /// As the discovered db user says: IAM or a managed password. The default.
    #[default]
    Auto,
    /// The client's own `AUTH` goes through.
    PassThrough,
    /// A shared token in this secret of Secrets Manager.
    Secret(String),
    /// No authentication at all, explicitly.
    None,
}

impl From<CacheAuth> for String {
    fn from(auth: CacheAuth) -> String {
        match auth {
            CacheAuth::Auto => "auto".to_owned(),
            CacheAuth::PassThrough => "pass-through".to_owned(),
            CacheAuth::Secret(name) => format!("secret:{name}"),
            CacheAuth::None => "none".to_owned(),
        }
    }
}

impl TryFrom<String> for CacheAuth {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            // Which of the two it is, the db user says.
            "auto" | "iam" | "managed" => Ok(Self::Auto),
            "pass-through" => Ok(Self::PassThrough),
            "none" => Ok(Self::None),
            other => match other.strip_prefix("secret:") {
                Some(name) if is_secret_name(name) => Ok(Self::Secret(name.to_owned())),
                Some(_) => Err(format!(
                    "auth {other:?} names no secret: a name or an ARN has 1 to 512 of letters, digits and /_+=.@:-"
                )),
                None => {
                    Err(format!("auth {other:?} is unknown: use auto, pass-through, secret:NAME or none"))
                }
            },
        }
    }
}

impl CacheAuth {
    /// The word of its sort, without the secret's name: `auto`, `pass-through`, `secret`, `none`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::PassThrough => "pass-through",
            Self::Secret(_) => "secret",
            Self::None => "none",
        }
    }

    /// The one db user that there is where nobody's name is given to the cache: a shared token is the default
    /// user's, and so is a cache without authentication.
    #[must_use]
    pub fn only_user(&self) -> Option<&'static str> {
        matches!(self, Self::Secret(_) | Self::None).then_some("default")
    }
}

/// What Secrets Manager takes as a name, and the colons of an ARN.
fn is_secret_name(name: &str) -> bool {
    (1..=512).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "/_+=.@:-".contains(c))
}

/// How a discovered database is signed in to, as an admin said: it comes over what its matcher says. It is an
/// entity of its own, so that discovery cannot write it, and it not what discovery writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseAuth {
    /// The database.
    pub database: DatabaseName,
    /// The resource that it was said of: another one that gets the name later does not inherit it.
    pub arn: Arn,
    /// Which of its endpoints.
    pub endpoint_type: EndpointType,
    /// How to sign in.
    pub auth: CacheAuth,
}

/// The role of another account that reaches a resource.
///
/// ```text
/// our own role ──► through (a hub role, if any) ──► arn (the resource's account)
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssumeRole {
    /// The role's ARN.
    pub arn: Arn,
    /// What its trust policy asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// The role that assumes it, where it trusts a hub and not us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Hub>,
}

/// A role that is assumed only to assume another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hub {
    /// The role's ARN.
    pub assume_role_arn: Arn,
    /// What its trust policy asks for, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
}

impl From<Hub> for AssumeRole {
    fn from(hub: Hub) -> Self {
        Self { arn: hub.assume_role_arn, external_id: hub.external_id, through: None }
    }
}

/// One endpoint that people connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The name that people type; unique.
    pub name: DatabaseName,
    /// A word for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Where it comes from.
    pub kind: DatabaseKind,
    /// The server software.
    pub engine: Engine,
    /// As AWS reports it, such as `8.0`; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine_version: String,
    /// Which endpoint of the cache it is.
    pub endpoint_type: EndpointType,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// The ARN that it comes from; none for a static one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<Arn>,
    /// The name that IAM tokens are signed for: group id, serverless name or cluster name, in lower case.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resource_id: String,
    /// Region of the cache; empty for a static one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub region: String,
    /// Account of the cache; empty for a static one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub account_id: String,
    /// What roles select by.
    pub labels: Labels,
    /// Whether the server behind it speaks the cluster protocol.
    #[serde(default)]
    pub cluster_mode: bool,
    /// User groups (ElastiCache) or the ACL (MemoryDB) of the cache, by name.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub groups: BTreeSet<String>,
    /// How to sign in.
    #[serde(default)]
    pub auth: CacheAuth,
    /// The role of its account, for another account's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role: Option<AssumeRole>,
    /// The matcher that found it; empty for a static one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub matcher: String,
    /// Tag keys that its matcher imports: label sync may set and remove these and no others.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub import_tags: BTreeSet<String>,
    /// Labels that its matcher fixes: they come over tags.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub fixed_labels: Labels,
    /// Its servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<Node>,
    /// PEM of the CA that signs its certificate, for a static one; discovered ones use the public roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

impl Database {
    /// The short alias that always fits a DNS label: `d-` and eight characters of a hash of where it comes
    /// from, so that a rename keeps it.
    #[must_use]
    pub fn alias(&self) -> String {
        let origin = match &self.arn {
            Some(arn) => format!("{arn}#{}", self.endpoint_type.as_str()),
            None => format!("static#{}", self.name),
        };
        format!("d-{:08x}", fnv1a(origin.as_bytes()))
    }

    /// The address in the form that people paste: `rediss://host:port`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("rediss://{}", self.endpoint)
    }
}

/// FNV-1a, folded to 32 bits: a name, not a secret; a clash only means that the alias is ambiguous and
/// refused.
fn fnv1a(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    #[expect(clippy::cast_possible_truncation, reason = "folding 64 bits to 32 is the point")]
    {
        (hash ^ (hash >> 32)) as u32
    }
}
