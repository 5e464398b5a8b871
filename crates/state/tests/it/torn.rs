//! A store whose reads are as bad as DynamoDB allows: a query that runs while changes land shows some of
//! their items and not others, on any page; an eventual head is an old one; calls are slow, throttled, or
//! lose their answer before or after the effect.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keystile_model::feed::{Change, Entity, EntityKey, Feed, Head, LogEntry};
use keystile_model::store::{CommitError, Consistency, PolicyStore, StoreError};

/// How bad it is, in percent of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// An eventual head is an older one.
    pub(crate) lagging: u64,
    /// A log entry is not in an answer although it should be: more than DynamoDB would do.
    pub(crate) hidden: u64,
    /// A call fails without effect.
    pub(crate) throttled: u64,
    /// A commit is written and its answer lost.
    pub(crate) lost: u64,
    /// Longest delay in the middle of a query, in microseconds.
    pub(crate) delay_us: u64,
}

pub(crate) struct TornStore {
    inner: Arc<dyn PolicyStore>,
    faults: Faults,
    dice: AtomicU64,
    heads: Mutex<BTreeMap<Feed, Vec<Head>>>,
    landing: Mutex<VecDeque<(Feed, Vec<Change>)>>,
}

impl TornStore {
    pub(crate) fn new(inner: Arc<dyn PolicyStore>, faults: Faults, seed: u64) -> Self {
        let (dice, heads, landing) = (AtomicU64::new(seed), Mutex::default(), Mutex::default());
        Self { inner, faults, dice, heads, landing }
    }

    /// This change is committed in the middle of a query that comes.
    pub(crate) fn land(&self, feed: Feed, changes: Vec<Change>) {
        self.landing.lock().unwrap().push_back((feed, changes));
    }

    /// Commits what did not land in a query.
    pub(crate) async fn land_rest(&self) {
        while self.land_one().await {}
    }

    async fn land_one(&self) -> bool {
        let Some((feed, changes)) = self.landing.lock().unwrap().pop_front() else { return false };
        let head = self.inner.head(feed, Consistency::Strong).await.unwrap();
        self.inner.commit(feed, &head, "landed", crate::samples::NOW, &changes).await.unwrap();
        true
    }

    /// SplitMix64: the same seed gives the same faults.
    fn roll(&self, sides: u64) -> u64 {
        let state = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % sides
    }

    fn happens(&self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    fn throttle(&self) -> Result<(), StoreError> {
        if self.happens(self.faults.throttled) {
            return Err(StoreError::Unavailable("throttled".to_owned()));
        }
        Ok(())
    }

    /// What happens between the items of a query.
    async fn meanwhile(&self) {
        for _ in 0..self.roll(3) {
            self.land_one().await;
        }
        if self.faults.delay_us > 0 {
            tokio::time::sleep(Duration::from_micros(self.roll(self.faults.delay_us))).await;
        }
    }
}

fn by_key(entities: Vec<Entity>) -> BTreeMap<EntityKey, Entity> {
    entities.into_iter().map(|entity| (entity.key(), entity)).collect()
}

#[async_trait]
impl PolicyStore for TornStore {
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError> {
        self.inner.set_up(feed).await
    }

    async fn head(&self, feed: Feed, consistency: Consistency) -> Result<Head, StoreError> {
        self.throttle()?;
        let head = self.inner.head(feed, consistency).await?;
        let mut heads = self.heads.lock().unwrap();
        let seen = heads.entry(feed).or_default();
        seen.push(head.clone());
        if consistency == Consistency::Eventual && self.happens(self.faults.lagging) {
            let back = (self.roll(4) as usize).min(seen.len() - 1);
            return Ok(seen[seen.len() - 1 - back].clone());
        }
        Ok(head)
    }

    async fn entities(&self, feed: Feed) -> Result<Vec<Entity>, StoreError> {
        self.throttle()?;
        let before = by_key(self.inner.entities(feed).await?);
        self.meanwhile().await;
        let after = by_key(self.inner.entities(feed).await?);
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        let torn = |key| if self.happens(50) { before.get(key) } else { after.get(key) };
        Ok(keys.into_iter().filter_map(torn).cloned().collect())
    }

    async fn log_after(&self, feed: Feed, after: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.throttle()?;
        let first = self.inner.log_after(feed, after).await?;
        self.meanwhile().await;
        let mut second = self.inner.log_after(feed, after).await?;
        second.retain(|entry| {
            if first.contains(entry) { !self.happens(self.faults.hidden) } else { self.happens(50) }
        });
        Ok(second)
    }

    async fn commit(
        &self,
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError> {
        self.throttle()?;
        let head = self.inner.commit(feed, expected, author, at, changes).await?;
        if self.happens(self.faults.lost) {
            return Err(StoreError::Unavailable("the answer was lost".to_owned()).into());
        }
        Ok(head)
    }
}
