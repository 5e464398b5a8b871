//! What a client is told of the cluster, and how its session lives.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::support;
use super::support::cluster::Cluster;
use super::support::{World, encoded};
use super::{key_of, run, world};

#[test]
fn a_user_that_may_only_read_is_served() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut min = world.routed("alice", "sessions", "iam-min").await;
        // Nobody has asked for the map: redirections tell it.
        for number in 0..50 {
            assert_eq!(min.command(&["GET", &format!("k{number}")]).await, "(nil)");
        }
        let mut writer = world.routed("alice", "sessions", "iam-rw").await;
        for number in 0..50 {
            assert_eq!(writer.command(&["SET", &format!("k{number}"), "v"]).await, "+OK");
            assert_eq!(min.command(&["GET", &format!("k{number}")]).await, "v");
        }
        assert!(min.command(&["PING"]).await.starts_with("-NOPERM"));
        drop(cluster);
    });
}

#[test]
fn reads_of_a_readonly_session_go_to_replicas() {
    run(async {
        let (world, mut cluster) = world(2, 1).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let key = key_of(&cluster, 0);
        assert_eq!(client.command(&["SET", &key, "1"]).await, "+OK");
        let reads = |node: &support::cluster::Node| {
            let stats = node.ok(&["INFO", "commandstats"]);
            let line =
                stats.text().lines().find(|line| line.starts_with("cmdstat_get:calls=")).map(str::to_owned);
            line.map_or(0, |line| {
                line["cmdstat_get:calls=".len()..].split(',').next().unwrap().parse::<u64>().unwrap()
            })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(client.command(&["READONLY"]).await, "+OK");
        let before = reads(&cluster.nodes[0]);
        for _ in 0..20 {
            assert_eq!(client.command(&["GET", &key]).await, "1");
        }
        assert_eq!((reads(&cluster.nodes[2]), reads(&cluster.nodes[0])), (20, before));
        assert_eq!(client.command(&["SET", &key, "2"]).await, "+OK", "writes go to the primary");
        cluster.nodes[2].kill();
        let mut answer = client.command(&["GET", &key]).await;
        if answer.starts_with('-') {
            answer = client.command(&["GET", &key]).await;
        }
        assert_eq!(answer, "2", "without a replica the primary is read");
        assert_eq!(client.command(&["READWRITE"]).await, "+OK");
        assert_eq!(client.command(&["GET", &key]).await, "2");
    });
}

#[test]
fn a_cluster_aware_client_sees_one_node_where_it_is() {
    run(async {
        let (world, _cluster) = world(2, 1).await;
        let mut client = world.routed("alice", "sessions", "iam-ro").await;
        let id = client.command(&["CLUSTER", "MYID"]).await;
        assert_eq!(id.len(), 40);
        let slots = |host: &str, port: u16| format!("[[:0 :16383 [{host} :{port} {id} []]]]");
        assert_eq!(client.command(&["CLUSTER", "SLOTS"]).await, slots("localhost", world.address.port()));
        assert_eq!(client.command(&["KEYSTILE", "ADDRESS", "127.0.0.1", "6390"]).await, "+OK");
        assert_eq!(client.command(&["CLUSTER", "SLOTS"]).await, slots("127.0.0.1", 6390));
        assert!(client.command(&["CLUSTER", "NODES"]).await.contains("127.0.0.1:6390"));
        assert_eq!(client.command(&["CLUSTER", "KEYSLOT", "a"]).await, ":15495");
        assert_eq!(client.command(&["ASKING"]).await, "+OK");
        assert_eq!(client.command(&["GET", "a"]).await, "(nil)");
        let mut orders = world.routed("alice", "orders", "iam-ro").await;
        assert_eq!(orders.command(&["KEYSTILE", "ADDRESS", "localhost", "6390"]).await, "+OK");
        assert!(orders.command(&["KEYSTILE", "ADDRESS"]).await.starts_with("-ERR keystile:"));
    });
}

#[test]
fn a_session_is_signed_in_again_and_reset_and_told_to_end() {
    run(async {
        let world = World::start(&[("KEYSTILE_IAM_LIFE_S", "1000")]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 0);
        world.serve_cluster(&cluster).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        for number in 0..20 {
            assert_eq!(client.command(&["SET", &format!("k{number}"), "x"]).await, "+OK");
        }
        world.clock.advance(940);
        support::wait_until("it is signed in again", || world.shared.metrics.sign_ins_again.value() >= 2)
            .await;
        for number in 0..20 {
            assert_eq!(client.command(&["GET", &format!("k{number}")]).await, "x");
        }
        assert!(client.command(&["HELLO", "3", "SETNAME", "me"]).await.contains("mode cluster"));
        assert_eq!(client.command(&["RESET"]).await, "+RESET");
        assert_eq!(client.command(&["ACL", "WHOAMI"]).await, "iam-rw");
        assert_eq!(client.command(&["GET", "none"]).await, "(nil)");
        assert!(client.command(&["AUTH", "iam-admin", "x"]).await.starts_with("-NOPERM keystile:"));
        assert_eq!(client.command(&["AUTH", "iam-rw", "x"]).await, "+OK");
        client.send("CLIENT REPLY OFF\r\nSET k1 y\r\nCLIENT REPLY ON\r\nCLIENT REPLY SKIP\r\nGET k1\r\nGET k1\r\n").await;
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(client.reply().await, "y");
        let mut world = world;
        world.begin_stop();
        assert!(client.reply().await.starts_with("-ERR keystile: this proxy is stopping"));
    });
}

#[test]
fn a_token_that_is_refused_is_no_end_and_costs_no_reply() {
    run(async {
        let world = World::start(&[("KEYSTILE_IAM_LIFE_S", "1000")]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 0);
        world.serve_cluster(&cluster).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let metrics = &world.shared.metrics;
        let mut ask = async |round: u64| {
            // Several in one read, over both nodes, and a plain +OK among them.
            let mut request = Vec::new();
            for number in 0..10 {
                request.extend(encoded(&["SET", &format!("k{number}"), &format!("{round}.{number}")]));
                request.extend(encoded(&["GET", &format!("k{number}")]));
            }
            client.send(&request).await;
            for number in 0..10 {
                assert_eq!(client.reply().await, "+OK");
                assert_eq!(client.reply().await, format!("{round}.{number}"));
            }
        };
        ask(0).await;
        world.tokens.wrong.store(2, Ordering::Relaxed);
        world.clock.advance(940);
        let (mut round, mut failed) = (0, 0);
        while metrics.sign_ins_again.value() < 2 {
            round += 1;
            assert!(round < 5_000, "it was never signed in again");
            if metrics.sign_ins_again_failed.value() >= failed + 2 {
                failed += 2;
                // The next try.
                world.clock.advance(3);
            }
            ask(round).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A password is fetched for all links of a session: each of the two that were wrong failed at both nodes.
        assert_eq!(metrics.sign_ins_again_failed.value(), 4);
        ask(9_999).await;
    });
}

#[test]
fn home_is_a_primary_wherever_the_endpoint_leads() {
    run(async {
        let world = World::start(&[]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 1);
        // A replica.
        world.serve_cluster_at(&cluster, 3).await;
        let here = key_of(&cluster, 0);
        for _ in 0..3 {
            let mut client = world.routed("alice", "sessions", "iam-admin").await;
            assert!(client.command(&["ROLE"]).await.starts_with("[master "));
            let script = "#!lua\nreturn 1";
            assert_eq!(client.command(&["EVAL", script, "0"]).await, ":1");
            assert_eq!(client.command(&["CONFIG", "SET", "notify-keyspace-events", "Kl"]).await, "+OK");
            assert_eq!(client.command(&["PSUBSCRIBE", "*"]).await, "[psubscribe * :1]");
            let mut other = world.routed("alice", "sessions", "iam-admin").await;
            assert_eq!(other.command(&["PUBSUB", "NUMPAT"]).await, ":1");
            // Whoever subscribes is at the node of who publishes, and hears of each key once.
            let heard = other.command(&["PUBLISH", "news", "x"]).await;
            assert_eq!(client.reply().await, "[pmessage * news x]");
            assert_eq!(other.command(&["LPUSH", &here, "a"]).await, ":1");
            assert_eq!(other.command(&["DEL", &here]).await, ":1");
            assert_eq!(other.command(&["PUBLISH", "news", "y"]).await, heard);
            assert_eq!(client.reply().await, format!("[pmessage * __keyspace@0__:{here} lpush]"));
            assert_eq!(client.reply().await, "[pmessage * news y]");
            assert_eq!(heard, ":1");
        }
    });
}

#[test]
fn a_random_key_is_of_any_shard() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        for key in &keys {
            assert_eq!(client.command(&["SET", key, "x"]).await, "+OK");
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..4 {
            seen.insert(client.command(&["RANDOMKEY"]).await);
        }
        assert_eq!(seen.len(), 2);
    });
}

#[test]
fn what_waits_for_a_sign_in_is_read_no_further() {
    run(async {
        let world = World::start(&[("KEYSTILE_IAM_LIFE_S", "1000")]).await;
        let cluster = Cluster::start(world.dir.path(), 2, 0);
        world.serve_cluster(&cluster).await;
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let list = key_of(&cluster, 0);
        // No AUTH goes behind a call that blocks; and of a request the proxy has the beginning.
        client.send(encoded(&["BLPOP", &list, "0"])).await;
        let set = encoded(&["SET", &list, &"x".repeat(500_000)]);
        client.send(&set[..100_000]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.clock.advance(975);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let read = || world.shared.metrics.bytes_in.value();
        let before = read();
        let flood = [set[100_000..].to_vec(), set.repeat(60)].concat();
        let sent = tokio::time::timeout(Duration::from_secs(2), client.send(&flood)).await;
        let ahead = read() - before;
        assert!(sent.is_err() && ahead < 1024 * 1024, "{ahead} bytes were read");
        assert_eq!(other.command(&["RPUSH", &list, "y"]).await, ":1");
        assert_eq!(client.reply().await, format!("[{list} y]"));
        assert_eq!(client.reply().await, "+OK", "it goes on");
    });
}
