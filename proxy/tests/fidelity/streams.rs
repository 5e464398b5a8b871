//! What does not go question by question: subscriptions, blocking calls, ends, values of any size, refusals in
//! the middle of it all.

use std::time::Duration;

use super::support::twin::{Twin, Twins, USER, exact, tell};
use super::support::{TOKEN, run};
use super::{array, ids, same};

#[test]
fn a_session_s_end_state() {
    run(async {
        let twins = Twins::start(&[]).await;
        // RESET: the default user is off here, so that straight at the server nothing but AUTH would go on; we
        // sign in again by ourselves.
        for before in [
            "PING",
            "HELLO 3",
            "SELECT 3",
            "CLIENT SETNAME me",
            "MULTI",
            "WATCH a",
            "CLIENT TRACKING ON",
            "CLIENT REPLY OFF",
            "CLIENT NO-EVICT ON",
            "SUBSCRIBE a b",
            "PSUBSCRIBE a*",
            "SSUBSCRIBE a",
            "ASKING",
            "READONLY",
        ] {
            let mut twin = twins.twin(ids).await;
            twin.send(array(before)).await;
            twin.settle().await;
            let auth = array(&format!("AUTH {USER} {TOKEN}"));
            twin.send_each(&[array("RESET"), auth].concat(), &array("RESET")).await;
            twin.drop_direct_after(b"+RESET\r\n", 1).await;
            for after in [
                "CLIENT GETNAME",
                "CLIENT TRACKINGINFO",
                "CLIENT GETREDIR",
                "HGETALL nothing",
                "SET in-db x",
                "EXEC",
                "MULTI",
                "DISCARD",
                "ACL WHOAMI",
                "PUBSUB CHANNELS",
                "PUBSUB NUMPAT",
                "FLUSHALL",
            ] {
                twin.send(array(after)).await;
                twin.settle_with(1).await;
            }
            twin.end().await;
        }
        for before in ["PING", "MULTI", "SUBSCRIBE a", "HELLO 3"] {
            for quit in ["QUIT", "QUIT x y"] {
                let mut twin = twins.twin(ids).await;
                twin.send([array(before), array(quit), array("SET after-quit x")].concat()).await;
                twin.closed().await;
            }
        }
        // With replies off a Valkey forgets to close: it does so behind the answer that it does not give.
        let mut client = twins.world.routed("alice", "orders", USER).await;
        client.send("CLIENT REPLY OFF\r\nQUIT\r\nSET after-quit x\r\n").await;
        assert_eq!(client.rest().await, "");
        let mut twin = twins.twin(exact).await;
        twin.send("EXISTS after-quit\r\n").await;
        assert_eq!(twin.settle_with(1).await, [b":0\r\n"]);
        twin.end().await;
    });
}

/// Says these lines one by one; one that begins with `!` is somebody else's, and behind one with `?` its answer is
/// waited for.
async fn with_others(twins: &Twins, hello: &str, script: &[&str]) -> Twin {
    let mut twin = twins.twin(ids).await;
    let mut others = twins.others().await;
    if !hello.is_empty() {
        twin.send(array(hello)).await;
        twin.settle_with(1).await;
    }
    for line in script {
        if let Some(theirs) = line.strip_prefix('!') {
            let [left, right] = tell(&mut others, theirs).await;
            assert_eq!(left, right, "{theirs}");
        } else {
            twin.send(array(line.trim_start_matches('?'))).await;
        }
        if line.starts_with('?') {
            twin.settle_with(1).await;
        }
        twin.settle().await;
    }
    twin
}

