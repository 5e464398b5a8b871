//! Sessions with a real cluster: order, migrations, failover.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod support;

use std::time::{Duration, Instant};

use keystile_resp::slot;
use support::cluster::Cluster;
use support::{World, encoded};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

async fn world(primaries: usize, replicas: usize) -> (World, Cluster) {
    let world = World::start(&[]).await;
    let cluster = Cluster::start(world.dir.path(), primaries, replicas);
    world.serve_cluster(&cluster).await;
    (world, cluster)
}

/// A key in a slot that this node serves.
fn key_of(cluster: &Cluster, node: usize) -> String {
    (0..)
        .map(|number| format!("key:{number}"))
        .find(|key| cluster.owner(slot::of_key(key.as_bytes())) == node)
        .unwrap()
}

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
fn a_slot_that_moves_under_load_keeps_its_order() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let key = "{moving}counter";
        let moving = slot::of_key(key.as_bytes());
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["SET", key, "0"]).await, "+OK");
        let mover = {
            let home = cluster.owner(moving);
            tokio::task::spawn_blocking(move || {
                for round in 1..=6 {
                    cluster.move_slot(moving, (home + round) % 3);
                    std::thread::sleep(Duration::from_millis(30));
                }
                cluster
            })
        };
        let mut count = 0;
        while !mover.is_finished() || count < 3_000 {
            let mut request = Vec::new();
            for number in 0..50 {
                request.extend(encoded(&["INCR", key]));
                request.extend(encoded(&["SET", &format!("other{number}"), "x"]));
                request.extend(encoded(&["MGET", "{moving}counter", "{moving}none"]));
            }
            client.send(request).await;
            for _ in 0..50 {
                count += 1;
                assert_eq!(client.reply().await, format!(":{count}"));
                assert_eq!(client.reply().await, "+OK");
                let both = client.reply().await;
                // With later commands of the slot on their way it cannot be sent again in their order.
                assert!(both == format!("[{count} (nil)]") || both.starts_with("-TRYAGAIN"), "{both}");
            }
        }
        mover.await.unwrap();
        let metrics = world.http("/metrics").await;
        let redirects = metrics.lines().find(|line| line.contains("word=\"moved\"")).unwrap();
        assert!(!redirects.ends_with(" 0"), "{redirects}");
    });
}

#[test]
fn asking_and_waiting_while_a_slot_is_between_two_nodes() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let slot = slot::of_key(b"{m}");
        assert_eq!(client.command(&["MSET", "{m}a", "1", "{m}b", "2"]).await, "+OK");
        let to = 1 - cluster.owner(slot);
        let from = cluster.begin_move(slot, to);
        cluster.move_keys(from, to, &["{m}a"]);
        let mut request = Vec::new();
        for _ in 0..20 {
            request.extend(encoded(&["GET", "{m}a"]));
            request.extend(encoded(&["GET", "{m}b"]));
            request.extend(encoded(&["SET", "{m}new", "3"]));
        }
        client.send(request).await;
        for _ in 0..20 {
            assert_eq!(client.reply().await, "1");
            assert_eq!(client.reply().await, "2");
            assert_eq!(client.reply().await, "+OK");
        }
        // Half of its keys here, half there: it waits until they are together.
        let began = Instant::now();
        client.send(encoded(&["MGET", "{m}a", "{m}b", "{m}new"])).await;
        let ending = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(400));
            cluster.end_move(slot, from, to);
            cluster
        });
        assert_eq!(client.reply().await, "[1 2 3]");
        assert!(began.elapsed() >= Duration::from_millis(350), "{:?}", began.elapsed());
        let _cluster = ending.await.unwrap();
        assert_eq!(client.command(&["GET", "{m}new"]).await, "3");
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
fn a_failover_under_load() {
    run(async {
        let (world, mut cluster) = world(3, 1).await;
        let (doomed, safe) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["SET", &doomed, "1"]).await, "+OK");
        assert_eq!(client.command(&["SET", &safe, "1"]).await, "+OK");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let blocked = encoded(&["BLPOP", &format!("{{{doomed}}}list"), "0"]);
        client.send(blocked).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.nodes[0].kill();
        let killed = Instant::now();
        assert!(client.reply().await.contains("whether the command was executed is unknown"));
        assert_eq!(client.command(&["GET", &safe]).await, "1", "the others go on");
        assert!(killed.elapsed() < Duration::from_millis(800), "{:?}", killed.elapsed());
        let slot = slot::of_key(doomed.as_bytes());
        let promotion = tokio::task::spawn_blocking(move || {
            support::cluster::wait("a replica is promoted", || {
                cluster.nodes[3].ok(&["ROLE"]) != cluster.nodes[4].ok(&["ROLE"])
                    && cluster.nodes[3].ask(&["GET", "x"]) != support::cluster::Reply::Null
                    && matches!(cluster.nodes[3].ok(&["ROLE"]), support::cluster::Reply::List(role) if role[0].text() == "master")
            });
            (Instant::now(), cluster)
        });
        let mut answer = client.command(&["GET", &doomed]).await;
        while answer.starts_with('-') {
            answer = client.command(&["GET", &doomed]).await;
        }
        let answered = Instant::now();
        assert_eq!(answer, "1");
        let (promoted, mut cluster) = promotion.await.unwrap();
        assert!(answered.saturating_duration_since(promoted) < Duration::from_secs(2));
        assert_eq!(client.command(&["SET", &doomed, "2"]).await, "+OK");
        cluster.nodes[0].start();
        assert_eq!(client.command(&["GET", &doomed]).await, "2");
        assert_eq!(cluster.owner(slot), 3);
    });
}

