//! Writes a plan to a feed: many changes, each whole and small enough, each conditional on where the feed
//! stood when the plan was made. A conflict means reading and planning again.

use keystile_model::feed::{Change, Entity, Feed, Head, MAX_CHANGES};
use keystile_model::store::{CommitError, Consistency, PolicyStore, StoreError};

/// Largest change that is written, in bytes of JSON; below the feed's own limit, with room for its frame.
const MAX_BYTES: usize = 200 * 1024;

/// What must be written together.
pub trait Unit {
    /// Its steps: never none, and no two about the same entity.
    fn changes(&self) -> &[Change];
}

/// Splits units into batches that each fit one change. The answer is where each batch ends.
#[must_use]
pub fn batches<U: Unit>(units: &[U]) -> Vec<&[U]> {
    let mut batches = Vec::new();
    let mut start = 0;
    let (mut count, mut bytes) = (0, 0);
    for (index, unit) in units.iter().enumerate() {
        let more = unit.changes().len();
        let size = json_len(unit.changes());
        if index > start && (count + more > MAX_CHANGES || bytes + size > MAX_BYTES) {
            batches.push(&units[start..index]);
            (start, count, bytes) = (index, 0, 0);
        }
        count += more;
        bytes += size;
    }
    if start < units.len() {
        batches.push(&units[start..]);
    }
    batches
}

fn json_len(changes: &[Change]) -> usize {
    serde_json::to_vec(changes).map_or(MAX_BYTES, |bytes| bytes.len())
}

/// What came of one attempt to write a plan.
#[derive(Debug)]
pub enum Outcome {
    /// Everything was written.
    Done,
    /// Somebody else wrote, or the fate of a batch is unknown: read and plan again.
    Stale(String),
    /// It cannot be written.
    Failed(CommitError),
}

/// Writes units batch by batch. Answers how many units and batches were surely written.
pub async fn write<U: Unit + Sync>(
    store: &dyn PolicyStore,
    feed: Feed,
    mut head: Head,
    author: &str,
    at: i64,
    units: &[U],
) -> (usize, usize, Outcome) {
    let (mut written, mut commits) = (0, 0);
    for batch in batches(units) {
        let changes: Vec<Change> = batch.iter().flat_map(|unit| unit.changes().iter().cloned()).collect();
        match store.commit(feed, &head, author, at, &changes).await {
            Ok(next) => {
                head = next;
                written += batch.len();
                commits += 1;
            }
            Err(CommitError::Conflict) => {
                return (written, commits, Outcome::Stale("another writer was faster".to_owned()));
            }
            Err(CommitError::Store(StoreError::Unavailable(why))) => {
                return (written, commits, Outcome::Stale(why));
            }
            Err(error) => return (written, commits, Outcome::Failed(error)),
        }
    }
    (written, commits, Outcome::Done)
}

/// A feed's entities, and where it stood before they were read: whatever lands meanwhile makes the next
/// commit on that head a conflict.
///
/// # Errors
/// What the store said.
pub async fn read(store: &dyn PolicyStore, feed: Feed) -> Result<(Head, Vec<Entity>), StoreError> {
    let head = store.head(feed, Consistency::Strong).await?;
    let entities = store.entities(feed).await?;
    Ok((head, entities))
}
