//! Where caches answer: the file of the real servers, and plausible names for those without.

use std::collections::BTreeMap;

use super::Cache;
use crate::fixture::{Kind, Resource};
use crate::servers::{Endpoint, Manifest, Node, Role};

/// Gives a resource its endpoints: the real ones, a port with nothing behind, or names like AWS's.
pub(crate) fn place(resource: Resource, servers: Option<&Manifest>, dead_port: u16) -> Cache {
    let found = servers.and_then(|all| all.cache(&resource.account, resource.kind, &resource.id));
    if let Some(found) = found {
        let users_file = Some(found.users_file.clone());
        return Cache {
            endpoints: found.endpoints.clone(),
            nodes: found.nodes.clone(),
            users_file,
            resource,
        };
    }
    let dead = resource.id == "impostor";
    let host = |prefix: &str| if dead { "127.0.0.1".to_owned() } else { plausible_host(&resource, prefix) };
    let port = if dead { dead_port } else { 6379 };
    let endpoint = |prefix: &str| Endpoint { host: host(prefix), port };
    let names: &[(&str, &str)] = match (resource.kind, resource.cluster) {
        (Kind::ReplicationGroup, false) => &[("primary", "master"), ("reader", "replica")],
        (Kind::ReplicationGroup, true) => &[("configuration", "clustercfg")],
        (Kind::Serverless, _) => &[("serverless", ""), ("serverless-reader", "")],
        (Kind::MemoryDb, _) => &[("cluster", "clustercfg")],
    };
    let mut endpoints: BTreeMap<String, Endpoint> =
        names.iter().map(|(name, prefix)| ((*name).to_owned(), endpoint(prefix))).collect();
    if let Some(reader) = endpoints.get_mut("serverless-reader").filter(|_| !dead) {
        reader.port = 6380;
    }
    let nodes = plausible_nodes(&resource, |id| Endpoint { host: host(id), port });
    Cache { endpoints, nodes, users_file: None, resource }
}

fn plausible_host(resource: &Resource, prefix: &str) -> String {
    let id = &resource.id;
    let label = if resource.region == "eu-west-1" { "euw1" } else { "use1" };
    match (resource.kind, resource.tls) {
        (Kind::MemoryDb, _) => format!("{prefix}.{id}.ks0001.memorydb.{}.amazonaws.com", resource.region),
        (Kind::Serverless, _) => format!("{id}-ks0001.serverless.{label}.cache.amazonaws.com"),
        (_, true) => format!("{prefix}.{id}.ks0001.{label}.cache.amazonaws.com"),
        (_, false) if prefix == "replica" => format!("{id}-ro.ks0001.ng.0001.{label}.cache.amazonaws.com"),
        (_, false) => format!("{id}.ks0001.ng.0001.{label}.cache.amazonaws.com"),
    }
}

fn plausible_nodes(resource: &Resource, endpoint: impl Fn(&str) -> Endpoint) -> Vec<Node> {
    if resource.kind == Kind::Serverless {
        return Vec::new();
    }
    let shards = resource.shards.max(1);
    let edge = |shard: u16| u16::try_from(u32::from(shard) * 16_384 / u32::from(shards)).unwrap_or(16_384);
    let mut nodes = Vec::new();
    for shard in 0..shards {
        for member in 0..=resource.replicas {
            let id = if resource.cluster {
                format!("{}-{:04}-{:03}", resource.id, shard + 1, member + 1)
            } else {
                format!("{}-{:03}", resource.id, member + 1)
            };
            let Endpoint { host, port } = endpoint(&id);
            let role = if member == 0 { Role::Primary } else { Role::Replica };
            let slots = if resource.cluster { vec![(edge(shard), edge(shard + 1) - 1)] } else { Vec::new() };
            nodes.push(Node { id, process: String::new(), role, host, port, slots, shard: shard + 1 });
        }
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn slots_of_plausible_nodes_cover_all_and_meet() {
        let sessions = fixture::resources("8.0.1", 0).into_iter().find(|r| r.id == "sessions").unwrap();
        let cache = place(sessions, None, 1);
        let slots: Vec<_> = cache.shards().iter().map(|nodes| nodes[0].slots[0]).collect();
        assert_eq!(slots, [(0, 5460), (5461, 10921), (10922, 16383)]);
        assert!(cache.shards().iter().all(|nodes| nodes.len() == 2 && nodes[0].role == Role::Primary));
    }
}
