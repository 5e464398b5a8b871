//! Sessions against a real server: what passes, what is refused and in which words, and what ends a session.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use keystile_model::feed::{Change, Entity, EntityKey, EntityKind};
use keystile_model::name::RoleName;
use keystile_model::policy::{Lock, LockTarget};
use keystile_model::store::StoreError;
use support::{DOMAIN, World, foreign_certificate, role, user, wait_until};

const THREADS: usize = 2;

fn run(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap();
    runtime.block_on(test);
}

#[test]
fn bytes_pass_both_ways_as_the_named_user() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(client.ask("ACL WHOAMI").await, "$6");
        assert_eq!(client.line().await, "iam-rw");
        assert_eq!(client.ask("SET k v").await, "+OK");
        // A value of 3 MiB, larger than any buffer of ours, there and back.
        let value = vec![b'x'; 3 << 20];
        let mut request = format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", value.len()).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n*1\r\n$4\r\nPING\r\n");
        client.send(&request).await;
        assert_eq!(client.line().await, "+OK");
        assert_eq!(client.line().await, format!("${}", value.len()));
        assert_eq!(client.line().await.len(), value.len());
        assert_eq!(client.line().await, "+PONG");
        // The write of a reader is refused by the cache's own ACL.
        let mut reader = world.routed("alice", "orders", "iam-ro").await;
        assert!(reader.ask("SET k v").await.starts_with("-NOPERM"));
        assert_eq!(reader.ask("GET k").await, "$1");
        assert_eq!(reader.line().await, "v");
        let metrics = world.http("/metrics").await;
        assert!(metrics.contains("keystile_sessions_total 2\n"), "{metrics}");
        assert!(world.http("/readyz").await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn a_pipeline_keeps_its_order_around_refusals() {
    run(async {
        let world = World::start(&[]).await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        let mut request = String::new();
        for _ in 0..100 {
            request.push_str("PING\r\nSET k v\r\nMONITOR\r\nPING x\r\n");
        }
        carol.send(&request).await;
        for round in 0..100 {
            assert_eq!(carol.line().await, "+PONG", "round {round}");
            let refused = carol.line().await;
            assert!(
                refused.starts_with("-NOPERM keystile: 'SET' was refused: the db_commands of role"),
                "{refused}"
            );
            assert!(carol.line().await.starts_with("-NOPERM keystile: 'MONITOR' was refused"));
            assert_eq!(carol.line().await, "$1");
            assert_eq!(carol.line().await, "x");
        }
        // Refused while the server still owes a reply.
        carol.send("BLPOP none 1\r\nSET k v\r\nPING\r\n").await;
        assert!(carol.line().await.starts_with("-NOPERM"));
        assert!(carol.line().await.starts_with("-NOPERM"));
        assert_eq!(carol.line().await, "+PONG");
    });
}

#[test]
fn a_refusal_in_a_transaction_aborts_it() {
    run(async {
        let world = World::start(&[]).await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        carol.send("MULTI\r\nGET a\r\nSET a 1\r\nEXEC\r\nGET a\r\n").await;
        assert_eq!(carol.lines(2).await, ["+OK", "+QUEUED"]);
        assert!(carol.line().await.starts_with("-NOPERM keystile: 'SET'"));
        assert!(carol.line().await.starts_with("-EXECABORT"));
        assert_eq!(carol.line().await, "$-1");
        let mut alice = world.routed("alice", "orders", "iam-admin").await;
        for refused in
            ["MONITOR", "AUTH iam-admin x", "HELLO 3", "SUBSCRIBE c", "CLIENT REPLY OFF", "PSYNC ? -1"]
        {
            alice.send(format!("MULTI\r\nSET a 1\r\n{refused}\r\nEXEC\r\nPING\r\n")).await;
            assert_eq!(alice.lines(2).await, ["+OK", "+QUEUED"]);
            let line = alice.line().await;
            assert!(line.contains("keystile:"), "{refused}: {line}");
            assert!(alice.line().await.starts_with("-EXECABORT"), "{refused}");
            assert_eq!(alice.line().await, "+PONG", "{refused}");
        }
        // A MULTI in a MULTI is refused by the server, and the first one goes on.
        assert_eq!(alice.ask("MULTI").await, "+OK");
        assert!(alice.ask("MULTI").await.starts_with("-ERR "));
        assert!(alice.ask("CLIENT REPLY ON").await.starts_with("-ERR keystile: 'CLIENT REPLY' was refused"));
        assert!(alice.ask("EXEC").await.starts_with("-EXECABORT"));
        alice.send("MULTI\r\nSET a 1\r\nEXEC\r\n").await;
        assert_eq!(alice.lines(4).await, ["+OK", "+QUEUED", "*1", "+OK"]);
    });
}

#[test]
fn what_never_passes() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-admin").await;
        for command in [
            "MONITOR",
            "SYNC",
            "PSYNC ? -1",
            "REPLCONF ack 1",
            "SHUTDOWN",
            "FAILOVER",
            "REPLICAOF no one",
            "SLAVEOF no one",
            "DEBUG sleep 0",
            "MODULE LOAD /x",
            "CONFIG REWRITE",
            "CONFIG SET requirepass x",
            "CLUSTER RESET",
            "CLUSTER NONSENSE",
        ] {
            let line = alice.ask(command).await;
            assert!(line.starts_with("-NOPERM keystile: ") && line.contains("refused"), "{command}: {line}");
        }
        assert_eq!(alice.ask("PING").await, "+PONG");
        let mut http = world.routed("alice", "orders", "iam-ro").await;
        http.send("GET / HTTP/1.1\r\n").await;
        assert_eq!(http.rest().await, "");
    });
}

