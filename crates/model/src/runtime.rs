//! What the runtime table holds: partitions and the shapes of their items.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Partition of leases; the sort key is the job's name.
pub const LEASES: &str = "lease";
/// Partition of reports; the sort key is the job's name.
pub const REPORTS: &str = "report";
/// Sort key of discovery's report and lease.
pub const DISCOVER: &str = "discover";
/// Sort key of label sync's report and lease.
pub const SYNC_LABELS: &str = "sync-labels";
/// Sort key of rotation's report.
pub const ROTATE: &str = "rotate";

/// Sort key of the lease on the rotation of one account and region.
#[must_use]
pub fn rotate_lease(account: &str, region: &str) -> String {
    format!("{ROTATE}#{account}#{region}")
}

/// Partition of a proxy group's heartbeats; the sort key is the proxy's id.
#[must_use]
pub fn proxies(group: &str) -> String {
    format!("proxy#{group}")
}

/// A lease: who runs a job, and until when others keep away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// A random id of the run.
    pub owner: String,
    /// Unix seconds; over it the lease is free.
    pub until: i64,
}

/// How a database looks from one proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It answers.
    Ok,
    /// It answers some of the time, or a login fails.
    Degraded,
    /// It does not answer.
    Unreachable,
    /// Not probed.
    #[default]
    Unknown,
}

impl HealthState {
    /// The word used in tables and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
        }
    }
}

/// One database's health as one proxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    /// The state.
    pub state: HealthState,
    /// Why, in words; empty when ok.
    #[serde(default)]
    pub reason: String,
    /// When it became so, in Unix seconds.
    pub since: i64,
}

/// A proxy's heartbeat: partition [`proxies`], written each 15 s and at a health transition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyHeartbeat {
    /// The proxy's id, a UUID made at its start.
    pub id: String,
    /// Its group.
    pub group: String,
    /// Its host's name.
    pub hostname: String,
    /// Its version.
    pub version: String,
    /// Where clients reach it, `host:port`.
    pub address: String,
    /// When it started, in Unix seconds.
    pub started_at: i64,
    /// When this was written, in Unix seconds. Over 60 s ago means gone.
    pub at: i64,
    /// Live sessions.
    pub sessions: u64,
    /// Health by database name; databases that are not listed were not probed.
    #[serde(default)]
    pub databases: BTreeMap<String, TargetHealth>,
}

/// The health to show for a database that several proxies probed: the worst that a live proxy sees, if any
/// saw it; `now` in Unix seconds.
#[must_use]
pub fn combined_health(heartbeats: &[ProxyHeartbeat], database: &str, now: i64) -> HealthState {
    heartbeats
        .iter()
        .filter(|beat| now - beat.at <= 60)
        .filter_map(|beat| beat.databases.get(database))
        .map(|health| health.state)
        .filter(|state| *state != HealthState::Unknown)
        .max()
        .unwrap_or_default()
}
