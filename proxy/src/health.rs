//! Heartbeats, and the health of databases as this proxy sees it.
//!
//! Probed are the databases in use and an owned share of the others: those whose name hashes to this proxy.
//! A probe is TCP, TLS with its name, and PING without AUTH; any answer to that, refusals too, means alive.
//! Sign-ins of real clients are counted in: a cache that answers and lets nobody in is `degraded`.
//! Only a change of state is told at once; everything else waits for the next heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystile_model::database::Database;
use keystile_model::policy::Policy;
use keystile_model::runtime::{HealthState, ProxyHeartbeat, TargetHealth, proxies};
use keystile_model::store::{RuntimeKey, RuntimeStore};
use keystile_resp::reply::Kind;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::Shared;
use crate::clock::unix_ms;
use crate::logins::Tally;
use crate::throttle::Throttle;
use crate::upstream::ask;

/// How often a heartbeat is written.
const BEAT_EVERY: Duration = Duration::from_secs(15);
/// The shortest pause between two heartbeats, however many databases change.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
/// How long a heartbeat stays in the table after it was written, in seconds. Readers call it gone after 60.
const BEAT_KEPT_S: i64 = 300;
/// How long the last heartbeat may take to be removed.
const FAREWELL: Duration = Duration::from_secs(3);
/// Probes in a row that fail before a database that answered counts as unreachable; the first such is
/// `degraded`.
const FAILURES: u32 = 2;
/// Sign-ins in a row of looks that fail, without one that succeeds, before a database counts as `degraded`: one
/// may be a single user's missing right.
const FAILED_LOGINS: u64 = 2;
/// How long a failed sign-in is held against a database to which nobody tries again, in seconds.
const LOGINS_FORGOTTEN_S: i64 = 300;
/// Probes at a time.
const AT_ONCE: usize = 16;
/// Most of the other databases that one proxy probes in a round.
const MOST_OTHERS: usize = 500;
/// Bytes of health that a heartbeat carries at most: an item of the table holds 350 KB.
const MOST_TOLD: usize = 300_000;
/// Longest reason that a heartbeat carries, in characters.
const MOST_REASON: usize = 200;

/// What is known of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    health: TargetHealth,
    /// Probes in a row that failed.
    failures: u32,
    /// What the last probe said of a failure.
    probe_reason: String,
    /// Sign-ins that failed since one succeeded, when the last did, and why.
    logins_failed: u64,
    login_failed_at: i64,
    login_reason: String,
}

impl Seen {
    /// Takes a probe in. True where the state changed.
    fn probed(&mut self, outcome: Result<(), String>, now: i64) -> bool {
        let first = self.health.state == HealthState::Unknown;
        match outcome {
            Ok(()) => self.failures = 0,
            Err(reason) => {
                // The first look decides at once; one that answered before gets a second chance.
                self.failures = if first { FAILURES } else { self.failures.saturating_add(1) };
                self.probe_reason = reason;
            }
        }
        self.judge(now)
    }

    /// Takes sign-ins of clients in. True where the state changed.
    fn tried(&mut self, tally: Tally, now: i64) -> bool {
        if tally.succeeded > 0 {
            self.logins_failed = 0;
        } else if tally.failed > 0 {
            self.logins_failed = self.logins_failed.saturating_add(tally.failed);
            self.login_failed_at = now;
            self.login_reason = tally.reason;
        }
        // What was never probed has no state that sign-ins could make worse.
        self.health.state != HealthState::Unknown && self.judge(now)
    }

    fn judge(&mut self, now: i64) -> bool {
        if now - self.login_failed_at >= LOGINS_FORGOTTEN_S {
            self.logins_failed = 0;
        }
        let (state, reason) = if self.failures >= FAILURES {
            (HealthState::Unreachable, self.probe_reason.clone())
        } else if self.failures > 0 {
            (HealthState::Degraded, self.probe_reason.clone())
        } else if self.logins_failed >= FAILED_LOGINS {
            let text =
                format!("it answers, but sign-ins fail ({}): {}", self.logins_failed, self.login_reason);
            (HealthState::Degraded, text)
        } else {
            (HealthState::Ok, String::new())
        };
        let changed = self.health.state != state;
        if changed {
            self.health.since = now;
        }
        self.health.state = state;
        self.health.reason = reason.chars().take(MOST_REASON).collect();
        changed
    }
}

