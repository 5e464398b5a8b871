//! Buffers that links and sessions borrow while they hold bytes, so that one at rest holds none.

use std::cell::RefCell;

/// Buffers that a thread keeps.
const KEPT: usize = 32;
/// A buffer that grew beyond this is given back to the allocator.
const MOST_KEPT: usize = 64 * 1024;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer.
pub(super) fn take() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Gives one back; what is in it is gone.
pub(super) fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > MOST_KEPT {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        if pool.len() < KEPT {
            pool.push(buffer);
        }
    });
}

/// Appends to a buffer that may be at rest.
#[inline]
pub(super) fn append(buffer: &mut Vec<u8>, bytes: &[u8]) {
    if buffer.capacity() == 0 {
        *buffer = take();
    }
    buffer.extend_from_slice(bytes);
}

/// Empties a buffer and lets it rest.
pub(super) fn rest(buffer: &mut Vec<u8>) {
    give(std::mem::take(buffer));
}
