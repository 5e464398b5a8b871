//! Ways to sign in to a cache other than IAM, against real servers: the client's own password, a shared token,
//! and nothing at all.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod support;

use std::sync::atomic::Ordering;

use keystile_model::database::{CacheAuth, Database, DatabaseAuth, DatabaseKind, Endpoint, EndpointType};
use keystile_model::feed::{Change, Entity};
use keystile_model::name::DatabaseName;
use keystile_proxy::credentials::Stage;
use support::{Valkey, World, start_valkey_with, wait_until};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// A static database at a server of its own.
async fn add(world: &World, name: &str, lines: &str, auth: CacheAuth) -> (Valkey, Database) {
    let dir = world.dir.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    let valkey = start_valkey_with(&dir, lines);
    let database = Database {
        kind: DatabaseKind::Static,
        endpoint_type: EndpointType::Node,
        endpoint: Endpoint { host: "localhost".to_owned(), port: valkey.port },
        arn: None,
        auth,
        ca: Some(std::fs::read_to_string(dir.join("cache.crt")).unwrap()),
        ..world.database(name)
    };
    write(world, Entity::StaticDatabase(Box::new(database.clone()))).await;
    (valkey, database)
}

/// Writes an entity and waits until the proxy knows it.
async fn write(world: &World, entity: Entity) {
    world.put(entity.clone()).await;
    wait_until("the change is known", || {
        world.shared.policy.borrow().policy.as_ref().is_some_and(|policy| policy.entities().contains(&entity))
    })
    .await;
}

#[test]
fn a_shared_token_signs_in_as_the_default_user() {
    run(async {
        let world = World::start(&[]).await;
        let (_valkey, _) =
            add(&world, "legacy", "requirepass one", CacheAuth::Secret("shop/token".to_owned())).await;
        // Not there yet.
        let line = world.routed("bob", "legacy", "default").await.ask("PING").await;
        assert!(line.contains("its secret shop/token cannot be read: there is no such secret"), "{line}");
        // A file ends in a line break.
        world.passwords.set("shop/token", Stage::Current, "v1", "one\n");
        let mut bob = world.routed("bob", "legacy", "default").await;
        bob.send("AUTH whatever\r\nACL WHOAMI\r\nSET k v\r\nAUTH iam-ro x\r\n").await;
        assert_eq!(bob.lines(4).await, ["+OK", "$7", "default", "+OK"]);
        assert!(bob.line().await.starts_with("-NOPERM keystile: this connection is default@legacy"));
        // RESET is followed by our own AUTH.
        bob.send("RESET\r\nGET k\r\n").await;
        assert_eq!(bob.lines(3).await, ["+RESET", "$1", "v"]);
        // Nobody else is there to be.
        let line = world.routed("bob", "legacy", "own").await.ask("PING").await;
        assert!(line.contains("so its only database user is 'default'"), "{line}");
        assert!(world.http("/metrics").await.contains("keystile_secret_reads_total{outcome=\"ok\"} 1\n"));
    });
}

#[test]
fn a_new_shared_token_is_read_when_the_old_one_is_refused() {
    run(async {
        let world = World::start(&[]).await;
        world.passwords.set("t", Stage::Current, "v1", "one");
        let (_valkey, _) = add(&world, "legacy", "requirepass one", CacheAuth::Secret("t".to_owned())).await;
        let mut live = world.routed("alice", "legacy", "default").await;
        assert_eq!(live.ask("PING").await, "+PONG");
        assert_eq!(live.ask("ACL SETUSER default resetpass >two").await, "+OK");
        // The secret is behind: one more look at it, and no second AUTH with the same token.
        let reads = world.passwords.reads.load(Ordering::Relaxed);
        let line = world.routed("alice", "legacy", "default").await.ask("PING").await;
        assert!(line.contains("refused the shared token of secret t (WRONGPASS"), "{line}");
        assert!(!line.contains("one"), "{line}");
        assert_eq!(world.passwords.reads.load(Ordering::Relaxed), reads + 1);
        assert_eq!(world.shared.metrics.passwords_refused.value("shared"), 1);
        assert_eq!(world.shared.metrics.passwords_retried.value("fresh"), 0);
        // It follows.
        world.passwords.set("t", Stage::Current, "v2", "two");
        let mut next = world.routed("alice", "legacy", "default").await;
        assert_eq!(next.ask("PING").await, "+PONG");
        assert_eq!(world.shared.metrics.passwords_retried.value("fresh"), 1);
        // Who was there stays there.
        assert_eq!(live.ask("PING").await, "+PONG");
    });
}

