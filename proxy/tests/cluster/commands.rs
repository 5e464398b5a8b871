//! Commands of one slot, of many, and of no slot.

use std::time::Duration;

use keystile_resp::slot;

use super::support;
use super::support::World;
use super::support::cluster::Cluster;
use super::support::encoded;
use super::{key_of, run, world};

#[test]
fn keys_go_to_their_shards_and_replies_keep_their_order() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["SET", "a", "1"]).await, "+OK");
        assert_eq!(client.command(&["GET", "a"]).await, "1");
        assert_eq!(client.ask("PING").await, "+PONG");
        // A deep pipeline over all slots, with values of very different sizes.
        let mut request = Vec::new();
        let value = |number: usize| number.to_string().repeat(1 + number * number % 3_000);
        for number in 0..3_000 {
            request.extend(encoded(&["SET", &format!("k{number}"), &value(number)]));
            request.extend(encoded(&["GET", &format!("k{number}")]));
            request.extend(encoded(&["ECHO", &number.to_string()]));
            request.extend(encoded(&["LPOP", &format!("k{number}")]));
        }
        let (mut reader, mut writer) = tokio::io::split(client.stream);
        let writing = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            writer.write_all(&request).await.unwrap();
            writer.flush().await.unwrap();
            writer
        });
        let mut expected = Vec::new();
        for number in 0..3_000 {
            let (value, number) = (value(number), number.to_string());
            expected.extend_from_slice(b"+OK\r\n");
            expected.extend_from_slice(format!("${}\r\n{value}\r\n", value.len()).as_bytes());
            expected.extend_from_slice(format!("${}\r\n{number}\r\n", number.len()).as_bytes());
            expected
                .extend_from_slice(b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
        }
        let mut seen = vec![0; expected.len()];
        tokio::io::AsyncReadExt::read_exact(&mut reader, &mut seen).await.unwrap();
        assert!(seen == expected, "replies are out of order");
        writing.await.unwrap();
        for node in &cluster.nodes {
            let keys = match node.ok(&["DBSIZE"]) {
                support::cluster::Reply::Number(keys) => keys,
                other => panic!("{other:?}"),
            };
            assert!(keys > 900, "{keys}");
        }
    });
}

#[test]
fn keys_of_several_slots_are_refused_in_the_servers_words() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let cross = "-CROSSSLOT Keys in request don't hash to the same slot";
        assert_eq!(client.command(&["SUNION", "a", "b"]).await, cross);
        assert_eq!(client.command(&["MSET", "a", "1", "b", "2"]).await, cross);
        assert_eq!(client.command(&["MSET", "{t}a", "1", "{t}b", "2"]).await, "+OK");
        assert_eq!(client.command(&["MGET", "{t}a", "{t}b"]).await, "[1 2]");
        assert!(client.command(&["NONSENSE", "a"]).await.starts_with("-ERR unknown command"));
        assert!(client.command(&["GET"]).await.starts_with("-ERR wrong number of arguments"));
        assert!(client.command(&["MONITOR"]).await.starts_with("-NOPERM keystile:"));
        assert_eq!(client.ask("QUIT").await, "+OK");
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn a_blocked_call_holds_back_other_slots_only() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        let mut request = encoded(&["BLPOP", &here, "5"]);
        request.extend(encoded(&["SET", &there, "late"]));
        client.send(request).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(other.command(&["GET", &there]).await, "(nil)");
        assert_eq!(other.command(&["RPUSH", &here, "x"]).await, ":1");
        assert_eq!(client.reply().await, format!("[{here} x]"));
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(other.command(&["GET", &there]).await, "late");
    });
}

