//! A real Valkey Cluster: nodes that are made, asked, moved about and killed.

use std::io::{BufReader, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::server::{acl_lines, wait_for_server};
use super::{PATIENCE, TOKEN, engine_major, free_port, valkey_server};

const SLOTS: u32 = 16_384;

/// A reply, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Text(String),
    Error(String),
    Number(i64),
    Null,
    List(Vec<Reply>),
}

impl Reply {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Error(text) => text,
            _ => "",
        }
    }
}

pub struct Node {
    child: Option<Child>,
    /// Where clients with TLS come.
    pub port: u16,
    /// Where this test comes, without TLS.
    plain: u16,
    pub id: String,
    dir: std::path::PathBuf,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again, where it was.
    pub fn start(&mut self) {
        let child = self.child.insert(spawn(&self.dir));
        wait_for_server(child, self.plain, &self.dir.join("log"));
    }

    /// Asks the node, as an administrator, past the proxy.
    pub fn ask(&self, args: &[&str]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.plain)).unwrap();
        let mut request = Vec::new();
        for args in [&["AUTH", "admin", TOKEN][..], args] {
            write!(request, "*{}\r\n", args.len()).unwrap();
            for arg in args {
                write!(request, "${}\r\n{arg}\r\n", arg.len()).unwrap();
            }
        }
        stream.write_all(&request).unwrap();
        let mut reader = BufReader::new(stream);
        assert_eq!(read(&mut reader), Reply::Text("OK".to_owned()));
        read(&mut reader)
    }

    pub fn ok(&self, args: &[&str]) -> Reply {
        match self.ask(args) {
            Reply::Error(text) => panic!("{args:?}: {text}"),
            reply => reply,
        }
    }
}

fn read(reader: &mut impl std::io::BufRead) -> Reply {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let (marker, rest) = line.trim_end().split_at(1);
    let length = || rest.parse::<i64>().unwrap();
    match marker {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Number(length()),
        "$" if length() < 0 => Reply::Null,
        "$" => {
            let mut bytes = vec![0; usize::try_from(length()).unwrap() + 2];
            reader.read_exact(&mut bytes).unwrap();
            Reply::Text(String::from_utf8_lossy(&bytes[..bytes.len() - 2]).into_owned())
        }
        _ => Reply::List((0..length()).map(|_| read(reader)).collect()),
    }
}

pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it never came to be that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(dir: &Path) -> Child {
    valkey_server().arg(dir.join("valkey.conf")).stdout(Stdio::null()).spawn().unwrap()
}

/// Primaries first, then their replicas in the same order.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub primaries: usize,
}

impl Cluster {
    /// Starts a cluster whose certificate is `dir`'s.
    pub fn start(dir: &Path, primaries: usize, replicas: usize) -> Self {
        let nodes: Vec<Node> =
            (0..primaries * (1 + replicas)).map(|number| start_node(dir, number)).collect();
        let cluster = Self { nodes, primaries };
        cluster.form();
        cluster
    }