#[test]
fn auth_and_hello_in_the_session() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-ro").await;
        let alias = world.database("orders").alias();
        for same in ["AUTH iam-ro x", "AUTH iam-ro@orders x", "AUTH x", &format!("AUTH iam-ro@{alias} x")] {
            assert_eq!(client.ask(same).await, "+OK", "{same}");
        }
        for other in ["AUTH iam-rw x", "AUTH iam-ro@carts x", "HELLO 3 AUTH iam-rw x"] {
            assert!(client.ask(other).await.starts_with("-NOPERM keystile: this connection"), "{other}");
        }
        assert!(client.ask("AUTH").await.starts_with("-ERR wrong number of arguments"));
        assert!(client.ask("HELLO 3 NONSENSE").await.starts_with("-ERR Syntax error in HELLO"));
        assert!(client.ask("HELLO 9").await.starts_with("-NOPROTO"));
        client.send("HELLO 3 AUTH iam-ro x SETNAME me\r\n").await;
        assert!(client.line().await.starts_with('%'));
        client.send("CLIENT GETNAME\r\n").await;
        loop {
            if client.line().await == "me" {
                break;
            }
        }
        // RESET makes it the default user's, which is off; we sign in before anything follows.
        client.send("RESET\r\nACL WHOAMI\r\nPING\r\n").await;
        assert_eq!(client.lines(4).await, ["+RESET", "$6", "iam-ro", "+PONG"]);
        client.send("CLIENT REPLY OFF\r\nRESET\r\nPING\r\nCLIENT REPLY SKIP\r\nRESET\r\nPING\r\n").await;
        assert_eq!(client.lines(3).await, ["+RESET", "+PONG", "+PONG"]);
        assert!(world.tokens.minted.load(Ordering::Relaxed) >= 2);
        assert_eq!(client.ask("QUIT").await, "+OK");
        assert_eq!(client.rest().await, "");
    });
}

#[test]
fn routes_by_server_name_and_by_user_name() {
    run(async {
        let world = World::start(&[]).await;
        let orders = format!("orders.{DOMAIN}");
        let alias = format!("{}.{DOMAIN}", world.database("orders").alias());
        for (server_name, first, answer) in [
            (orders.as_str(), "AUTH iam-ro x", "+OK"),
            (&alias, "AUTH iam-ro@orders x", "+OK"),
            (&orders, "HELLO 2 AUTH iam-ro x", "*14"),
            ("localhost", "AUTH iam-ro@orders x", "+OK"),
            (&orders, "AUTH iam-ro@carts x", "-ERR keystile: AUTH asks for carts"),
            ("localhost", "AUTH iam-ro x", "-ERR keystile: which database?"),
            ("localhost", "PING", "-ERR keystile: which database?"),
            ("localhost", "AUTH iam-ro@nowhere x", "-ERR keystile: there is no database \"nowhere\""),
        ] {
            let mut client = world.named("alice", server_name).await;
            let line = client.ask(first).await;
            assert!(line.starts_with(answer), "{server_name} {first}: {line}");
        }
        // Certificate and server name disagree.
        let pair = world.certificate("alice", Some(("orders", "iam-ro")), 60).await;
        let mut client = world.connect(Some(&pair), &format!("carts.{DOMAIN}")).await;
        assert!(client.ask("PING").await.starts_with("-ERR keystile: the certificate is for orders"));
        assert_eq!(client.rest().await, "");
        // Nobody named the db user: the list, and an AUTH may follow.
        let mut client = world.named("bob", &orders).await;
        let line = client.ask("HELLO 3").await;
        assert!(
            line.starts_with("-NOAUTH keystile: name the database user") && line.contains("iam-ro"),
            "{line}"
        );
        assert_eq!(client.ask("AUTH iam-ro x").await, "+OK");
        // The only one allowed.
        let mut client = world.named("carol", &orders).await;
        client.send("ACL WHOAMI\r\nPING\r\n").await;
        assert!(client.line().await.starts_with("-NOPERM keystile: 'ACL WHOAMI'"));
        assert_eq!(client.line().await, "+PONG");
    });
}

