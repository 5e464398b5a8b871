//! The load balancer before targets that answer with their own letter.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

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

async fn balancer(letters: &[u8], settings: Settings) -> (Arc<Balancer>, u16) {
    let mut targets = Vec::new();
    for letter in letters {
        targets.push(Target { address: target(*letter).await, process: None });
    }
    let balancer = Balancer::new(Paths::of_checkout(), targets);
    *balancer.settings() = settings;
    let port = crate::world::ports::Ports::new(
        None,
        u32::from(std::process::id() as u16) * 7 + u32::from(letters[0]),
    )
    .take()
    .unwrap();
    tokio::spawn(Arc::clone(&balancer).serve(port, None));
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (balancer, port)
}

async fn first_byte(port: u16) -> (TcpStream, u8) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let letter = stream.read_u8().await.unwrap();
    (stream, letter)
}

#[tokio::test]
async fn connections_go_round_and_a_drained_target_gets_none() {
    let (balancer, port) = balancer(b"ab", Settings::default()).await;
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
    let (_, port) = balancer(b"c", Settings { idle_s: Some(0.2), ..Settings::default() }).await;
    let (mut stream, _) = first_byte(port).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(120)).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x', "traffic keeps it alive");
    }
    let quiet = tokio::time::timeout(Duration::from_millis(500), stream.read_u8()).await;
    assert!(quiet.is_err(), "nobody is told");
    stream.write_all(b"x").await.unwrap();
    assert!(stream.read_u8().await.is_err(), "whoever sends is reset");
}

#[tokio::test]
async fn the_target_learns_the_clients_address() {
    let (_, port) = balancer(b"d", Settings { proxy_protocol: true, ..Settings::default() }).await;
    let (mut stream, _) = first_byte(port).await;
    let mut header = [0; 28];
    stream.read_exact(&mut header).await.unwrap();
    let expected = flow::proxy_header(stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    assert_eq!(header.to_vec(), expected);
    assert_eq!(&header[12..20], [0x21, 0x11, 0, 12, 127, 0, 0, 1]);
    assert_eq!(header[24..26], stream.local_addr().unwrap().port().to_be_bytes());
}
