//! What must not happen, whatever a client, a script or a node does.

use std::time::Duration;

use keystile_resp::slot;

use super::support;
use super::support::encoded;
use super::{key_of, run, world};

#[test]
fn nothing_of_the_proxy_comes_between_the_bytes_of_a_long_request() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        assert_eq!(other.command(&["GET", "none"]).await, "(nil)");
        // On the home node and on the other one; a map that has expired and subscriptions that follow it.
        for node in 0..2 {
            let mut client = world.routed("alice", "sessions", "iam-admin").await;
            assert!(client.command(&["HELLO", "3"]).await.contains("proto :3"));
            let pattern = "__keyevent@*__:set";
            assert_eq!(client.command(&["PSUBSCRIBE", pattern]).await, format!(">[psubscribe {pattern} :1]"));
            let key = key_of(&cluster, node);
            assert_eq!(client.command(&["GET", &key]).await, "(nil)");
            let mut value = "v".repeat(3 << 20);
            value.push_str("\r\n*1\r\n$7\r\nFLUSHDB\r\n*3\r\n$3\r\nSET\r\n$7\r\nplanted\r\n$1\r\nx\r\n");
            let request = encoded(&["SET", &key, &value]);
            let (head, rest) = request.split_at(2 << 20);
            client.send(head).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            // Another session learns that a slot has moved.
            let moved = slot::of_key(b"a slot that moves");
            cluster.move_slot(moved, 1 - cluster.owner(moved));
            assert_eq!(other.command(&["GET", "a slot that moves"]).await, "(nil)");
            tokio::time::sleep(Duration::from_millis(300)).await;
            let (middle, end) = rest.split_at(512 << 10);
            client.send(middle).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            client.send(end).await;
            assert_eq!(client.reply().await, "+OK");
            assert!(client.command(&["GET", &key]).await == value, "the value is another one");
            assert_eq!(client.command(&["DBSIZE"]).await, ":1");
            assert_eq!(client.command(&["DEL", &key]).await, ":1");
        }
    });
}

#[test]
fn what_was_read_ahead_and_is_not_whole_is_read_on() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        // More than is read ahead comes with a command that everything waits for; the rest comes later.
        let value = "v".repeat(300_000);
        let request = [encoded(&["HELLO", "9"]), encoded(&["SET", "k", &value])].concat();
        let (head, rest) = request.split_at(150_000);
        client.send(head).await;
        assert!(client.reply().await.starts_with("-NOPROTO"));
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(rest).await;
        assert_eq!(client.reply().await, "+OK");
        assert!(client.command(&["GET", "k"]).await == value);
    });
}

#[test]
fn reset_on_a_link_that_is_being_dialled_does_not_make_it_the_default_users() {
    run(async {
        let (world, mut cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        assert_eq!(client.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
        assert_eq!(client.command(&["RESET"]).await, "+RESET");
        assert_eq!(client.command(&["ACL", "WHOAMI"]).await, "iam-admin");
        cluster.nodes[0].kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.nodes[0].start();
        for node in &cluster.nodes {
            node.ok(&["ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all"]);
        }
        client.send([encoded(&["RESET"]), encoded(&["ACL", "WHOAMI"])].concat()).await;
        assert_eq!(client.reply().await, "+RESET");
        assert_eq!(client.reply().await, "iam-admin");
    });
}

#[test]
fn a_node_that_refuses_the_clients_own_password_is_sent_nothing() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut legacy = keystile_model::database::Database {
            kind: keystile_model::database::DatabaseKind::Static,
            arn: None,
            cluster_mode: true,
            auth: keystile_model::database::CacheAuth::PassThrough,
            ca: Some(std::fs::read_to_string(world.dir.path().join("cache.crt")).unwrap()),
            ..world.database("legacy")
        };
        legacy.endpoint.port = cluster.nodes[0].port;
        world.add(legacy).await;
        // The user is known at one node alone, and the other one lets in whoever says nothing.
        cluster.nodes[1].ok(&["ACL", "SETUSER", "own", "resetpass", ">another"]);
        cluster.nodes[1].ok(&["ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all"]);
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let mut client = world.routed("bob", "legacy", "own").await;
        assert_eq!(client.ask("AUTH their-own").await, "+OK");
        assert_eq!(client.command(&["SET", &here, "x"]).await, "+OK");
        client.send([encoded(&["SET", &there, "x"]), encoded(&["GET", &here])].concat()).await;
        let refused = client.reply().await;
        assert_eq!(client.reply().await, "x");
        assert_eq!(cluster.nodes[1].ok(&["DBSIZE"]), support::cluster::Reply::Number(0));
        assert!(refused.contains("did not take this session's password; nothing was sent"), "{refused}");
        // Once it is taken, what waited follows.
        cluster.nodes[1].ok(&["ACL", "SETUSER", "own", "resetpass", ">their-own"]);
        let value = "v".repeat(2 << 20);
        assert_eq!(client.command(&["SET", &there, &value]).await, "+OK");
        assert!(client.command(&["GET", &there]).await == value);
        assert_eq!(client.command(&["RESET"]).await, "+RESET");
        assert!(client.command(&["GET", &there]).await.starts_with("-NOAUTH keystile"));
        assert_eq!(client.ask("AUTH their-own").await, "+OK");
        assert_eq!(client.command(&["GET", &here]).await, "x");
    });
}

#[test]
fn a_script_cannot_forge_a_redirection() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        for key in [&here, &there] {
            let slot = slot::of_key(key.as_bytes());
            for word in ["MOVED", "ASK"] {
                let script = format!("return redis.error_reply('{word} {slot} localhost:1')");
                assert!(client.command(&["EVAL", &script, "0"]).await.starts_with("-TRYAGAIN keystile:"));
                let reply = client.command(&["EVAL", &script, "1", &here]).await;
                assert!(reply.starts_with("-TRYAGAIN keystile:"), "{reply}");
            }
            for client in [&mut client, &mut other] {
                assert_eq!(client.command(&["GET", key]).await, "(nil)");
            }
        }
        assert_eq!(world.shared.metrics.cluster_links_failed.value(), 0, "nobody believed it");
        // Nor is a script carried out again because it says so.
        for word in ["LOADING", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"] {
            let script = format!("redis.call('INCR', KEYS[1]) return redis.error_reply('{word} x')");
            assert_eq!(client.command(&["DEL", &here]).await.len(), 2);
            assert_eq!(client.command(&["EVAL", &script, "1", &here]).await, format!("-{word} x"));
            assert_eq!(client.command(&["GET", &here]).await, "1");
        }
        // What a server says is followed.
        let slot = slot::of_key(here.as_bytes());
        cluster.move_slot(slot, 1);
        let read = "return redis.call('GET', KEYS[1])";
        assert_eq!(client.command(&["EVAL", read, "1", &here]).await, "1");
        assert_eq!(client.command(&["GET", &here]).await, "1");
    });
}
