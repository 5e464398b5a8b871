//! Subscriptions: channels and patterns on the home link, for the cluster's bus spreads what is published;
//! shard channels at their slots; what may match keyspace events at every primary, for those tell of their own
//! keys only.
//!
//! The session knows by name what it is subscribed to: so a subscription outlives the node that held it (what
//! is published meanwhile is missed), and the counts in confirmations are those of the whole session.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::pin::Pin;

use keystile_resp::encode;
use keystile_resp::slot;
use tokio::time::Sleep;

use super::dialect::refuses_to_leave;
use super::link::{LinkId, Whisper};
use super::order::{Awaiting, Entry, Meaning, NO_SLOT};
use super::plan::CROSS_SLOT;
use super::requests::{Incoming, NOBODY, Taken};
use super::rest::Rest;
use super::{Barrier, ClusterSession};
use crate::session::End;
use crate::session::expected::{Label, Topic};
use crate::session::judge::Refused;
use crate::session::subscriber::refusal_for_a_subscriber;

/// Names that a session may be subscribed to.
const MOST_NAMES: usize = 64 * 1024;
/// Bytes that these names may have together.
const MOST_NAME_BYTES: usize = 1024 * 1024;
/// What the channels of keyspace events begin with; the second are those of the fields of hashes, in Redis 8.8.
const KEYSPACE: [&[u8]; 2] = [b"__key", b"__subkey"];

pub(super) type Names = BTreeMap<Box<[u8]>, Option<LinkId>>;

/// What a session is subscribed to, and on which link; `None` while it has none.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    pub(super) channels: Names,
    pub(super) patterns: Names,
    pub(super) shards: Names,
    /// Bytes of all these names.
    pub(super) bytes: usize,
    /// The link on which all names that may match keyspace events were subscribed to, if it is one. It stays that one
    /// when home moves.
    pub(super) all_at: Option<LinkId>,
    /// The other links on which such names are subscribed to: all of them but the fresh ones.
    pub(super) everywhere: Vec<LinkId>,
    /// Such names that were subscribed to at home since.
    pub(super) fresh: Vec<(Topic, Box<[u8]>)>,
    /// Set while a name has no link.
    pub(super) timer: Option<Pin<Box<Sleep>>>,
}

impl Subscriptions {
    pub(super) fn names(&mut self, topic: Topic) -> &mut Names {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
            Topic::Shard => &mut self.shards,
        }
    }

    pub(super) fn add(&mut self, topic: Topic, name: &[u8], link: LinkId) {
        if may_be_keyspace(topic, name) {
            let is_where_all_are = !self.keyspace() || self.all_at == Some(link);
            self.all_at = Some(link).filter(|_| is_where_all_are);
        }
        if self.names(topic).insert(Box::from(name), Some(link)).is_none() {
            self.bytes += name.len();
            if may_be_keyspace(topic, name) {
                self.fresh.push((topic, Box::from(name)));
            }
        }
    }

    /// Takes a name out; gives the link on which it was.
    pub(super) fn remove(&mut self, topic: Topic, name: &[u8]) -> Option<LinkId> {
        let place = self.names(topic).remove(name)?;
        self.bytes = self.bytes.saturating_sub(name.len());
        place
    }

    /// The count in a confirmation.
    pub(super) fn count(&self, topic: Topic) -> usize {
        match topic {
            Topic::Shard => self.shards.len(),
            Topic::Channel | Topic::Pattern => self.channels.len() + self.patterns.len(),
        }
    }

    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty() && self.shards.is_empty()
    }

    /// All names that may match keyspace events.
    pub(super) fn keyspace_names(&self) -> Vec<(Topic, Box<[u8]>)> {
        let channels = self.channels.keys().map(|name| (Topic::Channel, name));
        let patterns = self.patterns.keys().map(|name| (Topic::Pattern, name));
        let all = channels.chain(patterns).filter(|(topic, name)| may_be_keyspace(*topic, name));
        all.map(|(topic, name)| (topic, name.clone())).collect()
    }

    pub(super) fn keyspace(&self) -> bool {
        self.channels.keys().any(|name| may_be_keyspace(Topic::Channel, name))
            || self.patterns.keys().any(|name| may_be_keyspace(Topic::Pattern, name))
    }
}

/// Whether a name can match the channel of a keyspace event.
pub(super) fn may_be_keyspace(topic: Topic, name: &[u8]) -> bool {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let plain = match topic {
        Topic::Shard => return false,
        Topic::Channel => name.len(),
        Topic::Pattern => name.iter().position(special).unwrap_or(name.len()),
    };
    KEYSPACE.iter().any(|start| {
        let compared = plain.min(start.len());
        name.get(..compared) == start.get(..compared) && (compared == start.len() || plain < name.len())
    })
}

