//! MULTI and WATCH.

use std::time::Duration;

use keystile_resp::slot;

use super::support;
use super::support::encoded;
use super::{key_of, run, world};

#[test]
fn what_is_for_all_shards_is_for_no_transaction() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        for key in &keys {
            assert_eq!(client.command(&["SET", key, "1"]).await, "+OK");
        }
        for command in ["FLUSHALL", "DBSIZE", "KEYS *", "SCRIPT FLUSH", "CONFIG SET maxmemory 0"] {
            for first in [format!("SET {} 2", keys[0]), "PING".to_owned()] {
                client.send(format!("MULTI\r\n{first}\r\n{command}\r\nEXEC\r\n")).await;
                assert_eq!(client.reply().await, "+OK");
                assert_eq!(client.reply().await, "+QUEUED");
                let refused = client.reply().await;
                assert!(refused.starts_with("-ERR keystile: '"), "{refused}");
                assert!(refused.ends_with("send it outside of MULTI"), "{refused}");
                assert!(client.reply().await.starts_with("-EXECABORT"));
            }
        }
        assert_eq!(client.ask("DBSIZE").await, ":2");
        assert_eq!(client.command(&["MGET", &keys[0], &keys[1]]).await, "[1 1]");
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
        // Since Valkey 9 it says which.
        let is_named = support::engine_major() >= 9;
        let nested = [
            "-ERR Command not allowed inside a transaction",
            "-ERR Command 'multi' not allowed inside a transaction",
        ];
        let nested = nested[usize::from(is_named)];
        for (commands, replies) in [
            (vec!["MULTI", "EXEC"], vec!["+OK", "[]"]),
            (vec!["MULTI", "PING", "EXEC"], vec!["+OK", "+QUEUED", "[+PONG]"]),
            (vec!["MULTI", "MULTI", "DISCARD", "PING"], vec!["+OK", nested, "+OK", "+PONG"]),
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
fn an_exec_that_a_subscriber_may_not_send_lets_go_of_what_is_watched() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["SET", "{t}a", "1"]).await, "+OK");
        assert_eq!(client.command(&["WATCH", "{t}a"]).await, "+OK");
        assert_eq!(client.command(&["SET", "{t}a", "2"]).await, "+OK");
        assert_eq!(client.command(&["SUBSCRIBE", "c"]).await, "[subscribe c :1]");
        let refused = client.command(&["EXEC"]).await;
        assert!(
            refused.starts_with("-EXECABORT Transaction discarded because of: Can't execute 'exec'"),
            "{refused}"
        );
        assert_eq!(client.command(&["UNSUBSCRIBE", "c"]).await, "[unsubscribe c :0]");
        assert_eq!(client.command(&["MULTI"]).await, "+OK");
        assert_eq!(client.command(&["GET", "{t}a"]).await, "+QUEUED");
        assert_eq!(client.command(&["EXEC"]).await, "[2]");
    });
}

#[test]
fn a_transaction_waits_for_a_node_that_is_out_of_reach() {
    run(async {
        let (world, mut cluster) = world(3, 1).await;
        let doomed = key_of(&cluster, 0);
        let list = format!("{{{doomed}}}list");
        let mut warm = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(warm.command(&["SET", &doomed, "1"]).await, "+OK");
        let mut sessions = Vec::new();
        for _ in 0..3 {
            sessions.push(world.routed("alice", "sessions", "iam-rw").await);
        }
        // Their home is the node that goes.
        for session in &mut sessions {
            assert_eq!(session.command(&["ECHO", "x"]).await, "x");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.nodes[0].kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let long = "v".repeat(2 << 20);
        let requests = [
            format!("MULTI\r\nECHO x\r\nINCR {doomed}\r\nRPUSH {list} a\r\nEXEC\r\n").into_bytes(),
            format!("WATCH {doomed}w\r\nMULTI\r\nECHO y\r\nEXEC\r\n")
                .replace(&format!("{doomed}w"), &list)
                .into_bytes(),
            encoded(&["SET", &format!("{{{doomed}}}long"), &long]),
        ];
        for (session, request) in sessions.iter_mut().zip(requests) {
            session.send(request).await;
        }
        let answers = [
            vec!["+OK", "+QUEUED", "+QUEUED", "+QUEUED", "[x :2 :1]"],
            vec!["+OK", "+OK", "+QUEUED"],
            vec!["+OK"],
        ];
        for (session, answers) in sessions.iter_mut().zip(answers) {
            for answer in answers {
                assert_eq!(session.reply().await, answer);
            }
        }
        // What the one watched the other may have changed meanwhile; both are answers of an EXEC.
        let exec = sessions[1].reply().await;
        assert!(["[y]", "(nil)"].contains(&exec.as_str()), "{exec}");
        assert_eq!(
            sessions[1].command(&["STRLEN", &format!("{{{doomed}}}long")]).await,
            format!(":{}", 2 << 20)
        );
        // HELLO, too, of a session whose home is gone for good.
        for session in &mut sessions {
            assert!(session.command(&["HELLO", "3"]).await.contains("proto :3"));
        }
    });
}

#[test]
fn a_transaction_does_not_wait_for_ever() {
    run(async {
        let (world, mut cluster) = world(2, 0).await;
        let gone = key_of(&cluster, 1);
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["ECHO", "x"]).await, "x");
        cluster.nodes[1].kill();
        let began = std::time::Instant::now();
        client.send(format!("MULTI\r\nINCR {gone}\r\nEXEC\r\nECHO y\r\n")).await;
        assert_eq!(client.reply().await, "+OK");
        for _ in 0..2 {
            let lost = client.reply().await;
            assert!(lost.starts_with("-CLUSTERDOWN keystile: the node localhost:"), "{lost}");
        }
        assert_eq!(client.reply().await, "y");
        for lost in ["INCR", "EXEC"] {
            let is_of = |line: &serde_json::Value| {
                line["event"] == "db.session.query.failed"
                    && line["db_query"] == lost
                    && line["error"] == "CLUSTERDOWN"
                    && line["message"] == "a node could not be reached"
            };
            support::wait_until("its loss is audited", || world.audit().iter().any(is_of)).await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(14) && took < Duration::from_secs(25), "{took:?}");
        cluster.nodes[1].start();
        support::cluster::wait("it is back", || {
            cluster.nodes[1].ok(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok")
        });
        client.send(format!("MULTI\r\nINCR {gone}\r\nEXEC\r\n")).await;
        for expected in ["+OK", "+QUEUED", "[:1]"] {
            assert_eq!(client.reply().await, expected);
        }
    });
}

