//! Slots that move, and nodes that fail.

use std::time::{Duration, Instant};

use keystile_resp::slot;

use super::support;
use super::support::cluster::Cluster;
use super::support::encoded;
use super::{key_of, run, world};

/// How often a node has read anything from a client.
fn reads(cluster: &Cluster, node: usize) -> u64 {
    let stats = cluster.nodes[node].ok(&["INFO", "stats"]);
    let reads = stats.text().lines().find_map(|line| line.strip_prefix("total_reads_processed:"));
    reads.unwrap().parse().unwrap()
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
        support::cluster::wait(
            "the old primary knows its successor",
            || matches!(cluster.nodes[0].ask(&["ROLE"]), support::cluster::Reply::List(role) if role[0].text() == "slave"),
        );
        assert_eq!(cluster.owner(slot), 3);
    });
}

#[test]
fn a_pipeline_to_a_slot_that_has_moved_follows_it_at_once() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (own, other) = (key_of(&cluster, 0), key_of(&cluster, 2));
        assert_eq!(client.command(&["SET", &own, "0"]).await, "+OK");
        assert_eq!(client.command(&["SET", &other, "x"]).await, "+OK");
        let slot = slot::of_key(own.as_bytes());
        let pipeline = || {
            let mut request = Vec::new();
            for number in 0..2_000 {
                request.extend(encoded(&["INCR", &own]));
                if number % 500 == 0 {
                    request.extend(encoded(&["MGET", &own, &other]));
                }
            }
            request
        };
        for round in 0..4 {
            if round % 2 == 1 {
                cluster.move_slot(slot, 1 - cluster.owner(slot));
            }
            let to = cluster.owner(slot);
            let before = reads(&cluster, to);
            client.send(pipeline()).await;
            for number in 0..2_000 {
                let count = round * 2_000 + number + 1;
                assert_eq!(client.reply().await, format!(":{count}"));
                if number % 500 == 0 {
                    assert_eq!(client.reply().await, format!("[{count} x]"));
                }
            }
            let reads = reads(&cluster, to) - before;
            assert!(reads < 500, "{reads} reads of 2,000 commands");
        }
        assert!(world.shared.metrics.cluster_redirects.value("moved") >= 4_000);
    });
}

#[test]
fn a_pipeline_to_a_slot_between_two_nodes_is_asked_for_at_once() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let slot = slot::of_key(b"{m}");
        let from = cluster.owner(slot);
        let beside = key_of(&cluster, from);
        for key in ["{m}gone", "{m}here", &beside] {
            assert_eq!(client.command(&["SET", key, "0"]).await, "+OK");
        }
        let to = 1 - from;
        cluster.begin_move(slot, to);
        cluster.move_keys(from, to, &["{m}gone"]);
        let asked = || world.shared.metrics.cluster_redirects.value("ask");
        // What has gone alone; then with what is still there, of this slot and of others.
        for (round, keys) in [&["{m}gone"][..], &["{m}gone", "{m}here", &beside]].into_iter().enumerate() {
            let (before, asked_before) = (reads(&cluster, to), asked());
            let pipeline: Vec<u8> =
                (0..2_000).flat_map(|_| keys.iter().flat_map(|key| encoded(&["INCR", key]))).collect();
            client.send(pipeline).await;
            for number in 1..=2_000 {
                for key in keys {
                    let done = if *key == "{m}gone" { round * 2_000 } else { 0 };
                    assert_eq!(client.reply().await, format!(":{}", done + number), "{key}");
                }
            }
            let reads = reads(&cluster, to) - before;
            assert!(reads < 500, "{reads} reads of 2,000 commands");
            assert_eq!(asked() - asked_before, 2_000);
        }
    });
}

#[test]
fn each_key_of_a_slot_that_moves_key_by_key_keeps_its_order() {
    run(async {
        const KEYS: usize = 12;
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let slot = slot::of_key(b"{m}");
        let key = |number: usize| format!("{{m}}{number}");
        let mover = tokio::task::spawn_blocking(move || {
            for _ in 0..4 {
                let from = cluster.owner(slot);
                cluster.begin_move(slot, 1 - from);
                for number in 0..KEYS {
                    std::thread::sleep(Duration::from_millis(10));
                    cluster.move_keys(from, 1 - from, &[&key(number)]);
                }
                cluster.end_move(slot, from, 1 - from);
            }
            cluster
        });
        let mut count = 0;
        while !mover.is_finished() {
            let mut pipeline = Vec::new();
            for number in 0..20 * KEYS {
                pipeline.extend(encoded(&["APPEND", &key(number % KEYS), "x"]));
                pipeline.extend(encoded(&["STRLEN", &key(number % KEYS)]));
            }
            client.send(pipeline).await;
            for _ in 0..20 {
                count += 1;
                for number in 0..KEYS {
                    assert_eq!(client.reply().await, format!(":{count}"), "{number}");
                    assert_eq!(client.reply().await, format!(":{count}"), "{number}");
                }
            }
        }
        let _cluster = mover.await.unwrap();
        assert!(world.shared.metrics.cluster_redirects.value("ask") > 0);
    });
}

#[test]
fn what_was_overtaken_is_not_tried_again() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let slot = slot::of_key(b"{m}");
        assert_eq!(client.command(&["SET", "{m}here", "0"]).await, "+OK");
        let from = cluster.owner(slot);
        cluster.begin_move(slot, 1 - from);
        // Of both keys neither is here, and there they cannot be told from what is still to come.
        let both = encoded(&["MSET", "{m}new", "1", "{m}newer", "1"]);
        for behind in [&["SET", "{m}newer", "2"][..], &["SET", "{m}here", "2"]] {
            let began = Instant::now();
            client.send([both.clone(), encoded(behind)].concat()).await;
            assert!(client.reply().await.starts_with("-TRYAGAIN"));
            assert_eq!(client.reply().await, "+OK");
            assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        }
        assert_eq!(client.command(&["GET", "{m}newer"]).await, "2");
    });
}

#[test]
fn what_a_replica_out_of_reach_did_not_get_never_waits_for_what_stands_behind_it() {
    run(async {
        let (world, mut cluster) = world(1, 2).await;
        let key = key_of(&cluster, 0);
        let mut writer = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(writer.command(&["SET", &key, "1"]).await, "+OK");
        assert_eq!(writer.command(&["WAIT", "2", "5000"]).await, ":2");
        let read = encoded(&["GET", &key]);
        // One replica of two is there: reads go to them in turn. Then none is, and what writes goes to the primary.
        let write = encoded(&["SET", &key, "2"]);
        let pipelines = [
            (1, [read.clone(), read.clone(), read.clone()], ["1", "1", "1"]),
            (2, [read.clone(), write, read.clone()], ["", "+OK", "2"]),
        ];
        for (dead, requests, answers) in pipelines {
            cluster.nodes[dead].kill();
            let mut client = world.routed("alice", "sessions", "iam-rw").await;
            assert_eq!(client.command(&["READONLY"]).await, "+OK");
            let began = Instant::now();
            client.send(requests.concat()).await;
            for answer in answers {
                let reply = client.reply().await;
                // A read of a replica may come before or behind what the primary is told.
                let either = ["1", "2"].contains(&reply.as_str());
                assert!(reply == answer || (answer.is_empty() && either), "{reply}");
            }
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
    });
}
