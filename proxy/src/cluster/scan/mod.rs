//! `SCAN` over a whole cluster: each key that is there all the time comes at least once, whatever moves.
//!
//! The walk goes from slot to slot, and its whole state is in the cursor ([`cursor`]), so that any session of
//! any proxy goes on with it. One page is one `SCAN` of the node that serves the slot. Where the page leaves
//! slots behind, the node is asked whether it really served them, for `SCAN` itself says nothing of slots
//! that are elsewhere ([`proof`]):
//!
//! ```text
//!             SCAN ──► no slot left behind ─────────────────────────► page
//!   (slot) ───► │
//!               └────► slots left behind ──► served, closed ────────► page, next slot
//!                                     ├────► moved since ───────────► page, that slot again from its start
//!                                     └────► on its way elsewhere ──► page, that slot there, too
//!   (slot, there too): ask where ──► SCAN ──► slot left behind ──► still there ──► page, next slot
//! ```
//! A key moves only forward, from the node that serves its slot to the one that will. So a key that was not
//! seen on the first had moved when it was walked, and is seen on the second, which is walked later.
//!
//! Bytes and replies in, requests and one reply out; the engine carries them.

pub mod cursor;
pub mod nodes;
pub mod proof;
#[cfg(test)]
mod tests;

use keystile_model::database::{Database, DatabaseKind, Endpoint, Engine};
use keystile_resp::encode;
use keystile_resp::slot::{self, SLOTS};

use super::pattern;
use super::slots::{Redirect, SlotMap};
use super::value::Value;
use cursor::{Cursor, Walk};
use proof::{Chain, Verdict};

/// The words of a server for a slot that nobody serves.
const NOT_SERVED: &[u8] = b"-CLUSTERDOWN Hash slot not served\r\n";

/// What a node's own cursors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cursors {
    /// Of one slot each, with the slot in the lowest 14 bits: Valkey from 8.0 on.
    OfSlots,
    /// Of all keys of the node: before. (It is right for any node, and costs more when slots move.)
    OfNode,
    /// Of the whole cluster: a serverless cache has one node, and more behind it that nobody sees. Such a
    /// `SCAN` goes home as it is.
    OfCluster,
}

impl Cursors {
    /// What those of a database's nodes are.
    #[must_use]
    pub fn of(database: &Database) -> Self {
        let major = database.engine_version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        match database.kind {
            DatabaseKind::ElasticacheServerless => Self::OfCluster,
            _ if database.engine == Engine::Valkey && major.is_some_and(|major| major >= 8) => Self::OfSlots,
            _ => Self::OfNode,
        }
    }
}

/// What the db user may ask beside `SCAN`, as far as the session has learned. Keep it with the session, so that
/// what was refused once is not asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// `CLUSTER NODES`.
    pub nodes: bool,
    /// `EXISTS` of a key of any name.
    pub exists: bool,
}

impl Default for Rights {
    fn default() -> Self {
        Self { nodes: true, exists: true }
    }
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this to this node, and give the replies to [`Scan::take`] as they are: a redirect is an answer
    /// here, not to be followed.
    Ask {
        /// The node.
        node: Endpoint,
        /// One request or more, encoded.
        requests: Vec<u8>,
        /// How many replies will come.
        replies: usize,
    },
    /// The reply to the client.
    Done(Vec<u8>),
}

/// One `SCAN` of a client's.
#[derive(Clone, Debug)]
pub struct Scan {
    args: Vec<Vec<u8>>,
    cursors: Cursors,
    cursor: Cursor,
    /// The last slot to walk: the only one where the pattern pins it.
    last: u16,
    node: Option<Endpoint>,
    /// The last slot that this page may count for.
    run_end: u16,
    phase: Phase,
    keys: Vec<u8>,
    count: usize,
    /// Where the client goes on once all is proven; `None`: it is through.
    next: Option<Cursor>,
    learned: Option<Redirect>,
}

#[derive(Clone, Debug)]
enum Phase {
    /// Where is the slot on its way to?
    Locate(Chain),
    /// The page itself.
    Page,
    /// Were the slots left behind served here?
    Prove(Chain),
    /// Is the slot still on its way here, or here?
    Arrived(Chain),
    /// All is known.
    Done(Vec<u8>),
}

