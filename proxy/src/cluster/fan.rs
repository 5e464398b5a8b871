//! One command that several nodes answer: its parts, and their replies as they come.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use keystile_model::database::Endpoint;

use super::budget::{Purse, Share};
use super::link::LinkId;
use super::order::NO_SLOT;

/// Bytes that the replies of one command's parts may have together: they must be there before the first byte
/// leaves.
pub(super) const MOST_BYTES: usize = 64 * 1024 * 1024;

/// How far a part is.
#[derive(Debug)]
pub(super) enum Progress {
    /// To be sent, for the first time or again.
    Held,
    /// The next reply of this link is its.
    Sent(LinkId),
    /// Its reply is coming.
    Coming(LinkId, Vec<u8>),
    /// Its reply is there; an empty one of a replica that is left out.
    Done(Vec<u8>),
}

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    /// What is sent; `None` where it is the client's own request. Empty where it came with the part before.
    pub(super) request: Option<Box<[u8]>>,
    /// The slot that it belongs to, or [`NO_SLOT`].
    pub(super) slot: u16,
    /// The node that is to answer, where it is not the slot's.
    pub(super) node: Option<Endpoint>,
    /// How far it is.
    progress: Progress,
    /// How often it was sent again.
    pub(super) again: u8,
}

impl Part {
    /// A part for the shard of a slot.
    pub(super) fn of_slot(slot: u16, request: Vec<u8>) -> Self {
        Self {
            request: Some(request.into_boxed_slice()),
            slot,
            node: None,
            progress: Progress::Held,
            again: 0,
        }
    }

    /// How far it is.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The link whose reply it waits for.
    pub(super) fn link(&self) -> Option<LinkId> {
        match self.progress {
            Progress::Sent(link) | Progress::Coming(link, _) => Some(link),
            Progress::Held | Progress::Done(_) => None,
        }
    }

    /// A part for a node: the client's own request, if there is no other.
    pub(super) fn of_node(node: Endpoint, request: Option<Box<[u8]>>) -> Self {
        Self { request, slot: NO_SLOT, node: Some(node), progress: Progress::Held, again: 0 }
    }
}

/// What becomes of the replies.
#[derive(Debug)]
pub(super) enum Join {
    /// One reply by the rules of a command that was split.
    Split(Box<super::split::Parts>),
    /// One reply by the rules of a command that went to several nodes.
    Merge(super::plan::Merge),
    /// A page of `SCAN`.
    Scan(Box<super::scan::Scan>),
    /// It became one already.
    Done,
}

/// Why the replies of a command cannot become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// They are longer than [`MOST_BYTES`].
    Long,
    /// The proxy holds too much of other sessions.
    Crowded,
}

/// A command in parts.
#[derive(Debug)]
pub(super) struct Fan {
    parts: Vec<Part>,
    pub(super) join: Join,
    /// For each link the parts that wait for it, in the order in which they were sent.
    sent: HashMap<LinkId, VecDeque<usize>>,
    /// Parts without a reply.
    missing: usize,
    /// Bytes of replies so far.
    bytes: usize,
    share: Share,
    too_much: Option<TooMuch>,
}

impl Fan {
    /// A command in these parts, none of them sent.
    pub(super) fn new(parts: Vec<Part>, join: Join, purse: &Arc<Purse>) -> Self {
        let missing = parts.len();
        let share = Share::of(purse);
        Self { parts, join, sent: HashMap::new(), missing, bytes: 0, share, too_much: None }
    }

    /// Its parts.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// One of them.
    pub(super) fn part(&self, index: usize) -> Option<&Part> {
        self.parts.get(index)
    }

    /// The same, to count its tries; how far it is says [`Fan::set`].
    pub(super) fn part_mut(&mut self, index: usize) -> Option<&mut Part> {
        self.parts.get_mut(index)
    }

    /// Says how far a part is now.
    pub(super) fn set(&mut self, index: usize, progress: Progress) {
        let Some(part) = self.parts.get_mut(index) else { return };
        match (&part.progress, &progress) {
            (Progress::Done(_), Progress::Done(_)) => {}
            (_, Progress::Done(_)) => self.missing -= 1,
            (Progress::Done(_), _) => self.missing += 1,
            _ => {}
        }
        let before = part.link();
        part.progress = progress;
        let now = part.link();
        if matches!(part.progress, Progress::Coming(..)) && before == now {
            return;
        }
        if let Some(sent) = before.and_then(|link| self.sent.get_mut(&link)) {
            // It is the first one but where a link was lost.
            let at = sent.iter().position(|known| *known == index);
            at.and_then(|at| sent.remove(at));
        }
        if let Some(link) = now {
            self.sent.entry(link).or_default().push_back(index);
        }
    }

