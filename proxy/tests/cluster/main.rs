//! Sessions with a real cluster.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod clients;
mod commands;
mod ends;
mod hostile;
mod moves;
mod newer;
mod others;
mod random;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
mod told;
mod transactions;

use keystile_resp::slot;
use support::World;
use support::cluster::Cluster;

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

async fn world(primaries: usize, replicas: usize) -> (World, Cluster) {
    let world = World::start(&[]).await;
    let cluster = Cluster::start(world.dir.path(), primaries, replicas);
    world.serve_cluster(&cluster).await;
    (world, cluster)
}

/// A key in a slot that this node serves.
fn key_of(cluster: &Cluster, node: usize) -> String {
    (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| cluster.owner(slot::of_key(key.as_bytes())) == node)
        .unwrap()
}
