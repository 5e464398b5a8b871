//! What has a limit: what happens at it, in which words, and that it is counted. docs/LIMITS.md is the table.

use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::support::{Client, World, run, wait_until};

fn limited(world: &World, limit: &'static str) -> u64 {
    world.shared.metrics.limits.value(limit)
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    run(async {
        let world = World::start(&[
            ("KEYSTILE_FIRST_BYTE_TIMEOUT_S", "1"),
            ("KEYSTILE_HANDSHAKE_TIMEOUT_S", "2"),
            ("KEYSTILE_AUTH_TIMEOUT_S", "1"),
        ])
        .await;
        let mut silent = TcpStream::connect(world.address).await.unwrap();
        let mut begun = TcpStream::connect(world.address).await.unwrap();
        // The first bytes of a TLS record, and no more.
        tokio::io::AsyncWriteExt::write_all(&mut begun, &[22, 3, 1]).await.unwrap();
        let mut lost = world.named("alice", "localhost").await;
        // Which limit each of them met is counted; how long it took is the machine's business too.
        assert_eq!(silent.read(&mut [0; 16]).await.unwrap_or(0), 0);
        let line = lost.line().await;
        assert!(
            line.starts_with(
                "-ERR keystile: nothing said which database to reach within 1 s (KEYSTILE_AUTH_TIMEOUT_S)"
            ),
            "{line}"
        );
        assert_eq!(begun.read(&mut [0; 16]).await.unwrap_or(0), 0);
        for limit in ["first_byte", "handshake", "auth"] {
            assert_eq!(limited(&world, limit), 1, "{limit}");
        }
    });
}

