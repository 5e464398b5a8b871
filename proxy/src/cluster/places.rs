//! Where the subscriptions of a session are kept: placed again when their node is gone or their slot has moved, and
//! those to key events at every primary.

use std::future::Future as _;
use std::task::{Context, Poll};

use keystile_resp::slot;
use tokio::time::{Duration, Instant};

use super::ClusterSession;
use super::link::{LinkId, Own, Purpose, Whisper};
use super::pubsub::{Names, request_of};
use super::slots::Redirect;
use crate::session::expected::Topic;
use crate::session::{End, Standing};

/// The pause before a subscription that has lost its node is placed again, and before the next try.
const PLACE_AGAIN: Duration = Duration::from_millis(100);

impl ClusterSession {
    /// A link on which a RESP2 client subscribes is given RESP3, in which AUTH is allowed beside messages; these
    /// are told to the client in its own form. Where the db user may not, it stays as it is.
    pub(super) fn lift(&mut self, id: LinkId) {
        let needed = !self.settings.resp3 && matches!(self.standing, Standing::Ours(_));
        if let Some(link) = self.links.get(id).filter(|link| needed && !link.lifted) {
            link.lifted = true;
            link.ask(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", Own::Lift);
        }
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
    pub(super) fn place_everywhere(&mut self) {
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

    pub(super) fn place_soon(&mut self) {
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

    /// Whatever the client has cached may be stale.
    pub(super) fn flush_tracked(&mut self) {
        if self.settings.resp3 {
            self.pushes.extend_from_slice(b">2\r\n$10\r\ninvalidate\r\n_\r\n");
        }
    }
}