#[test]
fn a_transaction_stays_on_the_shard_of_its_first_key() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        for key in [&here, &there] {
            assert_eq!(client.command(&["MULTI"]).await, "+OK");
            assert_eq!(client.command(&["PING"]).await, "+QUEUED");
            assert_eq!(client.command(&["ECHO", "x"]).await, "+QUEUED");
            assert_eq!(client.command(&["SET", key, "1"]).await, "+QUEUED");
            assert_eq!(client.command(&["INCR", key]).await, "+QUEUED");
            assert_eq!(client.command(&["EXEC"]).await, "[+PONG x +OK :2]");
        }
        // All in one write, with commands of other slots around it.
        let mut request = Vec::new();
        for _ in 0..50 {
            for words in [
                &["SET", &here, "a"][..],
                &["SET", &there, "b"],
                &["MULTI"],
                &["GET", &there],
                &["APPEND", &there, "c"],
                &["EXEC"],
                &["GET", &here],
                &["GET", &there],
            ] {
                request.extend(encoded(words));
            }
        }
        client.send(request).await;
        for _ in 0..50 {
            for expected in ["+OK", "+OK", "+OK", "+QUEUED", "+QUEUED", "[b :2]", "a", "bc"] {
                assert_eq!(client.reply().await, expected);
            }
        }
        for (commands, replies) in [
            (vec!["MULTI", "EXEC"], vec!["+OK", "[]"]),
            (vec!["MULTI", "PING", "EXEC"], vec!["+OK", "+QUEUED", "[+PONG]"]),
            (
                vec!["MULTI", "MULTI", "DISCARD", "PING"],
                vec!["+OK", "-ERR MULTI calls can not be nested", "+OK", "+PONG"],
            ),
            (vec!["EXEC", "DISCARD"], vec!["-ERR EXEC without MULTI", "-ERR DISCARD without MULTI"]),
            (
                vec!["MULTI", "ECHO", "EXEC"],
                vec![
                    "+OK",
                    "-ERR wrong number of arguments for 'echo' command",
                    "-EXECABORT Transaction discarded because of previous errors.",
                ],
            ),
            (
                vec!["MULTI", "SET a", "EXEC", "PING"],
                vec![
                    "+OK",
                    "-ERR wrong number of arguments for 'set' command",
                    "-EXECABORT Transaction discarded because of previous errors.",
                    "+PONG",
                ],
            ),
        ] {
            client.send(commands.join("\r\n") + "\r\n").await;
            for reply in replies {
                assert_eq!(client.reply().await, reply, "{commands:?}");
            }
        }
        // A key of another slot, and a command that never passes.
        for other in
            [format!("GET {here}"), "MONITOR".to_owned(), "SCAN 0".to_owned(), "MGET a b c".to_owned()]
        {
            client.send(format!("MULTI\r\nSET {there} lost\r\n{other}\r\nEXEC\r\nGET {there}\r\n")).await;
            assert_eq!(client.reply().await, "+OK");
            assert_eq!(client.reply().await, "+QUEUED");
            assert!(client.reply().await.starts_with('-'), "{other}");
            assert!(client.reply().await.starts_with("-EXECABORT"), "{other}");
            assert_eq!(client.reply().await, "bc");
        }
    });
}

