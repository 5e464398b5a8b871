//! One connection of a session to a node: what was sent on it, what it owes, what it sent.

mod owed;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use keystile_model::database::Endpoint;
use keystile_resp::reply::{Limits, ReplyError, ReplyScanner, Step};
use tokio::time::{Duration, Instant, Sleep};

use owed::Owed;
pub(super) use owed::{Own, Whisper};

use super::again::{FIRST_PAUSE, LONGEST_PAUSE};
use super::buffers;
use crate::session::leg::Leg;

/// A link's place in its session.
pub(super) type LinkId = u16;

/// Bytes at the front of what was received that are done with before the rest is moved there.
const COMPACT_AT: usize = 64 * 1024;
/// Bytes that may wait for a link that is being dialled before the client is read no further.
const MOST_STAGED: usize = 1024 * 1024;
/// Longest answer to a question of ours.
pub(super) const MOST_OWN: usize = 4 * 1024 * 1024;

/// A connection on its way.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Leg, String>> + Send>>;

/// Opens connections to the nodes of one database, signed in as the session is.
pub trait Dial: Send + Sync {
    /// Dials a node. The error is text for the client.
    fn dial(&self, node: &Endpoint) -> Dialing;

    /// Whether this node may be dialled at all, by its address alone.
    fn may_dial(&self, node: &Endpoint) -> bool;
}

/// What a link is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The commands of its node.
    Main,
    /// Reads of a `READONLY` session, of a replica.
    Replica,
    /// Commands that are sent again, while the main link still owes replies to later ones.
    Detour,
    /// The same, of commands whose turn has come, where every detour owes replies to later ones. Nothing else is
    /// sent here, so the next command whose turn comes is never in want of a way.
    Front,
}

impl Purpose {
    /// Whether links of this purpose come and go with what is sent again.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Detour | Self::Front)
    }
}

enum State {
    Dialing(Dialing),
    /// To be dialled again when the time has come.
    Pausing(Pin<Box<Sleep>>),
    Up(Box<Leg>),
    /// The peer has closed it: what was received is still good.
    Ended,
}

/// One connection.
pub(super) struct Link {
    pub(super) node: Endpoint,
    pub(super) purpose: Purpose,
    state: State,
    /// AUTH with the client's own password, until it is sent.
    proof: Vec<u8>,
    /// Nothing that is staged is sent yet: the node would take it from its default user.
    is_proving: bool,
    /// What is to be sent.
    staged: Vec<u8>,
    /// Whether what is staged ends inside a request of the client's: only its next bytes may follow.
    mid_request: bool,
    /// What is sent when that request has ended.
    behind: Vec<u8>,
    received: Vec<u8>,
    at: usize,
    scanner: ReplyScanner,
    /// What the scanner said of the bytes from `at` on, while nobody takes it.
    peeked: Option<Step>,
    owed: VecDeque<Owed>,
    /// The number of the client's last command that went here, and of its part.
    pub(super) last: (u64, usize),
    /// A `SUNSUBSCRIBE` of ours has just been confirmed: or its slot has moved, which is told in the same form
    /// unasked, and the answer is still to come.
    doubtful: bool,
    /// Whether it speaks RESP3 although the client does not.
    pub(super) lifted: bool,
    /// The beginning of a long answer to a question of ours.
    pub(super) collected: Option<Vec<u8>>,
    /// Since when it is dialled again, and the last pause.
    pausing: Option<(Instant, Duration)>,
    /// The id that the node gave it, as far as known.
    pub(super) client_id: Option<i64>,
    /// Our address, once the peer has closed it.
    came_from: Option<SocketAddr>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("node", &self.node)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// What became of a dial.
pub(super) enum Dialed {
    /// It goes on, or there is none.
    NoNews,
    /// The link is up: it must be greeted.
    Up,
    /// There is no connection, for this reason.
    Failed(String),
    /// It is time to dial it again.
    Due,
}

impl Link {
    /// A link that is being dialled.
    pub(super) fn dialing(node: Endpoint, purpose: Purpose, dialing: Dialing) -> Self {
        Self::new(node, purpose, State::Dialing(dialing))
    }

