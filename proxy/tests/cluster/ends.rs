//! What ends a session with a cluster, in whatever state it is: at the boundary of a reply, with the reason for the
//! client and for the audit.

use std::time::{Duration, Instant};

use keystile_model::feed::{Change, Entity, EntityKey, EntityKind};
use keystile_model::policy::{Lock, LockTarget};
use keystile_model::role::{RoleOptions, Span};

use super::support::{Client, World, encoded, role, user, wait_until};
use super::{key_of, run, world};

/// The audit's last lines of sessions that ended so.
fn ends(world: &World, error: &str) -> Vec<serde_json::Value> {
    let ended = |line: &serde_json::Value| line["event"] == "db.session.end" && line["error"] == error;
    world.audit().into_iter().filter(ended).collect()
}

async fn wait_ends(world: &World, error: &str, count: usize, words: &str) {
    wait_until("the audit has the reason", || ends(world, error).len() >= count).await;
    for line in ends(world, error) {
        assert!(line["message"].as_str().unwrap().contains(words), "{line}");
    }
}

#[test]
fn a_lock_ends_sessions_in_every_state_at_the_boundary_of_a_reply() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        let value = "v".repeat(6 << 20);
        let mut sessions = Vec::new();
        for _ in 0..6 {
            sessions.push(world.routed("alice", "sessions", "iam-rw").await);
        }
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        for key in [&here, &there] {
            assert_eq!(other.command(&["SET", key, &value]).await, "+OK");
        }
        let [idle, blocked, subscriber, transaction, long, merged] = &mut sessions[..] else { panic!() };
        assert_eq!(idle.command(&["ECHO", "x"]).await, "x");
        blocked.send(encoded(&["BLPOP", &format!("{{{there}}}list"), "0"])).await;
        assert_eq!(subscriber.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
        assert_eq!(transaction.command(&["MULTI"]).await, "+OK");
        assert_eq!(transaction.command(&["DEL", &there]).await, "+QUEUED");
        long.send(encoded(&["GET", &there])).await;
        merged.send(encoded(&["MGET", &here, &there])).await;
        // The long replies have begun, and nobody reads them.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let began = Instant::now();
        world
            .put(Entity::Lock(Lock {
                name: "out".to_owned(),
                target: LockTarget { db_user: Some("iam-rw".to_owned()), ..LockTarget::default() },
                message: "under investigation".to_owned(),
                expires_at: None,
            }))
            .await;
        assert!(long.reply().await == value, "the reply is not there whole, after {:?}", began.elapsed());
        let both = merged.reply().await;
        assert!(both == format!("[{value} {value}]"), "it is not there whole, after {:?}", began.elapsed());
        for session in &mut sessions {
            let line = session.line().await;
            assert!(line.starts_with("-ERR keystile: this session was ended"), "{line}");
            assert!(line.contains("under investigation"), "{line}");
            assert_eq!(session.rest().await, "");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        wait_ends(&world, "lock", 6, "under investigation").await;
        // Nobody else's, and nothing of the transaction was done.
        assert!(other.command(&["GET", &there]).await == value);
        assert_eq!(ends(&world, "lock").len(), 6);
    });
}

async fn talk(client: &mut Client, keys: &[String; 2]) {
    for key in keys {
        assert_eq!(client.command(&["GET", key]).await, "(nil)");
    }
}

#[test]
fn whatever_ends_a_session_is_said_and_audited() {
    run(async {
        let (mut world, cluster) = world(2, 0).await;
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        // A certificate that ends.
        let pair = world.certificate("carol", Some(("sessions", "iam-ro")), 3).await;
        let mut short = world.connect(Some(&pair), "localhost").await;
        talk(&mut short, &keys).await;
        assert!(short.line().await.contains("certificate has expired"));
        wait_ends(&world, "certificate_expired", 1, "keystile login").await;
        // Nothing that the client says, though the nodes are talked to.
        let Entity::Role(mut analyst) = role("analyst", "*", &["iam-ro"], &[], &[]) else {
            panic!("no role")
        };
        analyst.options =
            RoleOptions { client_idle_timeout: Some(Span { seconds: 60 }), ..RoleOptions::default() };
        world.put(Entity::Role(analyst)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut carol = world.routed("carol", "sessions", "iam-ro").await;
        talk(&mut carol, &keys).await;
        world.clock.advance(40);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        talk(&mut carol, &keys).await;
        world.clock.advance(40);
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        talk(&mut carol, &keys).await;
        world.clock.advance(61);
        let line = carol.line().await;
        assert!(line.contains("nothing was sent for 60 s, the role's client_idle_timeout"), "{line}");
        wait_ends(&world, "idle_timeout", 1, "nothing was sent for 60 s").await;
        // A role that is taken away.
        let mut bob = world.routed("bob", "sessions", "iam-rw").await;
        talk(&mut bob, &keys).await;
        world.put(user("bob", &[])).await;
        assert!(bob.line().await.contains("access denied"));
        wait_ends(&world, "denied", 1, "access denied").await;
        // A database that goes.
        let mut alice = world.routed("alice", "sessions", "iam-rw").await;
        talk(&mut alice, &keys).await;
        let mut elsewhere = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(elsewhere.ask("PING").await, "+PONG");
        world
            .change(Change::Delete(EntityKey { kind: EntityKind::Database, id: "sessions".to_owned() }))
            .await;
        assert!(alice.line().await.contains("database sessions is gone"));
        wait_ends(&world, "database_gone", 1, "database sessions is gone").await;
        assert_eq!(elsewhere.ask("PING").await, "+PONG");
        // The end of the proxy.
        world.serve_cluster(&cluster).await;
        let mut alice = world.routed("alice", "sessions", "iam-rw").await;
        talk(&mut alice, &keys).await;
        world.begin_stop();
        assert!(alice.line().await.contains("this proxy is stopping"));
        world.stop().await;
        wait_ends(&world, "shutdown", 1, "stopping").await;
    });
}

#[test]
fn a_session_that_is_finishing_ends_with_its_client() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let there = key_of(&cluster, 1);
        // A call that blocks in front of the QUIT.
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        client.send([encoded(&["BLPOP", &there, "0"]), encoded(&["QUIT"])].concat()).await;
        wait_until("it blocks", || {
            cluster.nodes[1].ok(&["INFO", "clients"]).text().contains("blocked_clients:1\r")
        })
        .await;
        drop(client);
        wait_until("the call has ended", || {
            cluster.nodes[1].ok(&["INFO", "clients"]).text().contains("blocked_clients:0\r")
        })
        .await;
        // Half a request is with the node when the client says what is none.
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        assert_eq!(client.command(&["SET", "before", "x"]).await, "+OK");
        let request = encoded(&["SET", &there, &"v".repeat(2 << 20)]);
        let cut = request.len() - 2;
        client.send([encoded(&["GET", "before"]), request[..cut].to_vec(), b"XX".to_vec()].concat()).await;
        assert_eq!(client.reply().await, "x");
        let last = client.rest().await;
        assert!(last.starts_with("-ERR Protocol error"), "{last}");
        wait_until("all places are free", || world.shared.sessions.count() == 0).await;
    });
}