#[test]
fn watched_keys() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        for (changed, expected) in [(&here, "[+OK]"), (&there, "(nil)")] {
            assert_eq!(client.command(&["WATCH", &there]).await, "+OK");
            assert!(!client.command(&["GET", &here]).await.is_empty());
            assert_eq!(other.command(&["SET", changed, "x"]).await, "+OK");
            client.send(format!("MULTI\r\nSET {there} mine\r\nEXEC\r\n")).await;
            assert_eq!(client.reply().await, "+OK");
            assert_eq!(client.reply().await, "+QUEUED");
            assert_eq!(client.reply().await, expected);
        }
        assert_eq!(client.command(&["WATCH", &there]).await, "+OK");
        assert!(client.command(&["WATCH", &here]).await.starts_with("-CROSSSLOT"));
        assert_eq!(client.command(&["UNWATCH"]).await, "+OK");
        assert_eq!(client.command(&["WATCH", &here]).await, "+OK");
        // Its slot moves: nothing of it may be done, and the next try works.
        let slot = slot::of_key(here.as_bytes());
        cluster.move_slot(slot, 1);
        client.send(format!("MULTI\r\nSET {here} half\r\nEXEC\r\n")).await;
        assert_eq!(client.reply().await, "+OK");
        assert!(client.reply().await.starts_with("-TRYAGAIN keystile:"));
        assert!(client.reply().await.starts_with("-EXECABORT"));
        client.send(format!("MULTI\r\nSET {here} whole\r\nEXEC\r\nGET {here}\r\n")).await;
        for expected in ["+OK", "+QUEUED", "[+OK]", "whole"] {
            assert_eq!(client.reply().await, expected);
        }
        // The node is gone: what was watched is not any more.
        assert_eq!(client.command(&["WATCH", &here]).await, "+OK");
        let mut cluster = cluster;
        cluster.nodes[1].kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.nodes[1].start();
        support::cluster::wait("it is back", || {
            cluster.nodes[1].ok(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
        });
        client.send(format!("MULTI\r\nSET {here} x\r\nEXEC\r\nGET {here}\r\n")).await;
        for expected in ["+OK", "+QUEUED", "(nil)", "(nil)"] {
            assert_eq!(client.reply().await, expected);
        }
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
fn subscriptions_in_both_protocols() {
    run(async {
        let (world, mut cluster) = world(3, 1).await;
        let mut publisher = world.routed("alice", "sessions", "iam-admin").await;
        let mut two = world.routed("alice", "sessions", "iam-admin").await;
        let mut three = world.routed("alice", "sessions", "iam-admin").await;
        assert!(three.command(&["HELLO", "3"]).await.contains("proto :3"));
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        for (client, mark) in [(&mut two, ""), (&mut three, ">")] {
            client.send(encoded(&["SUBSCRIBE", "news", "more"])).await;
            assert_eq!(client.reply().await, format!("{mark}[subscribe news :1]"));
            assert_eq!(client.reply().await, format!("{mark}[subscribe more :2]"));
            assert_eq!(client.command(&["PSUBSCRIBE", "n*"]).await, format!("{mark}[psubscribe n* :3]"));
            assert_eq!(client.command(&["SSUBSCRIBE", &here]).await, format!("{mark}[ssubscribe {here} :1]"));
            assert_eq!(
                client.command(&["SSUBSCRIBE", &there]).await,
                format!("{mark}[ssubscribe {there} :2]")
            );
            assert!(client.command(&["SSUBSCRIBE", &here, &there]).await.starts_with("-CROSSSLOT"));
        }
        assert!(
            two.command(&["GET", "x"]).await.starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
        );
        assert_eq!(two.command(&["PING"]).await, "[pong ]");
        assert_eq!(three.command(&["GET", "x"]).await, "(nil)");
        publisher.command(&["PUBLISH", "news", "one"]).await;
        for (client, mark) in [(&mut two, ""), (&mut three, ">")] {
            let mut both = [client.reply().await, client.reply().await];
            both.sort();
            assert_eq!(both, [format!("{mark}[message news one]"), format!("{mark}[pmessage n* news one]")]);
        }
        assert_eq!(publisher.command(&["SPUBLISH", &there, "two"]).await, ":2");
        assert_eq!(two.reply().await, format!("[smessage {there} two]"));
        assert_eq!(three.reply().await, format!(">[smessage {there} two]"));
        // Its slot moves: it is subscribed to at its new home.
        cluster.move_slot(slot::of_key(there.as_bytes()), 2);
        let mut heard = ":0".to_owned();
        for _ in 0..100 {
            heard = publisher.command(&["SPUBLISH", &there, "three"]).await;
            if heard == ":2" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(heard, ":2");
        while two.reply().await != format!("[smessage {there} three]") {}
        while three.reply().await != format!(">[smessage {there} three]") {}
        // Of keyspace events each node tells its own.
        for node in &cluster.nodes {
            node.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
        }
        assert_eq!(
            two.command(&["PSUBSCRIBE", "__keyevent@*__:set"]).await,
            "[psubscribe __keyevent@*__:set :4]"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
        for node in 0..3 {
            let key = key_of(&cluster, node);
            assert_eq!(publisher.command(&["SET", &key, "x"]).await, "+OK");
            assert_eq!(two.reply().await, format!("[pmessage __keyevent@*__:set __keyevent@0__:set {key}]"));
        }
        // The end of it.
        for (client, mark, all) in [(&mut two, "", 2), (&mut three, ">", 1)] {
            client.send(encoded(&["PUNSUBSCRIBE"])).await;
            for left in (0..all).rev() {
                assert!(client.reply().await.ends_with(&format!(":{}]", left + 2)));
            }
            assert_eq!(
                client.command(&["SUNSUBSCRIBE", &here]).await,
                format!("{mark}[sunsubscribe {here} :1]")
            );
            assert_eq!(
                client.command(&["SUNSUBSCRIBE", &there]).await,
                format!("{mark}[sunsubscribe {there} :0]")
            );
            client.send(encoded(&["UNSUBSCRIBE"])).await;
            assert_eq!(client.reply().await, format!("{mark}[unsubscribe more :1]"));
            assert_eq!(client.reply().await, format!("{mark}[unsubscribe news :0]"));
            assert_eq!(client.command(&["GET", "x"]).await, "(nil)");
            assert_eq!(client.command(&["ECHO", "x"]).await, "x");
        }
        // A node that held subscriptions is gone: they are placed elsewhere.
        assert_eq!(three.command(&["SUBSCRIBE", "news"]).await, ">[subscribe news :1]");
        cluster.nodes[0].kill();
        let mut heard = String::new();
        for _ in 0..100 {
            publisher.command(&["PUBLISH", "news", "four"]).await;
            if let Ok(reply) = tokio::time::timeout(Duration::from_millis(100), three.reply()).await {
                heard = reply;
                break;
            }
        }
        assert_eq!(heard, ">[message news four]");
    });
}

#[test]
fn invalidations_of_all_shards_come_in_one_stream() {
    run(async {
        let (world, mut cluster) = world(2, 1).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        assert!(
            client.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", "1"]).await.contains("REDIRECT names")
        );
        client.command(&["HELLO", "3"]).await;
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON"]).await, "+OK");
        assert_eq!(client.command(&["CLIENT", "SETNAME", "me"]).await, "+OK");
        for node in 0..2 {
            let key = key_of(&cluster, node);
            assert_eq!(client.command(&["GET", &key]).await, "(nil)");
            assert_eq!(other.command(&["SET", &key, "x"]).await, "+OK");
            assert_eq!(client.reply().await, format!(">[invalidate [{key}]]"));
        }
        assert_eq!(client.command(&["CLIENT", "GETNAME"]).await, "me");
        // Asked for command by command, it goes where the command goes.
        assert_eq!(client.command(&["CLIENT", "TRACKING", "OFF"]).await, "+OK");
        assert!(client.command(&["CLIENT", "CACHING", "YES"]).await.starts_with("-ERR CLIENT CACHING"));
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON", "OPTIN"]).await, "+OK");
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        assert_eq!(client.command(&["CLIENT", "CACHING", "YES"]).await, "+OK");
        assert_eq!(client.command(&["GET", &there]).await, "x");
        assert_eq!(client.command(&["GET", &here]).await, "x");
        assert_eq!(other.command(&["MSET", &here, "y"]).await, "+OK");
        assert_eq!(other.command(&["SET", &there, "y"]).await, "+OK");
        assert_eq!(client.reply().await, format!(">[invalidate [{there}]]"));
        for node in &cluster.nodes[..2] {
            assert!(node.ok(&["CLIENT", "LIST"]).text().contains("name=me "), "each node knows its name");
        }
        cluster.nodes[1].kill();
        assert_eq!(client.reply().await, ">[invalidate (nil)]");
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
        world.put(keystile_model::feed::Entity::StaticDatabase(Box::new(legacy))).await;
        support::wait_until("it is known", || {
            world.shared.policy.borrow().policy.as_ref().is_some_and(|p| p.database("legacy").is_some())
        })
        .await;
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
fn a_confirmation_that_nobody_awaits_is_no_reply() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        // Where the client signs in itself, its connections stay at RESP2: there confirmations look like replies.
        let mut legacy = keystile_model::database::Database {
            kind: keystile_model::database::DatabaseKind::Static,
            arn: None,
            auth: keystile_model::database::CacheAuth::PassThrough,
            ca: Some(std::fs::read_to_string(world.dir.path().join("cache.crt")).unwrap()),
            cluster_mode: true,
            ..world.database("legacy")
        };
        legacy.endpoint.port = cluster.nodes[0].port;
        world.put(keystile_model::feed::Entity::StaticDatabase(Box::new(legacy))).await;
        support::wait_until("it is known", || {
            world.shared.policy.borrow().policy.as_ref().is_some_and(|p| p.database("legacy").is_some())
        })
        .await;
        let mut client = world.routed("bob", "legacy", "own").await;
        assert_eq!(client.command(&["AUTH", "their-own"]).await, "+OK");
        let shard = key_of(&cluster, 0);
        for round in 0..50 {
            assert_eq!(client.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
            assert_eq!(client.command(&["SSUBSCRIBE", &shard]).await, format!("[ssubscribe {shard} :1]"));
            let mut request = encoded(&["UNSUBSCRIBE", "news"]);
            request.extend(encoded(&["SUNSUBSCRIBE", &shard]));
            request.extend(encoded(&["ECHO", &round.to_string()]));
            request.extend(encoded(&["GET", &shard]));
            request.extend(encoded(&["ECHO", "last"]));
            client.send(request).await;
            for expected in [
                "[unsubscribe news :0]",
                &format!("[sunsubscribe {shard} :0]"),
                &round.to_string(),
                "(nil)",
                "last",
            ] {
                assert_eq!(client.reply().await, expected, "round {round}");
            }
        }
    });
}

#[test]
fn an_error_to_an_unsubscription_of_ours_is_no_reply() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut two = world.routed("alice", "sessions", "iam-rw").await;
        let mut three = world.routed("alice", "sessions", "iam-rw").await;
        assert!(three.command(&["HELLO", "3"]).await.contains("proto :3"));
        assert_eq!(two.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
        assert_eq!(three.command(&["SUBSCRIBE", "news"]).await, ">[subscribe news :1]");
        for node in &cluster.nodes {
            node.ok(&["ACL", "SETUSER", "iam-rw", "-unsubscribe"]);
        }
        let mut request = encoded(&["UNSUBSCRIBE", "news"]);
        request.extend(encoded(&["ECHO", "x"]));
        request.extend(encoded(&["ECHO", "y"]));
        three.send(&request).await;
        for expected in [">[unsubscribe news :0]", "x", "y"] {
            assert_eq!(three.reply().await, expected);
        }
        // In RESP2 a connection that stays subscribed is no use: it is closed, and the next one serves.
        two.send(&request).await;
        assert_eq!(two.reply().await, "[unsubscribe news :0]");
        for echo in ["x", "y"] {
            let reply = two.reply().await;
            assert!(reply == echo || reply.contains("was lost"), "{reply}");
        }
        for node in &cluster.nodes {
            node.ok(&["PUBLISH", "news", "one"]);
        }
        assert_eq!(two.command(&["ECHO", "z"]).await, "z");
        assert_eq!(three.command(&["ECHO", "z"]).await, "z");
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

#[test]
fn the_names_of_subscriptions_have_a_bound() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let name = |number: usize| format!("{number:04}{}", "x".repeat(8 * 1024 - 4));
        for number in 0..128 {
            assert!(
                client.command(&["SUBSCRIBE", &name(number)]).await.ends_with(&format!(":{}]", number + 1))
            );
        }
        let refused = client.command(&["PSUBSCRIBE", "x"]).await;
        assert!(refused.starts_with("-ERR") && refused.contains("1 MiB"), "{refused}");
        assert!(client.command(&["UNSUBSCRIBE", &name(3)]).await.ends_with(":127]"));
        assert!(client.command(&["UNSUBSCRIBE", &name(3)]).await.ends_with(":127]"), "not counted twice");
        assert_eq!(client.command(&["PSUBSCRIBE", "x"]).await, "[psubscribe x :128]");
        assert!(client.command(&["SUBSCRIBE", &name(3)]).await.starts_with("-ERR"));
    });
}