impl Scan {
    /// Begins with the request `args` (`SCAN`, the cursor, options).
    ///
    /// # Errors
    /// The reply where the cursor is none.
    pub fn begin<A: AsRef<[u8]>>(args: &[A], cursors: Cursors) -> Result<Self, Vec<u8>> {
        let given = args.get(1).and_then(|word| number(word.as_ref()));
        let given = given.ok_or_else(|| b"-ERR invalid cursor\r\n".to_vec())?;
        let pinned = pattern_of(args).and_then(pattern::slot_of);
        // What is none of ours (of a connection beside the proxy, say) begins anew: more, but nothing missed.
        let cursor = Cursor::decode(given).unwrap_or_else(|| Cursor::at(pinned.unwrap_or(0)));
        Ok(Self {
            args: args.iter().map(|arg| arg.as_ref().to_vec()).collect(),
            cursors,
            cursor,
            last: pinned.unwrap_or(SLOTS - 1),
            node: None,
            run_end: cursor.slot,
            phase: if cursor.walk == Walk::Target {
                Phase::Locate(Chain::new(cursor.slot, cursor.slot))
            } else {
                Phase::Page
            },
            keys: Vec::new(),
            count: 0,
            next: None,
            learned: None,
        })
    }

    /// What to do next.
    #[must_use]
    pub fn step(&mut self, map: &SlotMap, rights: Rights) -> Step {
        loop {
            if matches!(self.phase, Phase::Locate(_)) {
                self.node = map.primary(self.cursor.slot).cloned();
            }
            let (requests, replies) = match &mut self.phase {
                Phase::Done(reply) => return Step::Done(std::mem::take(reply)),
                Phase::Page => {
                    self.find_node(map);
                    (self.page_request(), 1)
                }
                Phase::Locate(chain) | Phase::Prove(chain) | Phase::Arrived(chain) => match chain.ask(rights)
                {
                    Some(question) => question,
                    None => {
                        self.conclude(self.cursor.slot, Verdict::Refused);
                        continue;
                    }
                },
            };
            return match &self.node {
                Some(node) => Step::Ask { node: node.clone(), requests, replies },
                None => Step::Done(NOT_SERVED.to_vec()),
            };
        }
    }

    /// Takes the replies to the last [`Step::Ask`], each a whole frame.
    pub fn take(&mut self, replies: &[&[u8]], rights: &mut Rights) {
        match &mut self.phase {
            Phase::Done(_) => {}
            Phase::Page => self.take_page(replies.first().copied().unwrap_or_default()),
            Phase::Locate(chain) | Phase::Prove(chain) | Phase::Arrived(chain) => {
                if let Some((slot, verdict)) = chain.take(replies, self.node.as_ref(), rights) {
                    self.conclude(slot, verdict);
                }
            }
        }
    }

    /// What a question about slots came to.
    fn conclude(&mut self, slot: u16, verdict: Verdict) {
        if let Verdict::Moved(redirect) = &verdict {
            self.learned = Some(redirect.clone());
        }
        match (&self.phase, verdict) {
            (Phase::Locate(_), verdict) => self.go_on_at(verdict),
            // What nobody tells has to be taken for granted: docs/CLUSTER-MODE.md says so.
            (Phase::Arrived(_), Verdict::Served | Verdict::Refused) => {
                self.finish(self.behind(self.cursor.slot))
            }
            (_, Verdict::Served | Verdict::Refused) => self.finish(self.next),
            // All of it was walked here, so what is not seen yet is there, or will be.
            (_, Verdict::Asked(redirect)) => {
                let fingerprint = self.fingerprint_of(&redirect.to, slot);
                self.finish(Some(Cursor { fingerprint, ..Cursor::target(slot) }));
            }
            // It is elsewhere, or it went back: from its start.
            _ => self.finish(Some(Cursor::at(slot))),
        }
    }

    /// A `MOVED` that was met on the way: correct the map by it.
    pub fn learned(&mut self) -> Option<Redirect> {
        self.learned.take()
    }

    fn find_node(&mut self, map: &SlotMap) {
        if self.cursor.walk == Walk::Owner {
            self.node = map.primary(self.cursor.slot).cloned();
            self.run_end = map.end_of_run(self.cursor.slot).min(self.last.max(self.cursor.slot));
        }
        if self.cursor.inner != 0 && !self.cursor.fits(self.fingerprint()) {
            // The place is of another node, or of more or fewer slots: the slot begins anew.
            self.cursor.inner = 0;
        }
    }

    /// Goes on with a slot that was on its way to a node: there, whether it has arrived or not. Where that is
    /// not the way any more, the slot begins anew at whoever serves it.
    fn go_on_at(&mut self, verdict: Verdict) {
        let place = match verdict {
            Verdict::Asked(redirect) | Verdict::Moved(redirect) => Some(redirect.to),
            Verdict::Served | Verdict::Refused | Verdict::Unknown => None,
        };
        let slot = self.cursor.slot;
        let fits = |node: &Endpoint| self.cursor.fits(self.fingerprint_of(node, slot));
        // Arrived, it may be leaving again: then the node that was asked is the one.
        let found = [&self.node, &place].into_iter().flatten().find(|node| fits(node)).cloned();
        match found {
            Some(node) => self.node = Some(node),
            None => self.cursor = Cursor::at(slot),
        }
        self.phase = Phase::Page;
    }