#[test]
fn no_authentication_only_where_it_was_asked_for() {
    run(async {
        let world = World::start(&[]).await;
        let (_valkey, database) = add(&world, "open", "", CacheAuth::Auto).await;
        let line = world.routed("alice", "open", "default").await.ask("PING").await;
        assert!(line.contains("does not say how to sign in"), "{line}");
        write(
            &world,
            Entity::StaticDatabase(Box::new(Database { auth: CacheAuth::None, ..database.clone() })),
        )
        .await;
        let mut alice = world.routed("alice", "open", "default").await;
        alice.send("ACL WHOAMI\r\nAUTH default x\r\n").await;
        assert_eq!(alice.lines(3).await, ["$7", "default", "+OK"]);
        let line = world.routed("alice", "open", "iam-ro").await.ask("PING").await;
        assert!(line.contains("without authentication (auth: none), so its only database user"), "{line}");
        // What the way to sign in was, ends with it.
        let secret = CacheAuth::Secret("t".to_owned());
        write(&world, Entity::StaticDatabase(Box::new(Database { auth: secret, ..database }))).await;
        assert!(alice.rest().await.contains("how open is signed in to has changed"));
    });
}

#[test]
fn a_cache_without_a_password_takes_no_shared_token() {
    run(async {
        let world = World::start(&[]).await;
        world.passwords.set("t", Stage::Current, "v1", "one");
        let (_valkey, _) = add(&world, "open", "", CacheAuth::Secret("t".to_owned())).await;
        let line = world.routed("alice", "open", "default").await.ask("PING").await;
        assert!(line.contains("refused to sign us in (ERR AUTH"), "{line}");
    });
}

#[test]
fn an_override_comes_over_discovery_and_cuts_what_signed_in_otherwise() {
    run(async {
        let world = World::start(&[]).await;
        let mut by_iam = world.routed("alice", "orders", "iam-rw").await;
        assert_eq!(by_iam.ask("SET k v").await, "+OK");
        let orders = world.database("orders");
        let said = DatabaseAuth {
            database: DatabaseName::parse("orders").unwrap(),
            arn: orders.arn.clone().unwrap(),
            endpoint_type: orders.endpoint_type,
            auth: CacheAuth::PassThrough,
        };
        write(&world, Entity::DatabaseAuth(said.clone())).await;
        assert!(by_iam.rest().await.contains("how orders is signed in to has changed"));
        let mut own = world.routed("bob", "orders", "own").await;
        assert!(own.ask("GET k").await.starts_with("-NOAUTH"));
        own.send("HELLO 2 AUTH own their-own\r\n").await;
        while !own.line().await.starts_with("*0") {}
        assert_eq!(own.ask("GET k").await, "$1");
        // Roles are asked before any password is.
        let line = world.routed("carol", "orders", "own").await.ask("AUTH own their-own").await;
        assert!(line.starts_with("-NOPERM keystile: access denied"), "{line}");
        world.change(Change::Delete(Entity::DatabaseAuth(said).key())).await;
        assert!(own.rest().await.contains("no database user \"own\""));
    });
}

#[test]
fn wrong_passwords_are_failed_sign_ins_of_their_source() {
    run(async {
        let world = World::start(&[("KEYSTILE_FAILED_SIGN_INS_PER_MINUTE", "3")]).await;
        let orders = world.database("orders");
        write(
            &world,
            Entity::DatabaseAuth(DatabaseAuth {
                database: orders.name.clone(),
                arn: orders.arn.clone().unwrap(),
                endpoint_type: orders.endpoint_type,
                auth: CacheAuth::PassThrough,
            }),
        )
        .await;
        let mut bob = world.routed("bob", "orders", "own").await;
        assert!(bob.ask("AUTH wrong").await.starts_with("-WRONGPASS"));
        assert!(bob.ask("HELLO 3 AUTH own wrong").await.starts_with("-WRONGPASS"));
        assert_eq!(bob.ask("AUTH their-own").await, "+OK");
        // Another connection of the same address.
        let mut other = world.routed("bob", "orders", "own").await;
        assert!(other.ask("AUTH own wrong").await.starts_with("-WRONGPASS"));
        let line = other.ask("AUTH own their-own").await;
        assert!(line.starts_with("-ERR keystile: too many failed sign-ins from 127.0.0.1"), "{line}");
        let line = other.ask("HELLO 2 AUTH own their-own").await;
        assert!(line.starts_with("-ERR keystile: too many failed sign-ins"), "{line}");
        assert_eq!(bob.ask("PING").await, "+PONG", "who is in stays in");
        assert_eq!(world.shared.metrics.limits.value("failed_sign_ins"), 2);
        world.clock.advance(20);
        assert_eq!(other.ask("AUTH own their-own").await, "+OK");
    });
}