#[test]
fn large_values_pass_and_are_not_sent_twice() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(other.command(&["GET", "big"]).await, "(nil)");
        let value = "v".repeat(3 << 20);
        let mut request = encoded(&["SET", "big", &value]);
        request.extend(encoded(&["GET", "other"]));
        request.extend(encoded(&["GET", "big"]));
        client.send(&request).await;
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(client.reply().await, "(nil)");
        assert_eq!(client.reply().await.len(), value.len());
        let slot = slot::of_key(b"big");
        cluster.move_slot(slot, 1 - cluster.owner(slot));
        assert!(other.command(&["SET", "big", &value]).await.starts_with("-TRYAGAIN keystile:"));
        assert_eq!(other.command(&["SET", "big", &value]).await, "+OK");
        // One that fits into the window is sent again.
        cluster.move_slot(slot, 1 - cluster.owner(slot));
        assert_eq!(client.command(&["SET", "big", &value[..900_000]]).await, "+OK");
    });
}

#[test]
fn one_command_for_many_slots_and_nodes() {
    run(async {
        let (world, cluster) = world(3, 1).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let keys: Vec<String> = (0..200).map(|number| format!("k{number}")).collect();
        for key in &keys {
            assert_eq!(client.command(&["SET", key, key]).await, "+OK");
        }
        let all =
            |name: &'static str| [&[name], &keys.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat();
        assert_eq!(client.command(&all("MGET")).await, format!("[{}]", keys.join(" ")));
        assert_eq!(client.command(&all("EXISTS")).await, ":200");
        assert_eq!(client.command(&all("TOUCH")).await, ":200");
        assert_eq!(client.command(&["DBSIZE"]).await, ":200");
        assert_eq!(client.command(&["KEYS", "k*"]).await.split(' ').count(), 200);
        assert_eq!(client.command(&["DEL", "k0", "k1", "none", "k2"]).await, ":3");
        assert_eq!(client.command(&["MGET", "k2", "k3", "k2"]).await, "[(nil) k3 (nil)]");
        assert!(client.command(&["RANDOMKEY"]).await.starts_with('k'));
        // A pipeline of them keeps its order.
        let mut request = Vec::new();
        for round in 0..100 {
            let value = round.to_string();
            for words in
                [&["SET", "k3", &value][..], &["SET", "k4", &value], &["MGET", "k3", "k4"], &["DBSIZE"]]
            {
                request.extend(encoded(words));
            }
        }
        client.send(request).await;
        for round in 0..100 {
            for expected in ["+OK", "+OK", &format!("[{round} {round}]"), ":197"] {
                assert_eq!(client.reply().await, expected);
            }
        }
        // Scripts are on every shard.
        let sha = client.command(&["SCRIPT", "LOAD", "return redis.call('GET', KEYS[1])"]).await;
        for key in &keys[5..20] {
            assert_eq!(client.command(&["EVALSHA", &sha, "1", key]).await, *key);
        }
        assert_eq!(client.command(&["SCRIPT", "EXISTS", &sha]).await, "[:1]");
        assert!(client.command(&["INFO", "keyspace"]).await.starts_with("# Keyspace"));
        let slow = client.command(&["CONFIG", "GET", "slowlog-max-len"]).await;
        assert!(slow.starts_with("[slowlog-max-len "), "{slow}");
        // While a slot moves.
        let slot = slot::of_key(b"k5");
        let to = (cluster.owner(slot) + 1) % 3;
        let from = cluster.begin_move(slot, to);
        cluster.move_keys(from, to, &["k5"]);
        assert_eq!(client.command(&["MGET", "k5", "k6", "k7"]).await, "[k5 k6 k7]");
        cluster.end_move(slot, from, to);
        assert_eq!(client.command(&["MGET", "k5", "k6", "k7"]).await, "[k5 k6 k7]");
        assert_eq!(client.command(&["FLUSHALL"]).await, "+OK");
        assert_eq!(client.command(&["DBSIZE"]).await, ":0");
        // A replica that is gone is left out, and the session goes on.
        let mut cluster = cluster;
        cluster.nodes[3].kill();
        assert_eq!(client.command(&["PUBSUB", "NUMPAT"]).await, ":0");
    });
}

