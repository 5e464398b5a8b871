//! Requests that a server could read otherwise than we do, and sessions whose count would be lost.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod support;

use support::{Client, World};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    keystile_resp::encode::request(&mut bytes, words);
    bytes
}

async fn who(client: &mut Client) -> String {
    client.send(request(&[b"ACL", b"WHOAMI"])).await;
    client.line().await;
    client.line().await
}

/// Servers hash a name with all its bytes and then compare C strings: of these, one in a few hundred is the
/// command before the NUL byte to them.
#[test]
fn a_name_with_a_nul_byte_is_no_other_command() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-admin").await;
        let mut bytes = Vec::new();
        for index in 0..1_500 {
            let end = format!("\0{index}");
            let odd = |word: &str| [word.as_bytes(), end.as_bytes()].concat();
            bytes.extend(request(&[&odd("RESET")]));
            bytes.extend(request(&[&odd("MONITOR")]));
            bytes.extend(request(&[&odd("AUTH"), b"own", b"their-own"]));
            bytes.extend(request(&[b"CLIENT", &odd("REPLY"), b"OFF"]));
            bytes.extend(request(&[b"SCRIPT", &odd("DEBUG"), b"NO"]));
        }
        alice.send(&bytes).await;
        for index in 0..7_500 {
            let line = alice.line().await;
            assert!(line.starts_with("-NOPERM keystile: "), "{index}: {line}");
        }
        assert_eq!(who(&mut alice).await, "iam-admin");
        // As long as a request that is streamed.
        let long = |word: &str| [word.as_bytes(), b"\0", &vec![b'x'; 20_000]].concat();
        for words in [vec![long("RESET")], vec![b"CLIENT".to_vec(), long("REPLY"), b"OFF".to_vec()]] {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            alice.send(request(&words)).await;
            let line = alice.line().await;
            assert!(line.starts_with("-NOPERM keystile: "), "{line}");
        }
        alice.send(request(&[b"CONFIG", b"SET", b"requirepass\0x", b"y"])).await;
        assert!(alice.line().await.starts_with("-NOPERM keystile: 'CONFIG SET'"));
        assert_eq!(alice.ask("SCRIPT DEBUG SYNC").await.split(':').next(), Some("-NOPERM keystile"));
        assert_eq!(who(&mut alice).await, "iam-admin");
    });
}

#[test]
fn client_reply_is_ours_however_it_is_spelled() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        alice.send(request(&[b"CLIENT", b"REPLY", b"OFF\0"])).await;
        alice.send(b"SET k 1\r\nSET k 2\r\n").await;
        alice.send(request(&[b"CLIENT", b"REPLY", b"on\0x"])).await;
        alice.send(b"GET k\r\n").await;
        assert_eq!(alice.lines(3).await, ["+OK", "$1", "2"]);
        // Had the server heard it, replies would be missing now, and our AUTH behind a RESET get another's.
        assert_eq!(alice.ask("RESET").await, "+RESET");
        assert_eq!(who(&mut alice).await, "iam-rw");
    });
}

#[test]
fn a_confirmation_that_is_too_long_to_be_counted_is_not_asked_for() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        let long = "c".repeat(16_360);
        for command in ["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "UNSUBSCRIBE"] {
            let line = alice.ask(&format!("{command} {long}")).await;
            assert!(
                line.starts_with(&format!("-ERR keystile: '{command}' was refused: the name of")),
                "{line}"
            );
        }
        let fits = "c".repeat(8_000);
        assert_eq!(alice.ask(&format!("SUBSCRIBE {fits}")).await, "*3");
        assert_eq!(alice.lines(5).await[4], ":1");
        let mut other = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(other.ask(&format!("PUBLISH {fits} m")).await, ":1");
        alice.send("PING\r\n").await;
        assert_eq!(alice.lines(7).await[6], "m");
        assert_eq!(alice.lines(5).await, ["*2", "$4", "pong", "$0", ""]);
    });
}

#[test]
fn a_reset_with_arguments_resets_nothing() {
    run(async {
        let world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        alice.send("MULTI\r\nSET k 1\r\nRESET x\r\nAUTH iam-rw y\r\nEXEC\r\nPING\r\n").await;
        assert_eq!(alice.lines(2).await, ["+OK", "+QUEUED"]);
        assert!(alice.line().await.starts_with("-ERR wrong number of arguments for 'reset'"));
        assert!(alice.line().await.starts_with("-ERR keystile: 'AUTH' was refused"));
        assert!(alice.line().await.starts_with("-EXECABORT"));
        assert_eq!(alice.line().await, "+PONG");
        assert_eq!(alice.ask("RESET").await, "+RESET");
        assert_eq!(who(&mut alice).await, "iam-rw");
    });
}

#[test]
fn the_audit_repeats_no_secret_of_a_misspelt_command() {
    run(async {
        let mut world = World::start(&[]).await;
        let mut alice = world.routed("alice", "orders", "iam-rw").await;
        assert!(alice.ask("AUHT iam-rw hunter2").await.contains("hunter2"));
        drop(alice);
        world.stop().await;
        let text = std::fs::read_to_string(world.dir.path().join("audit")).unwrap();
        assert!(text.contains("ERR unknown command") && !text.contains("hunter2"), "{text}");
    });
}
