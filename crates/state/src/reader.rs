//! Reading a feed: from nothing to everything once, then change by change, each whole and in order.
//!
//! Queries are only read-committed against transactions, so a read of the entities may show half a change.
//! The log repairs that: each of its items is one change with the full new images, and a reader that has
//! applied every change between the head before its read and the head after it has a consistent whole.
//!
//! ```text
//!  nothing ──load: head, entities, head, log──▶ at revision r ──poll──▶ at revision r' (the contiguous prefix)
//!                                                  │ another generation, too far behind, a gap that stays
//!                                                  └──────────────▶ load again
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keystile_model::feed::{Change, Entity, EntityKey, Feed, Head, LogEntry, READER_VERSION};
use keystile_model::policy::Policy;
use keystile_model::store::{Clock, Consistency, PolicyStore, StoreError};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::change::too_new;

/// Every so many polls the head is read strongly, the first included.
const STRONG_EVERY: u64 = 10;
/// Polls in a row that may end before a gap until everything is read again: the log has lost an item.
const GAP_POLLS: u32 = 5;
/// Reads of the log in one poll when it has a gap.
const LOG_READS: u32 = 3;
/// Attempts at one load while others write.
const LOAD_ATTEMPTS: u32 = 5;
/// A reader that is further behind reads everything again: that is cheaper and bounded.
const RELOAD_BEHIND: u64 = 2_000;
/// The pause before reading again what was torn.
const TORN_PAUSE: Duration = Duration::from_millis(10);

/// What a poll brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing new.
    Nothing,
    /// Changes to apply in this order; afterwards the reader stands at `revision`.
    Delivered {
        /// Steps of whole changes.
        changes: Vec<Change>,
        /// The last of them.
        revision: u64,
    },
    /// Everything anew: forget what the feed held before.
    Reloaded {
        /// All entities of the feed.
        entities: Vec<Entity>,
        /// The revision that they stand for.
        revision: u64,
    },
}

/// Follows one feed. It keeps no entities, only its place.
pub struct FeedReader<S: PolicyStore + ?Sized> {
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    feed: Feed,
    place: Option<Head>,
    polls: u64,
    gap_polls: u32,
    current_at: Option<OffsetDateTime>,
}

impl<S: PolicyStore + ?Sized> FeedReader<S> {
    /// A reader that has read nothing.
    pub fn new(store: Arc<S>, feed: Feed, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, feed, place: None, polls: 0, gap_polls: 0, current_at: None }
    }

    /// The feed.
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.feed
    }

    /// Where it stands: the head whose revision it has applied; none before the first load.
    #[must_use]
    pub fn place(&self) -> Option<&Head> {
        self.place.as_ref()
    }

    /// The last instant at which what it has applied was all there was, as far as it could see: the beginning
    /// of the read of the head that said so. An eventually consistent read may be wrong by its own delay
    /// (usually under a second); every tenth is strong.
    #[must_use]
    pub fn current_at(&self) -> Option<OffsetDateTime> {
        self.current_at
    }

    /// Looks for what is new. After an error the reader stands where it stood, and the next poll goes on.
    ///
    /// # Errors
    /// [`StoreError`] from the store; `Unreadable` if the feed asks for a newer reader.
    pub async fn poll(&mut self) -> Result<Step, StoreError> {
        let Some(place) = self.place.clone() else { return self.load().await };
        let began = self.clock.now();
        let head = self.look(&place).await?;
        if head.generation != place.generation
            || head.revision < place.revision
            || place.revision + 1 < head.min_log_revision
            || head.revision - place.revision > RELOAD_BEHIND
        {
            return self.load().await;
        }
        if head.revision == place.revision {
            self.current_at = Some(began);
            return Ok(Step::Nothing);
        }
        let entries = prefix(&*self.store, self.feed, &place, head.revision).await?;
        let revision = entries.last().map_or(place.revision, |entry| entry.revision);
        if revision >= head.revision {
            self.current_at = Some(began);
        }
        if entries.is_empty() {
            self.gap_polls += 1;
            return if self.gap_polls >= GAP_POLLS { self.load().await } else { Ok(Step::Nothing) };
        }
        self.gap_polls = 0;
        self.place = Some(Head { revision, ..head });
        let changes = entries.into_iter().flat_map(|entry| entry.changes).collect();
        Ok(Step::Delivered { changes, revision })
    }

    async fn load(&mut self) -> Result<Step, StoreError> {
        let (place, entities, current_at) = whole(&*self.store, self.feed, || self.clock.now()).await?;
        let revision = place.revision;
        self.place = Some(place);
        self.current_at = Some(current_at);
        self.gap_polls = 0;
        Ok(Step::Reloaded { entities, revision })
    }

    /// The head, read strongly at times, and again where an eventual read says something surprising.
    async fn look(&mut self, place: &Head) -> Result<Head, StoreError> {
        let strong = self.polls.is_multiple_of(STRONG_EVERY);
        self.polls += 1;
        if !strong {
            let head = self.store.head(self.feed, Consistency::Eventual).await?;
            if head.generation == place.generation && head.revision >= place.revision {
                return readable(self.feed, head);
            }
        }
        strong_head(&*self.store, self.feed).await
    }
}

