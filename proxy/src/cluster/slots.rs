//! Which shard of a cluster serves which slot, as far as is known.
//!
//! It comes from a node's own `CLUSTER SLOTS`, or from what discovery saw, and each `MOVED` corrects it.

use keystile_model::database::{Endpoint, Node};
use keystile_resp::slot::SLOTS;

use super::value::{Items, Value};

/// Stands for a slot that nobody serves.
const NOBODY: u16 = u16::MAX;
/// Most shards that are taken from a reply; AWS allows 500.
const MOST_SHARDS: usize = 4_096;
/// Most replicas of a shard that are taken; AWS allows 5.
const MOST_REPLICAS: usize = 32;
/// Longest host name (RFC 1035).
const LONGEST_HOST: usize = 255;

/// A primary and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The node that takes writes.
    pub primary: Endpoint,
    /// Nodes that may be read, in the order given.
    pub replicas: Vec<Endpoint>,
}

/// The map: each slot's shard. Share it in an `Arc`; a change makes a copy (32 KiB).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMap {
    shards: Vec<Shard>,
    /// For each slot its place in `shards`, or [`NOBODY`].
    owners: Vec<u16>,
}

impl SlotMap {
    /// From the reply to `CLUSTER SLOTS`, RESP2 or RESP3. `asked` is the node that was asked: a node without
    /// a host in the reply has its host.
    #[must_use]
    pub fn from_cluster_slots(reply: &[u8], asked: &Endpoint) -> Option<Self> {
        let Value::List(mut ranges) = Value::read(reply)? else { return None };
        let mut map = Self::nobody();
        while !ranges.is_empty() {
            let mut range = ranges.next_value()?.items()?;
            let first = slot(range.next_value()?)?;
            let last = slot(range.next_value()?)?;
            // A shard whose primary has no known address is served by nobody, for now.
            let Some(primary) = range.next().and_then(|node| address(node, asked)) else { continue };
            let replicas = range.filter_map(|node| address(node, asked)).take(MOST_REPLICAS).collect();
            map.assign(first, last, primary, replicas)?;
        }
        Some(map).filter(|map| !map.shards.is_empty())
    }

    /// From what discovery knows of a database's nodes; `None` where it does not know their slots.
    #[must_use]
    pub fn from_discovery(nodes: &[Node]) -> Option<Self> {
        let mut map = Self::nobody();
        for node in nodes.iter().filter(|node| node.role != "replica") {
            let Some(endpoint) = &node.endpoint else { continue };
            let replicas = nodes.iter().filter(|other| other.role == "replica" && other.slots == node.slots);
            let replicas: Vec<_> = replicas.filter_map(|other| other.endpoint.clone()).collect();
            for &(first, last) in &node.slots {
                if first <= last && last < SLOTS {
                    map.assign(first, last, endpoint.clone(), replicas.clone())?;
                }
            }
        }
        Some(map).filter(|map| !map.shards.is_empty())
    }

    /// A map of one node that serves everything: what is known before anything is.
    #[must_use]
    pub fn of_one(node: Endpoint) -> Self {
        Self {
            shards: vec![Shard { primary: node, replicas: Vec::new() }],
            owners: vec![0; usize::from(SLOTS)],
        }
    }

    fn nobody() -> Self {
        Self { shards: Vec::new(), owners: vec![NOBODY; usize::from(SLOTS)] }
    }

    /// A number for the shard that serves a slot: the same for all its slots, while the map stays as it is.
    #[inline]
    #[must_use]
    pub fn place_of(&self, slot: u16) -> Option<u16> {
        self.owners.get(usize::from(slot)).copied().filter(|owner| *owner != NOBODY)
    }

    /// The shard that serves a slot, if any is known to.
    #[inline]
    #[must_use]
    pub fn shard(&self, slot: u16) -> Option<&Shard> {
        self.shards.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// The primary that serves a slot.
    #[inline]
    #[must_use]
    pub fn primary(&self, slot: u16) -> Option<&Endpoint> {
        self.shard(slot).map(|shard| &shard.primary)
    }

    /// The shards that serve something, by their lowest slot.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        let mut seen = vec![false; self.shards.len()];
        self.owners.iter().filter_map(move |&owner| {
            let seen = seen.get_mut(usize::from(owner))?;
            let first = !std::mem::replace(seen, true);
            if first { self.shards.get(usize::from(owner)) } else { None }
        })
    }

    /// The primaries that serve something, by their lowest slot.
    pub fn primaries(&self) -> impl Iterator<Item = &Endpoint> {
        self.shards().map(|shard| &shard.primary)
    }

    /// The shard of commands without a key: the same for all sessions.
    pub fn home_shard(&self) -> Option<&Shard> {
        self.shard(0).or_else(|| self.shards().next())
    }

    /// Its node, one that takes writes: who subscribes and who publishes meet there.
    pub fn home(&self) -> Option<&Endpoint> {
        self.home_shard().map(|shard| &shard.primary)
    }

