//! The same bytes straight to a server and through the proxy to another one of its kind, and every byte of the
//! answers compared.
//!
//! Two servers, so that both start from the same state. What cannot be the same (ids, addresses, times) is
//! made the same by [`Rules`]; whatever else differs is a fault, or is written down in docs/FIDELITY.md.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use keystile_resp::reply::{Limits, ReplyScanner, Step};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cluster::Cluster;
use super::server::start_valkey;
use super::{Client, TOKEN, Valkey, World};

/// The server counts as done once it said nothing for this long.
const QUIET: Duration = Duration::from_millis(20);
/// The proxy's answers are waited for this long, once the server's are there.
const LATE: Duration = Duration::from_secs(20);
/// The user of both connections.
pub const USER: &str = "iam-admin";
/// What signs it in straight at a server.
pub const TOKEN_AUTH: &str = "AUTH iam-admin the-only-token-that-logs-in\r\n";

/// One frame.
pub type Frame = Vec<u8>;
/// Makes what may differ the same, in place.
pub type Rules = fn(&mut Frame);

/// A connection, cut into frames.
pub struct Side {
    write: WriteHalf<TlsStream<TcpStream>>,
    read: ReadHalf<TlsStream<TcpStream>>,
    scanner: ReplyScanner,
    held: Vec<u8>,
    frames: VecDeque<Frame>,
    ended: bool,
}

impl Side {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let (read, write) = tokio::io::split(stream);
        let limits = Limits { whole: 1 << 40, ..Limits::DEFAULT };
        let (held, frames) = Default::default();
        Self { write, read, scanner: ReplyScanner::new(limits), held, frames, ended: false }
    }

    /// Sends; answers are read meanwhile, so that neither side waits for the other for ever.
    async fn send(&mut self, bytes: &[u8]) {
        let Self { write, read, held, ended, .. } = self;
        let mut sending = std::pin::pin!(async {
            // A server that has closed says so to the reader.
            let _ = write.write_all(bytes).await;
            let _ = write.flush().await;
        });
        loop {
            let mut more = vec![0; 65_536];
            tokio::select! {
                () = &mut sending => break,
                got = read.read(&mut more), if !*ended => match got {
                    Ok(0) | Err(_) => *ended = true,
                    Ok(length) => held.extend_from_slice(&more[..length]),
                },
            }
        }
        self.cut();
    }

    /// Reads once, for at most so long. False where nothing came.
    async fn read(&mut self, patience: Duration) -> bool {
        if self.ended {
            return false;
        }
        let mut more = vec![0; 65_536];
        match timeout(patience, self.read.read(&mut more)).await {
            Err(_) => return false,
            Ok(Ok(0) | Err(_)) => self.ended = true,
            Ok(Ok(length)) => {
                self.held.extend_from_slice(&more[..length]);
                self.cut();
            }
        }
        true
    }

    fn cut(&mut self) {
        let mut at = 0;
        loop {
            match self.scanner.scan(&self.held[at..]) {
                Ok(Step::Frame(frame)) => {
                    self.frames.push_back(self.held[at..at + frame.len].to_vec());
                    at += frame.len;
                }
                Ok(Step::NeedMore) => break,
                other => panic!("{other:?} in {:?}", String::from_utf8_lossy(&self.held[at..])),
            }
        }
        self.held.drain(..at);
    }
}

/// A client twice: straight at a server, and through the proxy.
pub struct Twin {
    direct: Side,
    proxied: Side,
    rules: Rules,
    /// What was sent, for the words of a failure.
    said: VecDeque<String>,
    /// Frames that were compared.
    pub compared: usize,
}

/// A proxy before one server, and a second server like it.
pub struct Twins {
    pub world: World,
    reference: Valkey,
    straight: Arc<ClientConfig>,
    dir: tempfile::TempDir,
    /// The cluster that is behind the proxy instead, and its name.
    cluster: Option<Cluster>,
}

impl Twins {
    /// A proxy before a cluster of so many shards, and a single server.
    pub async fn before_a_cluster(shards: usize) -> Self {
        let mut twins = Self::start(&[]).await;
        let cluster = Cluster::start(twins.world.dir.path(), shards, 0);
        twins.world.serve_cluster(&cluster).await;
        twins.cluster = Some(cluster);
        twins
    }

    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let world = World::start(settings).await;
        let dir = tempfile::tempdir().unwrap();
        let reference = start_valkey(dir.path());
        let mut roots = RootCertStore::empty();
        for home in [dir.path(), world.dir.path()] {
            let pem = std::fs::read(home.join("cache.crt")).unwrap();
            roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        }
        let straight = ClientConfig::builder_with_provider(keystile_proxy::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { world, reference, straight: Arc::new(straight), dir, cluster: None }
    }

    /// A client of both, signed in.
    pub async fn twin(&self, rules: Rules) -> Twin {
        self.twin_as(USER, rules).await
    }

    /// A client of both as a db user of the fixture.
    pub async fn twin_as(&self, db_user: &str, rules: Rules) -> Twin {
        let direct = self.straight_as(self.reference.port, db_user).await;
        let database = if self.cluster.is_some() { "sessions" } else { "orders" };
        let proxied = self.world.routed("alice", database, db_user).await.stream;
        Twin {
            direct: Side::new(direct),
            proxied: Side::new(proxied),
            rules,
            said: VecDeque::new(),
            compared: 0,
        }
    }

