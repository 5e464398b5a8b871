//! IAM lives of seconds: whatever a client does, the proxy signs its connection in again in time, and the client
//! sees nothing of it.
//!
//! Between the proxy and the server stands a relay that does what AWS does: it cuts a connection whose last AUTH
//! is a life ago, and it counts an AUTH that comes inside MULTI, which AWS refuses.
//! `KEYSTILE_LIVES` says for how many lives each of the 20 clients goes on (1 by default).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keystile_resp::reply::{Limits as ReplyLimits, ReplyScanner, Step as ReplyStep};
use keystile_resp::request::{Limits, Scanner, Step};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::kinds::add_database;
use super::support::{Client, World, cache_tls, run};

const LIFE: Duration = Duration::from_secs(10);
const LIFE_S: &str = "10";

#[derive(Default)]
struct Seen {
    auths: AtomicUsize,
    auths_in_multi: AtomicUsize,
    cut: AtomicUsize,
}

/// Starts the relay; its port.
async fn relay(world: &World, seen: Arc<Seen>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(cache_tls(world));
    let pem = std::fs::read(world.dir.path().join("cache.crt")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(keystile_proxy::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (connector, server) = (TlsConnector::from(Arc::new(config)), world.valkey.port);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, connector, seen) = (acceptor.clone(), connector.clone(), Arc::clone(&seen));
            tokio::spawn(async move {
                let _ = pass(acceptor, connector, tcp, server, &seen).await;
            });
        }
    });
    port
}

