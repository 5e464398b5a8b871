//! One place: its caches by type, each joined with what only its members or its subnet group know, and its db
//! users with their groups.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::cloud::{CacheRecord, CloudError, List, MemberRecord, Page, Place, Record, TaggedType};
use keystile_model::database::DatabaseKind;
use keystile_model::db_user::DbUserService;
use keystile_model::report::database_scope;
use tokio::time::Instant;

use super::super::seen::{Detail, SeenCache, SeenScope, SeenUsers};
use super::super::users::service_of;
use super::tags::TagIndex;
use super::{Looking, millis};
use crate::reading::{Read, Reader};

/// How long the engine versions of groups are taken as known, in seconds: they are one more list, as long as
/// all others together, and a version changes only in maintenance.
const DETAILS_KEPT_S: i64 = 3_600;

/// What one place showed.
#[derive(Default)]
pub(super) struct Found {
    pub(super) scopes: Vec<SeenScope>,
    pub(super) users: Vec<SeenUsers>,
    pub(super) details_read: Option<String>,
}

/// One place under way.
pub(super) struct PlaceLook {
    pub(super) reader: Reader,
    pub(super) looking: Looking,
    pub(super) account: String,
    pub(super) place: Place,
    pub(super) kinds: BTreeSet<DatabaseKind>,
}

/// Caches of one type, before their tags.
pub(super) struct Listed {
    pub(super) kind: DatabaseKind,
    pub(super) caches: Vec<(CacheRecord, Option<Detail>)>,
    pub(super) plain: Vec<(String, String, String)>,
    pub(super) failure: Option<CloudError>,
    pub(super) calls: u64,
    pub(super) took: Duration,
    pub(super) details_read: bool,
}

impl Listed {
    fn new(kind: DatabaseKind, read: Read) -> Self {
        Self {
            kind,
            caches: read.records.into_iter().filter_map(cache).map(|cache| (cache, None)).collect(),
            plain: Vec::new(),
            failure: read.failure,
            calls: read.calls,
            took: read.took,
            details_read: false,
        }
    }

    fn add(&mut self, read: &Read) {
        self.calls += read.calls;
        self.took = self.took.max(read.took);
        self.failure = self.failure.take().or_else(|| read.failure.clone());
    }
}

type First = (Result<Page, CloudError>, Instant);

/// The list of each type of cache.
fn list_of(kind: DatabaseKind) -> List {
    match kind {
        DatabaseKind::ElasticacheServerless => List::ServerlessCaches,
        DatabaseKind::Memorydb => List::MemorydbClusters,
        DatabaseKind::Elasticache | DatabaseKind::Static => List::ReplicationGroups,
    }
}

impl PlaceLook {
    pub(super) async fn look(self) -> Found {
        // The first pages tell whether there is anything here at all: most regions are empty, and an empty
        // one costs three calls, not twelve.
        let (groups, serverless, clusters) = tokio::join!(
            self.first(DatabaseKind::Elasticache),
            self.first(DatabaseKind::ElasticacheServerless),
            self.first(DatabaseKind::Memorydb),
        );
        let firsts = [&groups, &serverless, &clusters];
        let empty = firsts.iter().all(|first| first.as_ref().is_none_or(|(page, _)| is_empty(page)));
        if empty && !self.looking.only_users && !self.known_here() {
            let answers = [
                (DatabaseKind::Elasticache, groups),
                (DatabaseKind::ElasticacheServerless, serverless),
                (DatabaseKind::Memorydb, clusters),
            ];
            return self.nothing_here(answers).await;
        }
        let (groups, serverless, clusters, tags, users) = tokio::join!(
            self.groups(groups),
            self.serverless(serverless),
            self.clusters(clusters),
            self.tags(),
            self.users(),
        );
        let tags = TagIndex::new(tags);
        let mut found = Found::default();
        let mut tag_cost = (tags.calls, tags.took);
        for listed in [groups, serverless, clusters].into_iter().flatten() {
            if listed.details_read && listed.failure.is_none() {
                found.details_read = Some(self.key());
            }
            let mut scope = self.with_tags(listed, &tags).await;
            let (calls, took) = std::mem::take(&mut tag_cost);
            scope.calls += calls;
            scope.duration_ms = scope.duration_ms.max(millis(took));
            found.scopes.push(scope);
        }
        found.users = self.with_user_tags(users, &tags, tag_cost.0);
        found
    }

