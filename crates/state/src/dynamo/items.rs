//! The shapes of the items. Attributes that are not listed here are refused in the policy table.

use std::collections::HashMap;
use std::str::FromStr;

use aws_sdk_dynamodb::types::AttributeValue;
use keystile_model::feed::{
    Entity, EntityKey, EntityKind, Feed, Head, LOG_RETENTION_S, LogEntry, READER_VERSION,
};
use keystile_model::store::{RuntimeItem, RuntimeKey, StoreError};

use crate::codec::{decode_entity, decode_log, encode_entity, unreadable};

pub(super) type Item = HashMap<String, AttributeValue>;

/// The sort key of a feed's head.
const HEAD: &str = "head";
/// How long a log item stays after readers no longer count on it, in seconds: a day.
const LOG_GRACE_S: i64 = 24 * 3_600;

pub(super) fn entity_partition(kind: EntityKind) -> String {
    format!("{}#{}", kind.feed().as_str(), kind.as_str())
}

pub(super) fn log_partition(feed: Feed) -> String {
    format!("{}#log", feed.as_str())
}

/// Padded so that keys sort as numbers do: `u64::MAX` has 20 digits.
pub(super) fn log_sort(revision: u64) -> String {
    format!("{revision:020}")
}

pub(super) fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(super) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn key(partition: impl Into<String>, sort: impl Into<String>) -> Item {
    Item::from([("pk".to_owned(), text(partition)), ("sk".to_owned(), text(sort))])
}

pub(super) fn head_key(feed: Feed) -> Item {
    key(format!("{}#head", feed.as_str()), HEAD)
}

pub(super) fn log_key(feed: Feed, revision: u64) -> Item {
    key(log_partition(feed), log_sort(revision))
}

pub(super) fn entity_key(entity: &EntityKey) -> Item {
    key(entity_partition(entity.kind), entity.id.clone())
}

fn with<const N: usize>(mut item: Item, fields: [(&str, AttributeValue); N]) -> Item {
    item.extend(fields.map(|(name, value)| (name.to_owned(), value)));
    item
}

pub(super) fn head_item(feed: Feed, head: &Head) -> Item {
    with(
        head_key(feed),
        [
            ("v", number(READER_VERSION)),
            ("generation", text(head.generation.clone())),
            ("revision", number(head.revision)),
            ("min_log_revision", number(head.min_log_revision)),
            ("min_reader", number(head.min_reader)),
        ],
    )
}

pub(super) fn read_head(item: &Item) -> Result<Head, StoreError> {
    let fields = Fields::of(item);
    let head = Head {
        generation: fields.text("generation")?.to_owned(),
        revision: fields.number("revision")?,
        min_log_revision: fields.number("min_log_revision")?,
        min_reader: fields.number("min_reader")?,
    };
    // A head that asks for a newer reader may say more than is known here; its reader refuses it by that.
    if head.min_reader <= READER_VERSION {
        fields.known(&["generation", "revision", "min_log_revision", "min_reader"])?;
    }
    Ok(head)
}

/// `revision` is that of the change, so that a reader can tell an image that is newer than the head it saw.
pub(super) fn entity_item(entity: &Entity, revision: u64) -> Result<Item, StoreError> {
    Ok(with(
        entity_key(&entity.key()),
        [
            ("v", number(READER_VERSION)),
            ("revision", number(revision)),
            ("body", text(encode_entity(entity)?)),
        ],
    ))
}

/// Answers the entity and the revision of the change that wrote it.
pub(super) fn read_entity(kind: EntityKind, item: &Item) -> Result<(Entity, u64), StoreError> {
    let fields = Fields::of(item);
    fields.known(&["revision", "body"])?;
    let key = EntityKey { kind, id: fields.text("sk")?.to_owned() };
    Ok((decode_entity(&key, fields.text("body")?)?, fields.number("revision")?))
}

