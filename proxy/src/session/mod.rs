//! The engine: one authorized client on one cache connection, both directions in one task.
//!
//! Bytes pass in the largest runs that nothing of ours interrupts. What the engine looks at is where
//! requests and replies begin and end and which command a request names; what it keeps is a queue of the
//! replies that are owed, so that an answer of its own lands in its place.
//!
//! It refuses what the rules do not allow and what must never pass; in a transaction it then has the server
//! refuse a command too, so that the server itself aborts the `EXEC`. It never sends a byte twice.

pub(crate) mod address;
pub(crate) mod ahead;
pub(crate) mod auth_local;
pub mod auth_request;
mod changes;
pub mod expected;
pub mod gate;
pub mod gates;
pub mod handle;
pub mod journal;
pub mod judge;
pub mod leg;
mod outbox;
mod records;
pub mod renewal;
mod replies;
mod requests;
mod sign_in;
pub mod special;
pub(crate) mod subscriber;
pub mod words;

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use keystile_resp::{encode, reply, request};
use secrecy::SecretString;

use crate::clock::CoarseClock;
use crate::metrics::Metrics;
use expected::{Expect, Expected, Label};
use gate::Gate;
use handle::{Cut, Handle};
use journal::Journal;
use leg::Leg;
use renewal::Renewal;
use subscriber::Lift;

/// A request of up to this many bytes is seen whole; a longer one streams through.
const WHOLE_REQUEST: usize = 16 * 1024;
/// The same where roles limit keys and those of the request were not seen yet; beyond it, it is refused.
const WHOLE_SCOPED_REQUEST: usize = 1024 * 1024;
/// Bytes of our own answers that may wait behind the server's before the client is read no further.
pub(crate) const LOCAL_BACKLOG: usize = 1024 * 1024;
/// A thread's buffer that grew beyond this is given back.
const KEEP_BUFFER: usize = 256 * 1024;
/// Most errors that stand in for unanswered requests when the cache goes away.
pub(crate) const MOST_UNANSWERED: u32 = 10_000;
/// How long the last words may take to leave, and how long the peer's end is waited for.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);
/// How long the middle of a reply may last once the session is to end.
pub(crate) const TO_BOUNDARY: Duration = Duration::from_secs(1);

thread_local! {
    static WORK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Signs in to the cache anew on a live connection.
pub trait SignIn: Send + Sync {
    /// The password to give to AUTH; none where the connection needs no AUTH.
    fn password(&self) -> Pin<Box<dyn Future<Output = Result<Option<SecretString>, String>> + Send>>;
}

/// Keeps count of a client's own passwords, where the cache judges them.
pub trait Tries: Send + Sync {
    /// Whether one more may be tried.
    ///
    /// # Errors
    /// The words of the refusal.
    fn may_try(&self) -> Result<(), String>;

    /// One was wrong.
    fn wrong(&self);
}

/// How the cache lets this session in.
#[derive(Clone)]
pub enum Standing {
    /// We signed in; the client's own AUTH is answered here.
    Ours(Arc<dyn SignIn>),
    /// Nobody signs in.
    Open,
    /// The client's own AUTH goes through; until the cache took it nothing else does.
    PassThrough {
        /// Whether the cache took it.
        admitted: bool,
        /// The count of those that it did not take.
        tries: Arc<dyn Tries>,
    },
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client closed its connection.
    ClientClosed,
    /// The client's connection broke.
    ClientFailed,
    /// The client said QUIT.
    Quit,
    /// The client sent what is no RESP.
    Malformed(request::RequestError),
    /// The cache closed the connection, or it broke.
    ServerClosed,
    /// The cache sent what is no RESP, or a reply that nobody asked for.
    ServerMalformed(String),
    /// It was told to.
    Cut(Cut),
    /// The cache did not let us in again.
    SignIn(String),
}

impl End {
    /// The word for metrics and audit.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ClientFailed => "client_failed",
            Self::Quit => "quit",
            Self::Malformed(_) => "malformed",
            Self::ServerClosed => "server_closed",
            Self::ServerMalformed(_) => "server_malformed",
            Self::Cut(cut) => cut.kind.as_str(),
            Self::SignIn(_) => "sign_in",
        }
    }

    /// The text for the client and the audit; empty where there is nothing to say.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::ClientClosed | Self::ClientFailed | Self::Quit => String::new(),
            Self::Malformed(error) => error.to_string(),
            Self::ServerClosed => "the cache closed the connection before it answered; whether the command \
                 was executed is unknown: connect again"
                .to_owned(),
            Self::ServerMalformed(text) => format!("{text}: connect again"),
            Self::Cut(cut) => cut.text.clone(),
            Self::SignIn(text) => text.clone(),
        }
    }
}