    fn form(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            node.ok(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            if number < self.primaries {
                let share = |number: usize| {
                    SLOTS * u32::try_from(number).unwrap() / u32::try_from(self.primaries).unwrap()
                };
                let (first, last) = (share(number), share(number + 1) - 1);
                node.ok(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]);
            }
            if number > 0 {
                let bus = node.ok(&["CONFIG", "GET", "cluster-port"]);
                let Reply::List(pair) = bus else { panic!("no bus port") };
                self.nodes[0].ok(&["CLUSTER", "MEET", "127.0.0.1", &node.plain.to_string(), pair[1].text()]);
            }
        }
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        for node in &self.nodes {
            wait("the nodes know each other", || {
                let info = node.ok(&["CLUSTER", "INFO"]);
                info.text().contains("cluster_state:ok") && info.text().contains(&known)
            });
        }
        for (number, node) in self.nodes.iter().enumerate().skip(self.primaries) {
            node.ok(&["CLUSTER", "REPLICATE", &self.nodes[number % self.primaries].id]);
            wait("a replica follows", || {
                node.ok(&["INFO", "replication"]).text().contains("master_link_status:up")
            });
        }
        for node in &self.nodes {
            wait("the map is whole", || {
                let Reply::List(ranges) = node.ok(&["CLUSTER", "SLOTS"]) else { return false };
                let whole = |range: &Reply| {
                    let Reply::List(fields) = range else { return false };
                    fields.len() - 2 == self.nodes.len() / self.primaries
                        && fields[2..].iter().all(|node| {
                            let Reply::List(fields) = node else { return false };
                            fields[0].text() == "localhost"
                        })
                };
                ranges.len() == self.primaries && ranges.iter().all(whole)
            });
        }
    }

    /// The primary that owns a slot, by its own word.
    pub fn owner(&self, slot: u16) -> usize {
        let owns = |node: &Node| {
            let Reply::List(ranges) = node.ok(&["CLUSTER", "SLOTS"]) else { return false };
            ranges.iter().any(|range| {
                let Reply::List(fields) = range else { return false };
                let (Reply::Number(first), Reply::Number(last)) = (&fields[0], &fields[1]) else {
                    return false;
                };
                let Reply::List(primary) = &fields[2] else { return false };
                (*first..=*last).contains(&i64::from(slot)) && primary[2].text() == node.id
            })
        };
        self.nodes.iter().position(|node| node.child.is_some() && owns(node)).expect("nobody owns it")
    }

    /// Begins to move a slot: its keys may be on both nodes from now on.
    pub fn begin_move(&self, slot: u16, to: usize) -> usize {
        let from = self.owner(slot);
        let slot = slot.to_string();
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.nodes[from].id]);
        self.nodes[from].ok(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.nodes[to].id]);
        from
    }

    /// Moves keys of a slot that is on its way.
    pub fn move_keys(&self, from: usize, to: usize, keys: &[&str]) {
        let port = self.nodes[to].plain.to_string();
        let mut args = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH2", "admin", TOKEN, "KEYS"];
        args.extend(keys);
        self.nodes[from].ok(&args);
    }

    /// Ends the move of a slot.
    pub fn end_move(&self, slot: u16, from: usize, to: usize) {
        let number = slot.to_string();
        loop {
            let Reply::List(keys) = self.nodes[from].ok(&["CLUSTER", "GETKEYSINSLOT", &number, "100"]) else {
                panic!("no keys")
            };
            if keys.is_empty() {
                break;
            }
            let keys: Vec<&str> = keys.iter().map(Reply::text).collect();
            self.move_keys(from, to, &keys);
        }
        let id = &self.nodes[to].id;
        self.nodes[to].ok(&["CLUSTER", "SETSLOT", &number, "NODE", id]);
        self.nodes[from].ok(&["CLUSTER", "SETSLOT", &number, "NODE", id]);
        for node in self.nodes.iter().take(self.primaries).filter(|node| node.child.is_some()) {
            node.ok(&["CLUSTER", "SETSLOT", &number, "NODE", id]);
        }
    }

    /// Moves a slot with all its keys.
    pub fn move_slot(&self, slot: u16, to: usize) {
        let from = self.begin_move(slot, to);
        self.end_move(slot, from, to);
    }
}

fn start_node(dir: &Path, number: usize) -> Node {
    let own = dir.join(format!("node-{number}"));
    std::fs::create_dir_all(&own).unwrap();
    let (plain, port, bus) = (free_port(), free_port(), free_port());
    // Valkey 9 has several in cluster mode, where it is told so.
    let databases = if engine_major() >= 9 { "cluster-databases 16\n" } else { "" };
    let config = format!(
        "port {plain}\ntls-port {port}\nbind 127.0.0.1 ::1\ntls-cert-file {0}/cache.crt\ntls-key-file {0}/cache.key\n\
         tls-ca-cert-file {0}/cache.crt\ntls-auth-clients no\nsave \"\"\ndir {1}\ncluster-enabled yes\n\
         cluster-config-file nodes.conf\ncluster-port {bus}\ncluster-node-timeout 1000\n\
         cluster-require-full-coverage no\ncluster-allow-replica-migration no\n\
         cluster-replica-validity-factor 0\nrepl-diskless-sync-delay 0\n\
         cluster-announce-hostname localhost\ncluster-preferred-endpoint-type hostname\n\
         masteruser admin\nmasterauth {TOKEN}\nlogfile {1}/log\n{databases}\
         user admin on >{TOKEN} ~* &* +@all\n{2}",
        dir.display(),
        own.display(),
        acl_lines()
    );
    std::fs::write(own.join("valkey.conf"), config).unwrap();
    let mut node = Node { child: None, port, plain, id: String::new(), dir: own };
    node.start();
    node.id = node.ok(&["CLUSTER", "MYID"]).text().to_owned();
    node
}
