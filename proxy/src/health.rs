//! Heartbeats, and the health of databases as this proxy sees it.
//!
//! Probed are the databases in use and an owned share of the others: those whose name hashes to this proxy.
//! A probe is TCP, TLS with its name, and PING without AUTH; any answer to that, refusals too, means alive.
//! Only a change of state is told at once; everything else waits for the next heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keystile_model::database::Database;
use keystile_model::policy::Policy;
use keystile_model::runtime::{HealthState, ProxyHeartbeat, TargetHealth, proxies};
use keystile_model::store::{RuntimeKey, RuntimeStore};
use keystile_resp::reply::Kind;
use tokio::task::JoinSet;

use crate::app::Shared;
use crate::upstream::ask;

/// How often a heartbeat is written.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// How long a heartbeat stays in the table after it was written, in seconds. Readers call it gone after 60.
const BEAT_KEPT_S: i64 = 300;
/// Probes in a row that fail before a database that answered counts as unreachable; the first such is
/// `degraded`.
const FAILURES: u32 = 2;
/// Probes at a time.
const AT_ONCE: usize = 16;
/// Most of the other databases that one proxy probes in a round.
const MOST_OTHERS: usize = 500;
/// Heartbeats of this many databases fit an item of the table.
const MOST_TOLD: usize = 2_000;

/// What is known of one database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    health: TargetHealth,
    failures: u32,
}

/// Takes a probe in. True where the state changed.
fn take(seen: &mut BTreeMap<String, Seen>, name: &str, outcome: Result<(), String>, now: i64) -> bool {
    let before = seen.get(name);
    let failures = if outcome.is_ok() { 0 } else { before.map_or(0, |seen| seen.failures).saturating_add(1) };
    let known = before.map(|seen| seen.health.state);
    let state = match (&outcome, known) {
        (Ok(()), _) => HealthState::Ok,
        // The first look decides at once; one that answered before gets a second chance.
        (Err(_), Some(HealthState::Ok)) if failures < FAILURES => HealthState::Degraded,
        (Err(_), Some(HealthState::Degraded)) if failures < FAILURES => HealthState::Degraded,
        (Err(_), _) => HealthState::Unreachable,
    };
    let changed = known != Some(state);
    let since = before.filter(|_| !changed).map_or(now, |seen| seen.health.since);
    let reason = outcome.err().unwrap_or_default();
    seen.insert(name.to_owned(), Seen { health: TargetHealth { state, reason, since }, failures });
    changed
}