/// Whether replies reach the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replying {
    On,
    Off,
    /// Not the next one.
    Skip,
}

impl Replying {
    /// Whether the client gets no reply to its next command, which `SKIP` is used up by.
    #[inline]
    pub(crate) fn take_muted(&mut self) -> bool {
        match self {
            Self::On => false,
            Self::Off => true,
            Self::Skip => {
                *self = Self::On;
                true
            }
        }
    }
}

/// Why nothing more of the client's is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It is.
    No,
    /// Until the cache has let the session in: it is nobody, or somebody else, meanwhile.
    UntilLetIn,
    /// Until an AUTH of ours can be sent, which is urgent: once everything before is answered.
    UntilSent,
    /// Until an AUTH of ours is answered, one way or the other.
    UntilSignedIn,
    /// Until everything before is answered: what comes next depends on it.
    UntilAnswered,
}

/// What a session is made of.
pub struct Parts {
    /// The client's side.
    pub client: Leg,
    /// Bytes of the client's that were read before the session began.
    pub held: Vec<u8>,
    /// The cache's side.
    pub server: Leg,
    /// How the cache lets it in.
    pub standing: Standing,
    /// What it may run.
    pub gate: Arc<Gate>,
    /// What the client may send, and the cache.
    pub limits: (request::Limits, reply::Limits),
    /// Whether the cache's topology stays hidden.
    pub hide_topology: bool,
    /// Its books.
    pub journal: Journal,
    /// How it is reached.
    pub handle: Arc<Handle>,
    /// The time.
    pub clock: Arc<CoarseClock>,
    /// The proxy's metrics.
    pub metrics: Arc<Metrics>,
}

/// A live session.
pub struct Session {
    client: Leg,
    server: Leg,
    requests: request::Scanner,
    replies: reply::ReplyScanner,
    /// The beginning of a request, or requests that wait for a hold to end: at most those of one read beyond what
    /// is read ahead.
    client_held: Vec<u8>,
    /// The beginning of a reply.
    server_held: Vec<u8>,
    expected: Expected,
    gate: Arc<Gate>,
    standing: Standing,
    hide_topology: bool,
    journal: Journal,
    handle: Arc<Handle>,
    clock: Arc<CoarseClock>,
    metrics: Arc<Metrics>,
    replying: Replying,
    in_multi: bool,
    /// How often a transaction began or ended.
    changes: u32,
    watching: bool,
    /// Whether it was ever asked for invalidations.
    tracking: bool,
    resp3: bool,
    lift: Lift,
    /// Whether a command that the rules allow and that is nothing special passes as it is.
    open: bool,
    /// Channels, patterns and shard channels that are subscribed to.
    subscribed: [u32; 3],
    /// What becomes of the request whose bytes stream through.
    streaming_request: Option<(Label, bool)>,
    /// What becomes of the reply whose bytes stream through.
    streaming_reply: Option<(Option<Label>, bool)>,
    renewal: Renewal,
    /// A fresh sign-in is urgent.
    hurry: bool,
    /// Why the last try failed.
    last_failure: Option<Box<str>>,
    hold: Hold,
    /// Requests wait in `client_held`.
    rescan: bool,
    /// Bytes that waited for the client at the last look.
    unsent: usize,
    /// Nothing more is read from the client; this is the end once everything is answered.
    finishing: Option<End>,
    counted: (u64, u64),
}

