//! `CLIENT KILL … ID`: a session whose home link is killed by its id ends, as a client of a single server would.
//!
//! What the node kills is a link, and a lost link is no end of a session. So before the command goes home, home is
//! asked where the clients of these ids come from; whoever loses a home link with that address soon afterwards was
//! meant. The node decides whether the caller may: where it says no, or that it killed nobody, what was named is
//! withdrawn. The table is of one proxy: what is killed of another one's goes on with a new link.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use keystile_model::database::Endpoint;
use keystile_resp::encode;
use tokio::time::{Duration, Instant};

use super::ClusterSession;
use super::link::{Link, LinkId, Own};
use super::order::Meaning;
use super::value::Value;

/// How long a link that is lost counts as killed.
const SOON: Duration = Duration::from_secs(5);
/// Links that are remembered.
const MOST_NAMED: usize = 1024;

/// Links of any session that were named to be killed.
#[derive(Debug, Default)]
pub(super) struct Killed(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// The number of the next command that names any.
    next: u64,
    named: Vec<Named>,
}

/// One link, named by one command.
#[derive(Debug)]
struct Named {
    by: u64,
    node: Endpoint,
    from: SocketAddr,
    since: Instant,
}

impl Killed {
    /// A command names links of a node; the number by which it may withdraw that.
    fn name(&self, node: &Endpoint, whence: impl Iterator<Item = SocketAddr>, now: Instant) -> u64 {
        let mut table = self.lock();
        table.named.retain(|named| now.saturating_duration_since(named.since) < SOON);
        let by = table.next;
        table.next += 1;
        let room = MOST_NAMED.saturating_sub(table.named.len());
        table.named.extend(whence.take(room).map(|from| Named { by, node: node.clone(), from, since: now }));
        by
    }

    /// Nobody was killed by the command of this number.
    pub(super) fn withdraw(&self, by: u64) {
        self.lock().named.retain(|named| named.by != by);
    }

