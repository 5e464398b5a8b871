//! What the server still owes: the queue that puts an answer of our own in its place among the server's.
//!
//! Runs of the same command are one entry, so the common path stores nothing for each command.

use std::collections::VecDeque;

/// A command of the table by number; [`UNKNOWN`] for all others.
pub type Label = u16;
/// The label of commands that the table does not know.
pub const UNKNOWN: Label = Label::MAX;
/// Entries (24 bytes each) at which the client is read no further before replies have come.
const MOST_ENTRIES: usize = 1024 * 1024;
/// Shortest queue whose memory is given back when it empties.
const SHRINK_ABOVE: usize = 64;

/// Which subscriptions a command changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// `SUBSCRIBE`, `UNSUBSCRIBE`.
    Channel,
    /// `PSUBSCRIBE`, `PUNSUBSCRIBE`.
    Pattern,
    /// `SSUBSCRIBE`, `SUNSUBSCRIBE`.
    Shard,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// So many replies that pass to the client, or with replies switched off do not.
    Replies {
        /// The command that they answer.
        label: Label,
        /// How many.
        count: u32,
        /// Whether the client switched replies off.
        muted: bool,
    },
    /// Confirmations of a (un)subscription, one for each channel; `None` for all that there are.
    Acks {
        /// The command.
        label: Label,
        /// Which kind.
        topic: Topic,
        /// How many are missing.
        left: Option<u32>,
        /// Whether the client switched replies off: confirmations come all the same, errors do not.
        muted: bool,
    },
    /// The reply of `MULTI`: an error means that no transaction began.
    Multi {
        /// The command.
        label: Label,
        /// Whether the client switched replies off.
        muted: bool,
        /// Which of the session's changes between transaction and none it is.
        change: u32,
    },
    /// The reply of a subscriber's `PING`.
    Ping {
        /// The command.
        label: Label,
        /// Whether the client switched replies off.
        muted: bool,
    },
    /// The reply to a HELLO of ours: swallowed, and looked at.
    Lift,
    /// An answer of ours, once all before it have passed.
    Local(Box<[u8]>),
    /// The server's reply is swallowed and this takes its place.
    Replace(Box<[u8]>),
    /// The reply of `RESET`, which passes if the client wants it; subscriptions are gone with it. A server before
    /// 6.2 does not know it: then this is what the session was before.
    Reset {
        /// The command.
        label: Label,
        /// The client does not: it comes behind a `CLIENT REPLY SKIP`.
        muted: bool,
        /// Which of the session's changes between transaction and none it is.
        change: u32,
        /// Whether a transaction was open.
        in_multi: bool,
        /// Whether keys were watched.
        watching: bool,
        /// Whether the cache had let the client in (pass-through).
        admitted: bool,
    },
    /// The reply to an AUTH of ours: swallowed, and looked at.
    OurAuth {
        /// Whether the session is nobody until then, as after a RESET.
        lets_in: bool,
    },
    /// The reply to an AUTH of the client's own (pass-through): passes, and is looked at.
    ClientAuth {
        /// The command.
        label: Label,
    },
    /// The reply of `HELLO`, which tells the protocol.
    Hello {
        /// The command.
        label: Label,
        /// Whether the client switched replies off.
        muted: bool,
        /// Whether it carries the client's own AUTH (pass-through).
        lets_in: bool,
    },
}

/// The queue.
#[derive(Debug, Default)]
pub struct Expected {
    queue: VecDeque<Expect>,
    local_bytes: usize,
    /// Entries of these kinds.
    acks: u32,
    hellos: u32,
}

impl Expected {
    /// One more reply of this command.
    #[inline]
    pub fn reply(&mut self, label: Label, muted: bool) {
        if let Some(Expect::Replies { label: last, count, muted: last_muted }) = self.queue.back_mut()
            && *last == label
            && *last_muted == muted
            && *count < u32::MAX
        {
            *count += 1;
            return;
        }
        self.queue.push_back(Expect::Replies { label, count: 1, muted });
    }

    /// Any other entry.
    pub fn push(&mut self, entry: Expect) {
        match &entry {
            Expect::Local(bytes) | Expect::Replace(bytes) => self.local_bytes += bytes.len(),
            Expect::Acks { .. } => self.acks += 1,
            Expect::Hello { .. } => self.hellos += 1,
            _ => {}
        }
        self.queue.push_back(entry);
    }