/// What this proxy knows, and who is woken when a state changes.
#[derive(Debug, Default)]
struct Board {
    seen: Mutex<BTreeMap<String, Seen>>,
    changed: Notify,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, name: &str, take: impl FnOnce(&mut Seen) -> bool) {
        let mut board = self.lock();
        let seen = board.entry(name.to_owned()).or_default();
        if !take(seen) {
            return;
        }
        let (state, reason) = (seen.health.state.as_str(), &seen.health.reason);
        if seen.health.state == HealthState::Ok {
            tracing::info!(database = %name, state, "a database answers");
        } else {
            tracing::warn!(database = %name, state, reason, "the health of a database changed");
        }
        self.changed.notify_one();
    }
}

/// Runs for ever. Probing takes as long as it takes; heartbeats do not wait for it.
pub async fn run(shared: Arc<Shared>, runtime: Arc<dyn RuntimeStore>) {
    let board = Board::default();
    tokio::join!(
        probe_for_ever(&shared, &board),
        listen(&shared, &board),
        beat_for_ever(&shared, &*runtime, &board)
    );
}

/// Removes the heartbeat: the proxy has stopped, so nobody needs to wait until it looks gone.
pub async fn leave(shared: &Shared, runtime: &dyn RuntimeStore) {
    let key = RuntimeKey::new(proxies(&shared.config.group), shared.proxy_id.as_ref());
    match tokio::time::timeout(FAREWELL, runtime.remove(&key)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::info!(%error, "the heartbeat could not be removed: it looks gone after 60 s");
        }
        Err(_) => tracing::info!("the heartbeat was not removed in time: it looks gone after 60 s"),
    }
}

async fn probe_for_ever(shared: &Arc<Shared>, board: &Board) {
    if shared.config.health_interval.is_zero() {
        return;
    }
    loop {
        let next = Instant::now() + shared.config.health_interval;
        probe_all(shared, board).await;
        // Until there is a policy, a look each second is enough to begin soon after it.
        let cold = shared.policy.borrow().policy.is_none();
        tokio::time::sleep_until(if cold { Instant::now() + BEAT_PAUSE } else { next }).await;
    }
}

/// Counts the sign-ins of clients in, each second.
async fn listen(shared: &Shared, board: &Board) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = shared.clock.now().unix_timestamp();
        for (name, tally) in shared.logins.take() {
            board.take(&name, |seen| seen.tried(tally, now));
        }
    }
}

async fn beat_for_ever(shared: &Shared, runtime: &dyn RuntimeStore, board: &Board) {
    let started_at = shared.clock.now().unix_timestamp();
    let failed = Throttle::new(300);
    let mut fails = false;
    loop {
        let outcome = beat(shared, runtime, board, started_at).await;
        if let Err(error) = &outcome {
            shared.metrics.heartbeats_failed.add(1);
            if let Some(times) = failed.tell(unix_ms(shared.clock.now())) {
                tracing::warn!(
                    %error,
                    times,
                    "heartbeats cannot be written: after 60 s this proxy looks gone in 'keystile db ls', and serves on"
                );
            }
        } else if fails {
            tracing::info!("heartbeats can be written again");
        }
        fails = outcome.is_err();
        tokio::time::sleep(BEAT_PAUSE).await;
        let _ = tokio::time::timeout(BEAT_EVERY - BEAT_PAUSE, board.changed.notified()).await;
    }
}

async fn probe_all(shared: &Arc<Shared>, board: &Board) {
    let Some(policy) = shared.policy.borrow().policy.clone() else { return };
    let networks = policy.settings().map(|settings| settings.static_networks.clone()).unwrap_or_default();
    board.lock().retain(|name, _| policy.database(name).is_some());
    let mut waiting = chosen(&policy, &shared.sessions.databases(), &shared.proxy_id).into_iter();
    let mut running = JoinSet::new();
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
        let Some(done) = running.join_next().await else { return };
        let Ok((name, outcome)) = done else { continue };
        shared.metrics.probes.add(if outcome.is_ok() { "ok" } else { "unreachable" });
        let now = shared.clock.now().unix_timestamp();
        board.take(&name, |seen| seen.probed(outcome, now));
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

async fn beat(
    shared: &Shared,
    runtime: &dyn RuntimeStore,
    board: &Board,
    started_at: i64,
) -> Result<(), String> {
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
        databases: told(&board.lock()),
    };
    let body = serde_json::to_value(&heartbeat).map_err(|error| error.to_string())?;
    let key = RuntimeKey::new(proxies(&shared.config.group), shared.proxy_id.as_ref());
    runtime.write(&key, None, Some(now + BEAT_KEPT_S), body).await.map_err(|error| error.to_string())?;
    Ok(())
}