    fn key(&self) -> String {
        format!("{} {}", self.account, self.place.region)
    }

    fn wants(&self, kind: DatabaseKind) -> bool {
        !self.looking.only_users && self.kinds.contains(&kind)
    }

    fn known_here(&self) -> bool {
        let known = &self.looking.known;
        let here = |account: &str, region: &str| account == self.account && region == self.place.region;
        known.databases.values().any(|d| here(&d.account_id, &d.region))
            || known.db_users.values().any(|u| here(u.arn.account(), u.arn.region()))
    }

    async fn first(&self, kind: DatabaseKind) -> Option<First> {
        if !self.wants(kind) {
            return None;
        }
        let begun = Instant::now();
        Some((self.reader.first(&self.place, &list_of(kind)).await, begun))
    }

    async fn rest(&self, kind: DatabaseKind, first: First) -> Listed {
        let (page, begun) = first;
        Listed::new(kind, self.reader.rest(&self.place, &list_of(kind), page, begun).await)
    }

    /// Nothing but perhaps failures: the scopes say so.
    async fn nothing_here(&self, answers: [(DatabaseKind, Option<First>); 3]) -> Found {
        let mut found = Found::default();
        for (kind, first) in answers {
            let Some(first) = first else { continue };
            let listed = self.rest(kind, first).await;
            found.scopes.push(self.scope(listed, Vec::new()));
        }
        // No caches and nothing known: that no user is wanted is complete in itself.
        found
    }

    /// Replication groups, joined with what only their members know.
    async fn groups(&self, first: Option<First>) -> Option<Listed> {
        let first = first?;
        let last = self.looking.details_read.get(&self.key()).copied().unwrap_or(i64::MIN);
        if self.looking.now.saturating_sub(last) >= DETAILS_KEPT_S {
            let (mut listed, members, networks) = tokio::join!(
                self.rest(DatabaseKind::Elasticache, first),
                self.reader.all(&self.place, &List::CacheClusters),
                self.reader.all(&self.place, &List::ElasticacheSubnetGroups),
            );
            join_members(&mut listed, members, &networks);
            return Some(listed);
        }
        let mut listed = self.rest(DatabaseKind::Elasticache, first).await;
        let known: BTreeSet<&str> =
            self.looking.known.databases.values().filter_map(|d| d.arn.as_ref()).map(Arn::as_str).collect();
        let news = listed.caches.iter().any(|(cache, _)| {
            let status = cache.status.to_ascii_lowercase();
            status != "creating"
                && cache.tls
                && (!known.contains(cache.arn.as_str()) || status != "available")
        });
        if news {
            let (members, networks) = tokio::join!(
                self.reader.all(&self.place, &List::CacheClusters),
                self.reader.all(&self.place, &List::ElasticacheSubnetGroups),
            );
            join_members(&mut listed, members, &networks);
        }
        Some(listed)
    }

    async fn serverless(&self, first: Option<First>) -> Option<Listed> {
        let mut listed = self.rest(DatabaseKind::ElasticacheServerless, first?).await;
        for (cache, detail) in &mut listed.caches {
            *detail = Some(Detail { engine_version: cache.engine_version.clone(), ..Detail::default() });
        }
        Some(listed)
    }

    async fn clusters(&self, first: Option<First>) -> Option<Listed> {
        let (mut listed, networks) = tokio::join!(
            self.rest(DatabaseKind::Memorydb, first?),
            self.reader.all(&self.place, &List::MemorydbSubnetGroups),
        );
        let vpcs = vpcs(&networks);
        if networks.failure.is_none() {
            for (cache, detail) in &mut listed.caches {
                *detail = Some(Detail {
                    engine_version: cache.engine_version.clone(),
                    vpc_id: vpcs.get(&cache.subnet_group).cloned().unwrap_or_default(),
                    ..Detail::default()
                });
            }
        }
        listed.add(&networks);
        Some(listed)
    }

