//! The slot maps of the databases, shared by all sessions: one session learns, all know.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use keystile_model::database::{Database, Endpoint};
use tokio::time::{Duration, Instant};

use super::blocked::Blocked;
use super::killed::Killed;
use super::slots::SlotMap;

/// How long a map counts as fresh; jittered by half of it.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// How long one session's question keeps the others from asking.
const QUESTION: Duration = Duration::from_millis(250);
/// Databases that are remembered.
const MOST_DATABASES: usize = 8_192;

/// The maps.
#[derive(Debug, Default)]
pub struct Maps(Mutex<HashMap<String, Arc<SharedMap>>>);

impl Maps {
    /// The map of a database. Until a session has learned it, it is what discovery knows, or says that the
    /// endpoint serves everything.
    #[must_use]
    pub fn of(&self, database: &Database) -> Arc<SharedMap> {
        let key = match &database.arn {
            Some(arn) => format!("{arn} {}", database.endpoint),
            None => format!("{} {}", database.name, database.endpoint),
        };
        let mut maps = self.lock();
        if let Some(known) = maps.get(&key) {
            return Arc::clone(known);
        }
        if maps.len() >= MOST_DATABASES {
            maps.retain(|_, map| Arc::strong_count(map) > 1);
        }
        let map = Arc::new(SharedMap::new(database));
        maps.insert(key, Arc::clone(&map));
        map
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<SharedMap>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The map of one database.
#[derive(Debug)]
pub struct SharedMap {
    current: ArcSwap<SlotMap>,
    /// Counts up with each change.
    version: AtomicU64,
    began: Instant,
    /// Milliseconds since `began` at which it is stale; 0 while nobody has asked a node.
    stale_at: AtomicI64,
    /// Until when nobody else need ask.
    asked_until: AtomicI64,
    /// Sessions that block.
    pub(super) blocked: Arc<Blocked>,
    /// Links that were named to be killed.
    pub(super) killed: Killed,
}

impl SharedMap {
    fn new(database: &Database) -> Self {
        let map = SlotMap::from_discovery(&database.nodes)
            .unwrap_or_else(|| SlotMap::of_one(database.endpoint.clone()));
        Self {
            current: ArcSwap::from_pointee(map),
            version: AtomicU64::new(1),
            began: Instant::now(),
            stale_at: AtomicI64::new(0),
            asked_until: AtomicI64::new(-1),
            blocked: Arc::default(),
            killed: Killed::default(),
        }
    }

    /// The map of this moment.
    pub fn load(&self) -> Arc<SlotMap> {
        self.current.load_full()
    }

    /// Which version it is.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether any node has told it yet.
    pub fn is_told(&self) -> bool {
        self.stale_at.load(Ordering::Relaxed) != 0
    }

    /// Whether it is time to ask again.
    pub fn is_stale(&self) -> bool {
        self.now() >= self.stale_at.load(Ordering::Relaxed)
    }

    /// Whether the caller is the one to ask a node now.
    pub fn claim(&self) -> bool {
        let (now, until) = (self.now(), self.asked_until.load(Ordering::Relaxed));
        now >= until
            && self
                .asked_until
                .compare_exchange(until, now + millis(QUESTION), Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// What a node said. `jitter` is between 0 and 1.
    pub fn learn(&self, map: SlotMap, jitter: f64) {
        let life = FRESH_FOR.mul_f64(0.75 + jitter / 2.0);
        self.stale_at.store(self.now() + millis(life), Ordering::Relaxed);
        if **self.current.load() != map {
            self.current.store(Arc::new(map));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// A `MOVED`: what a node said of one slot. The whole is asked for soon.
    pub fn moved(&self, slot: u16, to: &Endpoint) {
        let before = self.current.load_full();
        if before.primary(slot) == Some(to) {
            return;
        }
        self.current.rcu(|map| {
            let mut map = SlotMap::clone(map);
            map.moved(slot, to);
            map
        });
        self.version.fetch_add(1, Ordering::Release);
        self.expire();
    }

    /// It is to be asked for again soon.
    pub fn expire(&self) {
        if self.is_told() {
            self.stale_at.store(1, Ordering::Relaxed);
        }
    }

    fn now(&self) -> i64 {
        millis(self.began.elapsed()) + 1
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::database;

    fn node(port: u16) -> Endpoint {
        Endpoint { host: "localhost".to_owned(), port }
    }

    #[test]
    fn one_asks_and_all_know() {
        let maps = Maps::default();
        let orders = database("orders");
        let (one, other) = (maps.of(&orders), maps.of(&orders));
        assert!(Arc::ptr_eq(&one, &other));
        assert!(one.is_stale() && !one.is_told());
        assert_eq!(one.load().primary(7), Some(&orders.endpoint));
        assert!(one.claim() && !other.claim());
        let mut map = SlotMap::of_one(node(1));
        map.moved(7, &node(2));
        one.learn(map, 0.5);
        assert!(other.is_told() && !other.is_stale() && other.version() == 2);
        other.moved(7, &node(2));
        assert_eq!(one.version(), 2, "nothing new");
        other.moved(8, &node(2));
        assert!(one.version() == 3 && one.is_stale());
        assert_eq!(one.load().primary(8), Some(&node(2)));
        one.learn(SlotMap::of_one(node(1)), 0.5);
        assert!(!one.is_stale() && !other.claim());
        let life = one.stale_at.load(Ordering::Relaxed) - one.now();
        assert!((59_000..=60_000).contains(&life), "{life}");
        one.asked_until.store(0, Ordering::Relaxed);
        assert!(one.claim() && !other.claim());
    }
}
