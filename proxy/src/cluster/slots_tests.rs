use proptest::prelude::*;

use super::*;

fn node(host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port }
}

/// As Valkey 8.0 answers with hosts by address, of a cluster of three with one replica.
const THREE: &[u8] = b"*3\r\n\
*4\r\n:0\r\n:5460\r\n*4\r\n$9\r\n127.0.0.1\r\n:7001\r\n$2\r\naa\r\n*0\r\n*4\r\n$9\r\n127.0.0.1\r\n:7004\r\n$2\r\ndd\r\n*0\r\n\
*3\r\n:5461\r\n:10922\r\n*4\r\n$9\r\n127.0.0.1\r\n:7002\r\n$2\r\nbb\r\n*2\r\n$8\r\nhostname\r\n$1\r\nx\r\n\
*3\r\n:10923\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:7003\r\n$2\r\ncc\r\n*0\r\n";

fn three() -> SlotMap {
    SlotMap::from_cluster_slots(THREE, &node("asked", 1)).unwrap()
}

#[test]
fn reads_what_a_server_says() {
    let map = three();
    assert_eq!(map.primary(0), Some(&node("127.0.0.1", 7001)));
    assert_eq!(map.primary(5461), Some(&node("127.0.0.1", 7002)));
    assert_eq!(map.primary(16_383), Some(&node("127.0.0.1", 7003)));
    assert_eq!(map.shard(7).unwrap().replicas, [node("127.0.0.1", 7004)]);
    assert_eq!(map.nodes().map(|node| node.port).collect::<Vec<_>>(), [7001, 7002, 7003, 7004]);
    assert_eq!((map.uncovered(), map.end_of_run(5461), map.end_of_run(16_383)), (0, 10_922, 16_383));
    assert_eq!(map.primary(16_384), None);
}

#[test]
fn a_node_without_a_host_has_the_host_that_was_asked() {
    for (written, expected) in [
        ("$-1", Some("asked")),
        ("_", Some("asked")),
        ("$0\r\n", Some("asked")),
        ("$1\r\n?", None),
        ("$1\r\nh", Some("h")),
    ] {
        let reply = format!("*1\r\n*3\r\n:0\r\n:9\r\n*3\r\n{written}\r\n:7001\r\n$1\r\na\r\n");
        let map = SlotMap::from_cluster_slots(reply.as_bytes(), &node("asked", 1));
        let host = map.as_ref().and_then(|map| map.primary(9)).map(|node| node.host.as_str());
        assert_eq!(host, expected, "{written:?}");
        if let Some(map) = map {
            assert_eq!(map.uncovered(), 16_374);
            assert_eq!((map.primary(10), map.end_of_run(10)), (None, 16_383));
        }
    }
}

#[test]
fn what_is_no_map_is_none() {
    for reply in [
        "*0\r\n",
        "-NOPERM no\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        "*1\r\n*3\r\n:9\r\n:0\r\n*2\r\n$1\r\nh\r\n:1\r\n",
    ] {
        assert_eq!(SlotMap::from_cluster_slots(reply.as_bytes(), &node("asked", 1)), None, "{reply:?}");
    }
}

#[test]
fn a_moved_slot_corrects_one_slot() {
    let mut map = three();
    let second = node("127.0.0.1", 7002);
    assert!(map.moved(100, &second) && !map.moved(100, &second));
    assert_eq!(
        (map.primary(99).unwrap().port, map.primary(100), map.primary(101).unwrap().port),
        (7001, Some(&second), 7001)
    );
    assert_eq!(map.primaries().map(|node| node.port).collect::<Vec<_>>(), [7001, 7002, 7003]);
    assert!(!map.moved(16_384, &second));
}

#[test]
fn a_promoted_replica_is_a_replica_no_longer() {
    let mut map = three();
    let promoted = node("127.0.0.1", 7004);
    for slot in 0..=5_460 {
        map.moved(slot, &promoted);
    }
    assert_eq!(map.nodes().map(|node| node.port).collect::<Vec<_>>(), [7004, 7002, 7003]);
}

#[test]
fn discovery_s_nodes_make_a_map() {
    let seen = |id: &str, role: &str, port, slots: &[(u16, u16)]| Node {
        id: id.to_owned(),
        role: role.to_owned(),
        endpoint: Some(node("h", port)),
        slots: slots.to_vec(),
    };
    let nodes = [
        seen("a-1", "primary", 1, &[(0, 8_000)]),
        seen("a-2", "replica", 2, &[(0, 8_000)]),
        seen("b-1", "", 3, &[(8_001, 16_383)]),
    ];
    let map = SlotMap::from_discovery(&nodes).unwrap();
    assert_eq!((map.primary(8_000).unwrap().port, map.primary(8_001).unwrap().port), (1, 3));
    assert_eq!(map.shard(0).unwrap().replicas, [node("h", 2)]);
    assert_eq!(SlotMap::from_discovery(&[seen("a-1", "primary", 1, &[])]), None);
}

#[test]
fn reads_redirects() {
    let asked = node("here", 1);
    let read = |text: &str| Redirect::read(text.as_bytes(), &asked);
    let to = |ask, slot, host, port| Some(Redirect { ask, slot, to: node(host, port) });
    assert_eq!(read("MOVED 3999 127.0.0.1:6381"), to(false, 3999, "127.0.0.1", 6381));
    assert_eq!(read("ASK 0 h.example:6379\r\n"), to(true, 0, "h.example", 6379));
    assert_eq!(read("MOVED 1 :7000"), to(false, 1, "here", 7000));
    assert_eq!(read("MOVED 1 fd00::1:7000"), to(false, 1, "fd00::1", 7000));
    assert_eq!(read("MOVED 1 [fd00::1]:7000"), to(false, 1, "fd00::1", 7000));
    for text in [
        "MOVED",
        "MOVED 1",
        "MOVED 16384 h:1",
        "MOVED 1 h:0",
        "MOVED 1 h",
        "MOVED 1 ?:1",
        "ERR x",
        "MOVED x h:1",
    ] {
        assert_eq!(read(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn moves_never_lose_or_grow(moves in prop::collection::vec((0_u16..16_384, 1_u16..40), 1..200)) {
        let mut map = three();
        let mut expected = std::collections::HashMap::new();
        for (slot, port) in moves {
            map.moved(slot, &node("h", port));
            expected.insert(slot, port);
        }
        for (slot, port) in expected {
            prop_assert_eq!(map.primary(slot), Some(&node("h", port)));
        }
        prop_assert_eq!(map.uncovered(), 0);
        prop_assert!(map.shards.len() <= 43);
    }
}
