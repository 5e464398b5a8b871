//! A client that leaves while the session waits for an answer and reads nothing more of it: straight at the
//! server its blocked call would end with it.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;

use super::support::{Client, PATIENCE, World, run};

/// Whether somebody waits in a BLPOP at the server.
async fn is_blocked(looker: &mut Client) -> bool {
    looker.command(&["CLIENT", "LIST"]).await.contains("cmd=blpop")
}

async fn wait_for(looker: &mut Client, blocked: bool, what: &str) {
    let start = Instant::now();
    while is_blocked(looker).await != blocked {
        assert!(start.elapsed() < PATIENCE / 3, "{what}: blocked is not {blocked}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_blocked_call_ends_with_its_client_whatever_waits_behind_it() {
    run(async {
        let world = World::start(&[]).await;
        let mut looker = world.routed("alice", "orders", "iam-admin").await;
        for (before, behind) in [
            ("", "PING\r\n"),
            ("", "RESET\r\n"),
            ("", "RESET\r\nSET k v\r\n"),
            ("", "RESET\r\n*2\r\n$3\r\nGET\r\n$9\r\nbegun"),
            ("", "HELLO 3\r\nSUBSCRIBE c\r\n"),
            ("HELLO 3\r\nSUBSCRIBE c\r\n", "HELLO 2\r\nGET k\r\n"),
            ("SUBSCRIBE c\r\nUNSUBSCRIBE c\r\n", "HELLO 3\r\nSUBSCRIBE c\r\n"),
            ("", "QUIT\r\n"),
            ("", "QUIT\r\nSET k v\r\n"),
            ("", "*1\r\n$x\r\n"),
        ] {
            for together in [true, false] {
                let what = format!("{before:?} {behind:?} {together}");
                let mut client = world.routed("alice", "orders", "iam-rw").await;
                client.send(before).await;
                if together {
                    client.send(format!("BLPOP none 0\r\n{behind}")).await;
                    wait_for(&mut looker, true, &what).await;
                } else {
                    client.send("BLPOP none 0\r\n").await;
                    wait_for(&mut looker, true, &what).await;
                    client.send(behind).await;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                drop(client);
                wait_for(&mut looker, false, &what).await;
            }
        }
    });
}

#[test]
fn what_a_client_left_behind_a_reset_is_still_done() {
    run(async {
        let world = World::start(&[]).await;
        let mut looker = world.routed("alice", "orders", "iam-admin").await;
        for round in 0..10 {
            let key = format!("left:{round}");
            let mut client = world.routed("alice", "orders", "iam-rw").await;
            let value = "x".repeat(100 << round);
            client.send(format!("RESET\r\nSET {key} {value}\r\n")).await;
            client.stream.shutdown().await.unwrap();
            let start = Instant::now();
            while looker.command(&["STRLEN", &key]).await != format!(":{}", value.len()) {
                assert!(start.elapsed() < PATIENCE, "{key} was never set");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
}

/// More than is read ahead: what waits keeps its order, and none of it is lost.
#[test]
fn a_long_pipeline_behind_a_held_request_keeps_its_order() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        let mut helper = world.routed("alice", "orders", "iam-rw").await;
        const COUNT: usize = 20_000;
        let (mut pipeline, mut behind) = ("BLPOP list 0\r\nRESET\r\n".to_owned(), String::new());
        for index in 0..COUNT {
            behind.push_str(&format!("ECHO {index}\r\n"));
        }
        let (first, rest) = behind.split_at(behind.len() / 2);
        pipeline.push_str(first);
        client.send(&pipeline).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        client.send(rest).await;
        assert_eq!(helper.ask("RPUSH list x").await, ":1");
        assert_eq!(client.reply().await, "[list x]");
        assert_eq!(client.reply().await, "+RESET");
        for index in 0..COUNT {
            assert_eq!(client.reply().await, index.to_string());
        }
    });
}

/// It is not read without end, either.
#[test]
fn what_is_read_ahead_has_a_bound() {
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        client.send("BLPOP none 0\r\nRESET\r\n").await;
        let before = world.shared.metrics.bytes_in.value();
        // More than sockets hold.
        let much = "ECHO x\r\n".repeat(8 << 20);
        let sent = tokio::time::timeout(Duration::from_secs(1), client.send(much)).await;
        assert!(sent.is_err(), "all of it was taken");
        let read = world.shared.metrics.bytes_in.value() - before;
        assert!((64 * 1024..=128 * 1024 + 64).contains(&read), "{read}");
    });
}
