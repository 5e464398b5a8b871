//! The links of a session: found by node, dialled when they are first needed, and lost.

use std::task::Context;

use keystile_model::database::Endpoint;
use keystile_resp::encode;

use super::ClusterSession;
use super::again::{Cause, OUT_OF_REACH, Piece};
use super::link::{Dialed, Link, LinkId, Own, Purpose};
use super::order::{Awaiting, Meaning, NO_SLOT};
use crate::session::End;

/// Links that a session may have: AWS's largest clusters have 500 shards.
const MOST_LINKS: usize = 1_024;
/// Links to one node for commands that are sent again.
const MOST_DETOURS: usize = 4;

/// The links.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Option<Box<Link>>>);

impl Links {
    /// The link of this id.
    #[inline]
    pub(super) fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.0.get_mut(usize::from(id))?.as_deref_mut()
    }

    /// Adds one; `None` where there are too many.
    pub(super) fn add(&mut self, link: Link) -> Option<LinkId> {
        let free = self.0.iter().position(Option::is_none).unwrap_or(self.0.len());
        let id = LinkId::try_from(free).ok().filter(|_| free < MOST_LINKS)?;
        match self.0.get_mut(free) {
            Some(place) => *place = Some(Box::new(link)),
            None => self.0.push(Some(Box::new(link))),
        }
        Some(id)
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: LinkId) -> Option<Box<Link>> {
        self.0.get_mut(usize::from(id))?.take()
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (LinkId, &mut Link)> {
        (0..).zip(self.0.iter_mut()).filter_map(|(id, link)| Some((id, link.as_deref_mut()?)))
    }

    /// The first one that fits.
    pub(super) fn find(&mut self, mut fits: impl FnMut(&mut Link) -> bool) -> Option<LinkId> {
        self.iter_mut().find_map(|(id, link)| fits(link).then_some(id))
    }

    /// The first place that may hold a link, and one behind the last.
    pub(super) fn ids(&self) -> std::ops::Range<LinkId> {
        0..LinkId::try_from(self.0.len()).unwrap_or(LinkId::MAX)
    }
}

impl ClusterSession {
    /// The link for the commands of this node, dialled if there is none.
    pub(super) fn link_of(&mut self, node: &Endpoint, purpose: Purpose) -> Option<LinkId> {
        let known = self.links.find(|link| link.purpose == purpose && link.is_usable() && link.node == *node);
        known.or_else(|| self.dial(node, purpose))
    }

    fn dial(&mut self, node: &Endpoint, purpose: Purpose) -> Option<LinkId> {
        self.metrics.cluster_links.add(1);
        self.links.add(Link::dialing(node.clone(), purpose, self.dial.dial(node)))
    }

    /// The link of the primary of this slot. `None` where nobody is known to serve it, or a place is missing.
    #[inline]
    pub(super) fn link_of_slot(&mut self, slot: u16) -> Option<LinkId> {
        let place = usize::from(self.map.place_of(slot)?);
        if let Some(Some(id)) = self.by_place.get(place).copied()
            && self.links.get(id).is_some_and(|link| link.is_usable())
        {
            return Some(id);
        }
        let node = self.map.primary(slot)?.clone();
        let id = self.link_of(&node, Purpose::Main)?;
        if self.by_place.len() <= place {
            self.by_place.resize(place + 1, None);
        }
        if let Some(known) = self.by_place.get_mut(place) {
            *known = Some(id);
        }
        Some(id)
    }

    /// The link of a replica of this slot, in turn; of the primary where there is none.
    pub(super) fn replica_of_slot(&mut self, slot: u16) -> Option<LinkId> {
        let replicas = self.map.shard(slot).map_or(0, |shard| shard.replicas.len());
        for _ in 0..replicas {
            self.turn = self.turn.wrapping_add(1);
            let shard = self.map.shard(slot)?;
            let node = shard.replicas.get(self.turn % replicas)?.clone();
            if !self.gone_replicas.contains(&node) {
                return self.link_of(&node, Purpose::Replica);
            }
        }
        self.link_of_slot(slot)
    }

    /// The link of commands without a key.
    pub(super) fn home_link(&mut self) -> Option<LinkId> {
        if let Some(home) = self.home
            && self.links.get(home).is_some_and(|link| link.is_usable())
        {
            return Some(home);
        }
        let node = self.map.home()?.clone();
        let home = self.link_of(&node, Purpose::Main)?;
        self.home = Some(home);
        Some(home)
    }

