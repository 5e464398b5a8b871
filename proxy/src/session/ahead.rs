//! While a session takes nothing more on, it reads a little ahead all the same: so it sees its client leave.
//!
//! Straight at a server a call that blocks ends with its client. Behind a `RESET`, say, the session waits for the
//! call's answer before it looks at another request; if it did not read either, the call would block for as long
//! as the server lets it.

use std::task::{Context, Poll};

use keystile_resp::command::{CommandId, Flags};

use super::expected::{Expect, Label};
use super::{End, Hold, LOCAL_BACKLOG, Session};

/// Bytes of requests beyond which nothing more is read ahead. One read brings up to 64 KiB more.
const AHEAD: usize = 64 * 1024;

impl Session {
    /// Whether requests wait until something of the server's has come.
    #[inline]
    pub(super) fn takes_nothing_on(&self) -> bool {
        self.hold != Hold::No
            || self.finishing.is_some()
            || self.expected.local_bytes() >= LOCAL_BACKLOG
            || self.expected.is_full()
    }

    /// Reads ahead. True where something came.
    ///
    /// A client that has left is the end, unless it left requests whose turn will come.
    pub(super) fn look_ahead(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        if self.client_held.len() >= AHEAD || !self.client.is_flushed() {
            return Ok(false);
        }
        let before = self.client_held.len();
        let left = match self.client.poll_fill(cx, &mut self.client_held) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(1..)) => {
                self.metrics.bytes_in.add((self.client_held.len() - before) as u64);
                self.handle.active(self.clock.now());
                self.rescan = true;
                return Ok(true);
            }
            Poll::Ready(Ok(_)) => End::ClientClosed,
            Poll::Ready(Err(_)) => End::ClientFailed,
        };
        let turn_comes = !self.client_held.is_empty() || self.finishing.is_some();
        if turn_comes && !self.may_block() { Ok(false) } else { Err(left) }
    }

    /// Whether the answer whose turn it is may not come for as long as it likes.
    fn may_block(&mut self) -> bool {
        let label = match self.expected.front() {
            Some(Expect::Replies { label, .. }) => *label,
            _ => return false,
        };
        may_block(label)
    }
}

/// Also what the table does not know: modules have calls that block.
pub(crate) fn may_block(label: Label) -> bool {
    CommandId::new(label).is_none_or(|id| id.command().flags.contains(Flags::BLOCKING))
}

#[cfg(test)]
mod tests {
    use keystile_resp::command::find;

    use super::super::expected::UNKNOWN;
    use super::super::judge::label_of;
    use super::*;

    #[test]
    fn some_calls_block() {
        for (name, blocks) in
            [("BLPOP", true), ("XREAD", true), ("WAIT", true), ("GET", false), ("EXEC", false)]
        {
            assert_eq!(may_block(label_of(find(name.as_bytes()))), blocks, "{name}");
        }
        assert!(may_block(UNKNOWN));
    }
}