#[test]
fn subscriptions_in_both_protocols() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "SUBSCRIBE a",
            "!PUBLISH a one",
            "PING",
            "PING hello",
            "PING \"\"",
            "PING a b",
            "SUBSCRIBE a b a",
            "PSUBSCRIBE c*",
            "!PUBLISH b two",
            "!PUBLISH cat three",
            "!PUBLISH a \"\"",
            "SSUBSCRIBE s1 s2",
            "!SPUBLISH s1 four",
            "GET nothing",
            "get",
            "SET",
            "NONSENSE",
            "NONSENSE a b",
            "MULTI",
            "CLIENT GETNAME",
            "CLIENT",
            "CONFIG GET maxmemory-policy",
            "EXEC",
            "UNSUBSCRIBE b",
            "UNSUBSCRIBE nothing",
            "UNSUBSCRIBE",
            "UNSUBSCRIBE",
            "PING",
            "PUNSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SUNSUBSCRIBE s1",
            "PING",
            "SUNSUBSCRIBE",
            "PING",
            "PING again",
            "GET nothing",
            "HGETALL nothing",
            "SUBSCRIBE",
            "UNSUBSCRIBE",
            "PUNSUBSCRIBE x",
            "SUNSUBSCRIBE",
            "SUBSCRIBE a",
            "!PUBLISH a five",
            "UNSUBSCRIBE a",
            "CLIENT GETNAME",
            "PSUBSCRIBE *",
            "!PUBLISH z six",
            "PUNSUBSCRIBE *",
            "HGETALL nothing",
        ];
        for hello in ["", "HELLO 2", "HELLO 3"] {
            with_others(&twins, hello, &script).await.end().await;
            // The same in one go, without the others.
            let mut twin = twins.twin(ids).await;
            let mut all = if hello.is_empty() { Vec::new() } else { array(hello) };
            all.extend(script.iter().filter(|line| !line.starts_with('!')).flat_map(|line| array(line)));
            twin.send(&all).await;
            twin.settle().await;
            twin.send(&all).await;
            twin.settle().await;
            twin.end().await;
        }
    });
}

#[test]
fn a_subscriber_changes_its_protocol() {
    run(async {
        let twins = Twins::start(&[]).await;
        with_others(
            &twins,
            "HELLO 3",
            &[
                "SUBSCRIBE a",
                "!PUBLISH a one",
                "HELLO 3",
                "GET nothing",
                "!PUBLISH a two",
                "UNSUBSCRIBE",
                "HELLO 2",
                "SUBSCRIBE a",
                "!PUBLISH a three",
                "HELLO 3",
                "UNSUBSCRIBE",
                "HELLO 3",
                "SUBSCRIBE b",
                "!PUBLISH b four",
                "HELLO 2",
                "!PUBLISH b five",
                "PING",
                "GET nothing",
                "UNSUBSCRIBE",
            ],
        )
        .await
        .end()
        .await;
    });
}

#[test]
fn notifications_of_keys() {
    run(async {
        let twins = Twins::start(&[]).await;
        let mut others = twins.others().await;
        tell(&mut others, "CONFIG SET notify-keyspace-events KEA").await;
        for hello in ["", "HELLO 3"] {
            with_others(
                &twins,
                hello,
                &[
                    "PSUBSCRIBE __key*__:*",
                    "!SET k 1",
                    "!DEL k",
                    "!RPUSH l a b",
                    "!PEXPIREAT l 1",
                    "PING",
                    "PUNSUBSCRIBE",
                    "!SET k 2",
                    "GET k",
                    "!DEL k",
                ],
            )
            .await
            .end()
            .await;
        }
    });
}

