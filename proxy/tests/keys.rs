//! Sessions of a role that limits keys, against a real server.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod support;

use keystile_model::feed::Entity;
use support::{Client, World, role, user};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    keystile_resp::encode::request(&mut bytes, words);
    bytes
}

const REFUSED: &str = "-NOPERM keystile: ";

#[track_caller]
fn refused(line: &str, words: &str) {
    assert!(line.starts_with(REFUSED) && line.contains(words), "{line}");
    assert!(!line.contains("order:"), "no key is repeated: {line}");
}

#[test]
fn a_role_reaches_its_own_keys_alone() {
    run(async {
        let world = World::start(&[]).await;
        let mut shop = world.routed("shop", "orders", "iam-rw").await;
        let pipeline =
            "SET cart:1 x\r\nSET order:1 x\r\nPING\r\nGET cart:1\r\nMGET cart:1 order:1\r\nDEL cart:1\r\n";
        shop.send(pipeline).await;
        let lines = shop.lines(7).await;
        assert_eq!(lines[0], "+OK");
        refused(&lines[1], "'SET' was refused: the db_keys of role checkout do not allow one of its keys");
        assert_eq!(lines[2..5], ["+PONG", "$1", "x"]);
        refused(&lines[5], "'MGET' was refused");
        assert_eq!(lines[6], ":1");
        for (command, words) in [
            ("EVAL return 0", "any key"),
            ("KEYS cart:*", "any key"),
            ("SCAN 0", "any key"),
            ("DBSIZE", "any key"),
            ("SORT cart:1 GET order:*", "any key"),
            ("JSON.GET cart:1", "does not know it"),
            ("OBJECT NONSENSE cart:1", "does not know it"),
            ("GEORADIUS cart:1 0 0 1 km STORE order:1", "one of its keys"),
            ("SUBSCRIBE __keyevent@0__:set", "db_channels"),
            ("PSUBSCRIBE *", "db_channels"),
            ("CLIENT TRACKING ON BCAST", "any key"),
            ("CLIENT TRACKING ON BCAST PREFIX order:", "begin with its prefix"),
            ("GET", "cannot be located"),
        ] {
            refused(&shop.ask(command).await, words);
        }
        assert_eq!(shop.ask("CLIENT TRACKING ON BCAST PREFIX cart:").await, "+OK");
        assert_eq!(shop.ask("CLIENT TRACKING OFF").await, "+OK");
        shop.send(request(&[b"XREAD", b"COUNT", b"1", b"STREAMS\0", b"order:1", b"0"])).await;
        refused(&shop.line().await, "one of its keys");
        // A group or a consumer may be called as the option is.
        for group in ["GROUP g STREAMS", "GROUP STREAMS c", "GROUP STREAMS STREAMS", "GROUP BLOCK STREAMS"] {
            for before in ["", "COUNT 1 ", "NOACK "] {
                let read = format!("XREADGROUP {before}{group} STREAMS order:1 >");
                refused(&shop.ask(&read).await, "one of its keys");
                let read = format!("XREADGROUP {before}{group} STREAMS cart:1 >");
                assert!(shop.ask(&read).await.starts_with("-NOGROUP"), "{read}");
            }
        }
        refused(&shop.ask("EXEC IFEQ order:1 x").await, "cannot be located");
        let line = shop.ask("SORT cart:9").await;
        assert!(line.starts_with("-NOPERM User iam-rw"), "the cache's own ACL: {line}");
        assert!(
            shop.ask("MONITOR").await.starts_with("-NOPERM keystile: 'MONITOR' was refused: it would show")
        );
        assert_eq!(shop.ask("SUBSCRIBE news").await, "*3");
    });
}

#[test]
fn a_refused_key_aborts_its_transaction() {
    run(async {
        let world = World::start(&[]).await;
        let mut shop = world.routed("shop", "orders", "iam-rw").await;
        shop.send("WATCH order:1\r\nWATCH cart:1\r\nMULTI\r\nSET cart:1 x\r\nSET order:1 x\r\nEXEC\r\nGET cart:1\r\n").await;
        let lines = shop.lines(7).await;
        refused(&lines[0], "'WATCH' was refused");
        assert_eq!(lines[1..4], ["+OK", "+OK", "+QUEUED"]);
        refused(&lines[4], "'SET' was refused");
        assert!(lines[5].starts_with("-EXECABORT"), "{}", lines[5]);
        assert_eq!(lines[6], "$-1");
    });
}