    /// Bytes of a reply came. False where they are too many, and are not to be kept.
    pub(super) fn keeps(&mut self, bytes: usize) -> bool {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.too_much.is_none() {
            if self.bytes > MOST_BYTES {
                self.too_much = Some(TooMuch::Long);
            } else if !self.share.grow(bytes) {
                self.too_much = Some(TooMuch::Crowded);
            }
        }
        self.too_much.is_none()
    }

    /// What it has taken of the budget: to be kept for as long as its reply is there.
    pub(super) fn into_share(self) -> Share {
        self.share
    }

    /// Why there will be no common reply.
    pub(super) fn too_much(&self) -> Option<TooMuch> {
        self.too_much
    }

    /// Whether a part of it was sent to this slot.
    pub(super) fn has_slot(&self, slot: u16) -> bool {
        self.parts.iter().any(|part| part.slot == slot && matches!(part.progress, Progress::Sent(_)))
    }

    /// The first part that waits for this link. A link answers in the order of what it was sent.
    pub(super) fn part_of(&self, link: LinkId) -> Option<usize> {
        self.sent.get(&link)?.front().copied()
    }

    /// What came so far of a part's reply, if it is coming.
    pub(super) fn coming(&mut self, index: usize) -> Option<&mut Vec<u8>> {
        match &mut self.parts.get_mut(index)?.progress {
            Progress::Coming(_, bytes) => Some(bytes),
            _ => None,
        }
    }

    fn waiting_for(&self, link: LinkId) -> Vec<usize> {
        self.sent.get(&link).into_iter().flatten().copied().collect()
    }

    /// This link never came to be: its parts are to be sent elsewhere, but what was for that one replica is
    /// left out. Gives whether there are parts to be sent.
    pub(super) fn unreachable(&mut self, link: LinkId, is_replica: bool) -> bool {
        let mut held = false;
        for index in self.waiting_for(link) {
            let left_out = is_replica && self.part(index).is_some_and(|part| part.node.is_some());
            self.set(index, if left_out { Progress::Done(Vec::new()) } else { Progress::Held });
            held |= !left_out;
        }
        held
    }

    /// This link was lost: its parts have these words for a reply, but a replica is left out.
    pub(super) fn lost(&mut self, link: LinkId, words: &[u8], is_replica: bool) {
        for index in self.waiting_for(link) {
            let left_out = is_replica && self.part(index).is_some_and(|part| part.node.is_some());
            self.set(index, Progress::Done(if left_out { Vec::new() } else { words.to_vec() }));
        }
    }

    /// Whether every part has its reply.
    pub(super) fn is_done(&self) -> bool {
        self.missing == 0
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    fn fan(parts: u16) -> Fan {
        let parts = (0..parts).map(|slot| Part::of_slot(slot, vec![b'x'])).collect();
        Fan::new(parts, Join::Done, &Budget::new(1_000).purse("alice"))
    }

    #[test]
    fn parts_wait_for_their_link_in_the_order_they_were_sent() {
        let mut fan = fan(4);
        for (index, link) in [(0, 7), (2, 7), (1, 8), (3, 7)] {
            fan.set(index, Progress::Sent(link));
        }
        fan.set(0, Progress::Coming(7, Vec::new()));
        assert_eq!(fan.part_of(7), Some(0));
        fan.set(0, Progress::Done(Vec::new()));
        // Sent again on the same link: behind what is there.
        fan.set(2, Progress::Held);
        fan.set(2, Progress::Sent(7));
        assert_eq!(fan.part_of(7), Some(3));
        fan.set(3, Progress::Done(Vec::new()));
        assert_eq!(fan.part_of(7), Some(2));
        assert_eq!(fan.part_of(9), None);
        assert!(!fan.is_done());
        fan.lost(8, b"-gone", false);
        assert!(fan.unreachable(7, false) && !fan.is_done());
        fan.set(2, Progress::Done(Vec::new()));
        assert!(fan.is_done());
    }

    #[test]
    fn replies_have_a_common_bound() {
        let mut fan = fan(2);
        assert!(fan.keeps(1_000) && !fan.keeps(1));
        assert_eq!(fan.too_much(), Some(TooMuch::Crowded));
        assert!(!fan.keeps(MOST_BYTES));
        assert_eq!(fan.too_much(), Some(TooMuch::Crowded), "the first reason stays");
    }

    #[test]
    fn ten_thousand_parts_are_found_at_once() {
        let mut fan = fan(16_384);
        for index in 0..16_384 {
            fan.set(index, Progress::Sent(0));
        }
        let mut looked = 0;
        while let Some(index) = fan.part_of(0) {
            fan.set(index, Progress::Done(Vec::new()));
            looked += 1;
        }
        assert!(looked == 16_384 && fan.is_done());
    }
}