    /// A link that is there.
    pub(super) fn up(node: Endpoint, purpose: Purpose, leg: Leg) -> Self {
        Self::new(node, purpose, State::Up(Box::new(leg)))
    }

    fn new(node: Endpoint, purpose: Purpose, state: State) -> Self {
        Self {
            node,
            purpose,
            state,
            proof: Vec::new(),
            is_proving: false,
            staged: Vec::new(),
            mid_request: false,
            behind: Vec::new(),
            received: Vec::new(),
            at: 0,
            scanner: ReplyScanner::new(Limits::DEFAULT),
            peeked: None,
            owed: VecDeque::new(),
            last: (0, 0),
            doubtful: false,
            lifted: false,
            collected: None,
            pausing: None,
            client_id: None,
            came_from: None,
        }
    }

    /// Whether commands can be given to it.
    #[inline]
    pub(super) fn is_usable(&self) -> bool {
        !matches!(self.state, State::Ended)
    }

    /// Whether it is connected.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Whether the peer has closed it.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Our address, of a link that the peer has closed.
    pub(super) fn came_from(&self) -> Option<SocketAddr> {
        self.came_from
    }

    /// It is of no more use.
    fn end(&mut self) {
        if let State::Up(leg) = std::mem::replace(&mut self.state, State::Ended) {
            self.came_from = leg.local_addr().ok();
        }
    }

    pub(super) fn poll_dial(&mut self, cx: &mut Context<'_>) -> Dialed {
        let dialing = match &mut self.state {
            State::Dialing(dialing) => dialing,
            State::Pausing(timer) => {
                let due = timer.as_mut().poll(cx).is_ready();
                return if due { Dialed::Due } else { Dialed::NoNews };
            }
            State::Up(_) | State::Ended => return Dialed::NoNews,
        };
        match dialing.as_mut().poll(cx) {
            Poll::Pending => Dialed::NoNews,
            Poll::Ready(Ok(leg)) => {
                self.state = State::Up(Box::new(leg));
                Dialed::Up
            }
            Poll::Ready(Err(why)) => {
                self.state = State::Ended;
                Dialed::Failed(why)
            }
        }
    }

    /// It could not be dialled: it waits a moment, with all that is staged. False where it has done so for too long.
    pub(super) fn pause(&mut self, bound: Duration) -> bool {
        let now = Instant::now();
        let (since, pause) = match self.pausing {
            Some((since, pause)) => (since, (pause * 2).min(LONGEST_PAUSE)),
            None => (now, FIRST_PAUSE),
        };
        if now.saturating_duration_since(since) >= bound {
            return false;
        }
        self.pausing = Some((since, pause));
        self.state = State::Pausing(Box::pin(tokio::time::sleep_until(now + pause)));
        true
    }

    /// Whether it was dialled more than once.
    pub(super) fn has_paused(&self) -> bool {
        self.pausing.is_some()
    }

    /// What waits for it goes to this node.
    pub(super) fn redial(&mut self, node: Endpoint, dialing: Dialing) {
        self.node = node;
        self.state = State::Dialing(dialing);
    }

    /// What is sent first, in front of what waits already.
    pub(super) fn greet(&mut self, greeting: &[u8], replies: usize) {
        for _ in 0..replies {
            self.owed.push_front(Owed::Own(Own::Needed));
        }
        if !greeting.is_empty() {
            self.staged.splice(..0, greeting.iter().copied());
        }
    }

    /// AUTH that the node must take before anything else is sent, [`Link::greet`]'s bytes included.
    pub(super) fn prove(&mut self, request: Vec<u8>) {
        self.owed.push_front(Owed::Own(Own::Proof));
        self.proof = request;
        self.is_proving = true;
    }

    /// The node took it: what is staged may go.
    pub(super) fn proved(&mut self) {
        self.is_proving = false;
    }

    /// Whether the node has yet to take the client's own password.
    pub(super) fn is_proving(&self) -> bool {
        self.is_proving
    }

