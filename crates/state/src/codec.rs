//! The JSON of stored entities and log entries. Nothing is half-read: an unknown field, a newer shape or a
//! body under a foreign key is an error that names the item.

use keystile_model::feed::{Entity, EntityKey, Feed, LogEntry};
use keystile_model::store::StoreError;

/// The error for an item that is not understood.
pub(crate) fn unreadable(key: impl Into<String>, reason: impl ToString) -> StoreError {
    StoreError::Unreadable { key: key.into(), reason: reason.to_string() }
}

/// How an entity's item is called in errors: `access#user/alice`.
pub(crate) fn entity_name(key: &EntityKey) -> String {
    format!("{}#{key}", key.kind.feed().as_str())
}

/// How a log item is called in errors: `access#log/7`.
pub(crate) fn log_name(feed: Feed, revision: u64) -> String {
    format!("{}#log/{revision}", feed.as_str())
}

/// The JSON of an entity.
pub(crate) fn encode_entity(entity: &Entity) -> Result<String, StoreError> {
    serde_json::to_string(entity).map_err(|error| unreadable(entity_name(&entity.key()), error))
}

/// Reads the entity that is stored under `key`.
pub(crate) fn decode_entity(key: &EntityKey, json: &str) -> Result<Entity, StoreError> {
    let entity: Entity = serde_json::from_str(json).map_err(|error| unreadable(entity_name(key), error))?;
    if entity.key() != *key {
        return Err(unreadable(entity_name(key), format!("its body is that of {}", entity.key())));
    }
    Ok(entity)
}

/// Reads the log entry that is stored as `revision`.
pub(crate) fn decode_log(feed: Feed, revision: u64, json: &str) -> Result<LogEntry, StoreError> {
    let name = || log_name(feed, revision);
    let entry: LogEntry = serde_json::from_str(json).map_err(|error| unreadable(name(), error))?;
    if entry.revision != revision {
        return Err(unreadable(name(), format!("its body is that of revision {}", entry.revision)));
    }
    if let Some(change) = entry.changes.iter().find(|change| change.key().kind.feed() != feed) {
        return Err(unreadable(name(), format!("{} belongs to the other feed", change.key())));
    }
    Ok(entry)
}