#[test]
fn a_scan_goes_over_all_shards_while_slots_move() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let mut request = Vec::new();
        for number in 0..2_000 {
            request.extend(encoded(&["SET", &format!("k{number}"), "x"]));
        }
        client.send(request).await;
        for _ in 0..2_000 {
            assert_eq!(client.reply().await, "+OK");
        }
        let mover = tokio::task::spawn_blocking(move || {
            for slot in (0..16_384).step_by(1_500) {
                cluster.move_slot(slot, (cluster.owner(slot) + 1) % 3);
            }
            cluster
        });
        let mut cursor = "0".to_owned();
        let mut seen = std::collections::BTreeSet::new();
        loop {
            // Each page over a connection of its own.
            let mut other = world.routed("alice", "sessions", "iam-rw").await;
            let page = other.command(&["SCAN", &cursor, "COUNT", "100"]).await;
            let page = page.strip_prefix('[').unwrap().strip_suffix("]]").unwrap();
            let (next, keys) = page.split_once(" [").unwrap();
            seen.extend(keys.split(' ').filter(|key| !key.is_empty()).map(str::to_owned));
            cursor = next.to_owned();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 2_000);
        let _cluster = mover.await.unwrap();
        assert!(client.command(&["SCAN", "nonsense"]).await.starts_with("-ERR invalid cursor"));
    });
}

#[test]
fn merged_replies_have_a_bound_that_all_sessions_share() {
    run(async {
        let world = World::start(&[("KEYSTILE_MERGED_REPLY_BYTES", "1048576")]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 0);
        world.serve_cluster(&cluster).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (one, other) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let value = "v".repeat(400_000);
        for key in [&one, &other] {
            assert_eq!(client.command(&["SET", key, &value]).await, "+OK");
        }
        for _ in 0..5 {
            assert_eq!(client.command(&["MGET", &one, &other]).await, format!("[{value} {value}]"));
            let refused = client.command(&["MGET", &one, &other, &one]).await;
            assert!(refused.starts_with("-ERR keystile: the proxy holds as many replies"), "{refused}");
        }
        assert_eq!(world.shared.metrics.limits.value("merging"), 5);
        assert_eq!(client.ask("PING").await, "+PONG");
    });
}

#[test]
fn one_user_cannot_hold_all_that_there_is_for_merged_replies() {
    run(async {
        // Enough for a reply of the greatest length, and half of one.
        let world = World::start(&[("KEYSTILE_MERGED_REPLY_BYTES", "100663296")]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 0);
        world.serve_cluster(&cluster).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (one, other) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let value = "v".repeat(20 << 20);
        for key in [&one, &other] {
            assert_eq!(client.command(&["SET", key, &value]).await, "+OK");
        }
        let merged = encoded(&["MGET", &one, &other]);
        let mut slow = world.routed("alice", "sessions", "iam-rw").await;
        slow.send(&merged).await;
        assert_eq!(slow.line().await, "*2");
        // There is room for another one, but not for hers.
        let refused = client.command(&["MGET", &one, &other]).await;
        assert!(refused.starts_with("-ERR keystile: the proxy holds as many replies"), "{refused:.200}");
        let mut bob = world.routed("bob", "sessions", "iam-rw").await;
        assert!(bob.command(&["MGET", &one, &other]).await == format!("[{value} {value}]"));
        for _ in 0..2 {
            assert!(slow.reply().await == value);
        }
        assert_eq!(slow.ask("PING").await, "+PONG");
        assert!(client.command(&["MGET", &one, &other]).await == format!("[{value} {value}]"));
    });
}

#[test]
fn a_command_of_all_slots() {
    run(async {
        let (world, _cluster) = world(3, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let keys: Vec<String> = (0..40_000).map(|number| format!("k{number}")).collect();
        let mut words = vec!["MGET"];
        words.extend(keys.iter().map(String::as_str));
        let values = client.command(&words).await;
        assert_eq!(values.matches("(nil)").count(), 40_000);
        words[0] = "DEL";
        assert_eq!(client.command(&words).await, ":0");
    });
}
