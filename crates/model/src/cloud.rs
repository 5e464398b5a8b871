//! The discovery port: what the cloud's control plane lists, page by page, as our own records. The records
//! are raw: nothing is judged here, so that whatever a service sends reaches the plan and is skipped there
//! with a reason.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use crate::arn::Arn;
use crate::database::{AssumeRole, DatabaseKind, Endpoint, Node};
use crate::db_user::{DbUserAuth, DbUserService};

/// Most resources that one bulk question about tags may name.
pub const MAX_TAG_ARNS: usize = 100;

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;

/// Where a question goes: an account (ours, or a role's) and a region.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The role to go through; none for our own account.
    pub role: Option<AssumeRole>,
    /// The region.
    pub region: String,
}

/// The lists that discovery reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// Regions that the account has enabled.
    Regions,
    /// ElastiCache replication groups.
    ReplicationGroups,
    /// ElastiCache cache clusters: members of groups with their engine version, and plain ones.
    CacheClusters,
    /// ElastiCache serverless caches.
    ServerlessCaches,
    /// MemoryDB clusters with their shards.
    MemorydbClusters,
    /// ElastiCache users.
    ElasticacheUsers,
    /// ElastiCache user groups.
    ElasticacheUserGroups,
    /// MemoryDB users.
    MemorydbUsers,
    /// MemoryDB ACLs.
    MemorydbAcls,
    /// ElastiCache subnet groups.
    ElasticacheSubnetGroups,
    /// MemoryDB subnet groups.
    MemorydbSubnetGroups,
    /// Tags of everything of these types, in bulk.
    Tags(BTreeSet<TaggedType>),
}

impl List {
    /// The right that it needs, as IAM spells it.
    #[must_use]
    pub fn action(&self) -> &'static str {
        match self {
            Self::Regions => "account:ListRegions",
            Self::ReplicationGroups => "elasticache:DescribeReplicationGroups",
            Self::CacheClusters => "elasticache:DescribeCacheClusters",
            Self::ServerlessCaches => "elasticache:DescribeServerlessCaches",
            Self::MemorydbClusters => "memorydb:DescribeClusters",
            Self::ElasticacheUsers => "elasticache:DescribeUsers",
            Self::ElasticacheUserGroups => "elasticache:DescribeUserGroups",
            Self::MemorydbUsers => "memorydb:DescribeUsers",
            Self::MemorydbAcls => "memorydb:DescribeACLs",
            Self::ElasticacheSubnetGroups => "elasticache:DescribeCacheSubnetGroups",
            Self::MemorydbSubnetGroups => "memorydb:DescribeSubnetGroups",
            Self::Tags(_) => "tag:GetResources",
        }
    }
}

/// Types of resource whose tags are asked for, as the tagging API spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaggedType {
    /// `elasticache:replicationgroup`
    ReplicationGroup,
    /// `elasticache:serverlesscache`
    ServerlessCache,
    /// `elasticache:user`
    ElasticacheUser,
    /// `memorydb:cluster`
    MemorydbCluster,
    /// `memorydb:user`
    MemorydbUser,
}

impl TaggedType {
    /// The word of the tagging API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReplicationGroup => "elasticache:replicationgroup",
            Self::ServerlessCache => "elasticache:serverlesscache",
            Self::ElasticacheUser => "elasticache:user",
            Self::MemorydbCluster => "memorydb:cluster",
            Self::MemorydbUser => "memorydb:user",
        }
    }
}

/// A cache as its service described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheRecord {
    /// Which service and form.
    pub kind: DatabaseKind,
    /// As sent; may be empty or wrong.
    pub arn: String,
    /// Group id, serverless name or cluster name, as sent.
    pub id: String,
    /// A word for people, as sent.
    pub description: String,
    /// As sent; the case varies.
    pub status: String,
    /// `redis`, `valkey`, `memcached`, or empty where an older record lacks it.
    pub engine: String,
    /// Empty for a replication group: only its members know.
    pub engine_version: String,
    /// Whether traffic is encrypted.
    pub tls: bool,
    /// Whether it speaks the cluster protocol.
    pub cluster_mode: bool,
    /// Writer, configuration, cluster or serverless endpoint.
    pub endpoint: Option<Endpoint>,
    /// Reader endpoint, where the service gives one.
    pub reader: Option<Endpoint>,
    /// Nodes that are there; with cluster mode off two or more mean that there is a replica.
    pub nodes: Vec<Node>,
    /// User groups, or the ACL.
    pub groups: BTreeSet<String>,
    /// Subnet group, where the record has it.
    pub subnet_group: String,
    /// When it was made, in Unix seconds, where the record says so.
    pub created_at: Option<i64>,
}

/// A cache cluster: what a replication group's own record lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its id.
    pub id: String,
    /// The group that it belongs to; empty for a plain cluster.
    pub group: String,
    /// Its ARN.
    pub arn: String,
    /// Its engine.
    pub engine: String,
    /// Its engine's version.
    pub engine_version: String,
    /// Its subnet group.
    pub subnet_group: String,
    /// Where it listens, where the record says so.
    pub endpoint: Option<Endpoint>,
}