/// Whether a channel is one of keyspace events.
pub(super) fn is_keyspace(channel: &[u8]) -> bool {
    KEYSPACE.iter().any(|start| channel.starts_with(start))
}

pub(super) fn word(topic: Topic, adds: bool) -> &'static str {
    match (topic, adds) {
        (Topic::Channel, true) => "subscribe",
        (Topic::Channel, false) => "unsubscribe",
        (Topic::Pattern, true) => "psubscribe",
        (Topic::Pattern, false) => "punsubscribe",
        (Topic::Shard, true) => "ssubscribe",
        (Topic::Shard, false) => "sunsubscribe",
    }
}

/// A subscription to these names.
pub(super) fn request_of(topic: Topic, names: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut request = Vec::new();
    let mut words = vec![word(topic, true).to_ascii_uppercase().into_bytes()];
    words.extend(names.map(|name| name.as_ref().to_vec()));
    encode::request(&mut request, &words);
    request
}

impl ClusterSession {
    /// Whether a RESP2 client subscribes, which may say little else then.
    #[inline]
    pub(super) fn is_subscriber2(&self) -> bool {
        !self.settings.resp3 && !self.subscriptions.is_empty()
    }

    /// Whether a subscription of the client's is not confirmed yet: what it may say next depends on the answer.
    #[inline]
    pub(super) fn is_subscribing(&mut self) -> bool {
        self.order.front().is_some_and(|front| matches!(front.meaning, Meaning::Acks { .. }))
    }

