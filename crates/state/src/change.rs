//! What every store asks of a change before it writes anything.

use std::collections::BTreeSet;

use keystile_model::feed::{Change, Feed, Head, LogEntry, MAX_CHANGES, MAX_LOG_BYTES, READER_VERSION};
use keystile_model::store::{CommitError, RuntimeKey, StoreError};

/// Longest id of an entity and sort key of a runtime item, in bytes: DynamoDB's limit for a sort key.
const MAX_SORT_BYTES: usize = 1_024;
/// Longest partition, in bytes: DynamoDB's limit for a partition key.
const MAX_PARTITION_BYTES: usize = 2_048;
/// Largest body of a runtime item, in bytes of JSON (a DynamoDB item ends at 400 KB).
const MAX_RUNTIME_BYTES: usize = 350 * 1024;

/// A change that may be written: its log entry and the entry's JSON.
///
/// The log holds every image, so its limit bounds the whole transaction to about twice
/// [`MAX_LOG_BYTES`]: far below DynamoDB's 4 MB.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) entry: LogEntry,
    pub(crate) json: String,
}

impl Checked {
    /// Checks the limits of one change on top of `expected`.
    pub(crate) fn new(
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Self, CommitError> {
        if expected.min_reader > READER_VERSION {
            return Err(too_new(feed, expected.min_reader).into());
        }
        check_keys(feed, changes).map_err(CommitError::Illegal)?;
        let entry = LogEntry {
            revision: expected.revision + 1,
            generation: expected.generation.clone(),
            author: author.to_owned(),
            at,
            changes: changes.to_vec(),
        };
        let json = serde_json::to_string(&entry)
            .map_err(|error| CommitError::Illegal(format!("it has no JSON form: {error}")))?;
        if json.len() > MAX_LOG_BYTES {
            return Err(CommitError::Illegal(format!(
                "it is {} bytes large and {MAX_LOG_BYTES} are allowed: write it as several changes",
                json.len()
            )));
        }
        Ok(Self { entry, json })
    }
}

fn check_keys(feed: Feed, changes: &[Change]) -> Result<(), String> {
    if changes.is_empty() {
        return Err("it is empty".to_owned());
    }
    if changes.len() > MAX_CHANGES {
        return Err(format!(
            "it has {} entities and {MAX_CHANGES} are allowed: write it as several changes",
            changes.len()
        ));
    }
    let mut seen = BTreeSet::new();
    for change in changes {
        let key = change.key();
        if key.kind.feed() != feed {
            return Err(format!("{key} does not belong to the {} feed", feed.as_str()));
        }
        if key.id.is_empty() || key.id.len() > MAX_SORT_BYTES {
            return Err(format!("the id of a {} has 1 to {MAX_SORT_BYTES} bytes", key.kind.as_str()));
        }
        if let Some(twice) = seen.replace(key) {
            return Err(format!("{twice} is in it twice"));
        }
    }
    Ok(())
}

/// Checks a runtime item; answers its body's JSON.
pub(crate) fn runtime_json(key: &RuntimeKey, body: &serde_json::Value) -> Result<String, CommitError> {
    let fits = |text: &str, most: usize| !text.is_empty() && text.len() <= most;
    if !fits(&key.partition, MAX_PARTITION_BYTES) || !fits(&key.sort, MAX_SORT_BYTES) {
        return Err(CommitError::Illegal(format!(
            "a runtime key has 1 to {MAX_PARTITION_BYTES} and 1 to {MAX_SORT_BYTES} bytes"
        )));
    }
    let json = body.to_string();
    if json.len() > MAX_RUNTIME_BYTES {
        return Err(CommitError::Illegal(format!(
            "{}/{} is {} bytes large and {MAX_RUNTIME_BYTES} are allowed",
            key.partition,
            key.sort,
            json.len()
        )));
    }
    Ok(json)
}

/// The error for a feed that asks for a newer reader.
pub(crate) fn too_new(feed: Feed, min_reader: u32) -> StoreError {
    StoreError::Unreadable {
        key: format!("{}#head", feed.as_str()),
        reason: format!("it asks for readers of version {min_reader}, this one has {READER_VERSION}"),
    }
}