    /// Tags of everything of the wanted types, in bulk, with those of db users.
    async fn tags(&self) -> Read {
        let mut types = BTreeSet::new();
        for kind in &self.kinds {
            match kind {
                DatabaseKind::Elasticache => {
                    types.extend([TaggedType::ReplicationGroup, TaggedType::ElasticacheUser]);
                }
                DatabaseKind::ElasticacheServerless => {
                    types.extend([TaggedType::ServerlessCache, TaggedType::ElasticacheUser]);
                }
                DatabaseKind::Memorydb => {
                    types.extend([TaggedType::MemorydbCluster, TaggedType::MemorydbUser]);
                }
                DatabaseKind::Static => {}
            }
        }
        if self.looking.only_users {
            types.retain(|t| matches!(t, TaggedType::ElasticacheUser | TaggedType::MemorydbUser));
        }
        self.reader.all(&self.place, &List::Tags(types)).await
    }

    /// Users of each service, with its groups.
    async fn users(&self) -> Vec<(DbUserService, Read, Read)> {
        let services: BTreeSet<DbUserService> = self.kinds.iter().filter_map(|k| service_of(*k)).collect();
        let read = async |service: DbUserService, users: List, groups: List| {
            if !services.contains(&service) {
                return None;
            }
            let (users, groups) =
                tokio::join!(self.reader.all(&self.place, &users), self.reader.all(&self.place, &groups));
            Some((service, users, groups))
        };
        let (elasticache, memorydb) = tokio::join!(
            read(DbUserService::Elasticache, List::ElasticacheUsers, List::ElasticacheUserGroups),
            read(DbUserService::Memorydb, List::MemorydbUsers, List::MemorydbAcls),
        );
        [elasticache, memorydb].into_iter().flatten().collect()
    }

    pub(super) fn scope(&self, listed: Listed, caches: Vec<SeenCache>) -> SeenScope {
        SeenScope {
            id: database_scope(&self.account, &self.place.region, listed.kind),
            kind: listed.kind,
            caches,
            plain: listed.plain,
            failure: listed.failure.map(|error| error.to_string()),
            calls: listed.calls,
            duration_ms: millis(listed.took),
        }
    }
}

/// Joins groups with their members: engine, version and VPC. All or nothing: half a list of members would
/// give databases without their labels.
fn join_members(listed: &mut Listed, members: Read, networks: &Read) {
    listed.details_read = true;
    listed.add(&members);
    listed.add(networks);
    if members.failure.is_some() || networks.failure.is_some() {
        return;
    }
    let vpcs = vpcs(networks);
    let mut by_group: HashMap<String, Detail> = HashMap::new();
    for member in members.records.into_iter().filter_map(member) {
        if member.group.is_empty() {
            listed.plain.push((member.id, member.arn, member.engine));
            continue;
        }
        let detail = by_group.entry(member.group).or_insert_with(|| Detail {
            engine: member.engine,
            engine_version: member.engine_version,
            vpc_id: vpcs.get(&member.subnet_group).cloned().unwrap_or_default(),
            ..Detail::default()
        });
        detail.node_endpoints.extend(member.endpoint.map(|endpoint| (member.id, endpoint)));
    }
    for (cache, detail) in &mut listed.caches {
        *detail = Some(by_group.get(&cache.id).cloned().unwrap_or_default());
    }
}

fn vpcs(networks: &Read) -> HashMap<String, String> {
    let pair = |record: &Record| match record {
        Record::SubnetGroup { name, vpc_id } => Some((name.clone(), vpc_id.clone())),
        _ => None,
    };
    networks.records.iter().filter_map(pair).collect()
}

fn is_empty(page: &Result<Page, CloudError>) -> bool {
    match page {
        Ok(page) => page.records.is_empty() && page.next.is_none(),
        Err(error) => {
            matches!(
                error,
                CloudError::RegionDisabled | CloudError::Unreachable(_) | CloudError::RoleRefused(_)
            )
        }
    }
}

fn cache(record: Record) -> Option<CacheRecord> {
    if let Record::Cache(cache) = record { Some(*cache) } else { None }
}

fn member(record: Record) -> Option<MemberRecord> {
    if let Record::Member(member) = record { Some(member) } else { None }
}