#[test]
fn an_exec_with_arguments_ends_the_transaction_as_at_a_server() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let wrong = "wrong number of arguments for 'exec' command";
        let aborted = format!("-EXECABORT Transaction discarded because of: {wrong}");
        assert_eq!(client.command(&["EXEC", "x"]).await, aborted);
        // The words of the shard, and those of the proxy where no shard has the transaction yet.
        for first in [&["SET", &there, "1"][..], &["PING"]] {
            assert_eq!(client.command(&["WATCH", &there]).await, "+OK");
            assert_eq!(client.command(&["UNWATCH"]).await, "+OK");
            assert_eq!(client.command(&["MULTI"]).await, "+OK");
            assert_eq!(client.command(first).await, "+QUEUED");
            assert_eq!(client.command(&["EXEC", "IFEQ", &here, "1"]).await, aborted, "{first:?}");
            assert_eq!(client.command(&["SET", &here, "2"]).await, "+OK", "{first:?}");
            assert_eq!(client.command(&["EXEC"]).await, "-ERR EXEC without MULTI", "{first:?}");
            assert_eq!(client.command(&["GET", &there]).await, "(nil)");
        }
        // What was watched is not any more, and a DISCARD with arguments changes nothing.
        let mut other = world.routed("alice", "sessions", "iam-rw").await;
        for words in [&["WATCH", &there][..], &["MULTI"]] {
            assert_eq!(client.command(words).await, "+OK");
        }
        assert!(client.command(&["EXEC", "x"]).await.starts_with("-EXECABORT"));
        assert_eq!(other.command(&["SET", &there, "3"]).await, "+OK");
        assert_eq!(client.command(&["MULTI"]).await, "+OK");
        assert_eq!(client.command(&["GET", &there]).await, "+QUEUED");
        assert!(client.command(&["DISCARD", "x"]).await.starts_with("-ERR wrong number"));
        assert!(client.command(&["EXEC"]).await.starts_with("-EXECABORT"));
    });
}

#[test]
fn who_may_not_have_transactions_is_told_so_and_nothing_runs_as_one() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        for node in &cluster.nodes {
            node.ok(&["ACL", "SETUSER", "iam-rw", "-multi"]);
        }
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        // In one go, too.
        let words = [&["SET", &here, "1"][..], &["MULTI"], &["SET", &there, "1"], &["EXEC"]];
        client.send(words.iter().flat_map(|words| encoded(words)).collect::<Vec<_>>()).await;
        assert_eq!(client.reply().await, "+OK");
        assert!(client.reply().await.starts_with("-NOPERM"));
        assert_eq!(client.reply().await, "+OK", "by itself, as at a single server");
        assert_eq!(client.reply().await, "-ERR EXEC without MULTI");
        assert_eq!(client.command(&["MGET", &here, &there]).await, "[1 1]");
        for node in &cluster.nodes {
            node.ok(&["ACL", "SETUSER", "iam-rw", "+multi"]);
        }
        assert_eq!(client.command(&["MULTI"]).await, "+OK");
        assert_eq!(client.command(&["SET", &there, "2"]).await, "+QUEUED");
        assert_eq!(client.command(&["EXEC"]).await, "[+OK]");
        // Where a shard takes it back in the midst, what was sent behind it may have run: nobody goes on from there.
        cluster.nodes[1].ok(&["ACL", "SETUSER", "iam-rw", "-multi"]);
        assert_eq!(client.command(&["MULTI"]).await, "+OK");
        client.send(encoded(&["SET", &there, "3"])).await;
        let last = client.rest().await;
        assert!(last.contains("refused the MULTI of a transaction"), "{last}");
    });
}
