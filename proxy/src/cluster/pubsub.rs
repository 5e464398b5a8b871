//! Subscriptions: channels and patterns on the home link, for the cluster's bus spreads what is published;
//! shard channels at their slots; what may match keyspace events at every primary, for those tell of their own
//! keys only.
//!
//! The session knows by name what it is subscribed to: so a subscription outlives the node that held it (what
//! is published meanwhile is missed), and the counts in confirmations are those of the whole session.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use keystile_resp::encode;
use keystile_resp::reply::{Frame, is_subscriber_message};
use keystile_resp::slot;
use tokio::time::{Duration, Instant, Sleep};

use super::dialect::refuses_to_leave;
use super::link::{LinkId, Own, Purpose, Whisper};
use super::order::{Awaiting, Entry, Meaning, NO_SLOT};
use super::plan::CROSS_SLOT;
use super::requests::{Incoming, NOBODY, Taken};
use super::rest::Rest;
use super::slots::Redirect;
use super::value::Value;
use super::{Barrier, ClusterSession};
use crate::session::expected::{Label, Topic};
use crate::session::judge::Refused;
use crate::session::subscriber::{for_resp2, refusal_for_a_subscriber};
use crate::session::{End, Standing};

/// Names that a session may be subscribed to.
const MOST_NAMES: usize = 64 * 1024;
/// Bytes that these names may have together.
const MOST_NAME_BYTES: usize = 1024 * 1024;
/// The pause before a subscription that has lost its node is placed again, and before the next try.
const PLACE_AGAIN: Duration = Duration::from_millis(100);
/// What the channels of keyspace events begin with.
const KEYSPACE: &[u8] = b"__key";

type Names = BTreeMap<Box<[u8]>, Option<LinkId>>;

