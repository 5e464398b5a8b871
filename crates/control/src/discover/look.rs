//! Looks at every account, region and type that the matchers name, all places at once, and joins what
//! belongs together. Judges nothing: a list that failed is kept with its reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::cloud::{
    CacheRecord, CloudError, GroupRecord, List, MemberRecord, Page, Place, Record, TaggedType, Tags,
    UserRecord,
};
use keystile_model::database::{AssumeRole, DatabaseKind};
use keystile_model::db_user::DbUserService;
use keystile_model::report::database_scope;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::seen::{Detail, Known, Seen, SeenCache, SeenScope, SeenTags, SeenUsers};
use super::users::{service_of, user_scope};
use crate::matchers::ReadyMatcher;
use crate::reading::{Read, Reader};

/// Resources whose tags are asked for one by one in a place and run, at most.
const MAX_SINGLE_TAG_CALLS: usize = 200;
/// The bulk list of tags is eventually consistent: a resource younger than this that it lacks may have tags
/// all the same, in seconds.
const TAGS_SETTLE_S: i64 = 3_600;
/// How long the engine versions of groups are taken as known, in seconds: they are one more list, as long as
/// all others together, and a version changes only in maintenance.
const DETAILS_KEPT_S: i64 = 3_600;

/// What the run already knows and wants, for all places.
#[derive(Debug, Clone)]
pub struct Looking {
    /// The matchers.
    pub matchers: std::sync::Arc<Vec<ReadyMatcher>>,
    /// What was known.
    pub known: std::sync::Arc<Known>,
    /// When the details of groups were last read, by account and region, in Unix seconds.
    pub details_read: std::sync::Arc<BTreeMap<String, i64>>,
    /// Our own account.
    pub home_account: String,
    /// Our own region: where the account API is asked.
    pub home_region: String,
    /// Whether only db users are wanted.
    pub only_users: bool,
    /// Now, in Unix seconds.
    pub now: i64,
}

/// Sees everything.
pub async fn look(reader: &Reader, looking: &Looking) -> Seen {
    let mut seen = Seen {
        home_account: looking.home_account.clone(),
        looked_for_caches: !looking.only_users,
        ..Seen::default()
    };
    let places = places(reader, looking, &mut seen.uncertain).await;
    let mut tasks = JoinSet::new();
    for ((account, _), (place, kinds)) in places {
        let reader = reader.clone();
        let looking = looking.clone();
        tasks.spawn(async move { PlaceLook { reader, looking, account, place, kinds }.look().await });
    }
    while let Some(done) = tasks.join_next().await {
        let Ok(found) = done else { continue };
        seen.scopes.extend(found.scopes);
        seen.users.extend(found.users);
        seen.details_read.extend(found.details_read);
    }
    seen.scopes.sort_by(|a, b| a.id.cmp(&b.id));
    seen.users.sort_by(|a, b| a.id.cmp(&b.id));
    seen
}

type Places = BTreeMap<(String, String), (Place, BTreeSet<DatabaseKind>)>;

/// Account and region of each place, with the types to look for. Of several roles into one account the first
/// matcher's is used.
async fn places(reader: &Reader, looking: &Looking, uncertain: &mut BTreeMap<String, String>) -> Places {
    let mut places = Places::new();
    let mut enabled: HashMap<Option<AssumeRole>, Result<Vec<String>, String>> = HashMap::new();
    for matcher in looking.matchers.iter() {
        let role = matcher.role();
        let mut regions: BTreeSet<String> =
            matcher.spec.regions.iter().filter(|region| *region != "*").cloned().collect();
        if matcher.spec.regions.contains("*") {
            if !enabled.contains_key(&role) {
                let answer = enabled_regions(reader, looking, role.clone()).await;
                enabled.insert(role.clone(), answer);
            }
            match &enabled[&role] {
                Ok(all) => regions.extend(all.iter().cloned()),
                Err(why) => {
                    uncertain.insert(matcher.account.clone(), why.clone());
                }
            }
        }
        for region in regions {
            let place = || Place { role: role.clone(), region: region.clone() };
            let key = (matcher.account.clone(), region.clone());
            let entry = places.entry(key).or_insert_with(|| (place(), BTreeSet::new()));
            entry.1.extend(matcher.spec.types.iter().copied());
        }
    }
    places
}