#[test]
fn invalidations_of_what_a_client_caches() {
    run(async {
        let twins = Twins::start(&[]).await;
        with_others(
            &twins,
            "HELLO 3",
            &[
                "CLIENT TRACKING ON",
                "GET k",
                "!SET k 1",
                "GET k",
                "SET k 2",
                "CLIENT TRACKING OFF",
                "CLIENT TRACKING ON BCAST PREFIX a PREFIX b",
                "!SET a1 x",
                "!SET c1 x",
                "!MSET b1 x a2 y",
                "MULTI",
                "SET a1 z",
                "EXEC",
                "CLIENT TRACKING OFF",
                "CLIENT TRACKING ON OPTIN",
                "GET k",
                "!SET k 3",
                "CLIENT CACHING YES",
                "GET k",
                "!SET k 4",
                "!FLUSHALL",
                "CLIENT TRACKING OFF",
            ],
        )
        .await
        .end()
        .await;
        // To another connection, in RESP2 as messages and in RESP3 as pushes.
        for hello in ["", "HELLO 3"] {
            let mut sink = twins.twin(exact).await;
            let (left, right) = sink.ask_each("CLIENT ID\r\n").await;
            if !hello.is_empty() {
                sink.ask_each(&format!("{hello}\r\n")).await;
            }
            sink.send("SUBSCRIBE __redis__:invalidate\r\n").await;
            sink.settle_with(1).await;
            let mut cacher = twins.twin(exact).await;
            let line = |id: &[u8]| {
                let id = String::from_utf8_lossy(id).trim_matches([':', '\r', '\n']).to_owned();
                format!("CLIENT TRACKING ON REDIRECT {id}\r\n").into_bytes()
            };
            cacher.send_each(&line(&left[0]), &line(&right[0])).await;
            cacher.settle_with(1).await;
            cacher.send("MGET k j\r\nCLIENT TRACKINGINFO x\r\n").await;
            cacher.settle_with(2).await;
            let mut others = twins.others().await;
            tell(&mut others, "SET k 5").await;
            sink.settle_with(1).await;
            tell(&mut others, "FLUSHALL").await;
            sink.settle_with(1).await;
            sink.send("UNSUBSCRIBE\r\n").await;
            sink.settle_with(1).await;
            sink.end().await;
            cacher.end().await;
        }
    });
}

#[test]
fn calls_that_block() {
    run(async {
        let twins = Twins::start(&[]).await;
        for hello in ["", "HELLO 3"] {
            with_others(
                &twins,
                hello,
                &[
                    "BLPOP q 0",
                    "!RPUSH q a",
                    "?BRPOP q 0.05",
                    "PING",
                    "BLMOVE q r LEFT RIGHT 0",
                    "!RPUSH q b",
                    "BLMPOP 0 2 x q LEFT COUNT 3",
                    "!RPUSH q c d e f",
                    "BZPOPMIN z 0",
                    "!ZADD z 1.5 m",
                    "?BZMPOP 0.05 1 z MIN",
                    "XREAD BLOCK 0 STREAMS s $",
                    "!XADD s 1-1 f v",
                    "XGROUP CREATE s g $",
                    "XREADGROUP GROUP g me BLOCK 0 STREAMS s >",
                    "!XADD s 1-2 f v",
                    "?XREAD BLOCK 20 STREAMS s $",
                    "BRPOPLPUSH q r 0",
                    "GET behind",
                    "PING",
                    "!RPUSH q g",
                    "?WAIT 1 20",
                    "BLPOP q",
                    "BLPOP q x",
                    "BLPOP q -1",
                    "BLPOP s 0",
                    "CLIENT PAUSE 20 WRITE",
                    "SET a b",
                    "CLIENT UNPAUSE",
                    "!FLUSHALL",
                ],
            )
            .await
            .end()
            .await;
        }
        // Unblocked by somebody else, with and without an error.
        for how in ["TIMEOUT", "ERROR"] {
            let mut twin = twins.twin(exact).await;
            let (left, right) = twin.ask_each("CLIENT ID\r\n").await;
            twin.send("BLPOP q 0\r\nPING\r\n").await;
            twin.settle().await;
            let mut others = twins.others().await;
            for (other, id) in others.iter_mut().zip([&left[0], &right[0]]) {
                let id = String::from_utf8_lossy(id).trim_matches([':', '\r', '\n']).to_owned();
                assert_eq!(other.ask(&format!("CLIENT UNBLOCK {id} {how}")).await, ":1");
            }
            twin.settle_with(2).await;
            twin.end().await;
        }
        // A client that leaves while it blocks takes nothing with it.
        let mut twin = twins.twin(exact).await;
        twin.send("BLPOP q 0\r\n").await;
        twin.settle().await;
        drop(twin);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut others = twins.others().await;
        assert_eq!(tell(&mut others, "RPUSH q kept").await, [":1", ":1"]);
        assert_eq!(tell(&mut others, "LLEN q").await, [":1", ":1"]);
    });
}