    /// A command of the client's.
    #[inline]
    pub(super) fn send(&mut self, request: &[u8], number: u64, part: usize) {
        buffers::append(self.tail(), request);
        self.last = (number, part);
        match self.owed.back_mut() {
            Some(Owed::Client(count)) if *count < u32::MAX => *count += 1,
            _ => self.owed.push_back(Owed::Client(1)),
        }
    }

    /// Where whole requests go: never between the bytes of one whose rest is to come.
    #[inline]
    fn tail(&mut self) -> &mut Vec<u8> {
        if self.mid_request { &mut self.behind } else { &mut self.staged }
    }

    /// The client's last command was only a beginning: nothing else is sent before [`Link::end_request`].
    pub(super) fn begin_request(&mut self) {
        self.mid_request = true;
    }

    /// More bytes of the client's last command.
    pub(super) fn send_more(&mut self, bytes: &[u8]) {
        buffers::append(&mut self.staged, bytes);
    }

    /// The client's last command is whole: what had to wait follows.
    pub(super) fn end_request(&mut self) {
        self.mid_request = false;
        let behind = std::mem::take(&mut self.behind);
        buffers::append(&mut self.staged, &behind);
    }

    /// A question of ours.
    pub(super) fn ask(&mut self, request: &[u8], own: Own) {
        buffers::append(self.tail(), request);
        self.owed.push_back(Owed::Own(own));
    }

    /// A (un)subscription of ours.
    pub(super) fn whisper(&mut self, request: &[u8], whisper: Whisper) {
        buffers::append(self.tail(), request);
        self.owed.push_back(Owed::Whisper(whisper));
    }

    /// What lies next in what was received.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<Step, ReplyError> {
        if let Some(step) = self.peeked {
            return Ok(step);
        }
        let step = self.scanner.scan(self.received.get(self.at..).unwrap_or_default())?;
        if step != Step::NeedMore {
            self.peeked = Some(step);
        }
        Ok(step)
    }

    /// The bytes that [`Link::peek`] speaks of.
    #[inline]
    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        self.received.get(self.at..self.at + length).unwrap_or_default()
    }

    /// Takes what [`Link::peek`] spoke of.
    #[inline]
    pub(super) fn take(&mut self, length: usize) {
        self.peeked = None;
        self.at += length;
        if self.at >= self.received.len() {
            buffers::rest(&mut self.received);
            self.at = 0;
        } else if self.at >= COMPACT_AT {
            self.received.drain(..self.at);
            self.at = 0;
        }
    }

    /// Bytes that were received and not taken.
    pub(super) fn unread(&self) -> usize {
        self.received.len() - self.at
    }

    /// Reads once. True where something came, or the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> bool {
        let State::Up(leg) = &mut self.state else { return false };
        let mut received = std::mem::take(&mut self.received);
        if received.capacity() == 0 {
            received = buffers::take();
        }
        let filled = leg.poll_fill(cx, &mut received);
        if received.is_empty() {
            buffers::give(received);
        } else {
            self.received = received;
        }
        match filled {
            Poll::Pending => false,
            Poll::Ready(Ok(1..)) => true,
            Poll::Ready(_) => {
                self.end();
                true
            }
        }
    }

    /// Encrypts what is staged and sends what the socket takes. False while something waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        let State::Up(leg) = &mut self.state else {
            // While it is dialled no more is taken on than fits here.
            return self.has_ended() || self.staged.len() < MOST_STAGED;
        };
        if !self.proof.is_empty() {
            let written = leg.write(&self.proof);
            self.proof.clear();
            if written.is_err() {
                self.end();
                return true;
            }
        }
        if !self.staged.is_empty() && !self.is_proving {
            let written = leg.write(&self.staged);
            buffers::rest(&mut self.staged);
            if written.is_err() {
                self.end();
                return true;
            }
        }
        match leg.poll_flush(cx) {
            Poll::Pending => false,
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                // What it said before it left may still be there to be read.
                true
            }
        }
    }

    /// Sends what waits, as far as that goes.
    pub(super) async fn flush(&mut self) {
        std::future::poll_fn(|cx| if self.poll_flush(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }
}
