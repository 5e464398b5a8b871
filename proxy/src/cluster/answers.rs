//! What a cluster-aware client asks of the cluster, answered as a cluster of one node: the proxy, at the
//! address by which the client reached it.
//!
//! So such a client finds all slots where it is already, and the nodes behind stay unseen.

use std::io::Write as _;

use keystile_model::database::Endpoint;
use keystile_resp::encode::{self, Protocol};
use keystile_resp::slot::{self, SLOTS};

use super::plan::Local;

/// The one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneNode {
    address: Endpoint,
    id: String,
    shard_id: String,
}

impl OneNode {
    /// The node that stands for `database` of `deployment` at `address`. Its ids follow from the first two, so
    /// that every proxy and every session tells the same.
    #[must_use]
    pub fn new(deployment: &str, database: &str, address: Endpoint) -> Self {
        let id = |of: &str| id(&[of, deployment, database]);
        Self { address, id: id("node"), shard_id: id("shard") }
    }

    /// The answer to the request `args` (the name first), which `local` is the plan of.
    #[must_use]
    pub fn answer<A: AsRef<[u8]>>(&self, local: Local, args: &[A], protocol: Protocol) -> Vec<u8> {
        let argument = args.get(2).map(AsRef::as_ref).unwrap_or_default();
        let mut out = Vec::new();
        match local {
            Local::Ok => encode::simple(&mut out, "OK"),
            Local::Slots => self.slots(&mut out, protocol),
            Local::Shards => self.shards(&mut out, protocol),
            Local::Nodes => verbatim(&mut out, protocol, &self.line()),
            Local::MyId => encode::bulk(&mut out, self.id.as_bytes()),
            Local::MyShardId => encode::bulk(&mut out, self.shard_id.as_bytes()),
            Local::Info => verbatim(&mut out, protocol, INFO),
            Local::KeySlot => encode::integer(&mut out, i64::from(slot::of_key(argument))),
            Local::Links => encode::array_header(&mut out, 0),
            Local::Replicas | Local::FailureReports if !argument.eq_ignore_ascii_case(self.id.as_bytes()) => {
                let name =
                    String::from_utf8_lossy(argument.get(..argument.len().min(64)).unwrap_or_default());
                encode::error(&mut out, "ERR", &format!("Unknown node {name}"));
            }
            Local::Replicas => encode::array_header(&mut out, 0),
            Local::FailureReports => encode::integer(&mut out, 0),
        }
        out
    }

    fn slots(&self, out: &mut Vec<u8>, protocol: Protocol) {
        encode::array_header(out, 1);
        encode::array_header(out, 3);
        encode::integer(out, 0);
        encode::integer(out, i64::from(SLOTS) - 1);
        encode::array_header(out, 4);
        encode::bulk(out, self.address.host.as_bytes());
        encode::integer(out, i64::from(self.address.port));
        encode::bulk(out, self.id.as_bytes());
        encode::map_header(out, protocol, 0);
    }

    fn shards(&self, out: &mut Vec<u8>, protocol: Protocol) {
        encode::array_header(out, 1);
        encode::map_header(out, protocol, 2);
        encode::bulk(out, b"slots");
        encode::array_header(out, 2);
        encode::integer(out, 0);
        encode::integer(out, i64::from(SLOTS) - 1);
        encode::bulk(out, b"nodes");
        encode::array_header(out, 1);
        encode::map_header(out, protocol, 8);
        let text = |out: &mut Vec<u8>, name: &str, value: &str| {
            encode::bulk(out, name.as_bytes());
            encode::bulk(out, value.as_bytes());
        };
        let number = |out: &mut Vec<u8>, name: &str, value: u16| {
            encode::bulk(out, name.as_bytes());
            encode::integer(out, i64::from(value));
        };
        text(out, "id", &self.id);
        // One is for clients with TLS, the other for those without: of a tunnel, say.
        number(out, "port", self.address.port);
        number(out, "tls-port", self.address.port);
        text(out, "ip", &self.address.host);
        text(out, "endpoint", &self.address.host);
        text(out, "role", "master");
        number(out, "replication-offset", 0);
        text(out, "health", "online");
    }

    fn line(&self) -> String {
        let Endpoint { host, port } = &self.address;
        // The port of the cluster bus, by the servers' own rule; behind a proxy nobody listens there.
        let bus = port.checked_add(10_000).unwrap_or(0);
        let is_name = host.parse::<std::net::IpAddr>().is_err();
        let name = if is_name { format!(",{host}") } else { String::new() };
        let last = SLOTS - 1;
        format!("{} {host}:{port}@{bus}{name} myself,master - 0 0 1 connected 0-{last}\n", self.id)
    }
}