#[test]
fn refusals_say_what_why_and_what_next() {
    run(async {
        let mut world = World::start(&[]).await;
        for (who, database, db_user, words) in [
            ("dave", "orders", "iam-ro", "-NOPERM keystile: access denied"),
            ("bob", "carts", "iam-ro", "-NOPERM keystile: access denied"),
            ("nobody", "orders", "iam-ro", "-NOPERM keystile: access denied"),
            ("alice", "nowhere", "iam-ro", "-ERR keystile: there is no database"),
            ("alice", "orders", "iam-rx", "-NOPERM keystile: orders has no database user \"iam-rx\""),
            (
                "alice",
                "orders",
                "elsewhere",
                "-NOPERM keystile: database user \"elsewhere\" exists but is in no",
            ),
            (
                "alice",
                "orders",
                "static-app",
                "-ERR keystile: database user \"static-app\" is not an IAM user",
            ),
            ("alice", "gone", "iam-ro", "-ERR keystile: cannot reach gone: connecting to localhost"),
        ] {
            let mut client = world.routed(who, database, db_user).await;
            let line = client.ask("HELLO 3").await;
            assert!(line.starts_with(words), "{who} {database} {db_user}: {line}");
            assert_eq!(client.rest().await, "", "{database}");
        }
        let mut nobody = world.connect(None, "localhost").await;
        assert!(nobody.ask("PING").await.starts_with("-NOAUTH keystile: not signed in"));
        let mut proof = world.connect(None, "localhost").await;
        assert!(proof.ask("AUTH iam-ro@orders ks1.abc").await.contains("not taken yet"));
        let pair = foreign_certificate("alice").await;
        let foreign = world.connect_with(world.client_config(Some(&pair)), "localhost").await;
        if let Ok(mut foreign) = foreign {
            // With TLS 1.3 the client hears of it with its first read.
            assert_eq!(foreign.line().await, "");
        }
        // A token that the cache refuses twice, and one that it refuses once.
        world.tokens.wrong.store(2, Ordering::Relaxed);
        let mut client = world.routed("alice", "orders", "iam-ro").await;
        let line = client.ask("PING").await;
        assert!(line.contains("refused the IAM token") && line.contains("elasticache:Connect"), "{line}");
        world.tokens.wrong.store(1, Ordering::Relaxed);
        let mut client = world.routed("alice", "orders", "iam-ro").await;
        assert_eq!(client.ask("PING").await, "+PONG");
        drop(client);
        world.stop().await;
        let audit = world.audit();
        let denied: Vec<_> = audit.iter().filter(|event| event["code"] == "TDB00W").collect();
        assert!(denied.len() >= 12, "{}", denied.len());
        assert!(denied.iter().any(|event| event["rule"] == "no role allows it" && event["user"] == "bob"));
        assert!(audit.iter().any(|event| event["code"] == "TDB01I"));
        let text = std::fs::read_to_string(world.dir.path().join("audit")).unwrap();
        assert!(!text.contains(support::TOKEN));
    });
}

