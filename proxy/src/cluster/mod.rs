//! Cluster mode: many servers that look like one.
//!
//! A session has one connection (a *link*) to each node that it uses, all in one task. The decisions are free
//! of I/O: which shard a command belongs to ([`slots`], [`plan`]), how one that belongs to several is taken
//! apart ([`split`]) and how the replies become one ([`merge`]). docs/CLUSTER-MODE.md says what each command
//! means.
//!
//! ```text
//! client ─► requests ─► judge ─► plan ─► link A … link N ─► nodes
//!    ▲                                        │
//!    └── order: whose turn it is ◄── replies ◄┘   MOVED, ASK, TRYAGAIN …: again
//! ```
//! A link answers in the order of what it was sent, and the order queue has the client's: a reply stays with
//! its link until its turn comes, and is then passed on as it came.

mod again;
mod ahead;
pub mod answers;
mod blocked;
mod budget;
mod buffers;
mod clients;
mod control;
mod dialect;
mod fan;
mod fanout;
mod fast;
mod killed;
mod link;
mod links;
pub mod map;
pub mod merge;
mod messages;
mod order;
mod parts;
pub mod pattern;
mod places;
pub mod plan;
mod pubsub;
mod replies;
mod requests;
mod rest;
pub mod scan;
mod sending;
mod settings;
mod sign_in;
pub mod slots;
pub mod split;
mod transaction;
pub mod value;

use std::sync::Arc;
use std::task::{Context, Poll};

use keystile_model::database::{Database, Endpoint};
use keystile_resp::request;
use secrecy::SecretString;

pub use budget::Budget;
pub use link::{Dial, Dialing};

use crate::clock::CoarseClock;
use crate::metrics::Metrics;
use crate::session::expected::Label;
use crate::session::gate::Gate;
use crate::session::handle::{Cut, CutKind, Handle, Orders};
use crate::session::journal::Journal;
use crate::session::leg::Leg;
use crate::session::renewal::Renewal;
use crate::session::{End, FAREWELL, MOST_UNANSWERED, Parts, Replying, Standing, TO_BOUNDARY, last_words};
use again::Trouble;
use answers::OneNode;
use blocked::Blocking;
use budget::{Purse, Share};
use killed::Whence;
use link::{Link, LinkId, Purpose};
use links::Links;
use map::SharedMap;
use order::{Awaiting, Entry, Order};
use pubsub::Subscriptions;
use scan::Rights;
use settings::Settings;
use slots::SlotMap;
use transaction::Transaction;

/// A request of up to this many bytes is seen whole and kept until it is answered.
const WHOLE_REQUEST: usize = 1024 * 1024;

/// What a session in cluster mode is made of, beside what every session is.
pub struct ClusterParts {
    /// What every session is made of; its server is the first connection.
    pub parts: Parts,
    /// Where that leads: to the node of commands without a key, or to the database's endpoint.
    pub node: Endpoint,
    /// The database.
    pub database: Arc<Database>,
    /// Opens connections to nodes.
    pub dial: Arc<dyn Dial>,
    /// The database's slot map.
    pub map: Arc<SharedMap>,
    /// Whether an `MSET` of several slots may be split.
    pub split_mset: bool,
    /// The deployment, and the address by which the client reached the proxy.
    pub reached: (Arc<str>, Endpoint),
    /// What all sessions together may hold of replies of several nodes.
    pub budget: Arc<Budget>,
}

/// A reply that passes while it comes.
#[derive(Debug)]
struct Streaming {
    link: LinkId,
    /// What it answers; `None` for a push.
    label: Option<Label>,
    /// Whether the client gets it.
    passes: bool,
    /// Whether it answers the command at the front.
    answers: bool,
}

/// A request whose bytes pass while they come.
#[derive(Debug)]
struct StreamedRequest {
    label: Label,
    /// Where they go; `None` if nowhere.
    link: Option<LinkId>,
}

/// Commands that wait until this one was answered, unless they go to the same node.
#[derive(Debug, Clone, Copy)]
struct Barrier {
    number: u64,
    link: Option<LinkId>,
}

