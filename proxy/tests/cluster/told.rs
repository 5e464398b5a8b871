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

/// Nodes that let everybody in, tell nobody the slot map, and answer what writes when they may.
#[derive(Clone)]
struct Told {
    acceptor: TlsAcceptor,
    asked: Asked,
    may: watch::Receiver<bool>,
    moved: Moved,
    /// What is read changes at once, and who reads is told.
    invalidates: bool,
}

impl Told {
    fn new(world: &World, may: watch::Receiver<bool>, moved: Moved) -> Self {
        let acceptor = TlsAcceptor::from(cache_tls(world));
        Self { acceptor, asked: Asked::default(), may, moved, invalidates: false }
    }

    /// The nodes that were asked this, in order.
    fn asked(&self, name: &str) -> Vec<u16> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(_, asked)| asked == name).map(|(port, _)| *port).collect()
    }

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
        // What comes together is answered together.
        let held = Vec::with_capacity(64 * 1024);
        let (mut scanner, mut held, mut in_multi) = (Scanner::new(limits), held, false);
        while let Ok(1..) = tls.read_buf(&mut held).await {
            let mut replies = Vec::new();
            while let Ok(Step::Request(request)) = scanner.scan(&held) {
                let name = request.name(&held).unwrap_or_default().to_ascii_uppercase();
                let name = String::from_utf8(name).unwrap();
                let key = request.arg(&held, 1).map(|key| key.into_owned()).unwrap_or_default();
                held.drain(..request.len);
                self.asked.lock().unwrap().push((port, name.clone()));
                let has_key = ["GET", "SET", "BLPOP"].contains(&name.as_str());
                let moved = (self.moved)(port, &key).filter(|_| has_key);
                let moved = moved.map(|to| format!("-MOVED {} localhost:{to}\r\n", slot::of_key(&key)));
                if moved.is_some() && name == "SET" {
                    // What others say is there before.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let reply: &[u8] = match name.as_str() {
                    _ if moved.is_some() => moved.as_deref().unwrap_or_default().as_bytes(),
                    "CLUSTER" => b"-NOPERM no\r\n",
                    "CLIENT" if key.eq_ignore_ascii_case(b"ID") => b"-NOPERM no\r\n",
                    "HELLO" => b"%1\r\n+proto\r\n:3\r\n",
                    "EXEC" => b"*1\r\n+OK\r\n",
                    "GET" | "SET" if in_multi => b"+QUEUED\r\n",
                    "GET" if self.invalidates => b"$1\r\n1\r\n>2\r\n+invalidate\r\n+its key\r\n",
                    "GET" => b"$1\r\n1\r\n",
                    "SET" | "BLPOP" => {
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

/// The key of this number among those whose slots are these.
fn key_in(slots: std::ops::RangeInclusive<u16>, number: usize) -> String {
    let keys = (0..).map(|key: u32| key.to_string());
    keys.filter(|key| slots.contains(&slot::of_key(key.as_bytes()))).nth(number).unwrap()
}

#[test]
fn what_waits_on_a_link_that_is_dialled_again_is_not_overtaken() {
    run(async {
        let world = World::start(&[]).await;
        let (primary, replica) = (free_port(), free_port());
        let (let_answer, may) = watch::channel(false);
        let nodes = Told::new(&world, may, Arc::new(|_, _| None));
        let asked = |name| nodes.asked(name);
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
        let taker = ports[8];
        let moved: Moved = Arc::new(move |port, key| {
            (port != taker && slot::of_key(key).is_multiple_of(2)).then_some(taker)
        });
        let nodes = Told::new(&world, may, moved);
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
        // T gave one key to U, and S gave one to T.
        let moved: Moved = Arc::new(move |port, key| match (key, port) {
            (b"a", port) if port == t => Some(u),
            (b"s", port) if port == s => Some(t),
            _ => None,
        });
        let nodes = Told::new(&world, may, moved);
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

/// What a node says behind the reply to a command is not told before that reply, while the command in front is sent
/// again.
#[test]
fn an_invalidation_stands_behind_the_reply_that_it_is_about() {
    run(async {
        let world = World::start(&[]).await;
        let [t, u] = [(); 2].map(|()| free_port());
        let (let_answer, may) = watch::channel(false);
        let moved: Moved = Arc::new(move |port, key| (key == b"a" && port == t).then_some(u));
        let nodes = Told { invalidates: true, ..Told::new(&world, may, moved) };
        let database = Database {
            cluster_mode: true,
            endpoint: endpoint(t),
            nodes: vec![known("primary", t, vec![(0, 16_382)]), known("primary", u, vec![(16_383, 16_383)])],
            ..world.database("told")
        };
        for port in [t, u] {
            nodes.listen(port).await;
        }
        world.add(database).await;
        let mut client = world.routed("alice", "told", "iam-rw").await;
        client.command(&["HELLO", "3"]).await;
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON"]).await, "+OK");
        client.send([encoded(&["SET", "a", "1"]), encoded(&["GET", "b"])].concat()).await;
        wait_until("the other node is asked", || nodes.asked("SET") == [t, u]).await;
        let_answer.send(true).unwrap();
        for expected in ["+OK", "1", ">[+invalidate +its key]"] {
            assert_eq!(client.reply().await, expected);
        }
    });
}

/// What stands behind a call that blocks waits for its answer, also where that call was sent again in a batch.
#[test]
fn what_is_sent_again_stays_behind_a_call_that_blocks() {
    run(async {
        let world = World::start(&[]).await;
        let [t, u, v] = [(); 3].map(|()| free_port());
        let (let_answer, may) = watch::channel(false);
        let own = |number: u16| key_in(0..=5_000, usize::from(number));
        let [a, b, c] = [0, 1, 2].map(own);
        let (first, second, third) = (a.clone(), b.clone(), c.clone());
        let moved: Moved = Arc::new(move |port, key| match key {
            _ if port != t => None,
            key if key == first.as_bytes() || key == second.as_bytes() => Some(u),
            key if key == third.as_bytes() => Some(v),
            _ => None,
        });
        let nodes = Told::new(&world, may, moved);
        let database = Database {
            cluster_mode: true,
            endpoint: endpoint(t),
            nodes: vec![
                known("primary", t, vec![(0, 5_000)]),
                known("primary", u, vec![(5_001, 10_000)]),
                known("primary", v, vec![(10_001, 16_383)]),
            ],
            ..world.database("told")
        };
        for port in [t, u, v] {
            nodes.listen(port).await;
        }
        world.add(database).await;
        let mut client = world.routed("alice", "told", "iam-rw").await;
        // All links are there, so that nothing waits for one.
        for slots in [5_001..=10_000, 10_001..=16_383] {
            assert_eq!(client.command(&["GET", &key_in(slots, 0)]).await, "1");
        }
        // And nobody asks any more who the session is there.
        assert_eq!(client.command(&["BRPOP", &key_in(0..=5_000, 9), "0"]).await, "+OK");
        let pipeline = [&["GET", &a][..], &["BLPOP", &b, "0"], &["SET", &c, "1"]];
        client.send(pipeline.iter().flat_map(|words| encoded(words)).collect::<Vec<_>>()).await;
        wait_until("the call blocks", || nodes.asked("BLPOP").last() == Some(&u)).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!nodes.asked("SET").contains(&v), "it overtook");
        let_answer.send(true).unwrap();
        for expected in ["1", "+OK", "+OK"] {
            assert_eq!(client.reply().await, expected);
        }
        assert_eq!(nodes.asked("SET").last(), Some(&v));
    });
}

/// A server of several databases in cluster mode: what is selected is selected at every node, whenever it is reached.
#[test]
fn a_selected_database_is_that_of_every_link() {
    run(async {
        let world = World::start(&[]).await;
        let [t, u] = [(); 2].map(|()| free_port());
        let (_let_answer, may) = watch::channel(true);
        let nodes = Told::new(&world, may, Arc::new(|_, _| None));
        let database = Database {
            cluster_mode: true,
            endpoint: endpoint(t),
            nodes: vec![known("primary", t, vec![(0, 8_191)]), known("primary", u, vec![(8_192, 16_383)])],
            ..world.database("told")
        };
        let first = nodes.listen(t).await;
        nodes.listen(u).await;
        world.add(database).await;
        let (here, there) = (key_in(0..=8_191, 0), key_in(8_192..=16_383, 0));
        let mut client = world.routed("alice", "told", "iam-rw").await;
        assert_eq!(client.command(&["SELECT", "3"]).await, "+OK");
        for key in [&here, &there] {
            assert_eq!(client.command(&["GET", key]).await, "1");
        }
        assert_eq!(nodes.asked("SELECT"), [t, u]);
        assert_eq!(nodes.asked("GET"), [t, u]);
        // A link that is made again, too.
        first.abort();
        wait_until("its link is lost", || world.shared.metrics.cluster_links_lost.value() == 1).await;
        nodes.listen(t).await;
        assert_eq!(client.command(&["GET", &here]).await, "1");
        assert_eq!(nodes.asked("SELECT"), [t, u, t]);
        // In a transaction it would be selected at one node alone.
        for (select, queued) in [("4", false), ("0", false), ("3", true)] {
            assert_eq!(client.command(&["MULTI"]).await, "+OK");
            let answer = client.command(&["SELECT", select]).await;
            assert_eq!(answer == "+QUEUED", queued, "{select}: {answer}");
            assert!(queued || answer.contains("not allowed inside MULTI"), "{answer}");
            assert_eq!(client.command(&["EXEC"]).await.starts_with("-EXECABORT"), !queued);
        }
        // Nor where another one is about to be selected.
        let pipeline = [&["SELECT", "3"][..], &["MULTI"], &["SELECT", "3"], &["EXEC"]];
        client.send(pipeline.iter().flat_map(|words| encoded(words)).collect::<Vec<_>>()).await;
        assert_eq!((client.reply().await, client.reply().await), ("+OK".to_owned(), "+OK".to_owned()));
        assert!(client.reply().await.contains("not allowed inside MULTI"));
        assert!(client.reply().await.starts_with("-EXECABORT"));
        // Back, it is said no more.
        assert_eq!(client.command(&["SELECT", "0"]).await, "+OK");
        assert_eq!(nodes.asked("SELECT").len(), 8, "{:?}", nodes.asked("SELECT"));
    });
}