    /// `SUBSCRIBE` and its kin. All before is answered first: confirmations of RESP3 are no replies, so nothing
    /// but this puts them in their place.
    pub(super) fn subscribe(
        &mut self,
        topic: Topic,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        if !self.order.is_empty() || self.waits_for_map {
            return Ok(Taken::No);
        }
        let names = args.get(1..).unwrap_or_default();
        if names.is_empty() {
            return self.send_home(incoming);
        }
        let known = self.subscriptions.count(Topic::Channel) + self.subscriptions.count(Topic::Shard);
        let bytes = self.subscriptions.bytes + names.iter().map(|name| name.len()).sum::<usize>();
        if known + names.len() > MOST_NAMES || bytes > MOST_NAME_BYTES {
            let text = "a session subscribes to at most 65,536 names, of 1 MiB together: unsubscribe from some, or \
                        use a pattern or another connection";
            return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "too long", text));
        }
        let place = match (topic, names) {
            (Topic::Shard, [first, ..]) => slot::of_key(first),
            _ => NO_SLOT,
        };
        if place != NO_SLOT && names.iter().any(|name| slot::of_key(name) != place) {
            return self.subscribe_by_slots(incoming, names);
        }
        let link = if place == NO_SLOT { self.home_link() } else { self.link_of_slot(place) };
        let Some(link) = link else { return self.answer_error(incoming, NOBODY) };
        let left = u32::try_from(names.len()).ok();
        self.lift(link);
        self.send_on(incoming, link, place, true, Meaning::Acks { topic, left, rest: None })
    }

    /// `SSUBSCRIBE` of channels of several slots: one run of the same slot behind the other, so that the
    /// confirmations come in the order of the names.
    fn subscribe_by_slots(&mut self, incoming: &Incoming<'_>, names: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        if incoming.streamed {
            return self.answer_error(incoming, CROSS_SLOT);
        }
        if !self.may_send(None) {
            return Ok(Taken::No);
        }
        self.note(incoming);
        let muted = self.take_muted();
        let names = Rest::new(names.iter().map(|name| Box::from(name.as_ref())));
        self.subscribe_run(incoming.label(), muted, Box::new(names));
        Ok(Taken::Yes)
    }

    /// Asks for the first of these shard channels, and all behind it that are of the same slot.
    pub(super) fn subscribe_run(&mut self, label: Label, muted: bool, mut names: Box<Rest>) {
        let (slot, asked) = names.take_run();
        let left = u32::try_from(asked.len()).ok();
        let rest = (!names.is_empty()).then_some(names);
        let Some(id) = self.link_of_slot(slot) else { return self.answer(label, NOBODY.to_vec(), muted) };
        self.lift(id);
        let mut entry = Entry::new(Awaiting::Link(id), label, muted);
        entry.slot = slot;
        entry.meaning = Meaning::Acks { topic: Topic::Shard, left, rest };
        self.barrier = Some(Barrier { number: self.order.next(), link: Some(id) });
        let request = request_of(Topic::Shard, asked.iter());
        self.push_sent(id, entry, &request, &request);
    }

    /// `UNSUBSCRIBE` and its kin: confirmed here, for all names are known here.
    pub(super) fn unsubscribe(
        &mut self,
        topic: Topic,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        if !self.order.is_empty() {
            return Ok(Taken::No);
        }
        if self.subscriptions.is_empty() && refuses_to_leave(&self.database) {
            let mut words = Vec::new();
            let text = format!("'{}' command executed not in subscribed mode", word(topic, false));
            encode::error(&mut words, "NOSUB", &text);
            return self.answer_error(incoming, &words);
        }
        self.note(incoming);
        self.take_muted();
        let given = args.get(1..).unwrap_or_default();
        let names: Vec<Box<[u8]>> = match given {
            [] => self.subscriptions.names(topic).keys().cloned().collect(),
            given => given.iter().map(|name| Box::from(name.as_ref())).collect(),
        };
        let mut answer = Vec::new();
        if names.is_empty() {
            self.confirm(&mut answer, topic, false, None);
        }
        let everywhere = self.subscriptions.everywhere.clone();
        for name in names {
            if !self.subscriptions.names(topic).contains_key(&name) {
                self.confirm(&mut answer, topic, false, Some(&name));
                continue;
            }
            let link = self.subscriptions.remove(topic, &name);
            let mut request = Vec::new();
            encode::request(&mut request, &[word(topic, false).to_ascii_uppercase().as_bytes(), &name]);
            let others = everywhere.iter().copied().filter(|_| may_be_keyspace(topic, &name));
            for id in others.chain(link) {
                if let Some(link) = self.links.get(id) {
                    link.whisper(&request, Whisper { topic, adds: false, left: 1 });
                }
            }
            self.confirm(&mut answer, topic, false, Some(&name));
        }
        if !self.subscriptions.keyspace() {
            self.subscriptions.everywhere.clear();
        }
        self.lower();
        self.answer(incoming.label(), answer, false);
        Ok(Taken::Yes)
    }

    /// A confirmation of ours.
    pub(super) fn confirm(&self, out: &mut Vec<u8>, topic: Topic, adds: bool, name: Option<&[u8]>) {
        out.extend_from_slice(if self.settings.resp3 { b">3\r\n" } else { b"*3\r\n" });
        encode::bulk(out, word(topic, adds).as_bytes());
        match name {
            Some(name) => encode::bulk(out, name),
            None if self.settings.resp3 => out.extend_from_slice(b"_\r\n"),
            None => out.extend_from_slice(b"$-1\r\n"),
        }
        encode::integer(out, i64::try_from(self.subscriptions.count(topic)).unwrap_or(i64::MAX));
    }

    /// What a RESP2 client that subscribes may not say, in the servers' words.
    pub(super) fn refuse_subscriber(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        let is_ping =
            incoming.id.is_some_and(|id| id.command().name == "ping" && id.command().container.is_none());
        if is_ping && incoming.request.argc <= 2 {
            let mut answer = b"*2\r\n$4\r\npong\r\n".to_vec();
            encode::bulk(&mut answer, incoming.args().get(1).map(AsRef::as_ref).unwrap_or_default());
            self.answer_here(incoming, &answer);
            return Ok(Taken::Yes);
        }
        if incoming.id.is_some_and(|id| id.command().name == "exec") {
            self.unwatch_unseen();
        }
        let words = refusal_for_a_subscriber(incoming.id, incoming.request, incoming.buf);
        self.answer_error(incoming, &words)
    }

    /// Nothing is subscribed to.
    pub(super) fn forget_subscriptions(&mut self) {
        self.subscriptions = Subscriptions::default();
    }

    /// Whether a link holds subscriptions.
    pub(super) fn is_subscribed_on(&self, id: LinkId) -> bool {
        let on = |names: &Names| names.values().any(|place| *place == Some(id));
        on(&self.subscriptions.channels)
            || on(&self.subscriptions.patterns)
            || on(&self.subscriptions.shards)
            || self.subscriptions.everywhere.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_match_keyspace_events() {
        for (topic, name, may) in [
            (Topic::Channel, "__keyspace@0__:k", true),
            (Topic::Channel, "__key", true),
            (Topic::Channel, "__ke", false),
            (Topic::Channel, "news", false),
            (Topic::Pattern, "__keyevent@*__:del", true),
            (Topic::Pattern, "*", true),
            (Topic::Pattern, "_?keyspace*", true),
            (Topic::Pattern, "__ke", false),
            (Topic::Pattern, "news.*", false),
            (Topic::Shard, "__keyspace@0__:k", false),
        ] {
            assert_eq!(may_be_keyspace(topic, name.as_bytes()), may, "{name}");
        }
    }
}