async fn pass(
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    near: TcpStream,
    server: u16,
    seen: &Seen,
) -> std::io::Result<()> {
    let near = acceptor.accept(near).await?;
    let far = TcpStream::connect(("127.0.0.1", server)).await?;
    let far = connector.connect(ServerName::try_from("localhost").unwrap(), far).await?;
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
        (tokio::io::split(near), tokio::io::split(far));
    let limits = Limits { whole: 1 << 30, ..Limits::SIGNED_IN };
    let (mut scanner, mut held, mut in_multi) = (Scanner::new(limits), Vec::new(), false);
    // The life begins anew when the server answers an AUTH: behind this many replies.
    let (mut owed, mut auth_at): (u64, std::collections::VecDeque<u64>) = Default::default();
    let mut replies = ReplyScanner::new(ReplyLimits { whole: 1 << 30, ..ReplyLimits::DEFAULT });
    let (mut answers, mut answered) = (Vec::new(), 0_u64);
    let mut ends = tokio::time::Instant::now() + LIFE;
    loop {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        tokio::select! {
            () = tokio::time::sleep_until(ends) => {
                seen.cut.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            got = near_in.read(&mut up) => {
                let length = got?;
                if length == 0 {
                    return Ok(());
                }
                held.extend_from_slice(&up[..length]);
                let mut at = 0;
                while let Ok(Step::Request(request)) = scanner.scan(&held[at..]) {
                    let name = request.name(&held[at..]).unwrap().to_ascii_uppercase();
                    at += request.len;
                    owed += 1;
                    match name.as_slice() {
                        b"AUTH" => {
                            seen.auths.fetch_add(1, Ordering::Relaxed);
                            seen.auths_in_multi.fetch_add(usize::from(in_multi), Ordering::Relaxed);
                            auth_at.push_back(owed);
                        }
                        b"MULTI" => in_multi = true,
                        b"EXEC" | b"DISCARD" => in_multi = false,
                        _ => {}
                    }
                }
                held.drain(..at);
                far_out.write_all(&up[..length]).await?;
                far_out.flush().await?;
            }
            got = far_in.read(&mut down) => {
                let length = got?;
                if length == 0 {
                    return Ok(());
                }
                answers.extend_from_slice(&down[..length]);
                let mut at = 0;
                while let Ok(ReplyStep::Frame(frame)) = replies.scan(&answers[at..]) {
                    // The clients here subscribe in RESP3 towards the server: messages are pushes, and so are
                    // confirmations, which are taken for the replies that they stand for.
                    let is_message = frame.text(&answers[at..]).is_some_and(|text| text == b"message");
                    at += frame.len;
                    if !is_message {
                        answered += 1;
                    }
                    while auth_at.front().is_some_and(|place| *place <= answered) {
                        auth_at.pop_front();
                        ends = tokio::time::Instant::now() + LIFE;
                    }
                }
                answers.drain(..at);
                near_out.write_all(&down[..length]).await?;
                near_out.flush().await?;
            }
        }
    }
}

struct Long {
    world: World,
    seen: Arc<Seen>,
}

impl Long {
    async fn start() -> Self {
        let world = World::start(&[("KEYSTILE_IAM_LIFE_S", LIFE_S)]).await;
        let seen = Arc::<Seen>::default();
        let port = relay(&world, Arc::clone(&seen)).await;
        add_database(&world, "mortal", port).await;
        Self { world, seen }
    }

    async fn client(&self) -> Client {
        self.world.routed("alice", "mortal", "iam-rw").await
    }

    /// A client whose connection is not cut.
    async fn helper(&self) -> Client {
        self.world.routed("alice", "orders", "iam-rw").await
    }
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Pipelines of any depth, each reply checked.
async fn pipelines(mut client: Client, key: String, until: Instant) {
    let mut count = 0_u64;
    while Instant::now() < until {
        let depth = 1 + count % 97;
        client.send(format!("INCR {key}\r\n").repeat(usize::try_from(depth).unwrap())).await;
        for _ in 0..depth {
            count += 1;
            assert_eq!(client.line().await, format!(":{count}"));
        }
        pause(count % 7).await;
    }
}

/// Transactions one right behind the other, cut at any place, with a pause in the middle of them.
async fn transactions(mut client: Client, key: String, until: Instant) {
    let mut count = 0;
    while Instant::now() < until {
        client.send(format!("WATCH {key}\r\nGET nothing\r\nMULTI\r\nINCR {key}\r\n")).await;
        assert_eq!(client.lines(4).await, ["+OK", "$-1", "+OK", "+QUEUED"]);
        pause(if count % 5 == 0 { 120 } else { 3 }).await;
        // The end of this one and the beginning of the next in one packet: the only boundary is between them.
        client.send(format!("EXEC\r\nMULTI\r\nGET nothing\r\nINCR {key}\r\nEXE")).await;
        assert_eq!(client.lines(2).await, ["*1".to_owned(), format!(":{}", count + 1)]);
        pause(2).await;
        client.send("C\r\n").await;
        assert_eq!(client.lines(3).await, ["+OK", "+QUEUED", "+QUEUED"]);
        assert_eq!(client.lines(3).await, ["*2".to_owned(), "$-1".to_owned(), format!(":{}", count + 2)]);
        count += 2;
    }
}

/// Numbered messages, none lost and none twice, and a PING in between.
async fn subscriber(mut client: Client, mut other: Client, resp3: bool, channel: String, until: Instant) {
    if resp3 {
        client.send("HELLO 3\r\n").await;
        while client.line().await != "$7" {}
        while client.line().await != "*0" {}
    }
    let marker = if resp3 { ">3" } else { "*3" };
    client.send(format!("SUBSCRIBE {channel}\r\n")).await;
    let length = format!("${}", channel.len());
    assert_eq!(client.lines(6).await, [marker, "$9", "subscribe", &length, &channel, ":1"]);
    let mut count = 0;
    while Instant::now() < until {
        count += 1;
        assert_eq!(other.ask(&format!("PUBLISH {channel} m{count}")).await, ":1");
        let text = format!("m{count}");
        let expected = [marker, "$7", "message", &length, &channel, &format!("${}", text.len()), &text];
        assert_eq!(client.lines(7).await, expected);
        if count % 10 == 0 {
            client.send("PING\r\n").await;
            if resp3 {
                assert_eq!(client.line().await, "+PONG");
            } else {
                assert_eq!(client.lines(5).await, ["*2", "$4", "pong", "$0", ""]);
            }
        }
        pause(15).await;
    }
    client.send("UNSUBSCRIBE\r\nGET nothing\r\n").await;
    assert_eq!(client.lines(6).await[2], "unsubscribe");
    assert_eq!(client.line().await, if resp3 { "_" } else { "$-1" });
}

/// Calls that block for a while, some of them answered, some not.
async fn blocking(mut client: Client, mut other: Client, key: String, until: Instant) {
    let mut count = 0;
    while Instant::now() < until {
        client.send(format!("BLPOP {key} 0.25\r\nPING\r\n")).await;
        let text = format!("v{count}");
        if count % 3 > 0 {
            pause(count * 37 % 100).await;
            other.ask(&format!("RPUSH {key} {text}")).await;
        }
        let first = client.line().await;
        if first == "*-1" {
            // Also where this machine was too slow.
            assert_eq!(client.line().await, "+PONG");
            other.ask(&format!("DEL {key}")).await;
        } else {
            let expected = [&format!("${}", key.len()), &key, &format!("${}", text.len()), &text, "+PONG"];
            assert_eq!((first.as_str(), client.lines(5).await), ("*2", expected.map(str::to_owned).to_vec()));
        }
        count += 1;
    }
}

/// Replies are switched off all the while: nothing at all comes, and everything was done.
async fn silent(mut client: Client, key: String, until: Instant) {
    client.send("CLIENT REPLY OFF\r\n").await;
    let mut count = 0;
    while Instant::now() < until {
        count += 1;
        client.send(format!("SET {key} {count}\r\n")).await;
        pause(10).await;
    }
    client.send(format!("CLIENT REPLY ON\r\nGET {key}\r\n")).await;
    assert_eq!(client.lines(2).await[0], "+OK");
    assert_eq!(client.line().await, count.to_string());
}

/// Values that are always on their way, up and down.
async fn streams(mut client: Client, key: String, until: Instant) {
    let value = "x".repeat(1 << 20);
    while Instant::now() < until {
        client.send(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n", key.len(), value.len())).await;
        for part in value.as_bytes().chunks(128 << 10) {
            client.send(part).await;
            pause(8).await;
        }
        client.send(format!("\r\nGET {key}\r\n")).await;
        assert_eq!(client.lines(2).await, ["+OK".to_owned(), format!("${}", value.len())]);
        assert_eq!(client.line().await.len(), value.len());
    }
}

#[test]
fn a_hundred_lives_pass_unseen() {
    run(async {
        let lives: u32 = std::env::var("KEYSTILE_LIVES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let long = Long::start().await;
        let until = Instant::now() + LIFE * lives + LIFE / 2;
        let mut clients = JoinSet::new();
        for number in 0..3 {
            let key = |kind: &str| format!("{kind}{number}");
            clients.spawn(pipelines(long.client().await, key("p"), until));
            clients.spawn(transactions(long.client().await, key("t"), until));
            clients.spawn(subscriber(long.client().await, long.helper().await, false, key("c"), until));
            clients.spawn(subscriber(long.client().await, long.helper().await, true, key("d"), until));
            clients.spawn(blocking(long.client().await, long.helper().await, key("b"), until));
            clients.spawn(silent(long.client().await, key("s"), until));
        }
        for number in 0..2 {
            clients.spawn(streams(long.client().await, format!("v{number}"), until));
        }
        // One that does nothing at all.
        let mut idle = long.client().await;
        while let Some(done) = clients.join_next().await {
            done.unwrap();
        }
        assert_eq!(idle.ask("ECHO still").await, "$5");
        let again = long.world.shared.metrics.sign_ins_again.value();
        let count = |what: &AtomicUsize| what.load(Ordering::Relaxed);
        println!("{again} lives were renewed; {} AUTHs", count(&long.seen.auths));
        assert!(again >= u64::from(lives) * 20, "{again}");
        assert_eq!((count(&long.seen.cut), count(&long.seen.auths_in_multi)), (0, 0));
        assert_eq!(long.world.shared.metrics.session_ends.value("iam_life"), 0);
    });
}

#[test]
fn what_outlives_its_connection_ends_with_the_reason() {
    run(async {
        let long = Long::start().await;
        let mut transaction = long.client().await;
        transaction.send("MULTI\r\nSET never 1\r\n").await;
        let mut call = long.client().await;
        call.send("BLPOP nothing 0\r\n").await;
        // What is watched alone keeps nobody from signing in again, and stays watched.
        let mut watch = long.client().await;
        watch.send("WATCH w\r\n").await;
        let mut other = long.helper().await;
        assert_eq!(transaction.lines(2).await, ["+OK", "+QUEUED"]);
        let line = transaction.line().await;
        assert!(
            line.starts_with("-ERR keystile: connect again: the cache ends IAM connections after 10 s"),
            "{line}"
        );
        assert!(line.ends_with("a transaction was open all the while (MULTI without EXEC)"), "{line}");
        assert_eq!(transaction.rest().await, "");
        let line = call.line().await;
        assert!(line.ends_with("a call that blocks was in front of it"), "{line}");
        assert_eq!(call.rest().await, "");
        pause(1_000).await;
        assert_eq!(other.ask("SET w 1").await, "+OK");
        watch.send("MULTI\r\nGET w\r\nEXEC\r\nPING\r\n").await;
        assert_eq!(watch.lines(5).await, ["+OK", "+OK", "+QUEUED", "*-1", "+PONG"]);
        assert_eq!(other.ask("EXISTS never").await, ":0");
        assert_eq!(long.seen.cut.load(Ordering::Relaxed), 0, "it is us who ends it, with words");
    });
}

#[test]
fn a_token_that_is_refused_is_no_end() {
    run(async {
        let long = Long::start().await;
        let mut client = long.client().await;
        assert_eq!(client.ask("SET a 1").await, "+OK");
        long.world.tokens.wrong.store(2, Ordering::Relaxed);
        let until = Instant::now() + LIFE * 2;
        while Instant::now() < until {
            assert_eq!(client.lines_of("GET a\r\n", 2).await, ["$1", "1"]);
            pause(20).await;
        }
        let metrics = &long.world.shared.metrics;
        assert_eq!(metrics.sign_ins_again_failed.value(), 2);
        assert!(metrics.sign_ins_again.value() >= 1);
        // One that never works again ends the session, and says why.
        long.world.tokens.wrong.store(usize::MAX, Ordering::Relaxed);
        let mut line = String::new();
        while !line.starts_with('-') {
            line = client.line_after(b"GET a\r\n").await;
            pause(5).await;
        }
        assert!(line.contains("the last try failed (WRONGPASS"), "{line}");
    });
}
