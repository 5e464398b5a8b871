//! What the stand-in of ElastiCache and MemoryDB knows: caches, users, groups and tags of each
//! account and region.
//!
//! Owns the state and its views. The services' wire forms are beside it, changes that take time are
//! in [`changes`]. An (account, region) that nobody filled is an empty one, as at AWS.

pub(crate) mod changes;
pub(crate) mod elasticache;
pub(crate) mod memorydb;
pub(crate) mod paging;
pub(crate) mod servers;
pub(crate) mod tagging;
pub(crate) mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::fixture::{self, CacheAuth, Kind, Resource};
use crate::front::acl::ServerAdmin;
use crate::servers::{Endpoint, Manifest, Node, Role};

/// The two services that have users of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    ElastiCache,
    MemoryDb,
}

impl Family {
    fn of(kind: Kind) -> Self {
        if kind == Kind::MemoryDb { Self::MemoryDb } else { Self::ElastiCache }
    }
}

/// A cache as the API knows it.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    pub(crate) resource: Resource,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) nodes: Vec<Node>,
    /// What the IAM module of its servers reads.
    pub(crate) users_file: Option<PathBuf>,
}

impl Cache {
    pub(crate) fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        if self.resource.status == "creating" { None } else { self.endpoints.get(name) }
    }

    /// The nodes of each shard, its primary first.
    pub(crate) fn shards(&self) -> Vec<Vec<&Node>> {
        let mut shards: BTreeMap<u16, Vec<&Node>> = BTreeMap::new();
        for node in &self.nodes {
            shards.entry(node.shard).or_default().push(node);
        }
        let mut shards: Vec<Vec<&Node>> = shards.into_values().collect();
        shards.iter_mut().for_each(|nodes| nodes.sort_by_key(|node| node.role != Role::Primary));
        shards
    }
}

/// A user of the caches.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) engine: String,
    pub(crate) access: String,
    pub(crate) auth: CacheAuth,
    /// Changes in flight that touch it.
    pub(crate) busy: u32,
    pub(crate) deleting: bool,
}

impl User {
    pub(crate) fn status(&self) -> &'static str {
        match (self.deleting, self.busy) {
            (true, _) => "deleting",
            (false, 0) => "active",
            (false, _) => "modifying",
        }
    }
}

/// A user group, or an ACL of MemoryDB.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    pub(crate) id: String,
    pub(crate) engine: String,
    pub(crate) users: Vec<String>,
    pub(crate) to_add: Vec<String>,
    pub(crate) to_remove: Vec<String>,
    pub(crate) busy: u32,
}

impl Group {
    pub(crate) fn status(&self) -> &'static str {
        if self.busy > 0 { "modifying" } else { "active" }
    }
}

/// One account in one region.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) caches: BTreeMap<(Kind, String), Cache>,
    pub(crate) users: BTreeMap<(Family, String), User>,
    pub(crate) groups: BTreeMap<(Family, String), Group>,
    /// Tags by ARN; a resource without an entry never had any.
    pub(crate) tags: BTreeMap<String, BTreeMap<String, String>>,
}

impl World {
    fn new(account: &str, region: &str) -> Self {
        Self {
            account: account.into(),
            region: region.into(),
            caches: BTreeMap::new(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            tags: BTreeMap::new(),
        }
    }

    pub(crate) fn arn(&self, family: Family, kind: &str, id: &str) -> String {
        let (service, separator) = match family {
            Family::ElastiCache => ("elasticache", ':'),
            Family::MemoryDb => ("memorydb", '/'),
        };
        format!("arn:aws:{service}:{}:{}:{kind}{separator}{id}", self.region, self.account)
    }

    pub(crate) fn caches_of(&self, kind: Kind) -> impl Iterator<Item = &Cache> {
        self.caches.values().filter(move |cache| cache.resource.kind == kind)
    }

    pub(crate) fn users_of(&self, family: Family) -> impl Iterator<Item = &User> {
        self.users.iter().filter(move |((have, _), _)| *have == family).map(|(_, user)| user)
    }

    pub(crate) fn groups_of(&self, family: Family) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |((have, _), _)| *have == family).map(|(_, group)| group)
    }

    /// Ids of the groups that hold a user, or are about to.
    pub(crate) fn groups_with(&self, family: Family, user: &str) -> Vec<String> {
        let holds = |group: &&Group| group.users.iter().chain(&group.to_add).any(|id| id == user);
        self.groups_of(family).filter(holds).map(|group| group.id.clone()).collect()
    }

    /// The caches that use a group.
    pub(crate) fn caches_with(&self, family: Family, group: &str) -> impl Iterator<Item = &Cache> {
        self.caches.values().filter(move |cache| {
            Family::of(cache.resource.kind) == family && cache.resource.group.as_deref() == Some(group)
        })
    }
}

/// How the stand-in behaves.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// How long a change stays `modifying`.
    pub(crate) update_delay: Duration,
    /// The largest page.
    pub(crate) page: usize,
}

/// All accounts and regions.
#[derive(Debug)]
pub(crate) struct Clouds {
    worlds: Mutex<BTreeMap<(String, String), World>>,
    pub(crate) settings: Settings,
    pub(crate) admin: Option<ServerAdmin>,
}

impl Clouds {
    /// The fixture, with the real servers' endpoints where there are any.
    pub(crate) fn new(
        resources: Vec<Resource>,
        users: Vec<fixture::CacheUser>,
        servers: Option<&Manifest>,
        dead_port: u16,
        settings: Settings,
        admin: Option<ServerAdmin>,
    ) -> Arc<Self> {
        let mut worlds: BTreeMap<(String, String), World> = BTreeMap::new();
        for resource in resources {
            let world = world_of(&mut worlds, &resource.account, &resource.region);
            if !resource.tags.is_empty() {
                world.tags.insert(resource.arn(), resource.tags.iter().cloned().collect());
            }
            let cache = servers::place(resource, servers, dead_port);
            world.caches.insert((cache.resource.kind, cache.resource.id.clone()), cache);
        }
        for user in users {
            let world = world_of(&mut worlds, &user.account, &user.region);
            add_fixture_user(world, user);
        }
        Arc::new(Self { worlds: Mutex::new(worlds), settings, admin })
    }

    /// Looks at, or changes, one account's region.
    pub(crate) fn with<T>(&self, account: &str, region: &str, act: impl FnOnce(&mut World) -> T) -> T {
        act(world_of(&mut self.lock(), account, region))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), World>> {
        self.worlds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn world_of<'a>(
    worlds: &'a mut BTreeMap<(String, String), World>,
    account: &str,
    region: &str,
) -> &'a mut World {
    worlds.entry((account.into(), region.into())).or_insert_with(|| World::new(account, region))
}

fn add_fixture_user(world: &mut World, user: fixture::CacheUser) {
    let family = if user.memorydb { Family::MemoryDb } else { Family::ElastiCache };
    if !user.tags.is_empty() {
        world.tags.insert(world.arn(family, "user", &user.name), user.tags.into_iter().collect());
    }
    let group = world.groups.entry((family, fixture::GROUP.into())).or_insert_with(|| Group {
        id: fixture::GROUP.into(),
        engine: "valkey".into(),
        ..Group::default()
    });
    group.users.push(user.name.clone());
    let made = User {
        id: user.name.clone(),
        name: user.name.clone(),
        engine: "valkey".into(),
        access: user.access,
        auth: user.auth,
        busy: 0,
        deleting: false,
    };
    world.users.insert((family, user.name), made);
}
