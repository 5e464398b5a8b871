//! What nodes say unasked, or to a subscription: messages, confirmations, invalidations.

use keystile_resp::reply::{Frame, is_subscriber_message};

use super::ClusterSession;
use super::link::LinkId;
use super::order::{Awaiting, Entry, Meaning};
use super::pubsub::{is_keyspace, word};
use super::value::Value;
use crate::session::End;
use crate::session::expected::Topic;
use crate::session::subscriber::for_resp2;

impl ClusterSession {
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
        let is_event = channel.is_some_and(|channel| is_keyspace(&channel));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_confirms() {
        assert!(matches!(confirmed(b"psubscribe"), Some((Topic::Pattern, true))));
        assert!(confirmed(b"message").is_none());
    }
}
