//! The client's commands in the order in which their replies leave, and the bytes of those that may have to be
//! sent again.
//!
//! Each connection to a node answers in the order of what it was sent, and is sent commands in the order of
//! this queue. So a reply at the head of a connection belongs to the first command here that waits for that
//! connection, and is left there until that command's turn has come: nothing is copied to keep the order.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use super::again::Piece;
use super::buffers;
use super::fan::{Fan, Part, Progress};
use super::link::LinkId;
use super::rest::Rest;
use crate::session::expected::{Label, Topic};

/// Commands that may be unanswered before the client is read no further: 64 bytes each.
const MOST_ENTRIES: usize = 64 * 1024;
/// Parts of unanswered commands, one more command not counted: with what belongs to them some 300 bytes each.
const MOST_PARTS: usize = 16 * 1024;
/// Bytes of unanswered requests that are kept, one more request not counted.
pub(super) const WINDOW: usize = 1024 * 1024;
/// Bytes at the front of the window that are done with before the rest is moved there.
const COMPACT_AT: usize = 64 * 1024;
/// Shortest queue whose memory is given back when it empties.
const SHRINK_ABOVE: usize = 64;
/// Stands for no slot.
pub(super) const NO_SLOT: u16 = u16::MAX;

/// What a command waits for.
#[derive(Debug)]
pub(super) enum Awaiting {
    /// The next reply of a link.
    Link(LinkId),
    /// To be sent, for the first time or again.
    Held,
    /// Its turn: the answer is here.
    Answer(Box<[u8]>),
    /// The replies of several.
    Fan(Box<Fan>),
}

impl Awaiting {
    /// Whether it is to be sent, or a part of it.
    fn is_held(&self) -> bool {
        match self {
            Self::Held => true,
            Self::Fan(fan) => fan.parts().iter().any(|part| matches!(part.progress(), Progress::Held)),
            Self::Link(_) | Self::Answer(_) => false,
        }
    }
}

/// What its reply means to the session.
#[derive(Debug, Default)]
pub(super) enum Meaning {
    /// Nothing.
    #[default]
    Plain,
    /// It is swallowed and this takes its place.
    Replace(Box<[u8]>),
    /// It tells the protocol.
    Hello {
        /// Whether it carries the client's own AUTH.
        lets_in: bool,
    },
    /// It tells whether the cache took the client's own AUTH.
    ClientAuth,
    /// If it is no error, the same goes to every other link, and to each new one.
    Setting(Box<super::settings::Setting>),
    /// Confirmations of a (un)subscription, one for each channel.
    Acks {
        /// Which kind.
        topic: Topic,
        /// How many are missing; `None` for all that there are.
        left: Option<u32>,
        /// Names of the same command that are asked for when these are there: shard channels of other slots.
        rest: Option<Box<Rest>>,
    },
    /// It tells whether the db user may have transactions.
    Multi,
    /// The beginning of a watch.
    Watch,
    /// It tells whether whom the command named by id, under this number, was killed.
    Kill(u64),
}

/// Where the next command of a slot may go, so that it does not overtake the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// On this link, behind the other.
    Behind(LinkId),
    /// Nowhere yet: the other one is held.
    None,
}

impl Way {
    /// Of what comes behind this part; `None` where it is answered.
    fn of(part: &Part) -> Option<Self> {
        match part.progress() {
            Progress::Sent(id) | Progress::Coming(id, _) => Some(Self::Behind(*id)),
            Progress::Held => Some(Self::None),
            Progress::Done(_) => None,
        }
    }
}

/// One command.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) awaiting: Awaiting,
    pub(super) meaning: Meaning,
    pub(super) label: Label,
    /// The slot that it belongs to, or [`NO_SLOT`].
    pub(super) slot: u16,
    /// Bytes of it that the window holds; 0 where it is not kept.
    pub(super) kept: u32,
    /// Where they begin, among all bytes ever kept, modulo 2^32.
    kept_at: u32,
    /// How often it was sent again.
    pub(super) again: u8,
    /// Whether the client wants no reply.
    pub(super) muted: bool,
    /// Whether a replica may answer it.
    pub(super) of_replica: bool,
}

impl Entry {
    /// A command that waits for this.
    pub(super) fn new(awaiting: Awaiting, label: Label, muted: bool) -> Self {
        Self {
            awaiting,
            meaning: Meaning::Plain,
            label,
            slot: NO_SLOT,
            kept: 0,
            kept_at: 0,
            again: 0,
            muted,
            of_replica: false,
        }
    }
}