/// A live session with a cluster.
pub struct ClusterSession {
    client: Leg,
    requests: request::Scanner,
    client_held: Vec<u8>,
    /// What the scanner said of the bytes at the front of `client_held`, while it cannot be taken on.
    parked: Option<request::Step>,
    /// More bytes of the client are needed to go on.
    wants_more: bool,
    /// The client has said all that it will.
    client_ended: bool,
    streaming_request: Option<StreamedRequest>,
    links: Links,
    home: Option<LinkId>,
    /// The main link of each shard of the map, by its place, as far as known.
    by_place: Vec<Option<LinkId>>,
    order: Order,
    barrier: Option<Barrier>,
    /// Something is sent again: no new command is taken on before all is settled.
    settling: bool,
    trouble: Option<Box<Trouble>>,
    streaming: Option<Streaming>,
    /// Out-of-band messages of ours for the client.
    pushes: Vec<u8>,
    map: Arc<SlotMap>,
    map_version: u64,
    shared_map: Arc<SharedMap>,
    /// Whether the db user may ask for the map, as far as known.
    may_ask_slots: bool,
    /// Commands with keys wait for the map.
    waits_for_map: bool,
    settings: Settings,
    /// A `CLIENT CACHING` that goes with the next command, wherever that goes.
    caching: Option<Box<[u8]>>,
    transaction: Transaction,
    subscriptions: Subscriptions,
    /// A command that may block is on its way.
    blocking: Option<Blocking>,
    /// Whether the db user may ask for its client's id, as far as known.
    may_ask_ids: bool,
    /// A `CLIENT KILL` by id waits for who it is about.
    whence: Whence,
    replying: Replying,
    /// Reads go to replicas.
    readonly: bool,
    /// Which replica was read last.
    turn: usize,
    /// Replicas that could not be reached since the map last changed.
    gone_replicas: Vec<Endpoint>,
    gate: Arc<Gate>,
    standing: Standing,
    database: Arc<Database>,
    dial: Arc<dyn Dial>,
    split_mset: bool,
    deployment: Arc<str>,
    /// What a cluster-aware client takes this proxy for.
    node: OneNode,
    /// What a `SCAN` may ask.
    scan_rights: Rights,
    journal: Journal,
    handle: Arc<Handle>,
    clock: Arc<CoarseClock>,
    metrics: Arc<Metrics>,
    /// The password and the name that the client offered, until the cache took them.
    offered: (Option<SecretString>, Option<Vec<u8>>),
    /// Where a fresh sign-in stands.
    renewal: Renewal,
    /// The IAM life is nearly over: requests wait for the sign-in.
    hurry: bool,
    /// Why the last sign-in failed.
    last_failure: Option<Box<str>>,
    /// Requests wait until the cache has let us in, or has answered what changes how it speaks.
    hold: bool,
    /// Bytes that waited for the client at the last look.
    unsent: usize,
    purse: Arc<Purse>,
    /// What merged replies that the client has not taken yet have of it.
    merged: Vec<Share>,
    finishing: Option<End>,
    counted: (u64, u64),
    begun: bool,
}

impl ClusterSession {
    /// Puts a session together.
    #[must_use]
    pub fn new(own: ClusterParts) -> Box<Self> {
        let ClusterParts { parts, node, database, dial, map: shared_map, split_mset, reached, budget } = own;
        let (deployment, address) = reached;
        let limits = request::Limits { whole: WHOLE_REQUEST, ..parts.limits.0 };
        let purse = budget.purse(&parts.journal.facts().about().user);
        let mut links = Links::default();
        let map = shared_map.load();
        let is_home = map.home() == Some(&node);
        let home = links.add(Link::up(node, Purpose::Main, parts.server)).filter(|_| is_home);
        Box::new(Self {
            client: parts.client,
            requests: request::Scanner::new(limits),
            wants_more: parts.held.is_empty(),
            client_held: parts.held,
            parked: None,
            client_ended: false,
            streaming_request: None,
            links,
            home,
            by_place: Vec::new(),
            order: Order::default(),
            barrier: None,
            settling: false,
            trouble: None,
            streaming: None,
            pushes: Vec::new(),
            map,
            map_version: shared_map.version(),
            shared_map,
            may_ask_slots: true,
            waits_for_map: false,
            settings: Settings::default(),
            caching: None,
            transaction: Transaction::default(),
            subscriptions: Subscriptions::default(),
            blocking: None,
            may_ask_ids: true,
            whence: Whence::default(),
            replying: Replying::On,
            readonly: false,
            turn: usize::from(*uuid::Uuid::new_v4().as_bytes().first().unwrap_or(&0)),
            gone_replicas: Vec::new(),
            gate: parts.gate,
            standing: parts.standing,
            node: OneNode::new(&deployment, database.name.as_str(), address),
            deployment,
            scan_rights: Rights::default(),
            database,
            dial,
            split_mset,
            journal: parts.journal,
            handle: parts.handle,
            clock: parts.clock,
            metrics: parts.metrics,
            offered: (None, None),
            renewal: Renewal::Idle,
            hurry: false,
            last_failure: None,
            hold: false,
            unsent: 0,
            purse,
            merged: Vec::new(),
            finishing: None,
            counted: (0, 0),
            begun: false,
        })
    }

