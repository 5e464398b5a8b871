//! What waits to be written: the lines themselves, one behind the other.
//!
//! The thread that writes takes all of it at once, so a line is copied once, and no memory that one thread asked
//! for is given back by another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Events that may wait, at some 700 bytes each.
const MOST_EVENTS: u64 = 16_384;
/// Bytes of lines of commands that may wait: several seconds of a busy proxy. Events have no such bound, so that
/// those of one session with much to tell do not push out another's.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// Largest buffer that is kept while nothing waits.
const KEEP: usize = 256 * 1024;

/// What the bounds are about.
#[derive(Debug, Default, PartialEq, Eq)]
struct Amount {
    /// Lines of events.
    events: u64,
    /// Bytes of lines of commands.
    command_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// What is in `bytes`.
    waiting: Amount,
    /// What was taken and is not written yet.
    taken: Amount,
    /// Nothing comes any more.
    ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the line of an event. False where too many wait, or nothing is written any more.
    pub(super) fn add_event(&self, line: &[u8]) -> bool {
        let mut state = self.lock();
        if state.ended || state.waiting.events + state.taken.events >= MOST_EVENTS {
            return false;
        }
        state.waiting.events += 1;
        self.add(state, line);
        true
    }

    /// Adds lines of commands. False where too much waits, or nothing is written any more.
    pub(super) fn add_commands(&self, lines: &[u8]) -> bool {
        let mut state = self.lock();
        if state.ended || state.waiting.command_bytes + state.taken.command_bytes >= MOST_BYTES {
            return false;
        }
        state.waiting.command_bytes += lines.len();
        self.add(state, lines);
        true
    }

    fn add(&self, mut state: MutexGuard<'_, State>, bytes: &[u8]) {
        let first = state.bytes.is_empty();
        state.bytes.extend_from_slice(bytes);
        drop(state);
        if first {
            self.changed.notify_all();
        }
    }

    /// Nothing is added from now on; what waits can still be taken.
    pub(super) fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until there is something, and after that for `gather`, or until the end. Then puts all that waits
    /// into `batch`, which is empty. False at the end.
    pub(super) fn take(&self, gather: Duration, batch: &mut Vec<u8>) -> bool {
        let nothing = |state: &mut State| state.bytes.is_empty() && !state.ended;
        let state = self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, gather, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner);
        if state.bytes.is_empty() {
            return false;
        }
        if batch.capacity() > KEEP {
            *batch = Vec::new();
        }
        std::mem::swap(&mut state.bytes, batch);
        state.taken = std::mem::take(&mut state.waiting);
        true
    }

    /// What was taken is written, or lost.
    pub(super) fn done(&self) {
        self.lock().taken = Amount::default();
    }

    /// Whether nothing waits, and all that was taken is written or lost.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.bytes.is_empty() && state.taken == Amount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(queue: &Queue) -> (bool, Vec<u8>) {
        let mut batch = Vec::new();
        (queue.take(Duration::ZERO, &mut batch), batch)
    }

    #[test]
    fn lines_are_taken_in_their_order() {
        let queue = Queue::default();
        assert!(
            queue.add_event(b"one\n") && queue.add_commands(b"two\nthree\n") && queue.add_event(b"four\n")
        );
        assert_eq!(take(&queue), (true, b"one\ntwo\nthree\nfour\n".to_vec()));
        assert!(queue.add_event(b"five\n"));
        queue.end();
        assert!(!queue.add_event(b"late\n") && !queue.add_commands(b"late\n"));
        assert_eq!(take(&queue), (true, b"five\n".to_vec()));
        assert_eq!(take(&queue), (false, Vec::new()));
    }

    #[test]
    fn commands_push_out_no_event() {
        let queue = Queue::default();
        assert!(queue.add_commands(&vec![b'x'; MOST_BYTES]));
        assert!(!queue.add_commands(b"one more\n"));
        for number in 0..=MOST_EVENTS {
            assert_eq!(queue.add_event(b"an event\n"), number < MOST_EVENTS, "{number}");
        }
        take(&queue);
        assert!(!queue.add_commands(b"y\n") && !queue.add_event(b"z\n"), "what is not written waits still");
        queue.done();
        assert!(queue.add_commands(b"y\n") && queue.add_event(b"z\n"));
    }

    #[test]
    fn who_waits_is_woken_by_a_line_and_by_the_end() {
        let queue = Queue::default();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| queue.take(Duration::from_secs(3_600), &mut Vec::new()));
            assert!(queue.add_event(b"one\n"));
            queue.end();
            assert!(waits.join().unwrap());
        });
    }
}
