//! Redirections are followed in batches: while the command at the front has been sent elsewhere, what its node says
//! of the commands behind it is taken ahead of its turn. So a pipeline to slots that have moved, or are between two
//! nodes, costs one round trip more, and not one for each command.

use std::collections::HashMap;

use keystile_resp::reply::{Frame, Kind, Step};

use super::ClusterSession;
use super::again::{Again, MOST_AGAIN, Piece};
use super::link::{Link, LinkId, Purpose};
use super::order::{Meaning, Way};
use crate::session::LOCAL_BACKLOG;

impl ClusterSession {
    /// The command at the front was redirected by this link: the replies right behind it are settled, too, as far as
    /// they are redirections that can be followed without overtaking anything of their slot, or plain replies.
    pub(super) fn settle_ahead(&mut self, link: LinkId) {
        if self.links.get(link).is_none_or(|asked| asked.purpose == Purpose::Replica) {
            return;
        }
        // What follows a barrier waits until that is answered.
        let barrier = self.barrier.map_or(u64::MAX, |barrier| barrier.number);
        let mut ways = HashMap::new();
        let (mut seen, mut last) = (self.order.first(), self.order.first());
        while let Some(number) = self.order.next_on(last + 1, link).filter(|number| *number <= barrier) {
            self.order.add_ways(&mut ways, seen..number);
            if !self.settle_one_ahead(number, link, &ways) {
                return;
            }
            (seen, last) = (number, number);
        }
    }

    /// The next reply of this link, to this command. False where it is not there, or has to wait for its turn.
    fn settle_one_ahead(&mut self, number: u64, link: LinkId, ways: &HashMap<u16, Way>) -> bool {
        let subscriber = self.is_subscriber2();
        let Some(asked) = self.links.get(link).filter(|asked| asked.owes_client() && !asked.is_doubtful())
        else {
            return false;
        };
        let Ok(Step::Frame(frame)) = asked.peek() else { return false };
        match frame.kind {
            Kind::Error => self.follow_ahead(number, link, &frame, ways),
            // A message to a RESP2 subscriber looks like a reply.
            Kind::Reply if frame.marker != b'*' || !subscriber => self.keep_ahead(number, link, &frame),
            Kind::Reply | Kind::Push => false,
        }
    }

    /// Keeps a plain reply until its turn comes. Not of a transaction, whose link then would look idle; and not where
    /// the node may push something behind it, which would reach the client first.
    fn keep_ahead(&mut self, number: u64, id: LinkId, frame: &Frame) -> bool {
        let has_room = self.order.has_room_for_answers(LOCAL_BACKLOG.saturating_sub(frame.len));
        let (Some(entry), Some(link)) = (self.order.at(number), self.links.get(id)) else { return false };
        let is_plain = matches!(entry.meaning, Meaning::Plain) && entry.kept > 0;
        if !is_plain || !has_room || self.settings.tracks() || !self.subscriptions.is_empty() {
            return false;
        }
        let (label, muted) = (entry.label, entry.muted);
        let bytes = if muted { Vec::new() } else { link.bytes(frame.len).to_vec() };
        if !muted {
            self.journal.reply(label, frame.len);
        }
        self.order.answer(number, bytes);
        self.take_settled(id, frame.len);
        true
    }

    /// Follows a redirection: behind what is still owed to its slot, or not at all.
    fn follow_ahead(&mut self, number: u64, id: LinkId, frame: &Frame, ways: &HashMap<u16, Way>) -> bool {
        let (Some(entry), Some(link)) = (self.order.at(number), self.links.get(id)) else { return false };
        let (piece, words) = (Piece { number, part: None }, link.bytes(frame.len).to_vec());
        let text = words.get(1..).unwrap_or_default().trim_ascii_end();
        let Some(again) = Again::read(text, &link.node) else { return false };
        let Again::Elsewhere(redirect) = &again else { return false };
        let (asked, way) = (link.node.clone(), ways.get(&entry.slot).copied());
        let leads = |link: &mut Link| {
            link.is_usable()
                && link.node == redirect.to
                && link.purpose != Purpose::Front
                && link.comes_last((number, 0))
        };
        let of_replica = entry.of_replica;
        // Before anything is dialled.
        if !self.believes(piece, &again, &asked) {
            return false;
        }
        let way = match way {
            // Where there is none now it waits for its turn, for which there always is one.
            None => self.link_for_again(&redirect.to, piece, of_replica),
            Some(Way::Behind(id)) => Some(id).filter(|id| self.links.get(*id).is_some_and(leads)),
            Some(Way::None) => None,
        };
        if way.is_none() || self.count_try(piece).is_none_or(|(_, tries)| tries > MOST_AGAIN) {
            return false;
        }
        self.go_elsewhere(piece, redirect, way, &words);
        self.take_settled(id, frame.len);
        true
    }
}