#[test]
fn requests_have_a_greatest_size() {
    run(async {
        let world = World::start(&[
            ("KEYSTILE_MAX_ARGUMENTS", "100"),
            ("KEYSTILE_MAX_ARGUMENT_BYTES", "600000"),
            ("KEYSTILE_MAX_REQUEST_BYTES", "1048576"),
        ])
        .await;
        let value = |length: usize| format!("${length}\r\n{}\r\n", "x".repeat(length));
        let words = |count: usize| format!("*{count}\r\n$3\r\nDEL\r\n{}", "$1\r\nk\r\n".repeat(count - 1));
        let mset = |values: usize, length: usize| {
            let pairs = format!("$1\r\nk\r\n{}", value(length)).repeat(values);
            format!("*{}\r\n$4\r\nMSET\r\n{pairs}", 1 + 2 * values)
        };
        for (fits, answer) in [
            (words(100), ":0"),
            (format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n{}", value(600_000)), "+OK"),
            (mset(10, 104_000), "+OK"),
            (mset(1, 599_999), "+OK"),
        ] {
            let mut client = world.routed("alice", "orders", "iam-rw").await;
            client.send(format!("{fits}FLUSHDB\r\n")).await;
            assert_eq!(client.line().await, answer);
        }
        for (number, (request, words)) in [
            (words(101), "-ERR Protocol error: invalid multibulk length"),
            (
                format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n{}", value(600_001)),
                "-ERR Protocol error: invalid bulk length",
            ),
            (mset(10, 105_000), "-ERR Protocol error: too big request"),
            (format!("GET {}\r\n", "x".repeat(65_536)), "-ERR Protocol error: too big inline request"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut client = world.routed("alice", "orders", "iam-rw").await;
            let refused = client.line_after(format!("PING\r\n{request}").as_bytes()).await;
            assert_eq!(refused, "+PONG");
            assert_eq!(client.line().await, words);
            assert_eq!(client.rest().await, "");
            wait_until("it was counted", || limited(&world, "request") == number as u64 + 1).await;
        }
        // Before anything is known of the client, far less.
        let mut stranger = world.named("alice", "localhost").await;
        let line = stranger.line_after(format!("*2\r\n$4\r\nAUTH\r\n{}", value(20_000)).as_bytes()).await;
        assert_eq!(line, "-ERR Protocol error: unauthenticated bulk length");
        assert_eq!(limited(&world, "before_auth"), 1);
    });
}

#[test]
fn replies_have_a_deepest_nesting() {
    run(async {
        let world = World::start(&[("KEYSTILE_MAX_REPLY_NESTING", "8")]).await;
        let mut client = world.routed("alice", "orders", "iam-admin").await;
        let nested =
            |depth: usize| format!("EVAL \"return {}1{}\" 0\r\n", "{".repeat(depth), "}".repeat(depth));
        client.send(nested(7)).await;
        assert_eq!(client.lines(8).await[7], ":1");
        client.send(nested(12)).await;
        let rest = client.rest().await;
        assert!(
            rest.contains("-ERR keystile: the server sent a reply nested deeper than the limit"),
            "{rest}"
        );
        assert_eq!(limited(&world, "reply"), 1);
    });
}

/// A client with a small window that never reads.
async fn deaf(world: &World) -> Client {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let tcp = socket.connect(world.address).await.unwrap();
    let pair = world.certificate("alice", Some(("orders", "iam-rw")), 3_600).await;
    world.over(tcp, world.client_config(Some(&pair))).await.unwrap()
}

#[test]
fn a_client_that_takes_nothing_is_ended_in_the_end() {
    run(async {
        let world = World::start(&[("KEYSTILE_SLOW_CLIENT_S", "60")]).await;
        let mut slow = deaf(&world).await;
        slow.send(format!("SET big {}\r\n", "x".repeat(60_000))).await;
        assert_eq!(slow.line().await, "+OK");
        slow.send("GET big\r\n".repeat(500)).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        // One that waits for nothing is as idle, and nothing happens to it.
        let mut idle = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(idle.ask("PING").await, "+PONG");
        world.clock.advance(50);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(limited(&world, "slow_client"), 0);
        // It takes some of it: the time begins anew.
        for _ in 0..400 {
            assert_eq!(slow.lines(2).await[0], "$60000");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.clock.advance(50);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(limited(&world, "slow_client"), 0);
        world.clock.advance(61);
        wait_until("it was ended", || world.shared.metrics.session_ends.value("slow_client") == 1).await;
        assert!(limited(&world, "slow_client") >= 1);
        assert_eq!(idle.ask("PING").await, "+PONG");
    });
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// In a process of its own, for what the other tests hold is in the way.
#[test]
fn slow_readers_of_long_values_hold_no_memory() {
    let own = std::env::current_exe().unwrap();
    let done = Command::new(own)
        .args(["--exact", "limits::sixteen_slow_readers", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&done.stdout).into_owned();
    print!("{}", words.lines().filter(|line| line.contains("MiB")).collect::<String>());
    assert!(done.status.success(), "{words}\n{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
#[ignore = "run by slow_readers_of_long_values_hold_no_memory, alone in its process"]
fn sixteen_slow_readers() {
    const MIB: usize = 1 << 20;
    run(async {
        let world = World::start(&[]).await;
        let mut client = world.routed("alice", "orders", "iam-rw").await;
        client.send(format!("*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n${}\r\n", 64 * MIB)).await;
        let piece = vec![b'x'; MIB];
        for _ in 0..64 {
            client.send(&piece).await;
        }
        client.send("\r\n").await;
        assert_eq!(client.line().await, "+OK");
        let mut slow = Vec::new();
        for _ in 0..16 {
            slow.push(world.routed("alice", "orders", "iam-rw").await);
        }
        for client in &mut slow {
            assert_eq!(client.ask("PING").await, "+PONG");
        }
        let before = resident();
        let mut most = 0;
        for client in &mut slow {
            client.send("GET big\r\n").await;
        }
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // A little at a time, of all of them.
            for client in &mut slow {
                let mut some = [0; 8_192];
                let _ = tokio::time::timeout(Duration::from_millis(2), client.stream.read(&mut some)).await;
            }
            most = most.max(resident());
        }
        let above = most.saturating_sub(before) / 1_024;
        println!("sixteen slow readers of 64 MiB: {above} MiB above idle");
        assert!(above <= 16, "{above} MiB above idle");
    });
}
