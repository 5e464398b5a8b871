//! An in-memory cloud with the real one's semantics: pages, a bulk list of tags that leaves out what never
//! had one, and failures on cue.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use keystile_model::arn::Arn;
use keystile_model::cloud::{
    CacheRecord, Cloud, CloudError, GroupRecord, List, MemberRecord, Page, Place, Record, Tags, UserRecord,
};
use keystile_model::database::{DatabaseKind, Endpoint, Node};
use keystile_model::db_user::{DbUserAuth, DbUserService};

pub(crate) const HOME: &str = "123456789012";
pub(crate) const ABROAD: &str = "210987654321";

/// What goes wrong, from which page of which action on (pages count from 1).
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) action: &'static str,
    pub(crate) page: usize,
    pub(crate) error: CloudError,
}

/// What the cloud holds.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) caches: Vec<CacheRecord>,
    pub(crate) users: Vec<UserRecord>,
    pub(crate) groups: Vec<(String, String, DbUserService, GroupRecord)>,
    pub(crate) tags: BTreeMap<String, Tags>,
    /// ARNs that the bulk list does not have yet.
    pub(crate) unsettled: Vec<String>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) repeat_token_of: Option<&'static str>,
    pub(crate) calls: BTreeMap<String, usize>,
    /// Where each account's regions are.
    pub(crate) regions: Vec<String>,
}

/// The cloud.
#[derive(Debug)]
pub(crate) struct FakeCloud {
    world: Mutex<World>,
    page_size: usize,
    delay: Duration,
}

impl FakeCloud {
    pub(crate) fn new(page_size: usize) -> Self {
        Self { world: Mutex::default(), page_size, delay: Duration::ZERO }
    }

    /// As [`FakeCloud::new`], each call taking so long.
    pub(crate) fn slow(page_size: usize, delay: Duration) -> Self {
        Self { delay, ..Self::new(page_size) }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn calls(&self) -> usize {
        self.world().calls.values().sum()
    }

    pub(crate) fn calls_of(&self, action: &str) -> usize {
        self.world().calls.get(action).copied().unwrap_or_default()
    }

    /// Adds a cache with its tags.
    pub(crate) fn add(&self, cache: CacheRecord, tags: &[(&str, &str)]) {
        let mut world = self.world();
        if !tags.is_empty() {
            let tags = tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            world.tags.insert(cache.arn.clone(), tags);
        }
        world.caches.push(cache);
    }

    pub(crate) fn remove(&self, id: &str) {
        self.world().caches.retain(|cache| cache.id != id);
    }

    fn records(world: &World, account: &str, region: &str, list: &List) -> Vec<Record> {
        let here = |arn: &str| {
            let parts: Vec<&str> = arn.split(':').collect();
            parts.len() < 6 || (parts[3] == region && parts[4] == account)
        };
        let caches = |kind: DatabaseKind| {
            let of = world.caches.iter().filter(move |c| c.kind == kind && here(&c.arn));
            of.map(|c| Record::Cache(Box::new(c.clone()))).collect()
        };
        let users = |service: DbUserService| {
            let of = world.users.iter().filter(|u| u.service == service && here(&u.arn));
            of.map(|u| Record::User(u.clone())).collect()
        };
        let groups = |service: DbUserService| {
            let of = world.groups.iter().filter(|(a, r, s, _)| a == account && r == region && *s == service);
            of.map(|(_, _, _, g)| Record::Group(g.clone())).collect()
        };
        let networks =
            || vec![Record::SubnetGroup { name: "default".to_owned(), vpc_id: "vpc-1".to_owned() }];
        match list {
            List::Regions => world.regions.iter().cloned().map(Record::Region).collect(),
            List::ReplicationGroups => caches(DatabaseKind::Elasticache),
            List::ServerlessCaches => caches(DatabaseKind::ElasticacheServerless),
            List::MemorydbClusters => caches(DatabaseKind::Memorydb),
            List::ElasticacheUsers => users(DbUserService::Elasticache),
            List::MemorydbUsers => users(DbUserService::Memorydb),
            List::ElasticacheUserGroups => groups(DbUserService::Elasticache),
            List::MemorydbAcls => groups(DbUserService::Memorydb),
            List::ElasticacheSubnetGroups | List::MemorydbSubnetGroups => networks(),
            List::CacheClusters => world
                .caches
                .iter()
                .filter(|c| c.kind == DatabaseKind::Elasticache && here(&c.arn))
                .flat_map(|c| {
                    c.nodes.iter().map(|node| {
                        Record::Member(MemberRecord {
                            id: node.id.clone(),
                            group: c.id.clone(),
                            arn: format!("arn:aws:elasticache:{region}:{account}:cluster:{}", node.id),
                            engine: "valkey".to_owned(),
                            engine_version: "8.0.1".to_owned(),
                            subnet_group: "default".to_owned(),
                            endpoint: None,
                        })
                    })
                })
                .collect(),
            List::Tags(_) => world
                .tags
                .iter()
                .filter(|(arn, _)| here(arn) && !world.unsettled.contains(arn))
                .map(|(arn, tags)| Record::Tagged { arn: arn.clone(), tags: tags.clone() })
                .collect(),
        }
    }

    fn count(world: &mut World, action: &str) -> usize {
        let count = world.calls.entry(action.to_owned()).or_default();
        *count += 1;
        *count
    }

    fn fault(world: &World, action: &str, page: usize) -> Option<CloudError> {
        world
            .faults
            .iter()
            .find(|fault| fault.action == action && page >= fault.page)
            .map(|fault| fault.error.clone())
    }
}

fn account_of(place: &Place) -> String {
    place.role.as_ref().map_or_else(|| HOME.to_owned(), |role| role.arn.account().to_owned())
}

#[async_trait]
impl Cloud for FakeCloud {
    async fn home_account(&self) -> Result<String, CloudError> {
        Ok(HOME.to_owned())
    }