impl Session {
    /// Puts a session together; boxed, for it is some KiB, and each async fn that it moves through as a value
    /// would hold a place of that size for as long as the session lives.
    #[must_use]
    pub fn new(parts: Parts) -> Box<Self> {
        let limits = limits(&parts.gate, &parts.limits.0);
        let is_passing_through = matches!(parts.standing, Standing::PassThrough { .. });
        Box::new(Self {
            client: parts.client,
            server: parts.server,
            requests: request::Scanner::new(limits),
            replies: reply::ReplyScanner::new(parts.limits.1),
            rescan: !parts.held.is_empty(),
            client_held: parts.held,
            server_held: Vec::new(),
            expected: Expected::default(),
            gate: parts.gate,
            standing: parts.standing,
            hide_topology: parts.hide_topology,
            journal: parts.journal,
            handle: parts.handle,
            clock: parts.clock,
            metrics: parts.metrics,
            replying: Replying::On,
            in_multi: false,
            changes: 0,
            watching: false,
            tracking: false,
            resp3: false,
            lift: Lift::default(),
            open: !is_passing_through,
            subscribed: [0; 3],
            streaming_request: None,
            streaming_reply: None,
            renewal: Renewal::Idle,
            hurry: false,
            last_failure: None,
            hold: Hold::No,
            unsent: 0,
            finishing: None,
            counted: (0, 0),
        })
    }

    /// Runs until the end, says why to the client, and closes both sides.
    pub async fn run(mut self: Box<Self>) -> End {
        let end = std::future::poll_fn(|cx| {
            if self.counted == (0, 0) {
                self.handle.set_waker(cx.waker());
            }
            let poll = self.poll(cx);
            self.publish();
            poll
        })
        .await;
        // Boxed: it is rare, and an idle session should not carry its size.
        Box::pin(self.farewell(&end)).await;
        end
    }

    fn publish(&mut self) {
        let (commands, refused) = self.journal.commands();
        if commands != self.counted.0 {
            self.metrics.commands.add(commands - self.counted.0);
        }
        if refused != self.counted.1 {
            self.metrics.commands_refused.add(refused - self.counted.1);
        }
        self.counted = (commands, refused);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Some(orders) = self.handle.take()
            && let Some(end) = self.obey(orders)
        {
            return Poll::Ready(end);
        }
        loop {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
    }

    /// One look at everything. True where something moved, so that another look is due.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        // A client that does not read stops its own server side, nobody else's.
        if self.client.poll_flush(cx).map_err(|_| End::ClientFailed)?.is_ready() {
            moved |= self.pump_replies(cx)?;
        }
        // Behind the replies and before the next requests: here nothing is owed, if ever.
        moved |= self.poll_sign_in(cx)?;
        self.look_at_hold();
        let server_done = self.server.poll_flush(cx).map_err(|_| End::ServerClosed)?.is_ready();
        if self.takes_nothing_on() {
            moved |= self.look_ahead(cx)?;
        } else if server_done && self.may_read_client() {
            moved |= self.pump_requests(cx)?;
        }
        let client_done = self.client.poll_flush(cx).map_err(|_| End::ClientFailed)?.is_ready();
        self.note_stall(client_done);
        let _ = self.server.poll_flush(cx).map_err(|_| End::ServerClosed)?;
        if client_done
            && self.is_settled()
            && let Some(end) = self.finishing.take()
        {
            return Err(end);
        }
        Ok(moved)
    }

    /// Remembers since when the client takes nothing of what waits for it.
    #[inline]
    fn note_stall(&mut self, client_done: bool) {
        let unsent = self.client.unsent();
        if unsent != self.unsent {
            self.unsent = unsent;
            self.handle.stalled(if client_done { 0 } else { self.clock.now() });
        }
    }

    /// Whether the server owes nothing.
    fn is_settled(&self) -> bool {
        self.expected.is_empty() && self.streaming_reply.is_none()
    }

    fn may_read_client(&self) -> bool {
        self.client.is_flushed() || !self.expected.is_empty()
    }

    fn obey(&mut self, orders: handle::Orders) -> Option<End> {
        if orders.summary {
            self.journal.summarise();
        }
        if let Some(gate) = orders.gate {
            let hears = self.may_subscribe() || self.tracking;
            if gate.is_scoped() && hears && !gate.has_scope_of(&self.gate) {
                // Which channels and keys it hears of was allowed by the old rules, and is not remembered.
                let text = "the rules on keys and channels have changed: connect again".to_owned();
                return Some(End::Cut(Cut { kind: handle::CutKind::Denied, text }));
            }
            self.requests.set_limits(limits(&gate, self.requests.limits()));
            self.gate = gate;
        }
        if orders.sign_in
            && matches!(self.renewal, Renewal::Idle)
            && matches!(self.standing, Standing::Ours(_))
        {
            self.renewal = Renewal::Due;
        }
        if orders.hurry {
            self.hurry = true;
        }
        let mut cut = orders.cut?;
        if cut.kind == handle::CutKind::IamLife {
            cut.text = format!("{}: {}", cut.text, self.why_not_signed_in());
        }
        Some(End::Cut(cut))
    }

