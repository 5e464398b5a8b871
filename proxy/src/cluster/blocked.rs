//! `CLIENT UNBLOCK` of a client that blocks elsewhere than at home.
//!
//! A client is known by the id of its home link, and the link on which it blocks has another one, of another
//! node. So while a session blocks there, the table of its database says under which id; whoever unblocks it
//! sends that to that node, on a connection of its own: the node decides whether it may. The table is of one
//! proxy: what blocks on a session of another one is not in it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keystile_model::database::Endpoint;
use keystile_resp::encode;

use super::ClusterSession;
use super::fan::{Join, Part, Progress};
use super::link::{LinkId, Own};
use super::order::Awaiting;
use super::plan::{self, Merge};
use super::requests::{Incoming, Taken};
use crate::session::End;

/// A client, as one node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientAt {
    node: Endpoint,
    id: i64,
}

/// The sessions of one database that block elsewhere than at home: an entry for each at most, of as many places
/// as it waits for.
#[derive(Debug, Default)]
pub(super) struct Blocked(Mutex<HashMap<ClientAt, Vec<ClientAt>>>);

impl Blocked {
    fn lock(&self) -> MutexGuard<'_, HashMap<ClientAt, Vec<ClientAt>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the client blocks that is known by this; nowhere that one would not look anyway, if it is empty.
    fn places(&self, known_as: &ClientAt) -> Vec<ClientAt> {
        self.lock().get(known_as).cloned().unwrap_or_default()
    }
}

/// A command of a session that may block.
#[derive(Debug)]
pub(super) struct Blocking {
    /// The number of the last one.
    last: u64,
    told: Option<Told>,
}

/// An entry of the table, for as long as this is there.
#[derive(Debug)]
struct Told {
    table: Arc<Blocked>,
    known_as: ClientAt,
    places: Vec<ClientAt>,
}

impl Told {
    fn new(table: &Arc<Blocked>, known_as: ClientAt, places: Vec<ClientAt>) -> Self {
        table.lock().insert(known_as.clone(), places.clone());
        Self { table: Arc::clone(table), known_as, places }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        // A node that has begun anew gives its ids anew, too: by now this one may be another session's.
        let mut table = self.table.lock();
        if table.get(&self.known_as) == Some(&self.places) {
            table.remove(&self.known_as);
        }
    }
}

impl ClusterSession {
    /// The next command may block.
    pub(super) fn begin_blocking(&mut self) {
        let last = self.order.next();
        match &mut self.blocking {
            Some(blocking) => blocking.last = last,
            None => self.blocking = Some(Blocking { last, told: None }),
        }
    }

    /// Whether this is the last command that may block.
    pub(super) fn is_blocking(&self, number: u64) -> bool {
        self.blocking.as_ref().is_some_and(|blocking| blocking.last == number)
    }

    /// What may block goes to this link: its id is asked for first, and that of the home link, if there is one. No
    /// answer is waited for: it comes before the command blocks.
    pub(super) fn ask_ids(&mut self, id: LinkId) {
        let Some(home) = self.home.filter(|home| *home != id) else { return };
        self.ask_client_id(home);
        self.ask_client_id(id);
    }

    /// Asks a link for its client's id, once.
    pub(super) fn ask_client_id(&mut self, id: LinkId) {
        if !self.may_ask_ids || self.pins(id) {
            // Inside a transaction it would be queued, and answered among the client's own.
            return;
        }
        let Some(link) = self.links.get(id) else { return };
        if link.client_id.is_none() && !link.is_asked(Own::ClientId) {
            link.ask(b"*2\r\n$6\r\nCLIENT\r\n$2\r\nID\r\n", Own::ClientId);
        }
    }

    /// A link's answer.
    pub(super) fn client_id_came(&mut self, id: LinkId, bytes: &[u8]) {
        let number =
            bytes.strip_prefix(b":").and_then(|rest| std::str::from_utf8(rest).ok()?.trim_end().parse().ok());
        // The db user may not ask, or the server does not know the question.
        self.may_ask_ids &= number.is_some();
        if let Some(link) = self.links.get(id) {
            link.client_id = number;
        }
    }

