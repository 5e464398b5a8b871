//! Sealed bytes that wait for the socket. While none wait, the memory is the thread's: a connection at rest
//! holds none, and one at work asks the allocator for none.

use std::cell::RefCell;

/// Buffers that a thread keeps: both sides of a session may wait in one turn.
const SPARES: usize = 4;
/// Largest one that it keeps.
const MOST_KEPT: usize = 128 * 1024;
/// Smallest that is asked for: a record and what it adds.
const LEAST: usize = 17 * 1024;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What waits for one socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Written to as far as it is long, so that room is made without filling it again. What lies behind `end`
    /// are old sealed bytes, of other sessions too; they are never sent.
    bytes: Vec<u8>,
    end: usize,
    sent: usize,
    /// What waits goes with what comes behind it.
    deferred: bool,
}

impl Outbox {
    /// Whether nothing is to be sent now.
    pub(super) fn is_empty(&self) -> bool {
        self.end == 0 || self.deferred
    }

    /// What waits need not leave before something comes behind it. Until then it holds no more memory than
    /// it has bytes.
    pub(super) fn defer(&mut self) {
        if self.end == 0 {
            return;
        }
        let rest = self.rest().to_vec();
        self.took(rest.len());
        (self.end, self.bytes, self.deferred) = (rest.len(), rest, true);
    }

    /// What was deferred is to be sent now.
    pub(super) fn undefer(&mut self) {
        self.deferred = false;
    }

    /// So many bytes to write to, behind what waits; what is put there counts once [`Outbox::put`] says so.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        let needed = self.end + size;
        if self.bytes.len() < needed {
            let mut bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
            if bytes.len() < needed {
                // The allocator has zeros ready. Twice what waits: a peer that does not read is sent more and more.
                bytes = vec![0; needed.max(LEAST).max(2 * self.end)];
            }
            let waiting = self.bytes.get(..self.end).unwrap_or_default();
            if let Some(front) = bytes.get_mut(..self.end) {
                front.copy_from_slice(waiting);
            }
            self.bytes = bytes;
        }
        self.bytes.get_mut(self.end..needed).unwrap_or_default()
    }

    /// So many bytes of the room were written.
    pub(super) fn put(&mut self, length: usize) {
        self.end = (self.end + length).min(self.bytes.len());
        self.deferred &= length == 0;
        self.give_back();
    }

    /// What is to be sent next.
    pub(super) fn rest(&self) -> &[u8] {
        if self.deferred {
            return &[];
        }
        self.bytes.get(self.sent..self.end).unwrap_or_default()
    }

    /// So many bytes of the rest were sent.
    pub(super) fn took(&mut self, length: usize) {
        self.sent += length;
        if self.sent >= self.end {
            (self.sent, self.end) = (0, 0);
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if self.end > 0 || self.bytes.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() <= MOST_KEPT {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARES {
                    spare.push(bytes);
                }
            });
        }
    }

    /// Bytes of memory that it holds.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(outbox: &mut Outbox, bytes: &[u8]) {
        outbox.room(bytes.len() + 10)[..bytes.len()].copy_from_slice(bytes);
        outbox.put(bytes.len());
    }

    #[test]
    fn bytes_leave_in_order_and_memory_goes_back() {
        let (mut one, mut two) = (Outbox::default(), Outbox::default());
        put(&mut one, b"secret of one");
        put(&mut two, b"two");
        put(&mut one, b", and more");
        assert_eq!((one.rest(), two.rest()), (b"secret of one, and more".as_slice(), b"two".as_slice()));
        one.took(7);
        assert_eq!(one.rest(), b"of one, and more");
        one.took(16);
        assert_eq!((one.is_empty(), one.rest(), one.capacity()), (true, b"".as_slice(), 0));
        // The memory of one is now two's, and shows nothing of it.
        two.took(3);
        put(&mut two, b"x");
        assert_eq!(two.rest(), b"x");
        two.room(100);
        two.put(0);
        assert_eq!(two.rest(), b"x");
        one.room(5);
        one.put(0);
        assert_eq!(one.capacity(), 0, "nothing was put");
    }

    #[test]
    fn what_is_deferred_goes_in_front_of_what_comes_next() {
        let mut outbox = Outbox::default();
        outbox.defer();
        assert!(outbox.is_empty(), "nothing to defer");
        put(&mut outbox, b"sent, ticket");
        outbox.took(6);
        outbox.defer();
        assert_eq!((outbox.is_empty(), outbox.rest(), outbox.capacity()), (true, b"".as_slice(), 6));
        outbox.room(40);
        outbox.put(0);
        assert!(outbox.is_empty(), "nothing came behind it");
        put(&mut outbox, b", reply");
        assert_eq!((outbox.is_empty(), outbox.rest()), (false, b"ticket, reply".as_slice()));
        outbox.took(13);
        put(&mut outbox, b"again");
        outbox.defer();
        outbox.undefer();
        assert_eq!(outbox.rest(), b"again");
        outbox.took(5);
        assert_eq!((outbox.is_empty(), outbox.capacity()), (true, 0));
    }

    #[test]
    fn steady_work_asks_for_no_memory() {
        let mut outbox = Outbox::default();
        put(&mut outbox, b"warm");
        outbox.took(4);
        let count = allocation_counter::measure(|| {
            for _ in 0..100 {
                put(&mut outbox, &[7; 1000]);
                outbox.took(1000);
            }
        });
        assert_eq!(count.count_total, 0);
        put(&mut outbox, &vec![7; MOST_KEPT + 1]);
        outbox.took(MOST_KEPT + 1);
        assert!(SPARE.with_borrow(|spare| spare.iter().all(|bytes| bytes.len() <= MOST_KEPT)));
    }
}