async fn set(client: &mut Client, words: &[&[u8]]) -> String {
    client.send(request(words)).await;
    client.line().await
}

#[test]
fn long_requests_pass_once_their_keys_were_seen() {
    run(async {
        let world = World::start(&[]).await;
        let mut shop = world.routed("shop", "orders", "iam-rw").await;
        let (long, middle) = (vec![b'x'; 3 << 20], vec![b'x'; 300_000]);
        assert_eq!(set(&mut shop, &[b"SET", b"cart:1", &long]).await, "+OK");
        assert_eq!(set(&mut shop, &[b"SET", b"cart:1", &long, b"EX", b"100"]).await, "+OK");
        refused(&set(&mut shop, &[b"SET", b"order:1", &long]).await, "one of its keys");
        assert_eq!(set(&mut shop, &[b"MSET", b"cart:1", &middle, b"cart:2", &middle]).await, "+OK");
        refused(
            &set(&mut shop, &[b"MSET", b"cart:1", &middle, b"order:2", &middle]).await,
            "one of its keys",
        );
        let words: Vec<&[u8]> = vec![b"MSET", b"cart:1", &long, b"cart:2", &middle];
        refused(&set(&mut shop, &words).await, "cannot be located");
        refused(&set(&mut shop, &[b"GET", &long]).await, "cannot be located");
        // In pieces, so that the keys come before and after the cut.
        let bytes = request(&[b"MSET", b"cart:3", &middle, b"cart:4", b"y"]);
        for piece in bytes.chunks(100_000) {
            shop.send(piece).await;
        }
        assert_eq!(shop.line().await, "+OK");
        assert_eq!(shop.ask("STRLEN cart:3").await, ":300000");
        assert_eq!(shop.ask("STRLEN cart:2").await, ":300000");
    });
}

#[test]
fn subscribers_end_when_the_rules_on_keys_change() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(alice.ask("SUBSCRIBE __keyevent@0__:set").await, "*3");
        let mut other = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(other.ask("SET order:1 x").await, "+OK");
        world.put(user("alice", &["checkout"])).await;
        assert!(alice.rest().await.contains("the rules on keys and channels have changed: connect again"));
        for _ in 0..200 {
            if other.ask("STRLEN order:1").await.starts_with(REFUSED) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the new rules do not reach a live session");
    });
}

#[test]
fn who_is_told_of_changed_keys_ends_when_the_rules_on_keys_change() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        assert!(alice.command(&["HELLO", "3"]).await.contains("proto :3"));
        assert_eq!(alice.ask("CLIENT TRACKING ON BCAST PREFIX order:").await, "+OK");
        world.put(user("alice", &["checkout"])).await;
        assert!(alice.rest().await.contains("the rules on keys and channels have changed: connect again"));
    });
}

#[test]
fn a_long_pattern_costs_no_room() {
    run(async {
        let world = World::start(&[]).await;
        let mut shop = world.routed("shop", "orders", "iam-rw").await;
        let pattern = "[]".repeat(5_000);
        for command in ["PSUBSCRIBE", "SUBSCRIBE", "SSUBSCRIBE"] {
            let answer = set(&mut shop, &[command.as_bytes(), b"news", pattern.as_bytes()]).await;
            assert!(answer.contains("the name of a channel has at most 8,192 bytes"), "{answer}");
        }
        assert_eq!(shop.ask("PING").await, "+PONG");
    });
}

#[test]
fn a_writer_of_keys_does_not_read_them() {
    run(async {
        let world = World::start(&[]).await;
        for entity in [
            role("writer", "*", &["iam-rw"], &[], &["%W~cart:*", "%R~price:*"]),
            user("dave", &["writer"]) as Entity,
        ] {
            world.put(entity).await;
        }
        let mut dave = None;
        for _ in 0..200 {
            let mut client = world.routed("dave", "orders", "iam-rw").await;
            if client.ask("PING").await == "+PONG" {
                dave = Some(client);
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let mut dave = dave.unwrap();
        assert_eq!(dave.ask("SET cart:1 x").await, "+OK");
        refused(&dave.ask("GET cart:1").await, "one of its keys");
        refused(&dave.ask("SET cart:1 x GET").await, "one of its keys");
        assert_eq!(dave.ask("COPY price:1 cart:1").await, ":0");
        refused(&dave.ask("COPY cart:1 price:1").await, "one of its keys");
    });
}
