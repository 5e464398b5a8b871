//! What one run saw and what was known before: the two inputs of the plan, as plain data.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use keystile_model::cloud::{CacheRecord, Tags, UserRecord};
use keystile_model::database::{Database, DatabaseKind, Endpoint, EndpointType};
use keystile_model::db_user::{DbUser, DbUserService};
use keystile_model::feed::Entity;
use keystile_model::policy::NameClaim;
use keystile_model::report::ScopeId;

/// What is known of a resource's tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeenTags {
    /// All of them.
    Read(Tags),
    /// They could not be read.
    Unread,
}

/// What a record alone does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// The engine, where the record lacks it.
    pub engine: String,
    /// The engine's version.
    pub engine_version: String,
    /// The VPC; empty for a serverless cache.
    pub vpc_id: String,
    /// Where each node listens, by its id.
    pub node_endpoints: BTreeMap<String, Endpoint>,
}

/// A cache that was listed.
#[derive(Debug, Clone)]
pub struct SeenCache {
    /// As described.
    pub record: CacheRecord,
    /// Its tags.
    pub tags: SeenTags,
    /// Its details; none when they could not be read or were not asked for.
    pub detail: Option<Detail>,
}

/// One account, region and type.
#[derive(Debug, Clone)]
pub struct SeenScope {
    /// Which.
    pub id: ScopeId,
    /// Its type.
    pub kind: DatabaseKind,
    /// What was listed.
    pub caches: Vec<SeenCache>,
    /// Plain clusters beside the groups: id, ARN and engine.
    pub plain: Vec<(String, String, String)>,
    /// Why it is not complete, if so. Nothing of an incomplete scope is ever removed.
    pub failure: Option<String>,
    /// AWS calls made for it.
    pub calls: u64,
    /// How long they took.
    pub duration_ms: u64,
}

/// The db users of one account, region and service.
#[derive(Debug, Clone)]
pub struct SeenUsers {
    /// Which.
    pub id: ScopeId,
    /// Its service.
    pub service: DbUserService,
    /// What was listed, with the groups joined in.
    pub users: Vec<(UserRecord, SeenTags)>,
    /// Why it is not complete, if so.
    pub failure: Option<String>,
    /// AWS calls made for it.
    pub calls: u64,
    /// How long they took.
    pub duration_ms: u64,
}

/// Everything that one run saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Our own account.
    pub home_account: String,
    /// Caches.
    pub scopes: Vec<SeenScope>,
    /// Db users.
    pub users: Vec<SeenUsers>,
    /// Accounts whose regions could not be listed: what they hold elsewhere is kept.
    pub uncertain: BTreeMap<String, String>,
    /// Whether caches were looked for at all.
    pub looked_for_caches: bool,
    /// Groups' details were read now, by account and region.
    pub details_read: BTreeSet<String>,
}

/// What was known before.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Discovered databases, by name.
    pub databases: BTreeMap<String, Database>,
    /// Db users, by ARN.
    pub db_users: BTreeMap<String, DbUser>,
    /// Who holds a name, by name.
    pub claims: BTreeMap<String, NameClaim>,
    /// Names of static databases.
    pub static_names: BTreeSet<String>,
}

impl Known {
    /// From the inventory feed's entities.
    #[must_use]
    pub fn new(inventory: Vec<Entity>, static_names: BTreeSet<String>) -> Self {
        let mut known = Self { static_names, ..Self::default() };
        for entity in inventory {
            match entity {
                Entity::Database(database) => {
                    known.databases.insert(database.name.to_string(), *database);
                }
                Entity::DbUser(user) => {
                    known.db_users.insert(user.arn.to_string(), *user);
                }
                Entity::NameClaim(claim) => {
                    known.claims.insert(claim.name.to_string(), claim);
                }
                _ => {}
            }
        }
        known
    }

    /// Databases by ARN, then by endpoint.
    #[must_use]
    pub fn by_arn(&self) -> HashMap<&str, BTreeMap<EndpointType, &Database>> {
        let mut by_arn: HashMap<&str, BTreeMap<EndpointType, &Database>> = HashMap::new();
        for database in self.databases.values() {
            if let Some(arn) = &database.arn {
                by_arn.entry(arn.as_str()).or_default().insert(database.endpoint_type, database);
            }
        }
        by_arn
    }
}