/// A user of a cache's ACL as its service described it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// Which service.
    pub service: DbUserService,
    /// As sent.
    pub arn: String,
    /// User id; of MemoryDB the name again.
    pub id: String,
    /// What AUTH is given.
    pub name: String,
    /// How it signs in; none for a word that we do not know.
    pub auth: Option<DbUserAuth>,
    /// As sent.
    pub status: String,
    /// The ACL rules.
    pub access_string: String,
    /// Groups or ACLs, as the user's own record has them.
    pub groups: BTreeSet<String>,
}

/// A user group or an ACL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupRecord {
    /// Its id or name.
    pub id: String,
    /// Ids or names of its users.
    pub users: BTreeSet<String>,
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Of [`List::Regions`].
    Region(String),
    /// Of the three lists of caches.
    Cache(Box<CacheRecord>),
    /// Of [`List::CacheClusters`].
    Member(MemberRecord),
    /// Of the two lists of users.
    User(UserRecord),
    /// Of the lists of user groups and ACLs.
    Group(GroupRecord),
    /// Of the lists of subnet groups.
    SubnetGroup {
        /// Its name.
        name: String,
        /// Its VPC.
        vpc_id: String,
    },
    /// Of [`List::Tags`].
    Tagged {
        /// Whose.
        arn: String,
        /// All of them.
        tags: Tags,
    },
}

/// One page of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Its entries; may be none although more pages follow.
    pub records: Vec<Record>,
    /// Where the next page begins; none at the end.
    pub next: Option<String>,
}

/// Why a question got no answer. The texts are the reasons that reports show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloudError {
    /// The right is missing.
    #[error("no permission: {0}")]
    Forbidden(String),
    /// The region is not enabled for the account.
    #[error("region disabled")]
    RegionDisabled,
    /// No connection, no such host.
    #[error("region unreachable: {0}")]
    Unreachable(String),
    /// The role of the other account cannot be assumed.
    #[error("no permission: sts:AssumeRole ({0})")]
    RoleRefused(String),
    /// There are no credentials, or they are no good.
    #[error("no credentials: {0}")]
    NoCredentials(String),
    /// Too many calls, after the retries.
    #[error("throttled: {0}")]
    Throttled(String),
    /// No answer in time.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// The list must be read from its beginning again.
    #[error("the page token expired: {0}")]
    TokenExpired(String),
    /// The same page token came twice: going on would cut the list.
    #[error("page token repeated: {0}")]
    TokenRepeated(String),
    /// More pages than any account has.
    #[error("too many pages: {0}")]
    TooManyPages(String),
    /// The run's own time is over.
    #[error("out of time: {0}")]
    OutOfTime(String),
    /// What the service said.
    #[error("failed: {0}")]
    Failed(String),
}

/// The control plane of a cloud. Each method is one call; counting, paging and giving up are the caller's.
#[async_trait]
pub trait Cloud: Send + Sync {
    /// The account of our own credentials.
    async fn home_account(&self) -> Result<String, CloudError>;

    /// One page, as large as the service allows.
    async fn page(&self, place: &Place, list: &List, token: Option<&str>) -> Result<Page, CloudError>;

    /// Tags of at most [`MAX_TAG_ARNS`] resources. Resources that never had a tag, are unknown or very new
    /// are left out.
    async fn tags_by_arn(&self, place: &Place, arns: &[Arn]) -> Result<Vec<(String, Tags)>, CloudError>;

    /// Tags of one resource, from its own service: always all of them, and an error while the resource is
    /// not available.
    async fn tags_of(&self, place: &Place, arn: &Arn) -> Result<Tags, CloudError>;
}

/// Suffixes of AWS's own host names, by partition.
const AWS_SUFFIXES: [&str; 8] = [
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
    ".csp.hci.ic.gov",
    ".api.aws",
];

/// What is wrong with a described endpoint's host, if anything: credentials go only to AWS's own names, or
/// to loopback where the deployment says so.
#[must_use]
pub fn host_fault(host: &str, allow_loopback: bool) -> Option<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if allow_loopback
        && (host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback()))
    {
        return None;
    }
    let lower = host.to_ascii_lowercase();
    let ours = host.len() <= 255
        && host.bytes().all(plain)
        && !lower.starts_with('.')
        && AWS_SUFFIXES.iter().any(|suffix| lower.len() > suffix.len() && lower.ends_with(suffix));
    (!ours).then(|| format!("endpoint {:?} is no host of AWS", host.chars().take(80).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["master.orders.abc123.use1.cache.amazonaws.com", "x.cache.amazonaws.com.cn"] {
            assert_eq!(host_fault(good, false), None, "{good}");
        }
        for bad in [
            "127.0.0.1",
            "localhost",
            "evil.com",
            "amazonaws.com",
            ".amazonaws.com",
            "x.amazonaws.com.evil.com",
            "xamazonaws.com",
            "a b.amazonaws.com",
            "",
        ] {
            assert!(host_fault(bad, false).is_some(), "{bad}");
        }
        assert_eq!(host_fault("127.0.0.1", true), None);
        assert_eq!(host_fault("localhost", true), None);
        assert!(host_fault("10.0.0.1", true).is_some());
    }
}