/// What fits a heartbeat, the worst first.
fn told(seen: &BTreeMap<String, Seen>) -> BTreeMap<String, TargetHealth> {
    let known = seen.iter().filter(|(_, seen)| seen.health.state != HealthState::Unknown);
    let mut all: Vec<_> = known.map(|(name, seen)| (name, &seen.health)).collect();
    all.sort_by_key(|(_, health)| std::cmp::Reverse(health.state));
    let mut room = MOST_TOLD;
    let mut told = BTreeMap::new();
    for (name, health) in all {
        // Keys, quotes, a number, and escapes of a reason that is mostly plain text.
        let Some(left) = room.checked_sub(name.len() + 2 * health.reason.len() + 80) else { break };
        room = left;
        told.insert(name.clone(), health.clone());
    }
    told
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail() -> Result<(), String> {
        Err("refused".to_owned())
    }

    #[test]
    fn one_failure_degrades_two_are_unreachable_and_one_answer_heals() {
        let mut seen = Seen::default();
        let mut state = |outcome, now| {
            let changed = seen.probed(outcome, now);
            (changed, seen.health.state, seen.health.since)
        };
        assert_eq!(state(Ok(()), 1), (true, HealthState::Ok, 1));
        assert_eq!(state(Ok(()), 2), (false, HealthState::Ok, 1));
        assert_eq!(state(fail(), 3), (true, HealthState::Degraded, 3));
        assert_eq!(state(fail(), 4), (true, HealthState::Unreachable, 4));
        assert_eq!(state(fail(), 5), (false, HealthState::Unreachable, 4));
        assert_eq!(state(Ok(()), 6), (true, HealthState::Ok, 6));
        let mut fresh = Seen::default();
        assert!(fresh.probed(fail(), 1));
        assert_eq!(fresh.health.state, HealthState::Unreachable);
    }

    #[test]
    fn sign_ins_that_fail_degrade_until_one_succeeds_or_nobody_tries() {
        let tally = |succeeded, failed| Tally { succeeded, failed, reason: "WRONGPASS".to_owned() };
        let mut seen = Seen::default();
        assert!(!seen.tried(tally(0, 9), 1_000), "never probed: unknown stays unknown");
        seen.logins_failed = 0;
        seen.probed(Ok(()), 1_001);
        assert!(!seen.tried(tally(0, 1), 1_002), "one may be one user's fault");
        assert!(seen.tried(tally(0, 1), 1_003));
        assert_eq!(seen.health.state, HealthState::Degraded);
        assert!(seen.health.reason.contains("sign-ins fail (2): WRONGPASS"), "{}", seen.health.reason);
        assert!(!seen.probed(Ok(()), 1_030), "a probe alone proves no sign-in");
        assert!(seen.tried(tally(1, 3), 1_031));
        assert_eq!(seen.health.state, HealthState::Ok);
        assert!(seen.tried(tally(0, 2), 1_040));
        assert!(seen.probed(Ok(()), 1_340), "nobody tried for five minutes");
        assert_eq!((seen.health.state, seen.health.since), (HealthState::Ok, 1_340));
    }

    #[test]
    fn a_heartbeat_of_any_number_of_sick_databases_fits() {
        let sick = |state| Seen {
            health: TargetHealth { state, reason: "x".repeat(MOST_REASON), since: 1 },
            ..Seen::default()
        };
        let mut seen: BTreeMap<_, _> = (0..5_000)
            .map(|n| (format!("database-with-a-long-name-{n:05}"), sick(HealthState::Ok)))
            .collect();
        seen.insert("zz-last".to_owned(), sick(HealthState::Unreachable));
        let told = told(&seen);
        assert!(told.contains_key("zz-last") && told.len() > 400);
        assert!(serde_json::to_vec(&told).unwrap().len() < 350_000);
    }
}