    /// Whether this link was named a moment ago.
    fn has(&self, node: &Endpoint, from: SocketAddr, now: Instant) -> bool {
        let is_it = |named: &Named| {
            named.node == *node && named.from == from && now.saturating_duration_since(named.since) < SOON
        };
        self.lock().named.iter().any(is_it)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the clients come from that a command names.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whence {
    /// Nobody asks.
    #[default]
    Unasked,
    /// Home is asked; the command waits.
    Asked,
    /// It is known, as far as home says: the command may go, and has this number if it named any.
    Told(Option<u64>),
}

impl ClusterSession {
    /// Asks where they come from whom a `CLIENT KILL` names by id; what its reply means, once that is known. `None`
    /// while it has to wait.
    pub(super) fn meaning_of_kill(&mut self, args: &[Cow<'_, [u8]>]) -> Option<Meaning> {
        match self.whence {
            Whence::Told(number) => {
                self.whence = Whence::Unasked;
                return Some(number.map_or(Meaning::Plain, Meaning::Kill));
            }
            Whence::Asked => return None,
            Whence::Unasked => {}
        }
        let ids = ids_of(args);
        let asks = (1..=MOST_NAMED).contains(&ids.len());
        let home = self.home_link().filter(|home| asks && !self.pins(*home));
        let Some(link) = home.and_then(|home| self.links.get(home)) else { return Some(Meaning::Plain) };
        let words = [&b"CLIENT"[..], b"LIST", b"ID"].into_iter().chain(ids);
        let mut question = Vec::new();
        encode::request(&mut question, &words.collect::<Vec<_>>());
        link.ask(&question, Own::Whence);
        self.whence = Whence::Asked;
        None
    }

    /// Home's answer: the lines of these clients; or that the db user may not ask, and then nobody ends by it.
    pub(super) fn whence_came(&mut self, id: LinkId, bytes: &[u8]) {
        self.whence = Whence::Told(None);
        let Some(link) = self.links.get(id) else { return };
        let Some(text) = Value::read(bytes).and_then(|value| value.text()) else { return };
        let text = String::from_utf8_lossy(text);
        let whence = text.lines().filter_map(address_in);
        self.whence = Whence::Told(Some(self.shared_map.killed.name(&link.node, whence, Instant::now())));
    }

    /// A link is gone, and what it was asked is answered by nobody.
    pub(super) fn whence_lost(&mut self, link: &Link) {
        if link.is_asked(Own::Whence) {
            self.whence = Whence::Told(None);
        }
    }

    /// Whether this link is the session's home, and was lost because somebody killed it by its id.
    pub(super) fn is_killed(&mut self, id: LinkId) -> bool {
        let killed = &self.shared_map.killed;
        self.home == Some(id)
            && self.links.get(id).is_some_and(|link| {
                link.came_from().is_some_and(|from| killed.has(&link.node, from, Instant::now()))
            })
    }
}

/// The ids behind each `ID` of a `CLIENT KILL`: newer servers take several.
fn ids_of<'a>(args: &'a [Cow<'_, [u8]>]) -> Vec<&'a [u8]> {
    let mut ids = Vec::new();
    let mut is_id = false;
    for word in args.iter().skip(2) {
        let is_number = !word.is_empty() && word.iter().all(u8::is_ascii_digit);
        if is_id && is_number {
            ids.push(word.as_ref());
        } else {
            is_id = word.eq_ignore_ascii_case(b"id");
        }
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The address in a line of `CLIENT LIST`.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.split(' ').find_map(|field| field.strip_prefix("addr="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_command_names() {
        for (request, ids) in [
            ("CLIENT KILL ID 7", &["7"][..]),
            ("CLIENT KILL TYPE normal id 7 8 SKIPME no", &["7", "8"]),
            ("CLIENT KILL ID 7 ID 9", &["7", "9"]),
            ("CLIENT KILL ID 9 7 9 ID 7", &["7", "9"]),
            ("CLIENT KILL NOT-ID 7 MAXAGE 7", &[]),
            ("CLIENT KILL USER id ID x", &[]),
        ] {
            let args: Vec<Cow<'_, [u8]>> = request.split(' ').map(|word| word.as_bytes().into()).collect();
            let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes()).collect();
            assert_eq!(ids_of(&args), ids, "{request}");
        }
        let line = "id=7 addr=[::1]:5000 laddr=[::1]:6379 fd=8 name= user=a";
        assert_eq!(address_in(line), "[::1]:5000".parse().ok());
        assert_eq!(address_in("id=7 addr=/run/socket:0"), None);
    }

    fn node(port: u16) -> Endpoint {
        Endpoint { host: "h".to_owned(), port }
    }

    fn from(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn only_what_was_named_a_moment_ago_counts() {
        let (killed, now) = (Killed::default(), Instant::now());
        let name = |at, ports: std::ops::Range<u16>, now| killed.name(&node(at), ports.map(from), now);
        name(1, 7..8, now);
        assert!(killed.has(&node(1), from(7), now));
        assert!(!killed.has(&node(2), from(7), now) && !killed.has(&node(1), from(8), now));
        assert!(!killed.has(&node(1), from(7), now + SOON));
        name(2, 0..2_000, now);
        assert_eq!(killed.lock().named.len(), MOST_NAMED);
        name(3, 7..8, now + SOON);
        assert_eq!(killed.lock().named.len(), 1, "what is too old is forgotten");
    }

    #[test]
    fn a_command_withdraws_what_it_named_and_nothing_else() {
        let (killed, now) = (Killed::default(), Instant::now());
        let one = killed.name(&node(1), [from(7), from(8)].into_iter(), now);
        let other = killed.name(&node(1), [from(7)].into_iter(), now);
        killed.withdraw(one);
        assert!(killed.has(&node(1), from(7), now) && !killed.has(&node(1), from(8), now));
        killed.withdraw(other);
        assert!(!killed.has(&node(1), from(7), now));
    }
}