    fn fingerprint(&self) -> u64 {
        self.node.as_ref().map_or(0, |node| self.fingerprint_of(node, self.run_end))
    }

    /// What a node's own cursor hangs on: the node, and (where it is of all its keys) the slots that the walk
    /// counts for.
    fn fingerprint_of(&self, node: &Endpoint, run_end: u16) -> u64 {
        cursor::fingerprint(node, if self.cursors == Cursors::OfSlots { None } else { Some(run_end) })
    }

    fn page_request(&self) -> Vec<u8> {
        let inner = match self.cursors {
            Cursors::OfSlots => self.cursor.inner << 14 | u64::from(self.cursor.slot),
            Cursors::OfNode | Cursors::OfCluster => self.cursor.inner,
        };
        let mut words: Vec<&[u8]> = self.args.iter().map(Vec::as_slice).collect();
        let inner = inner.to_string();
        if let Some(word) = words.get_mut(1) {
            *word = inner.as_bytes();
        }
        let mut request = Vec::new();
        encode::request(&mut request, &words);
        request
    }

    fn take_page(&mut self, reply: &[u8]) {
        let Some(told) = self.read_page(reply) else {
            // An error of the node's, to be read by the client.
            self.phase = Phase::Done(reply.to_vec());
            return;
        };
        let slot = self.cursor.slot;
        let (reached, inner) = match self.cursors {
            _ if told == 0 => (self.run_end + 1, 0),
            Cursors::OfSlots => {
                let at = u16::try_from(told & u64::from(SLOTS - 1)).unwrap_or(0);
                if at > self.run_end { (self.run_end + 1, 0) } else { (at, told >> 14) }
            }
            Cursors::OfNode | Cursors::OfCluster => (slot, told),
        };
        if reached <= slot {
            // Still in the same slot: nothing to prove. (A node that steps back stays where it is.)
            let same = Cursor { inner, fingerprint: self.fingerprint(), ..self.cursor };
            return self.finish(Some(same));
        }
        if self.cursor.walk == Walk::Target {
            self.phase = Phase::Arrived(Chain::of_target(slot));
            return;
        }
        self.next = match inner {
            0 => self.behind(reached - 1),
            inner => Some(Cursor { inner, fingerprint: self.fingerprint(), ..Cursor::at(reached) }),
        };
        self.phase = Phase::Prove(Chain::new(slot, reached - 1));
    }

    /// Reads the node's cursor, and keeps the keys of the slots that the page counts for.
    fn read_page(&mut self, reply: &[u8]) -> Option<u64> {
        let mut items = Value::read(reply)?.items()?;
        let told = number(items.next_value()?.text()?)?;
        let wanted = self.cursor.slot..=self.run_end;
        for key in items.next_value()?.items()? {
            if wanted.contains(&slot::of_key(Value::read(key)?.text()?)) {
                self.keys.extend_from_slice(key);
                self.count += 1;
            }
        }
        Some(told)
    }

    /// Where to go on behind this slot.
    fn behind(&self, slot: u16) -> Option<Cursor> {
        (slot < self.last).then(|| Cursor::at(slot + 1))
    }

    fn finish(&mut self, next: Option<Cursor>) {
        let cursor = match next.map(Cursor::encode) {
            None => 0,
            Some(Some(cursor)) => cursor,
            Some(None) => {
                let mut out = Vec::new();
                let text = "the node's own cursor is larger than a cursor of the whole cluster can carry";
                encode::error(&mut out, "ERR keystile:", text);
                self.phase = Phase::Done(out);
                return;
            }
        };
        let mut out = Vec::with_capacity(self.keys.len() + 48);
        encode::array_header(&mut out, 2);
        encode::bulk(&mut out, cursor.to_string().as_bytes());
        encode::array_header(&mut out, self.count);
        out.append(&mut self.keys);
        self.phase = Phase::Done(out);
    }
}

/// The pattern of `MATCH`; of several the last counts.
fn pattern_of<A: AsRef<[u8]>>(args: &[A]) -> Option<&[u8]> {
    let pairs = args.get(2..)?.chunks_exact(2);
    let patterns = pairs.filter_map(|pair| match pair {
        [name, pattern] if name.as_ref().eq_ignore_ascii_case(b"match") => Some(pattern.as_ref()),
        _ => None,
    });
    patterns.last()
}

fn number(text: &[u8]) -> Option<u64> {
    // `parse` takes a plus sign, servers do not.
    std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}