    /// Keeps the table up to date.
    pub(super) fn tell_blocked(&mut self) {
        let Some(blocking) = &self.blocking else { return };
        if self.order.first() > blocking.last {
            self.blocking = None;
            return;
        }
        let (known_as, places) = (self.home.and_then(|home| self.client_at(home)), self.places());
        let Some(blocking) = &mut self.blocking else { return };
        let Some(known_as) = known_as.filter(|known_as| places.iter().any(|place| place != known_as)) else {
            blocking.told = None;
            return;
        };
        if !blocking.told.as_ref().is_some_and(|told| told.known_as == known_as && told.places == places) {
            blocking.told = None;
            blocking.told = Some(Told::new(&self.shared_map.blocked, known_as, places));
        }
    }

    /// Who this session is at the nodes that the command at the front waits for.
    fn places(&mut self) -> Vec<ClientAt> {
        let links: Vec<LinkId> = match self.order.front().map(|front| &front.awaiting) {
            Some(Awaiting::Link(id)) => vec![*id],
            Some(Awaiting::Fan(fan)) => {
                let sent = |part: &Part| match part.progress() {
                    Progress::Sent(id) => Some(*id),
                    _ => None,
                };
                fan.parts().iter().filter_map(sent).collect()
            }
            _ => Vec::new(),
        };
        links.into_iter().filter_map(|id| self.client_at(id)).collect()
    }

    fn client_at(&mut self, id: LinkId) -> Option<ClientAt> {
        let link = self.links.get(id)?;
        Some(ClientAt { node: link.node.clone(), id: link.client_id? })
    }

    /// A command that names a client by its id.
    pub(super) fn take_by_id(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        if self.waits_for_map || !self.may_send(None) {
            return Ok(Taken::No);
        }
        let is_kill = incoming.id.is_some_and(|id| id.command().name == "kill");
        if is_kill {
            let Some(meaning) = self.meaning_of_kill(args) else { return Ok(Taken::No) };
            return self.send_home_as(incoming, meaning);
        }
        let parts = self.parts_of_unblock(incoming, args);
        if parts.is_empty() {
            return self.send_home(incoming);
        }
        self.send_fan(incoming, parts, Join::Merge(Merge::Max), true)
    }

    /// `CLIENT UNBLOCK` for each node on which that client blocks, with its id there.
    fn parts_of_unblock(&self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Vec<Part> {
        let is_unblock = incoming.id.is_some_and(|id| id.command().name == "unblock");
        let named =
            args.get(2).filter(|_| is_unblock).and_then(|id| std::str::from_utf8(id).ok()?.parse().ok());
        let (Some(id), Some(home)) = (named, self.map.home()) else { return Vec::new() };
        let places = self.shared_map.blocked.places(&ClientAt { node: home.clone(), id });
        let part = |place: ClientAt| {
            let (mut args, id) = (args.to_vec(), place.id.to_string());
            if let Some(named) = args.get_mut(2) {
                *named = Cow::Owned(id.into_bytes());
            }
            let mut request = Vec::new();
            encode::request(&mut request, &args);
            Part::of_node(place.node, Some(request.into_boxed_slice()))
        };
        places.into_iter().map(part).collect()
    }

    /// A command is about to be sent alone: whether it may block is minded.
    pub(super) fn mind_blocking(&mut self, incoming: &Incoming<'_>) {
        if incoming.id.is_some_and(|id| plan::may_block(id, &incoming.args())) {
            self.begin_blocking();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16, id: i64) -> ClientAt {
        ClientAt { node: Endpoint { host: "h".to_owned(), port }, id }
    }

    #[test]
    fn an_entry_lasts_as_long_as_its_session_blocks() {
        let table = Arc::<Blocked>::default();
        let one = Told::new(&table, at(1, 5), vec![at(2, 9)]);
        let other = Told::new(&table, at(1, 6), vec![at(2, 5), at(3, 5)]);
        assert_eq!(table.places(&at(1, 5)), [at(2, 9)]);
        assert_eq!(table.places(&at(1, 6)).len(), 2);
        assert!(table.places(&at(2, 5)).is_empty(), "an id of another node is somebody else's");
        drop(one);
        assert!(table.places(&at(1, 5)).is_empty() && table.lock().len() == 1);
        let later = Told::new(&table, at(1, 6), vec![at(2, 7)]);
        drop(other);
        assert_eq!(table.places(&at(1, 6)), [at(2, 7)], "of another session by now");
        drop(later);
        assert!(table.lock().is_empty());
    }
}
