//! Makes a Valkey Cluster of nodes that have just started, and waits until all of them agree.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::client::{Client, Reply};
use super::layout::{HOST, Layout, NodePlan};
use super::manifest::Role;
use crate::fixture::TEST_ADMIN;

/// How long a cluster may take to form; it takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Gives the primaries their slots, introduces the nodes, attaches the replicas, and waits until each
/// node knows every slot at its right name.
pub(super) async fn form(layout: &Layout, ca_file: &Path, password: &str) -> Result<()> {
    let mut clients = Vec::new();
    for plan in &layout.nodes {
        clients.push(Client::login(ca_file, plan.node.port, TEST_ADMIN, password).await?);
    }
    for (number, (plan, client)) in layout.nodes.iter().zip(&mut clients).enumerate() {
        // Distinct epochs from the start save the rounds in which nodes settle collisions.
        client.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]).await?;
        if plan.node.role == Role::Primary {
            for (first, last) in &plan.node.slots {
                client.ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await?;
            }
        }
    }
    for plan in layout.nodes.iter().skip(1) {
        let (port, bus) = (plan.node.port.to_string(), plan.bus_port.unwrap_or_default().to_string());
        clients[0].ok(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
    }
    for client in &mut clients {
        wait_for_state(client, layout.nodes.len()).await?;
    }
    attach_replicas(layout, &mut clients).await?;
    for client in &mut clients {
        wait_for_map(client, layout).await?;
    }
    Ok(())
}

async fn attach_replicas(layout: &Layout, clients: &mut [Client]) -> Result<()> {
    for (number, plan) in layout.nodes.iter().enumerate() {
        let primary = layout.nodes.iter().position(|other| Some(other.node.port) == plan.primary_port);
        let Some(primary) = primary else { continue };
        let id = clients[primary].ok(&["CLUSTER", "MYID"]).await?.text();
        clients[number].ok(&["CLUSTER", "REPLICATE", &id]).await?;
    }
    for (plan, client) in layout.nodes.iter().zip(clients) {
        if plan.primary_port.is_some() {
            wait_for_replica(client).await?;
        }
    }
    Ok(())
}

/// Waits until a replica has its primary's data and follows it.
pub(super) async fn wait_for_replica(client: &mut Client) -> Result<()> {
    let follows = |info: &Reply| info.text().contains("master_link_status:up");
    wait(client, &["INFO", "replication"], "a replica to follow its primary", follows).await
}

async fn wait_for_state(client: &mut Client, nodes: usize) -> Result<()> {
    let known = format!("cluster_known_nodes:{nodes}\r");
    let agrees = |info: &Reply| info.text().contains("cluster_state:ok") && info.text().contains(&known);
    wait(client, &["CLUSTER", "INFO"], "the nodes to know each other", agrees).await
}

/// Hosts travel by gossip later than addresses do: a map without them would send clients astray.
async fn wait_for_map(client: &mut Client, layout: &Layout) -> Result<()> {
    let whole = |map: &Reply| is_whole(map, &layout.nodes);
    wait(client, &["CLUSTER", "SLOTS"], "the slot map to be whole", whole).await
}

/// Whether a CLUSTER SLOTS answer names each node once, by its host and port.
fn is_whole(map: &Reply, nodes: &[NodePlan]) -> bool {
    let mut ports = Vec::new();
    for range in map.elements() {
        for node in range.elements().iter().skip(2) {
            let [host, Reply::Integer(port), ..] = node.elements() else { return false };
            if host.text() != HOST {
                return false;
            }
            ports.push(*port);
        }
    }
    let mut expected: Vec<i64> = nodes.iter().map(|plan| i64::from(plan.node.port)).collect();
    ports.sort_unstable();
    expected.sort_unstable();
    ports == expected
}

/// Asks again and again until the answer is as it should be.
async fn wait(
    client: &mut Client,
    command: &[&str],
    what: &str,
    holds: impl Fn(&Reply) -> bool + Send,
) -> Result<()> {
    let start = tokio::time::Instant::now();
    loop {
        let answer = client.ok(command).await.with_context(|| format!("while waiting for {what}"))?;
        if holds(&answer) {
            tracing::debug!(waited = ?start.elapsed(), "{what}");
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            bail!("waited {} s in vain for {what}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
