//! What a link owes: the replies that are to come on it, in their order.

use super::Link;
use crate::session::expected::Topic;

/// A question of ours, whose reply nobody sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) enum Own {
    /// AUTH with the client's own password, on a new link: nothing else is sent before it is taken.
    Proof,
    /// `ASKING`, and whatever else simply has to be swallowed.
    Swallow,
    /// `MULTI` of a transaction that begins with its first key.
    Multi,
    /// Something without which the link is no use to the session: an error loses it.
    Needed,
    /// `HELLO 3` for the sake of a RESP2 client's subscriptions.
    Lift,
    /// AUTH of ours, again.
    SignIn,
    /// `CLUSTER SLOTS`.
    Slots,
    /// `CLIENT ID`.
    ClientId,
    /// `CLIENT LIST ID …`.
    Whence,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Client(u32),
    Own(Own),
    Whisper(Whisper),
}

/// A (un)subscription of ours: its confirmations nobody sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Whisper {
    /// What it is about.
    pub(in crate::cluster) topic: Topic,
    /// Whether it subscribes.
    pub(in crate::cluster) adds: bool,
    /// Confirmations that are to come, one for each name; or else a single error.
    pub(in crate::cluster) left: usize,
}

impl Link {
    /// The (un)subscription of ours whose confirmation or error is to come next.
    pub(in crate::cluster) fn owes_whisper(&self) -> Option<Whisper> {
        match self.owed.front() {
            Some(Owed::Whisper(whisper)) => Some(*whisper),
            _ => None,
        }
    }

    /// Whether the answer to a `SUNSUBSCRIBE` of ours may still come although it was taken for answered.
    #[inline]
    pub(in crate::cluster) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    /// A confirmation came that the client does not await.
    pub(in crate::cluster) fn confirmed(&mut self, topic: Topic, adds: bool) {
        let Some(Owed::Whisper(whisper)) = self.owed.front_mut() else { return };
        if (whisper.topic, whisper.adds) != (topic, adds) {
            return;
        }
        whisper.left = whisper.left.saturating_sub(1);
        if whisper.left == 0 {
            self.settle();
            self.doubtful = topic == Topic::Shard && !adds;
        }
    }

    /// Whether the next reply is to a question of ours, and which.
    pub(in crate::cluster) fn owes_own(&self) -> Option<Own> {
        match self.owed.front() {
            Some(Owed::Own(own)) => Some(*own),
            _ => None,
        }
    }

    /// Whether the next reply is to a command of the client's.
    #[inline]
    pub(in crate::cluster) fn owes_client(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Client(_)))
    }

    /// Whether it owes the client any reply.
    pub(in crate::cluster) fn has_work(&self) -> bool {
        self.owed.iter().any(|owed| matches!(owed, Owed::Client(_)))
    }

    /// Whether a command of this place in the client's order, number and part, comes behind all that is owed.
    pub(in crate::cluster) fn comes_last(&self, place: (u64, usize)) -> bool {
        self.last < place || !self.has_work()
    }

    /// Whether it owes an answer to this question.
    pub(in crate::cluster) fn is_asked(&self, what: Own) -> bool {
        self.owed.iter().any(|owed| *owed == Owed::Own(what))
    }

    /// Whether anything is owed at all.
    pub(in crate::cluster) fn owes(&self) -> bool {
        !self.owed.is_empty()
    }

    /// One reply was taken.
    #[inline]
    pub(in crate::cluster) fn settle(&mut self) {
        self.doubtful = false;
        match self.owed.front_mut() {
            Some(Owed::Client(count)) if *count > 1 => *count -= 1,
            _ => {
                self.owed.pop_front();
            }
        }
    }
}