#[test]
fn values_of_many_megabytes_both_ways() {
    run(async {
        let twins = Twins::start(&[]).await;
        let value = |length: usize| (0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
        let set = |key: &str, value: &[u8]| {
            let mut bytes = Vec::new();
            keystile_resp::encode::request(&mut bytes, &[b"SET", key.as_bytes(), value]);
            bytes
        };
        let mut twin = twins.twin(exact).await;
        for length in [16_300, 16_384, 16_400, 65_536, 1 << 20, (40 << 20) + 1] {
            let value = value(length);
            twin.send([set("big", &value), array("STRLEN big"), array("GET big"), array("PING")].concat())
                .await;
            let frames = twin.settle_with(4).await;
            assert_eq!(frames[1], format!(":{length}\r\n").into_bytes());
        }
        // Many at once, in one transaction, in one reply.
        let mut all = array("MULTI");
        for index in 0..8 {
            all.extend(set(&format!("k{index}"), &value((1 << 20) + index)));
        }
        all.extend(array("MGET k0 k1 k2 k3 k4 k5 k6 k7 missing"));
        all.extend(array("EXEC"));
        twin.send(all).await;
        twin.settle_with(11).await;
        // A hundred thousand arguments, and a reply of as many elements.
        let mut words = vec!["RPUSH".to_owned(), "list".to_owned()];
        words.extend((0..100_000).map(|index| format!("element-{index}")));
        let mut push = Vec::new();
        keystile_resp::encode::request(&mut push, &words);
        twin.send([push, array("LRANGE list 0 -1"), array("LLEN list")].concat()).await;
        assert_eq!(twin.settle_with(3).await[2], b":100000\r\n");
        // A message that is larger than any buffer.
        let mut listener = twins.twin(exact).await;
        for hello in [2, 3] {
            listener.ask_each(&format!("HELLO {hello}\r\n")).await;
            listener.send("SUBSCRIBE big\r\n").await;
            listener.settle_with(1).await;
            let mut publish = Vec::new();
            keystile_resp::encode::request(&mut publish, &[b"PUBLISH", b"big".as_slice(), &value(3 << 20)]);
            twin.send(publish).await;
            twin.settle_with(1).await;
            listener.settle_with(1).await;
            let ping = "x".repeat(40_000);
            listener.send(array(&format!("PING {ping}"))).await;
            listener.settle_with(1).await;
            listener.send("UNSUBSCRIBE\r\n").await;
            listener.settle_with(1).await;
        }
        listener.end().await;
        twin.end().await;
    });
}

/// As long as a value may be. By hand: `cargo test -p keystile-proxy --test fidelity half_a -- --ignored`.
#[test]
#[ignore = "takes 3 GiB and half a minute"]
fn half_a_gigabyte_both_ways() {
    run(async {
        let twins = Twins::start(&[]).await;
        let mut twin = twins.twin(exact).await;
        let value: Vec<u8> = (0..512_usize << 20).map(|at| (at % 251) as u8).collect();
        let mut set = Vec::new();
        keystile_resp::encode::request(&mut set, &[b"SET", b"big".as_slice(), &value]);
        twin.send(set).await;
        assert_eq!(twin.settle_with(1).await, [b"+OK\r\n"]);
        twin.send([array("STRLEN big"), array("GET big"), array("PING")].concat()).await;
        assert_eq!(twin.settle_with(3).await[0], b":536870912\r\n");
        twin.end().await;
    });
}

#[test]
fn thousands_of_channels_at_once() {
    run(async {
        let twins = Twins::start(&[]).await;
        for hello in ["HELLO 2", "HELLO 3"] {
            let mut twin = twins.twin(ids).await;
            twin.send(array(hello)).await;
            twin.settle_with(1).await;
            let channels = |command: &str| {
                let names = (0..3_000).map(|number| format!("channel-{number}"));
                let words: Vec<_> = std::iter::once(command.to_owned()).chain(names).collect();
                let mut bytes = Vec::new();
                keystile_resp::encode::request(&mut bytes, &words);
                bytes
            };
            twin.send([channels("SUBSCRIBE"), array("PING x")].concat()).await;
            twin.settle_with(3_001).await;
            let mut others = twins.others().await;
            assert_eq!(tell(&mut others, "PUBLISH channel-2999 m").await, [":1", ":1"]);
            twin.settle_with(1).await;
            twin.send([channels("UNSUBSCRIBE"), array("PING y"), array("HGETALL x")].concat()).await;
            twin.settle_with(3_002).await;
            twin.end().await;
        }
    });
}

/// What the proxy refuses, it refuses inside MULTI as the server refuses: the EXEC aborts.
#[test]
fn what_is_refused_aborts_a_transaction() {
    run(async {
        let twins = Twins::start(&[]).await;
        let mut client = twins.world.routed("alice", "orders", USER).await;
        for command in [
            "MONITOR",
            "SYNC",
            "PSYNC ? -1",
            "REPLCONF x",
            "SHUTDOWN NOSAVE",
            "FAILOVER",
            "REPLICAOF no one",
            "SLAVEOF no one",
            "CLUSTER RESET",
            "CLUSTER FORGET x",
            "CLUSTER NONSENSE",
            "MODULE LOAD /x",
            "MODULE LOADEX /x",
            "MODULE UNLOAD x",
            "DEBUG SLEEP 0",
            "CONFIG SET requirepass x",
            "CONFIG SET maxmemory 0 tls-port 1",
            "CONFIG REWRITE",
            "SCRIPT DEBUG YES",
            "RESTORE-ASKING a 0 x",
            "PFDEBUG ENCODING a",
        ] {
            let line = client.ask(command).await;
            assert!(line.starts_with("-NOPERM keystile: '") && line.contains("' was refused: "), "{line}");
            client.send(format!("MULTI\r\nSET poisoned 1\r\n{command}\r\nSET poisoned 2\r\nEXEC\r\n")).await;
            assert_eq!(client.lines(2).await, ["+OK", "+QUEUED"]);
            assert_eq!(client.line().await, line);
            assert_eq!(client.line().await, "+QUEUED");
            assert!(
                client.line().await.starts_with("-EXECABORT Transaction discarded because of"),
                "{command}"
            );
        }
        assert_eq!(client.ask("EXISTS poisoned").await, ":0");
        // Scripts are left to the cache's own rules: there it is the server that refuses.
        same(
            &twins,
            exact,
            &["EVAL \"return redis.call('monitor')\" 0", "EVAL \"return redis.call('debug')\" 0"],
        )
        .await;
    });
}

#[test]
fn a_user_without_rights_gets_the_server_s_own_words() {
    run(async {
        let twins = Twins::start(&[]).await;
        let mut twin = twins.twin_as("iam-ro", exact).await;
        for line in [
            "SET a b",
            "GET a",
            "FLUSHALL",
            "CONFIG GET x",
            "MULTI",
            "SET a b",
            "EXEC",
            "SUBSCRIBE a",
            "GET a",
            "UNSUBSCRIBE",
            "EVAL \"return 1\" 0",
            "NONSENSE",
            "ACL WHOAMI",
            "KEYS nothing*",
            "CLIENT GETNAME",
        ] {
            twin.send(array(line)).await;
            twin.settle_with(1).await;
        }
        twin.end().await;
    });
}
