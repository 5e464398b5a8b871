//! Ways to sign in to a cache other than IAM, against real servers: the client's own password, a managed one, a
//! shared token, and nothing at all.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "all of it is tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::database::Node;
use keystile_model::database::{CacheAuth, Database, DatabaseAuth, DatabaseKind, Endpoint, EndpointType};
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity};
use keystile_model::name::{DatabaseName, DbUserName};
use keystile_model::rotation::proof::{LoginOutcome, ProofRecord, proof_key};
use keystile_model::rotation::secret::{placeholder_value, ready_value};
use keystile_model::rotation::{Rotation, RotationPhase, SecretRef, VersionId};
use keystile_model::store::RuntimeStore;
use keystile_proxy::credentials::Stage;
use secrecy::{ExposeSecret, SecretString};
use support::{Client, Valkey, World, start_valkey_with, wait_until};

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

/// Whoever may write static databases says where a shared token is sent: nothing else may be sent so.
#[test]
fn only_a_bare_token_is_sent_as_one() {
    run(async {
        let world = World::start(&[]).await;
        let password = SecretString::from("one".to_owned());
        let pair = "{\"certificate\": \"-----BEGIN…\", \"key\": \"-----BEGIN…\"}";
        let cases = [
            // What rotation keeps, wherever it lies, and where it lies, whatever it is.
            ("other/name", ready_value("default", &password).expose_secret().to_owned(), "is no bare token"),
            ("not/ready", placeholder_value("default").expose_secret().to_owned(), "is no bare token"),
            ("keystile/elasticache/1/us-east-1/managed-app", "one".to_owned(), "managed users"),
            (SECRET, "one".to_owned(), "managed users"),
            // A host certificate's key.
            ("host/pair", pair.to_owned(), "is no bare token"),
            (
                "host/key",
                "-----BEGIN PRIVATE KEY-----\none\n-----END PRIVATE KEY-----\n".to_owned(),
                "is no bare token",
            ),
            ("empty", "\n".to_owned(), "is no bare token"),
        ];
        for (index, (secret, value, words)) in cases.into_iter().enumerate() {
            world.passwords.set(secret, Stage::Current, "v1", &value);
            let name = format!("legacy-{index}");
            // A server that would take any of it.
            let (_valkey, _) = add(
                &world,
                &name,
                "user default on nopass ~* &* +@all",
                CacheAuth::Secret(secret.to_owned()),
            )
            .await;
            let reads = world.passwords.reads.load(Ordering::Relaxed);
            let line = world.routed("alice", &name, "default").await.ask("PING").await;
            assert!(
                line.starts_with("-ERR keystile: cannot sign in") && line.contains(words),
                "{secret}: {line}"
            );
            assert!(line.contains("--auth secret:NAME") && !line.contains("one\""), "{secret}: {line}");
            let read = world.passwords.reads.load(Ordering::Relaxed) - reads;
            assert_eq!(read, usize::from(words != "managed users"), "{secret}");
        }
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
fn a_client_may_bring_the_shared_token_itself() {
    run(async {
        let world = World::start(&[]).await;
        let (_valkey, _) = add(&world, "legacy", "requirepass one", CacheAuth::PassThrough).await;
        let mut bob = world.routed("bob", "legacy", "default").await;
        assert!(bob.ask("PING").await.starts_with("-NOAUTH keystile"));
        assert!(bob.ask("AUTH two").await.starts_with("-WRONGPASS"));
        bob.send("AUTH one\r\nACL WHOAMI\r\nAUTH default one\r\n").await;
        assert_eq!(bob.lines(4).await, ["+OK", "$7", "default", "+OK"]);
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

const USER: &str = "arn:aws:elasticache:us-east-1:1:user:managed-app";
const SECRET: &str =
    "arn:aws:secretsmanager:us-east-1:1:secret:keystile/elasticache/1/us-east-1/managed-app-AbCdEf";

/// A managed user, its rotation, and somebody who changes its passwords at the server.
struct Managed {
    world: World,
    admin: Client,
    rotation: Rotation,
}

impl Managed {
    /// With a rotation that is ready at version `v1`, and its password on the server.
    async fn start() -> Self {
        let world = World::start(&[]).await;
        let user = DbUser {
            arn: Arn::parse(USER).unwrap(),
            id: "managed-app".to_owned(),
            name: DbUserName::parse("managed-app").unwrap(),
            service: DbUserService::Elasticache,
            auth: DbUserAuth::Password,
            status: "active".to_owned(),
            access_string: String::new(),
            groups: BTreeSet::from(["keystile".to_owned()]),
            managed: true,
        };
        write(&world, Entity::DbUser(Box::new(user))).await;
        let admin = world.routed("alice", "orders", "iam-admin").await;
        let rotation = Rotation {
            arn: Arn::parse(USER).unwrap(),
            phase: RotationPhase::Ready,
            generation: 1,
            secret: Some(SecretRef {
                arn: Arn::parse(SECRET).unwrap(),
                name: "keystile/elasticache/1/us-east-1/managed-app".to_owned(),
            }),
            current: Some(VersionId::new("v1")),
            pending: None,
            prove: None,
            reason: String::new(),
        };
        let mut managed = Self { world, admin, rotation };
        managed.set(Stage::Current, "v1");
        managed.passwords(&["v1"]).await;
        managed.tell(|_| {}).await;
        managed
    }

    /// Puts a version into the secret.
    fn set(&self, stage: Stage, version: &str) {
        let value = ready_value("managed-app", &SecretString::from(password(version)));
        self.world.passwords.set(SECRET, stage, version, value.expose_secret());
    }

    /// What the server takes from now on: these versions' passwords.
    async fn passwords(&mut self, versions: &[&str]) {
        let list: Vec<String> = versions.iter().map(|version| format!(">{}", password(version))).collect();
        let line = format!("ACL SETUSER managed-app on resetpass {} ~* &* +@all", list.join(" "));
        assert_eq!(self.admin.ask(&line).await, "+OK");
    }

    /// Changes what the proxies are told.
    async fn tell(&mut self, change: impl FnOnce(&mut Rotation)) {
        change(&mut self.rotation);
        write(&self.world, Entity::Rotation(Box::new(self.rotation.clone()))).await;
    }

    async fn client(&self) -> Client {
        self.world.routed("alice", "orders", "managed-app").await
    }

    /// What a client hears that connects now.
    async fn ping(&self) -> String {
        self.client().await.ask("PING").await
    }

    fn reads(&self) -> usize {
        self.world.passwords.reads.load(Ordering::Relaxed)
    }

    /// What is written of a proof, once its nodes are as many and as wanted.
    async fn proof(&self, what: &str, holds: impl Fn(&ProofRecord) -> bool) -> ProofRecord {
        let key = proof_key("default", &Arn::parse(USER).unwrap());
        for _ in 0..400 {
            if let Some(item) = self.world.store.read(&key).await.unwrap() {
                let record: ProofRecord = serde_json::from_value(item.body).unwrap();
                if holds(&record) {
                    return record;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("there is no proof {what}");
    }
}

fn password(version: &str) -> String {
    format!("password-of-{version}-that-is-long-enough")
}

#[test]
fn a_managed_password_through_a_rotation() {
    run(async {
        let mut managed = Managed::start().await;
        let mut live = managed.client().await;
        live.send("AUTH managed-app nonsense\r\nAUTH iam-rw x\r\nSET k v\r\nACL WHOAMI\r\n").await;
        let lines = live.lines(5).await;
        assert_eq!((lines[0].as_str(), lines[2].as_str(), lines[4].as_str()), ("+OK", "+OK", "managed-app"));
        assert!(lines[1].starts_with("-NOPERM keystile: this connection is managed-app@orders"));
        assert_eq!(managed.ping().await, "+PONG");
        assert_eq!(managed.reads(), 1, "two sessions, one read");
        // Step by step, with a login and the live session at each.
        managed.set(Stage::Pending, "v2");
        managed.passwords(&["v1", "v2"]).await;
        managed
            .tell(|rotation| {
                rotation.phase = RotationPhase::Rotating;
                rotation.pending = Some(VersionId::new("v2"));
            })
            .await;
        assert_eq!(managed.ping().await, "+PONG");
        managed.set(Stage::Current, "v2");
        managed
            .tell(|rotation| {
                rotation.phase = RotationPhase::Ready;
                rotation.current = rotation.pending.take();
            })
            .await;
        assert_eq!(managed.ping().await, "+PONG", "the one before is good until the next rotation");
        assert_eq!(managed.reads(), 1);
        // The next rotation takes it away: one fresh read, for all who come.
        managed.set(Stage::Pending, "v3");
        managed.passwords(&["v2", "v3"]).await;
        assert_eq!(managed.ping().await, "+PONG");
        assert_eq!(managed.reads(), 2);
        assert_eq!(managed.world.shared.metrics.passwords_retried.value("fresh"), 1);
        assert_eq!(managed.ping().await, "+PONG");
        assert_eq!(managed.reads(), 2);
        // The live session never noticed, and RESET signs it in with the newest.
        live.send("GET k\r\nRESET\r\nACL WHOAMI\r\n").await;
        assert_eq!(live.lines(5).await, ["$1", "v", "+RESET", "$11", "managed-app"]);
        assert_eq!(managed.world.shared.metrics.passwords_refused.value("managed"), 0);
    });
}

#[test]
fn a_cache_that_is_ahead_takes_the_pending_password() {
    run(async {
        let mut managed = Managed::start().await;
        managed.set(Stage::Pending, "v2");
        managed.passwords(&["v2"]).await;
        let mut client = managed.client().await;
        assert_eq!(client.ask("ACL WHOAMI").await, "$11");
        assert_eq!(managed.world.shared.metrics.passwords_retried.value("pending"), 1);
        assert_eq!(managed.world.shared.metrics.passwords_retried.value("fresh"), 0, "it was the same");
        // Current, once more; then pending: three reads, two logins.
        assert_eq!(managed.reads(), 3);
    });
}

#[test]
fn when_no_password_is_left_the_refusal_names_the_rotation() {
    run(async {
        let mut managed = Managed::start().await;
        managed.set(Stage::Pending, "v2");
        managed.passwords(&["of-somebody-else"]).await;
        managed
            .tell(|rotation| {
                rotation.phase = RotationPhase::LeftAlone;
                rotation.reason = "its passwords were changed by somebody else".to_owned();
            })
            .await;
        let line = managed.ping().await;
        for part in [
            "-ERR keystile: orders took none of the managed passwords of managed-app (WRONGPASS",
            "its rotation is left-alone, because its passwords were changed by somebody else",
            "keystile rotate status",
        ] {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains("password-of"), "{line}");
        let metrics = managed.world.http("/metrics").await;
        assert!(metrics.contains("keystile_passwords_refused_total{kind=\"managed\"} 1\n"));
        assert!(metrics.contains("keystile_refusals_total{kind=\"auth\"} 1\n"));
    });
}

#[test]
fn what_is_no_password_is_never_sent() {
    run(async {
        let mut managed = Managed::start().await;
        let secret = |value: &str| managed.world.passwords.set(SECRET, Stage::Current, "x", value);
        for (value, words) in [
            (
                placeholder_value("managed-app").expose_secret().to_owned(),
                "its password is not ready yet: Keystile is",
            ),
            (
                ready_value("iam-admin", &SecretString::from("p")).expose_secret().to_owned(),
                "of another user",
            ),
            ("password-in-the-clear".to_owned(), "the secret is no JSON with username and password"),
        ] {
            secret(&value);
            managed.world.shared.dialer.secrets.forget_all();
            let line = managed.ping().await;
            assert!(line.contains(words) && line.contains("orders as managed-app"), "{line}");
            assert!(!line.contains("in-the-clear"));
        }
        for (phase, words) in [
            (RotationPhase::TakingOver, "not ready yet (taking-over)"),
            (RotationPhase::Withdrawn, "no longer managed (withdrawn)"),
            (RotationPhase::Locked, "being replaced (locked)"),
        ] {
            managed.tell(|rotation| rotation.phase = phase).await;
            let line = managed.ping().await;
            assert!(line.contains(words) && line.contains("keystile rotate status"), "{line}");
        }
        let key = Entity::Rotation(Box::new(managed.rotation.clone())).key();
        managed.world.change(Change::Delete(key)).await;
        wait_until("it is gone", || {
            managed.world.shared.policy.borrow().policy.as_ref().is_some_and(|p| p.rotations().count() == 0)
        })
        .await;
        assert!(managed.ping().await.contains("rotation has not looked at it"));
    });
}

#[test]
fn a_break_glass_lock_cuts_sessions_and_an_ordinary_rotation_does_not() {
    run(async {
        let mut managed = Managed::start().await;
        let mut live = managed.client().await;
        assert_eq!(live.ask("PING").await, "+PONG");
        for phase in [RotationPhase::Rotating, RotationPhase::LeftAlone, RotationPhase::Ready] {
            managed.tell(|rotation| rotation.phase = phase).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(live.ask("PING").await, "+PONG");
        }
        managed.tell(|rotation| rotation.phase = RotationPhase::Locked).await;
        let text = live.rest().await;
        assert!(
            text.contains("this session as managed-app was ended: its passwords are being replaced"),
            "{text}"
        );
    });
}

#[test]
fn a_proof_is_a_login_with_both_at_each_node() {
    run(async {
        let mut managed = Managed::start().await;
        let dir = managed.world.dir.path().join("other");
        std::fs::create_dir(&dir).unwrap();
        // The certificate of the first, so that the proxy trusts the second too.
        for file in ["cache.crt", "cache.key"] {
            std::fs::copy(managed.world.dir.path().join(file), dir.join(file)).unwrap();
        }
        let lines = format!("user default off\nuser managed-app on >{} ~* +@all", password("v1"));
        let other = start_valkey_with(&dir, &lines);
        let node = |id: &str, port| Node {
            id: id.to_owned(),
            role: String::new(),
            endpoint: Some(Endpoint { host: "localhost".to_owned(), port }),
            slots: Vec::new(),
        };
        let nodes = vec![node("one", managed.world.valkey.port), node("two", other.port)];
        for name in ["orders", "carts", "sessions", "gone"] {
            let database = Database { nodes: nodes.clone(), ..managed.world.database(name) };
            write(&managed.world, Entity::Database(Box::new(database))).await;
        }
        managed.set(Stage::Pending, "v2");
        managed.passwords(&["v1", "v2"]).await;
        managed
            .tell(|rotation| {
                rotation.phase = RotationPhase::Rotating;
                rotation.pending = Some(VersionId::new("v2"));
                rotation.prove = rotation.pending.clone();
            })
            .await;
        let one = format!("localhost:{}", managed.world.valkey.port);
        let two = format!("localhost:{}", other.port);
        let record = managed.proof("of two nodes", |record| record.nodes.len() == 2).await;
        let outcome =
            |record: &ProofRecord, node: &str| (record.nodes[node].pending, record.nodes[node].current);
        assert_eq!(record.version, VersionId::new("v2"));
        assert_eq!(outcome(&record, &one), (LoginOutcome::Ok, LoginOutcome::Ok));
        // The second node is behind, and is asked again.
        assert_eq!(outcome(&record, &two), (LoginOutcome::Refused, LoginOutcome::Ok));
        let learns = Database {
            nodes: Vec::new(),
            endpoint: Endpoint { host: "localhost".to_owned(), port: other.port },
            auth: CacheAuth::PassThrough,
            ..managed.world.database("second")
        };
        write(&managed.world, Entity::Database(Box::new(learns))).await;
        let mut second = managed.world.routed("alice", "second", "managed-app").await;
        assert_eq!(second.ask(&format!("AUTH {}", password("v1"))).await, "+OK");
        assert_eq!(second.ask(&format!("ACL SETUSER managed-app >{}", password("v2"))).await, "+OK");
        let record = managed
            .proof("everywhere", |record| record.nodes.values().all(|seen| seen.pending == LoginOutcome::Ok))
            .await;
        assert_eq!(record.nodes.len(), 2, "a node of several databases is one");
        // A takeover has no current password.
        managed.set(Stage::Pending, "v3");
        managed.passwords(&["v3"]).await;
        managed
            .tell(|rotation| {
                rotation.phase = RotationPhase::TakingOver;
                rotation.prove = Some(VersionId::new("v3"));
            })
            .await;
        let record = managed.proof("of v3", |record| record.version == VersionId::new("v3")).await;
        assert_eq!(outcome(&record, &one), (LoginOutcome::Ok, LoginOutcome::Untried));
        assert!(managed.world.shared.metrics.proofs.value("ok") >= 2);
    });
}

#[test]
fn passwords_are_in_no_log_and_no_audit() {
    run(async {
        let mut managed = Managed::start().await;
        assert_eq!(managed.ping().await, "+PONG");
        managed.passwords(&["of-somebody-else"]).await;
        assert!(managed.ping().await.starts_with("-ERR"));
        managed.world.stop().await;
        let audit = managed.world.audit();
        let refused = audit.iter().find(|event| event["error"] == "auth").unwrap();
        assert!(refused["message"].as_str().unwrap().contains("its rotation is ready"), "{refused}");
        let text = std::fs::read_to_string(managed.world.dir.path().join("audit")).unwrap();
        // The test's own ACL SETUSER is shown without its arguments.
        assert!(!text.contains("password-of"), "{text}");
    });
}
