//! What whoever runs the proxy relies on: certificates that renew, limits that hold, addresses and audit lines.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keystile_model::feed::Entity;
use keystile_model::role::{AuditLevel, RoleOptions, Span};
use keystile_model::runtime::{HealthState, ProxyHeartbeat, proxies};
use keystile_model::store::{RuntimeStore as _, StoreError};
use secrecy::ExposeSecret as _;
use support::{Client, Pair, World, role, wait_until};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// The certificate that the proxy shows to a client.
async fn shown(world: &World) -> Vec<u8> {
    let client = world.connect(None, "localhost").await;
    client.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn is(shown: &[u8], pair: &Pair) -> bool {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.issued.pem.as_bytes()).unwrap().as_ref() == shown
}

fn metric(text: &str, name: &str) -> i64 {
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn host_certificate_files_are_read_again_and_a_bad_one_changes_nothing() {
    run(async {
        let world = World::start(&[]).await;
        let first = shown(&world).await;
        let path = |name: &str| world.dir.path().join(name);
        let next = world.host_certificate(2 * 86_400).await;
        // The certificate alone: the key does not fit it, so the old pair stays.
        std::fs::write(path("host.crt"), &next.issued.pem).unwrap();
        let metrics = Arc::clone(&world.shared.metrics);
        wait_until("the misfit was seen", || metrics.certificate_reloads_failed.value() == 1).await;
        assert_eq!(shown(&world).await, first);
        std::fs::write(path("host.key"), next.key.private.expose_secret()).unwrap();
        wait_until("the new pair is in use", || metrics.certificate_reloads.value() == 1).await;
        assert!(is(&shown(&world).await, &next));
        let left = metric(&world.http("/metrics").await, "keystile_host_certificate_seconds_left");
        assert!((172_700..=172_800).contains(&left), "{left}");
    });
}

#[test]
fn a_host_certificate_in_a_secret_is_read_again_after_ten_minutes() {
    run(async {
        let files = [("KEYSTILE_HOST_CERT_FILE", ""), ("KEYSTILE_HOST_KEY_FILE", "")];
        let world = World::start(&[files[0], files[1], ("KEYSTILE_HOST_CERT_SECRET", "host")]).await;
        let metrics = Arc::clone(&world.shared.metrics);
        let first = shown(&world).await;
        assert_eq!(world.secrets.asked.load(Ordering::Relaxed), 1);
        // Away: the old one stays, told once however often it is asked.
        *world.secrets.pair.lock().unwrap() = None;
        for asked in [2, 3] {
            world.clock.advance(601);
            wait_until("it was asked", || world.secrets.asked.load(Ordering::Relaxed) == asked).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(metrics.certificate_reloads_failed.value(), 1);
        assert_eq!(shown(&world).await, first);
        let next = world.host_certificate(3 * 86_400).await;
        *world.secrets.pair.lock().unwrap() =
            Some((next.issued.pem.clone(), next.key.private.expose_secret().to_owned()));
        world.clock.advance(601);
        wait_until("the new one is in use", || metrics.certificate_reloads.value() == 1).await;
        assert!(is(&shown(&world).await, &next));
        // The same again is nothing new.
        world.clock.advance(601);
        wait_until("it was asked", || world.secrets.asked.load(Ordering::Relaxed) == 5).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(metrics.certificate_reloads.value(), 1);
    });
}

/// Gives the analysts (carol) a role with these options, and waits until it is known.
async fn give_carol(world: &World, options: RoleOptions) {
    let Entity::Role(mut own) = role("analyst", "*", &["iam-ro"], &[], &[]) else { panic!("no role") };
    own.options = options.clone();
    world.put(Entity::Role(own)).await;
    wait_until("the role is known", || {
        world.shared.policy.borrow().policy.as_ref().is_some_and(|policy| {
            let known = policy.role(&keystile_model::name::RoleName::parse("analyst").unwrap());
            known.is_some_and(|role| role.options == options)
        })
    })
    .await;
}

async fn pong(client: &mut Client) {
    assert_eq!(client.ask("PING").await, "+PONG");
}

fn limited(metrics: &str, limit: &str) -> i64 {
    metric(metrics, &format!("keystile_limit_refusals_total{{limit=\"{limit}\"}}"))
}

#[test]
fn connections_have_limits_for_roles_users_databases_and_the_proxy() {
    run(async {
        let world = World::start(&[
            ("KEYSTILE_MAX_CONNECTIONS", "5"),
            ("KEYSTILE_MAX_CONNECTIONS_PER_USER", "2"),
            ("KEYSTILE_MAX_CONNECTIONS_PER_DATABASE", "3"),
        ])
        .await;
        let before = world.http("/metrics").await;
        for limit in ["proxy", "user", "database", "failed_sign_ins"] {
            assert_eq!(limited(&before, limit), 0);
        }
        give_carol(&world, RoleOptions { max_connections: Some(1), ..RoleOptions::default() }).await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        pong(&mut carol).await;
        let line = world.routed("carol", "orders", "iam-ro").await.ask("PING").await;
        assert!(
            line.starts_with("-ERR keystile: carol has 1 connections") && line.contains("(max_connections)"),
            "{line}"
        );
        let (mut one, mut two) = (
            world.routed("alice", "orders", "iam-ro").await,
            world.routed("alice", "orders", "iam-rw").await,
        );
        pong(&mut one).await;
        pong(&mut two).await;
        let line = world.routed("alice", "orders", "iam-ro").await.ask("PING").await;
        assert!(line.starts_with("-ERR keystile: alice has 2") && line.contains("PER_USER"), "{line}");
        let line = world.routed("bob", "orders", "iam-ro").await.ask("PING").await;
        assert!(line.starts_with("-ERR keystile: orders has 3") && line.contains("PER_DATABASE"), "{line}");
        // Two more connections that have said nothing yet, and the proxy is full.
        wait_until("those are gone", || world.shared.metrics.connections_open.value() == 3).await;
        let _idle = [world.named("bob", "localhost").await, world.named("bob", "localhost").await];
        let line = world.routed("bob", "carts", "iam-ro").await.ask("PING").await;
        assert!(line.starts_with("-ERR keystile: this proxy has 5 connections"), "{line}");
        let after = world.http("/metrics").await;
        assert_eq!(
            (limited(&after, "user"), limited(&after, "database"), limited(&after, "proxy")),
            (2, 1, 1)
        );
        // A place that is given back is there for the next.
        drop((one, carol));
        wait_until("places are free", || world.shared.sessions.count() == 1).await;
        let mut again = world.routed("alice", "orders", "iam-ro").await;
        pong(&mut again).await;
    });
}

#[test]
fn an_address_that_fails_to_sign_in_too_often_is_told_to_wait_and_not_locked_out() {
    run(async {
        let mut world = World::start(&[("KEYSTILE_FAILED_SIGN_INS_PER_MINUTE", "3")]).await;
        for _ in 0..3 {
            let line = world.connect(None, "localhost").await.ask("PING").await;
            assert!(line.starts_with("-NOAUTH keystile: not signed in"), "{line}");
        }
        for _ in 0..2 {
            let line = world.connect(None, "localhost").await.ask("PING").await;
            assert!(
                line.starts_with("-ERR keystile: too many failed sign-ins from 127.0.0.1")
                    && line.contains("wait "),
                "{line}"
            );
        }
        // A certificate of another CA fails in the handshake, and counts too.
        let foreign = support::foreign_certificate("alice").await;
        let _ = world.connect_with(world.client_config(Some(&foreign)), "localhost").await;
        let metrics = Arc::clone(&world.shared.metrics);
        wait_until("it was counted", || metrics.limits.value("failed_sign_ins") == 3).await;
        // Whoever can sign in, can.
        pong(&mut world.routed("alice", "orders", "iam-ro").await).await;
        world.clock.advance(21);
        let line = world.connect(None, "localhost").await.ask("PING").await;
        assert!(line.starts_with("-NOAUTH keystile: not signed in"), "{line}");
        world.stop().await;
        let failed = world.audit().iter().filter(|event| event["error"] == "not_signed_in").count();
        assert_eq!(failed, 4, "failures are audited up to the limit");
    });
}

#[test]
fn an_idle_session_ends_and_says_why() {
    run(async {
        let world = World::start(&[]).await;
        let options =
            RoleOptions { client_idle_timeout: Some(Span { seconds: 60 }), ..RoleOptions::default() };
        give_carol(&world, options).await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        pong(&mut carol).await;
        // What the client does counts: forty seconds twice are no idle minute.
        for _ in 0..2 {
            world.clock.advance(40);
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            pong(&mut carol).await;
        }
        world.clock.advance(61);
        let line = carol.line().await;
        assert!(line.contains("nothing was sent for 60 s") && line.contains("client_idle_timeout"), "{line}");
        assert_eq!(carol.rest().await, "");
        let metrics = Arc::clone(&world.shared.metrics);
        wait_until("it was counted", || metrics.session_ends.value("idle_timeout") == 1).await;
    });
}

#[test]
fn audit_levels_write_what_they_promise() {
    run(async {
        for (level, shown) in [
            (AuditLevel::Session, [].as_slice()),
            (AuditLevel::Commands, &["GET", "AUTH", "PING", "PING", "GET"]),
            (AuditLevel::Full, &["GET \"secret-key\"", "AUTH *** ***", "PING", "PING", "GET \"k\""]),
        ] {
            let mut world = World::start(&[]).await;
            give_carol(&world, RoleOptions { audit: Some(level), ..RoleOptions::default() }).await;
            let mut carol = world.routed("carol", "orders", "iam-ro").await;
            carol.send("GET secret-key\r\nAUTH iam-ro hunter2\r\nPING\r\n").await;
            assert_eq!(carol.lines(3).await, ["$-1", "+OK", "+PONG"]);
            // What was read at once and is the same is one line.
            carol.send("PING\r\nPING\r\nPING\r\nGET k\r\n").await;
            assert_eq!(carol.lines(4).await, ["+PONG", "+PONG", "+PONG", "$-1"]);
            drop(carol);
            world.stop().await;
            let audit = world.audit();
            let repeated: Vec<_> = audit
                .iter()
                .filter(|event| event["code"] == "TDB02I")
                .filter_map(|event| event["repeated"].as_u64())
                .collect();
            assert_eq!(repeated, if shown.is_empty() { vec![] } else { vec![3] }, "{level:?}");
            let queries: Vec<_> = audit
                .iter()
                .filter(|event| event["code"] == "TDB02I")
                .map(|event| event["db_query"].as_str().unwrap())
                .collect();
            assert_eq!(queries, shown, "{level:?}");
            let summaries = audit.iter().filter(|event| event["code"] == "KSS01I").count();
            assert_eq!(summaries, usize::from(level >= AuditLevel::Summary), "{level:?}");
            let text = std::fs::read_to_string(world.dir.path().join("audit")).unwrap();
            assert!(!text.contains("hunter2"));
            assert_eq!(text.contains("secret-key"), level == AuditLevel::Full, "{level:?}");
        }
    });
}

#[test]
fn each_command_of_a_long_pipeline_is_written_down_with_its_time() {
    run(async {
        let mut world = World::start(&[]).await;
        give_carol(&world, RoleOptions { audit: Some(AuditLevel::Commands), ..RoleOptions::default() }).await;
        let mut carol = world.routed("carol", "orders", "iam-ro").await;
        carol.send(["GET k\r\nPING\r\n".repeat(60), "GET k\r\n".repeat(50)].concat()).await;
        carol.lines(170).await;
        drop(carol);
        world.stop().await;
        let audit = world.audit();
        let queries: Vec<_> = audit.iter().filter(|event| event["code"] == "TDB02I").collect();
        let count: u64 = queries.iter().map(|event| event["repeated"].as_u64().unwrap_or(1)).sum();
        assert_eq!(count, 170);
        assert!(queries.iter().all(|event| event["time"].as_str().is_some_and(|time| time.len() == 24)));
        let indexes: Vec<u64> = audit.iter().filter_map(|event| event["ei"].as_u64()).collect();
        let distinct: std::collections::HashSet<_> =
            audit.iter().map(|event| event["uid"].to_string()).collect();
        assert_eq!((distinct.len(), indexes.len()), (audit.len(), audit.len()));
    });
}

#[test]
fn the_address_is_what_a_load_balancer_of_ours_says() {
    run(async {
        use tokio::io::AsyncWriteExt as _;
        let mut world = World::start(&[("KEYSTILE_PROXY_PROTOCOL", "127.0.0.0/8")]).await;
        let header = |command: u8, family: u8, body: &[u8]| {
            let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
            bytes.extend([command, family]);
            bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend(body);
            bytes
        };
        // With a TLV of the load balancer's behind the addresses.
        let told = header(0x21, 0x11, &[10, 9, 8, 7, 10, 0, 0, 1, 0x30, 0x39, 0x18, 0xeb, 0xea, 0, 1, 1]);
        let pair = world.certificate("alice", Some(("orders", "iam-ro")), 3_600).await;
        let mut client = world.connect_after(&told, &pair).await.unwrap();
        pong(&mut client).await;
        // In two pieces.
        let mut tcp = tokio::net::TcpStream::connect(world.address).await.unwrap();
        tcp.write_all(&told[..7]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        tcp.write_all(&told[7..]).await.unwrap();
        let mut client = world.over(tcp, world.client_config(Some(&pair))).await.unwrap();
        pong(&mut client).await;
        // A health check of the load balancer's own tells no address.
        let mut client = world.connect_after(&header(0x20, 0, &[]), &pair).await.unwrap();
        pong(&mut client).await;
        // None, another version, and one that is too long get nothing.
        for wrong in [
            Vec::new(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n".to_vec(),
            header(0x11, 0x11, &[0; 12]),
            header(0x21, 0x11, &[0; 2_000]),
        ] {
            assert!(world.connect_after(&wrong, &pair).await.is_err());
        }
        drop(client);
        world.stop().await;
        let remotes: Vec<_> = world
            .audit()
            .iter()
            .filter(|event| event["code"] == "TDB00I")
            .map(|event| event["addr.remote"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(remotes.len(), 3, "{remotes:?}");
        assert_eq!(remotes.iter().filter(|remote| *remote == "10.9.8.7:12345").count(), 2, "{remotes:?}");
        assert!(remotes.iter().any(|remote| remote.starts_with("127.0.0.1:")), "{remotes:?}");
    });
}

#[test]
fn without_the_setting_a_proxy_header_is_no_tls() {
    run(async {
        let world = World::start(&[]).await;
        let pair = world.certificate("alice", Some(("orders", "iam-ro")), 3_600).await;
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        bytes.extend([10, 9, 8, 7, 10, 0, 0, 1, 0x30, 0x39, 0x18, 0xeb]);
        assert!(world.connect_after(&bytes, &pair).await.is_err());
    });
}

async fn heartbeats(world: &World) -> Vec<(u64, ProxyHeartbeat)> {
    let items = world.store.list(&proxies("default")).await.unwrap();
    items.into_iter().map(|item| (item.version, serde_json::from_value(item.body).unwrap())).collect()
}

async fn health(world: &World, database: &str) -> Option<(HealthState, String)> {
    let beats = heartbeats(world).await;
    let (_, beat) = beats.first()?;
    beat.databases.get(database).map(|health| (health.state, health.reason.clone()))
}

async fn becomes(world: &World, database: &str, state: HealthState) -> String {
    for _ in 0..800 {
        if let Some((now, reason)) = health(world, database).await
            && now == state
        {
            return reason;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{database} never became {state:?}: {:?}", health(world, database).await);
}

#[test]
fn heartbeats_tell_changes_at_once_and_go_with_the_proxy() {
    run(async {
        let mut world = World::start(&[("KEYSTILE_HEALTH_INTERVAL_S", "1")]).await;
        assert_eq!(becomes(&world, "orders", HealthState::Ok).await, "");
        let reason = becomes(&world, "gone", HealthState::Unreachable).await;
        assert!(reason.contains("cannot reach gone"), "{reason}");
        let written = heartbeats(&world).await[0].0;
        // Probes go on each second; nothing changes, so nothing is written before the next beat.
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(heartbeats(&world).await[0].0 <= written + 1);
        // The cache answers, and lets nobody in.
        world.tokens.wrong.store(4, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(
                world
                    .routed("alice", "orders", "iam-ro")
                    .await
                    .ask("PING")
                    .await
                    .contains("refused the IAM token")
            );
        }
        let reason = becomes(&world, "orders", HealthState::Degraded).await;
        assert!(reason.contains("sign-ins fail (2)"), "{reason}");
        pong(&mut world.routed("alice", "orders", "iam-ro").await).await;
        becomes(&world, "orders", HealthState::Ok).await;
        world.valkey.kill();
        becomes(&world, "orders", HealthState::Unreachable).await;
        // The table is away: that is counted, and the proxy goes on.
        world.store.set_outage(Some(StoreError::Unavailable("away".to_owned())));
        let metrics = Arc::clone(&world.shared.metrics);
        for _ in 0..2_000 {
            if metrics.heartbeats_failed.value() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(metrics.heartbeats_failed.value() > 0);
        world.store.set_outage(None);
        world.stop().await;
        assert!(heartbeats(&world).await.is_empty(), "a proxy that stopped is not there any more");
    });
}