async fn enabled_regions(
    reader: &Reader,
    looking: &Looking,
    role: Option<AssumeRole>,
) -> Result<Vec<String>, String> {
    let place = Place { role, region: looking.home_region.clone() };
    let read = reader.all(&place, &List::Regions).await;
    match read.failure {
        Some(error) => Err(error.to_string()),
        None => Ok(read
            .records
            .into_iter()
            .filter_map(|record| if let Record::Region(name) = record { Some(name) } else { None })
            .collect()),
    }
}

/// What one place showed.
#[derive(Default)]
struct Found {
    scopes: Vec<SeenScope>,
    users: Vec<SeenUsers>,
    details_read: Option<String>,
}

/// One place under way.
struct PlaceLook {
    reader: Reader,
    looking: Looking,
    account: String,
    place: Place,
    kinds: BTreeSet<DatabaseKind>,
}

/// Caches of one type, before their tags.
struct Listed {
    kind: DatabaseKind,
    caches: Vec<(CacheRecord, Option<Detail>)>,
    plain: Vec<(String, String, String)>,
    failure: Option<CloudError>,
    calls: u64,
    took: Duration,
    details_read: bool,
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
    async fn look(self) -> Found {
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

    fn scope(&self, listed: Listed, caches: Vec<SeenCache>) -> SeenScope {
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

    /// Joins tags in. What the bulk list cannot say is asked one by one, within bounds.
    async fn with_tags(&self, mut listed: Listed, index: &TagIndex) -> SeenScope {
        let known = self.looking.known.by_arn();
        let mut tags: HashMap<String, SeenTags> = HashMap::new();
        let mut ask = Vec::new();
        for (cache, _) in &listed.caches {
            let known = known.get(cache.arn.as_str()).and_then(|k| k.values().next()).copied();
            match index.answer(cache, known.is_some()) {
                TagAnswer::Read(found) => {
                    tags.insert(cache.arn.clone(), SeenTags::Read(found.clone()));
                }
                TagAnswer::Absent if self.surely_untagged(cache, known) => {
                    tags.insert(cache.arn.clone(), SeenTags::Read(Tags::new()));
                }
                TagAnswer::Absent | TagAnswer::NotAllowed if ask.len() < MAX_SINGLE_TAG_CALLS => {
                    ask.extend(Arn::parse(cache.arn.clone()));
                }
                TagAnswer::Absent | TagAnswer::NotAllowed | TagAnswer::Failed => {}
            }
        }
        listed.calls += ask.len() as u64;
        tags.extend(self.ask_singly(ask).await);
        if let Some(failure) = index.failure.as_ref().filter(|failure| !not_allowed(failure)) {
            listed.failure = listed.failure.take().or_else(|| Some(failure.clone()));
        }
        let caches = std::mem::take(&mut listed.caches)
            .into_iter()
            .map(|(record, detail)| SeenCache {
                tags: tags.remove(&record.arn).unwrap_or(SeenTags::Unread),
                record,
                detail,
            })
            .collect();
        self.scope(listed, caches)
    }

    /// Whether a resource that the bulk list lacks has no tags for sure: it is old enough for that list, and
    /// nothing says that it had some.
    fn surely_untagged(
        &self,
        cache: &CacheRecord,
        known: Option<&keystile_model::database::Database>,
    ) -> bool {
        match known {
            Some(known) => {
                let labelled = known
                    .labels
                    .keys()
                    .any(|key| known.import_tags.contains(key) && !known.fixed_labels.contains_key(key));
                let wanted = self.looking.matchers.iter().any(|m| {
                    m.covers(&self.account, &self.place.region, cache.kind) && m.wants(&Tags::new())
                });
                !labelled && wanted
            }
            None => cache.created_at.is_some_and(|at| self.looking.now - at > TAGS_SETTLE_S),
        }
    }

    async fn ask_singly(&self, arns: Vec<Arn>) -> HashMap<String, SeenTags> {
        let mut tasks = JoinSet::new();
        for arn in arns {
            let (reader, place) = (self.reader.clone(), self.place.clone());
            tasks.spawn(async move {
                let answer = reader.tags_of(&place, &arn).await;
                (arn.to_string(), answer.map_or(SeenTags::Unread, SeenTags::Read))
            });
        }
        let mut answers = HashMap::new();
        while let Some(done) = tasks.join_next().await {
            answers.extend(done);
        }
        answers
    }

    fn with_user_tags(
        &self,
        reads: Vec<(DbUserService, Read, Read)>,
        index: &TagIndex,
        mut extra_calls: u64,
    ) -> Vec<SeenUsers> {
        let mut all = Vec::new();
        for (service, users, groups) in reads {
            let failure = [&users.failure, &groups.failure, &index.failure];
            let failure = failure.into_iter().flatten().next().map(ToString::to_string);
            let calls = users.calls + groups.calls + std::mem::take(&mut extra_calls);
            let took = users.took.max(groups.took);
            let members = members_of(groups);
            let users = users.records.into_iter().filter_map(user).map(|mut user| {
                user.groups.extend(members.get(&user.id).into_iter().flatten().cloned());
                let tags = match index.tags.get(&user.arn) {
                    Some(tags) => SeenTags::Read(tags.clone()),
                    // A user that the bulk list lacks has no tags, or gets them with the next run.
                    None if index.failure.is_none() => SeenTags::Read(Tags::new()),
                    None => SeenTags::Unread,
                };
                (user, tags)
            });
            all.push(SeenUsers {
                id: user_scope(&self.account, &self.place.region, service),
                service,
                users: users.collect(),
                failure,
                calls,
                duration_ms: millis(took),
            });
        }
        all
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

/// Groups of each user, by the user's id.
fn members_of(groups: Read) -> HashMap<String, BTreeSet<String>> {
    let mut members: HashMap<String, BTreeSet<String>> = HashMap::new();
    for record in groups.records {
        if let Record::Group(GroupRecord { id, users }) = record {
            for user in users {
                members.entry(user).or_default().insert(id.clone());
            }
        }
    }
    members
}

fn vpcs(networks: &Read) -> HashMap<String, String> {
    let pair = |record: &Record| match record {
        Record::SubnetGroup { name, vpc_id } => Some((name.clone(), vpc_id.clone())),
        _ => None,
    };
    networks.records.iter().filter_map(pair).collect()
}

/// The bulk list of tags of a place.
struct TagIndex {
    tags: HashMap<String, Tags>,
    failure: Option<CloudError>,
    calls: u64,
    took: Duration,
}

/// What the bulk list says of a resource.
enum TagAnswer<'a> {
    Read(&'a Tags),
    Absent,
    NotAllowed,
    Failed,
}

impl TagIndex {
    fn new(read: Read) -> Self {
        let pair = |record| match record {
            Record::Tagged { arn, tags } => Some((arn, tags)),
            _ => None,
        };
        Self {
            tags: read.records.into_iter().filter_map(pair).collect(),
            failure: read.failure,
            calls: read.calls,
            took: read.took,
        }
    }

    fn answer(&self, cache: &CacheRecord, known: bool) -> TagAnswer<'_> {
        match (self.tags.get(&cache.arn), &self.failure) {
            (Some(tags), _) => TagAnswer::Read(tags),
            (None, None) => TagAnswer::Absent,
            // A known one keeps its labels; asking for each of thousands would not be bulk.
            (None, Some(failure)) if not_allowed(failure) && !known => TagAnswer::NotAllowed,
            (None, Some(_)) => TagAnswer::Failed,
        }
    }
}

fn not_allowed(failure: &CloudError) -> bool {
    matches!(failure, CloudError::Forbidden(_))
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

fn user(record: Record) -> Option<UserRecord> {
    if let Record::User(user) = record { Some(user) } else { None }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