    /// A client straight at a server.
    async fn straight_as(&self, port: u16, db_user: &str) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.straight)).connect(name, tcp).await.unwrap();
        let mut client = Client::over(stream);
        assert_eq!(client.ask(&format!("AUTH {db_user} {TOKEN}")).await, "+OK");
        client.stream
    }

    /// Somebody else, straight at both servers: what is said to it happens to both.
    pub async fn others(&self) -> [Client; 2] {
        let mut others = Vec::new();
        for port in [self.reference.port, self.world.valkey.port] {
            others.push(Client::over(self.straight_as(port, USER).await));
        }
        others.try_into().ok().unwrap()
    }
}

/// Tells both servers something, and waits for the first line of their answers.
pub async fn tell(others: &mut [Client; 2], command: &str) -> [String; 2] {
    let [left, right] = others;
    [left.ask(command).await, right.ask(command).await]
}

impl Twin {
    /// Sends the same to both.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.send_each(bytes, bytes).await;
    }

    /// Sends each side its own.
    pub async fn send_each(&mut self, direct: &[u8], proxied: &[u8]) {
        // The long values of the fuzzer say nothing.
        let mut shown = String::from_utf8_lossy(proxied).replace("abcdefgh\r\n$:*+", "");
        shown.truncate(shown.floor_char_boundary(20_000));
        self.said.push_back(format!("{shown}--- ({} equal before)\n", self.compared));
        if self.said.len() > 6 {
            self.said.pop_front();
        }
        tokio::join!(self.direct.send(direct), self.proxied.send(proxied));
    }

    /// Takes out the frames behind this one that only the server was asked for.
    pub async fn drop_direct_after(&mut self, frame: &[u8], count: usize) {
        loop {
            let found = self.direct.frames.iter().position(|own| own == frame);
            if let Some(at) = found.filter(|at| self.direct.frames.len() > at + count) {
                self.direct.frames.drain(at + 1..=at + count);
                return;
            }
            assert!(self.direct.read(LATE).await, "{}: no {frame:?}", self.story());
        }
    }

    /// Asks both, and takes one answer of each out, uncompared.
    pub async fn ask_each(&mut self, command: &str) -> (Vec<Frame>, Vec<Frame>) {
        self.send(command).await;
        self.taken(1).await
    }

    /// Takes so many frames of each side out, uncompared.
    pub async fn taken(&mut self, count: usize) -> (Vec<Frame>, Vec<Frame>) {
        for side in [&mut self.direct, &mut self.proxied] {
            while side.frames.len() < count {
                assert!(side.read(LATE).await, "no answer");
            }
        }
        (self.direct.frames.drain(..count).collect(), self.proxied.frames.drain(..count).collect())
    }

    /// Waits until both have answered, and compares. The frames, as the server sent them.
    pub async fn settle(&mut self) -> Vec<Frame> {
        while self.direct.read(QUIET).await {}
        let until = Instant::now() + LATE;
        while self.proxied.frames.len() < self.direct.frames.len() && Instant::now() < until {
            if !self.proxied.read(until - Instant::now()).await {
                break;
            }
        }
        self.compare()
    }

    /// The same for an answer that takes its time: waits until there are so many frames of the server's.
    pub async fn settle_with(&mut self, count: usize) -> Vec<Frame> {
        let until = Instant::now() + LATE;
        while self.direct.frames.len() < count && Instant::now() < until {
            self.direct.read(until - Instant::now()).await;
        }
        self.settle().await
    }

    fn compare(&mut self) -> Vec<Frame> {
        let mut seen = Vec::new();
        while let Some(frame) = self.direct.frames.pop_front() {
            let mut expected = frame.clone();
            (self.rules)(&mut expected);
            let Some(mut got) = self.proxied.frames.pop_front() else {
                panic!("{}\nthe proxy gave no {:?}", self.story(), show(&expected));
            };
            (self.rules)(&mut got);
            assert!(
                got == expected,
                "{}\nthe server: {}\nthe proxy:  {}",
                self.story(),
                show(&expected),
                show(&got)
            );
            self.compared += 1;
            seen.push(frame);
        }
        seen
    }

    fn story(&self) -> String {
        let said: Vec<_> = self.said.iter().map(String::as_str).collect();
        format!("after {} equal frames, and this:\n{}", self.compared, said.concat())
    }

    /// Nothing else came, and both connections still answer alike. For connections that take an ECHO.
    pub async fn end(mut self) {
        self.send("*2\r\n$4\r\nECHO\r\n$7\r\nthe-end\r\n").await;
        let last = self.settle_with(1).await;
        assert!(last.last().is_some_and(|frame| frame.ends_with(b"the-end\r\n")), "{}", self.story());
        while self.proxied.read(QUIET).await {}
        assert!(self.proxied.frames.is_empty(), "{}\nthe proxy said more", self.story());
    }

    /// Both connections end, with nothing more to read.
    pub async fn closed(mut self) {
        self.settle().await;
        for (way, side) in [("direct", &mut self.direct), ("proxied", &mut self.proxied)] {
            while side.read(LATE).await {}
            assert!(
                side.ended && side.frames.is_empty() && side.held.is_empty(),
                "{:?}\n{way}, ended {}: {:?} {:?}",
                self.said,
                side.ended,
                side.frames,
                side.held
            );
        }
    }
}

fn show(frame: &[u8]) -> String {
    frame[..frame.len().min(1_000)].escape_ascii().to_string()
}

/// Nothing may differ.
pub fn exact(_: &mut Frame) {}

/// Replaces the digits behind each of these words.
pub fn without_numbers_after(frame: &mut Frame, words: &[&[u8]]) {
    for word in words {
        let mut from = 0;
        while let Some(at) = frame[from..].windows(word.len()).position(|here| here == *word) {
            let start = from + at + word.len();
            let digits = frame[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            frame.splice(start..start + digits, *b"0");
            from = start;
        }
    }
}