    /// Runs until the end, says why to the client, and closes all connections.
    pub async fn run(mut self: Box<Self>) -> End {
        let end = std::future::poll_fn(|cx| {
            let poll = self.poll(cx);
            self.tell_blocked();
            self.publish();
            poll
        })
        .await;
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
        if !self.begun {
            self.begun = true;
            self.handle.set_waker(cx.waker());
            self.ask_for_map_at_start();
        }
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
        let mut moved = self.poll_sign_in(cx)?;
        moved |= self.poll_dials(cx)?;
        moved |= self.poll_trouble(cx);
        moved |= self.poll_subscriptions(cx);
        self.follow_map();
        // A client that does not read stops its own links, nobody else's.
        if self.client.poll_flush(cx).map_err(|_| End::ClientFailed)?.is_ready() {
            moved |= self.pump_replies(cx)?;
        }
        if self.flush_links(cx) && self.may_read_client() {
            moved |= self.pump_requests(cx)?;
            self.flush_links(cx);
        }
        let client_done = self.client.poll_flush(cx).map_err(|_| End::ClientFailed)?.is_ready();
        self.note_stall(client_done);
        if client_done && !self.merged.is_empty() && !self.order.holds_answers() {
            self.merged.clear();
        }
        if client_done && self.order.is_empty() && self.streaming.is_none() {
            self.settled();
            if let Some(end) = self.finishing.take() {
                return Err(end);
            }
        }
        Ok(moved)
    }

    /// Remembers since when the client takes nothing of what waits for it.
    fn note_stall(&mut self, client_done: bool) {
        let unsent = self.client.unsent();
        if unsent != self.unsent {
            self.unsent = unsent;
            self.handle.stalled(if client_done { 0 } else { self.clock.now() });
        }
    }

    /// Sends what waits on each link. False while one does not take it.
    fn flush_links(&mut self, cx: &mut Context<'_>) -> bool {
        let mut flushed = true;
        for (_, link) in self.links.iter_mut() {
            flushed &= link.poll_flush(cx);
        }
        flushed
    }

    /// Everything is answered: what was sent again is settled.
    fn settled(&mut self) {
        if !std::mem::take(&mut self.settling) {
            return;
        }
        self.trouble = None;
        if self.settings.tracks() {
            return;
        }
        for id in self.links.ids() {
            if !self.is_subscribed_on(id)
                && self.links.get(id).is_some_and(|link| link.purpose.is_passing() && !link.owes())
            {
                self.links.remove(id);
            }
        }
    }

    fn obey(&mut self, orders: Orders) -> Option<End> {
        if orders.summary {
            self.journal.summarise();
        }
        if let Some(gate) = orders.gate {
            let hears = !self.subscriptions.is_empty() || self.is_subscribing() || self.settings.tracks();
            if gate.is_scoped() && hears && !gate.has_scope_of(&self.gate) {
                // What it hears was allowed by the old rules.
                let text = "the rules on keys and channels have changed: connect again".to_owned();
                return Some(End::Cut(Cut { kind: CutKind::Denied, text }));
            }
            self.gate = gate;
        }
        if orders.sign_in || orders.hurry {
            self.sign_in_is_due(orders.hurry);
        }
        let mut cut = orders.cut?;
        if cut.kind == CutKind::IamLife {
            cut.text = format!("{}: {}", cut.text, self.why_not_signed_in());
        }
        Some(End::Cut(cut))
    }

    /// Answers the client in the order of its requests.
    fn answer(&mut self, label: Label, bytes: Vec<u8>, muted: bool) {
        if !muted {
            self.order.push(Entry::new(Awaiting::Answer(bytes.into_boxed_slice()), label, false), &[]);
        }
    }

    /// Says why, where there is something to say, and closes all connections.
    async fn farewell(&mut self, end: &End) {
        for id in self.links.ids() {
            if let Some(link) = self.links.get(id) {
                // What the client sent before it left is the servers' to have.
                let _ = tokio::time::timeout(FAREWELL, link.flush()).await;
            }
        }
        let at_boundary = tokio::time::timeout(TO_BOUNDARY, self.reach_boundary()).await.unwrap_or(false);
        if at_boundary {
            self.last_words(end);
        }
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

    /// Passes the rest of a reply whose beginning the client has. False where that cannot be had.
    async fn reach_boundary(&mut self) -> bool {
        while self.streaming.is_some() {
            let more = std::future::poll_fn(|cx| {
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
        let words = last_words(end, self.order.unanswered(MOST_UNANSWERED));
        let _ = self.client.write(&words);
    }
}