    /// A link to a node on which this piece comes behind all that is still owed there. `None`: not now.
    pub(super) fn link_for_again(
        &mut self,
        node: &Endpoint,
        piece: Piece,
        of_replica: bool,
    ) -> Option<LinkId> {
        let place = (piece.number, piece.part.unwrap_or(0));
        let (primary, is_front) = (!of_replica, piece.number == self.order.first());
        // What a transaction or a WATCH stands on gets nothing that does not belong to it.
        let pinned = self.pinned().map(|(link, _)| link);
        let (mut shared, mut fronts, mut found) = (0, 0, None);
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.is_usable() && link.node == *node) {
            let fits = match link.purpose {
                Purpose::Main => primary && Some(id) != pinned,
                Purpose::Replica => of_replica,
                Purpose::Detour => primary,
                Purpose::Front => primary && is_front,
            };
            if fits && found.is_none() && link.comes_last(place) {
                found = Some(id);
            }
            match link.purpose {
                Purpose::Main | Purpose::Detour => shared += 1,
                Purpose::Front => fronts += 1,
                Purpose::Replica => {}
            }
        }
        if found.is_some() {
            return found;
        }
        match shared {
            0 => self.dial(node, if of_replica { Purpose::Replica } else { Purpose::Main }),
            1..=MOST_DETOURS => self.dial(node, Purpose::Detour),
            _ if is_front && fronts < MOST_DETOURS => self.dial(node, Purpose::Front),
            _ => None,
        }
    }

    /// Looks after connections that are being made. True where there is news.
    pub(super) fn poll_dials(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut news = false;
        for id in self.links.ids() {
            let Some(link) = self.links.get(id) else { continue };
            match link.poll_dial(cx) {
                Dialed::NoNews => {}
                Dialed::Up => {
                    news = true;
                    let of_replica = link.purpose == Purpose::Replica;
                    let (greeting, replies) = self.settings.greeting(of_replica);
                    link.greet(&greeting, replies);
                    if let Some(request) = self.settings.proof(&self.journal.facts().about().db_user) {
                        link.prove(request);
                    }
                }
                Dialed::Due => {
                    news = true;
                    self.redial(id);
                }
                Dialed::Failed(why) => {
                    news = true;
                    tracing::debug!(why, "a node of a cluster cannot be reached");
                    self.metrics.cluster_links_failed.add(1);
                    self.shared_map.expire();
                    if !self.tries_again(id) {
                        self.unreachable(id, &why);
                    }
                }
            }
        }
        Ok(news)
    }

    /// A link never came to be on which something waits that is kept nowhere else: of a transaction, a long request,
    /// what goes with a `CLIENT CACHING`. Nothing of it was sent, so the link as a whole is dialled again, for as long
    /// as held commands wait. False where it is not, or not any more.
    fn tries_again(&mut self, id: LinkId) -> bool {
        let waits = self
            .order
            .iter_mut()
            .any(|(_, entry)| entry.kept == 0 && matches!(entry.awaiting, Awaiting::Link(at) if at == id));
        let pinned = self.pins(id);
        let main = self.links.get(id).filter(|link| link.purpose == Purpose::Main);
        main.is_some_and(|link| (waits || pinned) && link.pause(OUT_OF_REACH))
    }

    /// Dials a link again: to whatever node serves now what waits for it.
    fn redial(&mut self, id: LinkId) {
        self.ask_for_map_in_trouble();
        self.follow_map();
        let first = self.order.iter_mut().find_map(|(_, entry)| match entry.awaiting {
            Awaiting::Link(at) if at == id => Some(entry.slot),
            _ => None,
        });
        let pinned = self.pinned().filter(|(link, _)| *link == id).map(|(_, slot)| slot);
        let slot = pinned.or(first).unwrap_or(NO_SLOT);
        let node = self.node_in_trouble(slot);
        let Some(link) = self.links.get(id) else { return };
        let node = node.unwrap_or_else(|| link.node.clone());
        self.metrics.cluster_links.add(1);
        link.redial(node.clone(), self.dial.dial(&node));
        // The slot's next command has another link now: there it would overtake what waits on this one.
        self.settling |= !self.order.is_empty();
        for known in self.by_place.iter_mut().filter(|known| **known == Some(id)) {
            *known = None;
        }
        if self.home == Some(id) && self.map.home() != Some(&node) {
            self.home = None;
        }
    }

    /// A link never came to be: what waited for it was not sent, and waits on, unless it has waited enough.
    fn unreachable(&mut self, id: LinkId, why: &str) {
        let Some(link) = self.links.remove(id) else { return };
        self.forget(id);
        self.whence_lost(&link);
        if link.purpose == Purpose::Replica {
            self.gone_replicas.push(link.node.clone());
        }
        let mut words = Vec::new();
        let text = format!(
            "the node {} of the cluster could not be reached: {why}; nothing was sent there: try again, or check that \
             its security group lets the proxy in",
            link.node
        );
        encode::error(&mut words, "CLUSTERDOWN keystile:", &text);
        let mut held = false;
        let mut lost = Vec::new();
        for (number, entry) in self.order.iter_mut() {
            match &mut entry.awaiting {
                Awaiting::Link(at) if *at == id && (entry.kept == 0 || link.has_paused()) => {
                    lost.push(number)
                }
                Awaiting::Link(at) if *at == id => {
                    entry.awaiting = Awaiting::Held;
                    entry.of_replica = false;
                    held = true;
                }
                Awaiting::Fan(fan) => held |= fan.unreachable(id, link.purpose == Purpose::Replica),
                _ => {}
            }
        }
        for number in lost {
            if let Some(label) = self.order.at(number).map(|entry| entry.label) {
                self.journal.failed(label, "CLUSTERDOWN", "a node could not be reached");
            }
            self.order.answer(number, words.clone());
            // A HELLO or an AUTH of the client's, perhaps.
            self.hold = false;
        }
        self.transaction_lost(id);
        self.subscriptions_lost(id);
        if held {
            self.begin_trouble(Cause::Unreachable, words);
        }
    }

    /// A link has ended and everything that it sent was taken: what it still owes is unknown.
    pub(super) fn lose(&mut self, id: LinkId) -> Result<(), End> {
        let is_killed = self.is_killed(id);
        let Some(link) = self.links.remove(id) else { return Ok(()) };
        self.forget(id);
        self.whence_lost(&link);
        if is_killed {
            return Err(End::ServerClosed);
        }
        self.metrics.cluster_links_lost.add(1);
        if self.streaming.as_ref().is_some_and(|streaming| streaming.link == id) {
            // Half a reply cannot be taken back.
            return Err(End::ServerClosed);
        }
        let mut words = Vec::new();
        let text = if link.is_proving() {
            format!(
                "the node {} of the cluster did not take this session's password; nothing was sent",
                link.node
            )
        } else {
            format!(
                "the connection to the node {} of the cluster was lost before it answered; whether the command \
                 was executed is unknown: look before you send it again",
                link.node
            )
        };
        encode::error(&mut words, "ERR keystile:", &text);
        let mut lost = Vec::new();
        let mut failed_sign_in = false;
        for (number, entry) in self.order.iter_mut() {
            match &mut entry.awaiting {
                Awaiting::Link(at) if *at == id => {
                    failed_sign_in |=
                        matches!(entry.meaning, Meaning::ClientAuth | Meaning::Hello { .. } | Meaning::Multi);
                    lost.push(number);
                }
                Awaiting::Fan(fan) => fan.lost(id, &words, link.purpose == Purpose::Replica),
                _ => {}
            }
        }
        for number in lost {
            if let Some(entry) = self.order.at(number) {
                let label = entry.label;
                entry.meaning = Meaning::Plain;
                self.journal.failed(label, "ERR", "the connection to a node was lost");
            }
            self.order.answer(number, words.clone());
        }
        if link.is_asked(Own::Slots) {
            self.waits_for_map = false;
        }
        if failed_sign_in {
            self.hold = false;
        }
        self.transaction_lost(id);
        self.subscriptions_lost(id);
        if self.settings.tracks() {
            self.flush_tracked();
        }
        self.shared_map.expire();
        Ok(())
    }

    /// Nothing goes to this link any more.
    fn forget(&mut self, id: LinkId) {
        if self.home == Some(id) {
            self.home = None;
        }
        for known in &mut self.by_place {
            if *known == Some(id) {
                *known = None;
            }
        }
        if let Some(streamed) = &mut self.streaming_request
            && streamed.link == Some(id)
        {
            streamed.link = None;
        }
    }

    /// Takes a newer map, if there is one, and closes links to nodes that are not in it.
    pub(super) fn follow_map(&mut self) {
        let version = self.shared_map.version();
        if version == self.map_version {
            return;
        }
        self.map_version = version;
        self.map = self.shared_map.load();
        // A command that is owed by the node of before may come back to be sent again: one of the same slot that
        // went to the node of now would overtake it.
        self.settling |= !self.order.is_empty();
        self.by_place.clear();
        self.gone_replicas.clear();
        let home = self.home.and_then(|home| self.links.get(home));
        if home.is_some_and(|link| Some(&link.node) != self.map.home()) {
            self.home = None;
        }
        self.subscriptions_follow_map();
        if self.shared_map.is_told() {
            self.waits_for_map = false;
        }
        for id in self.links.ids() {
            let (home, map) = (self.home == Some(id), &self.map);
            let idle = |link: &mut Link| {
                !home && !link.owes() && link.unread() == 0 && !map.nodes().any(|node| *node == link.node)
            };
            if !self.pins(id) && !self.is_subscribed_on(id) && self.links.get(id).is_some_and(idle) {
                self.links.remove(id);
                self.forget(id);
            }
        }
    }
}
