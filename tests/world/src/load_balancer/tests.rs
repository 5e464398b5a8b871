//! The load balancer before targets that answer with their own letter.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::world::process::{Running, Spec};

/// A target that sends its letter and then echoes.
async fn target(letter: u8) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 256];
                stream.write_all(&[letter]).await.unwrap();
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    stream.write_all(&buffer[..read]).await.unwrap();
                }
            });
        }
    });
    address
}

async fn balancer(letters: &[u8], settings: Settings) -> (Arc<Balancer>, At) {
    let mut targets = Vec::new();
    for letter in letters {
        targets.push(Target { address: target(*letter).await, process: None });
    }
    let balancer = Balancer::new(Paths::of_checkout(), targets);
    *balancer.settings() = settings;
    let at = serve(&balancer).await;
    (balancer, at)
}

/// Where a balancer under test listens.
#[derive(Clone, Copy)]
struct At {
    port: u16,
    control: u16,
}

async fn serve(balancer: &Arc<Balancer>) -> At {
    let at = At { port: keystile_free_ports::take().unwrap(), control: keystile_free_ports::take().unwrap() };
    tokio::spawn(Arc::clone(balancer).serve(at.port, Some(at.control)));
    for port in [at.port, at.control] {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    at
}

async fn first_byte(port: u16) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let letter = stream.read_u8().await.unwrap();
    (stream, letter)
}

#[tokio::test]
async fn connections_go_round_and_a_drained_target_gets_none() {
    let (balancer, At { port, .. }) = balancer(b"ab", Settings::default()).await;
    let seen = [first_byte(port).await.1, first_byte(port).await.1];
    assert!(seen == *b"ab" || seen == *b"ba", "{seen:?}");
    balancer.settings().drained = vec![0];
    assert_eq!([first_byte(port).await.1, first_byte(port).await.1], *b"bb");
    balancer.settings().drained = vec![0, 1];
    let mut refused = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(refused.read_u8().await.is_err());
}

#[tokio::test]
async fn a_silent_connection_is_forgotten_and_the_next_byte_is_reset() {
    let (_, At { port, .. }) = balancer(b"c", Settings { idle_s: Some(1.0), ..Settings::default() }).await;
    let (mut stream, _) = first_byte(port).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "traffic keeps it alive");
    }
    let quiet = tokio::time::timeout(Duration::from_millis(2_500), stream.read_u8()).await;
    assert!(quiet.is_err(), "nobody is told");
    stream.write_all(b"x").await.unwrap();
    assert!(stream.read_u8().await.is_err(), "whoever sends is reset");
}

#[tokio::test]
async fn the_target_learns_the_clients_address() {
    let (_, At { port, .. }) = balancer(b"d", Settings { proxy_protocol: true, ..Settings::default() }).await;
    let (mut stream, _) = first_byte(port).await;
    let mut header = [0; 28];
    stream.read_exact(&mut header).await.unwrap();
    let expected = flow::proxy_header(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    assert_eq!(header.to_vec(), expected);
    assert_eq!(&header[12..20], [0x21, 0x11, 0, 12, 127, 0, 0, 1]);
    assert_eq!(header[24..26], stream.local_addr().unwrap().port().to_be_bytes());
}

/// The status line and the body.
async fn ask(at: At, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", at.control)).await.unwrap();
    let (head, body) = request.split_once('\n').unwrap_or((request, ""));
    let length = body.len();
    let text =
        format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn settings_are_replaced_whole_and_unknown_ones_refused() {
    let (_, at) = balancer(b"e", Settings::default()).await;
    assert!(ask(at, "PUT /\n{\"drained\": [0]}").await.starts_with("HTTP/1.1 200"));
    assert!(ask(at, "GET /").await.contains("\"drained\":[0]"));
    assert!(ask(at, "PUT /\n{\"drian\": [0]}").await.starts_with("HTTP/1.1 400"));
    assert!(ask(at, "PUT /\n{}").await.contains("\"drained\":[]"));
    assert!(ask(at, "POST /stop/0").await.starts_with("HTTP/1.1 404"), "no process behind it");
}

#[tokio::test]
async fn a_stopped_target_is_drained_told_and_killed_when_its_time_is_up() {
    let folder = std::env::temp_dir().join(format!("keystile-balancer-{}", std::process::id()));
    let paths = Paths::of_checkout().beside(folder);
    let script = "trap 'echo told' TERM; echo ready; while :; do sleep 0.05; done";
    let spec = Spec::new("stubborn", "/bin/sh".into()).arg("-c").arg(script);
    let process = Running::start(&paths, spec).unwrap();
    let printed = || std::fs::read_to_string(&process.log).unwrap();
    while !printed().contains("ready") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let target = Target { address: target(b'f').await, process: Some("stubborn".into()) };
    let balancer = Balancer::new(paths.clone(), vec![target]);
    let at = serve(&balancer).await;
    assert!(ask(at, "POST /stop/0?kill-after=2").await.starts_with("HTTP/1.1 202"));
    assert_eq!(balancer.settings().drained, [0]);
    while !printed().contains("told") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(process.is_alive());
    while process.is_alive() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    std::fs::remove_dir_all(&paths.local).unwrap();
}