    /// Answers the client in the order of its requests.
    fn answer(&mut self, bytes: Vec<u8>) -> Result<(), End> {
        if self.is_settled() {
            return self.client.write(&bytes).map_err(|_| End::ClientFailed);
        }
        self.expected.push(Expect::Local(bytes.into_boxed_slice()));
        Ok(())
    }

    /// Says why, where there is something to say, and closes both sides.
    async fn farewell(&mut self, end: &End) {
        let _ = tokio::time::timeout(FAREWELL, self.server_farewell()).await;
        let at_boundary = tokio::time::timeout(TO_BOUNDARY, self.reach_boundary()).await.unwrap_or(false);
        if at_boundary {
            self.last_words(end);
        }
        // The cache's side first: it does not wait for a client that is slow to leave.
        let _ = tokio::time::timeout(FAREWELL, self.server.shut()).await;
        if *end != End::ClientFailed {
            let _ = tokio::time::timeout(FAREWELL, self.client.shut()).await;
            if *end != End::ClientClosed {
                let _ = tokio::time::timeout(FAREWELL, self.client.discard()).await;
            }
        }
        if let End::Malformed(error) = end {
            self.journal.malformed(&error.to_string());
            if error.is_limit() {
                self.metrics.limits.add("request");
            }
        }
        self.journal.close(end.as_str(), &end.text());
        self.metrics.session_ends.add(end.as_str());
    }

    /// What the client sent before it left is the server's to have; then the connection closes.
    async fn server_farewell(&mut self) {
        let _ = self.server.flush().await;
    }

    /// Passes the rest of a reply whose beginning the client has. False where that cannot be had.
    async fn reach_boundary(&mut self) -> bool {
        while self.streaming_reply.is_some() {
            let more = std::future::poll_fn(|cx| {
                // Still no faster than the client reads.
                match self.client.poll_flush(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Ready(Ok(())) => {}
                }
                match self.pump_replies(cx) {
                    Ok(true) => Poll::Ready(true),
                    Ok(false) => Poll::Pending,
                    Err(_) => Poll::Ready(false),
                }
            });
            if !more.await {
                return false;
            }
        }
        true
    }

    fn last_words(&mut self, end: &End) {
        let words = last_words(end, self.expected.unanswered(MOST_UNANSWERED));
        let _ = self.client.write(&words);
    }
}

/// What a client is told at the end of its session, at the boundary of a reply; nothing where there is nothing to
/// say. Of a server that is gone each of the `unanswered` commands gets an error.
pub(crate) fn last_words(end: &End, unanswered: u32) -> Vec<u8> {
    let mut words = Vec::new();
    let errors = match end {
        End::ClientClosed | End::ClientFailed | End::Quit | End::Malformed(_) => 0,
        // A connection that closed in silence closes in silence.
        End::ServerClosed => unanswered,
        _ => 1,
    };
    for _ in 0..errors {
        encode::error(&mut words, "ERR keystile:", &end.text());
    }
    words
}

/// Those of the configuration, with what is seen whole as the gate needs it.
fn limits(gate: &Gate, configured: &request::Limits) -> request::Limits {
    let whole = if gate.is_scoped() { WHOLE_SCOPED_REQUEST } else { WHOLE_REQUEST };
    request::Limits { whole, ..*configured }
}

/// Takes the buffer to work in: what is held, or the thread's own. The second part tells which.
pub(crate) fn take_buffer(held: &mut Vec<u8>) -> (Vec<u8>, bool) {
    if held.is_empty() { (WORK.take(), false) } else { (std::mem::take(held), true) }
}

/// Gives the buffer back; what was not consumed stays with the session.
pub(crate) fn give_back(mut work: Vec<u8>, was_held: bool, consumed: usize, held: &mut Vec<u8>) {
    if was_held {
        work.drain(..consumed);
        *held = if work.is_empty() { Vec::new() } else { work };
        return;
    }
    if let Some(left @ [_, ..]) = work.get(consumed..) {
        *held = left.to_vec();
    }
    if work.capacity() <= KEEP_BUFFER {
        work.clear();
        WORK.set(work);
    }
}
