//! From the fixture to nodes: names, roles, slots, ports. Pure, but for the ports it is given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::manifest::{Cache, Endpoint, Node, Role};
use crate::fixture::{Kind, Resource};
use crate::world::ports::Ports;

/// The host of every endpoint and node. A name and not an address, because clusters then announce it
/// too, and a client verifies the certificate against what it dialled.
pub(super) const HOST: &str = "localhost";
/// Slots of a cluster.
const SLOTS: u32 = 16_384;

/// One cache and how its nodes are to be started.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The cache.
    pub resource: Resource,
    /// Its nodes, primaries first.
    pub nodes: Vec<NodePlan>,
    /// The port of an endpoint that is no node's own: the reader of a serverless cache, or what leads to
    /// any node of a cluster, as the configuration endpoint's name does on AWS.
    pub forwarded_port: Option<u16>,
}

/// One node to be started.
#[derive(Debug, Clone)]
pub struct NodePlan {
    /// What will be written down.
    pub node: Node,
    /// The port of the cluster bus, in cluster mode.
    pub bus_port: Option<u16>,
    /// The port of the primary that it follows.
    pub primary_port: Option<u16>,
}

impl Layout {
    /// Lays out one cache.
    ///
    /// # Errors
    /// When no port is left.
    pub fn of(resource: &Resource, ports: &mut Ports) -> Result<Self> {
        let mut primaries: Vec<NodePlan> = Vec::new();
        let mut replicas = Vec::new();
        for shard in 1..=resource.shards {
            for member in 1..=resource.replicas + 1 {
                let role = if member == 1 { Role::Primary } else { Role::Replica };
                let port = ports.take()?;
                let bus_port = if resource.cluster { Some(ports.take()?) } else { None };
                let node = node(resource, shard, member, role, port);
                let primary_port =
                    (role == Role::Replica).then(|| primaries[usize::from(shard) - 1].node.port);
                let plan = NodePlan { node, bus_port, primary_port };
                if role == Role::Primary { primaries.push(plan) } else { replicas.push(plan) }
            }
        }
        primaries.extend(replicas);
        let forwards = resource.cluster && (resource.kind == Kind::Serverless || primaries.len() > 1);
        let forwarded_port = if forwards { Some(ports.take()?) } else { None };
        Ok(Self { resource: resource.clone(), nodes: primaries, forwarded_port })
    }

    /// Its entry in the manifest.
    #[must_use]
    pub fn cache(&self, users_file: PathBuf) -> Cache {
        let Resource { account, region, kind, id, .. } = &self.resource;
        Cache {
            account: account.clone(),
            region: region.clone(),
            kind: *kind,
            id: id.clone(),
            endpoints: self.endpoints(),
            nodes: self.nodes.iter().map(|plan| plan.node.clone()).collect(),
            users_file,
        }
    }

    fn endpoints(&self) -> BTreeMap<String, Endpoint> {
        let at = |port| Endpoint { host: HOST.into(), port };
        let first = at(self.nodes[0].node.port);
        let replica = self.nodes.iter().find(|plan| plan.node.role == Role::Replica);
        let named = |pairs: Vec<(&str, Endpoint)>| {
            pairs.into_iter().map(|(name, endpoint)| (name.to_owned(), endpoint)).collect()
        };
        let forwarded = self.forwarded_port.map_or(first.clone(), at);
        match (self.resource.kind, self.resource.cluster) {
            (Kind::MemoryDb, _) => named(vec![("cluster", forwarded)]),
            (Kind::Serverless, _) => named(vec![("serverless", first), ("serverless-reader", forwarded)]),
            (Kind::ReplicationGroup, true) => named(vec![("configuration", forwarded)]),
            (Kind::ReplicationGroup, false) => {
                // Without a replica AWS's reader endpoint leads to the primary.
                let reader = replica.map_or(first.clone(), |plan| at(plan.node.port));
                named(vec![("primary", first), ("reader", reader)])
            }
        }
    }
}

/// The file that tells the module of a cache which users log in by IAM; one for each user group.
#[must_use]
pub(super) fn users_file(folder: &Path, resource: &Resource) -> PathBuf {
    let service = if resource.kind == Kind::MemoryDb { "memorydb" } else { "elasticache" };
    folder.join(format!("users-{}-{}-{service}.json", resource.account, resource.region))
}

fn node(resource: &Resource, shard: u16, member: u16, role: Role, port: u16) -> Node {
    let id = if resource.cluster {
        format!("{}-{shard:04}-{member:03}", resource.id)
    } else {
        format!("{}-{member:03}", resource.id)
    };
    let process = format!("valkey-{}-{}-{id}", resource.account, kind_name(resource.kind));
    let slots = if resource.cluster { vec![slots_of(shard, resource.shards)] } else { Vec::new() };
    Node { id, process, role, host: HOST.into(), port, slots, shard }
}

/// A replication group and a serverless cache may have the same name.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::ReplicationGroup => "group",
        Kind::Serverless => "serverless",
        Kind::MemoryDb => "memorydb",
    }
}

/// An even share of the slots, without gaps.
fn slots_of(shard: u16, shards: u16) -> (u16, u16) {
    let edge = |n: u32| n * SLOTS / u32::from(shards);
    let (first, end) = (edge(u32::from(shard) - 1), edge(u32::from(shard)));
    let narrow = |slot: u32| u16::try_from(slot).unwrap_or(u16::MAX);
    (narrow(first), narrow(end - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::resources;

    fn layout(id: &str) -> Layout {
        let resource = resources("8.0.1", 0).into_iter().find(|r| r.id == id).unwrap();
        Layout::of(&resource, &mut Ports::new(None)).unwrap()
    }

    #[test]
    fn slots_are_shared_without_gaps() {
        for shards in 1..=7 {
            let mut next = 0;
            for shard in 1..=shards {
                let (first, last) = slots_of(shard, shards);
                assert_eq!(first, next);
                next = last + 1;
            }
            assert_eq!(u32::from(next), SLOTS);
        }
    }

    #[test]
    fn sessions_has_three_primaries_and_their_replicas() {
        let sessions = layout("sessions");
        let roles: Vec<Role> = sessions.nodes.iter().map(|plan| plan.node.role).collect();
        assert_eq!(roles, [[Role::Primary; 3], [Role::Replica; 3]].concat());
        for shard in 0..3 {
            let (primary, replica) = (&sessions.nodes[shard], &sessions.nodes[shard + 3]);
            assert_eq!(replica.primary_port, Some(primary.node.port));
            assert_eq!(replica.node.slots, primary.node.slots);
        }
        assert_eq!(sessions.nodes[4].node.id, "sessions-0002-002");
        assert!(sessions.endpoints().contains_key("configuration"));
    }

    #[test]
    fn a_reader_leads_elsewhere_than_the_primary() {
        for (id, primary, reader) in
            [("orders", "primary", "reader"), ("carts", "serverless", "serverless-reader")]
        {
            let endpoints = layout(id).endpoints();
            assert_ne!(endpoints[primary], endpoints[reader], "{id}");
        }
    }
}