/// As a healthy cluster of one node says it.
const INFO: &str = "cluster_state:ok\r\ncluster_slots_assigned:16384\r\ncluster_slots_ok:16384\r\n\
                    cluster_slots_pfail:0\r\ncluster_slots_fail:0\r\ncluster_known_nodes:1\r\n\
                    cluster_size:1\r\ncluster_current_epoch:1\r\ncluster_my_epoch:1\r\n\
                    cluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
                    total_cluster_links_buffer_limit_exceeded:0\r\n";

fn verbatim(out: &mut Vec<u8>, protocol: Protocol, text: &str) {
    match protocol {
        Protocol::Resp2 => encode::bulk(out, text.as_bytes()),
        Protocol::Resp3 => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "={}\r\ntxt:{text}\r\n", text.len() + 4);
        }
    }
}

/// Forty hex digits that follow from `words`: FNV-1a from five beginnings. A name, not a secret.
fn id(words: &[&str]) -> String {
    let digits = (0_u64..5).map(|round| {
        let start = 0xcbf2_9ce4_8422_2325_u64 ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bytes = words.iter().flat_map(|word| word.bytes().chain([0]));
        let hash = bytes.fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        format!("{:08x}", (hash ^ hash >> 32) & 0xffff_ffff)
    });
    digits.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::slots::SlotMap;
    use crate::cluster::value::Value;

    fn node(host: &str) -> OneNode {
        OneNode::new("prod", "sessions", Endpoint { host: host.to_owned(), port: 6379 })
    }

    fn answer(request: &str, local: Local, protocol: Protocol) -> String {
        let args: Vec<&str> = request.split(' ').collect();
        String::from_utf8(node("proxy.example").answer(local, &args, protocol)).unwrap()
    }

    #[test]
    fn all_slots_are_where_the_client_is() {
        for protocol in [Protocol::Resp2, Protocol::Resp3] {
            let reply = answer("CLUSTER SLOTS", Local::Slots, protocol);
            let elsewhere = Endpoint { host: "x".to_owned(), port: 1 };
            let map = SlotMap::from_cluster_slots(reply.as_bytes(), &elsewhere).unwrap();
            assert_eq!(map, SlotMap::of_one(node("proxy.example").address));
            for (request, local) in [("CLUSTER SHARDS", Local::Shards), ("CLUSTER NODES", Local::Nodes)] {
                let reply = answer(request, local, protocol);
                assert!(Value::read(reply.as_bytes()).is_some(), "{reply:?}");
            }
        }
    }

    #[test]
    fn shards_are_maps_in_resp3() {
        let (two, three) = (
            answer("CLUSTER SHARDS", Local::Shards, Protocol::Resp2),
            answer("CLUSTER SHARDS", Local::Shards, Protocol::Resp3),
        );
        assert!(
            two.starts_with("*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n*16\r\n")
        );
        assert!(
            three.starts_with("*1\r\n%2\r\n$5\r\nslots\r\n*2\r\n:0\r\n:16383\r\n$5\r\nnodes\r\n*1\r\n%8\r\n")
        );
    }

    #[test]
    fn a_line_for_those_who_read_lines() {
        let id = answer("CLUSTER MYID", Local::MyId, Protocol::Resp2);
        let id = id.strip_prefix("$40\r\n").unwrap().trim_end();
        let line = answer("CLUSTER NODES", Local::Nodes, Protocol::Resp2);
        assert!(line.ends_with(&format!(
            "\r\n{id} proxy.example:6379@16379,proxy.example myself,master - 0 0 1 connected 0-16383\n\r\n"
        )));
        assert!(node("10.0.0.1").line().contains(" 10.0.0.1:6379@16379 myself"));
        assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(answer(&format!("CLUSTER REPLICAS {id}"), Local::Replicas, Protocol::Resp2), "*0\r\n");
        assert_eq!(answer("CLUSTER REPLICAS x", Local::Replicas, Protocol::Resp2), "-ERR Unknown node x\r\n");
    }

    #[test]
    fn ids_are_the_same_wherever_they_are_told_and_differ_by_what_they_name() {
        let other = OneNode::new("prod", "ledger", Endpoint { host: "h".to_owned(), port: 1 });
        assert_eq!(node("a").id, node("b").id);
        assert_ne!(node("a").id, other.id);
        assert_ne!(node("a").id, node("a").shard_id);
    }

    #[test]
    fn the_rest() {
        assert_eq!(answer("CLUSTER KEYSLOT foo", Local::KeySlot, Protocol::Resp2), ":12182\r\n");
        assert_eq!(answer("ASKING", Local::Ok, Protocol::Resp2), "+OK\r\n");
        assert!(
            answer("CLUSTER INFO", Local::Info, Protocol::Resp3)
                .starts_with(&format!("={}\r\ntxt:cluster_state:ok\r\n", INFO.len() + 4))
        );
    }
}
