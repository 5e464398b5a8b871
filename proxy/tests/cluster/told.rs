//! What depends on which node answers first: with nodes that do as they are told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keystile_model::database::{Database, Endpoint, Node};
use keystile_resp::request::{Limits, Scanner, Step};
use keystile_resp::slot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::run;
use super::support::{World, cache_tls, encoded, free_port, wait_until};

/// What the nodes were asked: the node and the command's name, in order.
type Asked = Arc<Mutex<Vec<(u16, String)>>>;

/// The node that a node says to have a key now, if it is another one.
type Moved = Arc<dyn Fn(u16, &[u8]) -> Option<u16> + Send + Sync>;

/// Nodes that let everybody in, tell nobody the slot map, and answer a `SET` when they may.
#[derive(Clone)]
struct Told {
    acceptor: TlsAcceptor,
    asked: Asked,
    may: watch::Receiver<bool>,
    moved: Moved,
}

impl Told {
    /// Begins to listen; aborted, it closes all connections.
    async fn listen(&self, port: u16) -> JoinHandle<()> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let node = self.clone();
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                clients.spawn(node.clone().serve(port, tcp));
            }
        })
    }

    async fn serve(self, port: u16, tcp: TcpStream) {
        let Ok(mut tls) = self.acceptor.accept(tcp).await else { return };
        let limits = Limits { whole: 1 << 30, ..Limits::SIGNED_IN };
        let (mut scanner, mut held, mut in_multi) = (Scanner::new(limits), Vec::new(), false);
        while let Ok(1..) = tls.read_buf(&mut held).await {
            let mut replies = Vec::new();
            while let Ok(Step::Request(request)) = scanner.scan(&held) {
                let name = request.name(&held).unwrap_or_default().to_ascii_uppercase();
                let name = String::from_utf8(name).unwrap();
                let key = request.arg(&held, 1).map(|key| key.into_owned()).unwrap_or_default();
                held.drain(..request.len);
                self.asked.lock().unwrap().push((port, name.clone()));
                let moved = (self.moved)(port, &key).filter(|_| ["GET", "SET"].contains(&name.as_str()));
                let moved = moved.map(|to| format!("-MOVED {} localhost:{to}\r\n", slot::of_key(&key)));
                if moved.is_some() && name == "SET" {
                    // What others say is there before.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let reply: &[u8] = match name.as_str() {
                    _ if moved.is_some() => moved.as_deref().unwrap_or_default().as_bytes(),
                    "CLUSTER" => b"-NOPERM no\r\n",
                    "EXEC" => b"*1\r\n+OK\r\n",
                    "GET" | "SET" if in_multi => b"+QUEUED\r\n",
                    "GET" => b"$1\r\n1\r\n",
                    "SET" => {
                        let _ = self.may.clone().wait_for(|may| *may).await;
                        b"+OK\r\n"
                    }
                    _ => b"+OK\r\n",
                };
                in_multi = name == "MULTI" || (in_multi && name != "EXEC");
                replies.extend_from_slice(reply);
            }
            if tls.write_all(&replies).await.is_err() || tls.flush().await.is_err() {
                return;
            }
        }
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "localhost".to_owned(), port }
}

/// A node as discovery finds it.
fn known(role: &str, port: u16, slots: Vec<(u16, u16)>) -> Node {
    Node { id: port.to_string(), role: role.to_owned(), endpoint: Some(endpoint(port)), slots }
}

#[test]
fn what_waits_on_a_link_that_is_dialled_again_is_not_overtaken() {
    run(async {
        let world = World::start(&[]).await;
        let (primary, replica) = (free_port(), free_port());
        let (let_answer, may) = watch::channel(false);
        let acceptor = TlsAcceptor::from(cache_tls(&world));
        let nodes = Told { acceptor, asked: Asked::default(), may, moved: Arc::new(|_, _| None) };
        let asked = |name: &str| -> Vec<u16> {
            let asked = nodes.asked.lock().unwrap();
            asked.iter().filter(|(_, asked)| asked == name).map(|(port, _)| *port).collect()
        };
        let serving = nodes.listen(primary).await;
        let all = || vec![(0, 16_383)];
        let database = Database {
            cluster_mode: true,
            endpoint: endpoint(primary),
            nodes: vec![known("primary", primary, all()), known("replica", replica, all())],
            ..world.database("told")
        };
        world.add(database).await;
        let mut client = world.routed("alice", "told", "iam-rw").await;
        assert_eq!(client.command(&["ECHO", "x"]).await, "+OK");
        // The primary goes. What is kept nowhere waits on its link, which finds the replica in the end: nobody tells
        // the map.
        serving.abort();
        wait_until("its link is lost", || world.shared.metrics.cluster_links_lost.value() == 1).await;
        nodes.listen(replica).await;
        client.send(encoded(&["SET", "k", &"v".repeat(2 << 20)])).await;
        wait_until("the replica is asked", || asked("SET") == [replica]).await;
        // It is back, and by the map the next command is its own.
        nodes.listen(primary).await;
        client.send(encoded(&["GET", "k"])).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(asked("GET").is_empty(), "it overtook");
        let_answer.send(true).unwrap();
        assert_eq!(client.reply().await, "+OK");
        assert_eq!(client.reply().await, "1");
        assert_eq!((asked("SET"), asked("GET")), (vec![replica], vec![primary]));
    });
}

