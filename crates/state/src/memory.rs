//! The in-memory twin of the DynamoDB adapter: the same promises, and hooks with which a test restores an
//! older table, ages out the log, plants items of a newer version, or takes the store away.
//!
//! Bodies are kept as JSON and read back through the same codec, so what DynamoDB would refuse is refused
//! here. Nothing survives the process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use keystile_model::feed::{
    Change, Entity, EntityKey, Feed, Head, LOG_RETENTION_S, LogEntry, READER_VERSION,
};
use keystile_model::store::{
    Clock, CommitError, Consistency, PolicyStore, RuntimeItem, RuntimeKey, RuntimeStore, StoreError,
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use crate::change::{Checked, runtime_json};
use crate::codec::{decode_entity, decode_log, encode_entity};

#[derive(Debug, Clone)]
struct FeedTable {
    head: Head,
    entities: BTreeMap<EntityKey, String>,
    log: BTreeMap<u64, String>,
}

#[derive(Debug, Clone, Default)]
struct Tables {
    feeds: BTreeMap<Feed, FeedTable>,
    runtime: BTreeMap<RuntimeKey, RuntimeItem>,
    outage: Option<StoreError>,
}

/// A copy of the policy table, to be restored later.
#[derive(Debug, Clone)]
pub struct Backup(BTreeMap<Feed, FeedTable>);

/// Both tables in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: Mutex<Tables>,
}

impl MemoryStore {
    /// Empty tables: no feed is set up.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Both feeds set up, and these entities in them, one change each.
    ///
    /// # Errors
    /// What [`PolicyStore::commit`] would say, an entity that is given twice among it.
    pub async fn with(entities: Vec<Entity>) -> Result<Self, CommitError> {
        let store = Self::new();
        for feed in Feed::ALL {
            store.set_up(feed).await?;
        }
        for entity in entities {
            let feed = entity.kind().feed();
            let head = store.head(feed, Consistency::Strong).await?;
            store.commit(feed, &head, "test", 0, &[Change::Put(entity)]).await?;
        }
        Ok(store)
    }

    /// Copies the policy table.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.lock().feeds.clone())
    }

    /// Puts a copy back, as a restore does: the feeds get new generations.
    pub fn restore(&self, backup: &Backup) {
        let mut feeds = backup.0.clone();
        for table in feeds.values_mut() {
            table.head.generation = new_generation();
            table.head.min_log_revision = table.head.revision + 1;
        }
        self.lock().feeds = feeds;
    }

    /// Drops log entries below `oldest`. With `told`, the head says so; without, it does not know yet, as
    /// when items expire while nobody writes.
    pub fn age_out_log(&self, feed: Feed, oldest: u64, told: bool) {
        if let Some(table) = self.lock().feeds.get_mut(&feed) {
            table.log.retain(|revision, _| *revision >= oldest);
            if told {
                table.head.min_log_revision = oldest;
            }
        }
    }

    /// Plants the JSON of an entity, whatever it is.
    pub fn plant_entity(&self, key: EntityKey, json: impl Into<String>) {
        if let Some(table) = self.lock().feeds.get_mut(&key.kind.feed()) {
            table.entities.insert(key, json.into());
        }
    }

    /// Plants the JSON of the next log entry and moves the head to it.
    pub fn plant_log(&self, feed: Feed, json: impl Into<String>) {
        if let Some(table) = self.lock().feeds.get_mut(&feed) {
            table.head.revision += 1;
            table.log.insert(table.head.revision, json.into());
        }
    }

    /// Sets the lowest reader version that the feed asks for.
    pub fn set_min_reader(&self, feed: Feed, min_reader: u32) {
        if let Some(table) = self.lock().feeds.get_mut(&feed) {
            table.head.min_reader = min_reader;
        }
    }

    /// Every call fails with this until it is set to none.
    pub fn set_outage(&self, outage: Option<StoreError>) {
        self.lock().outage = outage;
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Tables>, StoreError> {
        let tables = self.lock();
        match &tables.outage {
            Some(error) => Err(error.clone()),
            None => Ok(tables),
        }
    }
}

impl Tables {
    fn feed(&self, feed: Feed) -> Result<&FeedTable, StoreError> {
        self.feeds.get(&feed).ok_or(StoreError::NotSetUp(feed.as_str()))
    }
}

