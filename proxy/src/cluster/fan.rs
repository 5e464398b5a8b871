//! One command that several nodes answer: its parts, and their replies as they come.

use keystile_model::database::Endpoint;

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
    pub(super) progress: Progress,
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

    /// A part for a node.
    pub(super) fn of_node(node: Endpoint) -> Self {
        Self { request: None, slot: NO_SLOT, node: Some(node), progress: Progress::Held, again: 0 }
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

/// A command in parts.
#[derive(Debug)]
pub(super) struct Fan {
    pub(super) parts: Vec<Part>,
    pub(super) join: Join,
    /// Bytes of replies so far.
    pub(super) bytes: usize,
}

impl Fan {
    /// Whether a part of it was sent to this slot.
    pub(super) fn has_slot(&self, slot: u16) -> bool {
        self.parts.iter().any(|part| part.slot == slot && matches!(part.progress, Progress::Sent(_)))
    }

    /// The first part that waits for this link.
    pub(super) fn part_of(&mut self, link: LinkId) -> Option<(usize, &mut Part)> {
        self.parts.iter_mut().enumerate().find(
            |(_, part)| matches!(part.progress, Progress::Sent(at) | Progress::Coming(at, _) if at == link),
        )
    }

    /// This link never came to be: its parts are to be sent elsewhere, but what was for that one replica is
    /// left out. Gives whether there are parts to be sent.
    pub(super) fn unreachable(&mut self, link: LinkId, is_replica: bool) -> bool {
        let mut held = false;
        for part in &mut self.parts {
            if matches!(part.progress, Progress::Sent(at) if at == link) {
                let left_out = is_replica && part.node.is_some();
                part.progress = if left_out { Progress::Done(Vec::new()) } else { Progress::Held };
                held |= !left_out;
            }
        }
        held
    }

    /// This link was lost: its parts have these words for a reply, but a replica is left out.
    pub(super) fn lost(&mut self, link: LinkId, words: &[u8], is_replica: bool) {
        for part in &mut self.parts {
            if matches!(part.progress, Progress::Sent(at) | Progress::Coming(at, _) if at == link) {
                let left_out = is_replica && part.node.is_some();
                part.progress = Progress::Done(if left_out { Vec::new() } else { words.to_vec() });
            }
        }
    }

    /// Whether every part has its reply.
    pub(super) fn is_done(&self) -> bool {
        self.parts.iter().all(|part| matches!(part.progress, Progress::Done(_)))
    }
}