/// Each of several shards gave half of its slots to a new one, and the map is older: what is sent again for later
/// commands never stands in the way of the one whose turn it is.
#[test]
fn a_long_pipeline_over_many_shards_finds_its_way_to_a_new_one() {
    run(async {
        let world = World::start(&[]).await;
        let ports: Vec<u16> = (0..9).map(|_| free_port()).collect();
        let (_let_answer, may) = watch::channel(true);
        let acceptor = TlsAcceptor::from(cache_tls(&world));
        let taker = ports[8];
        let moved: Moved = Arc::new(move |port, key| {
            (port != taker && slot::of_key(key).is_multiple_of(2)).then_some(taker)
        });
        let nodes = Told { acceptor, asked: Asked::default(), may, moved };
        let mut shards = Vec::new();
        for (number, port) in (0..).zip(&ports) {
            nodes.listen(*port).await;
            let last = if number == 8 { 16_383 } else { number * 1_820 + 1_819 };
            shards.push(known("primary", *port, vec![(number * 1_820, last)]));
        }
        for round in 0..5 {
            // Another name, and so another map.
            let name = format!("told-{round}");
            let database = Database {
                cluster_mode: true,
                endpoint: endpoint(ports[0]),
                nodes: shards.clone(),
                ..world.database(&name)
            };
            world.add(database).await;
            let mut client = world.routed("alice", &name, "iam-rw").await;
            let pipeline: Vec<u8> = (0..1_000)
                .flat_map(|key: u32| {
                    encoded(&["GET", &format!("{round}:{}", key.wrapping_mul(2_654_435_761))])
                })
                .collect();
            client.send(pipeline).await;
            for key in 0..1_000 {
                let reply = tokio::time::timeout(Duration::from_secs(5), client.reply()).await;
                assert_eq!(reply.as_deref(), Ok("1"), "round {round}, key {key}");
            }
        }
    });
}

/// A command that is sent again goes into no transaction of the client's, on whatever node that is.
#[test]
fn what_is_sent_again_keeps_out_of_a_transaction() {
    run(async {
        let world = World::start(&[]).await;
        let [t, s, u] = [(); 3].map(|()| free_port());
        let (_let_answer, may) = watch::channel(true);
        let acceptor = TlsAcceptor::from(cache_tls(&world));
        // T gave one key to U, and S gave one to T.
        let moved: Moved = Arc::new(move |port, key| match (key, port) {
            (b"a", port) if port == t => Some(u),
            (b"s", port) if port == s => Some(t),
            _ => None,
        });
        let nodes = Told { acceptor, asked: Asked::default(), may, moved };
        let from = slot::of_key(b"s");
        let database = Database {
            cluster_mode: true,
            endpoint: endpoint(t),
            nodes: vec![
                known("primary", t, vec![(0, from - 1), (from + 1, 16_382)]),
                known("primary", s, vec![(from, from)]),
                known("primary", u, vec![(16_383, 16_383)]),
            ],
            ..world.database("told")
        };
        for port in [t, s, u] {
            nodes.listen(port).await;
        }
        world.add(database).await;
        let mut client = world.routed("alice", "told", "iam-rw").await;
        assert_eq!(client.command(&["WATCH", "k"]).await, "+OK");
        let pipeline = [&["GET", "a"][..], &["SET", "s", "1"], &["MULTI"], &["SET", "k", "1"]];
        client.send(pipeline.iter().flat_map(|words| encoded(words)).collect::<Vec<_>>()).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.send(encoded(&["EXEC"])).await;
        for expected in ["1", "+OK", "+OK", "+QUEUED"] {
            assert_eq!(client.reply().await, expected);
        }
        assert_eq!(client.reply().await, "[+OK]");
    });
}