    /// All nodes: the primaries, then the replicas.
    pub fn nodes(&self) -> impl Iterator<Item = &Endpoint> {
        self.primaries().chain(self.shards().flat_map(|shard| &shard.replicas))
    }

    /// The last slot of the run of slots that begins at `slot` and has one primary (or none).
    #[must_use]
    pub fn end_of_run(&self, slot: u16) -> u16 {
        let from = usize::from(slot);
        let owner = self.owners.get(from);
        let run = self.owners.iter().skip(from).take_while(|other| Some(*other) == owner).count();
        slot.saturating_add(u16::try_from(run.saturating_sub(1)).unwrap_or(0))
    }

    /// How many slots nobody is known to serve.
    #[must_use]
    pub fn uncovered(&self) -> usize {
        self.owners.iter().filter(|owner| self.shards.get(usize::from(**owner)).is_none()).count()
    }

    /// A slot has moved to this primary. A primary that was not known yet joins without replicas, one that
    /// was a replica (a failover) is one no longer.
    ///
    /// Gives whether that changed anything.
    pub fn moved(&mut self, slot: u16, to: &Endpoint) -> bool {
        if slot >= SLOTS || self.primary(slot) == Some(to) {
            return false;
        }
        let Some(place) = self.place(to) else { return false };
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = place;
        }
        true
    }

    fn assign(&mut self, first: u16, last: u16, primary: Endpoint, replicas: Vec<Endpoint>) -> Option<()> {
        let place = self.place(&primary)?;
        if let Some(shard) = self.shards.get_mut(usize::from(place)) {
            shard.replicas = replicas;
        }
        self.owners.get_mut(usize::from(first)..=usize::from(last))?.fill(place);
        Some(())
    }

    /// The place of the shard of this primary, made where there is none.
    fn place(&mut self, primary: &Endpoint) -> Option<u16> {
        let known = self.shards.iter().position(|shard| shard.primary == *primary);
        let place = known.unwrap_or_else(|| self.place_of_new(primary));
        u16::try_from(place).ok().filter(|_| self.shards.len() <= MOST_SHARDS)
    }

    fn place_of_new(&mut self, primary: &Endpoint) -> usize {
        for shard in &mut self.shards {
            shard.replicas.retain(|replica| replica != primary);
        }
        // The place of a shard that serves nothing any more is free; so a map that is corrected for years
        // does not grow.
        let shard = Shard { primary: primary.clone(), replicas: Vec::new() };
        let mut used = vec![false; self.shards.len()];
        for owner in &self.owners {
            if let Some(used) = used.get_mut(usize::from(*owner)) {
                *used = true;
            }
        }
        match used.iter().position(|used| !used).and_then(|free| Some((free, self.shards.get_mut(free)?))) {
            Some((free, old)) => {
                *old = shard;
                free
            }
            None => {
                self.shards.push(shard);
                self.shards.len() - 1
            }
        }
    }
}

fn slot(value: Value<'_>) -> Option<u16> {
    u16::try_from(value.integer()?).ok().filter(|slot| *slot < SLOTS)
}

/// The address of a node of `CLUSTER SLOTS`: host, port, id, and more.
fn address(node: &[u8], asked: &Endpoint) -> Option<Endpoint> {
    let mut fields: Items<'_> = Value::read(node)?.items()?;
    let host = match fields.next_value()? {
        Value::Null => asked.host.clone(),
        value => host(value.text()?, asked)?,
    };
    let port = u16::try_from(fields.next_value()?.integer()?).ok().filter(|port| *port != 0)?;
    Some(Endpoint { host, port })
}

/// A host as servers write it; an empty one is the one that was asked, `?` is one that nobody knows.
fn host(written: &[u8], asked: &Endpoint) -> Option<String> {
    match written {
        b"" => Some(asked.host.clone()),
        b"?" => None,
        host if host.len() > LONGEST_HOST => None,
        host => Some(std::str::from_utf8(host).ok()?.to_owned()),
    }
}

/// A server's word that a slot is served elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whether it is `ASK`: for this one command, behind `ASKING`. Else `MOVED`, from now on.
    pub ask: bool,
    /// The slot.
    pub slot: u16,
    /// The node to go to.
    pub to: Endpoint,
}

impl Redirect {
    /// Reads an error's text without its marker and line end, `MOVED 3999 host:port` or `ASK …`, from the
    /// node `asked`.
    #[must_use]
    pub fn read(text: &[u8], asked: &Endpoint) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.trim_end().split(' ');
        let ask = match words.next()? {
            "MOVED" => false,
            "ASK" => true,
            _ => return None,
        };
        let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
        // An IPv6 address stands without brackets: the port is behind the last colon.
        let (name, port) = words.next()?.rsplit_once(':')?;
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let port = port.parse().ok().filter(|port| *port != 0)?;
        Some(Self { ask, slot, to: Endpoint { host: host(name.as_bytes(), asked)?, port } })
    }
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