/// `uid` is random for each change: a writer that lost an answer finds its own change by it.
pub(super) fn log_item(feed: Feed, entry: &LogEntry, json: String, uid: &str) -> Item {
    let collected = entry.at.saturating_add(LOG_RETENTION_S).saturating_add(LOG_GRACE_S);
    with(
        log_key(feed, entry.revision),
        [
            ("v", number(READER_VERSION)),
            ("generation", text(entry.generation.clone())),
            ("at", number(entry.at)),
            ("uid", text(uid)),
            ("ttl", number(collected)),
            ("body", text(json)),
        ],
    )
}

pub(super) fn read_log(feed: Feed, item: &Item) -> Result<LogEntry, StoreError> {
    let fields = Fields::of(item);
    fields.known(&["generation", "at", "uid", "ttl", "body"])?;
    let entry = decode_log(feed, fields.number_in("sk")?, fields.text("body")?)?;
    if fields.text("generation")? != entry.generation {
        return Err(unreadable(fields.name(), "its generation is not that of its body"));
    }
    Ok(entry)
}

/// What retention needs of a log item.
pub(super) struct LogAge {
    pub(super) revision: u64,
    pub(super) generation: String,
    pub(super) at: i64,
}

pub(super) fn read_log_age(item: &Item) -> Result<LogAge, StoreError> {
    let fields = Fields::of(item);
    Ok(LogAge {
        revision: fields.number_in("sk")?,
        generation: fields.text("generation")?.to_owned(),
        at: fields.number("at")?,
    })
}

pub(super) fn read_runtime(item: &Item) -> Result<RuntimeItem, StoreError> {
    let fields = Fields::of(item);
    fields.not_newer()?;
    let body =
        serde_json::from_str(fields.text("body")?).map_err(|error| unreadable(fields.name(), error))?;
    Ok(RuntimeItem {
        key: RuntimeKey::new(fields.text("pk")?, fields.text("sk")?),
        version: fields.number("version")?,
        expires_at: item.contains_key("ttl").then(|| fields.number("ttl")).transpose()?,
        body,
    })
}

/// An item that is being read; its errors name it.
struct Fields<'a>(&'a Item);

impl<'a> Fields<'a> {
    fn of(item: &'a Item) -> Self {
        Self(item)
    }

    fn name(&self) -> String {
        let part = |name| self.0.get(name).and_then(|value| value.as_s().ok()).map_or("?", String::as_str);
        format!("{}/{}", part("pk"), part("sk"))
    }

    fn text(&self, field: &str) -> Result<&'a str, StoreError> {
        self.0
            .get(field)
            .and_then(|value| value.as_s().ok())
            .map(String::as_str)
            .ok_or_else(|| unreadable(self.name(), format!("{field} is missing or no string")))
    }

    fn number<T: FromStr>(&self, field: &str) -> Result<T, StoreError> {
        self.0
            .get(field)
            .and_then(|value| value.as_n().ok())
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| unreadable(self.name(), format!("{field} is missing or no number in range")))
    }

    /// A number that is kept as a string, as in sort keys.
    fn number_in<T: FromStr>(&self, field: &str) -> Result<T, StoreError> {
        self.text(field)?
            .parse()
            .map_err(|_| unreadable(self.name(), format!("{field} is no number in range")))
    }

    fn not_newer(&self) -> Result<(), StoreError> {
        let version: u32 = self.number("v")?;
        if version > READER_VERSION {
            return Err(unreadable(
                self.name(),
                format!("it has version {version}, this build reads up to {READER_VERSION}"),
            ));
        }
        Ok(())
    }

    /// Refuses a newer version, and attributes beside the key, `v` and these.
    fn known(&self, fields: &[&str]) -> Result<(), StoreError> {
        self.not_newer()?;
        let strange = self.0.keys().find(|name| {
            let name = name.as_str();
            !["pk", "sk", "v"].contains(&name) && !fields.contains(&name)
        });
        match strange {
            Some(name) => Err(unreadable(self.name(), format!("unknown attribute {name:?}"))),
            None => Ok(()),
        }
    }
}
