//! A lease on a job: a run takes it with one write and gives it back with one.
//!
//! A lease is no lock: a run that outlives its `until` may meet the next one. What it writes must be
//! conditional in itself; the lease only saves the work of running twice.

use keystile_model::runtime::{LEASES, Lease};
use keystile_model::store::{CommitError, RuntimeKey, RuntimeStore, StoreError};

/// How long a lease's item outlives the lease, in seconds: a day.
const KEPT_S: i64 = 24 * 3_600;

/// A lease that was taken; hand it to [`release`] when the run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a lease that is not released keeps the next run away until it expires"]
pub struct HeldLease {
    key: RuntimeKey,
    version: u64,
    lease: Lease,
}

impl HeldLease {
    /// When it ends, in Unix seconds.
    #[must_use]
    pub fn until(&self) -> i64 {
        self.lease.until
    }
}

/// Takes the lease on `job` for `ttl_s` seconds from `now` (Unix seconds), or answers none if another run
/// holds it. One read, and one write if it is free. The `owner` is random for each run: a retry with the same
/// owner gets its own lease back.
///
/// # Errors
/// [`StoreError`] if it cannot be known who holds it; do not run then.
pub async fn acquire(
    store: &dyn RuntimeStore,
    job: &str,
    owner: &str,
    now: i64,
    ttl_s: i64,
) -> Result<Option<HeldLease>, StoreError> {
    let key = RuntimeKey::new(LEASES, job);
    let item = store.read(&key).await?;
    let version = item.as_ref().map_or(0, |item| item.version);
    if let Some(item) = item {
        let held: Lease = serde_json::from_value(item.body).map_err(|error| StoreError::Unreadable {
            key: format!("{LEASES}/{job}"),
            reason: error.to_string(),
        })?;
        if held.until > now && held.owner != owner {
            return Ok(None);
        }
    }
    let lease = Lease { owner: owner.to_owned(), until: now + ttl_s };
    match put(store, &key, version, &lease, lease.until).await {
        Ok(version) => Ok(Some(HeldLease { key, version, lease })),
        Err(CommitError::Conflict) => Ok(None),
        Err(error) => Err(into_store(error)),
    }
}

/// Gives the lease back with one write; one that another run has taken over stays with it.
///
/// # Errors
/// [`StoreError`] if it could not be written: it then ends by itself at [`HeldLease::until`].
pub async fn release(store: &dyn RuntimeStore, held: HeldLease) -> Result<(), StoreError> {
    let free = Lease { until: 0, ..held.lease.clone() };
    match put(store, &held.key, held.version, &free, held.lease.until).await {
        Ok(_) | Err(CommitError::Conflict) => Ok(()),
        Err(error) => Err(into_store(error)),
    }
}

async fn put(
    store: &dyn RuntimeStore,
    key: &RuntimeKey,
    version: u64,
    lease: &Lease,
    ends: i64,
) -> Result<u64, CommitError> {
    let body = serde_json::json!({ "owner": lease.owner, "until": lease.until });
    store.write(key, Some(version), Some(ends.saturating_add(KEPT_S)), body).await
}

fn into_store(error: CommitError) -> StoreError {
    match error {
        CommitError::Store(error) => error,
        other => StoreError::Refused(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keystile_state::memory::MemoryStore;

    #[tokio::test]
    async fn one_run_at_a_time() {
        let store = MemoryStore::new();
        let first = acquire(&store, "discover", "a", 100, 60).await.unwrap().unwrap();
        assert_eq!(first.until(), 160);
        assert_eq!(acquire(&store, "discover", "b", 159, 60).await.unwrap(), None);
        assert!(acquire(&store, "sync-labels", "b", 159, 60).await.unwrap().is_some());
        release(&store, first).await.unwrap();
        assert!(acquire(&store, "discover", "b", 159, 60).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_late_release_leaves_the_next_run_alone() {
        let store = MemoryStore::new();
        let late = acquire(&store, "discover", "a", 100, 60).await.unwrap().unwrap();
        let next = acquire(&store, "discover", "b", 160, 60).await.unwrap().unwrap();
        release(&store, late).await.unwrap();
        assert_eq!(acquire(&store, "discover", "c", 161, 60).await.unwrap(), None);
        assert_eq!(next.until(), 220);
    }

    #[tokio::test]
    async fn an_unknown_holder_is_an_error() {
        let store = MemoryStore::new();
        let key = RuntimeKey::new(LEASES, "discover");
        store.write(&key, None, None, serde_json::json!({"who": 1})).await.unwrap();
        assert!(matches!(acquire(&store, "discover", "a", 0, 60).await, Err(StoreError::Unreadable { .. })));
    }
}