/// Runs for ever.
pub async fn run(shared: Arc<Shared>, runtime: Arc<dyn RuntimeStore>) {
    let started_at = shared.clock.now().unix_timestamp();
    let mut seen = BTreeMap::new();
    let mut probe_at = tokio::time::Instant::now();
    let mut beat_at = probe_at;
    loop {
        let now = tokio::time::Instant::now();
        let mut changed = false;
        if !shared.config.health_interval.is_zero() && now >= probe_at {
            changed = probe_all(&shared, &mut seen).await;
            probe_at = now + shared.config.health_interval;
        }
        if changed || now >= beat_at {
            beat(&shared, &*runtime, &seen, started_at).await;
            beat_at = now + BEAT_EVERY;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn probe_all(shared: &Arc<Shared>, seen: &mut BTreeMap<String, Seen>) -> bool {
    let Some(policy) = shared.policy.borrow().policy.clone() else { return false };
    let networks = policy.settings().map(|settings| settings.static_networks.clone()).unwrap_or_default();
    seen.retain(|name, _| policy.database(name).is_some());
    let mut waiting = chosen(&policy, &shared.sessions.databases(), &shared.proxy_id).into_iter();
    let mut running = JoinSet::new();
    let mut changed = false;
    loop {
        while running.len() < AT_ONCE
            && let Some(database) = waiting.next()
        {
            let (shared, networks) = (Arc::clone(shared), networks.clone());
            running.spawn(async move {
                let outcome = probe(&shared, &database, &networks).await;
                (database.name.to_string(), outcome)
            });
        }
        let Some(done) = running.join_next().await else { return changed };
        let Ok((name, outcome)) = done else { continue };
        shared.metrics.probes.add(if outcome.is_ok() { "ok" } else { "unreachable" });
        if take(seen, &name, outcome, shared.clock.now().unix_timestamp()) {
            changed = true;
            if let Some(seen) = seen.get(&name) {
                let (state, reason) = (seen.health.state.as_str(), &seen.health.reason);
                tracing::info!(database = %name, state, reason, "the health of a database changed");
            }
        }
    }
}

/// The databases in use, and of the others those that fall to this proxy: all while they are few.
fn chosen(policy: &Policy, in_use: &[String], proxy_id: &str) -> Vec<Arc<Database>> {
    let in_use: BTreeSet<&str> = in_use.iter().map(String::as_str).collect();
    let (mut all, mut others): (Vec<_>, Vec<_>) =
        policy.databases().cloned().partition(|database| in_use.contains(database.name.as_str()));
    // Every proxy ranks the names in its own order, so that a fleet covers more than one proxy can.
    others.sort_by_cached_key(|database| rank(proxy_id, database.name.as_str()));
    others.truncate(MOST_OTHERS);
    all.append(&mut others);
    all
}

/// FNV-1a of proxy and name: an order, not a secret.
fn rank(proxy_id: &str, name: &str) -> u64 {
    proxy_id.bytes().chain(name.bytes()).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

async fn probe(shared: &Shared, database: &Database, networks: &[String]) -> Result<(), String> {
    let mut leg = shared.dialer.open(database, networks).await.map_err(|refusal| refusal.to_string())?;
    let answer =
        tokio::time::timeout(shared.config.dial_timeout, ask(&mut leg, b"*1\r\n$4\r\nPING\r\n")).await;
    let _ = tokio::time::timeout(shared.config.dial_timeout, leg.shut()).await;
    match answer {
        Err(_) => Err(format!("no answer to PING within {} s", shared.config.dial_timeout.as_secs())),
        Ok(Err(error)) => Err(error),
        Ok(Ok((Kind::Reply, _))) => Ok(()),
        Ok(Ok((_, text))) if text.starts_with("NOAUTH") || text.starts_with("NOPERM") => Ok(()),
        Ok(Ok((_, text))) => Err(format!("PING was answered with {text}")),
    }
}

async fn beat(shared: &Shared, runtime: &dyn RuntimeStore, seen: &BTreeMap<String, Seen>, started_at: i64) {
    let now = shared.clock.now().unix_timestamp();
    let heartbeat = ProxyHeartbeat {
        id: shared.proxy_id.to_string(),
        group: shared.config.group.clone(),
        hostname: hostname(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        address: shared.config.advertise.clone(),
        started_at,
        at: now,
        sessions: shared.sessions.count() as u64,
        databases: seen
            .iter()
            .take(MOST_TOLD)
            .map(|(name, seen)| (name.clone(), seen.health.clone()))
            .collect(),
    };
    let Ok(body) = serde_json::to_value(&heartbeat) else { return };
    let key = RuntimeKey::new(proxies(&shared.config.group), shared.proxy_id.as_ref());
    if let Err(error) = runtime.write(&key, None, Some(now + BEAT_KEPT_S), body).await {
        shared.metrics.heartbeats_failed.add(1);
        tracing::warn!(%error, "the heartbeat could not be written");
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_degrades_two_are_unreachable_and_one_answer_heals() {
        let mut seen = BTreeMap::new();
        let fail = || Err("refused".to_owned());
        let mut state = |outcome, now| {
            let changed = take(&mut seen, "orders", outcome, now);
            (changed, seen["orders"].health.state, seen["orders"].health.since)
        };
        assert_eq!(state(Ok(()), 1), (true, HealthState::Ok, 1));
        assert_eq!(state(Ok(()), 2), (false, HealthState::Ok, 1));
        assert_eq!(state(fail(), 3), (true, HealthState::Degraded, 3));
        assert_eq!(state(fail(), 4), (true, HealthState::Unreachable, 4));
        assert_eq!(state(fail(), 5), (false, HealthState::Unreachable, 4));
        assert_eq!(state(Ok(()), 6), (true, HealthState::Ok, 6));
        let mut fresh = BTreeMap::new();
        assert!(take(&mut fresh, "new", fail(), 1));
        assert_eq!(fresh["new"].health.state, HealthState::Unreachable);
    }
}
