//! What `CLUSTER NODES` of a node says of slots.

use keystile_model::database::Endpoint;

use super::proof::Verdict;
use crate::cluster::slots::Redirect;

/// The nodes as one of them sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesView {
    nodes: Vec<Seen>,
    /// Slots of its own that are on their way elsewhere, with the node's id.
    leaving: Vec<(u16, String)>,
    /// Slots of others that are on their way here.
    coming: Vec<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    id: String,
    /// None where it has no address.
    address: Option<Endpoint>,
    is_myself: bool,
    slots: Vec<(u16, u16)>,
}

impl NodesView {
    /// Reads the reply's text; what is not understood is left out, so that nothing is told of it.
    #[must_use]
    pub fn read(text: &[u8]) -> Self {
        let mut view = Self::default();
        for line in std::str::from_utf8(text).unwrap_or_default().lines() {
            view.read_line(line);
        }
        view
    }

    /// Whether the node that was asked has all keys of a slot; with `is_target` it is enough that the slot is
    /// on its way to it. `asked` is its address.
    #[must_use]
    pub fn verdict(&self, slot: u16, is_target: bool, asked: Option<&Endpoint>) -> Verdict {
        if is_target && self.coming.contains(&slot) {
            return Verdict::Served;
        }
        let to = |node: Option<&Seen>, ask| {
            let to = node.and_then(|node| node.address.clone()).filter(|to| Some(to) != asked);
            to.map(|to| Redirect { ask, slot, to })
        };
        if let Some((_, id)) = self.leaving.iter().find(|(leaving, _)| *leaving == slot) {
            let target = self.nodes.iter().find(|node| node.id == *id);
            return to(target, true).map_or(Verdict::Unknown, Verdict::Asked);
        }
        let serves = |node: &&Seen| node.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        match self.nodes.iter().find(serves) {
            Some(node) if node.is_myself => Verdict::Served,
            node => to(node, false).map_or(Verdict::Unknown, Verdict::Moved),
        }
    }

    /// `id host:port@bus[,name…] flags primary ping pong epoch state slot…`.
    fn read_line(&mut self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let id = words.next()?.to_owned();
        let address = words.next().and_then(address);
        let is_myself = words.next()?.split(',').any(|flag| flag == "myself");
        let mut slots = Vec::new();
        for word in words.skip(5) {
            if let Some(open) = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')) {
                self.read_open(open);
            } else {
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                slots.push((first.parse().ok()?, last.parse().ok()?));
            }
        }
        self.nodes.push(Seen { id, address, is_myself, slots });
        Some(())
    }

    /// `7->-id`, `7-<-id`.
    fn read_open(&mut self, open: &str) {
        if let Some((slot, id)) = open.split_once("->-") {
            self.leaving.extend(slot.parse().ok().map(|slot| (slot, id.to_owned())));
        } else if let Some((slot, _)) = open.split_once("-<-") {
            self.coming.extend(slot.parse::<u16>().ok());
        }
    }
}

/// A node that has a name is reached by it: its certificate has no address.
fn address(word: &str) -> Option<Endpoint> {
    let (address, rest) = word.split_once('@')?;
    let name = rest.split(',').nth(1).filter(|name| !name.is_empty());
    let (host, port) = address.rsplit_once(':')?;
    let host = name.unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| Endpoint { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_node_says() {
        let view = NodesView::read(
            b"aa 10.0.0.1:1@2 slave bb 0 1 1 connected\n\
              bb 10.0.0.2:2@3,name myself,master - 0 0 1 connected 0-5 7 9-20 [10->-cc] [30-<-cc]\n\
              cc 10.0.0.3:3@4 master - 0 0 1 connected 21-16383\n",
        );
        let cc = |ask, slot| Redirect { ask, slot, to: Endpoint { host: "10.0.0.3".to_owned(), port: 3 } };
        for (slot, is_target, verdict) in [
            (0, false, Verdict::Served),
            (7, false, Verdict::Served),
            (20, false, Verdict::Served),
            (10, false, Verdict::Asked(cc(true, 10))),
            (21, false, Verdict::Moved(cc(false, 21))),
            (30, false, Verdict::Moved(cc(false, 30))),
            (30, true, Verdict::Served),
            (6, false, Verdict::Unknown),
        ] {
            assert_eq!(view.verdict(slot, is_target, None), verdict, "{slot}");
        }
        assert_eq!(view.nodes[1].address, Some(Endpoint { host: "name".to_owned(), port: 2 }));
        assert_eq!(NodesView::read(b"nonsense").verdict(0, false, None), Verdict::Unknown);
    }
}