#[test]
fn locks_roles_and_certificates_end_live_sessions() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        let mut bob = world.routed("bob", "orders", "iam-rw").await;
        for client in [&mut alice, &mut carol, &mut bob] {
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        let lock = Lock {
            name: "out".to_owned(),
            target: LockTarget { user: Some("alice".to_owned()), ..LockTarget::default() },
            message: "under investigation".to_owned(),
            expires_at: None,
        };
        let began = std::time::Instant::now();
        world.put(Entity::Lock(lock)).await;
        let line = alice.line().await;
        assert!(
            line.starts_with("-ERR keystile: this session was ended") && line.contains("investigation"),
            "{line}"
        );
        assert_eq!(alice.rest().await, "");
        assert!(began.elapsed() < Duration::from_secs(2));
        // A role that allows less: the live session goes by the new rules.
        world.put(role("dev", "prod", &["iam-rw"], &["+@read +@connection"], &[])).await;
        let mut line = String::new();
        for _ in 0..100 {
            line = bob.ask("SET k v").await;
            if line != "+OK" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(line.starts_with("-NOPERM keystile: 'SET'"), "{line}");
        // A role that is taken away.
        world.put(user("bob", &[])).await;
        assert!(bob.line().await.contains("access denied"));
        // A database that goes.
        let key = EntityKey { kind: EntityKind::Database, id: "orders".to_owned() };
        world.change(Change::Delete(key)).await;
        assert!(carol.line().await.contains("database orders is gone"));
        // A certificate that ends, while a reply is awaited.
        world.put(Entity::Database(Box::new(world.database("orders")))).await;
        wait_until("orders is back", || {
            world.shared.policy.borrow().policy.as_ref().is_some_and(|p| p.database("orders").is_some())
        })
        .await;
        let pair = world.certificate("carol", Some(("orders", "iam-ro")), 3).await;
        let mut short = world.connect(Some(&pair), "localhost").await;
        assert_eq!(short.ask("PING").await, "+PONG");
        assert!(short.line().await.contains("certificate has expired"));
        let mut late = world.connect(Some(&pair), "localhost").await;
        let line = late.ask("PING").await;
        assert!(line.starts_with("-NOAUTH keystile: the certificate has expired"), "{line}");
    });
}

#[test]
fn a_session_begins_under_the_rules_of_its_beginning() {
    run(async {
        let world = World::start(&[]).await;
        // The handshake is over, and which database is wanted is not said yet.
        let pair = world.certificate("bob", None, 3_600).await;
        let mut bob = world.connect(Some(&pair), "localhost").await;
        world.put(role("dev", "prod", &["iam-rw"], &["+@read +@connection"], &[])).await;
        wait_until("the proxy has heard of it", || {
            let policy = world.shared.policy.borrow().policy.clone();
            let dev = RoleName::parse("dev").unwrap();
            policy.is_some_and(|policy| policy.role(&dev).is_some_and(|role| !role.allow.commands.is_empty()))
        })
        .await;
        assert_eq!(bob.ask("AUTH iam-rw@orders x").await, "+OK");
        let line = bob.ask("SET k v").await;
        assert!(line.starts_with("-NOPERM keystile: 'SET'"), "{line}");
        assert_eq!(bob.ask("STRLEN k").await, ":0");
    });
}