    async fn page(&self, place: &Place, list: &List, token: Option<&str>) -> Result<Page, CloudError> {
        tokio::time::sleep(self.delay).await;
        let mut world = self.world();
        let action = list.action();
        Self::count(&mut world, action);
        let start: usize = token.map_or(0, |token| token.parse().unwrap());
        if let Some(error) = Self::fault(&world, action, start / self.page_size + 1) {
            return Err(error);
        }
        let records = Self::records(&world, &account_of(place), &place.region, list);
        let end = (start + self.page_size).min(records.len());
        let next = (end < records.len()).then(|| {
            let repeated = world.repeat_token_of == Some(action) && start > 0;
            (if repeated { start } else { end }).to_string()
        });
        Ok(Page { records: records[start.min(end)..end].to_vec(), next })
    }

    async fn tags_by_arn(&self, _: &Place, arns: &[Arn]) -> Result<Vec<(String, Tags)>, CloudError> {
        assert!(arns.len() <= 100);
        tokio::time::sleep(self.delay).await;
        let mut world = self.world();
        Self::count(&mut world, "tag:GetResources");
        if let Some(error) = Self::fault(&world, "tag:GetResources", 1) {
            return Err(error);
        }
        let found = arns.iter().filter(|arn| !world.unsettled.contains(&arn.to_string()));
        Ok(found
            .filter_map(|arn| world.tags.get(arn.as_str()).map(|tags| (arn.to_string(), tags.clone())))
            .collect())
    }

    async fn tags_of(&self, _: &Place, arn: &Arn) -> Result<Tags, CloudError> {
        tokio::time::sleep(self.delay).await;
        let mut world = self.world();
        Self::count(&mut world, "ListTags");
        if let Some(error) = Self::fault(&world, "ListTags", 1) {
            return Err(error);
        }
        Ok(world.tags.get(arn.as_str()).cloned().unwrap_or_default())
    }
}

/// A replication group that is in order.
pub(crate) fn group(id: &str, region: &str, account: &str, nodes: usize) -> CacheRecord {
    let host = |kind: &str| Endpoint { host: format!("{kind}.{id}.x.use1.cache.amazonaws.com"), port: 6379 };
    CacheRecord {
        kind: DatabaseKind::Elasticache,
        arn: format!("arn:aws:elasticache:{region}:{account}:replicationgroup:{id}"),
        id: id.to_owned(),
        description: String::new(),
        status: "available".to_owned(),
        engine: "valkey".to_owned(),
        engine_version: String::new(),
        tls: true,
        cluster_mode: false,
        endpoint: Some(host("master")),
        reader: Some(host("replica")),
        nodes: (1..=nodes)
            .map(|n| Node {
                id: format!("{id}-{n:03}"),
                role: if n == 1 { "primary" } else { "replica" }.to_owned(),
                endpoint: None,
                slots: Vec::new(),
            })
            .collect(),
        groups: ["keystile".to_owned()].into(),
        subnet_group: String::new(),
        created_at: Some(0),
    }
}

/// A db user that is in order.
pub(crate) fn user(name: &str, auth: DbUserAuth) -> UserRecord {
    UserRecord {
        service: DbUserService::Elasticache,
        arn: format!("arn:aws:elasticache:us-east-1:{HOME}:user:{name}"),
        id: name.to_owned(),
        name: name.to_owned(),
        auth: Some(auth),
        status: "active".to_owned(),
        access_string: "on ~* +@all".to_owned(),
        groups: ["keystile".to_owned()].into(),
    }
}