    /// The entry whose turn it is.
    #[inline]
    pub fn front(&mut self) -> Option<&mut Expect> {
        self.queue.front_mut()
    }

    /// Takes the entry whose turn it is.
    pub fn pop(&mut self) -> Option<Expect> {
        let entry = self.queue.pop_front();
        match &entry {
            Some(Expect::Local(bytes) | Expect::Replace(bytes)) => {
                self.local_bytes = self.local_bytes.saturating_sub(bytes.len());
            }
            Some(Expect::Acks { .. }) => self.acks = self.acks.saturating_sub(1),
            Some(Expect::Hello { .. }) => self.hellos = self.hellos.saturating_sub(1),
            _ => {}
        }
        if self.queue.is_empty() && self.queue.capacity() > SHRINK_ABOVE {
            self.queue = VecDeque::new();
        }
        entry
    }

    /// Takes back what was expected last.
    pub fn retract(&mut self) {
        if let Some(Expect::Replies { count: count @ 2.., .. }) = self.queue.back_mut() {
            *count -= 1;
        } else {
            self.queue.pop_back();
        }
    }

    /// Counts one reply of the run whose turn it is.
    #[inline]
    pub fn count_down(&mut self) {
        if let Some(Expect::Replies { count, .. }) = self.queue.front_mut() {
            *count -= 1;
            if *count == 0 {
                self.pop();
            }
        }
    }

    /// An answer of ours whose turn has come.
    #[inline]
    pub fn take_local(&mut self) -> Option<Box<[u8]>> {
        if !matches!(self.queue.front(), Some(Expect::Local(_))) {
            return None;
        }
        match self.pop() {
            Some(Expect::Local(bytes)) => Some(bytes),
            _ => None,
        }
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether so much is owed that no more may be asked for.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queue.len() >= MOST_ENTRIES
    }

    /// How many commands wait for confirmations of subscriptions.
    #[must_use]
    pub fn acks(&self) -> u32 {
        self.acks
    }

    /// How many HELLOs of the client's are not answered yet.
    #[must_use]
    pub fn hellos(&self) -> u32 {
        self.hellos
    }

    /// Bytes of our own answers that wait.
    #[must_use]
    pub fn local_bytes(&self) -> usize {
        self.local_bytes
    }

    /// How many answers the client still waits for, at most `most`.
    #[must_use]
    pub fn unanswered(&self, most: u32) -> u32 {
        let counts = self.queue.iter().map(|entry| match entry {
            Expect::Replies { muted: true, .. }
            | Expect::Hello { muted: true, .. }
            | Expect::Multi { muted: true, .. }
            | Expect::Ping { muted: true, .. }
            | Expect::OurAuth { .. }
            | Expect::Lift => 0,
            Expect::Replies { count, .. } => *count,
            _ => 1,
        });
        counts.fold(0, |sum, count| sum.saturating_add(count).min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_has_a_bound() {
        assert!(size_of::<Expect>() <= 24);
        let mut expected = Expected::default();
        for index in 0..MOST_ENTRIES {
            assert!(!expected.is_full());
            expected.reply(Label::from(index % 2 == 0), false);
        }
        assert!(expected.is_full());
        expected.count_down();
        assert!(!expected.is_full());
    }

    #[test]
    fn runs_are_one_entry() {
        let mut expected = Expected::default();
        for _ in 0..1_000 {
            expected.reply(7, false);
        }
        assert_eq!(expected.queue.len(), 1);
        expected.push(Expect::Local(Box::from(*b"-NO\r\n")));
        assert_eq!((expected.local_bytes(), expected.unanswered(u32::MAX)), (5, 1_001));
        for _ in 0..1_000 {
            assert!(expected.take_local().is_none());
            expected.count_down();
        }
        expected.reply(7, false);
        expected.reply(7, false);
        expected.retract();
        expected.retract();
        assert_eq!(expected.take_local().as_deref(), Some(b"-NO\r\n".as_slice()));
        assert!(expected.is_empty() && expected.local_bytes() == 0);
    }
}