#[test]
fn old_policy_refuses_new_sessions_and_later_ends_live_ones() {
    run(async {
        let world = World::start_cold(&[]).await;
        let mut cold = world.routed("alice", "orders", "iam-ro").await;
        let line = cold.ask("PING").await;
        assert!(line.starts_with("-ERR keystile: the proxy has not loaded its policy yet"), "{line}");
        assert!(world.http("/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(world.http("/livez").await.starts_with("HTTP/1.1 200"));
        world.set_up().await;
        world.wait_ready().await;
        let mut live = world.routed("alice", "orders", "iam-ro").await;
        assert_eq!(live.ask("PING").await, "+PONG");
        world.store.set_outage(Some(StoreError::Unavailable("gone for a minute".to_owned())));
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.clock.advance(61);
        let mut late = world.routed("alice", "orders", "iam-ro").await;
        let line = late.ask("PING").await;
        assert!(
            line.starts_with("-ERR keystile: the proxy's policy feed is 6") && line.contains("minute"),
            "{line}"
        );
        assert_eq!(live.ask("PING").await, "+PONG");
        world.store.set_outage(None);
        wait_until("the feed is back", || {
            let snapshot = world.shared.policy.borrow().clone();
            snapshot.age(world.shared.clock.now()).is_some_and(|age| age.as_secs() < 5)
        })
        .await;
        let mut again = world.routed("alice", "orders", "iam-ro").await;
        assert_eq!(again.ask("PING").await, "+PONG");
        world.store.set_outage(Some(StoreError::Unavailable("gone for long".to_owned())));
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.clock.advance(901);
        assert!(live.line().await.contains("has not heard of its policy for 90"));
    });
}

#[test]
fn replies_can_be_switched_off_and_subscriptions_are_no_replies() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        client.send("CLIENT REPLY OFF\r\nSET k 1\r\nMONITOR\r\nGET k\r\nCLIENT REPLY ON\r\nPING\r\n").await;
        assert_eq!(client.lines(2).await, ["+OK", "+PONG"]);
        client.send("CLIENT REPLY SKIP\r\nSET k 2\r\nGET k\r\n").await;
        assert_eq!(client.lines(2).await, ["$1", "2"]);
        // RESP2: confirmations and messages among replies, and a refusal in its place behind them.
        client.send("SUBSCRIBE a b\r\nMONITOR\r\nPING\r\n").await;
        let lines = client.lines(12).await;
        assert_eq!((lines[2].as_str(), lines[5].as_str(), lines[11].as_str()), ("subscribe", ":1", ":2"));
        assert!(client.line().await.starts_with("-NOPERM keystile: 'MONITOR'"));
        assert_eq!(client.lines(5).await, ["*2", "$4", "pong", "$0", ""]);
        let mut other = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(other.ask("PUBLISH a hello").await, ":1");
        assert_eq!(client.lines(7).await[6], "hello");
        client.send("UNSUBSCRIBE\r\nMONITOR\r\nPING\r\n").await;
        assert_eq!(client.lines(12).await[11], ":0");
        assert!(client.line().await.starts_with("-NOPERM keystile: 'MONITOR'"));
        assert_eq!(client.line().await, "+PONG");
        // RESP3: pushes.
        client.send("HELLO 3\r\n").await;
        while client.line().await != "$7" {}
        client.send("SUBSCRIBE c\r\nRPUSH l message x y\r\nLRANGE l 0 -1\r\nMONITOR\r\nPING\r\n").await;
        while client.line().await != ">3" {}
        let lines = client.lines(5).await;
        assert_eq!(lines[1], "subscribe");
        assert_eq!(client.lines(8).await[1..3], ["*3".to_owned(), "$7".to_owned()]);
        assert!(client.line().await.starts_with("-NOPERM keystile: 'MONITOR'"));
        assert_eq!(client.line().await, "+PONG");
    });
}

#[test]
fn a_server_that_dies_leaves_an_error_for_each_unanswered_request() {
    run(async {
        let mut world = World::start(&[]).await;
        let mut busy = world.routed("alice", "orders", "iam-admin").await;
        let mut idle = world.routed("alice", "orders", "iam-admin").await;
        assert_eq!(idle.ask("PING").await, "+PONG");
        busy.send("BLPOP none 0\r\nPING\r\nPING\r\n").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.valkey.kill();
        let rest = busy.rest().await;
        assert_eq!(rest.matches("-ERR keystile: the cache closed the connection").count(), 3, "{rest}");
        assert_eq!(idle.rest().await, "");
        let mut late = world.routed("alice", "orders", "iam-admin").await;
        assert!(late.ask("PING").await.starts_with("-ERR keystile: cannot reach orders: connecting to"));
    });
}