async fn strong_head<S: PolicyStore + ?Sized>(store: &S, feed: Feed) -> Result<Head, StoreError> {
    readable(feed, store.head(feed, Consistency::Strong).await?)
}

fn readable(feed: Feed, head: Head) -> Result<Head, StoreError> {
    if head.min_reader > READER_VERSION { Err(too_new(feed, head.min_reader)) } else { Ok(head) }
}

/// The whole feed at one revision, and the instant (by `now`) at which that was all there was.
async fn whole<S: PolicyStore + ?Sized, T>(
    store: &S,
    feed: Feed,
    now: impl Fn() -> T + Send,
) -> Result<(Head, Vec<Entity>, T), StoreError> {
    for attempt in 0..LOAD_ATTEMPTS {
        if attempt > 0 {
            pause(TORN_PAUSE, attempt).await;
        }
        let before = strong_head(store, feed).await?;
        let entities = store.entities(feed).await?;
        let current_at = now();
        let after = strong_head(store, feed).await?;
        if after.generation != before.generation || after.revision < before.revision {
            continue;
        }
        let entries = if after.revision == before.revision {
            Vec::new()
        } else {
            prefix(store, feed, &before, after.revision).await?
        };
        let revision = entries.last().map_or(before.revision, |entry| entry.revision);
        if revision >= after.revision {
            return Ok((Head { revision, ..after }, replayed(entities, entries), current_at));
        }
    }
    let feed = feed.as_str();
    Err(StoreError::Unavailable(format!("the {feed} feed changed all the while it was read")))
}

/// The log after `place` up to its first gap, read again while it does not reach `target`.
async fn prefix<S: PolicyStore + ?Sized>(
    store: &S,
    feed: Feed,
    place: &Head,
    target: u64,
) -> Result<Vec<LogEntry>, StoreError> {
    let mut entries = Vec::new();
    for read in 0..LOG_READS {
        if read > 0 {
            pause(TORN_PAUSE, read - 1).await;
        }
        entries = contiguous(place, store.log_after(feed, place.revision).await?);
        if entries.last().map_or(place.revision, |entry| entry.revision) >= target {
            break;
        }
    }
    Ok(entries)
}

/// The entries that follow `place` without a gap, in its generation.
fn contiguous(place: &Head, entries: Vec<LogEntry>) -> Vec<LogEntry> {
    let wanted = place.revision + 1..;
    entries
        .into_iter()
        .zip(wanted)
        .take_while(|(entry, revision)| entry.revision == *revision && entry.generation == place.generation)
        .map(|(entry, _)| entry)
        .collect()
}

/// The entities after these changes.
fn replayed(entities: Vec<Entity>, entries: Vec<LogEntry>) -> Vec<Entity> {
    if entries.is_empty() {
        return entities;
    }
    let mut by_key: BTreeMap<EntityKey, Entity> =
        entities.into_iter().map(|entity| (entity.key(), entity)).collect();
    for change in entries.into_iter().flat_map(|entry| entry.changes) {
        match change {
            Change::Put(entity) => drop(by_key.insert(entity.key(), entity)),
            Change::Delete(key) => drop(by_key.remove(&key)),
        }
    }
    by_key.into_values().collect()
}

/// Both feeds at once, for a run that reads once, plans, and commits on top of what it read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The compiled policy.
    pub policy: Policy,
    /// Where the access feed stood.
    pub access: Head,
    /// Where the inventory feed stood.
    pub inventory: Head,
}

impl Loaded {
    /// What [`PolicyStore::commit`] takes as `expected`.
    #[must_use]
    pub fn head(&self, feed: Feed) -> &Head {
        match feed {
            Feed::Access => &self.access,
            Feed::Inventory => &self.inventory,
        }
    }
}

/// Reads both feeds, each a consistent whole.
///
/// # Errors
/// [`StoreError`] from the store.
pub async fn load<S: PolicyStore + ?Sized>(store: &S) -> Result<Loaded, StoreError> {
    let ((access, entities), (inventory, more)) =
        tokio::try_join!(load_feed(store, Feed::Access), load_feed(store, Feed::Inventory))?;
    Ok(Loaded { policy: Policy::new(entities.into_iter().chain(more)), access, inventory })
}

/// Reads one feed as a consistent whole.
///
/// # Errors
/// [`StoreError`] from the store.
pub async fn load_feed<S: PolicyStore + ?Sized>(
    store: &S,
    feed: Feed,
) -> Result<(Head, Vec<Entity>), StoreError> {
    whole(store, feed, || ()).await.map(|(head, entities, ())| (head, entities))
}

/// Sleeps between half and all of `first * 2^n`, so that those who met do not meet again.
pub(crate) async fn pause(first: Duration, n: u32) {
    tokio::time::sleep(jittered(first * 2_u32.saturating_pow(n.min(10)))).await;
}

/// Between half and all of `most`.
pub(crate) fn jittered(most: Duration) -> Duration {
    let random = u32::from(Uuid::new_v4().as_bytes()[0]);
    most / 2 + most / 2 * random / 255
}