/// The queue with its window.
#[derive(Debug, Default)]
pub(super) struct Order {
    queue: VecDeque<Entry>,
    /// Commands that were answered since the beginning: the number of the front one.
    answered: u64,
    /// Bytes of kept requests, from `start` on.
    window: Vec<u8>,
    start: usize,
    /// All bytes ever kept, and those that no longer are, modulo 2^32.
    kept: (u32, u32),
    /// Bytes of answers that wait.
    answers: usize,
    /// No command before this one is held.
    none_held_before: u64,
    /// Parts of the commands that went to several nodes or slots.
    parts: usize,
}

impl Order {
    /// The number of the command at the front.
    pub(super) fn first(&self) -> u64 {
        self.answered
    }

    /// The number that the next command gets.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.answered + self.queue.len() as u64
    }

    /// Adds a command; `request` is kept until it is answered.
    #[inline]
    pub(super) fn push(&mut self, mut entry: Entry, request: &[u8]) {
        if !request.is_empty() {
            buffers::append(&mut self.window, request);
            entry.kept = u32::try_from(request.len()).unwrap_or(0);
            entry.kept_at = self.kept.0;
            self.kept.0 = self.kept.0.wrapping_add(entry.kept);
        }
        if let Awaiting::Answer(bytes) = &entry.awaiting {
            self.answers += bytes.len();
        }
        if let Awaiting::Fan(fan) = &entry.awaiting {
            self.parts += fan.parts().len();
        }
        self.queue.push_back(entry);
    }

    /// The command whose turn it is.
    #[inline]
    pub(super) fn front(&mut self) -> Option<&mut Entry> {
        self.queue.front_mut()
    }

    /// Takes the command whose turn it is; its bytes are kept no longer.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.answered += 1;
        self.start += entry.kept as usize;
        self.forget_parts_of(&entry.awaiting);
        self.kept.1 = self.kept.1.wrapping_add(entry.kept);
        if let Awaiting::Answer(bytes) = &entry.awaiting {
            self.answers = self.answers.saturating_sub(bytes.len());
        }
        if self.start >= self.window.len() {
            self.window.clear();
            self.start = 0;
        } else if self.start >= COMPACT_AT {
            self.window.drain(..self.start);
            self.start = 0;
        }
        if self.queue.is_empty() {
            buffers::rest(&mut self.window);
            if self.queue.capacity() > SHRINK_ABOVE {
                self.queue = VecDeque::new();
            }
        }
        Some(entry)
    }

    /// Puts an answer in place of what a command waits for.
    pub(super) fn answer(&mut self, number: u64, bytes: Vec<u8>) {
        if let Some(entry) = self.at(number) {
            let length = bytes.len();
            let before = std::mem::replace(&mut entry.awaiting, Awaiting::Answer(bytes.into_boxed_slice()));
            self.answers += length;
            self.forget_parts_of(&before);
        }
    }

    fn forget_parts_of(&mut self, awaiting: &Awaiting) {
        if let Awaiting::Fan(fan) = awaiting {
            self.forget_parts(fan.parts().len());
        }
    }

    /// So many parts were answered and are taken out of their command.
    pub(super) fn forget_parts(&mut self, parts: usize) {
        // The steps of a SCAN are not counted as they come.
        self.parts = self.parts.saturating_sub(parts);
    }

    /// The command of this number, if it is unanswered.
    pub(super) fn at(&mut self, number: u64) -> Option<&mut Entry> {
        let place = usize::try_from(number.checked_sub(self.answered)?).ok()?;
        self.queue.get_mut(place)
    }

    /// All unanswered commands, with their numbers.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Entry)> {
        (self.answered..).zip(self.queue.iter_mut())
    }

    /// A command is held from now on, or perhaps some are: from this one on.
    pub(super) fn note_held(&mut self, number: u64) {
        self.none_held_before = self.none_held_before.min(number);
    }

    /// Whether any command is held. Each is looked at once, however often this is asked: what is found to be none is
    /// not looked at again before [`Order::note_held`].
    pub(super) fn has_held(&mut self) -> bool {
        let from = self.none_held_before.max(self.answered);
        let place = usize::try_from(from - self.answered).unwrap_or(usize::MAX);
        let found = self.queue.iter().skip(place).position(|entry| entry.awaiting.is_held());
        self.none_held_before = from + found.unwrap_or(self.queue.len().saturating_sub(place)) as u64;
        found.is_some()
    }

    /// For each slot: where the last of it is that is not answered, by the commands of these numbers. What later ones
    /// say replaces what is there of earlier ones.
    pub(super) fn add_ways(&self, ways: &mut HashMap<u16, Way>, numbers: Range<u64>) {
        let place = |number: u64| usize::try_from(number.saturating_sub(self.answered)).unwrap_or(usize::MAX);
        let (from, to) = (place(numbers.start), place(numbers.end));
        for entry in self.queue.iter().skip(from).take(to.saturating_sub(from)) {
            match &entry.awaiting {
                Awaiting::Link(id) => {
                    ways.insert(entry.slot, Way::Behind(*id));
                }
                Awaiting::Held => {
                    ways.insert(entry.slot, Way::None);
                }
                Awaiting::Fan(fan) => {
                    let parts = fan.parts().iter().filter(|part| part.node.is_none());
                    ways.extend(parts.filter_map(|part| Some((part.slot, Way::of(part)?))));
                }
                Awaiting::Answer(_) => {}
            }
        }
    }

    /// Where a piece was sent.
    pub(super) fn way_of(&mut self, piece: Piece) -> Way {
        let link = match (self.at(piece.number).map(|entry| &entry.awaiting), piece.part) {
            (Some(Awaiting::Link(id)), _) => Some(*id),
            (Some(Awaiting::Fan(fan)), Some(part)) => fan.part(part).and_then(Part::link),
            _ => None,
        };
        link.map_or(Way::None, Way::Behind)
    }

    /// The first command from this number on that waits for this link, if it waits for nothing else.
    pub(super) fn next_on(&self, from: u64, link: LinkId) -> Option<u64> {
        let skipped = usize::try_from(from.saturating_sub(self.answered)).ok()?;
        let waits = |entry: &Entry| match &entry.awaiting {
            Awaiting::Link(at) => *at == link,
            Awaiting::Fan(fan) => fan.part_of(link).is_some(),
            Awaiting::Held | Awaiting::Answer(_) => false,
        };
        let place = self.queue.iter().skip(skipped).position(waits)?;
        let entry = self.queue.get(skipped + place)?;
        matches!(entry.awaiting, Awaiting::Link(_)).then_some(from + place as u64)
    }

    /// The kept bytes of a command; empty where none are.
    pub(super) fn request(&self, number: u64) -> &[u8] {
        let Some(place) = number.checked_sub(self.answered).and_then(|place| usize::try_from(place).ok())
        else {
            return &[];
        };
        let Some(entry) = self.queue.get(place).filter(|entry| entry.kept > 0) else { return &[] };
        let from = self.start + entry.kept_at.wrapping_sub(self.kept.1) as usize;
        self.window.get(from..from + entry.kept as usize).unwrap_or_default()
    }

    /// Whether a later command of this slot was sent already: what is answered may have been.
    pub(super) fn is_overtaken(&self, number: u64, slot: u16) -> bool {
        let behind = usize::try_from(number.saturating_sub(self.answered)).unwrap_or(usize::MAX);
        self.queue.iter().skip(behind.saturating_add(1)).any(|entry| match &entry.awaiting {
            Awaiting::Link(_) | Awaiting::Answer(_) => entry.slot == slot,
            Awaiting::Fan(fan) => fan.has_slot(slot),
            Awaiting::Held => false,
        })
    }

    /// Whether the answers that wait are shorter than this, together.
    pub(super) fn has_room_for_answers(&self, most: usize) -> bool {
        self.answers < most
    }

    /// Whether an answer waits for its turn.
    #[inline]
    pub(super) fn holds_answers(&self) -> bool {
        self.answers > 0
    }

    /// Whether everything is answered.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether another request may be taken on.
    #[inline]
    pub(super) fn has_room(&self, most_answers: usize) -> bool {
        self.queue.len() < MOST_ENTRIES
            && self.parts < MOST_PARTS
            && self.window.len() - self.start < WINDOW
            && self.has_room_for_answers(most_answers)
    }

    /// How many answers the client still waits for, at most `most`.
    pub(super) fn unanswered(&self, most: u32) -> u32 {
        let waiting = self.queue.iter().filter(|entry| !entry.muted).count();
        u32::try_from(waiting).unwrap_or(most).min(most)
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