/// What a session is subscribed to, and on which link; `None` while it has none.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    channels: Names,
    patterns: Names,
    shards: Names,
    /// Bytes of all these names.
    bytes: usize,
    /// The link on which all names that may match keyspace events were subscribed to, if it is one. It stays that one
    /// when home moves.
    all_at: Option<LinkId>,
    /// The other links on which such names are subscribed to: all of them but the fresh ones.
    everywhere: Vec<LinkId>,
    /// Such names that were subscribed to at home since.
    fresh: Vec<(Topic, Box<[u8]>)>,
    /// Set while a name has no link.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Subscriptions {
    fn names(&mut self, topic: Topic) -> &mut Names {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
            Topic::Shard => &mut self.shards,
        }
    }

    fn add(&mut self, topic: Topic, name: &[u8], link: LinkId) {
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
    fn remove(&mut self, topic: Topic, name: &[u8]) -> Option<LinkId> {
        let place = self.names(topic).remove(name)?;
        self.bytes = self.bytes.saturating_sub(name.len());
        place
    }

    /// The count in a confirmation.
    fn count(&self, topic: Topic) -> usize {
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
    fn keyspace_names(&self) -> Vec<(Topic, Box<[u8]>)> {
        let channels = self.channels.keys().map(|name| (Topic::Channel, name));
        let patterns = self.patterns.keys().map(|name| (Topic::Pattern, name));
        let all = channels.chain(patterns).filter(|(topic, name)| may_be_keyspace(*topic, name));
        all.map(|(topic, name)| (topic, name.clone())).collect()
    }

    fn keyspace(&self) -> bool {
        self.channels.keys().any(|name| may_be_keyspace(Topic::Channel, name))
            || self.patterns.keys().any(|name| may_be_keyspace(Topic::Pattern, name))
    }
}

/// Whether a name can match the channel of a keyspace event.
fn may_be_keyspace(topic: Topic, name: &[u8]) -> bool {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let plain = match topic {
        Topic::Shard => return false,
        Topic::Channel => name.len(),
        Topic::Pattern => name.iter().position(special).unwrap_or(name.len()),
    };
    let compared = plain.min(KEYSPACE.len());
    name.get(..compared) == KEYSPACE.get(..compared) && (compared == KEYSPACE.len() || plain < name.len())
}

fn word(topic: Topic, adds: bool) -> &'static str {
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
fn request_of(topic: Topic, names: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<u8> {
    let mut request = Vec::new();
    let mut words = vec![word(topic, true).to_ascii_uppercase().into_bytes()];
    words.extend(names.map(|name| name.as_ref().to_vec()));
    encode::request(&mut request, &words);
    request
}

/// What a confirmation confirms.
fn confirmed(first: &[u8]) -> Option<(Topic, bool)> {
    let all = [Topic::Channel, Topic::Pattern, Topic::Shard];
    let all = all.into_iter().flat_map(|topic| [(topic, true), (topic, false)]);
    all.into_iter().find(|(topic, adds)| word(*topic, *adds).as_bytes() == first)
}

/// Whether an array has the form of a confirmation: its word, a name, a count.
fn is_confirmation(bytes: &[u8]) -> bool {
    let mut items = Value::read(bytes).and_then(|value| value.items()).into_iter().flatten();
    items.nth(2).and_then(Value::read).and_then(|count| count.integer()).is_some() && items.next().is_none()
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
    fn subscribe_run(&mut self, label: Label, muted: bool, mut names: Box<Rest>) {
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
    fn confirm(&self, out: &mut Vec<u8>, topic: Topic, adds: bool, name: Option<&[u8]>) {
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

    /// Whether a frame answers nothing: a message, or a confirmation.
    pub(super) fn is_message(&mut self, id: LinkId, frame: &Frame) -> bool {
        if frame.marker != b'*' {
            return false;
        }
        let awaits = matches!(
            self.order.front(),
            Some(front) if matches!(front.meaning, Meaning::Acks { .. })
                && matches!(front.awaiting, Awaiting::Link(at) if at == id)
        );
        let hears = awaits || !self.subscriptions.is_empty();
        let resp2 = !self.settings.resp3;
        let Some(link) = self.links.get(id) else { return false };
        let bytes = link.bytes(frame.len);
        let text = frame.text(bytes).unwrap_or_default();
        // What a link says to a (un)subscription of ours depends on the protocol that it spoke then.
        let expected = (resp2 && hears) || link.owes_whisper().is_some();
        (expected && is_subscriber_message(text))
            || (resp2 && link.is_doubtful() && text == b"sunsubscribe" && is_confirmation(bytes))
    }

    /// A message, a confirmation, an invalidation: what becomes of it.
    pub(super) fn message(&mut self, id: LinkId, frame: &Frame, out: &mut Vec<u8>) -> Result<(), End> {
        let Some(link) = self.links.get(id) else { return Ok(()) };
        let mut bytes = link.bytes(frame.len).to_vec();
        let first = frame.text(&bytes).unwrap_or_default();
        let passes = match (confirmed(first), first) {
            (Some((topic, adds)), _) => self.acknowledged(id, topic, adds, &bytes)?,
            (None, b"message") => self.is_wanted(id, Topic::Channel, &bytes),
            (None, b"pmessage") => self.is_wanted(id, Topic::Pattern, &bytes),
            (None, b"smessage") => self.is_wanted(id, Topic::Shard, &bytes),
            _ => true,
        };
        if passes && !self.settings.resp3 {
            let word = frame.text(&bytes).unwrap_or_default();
            bytes = for_resp2(word, &bytes, self.is_subscriber2()).unwrap_or_default();
        }
        if passes {
            self.journal.pushed(bytes.len());
            out.extend_from_slice(&bytes);
        }
        out.append(&mut self.pushes);
        Ok(())
    }

    /// Whether a message is for the client: it may be on its way when the client unsubscribes, and other links
    /// than the home one are there for keyspace events alone.
    fn is_wanted(&self, id: LinkId, topic: Topic, bytes: &[u8]) -> bool {
        let mut items = Value::read(bytes).and_then(|value| value.items()).into_iter().flatten().skip(1);
        let mut next = || Some(Value::read(items.next()?)?.text()?.to_vec());
        let Some(name) = next() else { return true };
        let (names, channel) = match topic {
            Topic::Shard => return self.subscriptions.shards.contains_key(name.as_slice()),
            Topic::Channel => (&self.subscriptions.channels, Some(name.clone())),
            Topic::Pattern => (&self.subscriptions.patterns, next()),
        };
        let is_event = channel.is_some_and(|channel| channel.starts_with(KEYSPACE));
        names.get(name.as_slice()).is_some_and(|home| is_event || *home == Some(id))
    }

    /// A confirmation came; whether the client gets it as it is.
    fn acknowledged(&mut self, id: LinkId, topic: Topic, adds: bool, bytes: &[u8]) -> Result<bool, End> {
        let mut items = Value::read(bytes).and_then(|value| value.items()).into_iter().flatten();
        let name: Option<Box<[u8]>> =
            items.nth(1).and_then(Value::read).and_then(|value| value.text().map(Box::from));
        let whispered = self.links.get(id).is_some_and(|link| link.owes_whisper().is_some());
        let awaited = match self.order.front() {
            Some(front) if !whispered && matches!(front.awaiting, Awaiting::Link(at) if at == id) => {
                match &mut front.meaning {
                    Meaning::Acks { topic: awaited, left: Some(left), .. } if adds && *awaited == topic => {
                        *left = left.saturating_sub(1);
                        Some(*left == 0)
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        let Some(done) = awaited else {
            let held = name.and_then(|name| self.subscriptions.shards.get_mut(&name));
            match held {
                // Nobody asked for it: the slot has moved.
                Some(place) if topic == Topic::Shard && !adds && *place == Some(id) => {
                    *place = None;
                    self.shared_map.expire();
                    self.place_soon();
                }
                _ => {
                    if let Some(link) = self.links.get(id) {
                        link.confirmed(topic, adds);
                    }
                }
            }
            return Ok(false);
        };
        let name = name
            .ok_or_else(|| End::ServerMalformed("a node confirmed a subscription to nothing".to_owned()))?;
        self.subscriptions.add(topic, &name, id);
        let mut own = Vec::new();
        self.confirm(&mut own, topic, true, Some(&name));
        self.pushes.extend_from_slice(&own);
        if done {
            if let Some(link) = self.links.get(id) {
                link.settle();
            }
            let answered = self.pop();
            if topic != Topic::Shard {
                self.place_everywhere();
            }
            if let Some(Entry { meaning: Meaning::Acks { rest: Some(rest), .. }, label, muted, .. }) =
                answered
            {
                self.subscribe_run(label, muted, rest);
            }
        }
        Ok(false)
    }

    /// A link on which a RESP2 client subscribes is given RESP3, in which AUTH is allowed beside messages; these
    /// are told to the client in its own form. Where the db user may not, it stays as it is.
    fn lift(&mut self, id: LinkId) {
        let needed = !self.settings.resp3 && matches!(self.standing, Standing::Ours(_));
        if let Some(link) = self.links.get(id).filter(|link| needed && !link.lifted) {
            link.lifted = true;
            link.ask(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", Own::Lift);
        }
    }

    /// The beginning of a push that is too long to be looked at as a whole. Whether its rest passes, too.
    pub(super) fn begin_long_push(&mut self, id: LinkId, frame: &Frame, out: &mut Vec<u8>) -> bool {
        let (resp3, is_subscriber) = (self.settings.resp3, self.is_subscriber2());
        let Some(link) = self.links.get(id) else { return false };
        let bytes = link.bytes(frame.len);
        let word = frame.text(bytes).unwrap_or_default();
        let begin = if resp3 { Some(bytes.to_vec()) } else { for_resp2(word, bytes, is_subscriber) };
        let Some(begin) = begin else { return false };
        self.journal.pushed(begin.len());
        out.extend_from_slice(&begin);
        true
    }

    /// Where nothing is subscribed to any more, or nothing was, the links speak as the client does.
    pub(super) fn lower(&mut self) {
        if !self.subscriptions.is_empty() {
            return;
        }
        let resp3 = self.settings.resp3;
        for (_, link) in self.links.iter_mut() {
            if std::mem::take(&mut link.lifted) && !resp3 {
                link.ask(b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n", Own::Needed);
            }
        }
    }

    /// Whether AUTH is allowed on every link beside what it is subscribed to.
    pub(super) fn may_auth_beside_subscriptions(&mut self) -> bool {
        if !self.is_subscriber2() {
            return true;
        }
        for id in self.links.ids() {
            let subscribed = self.is_subscribed_on(id);
            if subscribed && self.links.get(id).is_some_and(|link| !link.lifted) {
                return false;
            }
        }
        true
    }

    /// Names that may match keyspace events are subscribed to at each primary: the fresh ones where the others are
    /// already, else all.
    fn place_everywhere(&mut self) {
        let fresh = std::mem::take(&mut self.subscriptions.fresh);
        if !self.subscriptions.keyspace() {
            return;
        }
        let all_at = self.subscriptions.all_at;
        let nodes: Vec<_> = self.map.primaries().cloned().collect();
        let links: Vec<LinkId> = nodes.iter().filter_map(|node| self.link_of(node, Purpose::Main)).collect();
        links.iter().for_each(|id| self.lift(*id));
        for id in links.into_iter().filter(|id| Some(*id) != all_at) {
            let names = if self.subscriptions.everywhere.contains(&id) {
                fresh.clone()
            } else {
                // Whatever becomes of its node, it stays in the list until it is gone or told to leave them.
                self.subscriptions.everywhere.push(id);
                self.subscriptions.keyspace_names()
            };
            let Some(link) = self.links.get(id) else { continue };
            for topic in [Topic::Channel, Topic::Pattern] {
                let names: Vec<_> =
                    names.iter().filter(|(of, _)| *of == topic).map(|(_, name)| name).collect();
                if !names.is_empty() {
                    let whisper = Whisper { topic, adds: true, left: names.len() };
                    link.whisper(&request_of(topic, names.into_iter()), whisper);
                }
            }
        }
    }

    /// A link is gone, and the subscriptions that it held.
    pub(super) fn subscriptions_lost(&mut self, id: LinkId) {
        let lost = |names: &mut Names| {
            names.values_mut().filter(|place| **place == Some(id)).map(|place| *place = None).count()
        };
        let subscriptions = &mut self.subscriptions;
        let count = lost(&mut subscriptions.channels)
            + lost(&mut subscriptions.patterns)
            + lost(&mut subscriptions.shards);
        let everywhere = subscriptions.everywhere.len();
        subscriptions.everywhere.retain(|at| *at != id);
        subscriptions.all_at = subscriptions.all_at.filter(|at| *at != id);
        if count > 0 || everywhere != subscriptions.everywhere.len() {
            self.place_soon();
        }
    }

    /// There may be new primaries.
    pub(super) fn subscriptions_follow_map(&mut self) {
        if self.subscriptions.keyspace() {
            self.place_soon();
        }
    }

    fn place_soon(&mut self) {
        if self.subscriptions.timer.is_none() {
            self.subscriptions.timer = Some(Box::pin(tokio::time::sleep_until(Instant::now() + PLACE_AGAIN)));
        }
    }

    /// Places subscriptions that have no link, when it is time. True where something happened.
    pub(super) fn poll_subscriptions(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(timer) = &mut self.subscriptions.timer else { return false };
        if timer.as_mut().poll(cx) == Poll::Pending {
            return false;
        }
        self.subscriptions.timer = None;
        self.ask_for_map_in_trouble();
        self.follow_map();
        for topic in [Topic::Channel, Topic::Pattern, Topic::Shard] {
            let names: Vec<Box<[u8]>> = self
                .subscriptions
                .names(topic)
                .iter()
                .filter(|(_, place)| place.is_none())
                .map(|(name, _)| name.clone())
                .collect();
            for name in names {
                self.place(topic, &name);
            }
        }
        self.place_everywhere();
        true
    }

    fn place(&mut self, topic: Topic, name: &[u8]) {
        let link = match topic {
            Topic::Shard => self.link_of_slot(slot::of_key(name)),
            Topic::Channel | Topic::Pattern => self.home_link(),
        };
        if let Some(id) = link {
            self.lift(id);
        }
        let Some((id, link)) = link.and_then(|id| Some((id, self.links.get(id)?))) else {
            return self.place_soon();
        };
        link.whisper(&request_of(topic, [name].iter()), Whisper { topic, adds: true, left: 1 });
        if let Some(place) = self.subscriptions.names(topic).get_mut(name) {
            *place = Some(id);
        }
    }

    /// The answer to a (un)subscription of ours is an error.
    pub(super) fn whisper_refused(&mut self, id: LinkId, text: &[u8]) -> Result<(), End> {
        let Some(link) = self.links.get(id) else { return Ok(()) };
        let Some(whisper) = link.owes_whisper() else { return Ok(()) };
        link.settle();
        match Redirect::read(text, &link.node) {
            Some(redirect) => {
                let mut shards = self.subscriptions.shards.iter();
                let asked = |name: &[u8], place: Option<LinkId>| {
                    place == Some(id) && slot::of_key(name) == redirect.slot
                };
                if whisper.topic == Topic::Shard && shards.any(|(name, place)| asked(name, *place)) {
                    self.learn(&redirect);
                } else {
                    self.shared_map.expire();
                }
            }
            // It may still be subscribed: what comes then would look like replies.
            None if !whisper.adds && !self.settings.resp3 => return self.lose(id),
            // What it has of the names for all primaries is not known: all of them are sent again.
            None if whisper.adds => self.subscriptions.everywhere.retain(|at| *at != id),
            None => {}
        }
        for (name, place) in &mut self.subscriptions.shards {
            let moved = self
                .map
                .primary(slot::of_key(name))
                .is_none_or(|node| self.links.get(id).is_none_or(|link| link.node != *node));
            if *place == Some(id) && moved {
                *place = None;
            }
        }
        self.place_soon();
        Ok(())
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

    /// Whatever the client has cached may be stale.
    pub(super) fn flush_tracked(&mut self) {
        if self.settings.resp3 {
            self.pushes.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
        }
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
        assert!(matches!(confirmed(b"psubscribe"), Some((Topic::Pattern, true))));
        assert!(confirmed(b"message").is_none());
    }
}