#[test]
fn a_stop_says_so_and_loses_no_audit_line() {
    run(async {
        let mut world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(client.ask("SET k v").await, "+OK");
        assert!(client.ask("NONSENSE").await.starts_with("-ERR unknown command"));
        world.begin_stop();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(world.http("/readyz").await.contains("draining"));
        assert_eq!(client.ask("PING").await, "+PONG");
        assert!(client.line().await.starts_with("-ERR keystile: this proxy is stopping"));
        world.stop().await;
        let audit = world.audit();
        let codes: Vec<_> = audit.iter().map(|event| event["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["TDB00I", "TDB02W", "KSS01I", "TDB01I"]);
        assert_eq!(audit[2]["commands"]["SET"]["count"], 1);
        assert_eq!(audit[3]["error"], "shutdown");
    });
}

#[test]
fn an_iam_connection_is_signed_in_again_before_its_life_ends() {
    run(async {
        let world = World::start(&[("KEYSTILE_IAM_LIFE_S", "5")]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        for round in 0..80 {
            client.send("INCR n\r\nMULTI\r\nINCR n\r\nEXEC\r\n").await;
            assert_eq!(client.line().await, format!(":{}", round * 2 + 1));
            assert_eq!(client.lines(4).await, ["+OK", "+QUEUED", "*1", &format!(":{}", round * 2 + 2)]);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(world.tokens.minted.load(Ordering::Relaxed) >= 2);
        assert!(world.shared.metrics.sign_ins_again.value() >= 1);
    });
}

#[test]
fn a_slow_reader_costs_its_own_session_only() {
    run(async {
        let world = World::start(&[]).await;
        let mut slow = world.routed("alice", "orders", "iam-rw").await;
        slow.send(format!("SET big {}\r\n", "x".repeat(60_000))).await;
        assert_eq!(slow.line().await, "+OK");
        slow.send("GET big\r\n".repeat(500)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut other = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(other.ask("PING").await, "+PONG");
        let passed = world.shared.metrics.bytes_out.value();
        assert!(passed < 20_000_000, "{passed} bytes passed to a client that reads nothing");
        for _ in 0..500 {
            assert_eq!(slow.line().await, "$60000");
            assert_eq!(slow.line().await.len(), 60_000);
        }
    });
}

#[test]
fn resumed_sessions_are_checked_again() {
    run(async {
        let world = World::start(&[]).await;
        let pair = world.certificate("alice", Some(("orders", "iam-ro")), 3_600).await;
        let config = world.client_config(Some(&pair));
        for _ in 0..3 {
            let mut client = world.connect_with(std::sync::Arc::clone(&config), "localhost").await.unwrap();
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        assert!(world.shared.metrics.handshakes.value("resumed") >= 1);
        let key = EntityKey { kind: EntityKind::CaCertificate, id: "user-1".to_owned() };
        world.change(Change::Delete(key)).await;
        wait_until("the CA is gone", || {
            world.shared.policy.borrow().policy.as_ref().is_some_and(|policy| {
                policy.ca_certificates(keystile_model::policy::CaKind::User).count() == 0
            })
        })
        .await;
        let mut client = world.connect_with(config, "localhost").await.unwrap();
        let line = client.ask("PING").await;
        assert!(line.starts_with("-NOAUTH keystile: the certificate is signed by no CA"), "{line}");
    });
}

#[test]
fn a_pass_through_database_takes_the_client_s_own_password() {
    run(async {
        let world = World::start(&[]).await;
        let legacy = keystile_model::database::Database {
            kind: keystile_model::database::DatabaseKind::Static,
            arn: None,
            auth: keystile_model::database::CacheAuth::PassThrough,
            ca: Some(std::fs::read_to_string(world.dir.path().join("cache.crt")).unwrap()),
            ..world.database("legacy")
        };
        let silent = keystile_model::database::Database {
            auth: keystile_model::database::CacheAuth::Auto,
            ..legacy.clone()
        };
        world.put(Entity::StaticDatabase(Box::new(legacy))).await;
        let silent = keystile_model::database::Database {
            name: keystile_model::name::DatabaseName::parse("silent").unwrap(),
            ..silent
        };
        world.put(Entity::StaticDatabase(Box::new(silent))).await;
        wait_until("both are known", || {
            world.shared.policy.borrow().policy.as_ref().is_some_and(|p| p.database("silent").is_some())
        })
        .await;
        let mut bob = world.routed("bob", "legacy", "own").await;
        assert!(bob.ask("GET k").await.starts_with("-NOAUTH keystile: 'GET' was refused"));
        assert!(bob.ask("AUTH iam-rw their-own").await.starts_with("-NOPERM keystile: this connection"));
        assert!(bob.ask("AUTH own wrong").await.starts_with("-WRONGPASS"));
        assert!(bob.ask("NONSENSE").await.starts_with("-NOAUTH"));
        bob.send("AUTH their-own\r\nACL WHOAMI\r\n").await;
        assert_eq!(bob.lines(3).await, ["+OK", "$3", "own"]);
        // Valkey 8.0.1 leaves the answer out where a wrong AUTH comes behind other commands in one read.
        bob.send("PING\r\nAUTH wrong\r\nECHO still\r\n").await;
        assert_eq!(bob.line().await, "+PONG");
        assert!(bob.line().await.starts_with("-WRONGPASS"));
        assert_eq!(bob.lines(2).await, ["$5", "still"]);
        bob.send("RESET\r\nGET k\r\n").await;
        assert_eq!(bob.line().await, "+RESET");
        assert!(bob.line().await.starts_with("-NOAUTH keystile"));
        assert_eq!(world.tokens.minted.load(Ordering::Relaxed), 0);
        let mut bob = world.routed("bob", "silent", "own").await;
        assert!(bob.ask("PING").await.contains("does not say how to sign in"));
    });
}

#[test]
fn an_exec_that_a_subscriber_may_not_send_lets_go_of_what_is_watched() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
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