fn new_generation() -> String {
    Uuid::new_v4().simple().to_string()
}

/// A feed that nobody has written to.
pub(crate) fn first_head() -> Head {
    Head { generation: new_generation(), revision: 0, min_log_revision: 1, min_reader: READER_VERSION }
}

#[async_trait]
impl PolicyStore for MemoryStore {
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError> {
        let mut tables = self.open()?;
        let table = tables.feeds.entry(feed).or_insert_with(|| FeedTable {
            head: first_head(),
            entities: BTreeMap::new(),
            log: BTreeMap::new(),
        });
        Ok(table.head.clone())
    }

    async fn head(&self, feed: Feed, _: Consistency) -> Result<Head, StoreError> {
        Ok(self.open()?.feed(feed)?.head.clone())
    }

    async fn entities(&self, feed: Feed) -> Result<Vec<Entity>, StoreError> {
        let tables = self.open()?;
        tables.feed(feed)?.entities.iter().map(|(key, json)| decode_entity(key, json)).collect()
    }

    async fn log_after(&self, feed: Feed, after: u64) -> Result<Vec<LogEntry>, StoreError> {
        let tables = self.open()?;
        let log = &tables.feed(feed)?.log;
        log.range(after.saturating_add(1)..)
            .map(|(revision, json)| decode_log(feed, *revision, json))
            .collect()
    }

    async fn commit(
        &self,
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError> {
        let Checked { entry, json } = Checked::new(feed, expected, author, at, changes)?;
        let mut images = Vec::new();
        for change in &entry.changes {
            images.push(match change {
                Change::Put(entity) => (entity.key(), Some(encode_entity(entity)?)),
                Change::Delete(key) => (key.clone(), None),
            });
        }
        let mut tables = self.open()?;
        let table = tables.feeds.get_mut(&feed).ok_or(StoreError::NotSetUp(feed.as_str()))?;
        if (&table.head.generation, table.head.revision, table.head.min_reader)
            != (&expected.generation, expected.revision, expected.min_reader)
        {
            return Err(CommitError::Conflict);
        }
        for (key, image) in images {
            match image {
                Some(image) => drop(table.entities.insert(key, image)),
                None => drop(table.entities.remove(&key)),
            }
        }
        table.log.insert(entry.revision, json);
        table.head.revision = entry.revision;
        forget_old_log(feed, table, at);
        Ok(table.head.clone())
    }
}

fn forget_old_log(feed: Feed, table: &mut FeedTable, now: i64) {
    while let Some((&revision, json)) = table.log.first_key_value() {
        let old = decode_log(feed, revision, json).is_ok_and(|entry| entry.at < now - LOG_RETENTION_S);
        if !old {
            break;
        }
        table.log.remove(&revision);
        table.head.min_log_revision = table.head.min_log_revision.max(revision + 1);
    }
}

#[async_trait]
impl RuntimeStore for MemoryStore {
    async fn read(&self, key: &RuntimeKey) -> Result<Option<RuntimeItem>, StoreError> {
        Ok(self.open()?.runtime.get(key).cloned())
    }

    async fn list(&self, partition: &str) -> Result<Vec<RuntimeItem>, StoreError> {
        let tables = self.open()?;
        Ok(tables.runtime.values().filter(|item| item.key.partition == partition).cloned().collect())
    }

    async fn write(
        &self,
        key: &RuntimeKey,
        expected: Option<u64>,
        expires_at: Option<i64>,
        body: serde_json::Value,
    ) -> Result<u64, CommitError> {
        runtime_json(key, &body)?;
        let mut tables = self.open()?;
        let version = tables.runtime.get(key).map_or(0, |item| item.version);
        if expected.is_some_and(|expected| expected != version) {
            return Err(CommitError::Conflict);
        }
        let item = RuntimeItem { key: key.clone(), version: version + 1, expires_at, body };
        tables.runtime.insert(key.clone(), item);
        Ok(version + 1)
    }

    async fn remove(&self, key: &RuntimeKey) -> Result<(), StoreError> {
        self.open()?.runtime.remove(key);
        Ok(())
    }
}

/// A clock that stands still until it is told.
#[derive(Debug)]
pub struct ManualClock(Mutex<OffsetDateTime>);

impl ManualClock {
    /// Stands at this time.
    #[must_use]
    pub fn new(now: OffsetDateTime) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
