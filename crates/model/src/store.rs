//! The State port: the policy feeds and the runtime items, as everything else sees them.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::feed::{Change, Entity, Feed, Head, LogEntry};

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// May be a little behind; half the price.
    Eventual,
    /// Sees every write that was answered before it began.
    Strong,
}

/// Why the store could not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The feed has no head: the deployment was never set up, or the table is another.
    #[error("the {0} feed has not been set up: run the deployment's set-up first")]
    NotSetUp(&'static str),
    /// Throttled, timed out, or out of reach; worth trying again later.
    #[error("the store is out of reach: {0}")]
    Unavailable(String),
    /// The caller may not.
    #[error("the store refused: {0}")]
    Refused(String),
    /// An item of a newer version, with unknown fields, or not ours.
    #[error("item {key} cannot be read by this version ({reason}): upgrade, or repair the item")]
    Unreadable {
        /// The item.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why a change was not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// Somebody else was faster: read again and plan again.
    #[error("the feed has moved on: read it again")]
    Conflict,
    /// Too many entities, too many bytes, two changes of one entity, or an entity of the other feed.
    #[error("the change cannot be written whole: {0}")]
    Illegal(String),
    /// Anything else; the change was not written, or (after `Unavailable`) its fate is unknown and the
    /// feed must be read again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The policy table.
#[async_trait]
pub trait PolicyStore: Send + Sync {
    /// Makes a feed's head if there is none. Answers the head that is there now.
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError>;

    /// Where the feed stands.
    async fn head(&self, feed: Feed, consistency: Consistency) -> Result<Head, StoreError>;

    /// Every entity of the feed, read strongly. Not a snapshot: changes may land while it reads, so a reader
    /// takes the head before and the log after.
    async fn entities(&self, feed: Feed) -> Result<Vec<Entity>, StoreError>;

    /// Log entries with a revision above `after`, in order, read strongly. May have gaps while a change is
    /// landing: the reader applies the contiguous prefix.
    async fn log_after(&self, feed: Feed, after: u64) -> Result<Vec<LogEntry>, StoreError>;

    /// Writes one change whole, if the feed still stands at `expected`. `at` is Unix seconds.
    async fn commit(
        &self,
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError>;
}

/// A key of the runtime table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuntimeKey {
    /// `lease`, `report`, `proxy#<group>`, `session#<group>`, `prove`, …
    pub partition: String,
    /// Unique within the partition.
    pub sort: String,
}

impl RuntimeKey {
    /// Puts the two parts together.
    pub fn new(partition: impl Into<String>, sort: impl Into<String>) -> Self {
        Self { partition: partition.into(), sort: sort.into() }
    }
}

/// An item of the runtime table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuntimeItem {
    /// Its key.
    pub key: RuntimeKey,
    /// Counts the writes of this item, from 1.
    pub version: u64,
    /// When it may be collected, in Unix seconds. Readers judge expiry by their own `now`.
    pub expires_at: Option<i64>,
    /// JSON of its owner's making, at most 350 KB.
    pub body: serde_json::Value,
}

/// The runtime table: what churns.
#[async_trait]
pub trait RuntimeStore: Send + Sync {
    /// One item, read strongly.
    async fn read(&self, key: &RuntimeKey) -> Result<Option<RuntimeItem>, StoreError>;

    /// All items of a partition, in order of their sort keys, read eventually.
    async fn list(&self, partition: &str) -> Result<Vec<RuntimeItem>, StoreError>;

    /// Writes an item. With `expected`, only if its version is that (0: only if it is not there);
    /// [`CommitError::Conflict`] otherwise. Answers the new version.
    async fn write(
        &self,
        key: &RuntimeKey,
        expected: Option<u64>,
        expires_at: Option<i64>,
        body: serde_json::Value,
    ) -> Result<u64, CommitError>;

    /// Removes an item; one that is not there is no error.
    async fn remove(&self, key: &RuntimeKey) -> Result<(), StoreError>;
}

/// The time, as everything that must not read a clock by itself takes it.
pub trait Clock: Send + Sync {
    /// Now, in Unix seconds and nanoseconds.
    fn now(&self) -> time::OffsetDateTime;
}
