//! The common path of a command through the engine, TLS and sockets included, allocates nothing of ours; rustls
//! asks for a buffer for each record that it seals or opens, however many commands are in it.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use keystile_model::decide::{Selector, SessionGrant};
use keystile_model::name::RoleName;
use keystile_model::role::{AuditLevel, LockingMode};
use keystile_model::store::Clock;
use keystile_proxy::audit::{Facts, Sink, Target, Writer};
use keystile_proxy::clock::CoarseClock;
use keystile_proxy::metrics::Metrics;
use keystile_proxy::session::gate::Gate;
use keystile_proxy::session::handle::Handle;
use keystile_proxy::session::journal::Journal;
use keystile_proxy::session::leg::Leg;
use keystile_proxy::session::{End, Parts, Session, Standing};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

#[derive(Debug)]
struct Now;

impl Clock for Now {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::UNIX_EPOCH
    }
}

/// A server's and a client's settings.
fn settings() -> (ServerConfig, Arc<ClientConfig>) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = keystile_proxy::tls::provider();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (server, Arc::new(client))
}

const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$6\r\ncart:1\r\n";
const REPLY: &[u8] = b"$5\r\nvalue\r\n";

/// A cache that answers each GET.
fn cache(listener: TcpListener, config: ServerConfig) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let tcp = listener.accept().unwrap().0;
        tcp.set_nodelay(true).unwrap();
        let mut tls = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), tcp);
        let (mut bytes, mut seen) = ([0; 65_536], 0);
        while let Ok(length @ 1..) = tls.read(&mut bytes) {
            seen += length;
            let answers = REPLY.repeat(seen / GET.len());
            seen %= GET.len();
            if tls.write_all(&answers).is_err() {
                return;
            }
        }
    })
}

/// A client that sends so many pipelines of so many commands, each after the answers to the one before.
fn client(port: u16, config: Arc<ClientConfig>, pipelines: usize, depth: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = rustls::StreamOwned::new(rustls::ClientConnection::new(config, name).unwrap(), tcp);
        let (request, mut answer) = (GET.repeat(depth), vec![0; REPLY.len() * depth]);
        for _ in 0..pipelines {
            tls.write_all(&request).unwrap();
            tls.read_exact(&mut answer).unwrap();
        }
        tls.conn.send_close_notify();
        let _ = tls.flush();
    })
}

fn grant(keys: &[&str]) -> SessionGrant {
    SessionGrant {
        selectors: vec![Selector {
            role: RoleName::parse("r").unwrap(),
            commands: Vec::new(),
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            channels: Vec::new(),
        }],
        denied_commands: Vec::new(),
        denied_keys: Vec::new(),
        max_session_ttl_s: None,
        client_idle_timeout_s: None,
        max_connections: None,
        locking_mode: LockingMode::BestEffort,
        audit: AuditLevel::Summary,
    }
}

/// Heap allocations of the session's thread, in a session of so many pipelines.
fn allocations(keys: &[&str], pipelines: usize, depth: usize, sink: &Sink) -> u64 {
    let (server_config, client_config) = settings();
    let (front, back) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (front_port, back_port) = (front.local_addr().unwrap().port(), back.local_addr().unwrap().port());
    let peers = [
        cache(back, server_config.clone()),
        client(front_port, Arc::clone(&client_config), pipelines, depth),
    ];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let session = runtime.block_on(async {
        let tcp = front.accept().unwrap().0;
        tcp.set_nonblocking(true).unwrap();
        let near = tokio::net::TcpStream::from_std(tcp).unwrap();
        let far = tokio::net::TcpStream::connect(("127.0.0.1", back_port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        Session::new(Parts {
            client: Leg::accept(near, &server_config).await.unwrap(),
            held: Vec::new(),
            server: Leg::connect(far, client_config, name).await.unwrap(),
            standing: Standing::Open,
            gate: Arc::new(Gate::compile(&grant(keys)).unwrap()),
            limits: (keystile_resp::request::Limits::SIGNED_IN, keystile_resp::reply::Limits::DEFAULT),
            hide_topology: false,
            journal: Journal::new(
                Facts::new(Arc::new(Now), "test".into(), "one".into(), String::new()),
                sink.clone(),
                AuditLevel::Summary,
            ),
            handle: Arc::new(Handle::new(0)),
            clock: Arc::new(CoarseClock::new(0)),
            metrics: Arc::default(),
        })
    });
    let mut end = None;
    let counted = allocation_counter::measure(|| end = Some(runtime.block_on(session.run())));
    assert_eq!(end, Some(End::ClientClosed));
    for peer in peers {
        peer.join().unwrap();
    }
    counted.count_total
}

/// Four records of a pipeline: two are opened and two sealed. rustls asks for one buffer for each.
const OF_RUSTLS: u64 = 4;

#[test]
fn a_command_allocates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (_writer, sink) =
        Writer::start(&Target::File(folder.path().join("audit")), Arc::new(Metrics::default())).unwrap();
    for (keys, depth) in [(&[][..], 1), (&["~cart:*"], 1), (&[], 100), (&["~cart:*", "%R~x*"], 100)] {
        let few = allocations(keys, 200, depth, &sink);
        let many = allocations(keys, 1_200, depth, &sink);
        let each = many.saturating_sub(few) as f64 / 1_000.0;
        println!("{keys:?}, {depth} at once: {each:.2} allocations for each pipeline");
        // The slack is for what the kernel splits or joins.
        assert!(each <= OF_RUSTLS as f64 + 0.2, "{keys:?} {depth}: {each} for a pipeline of {depth}");
    }
}
