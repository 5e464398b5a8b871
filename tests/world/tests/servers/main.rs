//! The fixture's servers as a client meets them: who gets in, who does not, and for how long.
//!
//! Needs the fetched packages and the module's release build. Without them the tests are skipped, unless
//! `KEYSTILE_REQUIRE_WORLD` is set: then they fail.

#![allow(clippy::unwrap_used, reason = "a test program: what fails here fails the test")]

mod signer;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use keystile_world::fixture::{
    ABROAD_ACCOUNT, HOME_ACCOUNT, Kind, Passwords, Resource, TEST_ADMIN, resources,
};
use keystile_world::packages::Packages;
use keystile_world::servers::client::{Client, Reply};
use keystile_world::servers::{Cache, Manifest, Options, Role, restart_node, start};
use keystile_world::world::paths::replace_file;
use keystile_world::world::ports::Ports;
use keystile_world::world::process::Running;
use keystile_world::world::{Paths, down};
use rustix::process::Signal;
use serde_json::json;

use signer::Token;

const ADMIN_KEY: &str = "AKIAADMIN";
const ABROAD_KEY: &str = "ASIAABROAD";
const EXPIRED_KEY: &str = "ASIAEXPIRED";
const ALICE_KEY: &str = "AKIAALICE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SESSION: &str = "FwoGZXIvYXdzE//session+token==";
const WRONGPASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const TWELVE_HOURS: Duration = Duration::from_secs(43_200);

/// Servers in a folder of their own, which end with the test however it ends.
struct World {
    paths: Paths,
    manifest: Manifest,
    passwords: Passwords,
}

impl Drop for World {
    fn drop(&mut self) {
        for process in Running::all(&self.paths) {
            process.signal(Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.paths.local);
    }
}

impl World {
    /// Starts some of the fixture's caches, or says why they are skipped.
    async fn start(name: &str, iam_life: Duration, wanted: impl Fn(&Resource) -> bool) -> Option<Self> {
        let checkout = Paths::of_checkout();
        let packages = match Packages::locate(&checkout.packages) {
            Ok(packages) if checkout.iam_module().exists() => packages,
            other => {
                let why = other.err().map_or("the module is not built".to_owned(), |error| error.to_string());
                assert!(std::env::var_os("KEYSTILE_REQUIRE_WORLD").is_none(), "{why}");
                eprintln!("skipped: {why}");
                return None;
            }
        };
        let folder = format!("target/local-tests/{name}-{}", std::process::id());
        let paths = checkout.beside(checkout.repository.join(folder));
        write_keys(&paths.keys());
        let options = Options {
            resources: resources(&packages.version, 0).into_iter().filter(wanted).collect(),
            passwords: Passwords::generate(),
            iam_life,
        };
        let mut ports = Ports::new(None);
        let started = start(&paths, &packages, &options, &mut ports, |_| {}).await;
        let manifest = Manifest { ca_file: PathBuf::new(), version: String::new(), resources: Vec::new() };
        let mut world = Self { paths, manifest, passwords: options.passwords };
        world.manifest = started.unwrap();
        Some(world)
    }

    fn cache(&self, kind: Kind, id: &str) -> &Cache {
        self.manifest.cache(HOME_ACCOUNT, kind, id).unwrap()
    }

    async fn connect(&self, port: u16) -> Client {
        Client::connect(&self.manifest.ca_file, port).await.unwrap()
    }

    async fn admin(&self, port: u16) -> Client {
        Client::login(&self.manifest.ca_file, port, TEST_ADMIN, &self.passwords.test_admin).await.unwrap()
    }

    /// The answer to AUTH on a connection of its own.
    async fn auth(&self, port: u16, user: &str, password: &str) -> String {
        self.connect(port).await.call(&["AUTH", user, password]).await.unwrap().text()
    }

    fn log_of(&self, process: &str) -> String {
        std::fs::read_to_string(self.paths.log(process)).unwrap()
    }
}

fn write_keys(path: &std::path::Path) {
    let key = |session: Option<&str>, expires: Option<f64>, arn: &str, connect: &[&str]| {
        json!({"secret": SECRET, "session_token": session, "expires_at": expires, "account": HOME_ACCOUNT,
               "arn": arn, "connect_accounts": connect})
    };
    let keys = json!({"keys": {
        ADMIN_KEY: key(None, None, "arn:aws:iam::123456789012:user/keystile-admin", &[HOME_ACCOUNT]),
        ALICE_KEY: key(None, None, "arn:aws:iam::123456789012:user/alice", &[]),
        ABROAD_KEY: key(Some(SESSION), Some(4e9), "arn:aws:sts::210987654321:assumed-role/keystile-discovery/p",
                        &[ABROAD_ACCOUNT]),
        EXPIRED_KEY: key(Some(SESSION), Some(1.0), "arn:aws:sts::123456789012:assumed-role/keystile-proxy/p",
                         &[HOME_ACCOUNT]),
    }});
    replace_file(path, &serde_json::to_vec(&keys).unwrap()).unwrap();
}

#[tokio::test]
async fn a_good_token_opens_orders_and_each_wrong_one_gets_wrongpass() {
    let Some(world) = World::start("wrong-tokens", TWELVE_HOURS, |r| r.id == "orders").await else { return };
    let orders = world.cache(Kind::ReplicationGroup, "orders");
    let port = orders.endpoints["primary"].port;
    let good = Token::new("orders", "iam-ro");
    assert_eq!(world.auth(port, "iam-ro", &good.mint()).await, "OK");

    let wrong = |change: &dyn Fn(&mut Token)| {
        let mut token = good.clone();
        change(&mut token);
        token.mint()
    };
    let cases = [
        (wrong(&|t| t.action = "Connect"), "Action is"),
        (wrong(&|t| t.name = "Orders".into()), "for the resource \"Orders\""),
        (wrong(&|t| t.name = "sessions".into()), "for the resource \"sessions\""),
        (wrong(&|t| t.user = "iam-rw".into()), "for the user \"iam-rw\""),
        (wrong(&|t| t.resource_type = Some("ServerlessCache")), "ResourceType"),
        (wrong(&|t| t.extra = Some(("Extra", "1"))), "does not belong here"),
        (wrong(&|t| t.region = "eu-west-1"), "its scope is"),
        (wrong(&|t| t.service = "memorydb"), "its scope is"),
        (wrong(&|t| t.age = 901), "expired"),
        (wrong(&|t| t.age = -302), "in the future"),
        (wrong(&|t| t.expires = 901), "not 1 to 900"),
        (wrong(&|t| t.key_id = "AKIANOBODY"), "nobody holds"),
        (wrong(&|t| t.session_token = Some(SESSION)), "session token"),
        (wrong(&|t| t.secret = "wrong"), "signature is not"),
        (wrong(&|t| (t.key_id, t.session_token) = (EXPIRED_KEY, Some(SESSION))), "has expired"),
        (wrong(&|t| t.key_id = ALICE_KEY), "alice is not allowed"),
        (wrong(&|t| (t.key_id, t.session_token) = (ABROAD_KEY, Some(SESSION))), "is not allowed"),
        (good.mint().replace("Signature=", "Signature=0"), "signature is not"),
        (format!("{}&User=iam-ro", good.mint()), "there twice"),
        ("password".to_owned(), "no token"),
        (String::new(), "no token"),
    ];
    for (token, reason) in &cases {
        assert_eq!(world.auth(port, "iam-ro", token).await, WRONGPASS, "{reason}");
        let log = world.log_of(&orders.nodes[0].process);
        let last = log.lines().rfind(|line| line.contains("refused the IAM login")).unwrap_or_default();
        assert!(last.contains(reason), "{reason}: {last}");
        assert!(!last.contains("X-Amz-Signature="), "no token in a log: {last}");
    }
    assert_eq!(world.auth(port, "nobody", &Token::new("orders", "nobody").mint()).await, WRONGPASS);
    assert_eq!(world.auth(port, "default", "").await, WRONGPASS);
    assert_eq!(world.auth(port, "static-app", &world.passwords.static_app).await, "OK");
    assert_eq!(world.auth(port, "static-app", &Token::new("orders", "static-app").mint()).await, WRONGPASS);
    the_other_accounts_cache_wants_its_own_role(&world).await;
    a_temporary_key_is_known_once_it_is_written(&world, port).await;
    a_refusal_amid_a_pipeline_keeps_its_place(&world, port).await;
    auth_inside_multi_is_refused_when_it_is_sent(&world, port).await;
    down(&world.paths).await.unwrap();
    assert!(Running::all(&world.paths).is_empty());
}

async fn the_other_accounts_cache_wants_its_own_role(world: &World) {
    let abroad = world.manifest.cache(ABROAD_ACCOUNT, Kind::ReplicationGroup, "orders").unwrap();
    let port = abroad.endpoints["primary"].port;
    let home = Token { region: "eu-west-1", ..Token::new("orders", "iam-ro") };
    assert_eq!(world.auth(port, "iam-ro", &home.mint()).await, WRONGPASS);
    let assumed = Token { key_id: ABROAD_KEY, session_token: Some(SESSION), ..home };
    assert_eq!(world.auth(port, "iam-ro", &assumed.mint()).await, "OK");
}

async fn a_temporary_key_is_known_once_it_is_written(world: &World, port: u16) {
    let token = Token { key_id: "ASIANEW", session_token: Some(SESSION), ..Token::new("orders", "iam-ro") };
    assert_eq!(world.auth(port, "iam-ro", &token.mint()).await, WRONGPASS);
    let mut keys: serde_json::Value =
        serde_json::from_slice(&std::fs::read(world.paths.keys()).unwrap()).unwrap();
    keys["keys"]["ASIANEW"] = keys["keys"][EXPIRED_KEY].clone();
    keys["keys"]["ASIANEW"]["expires_at"] = json!(4e9);
    replace_file(&world.paths.keys(), &serde_json::to_vec(&keys).unwrap()).unwrap();
    assert_eq!(world.auth(port, "iam-ro", &token.mint()).await, "OK");
}

async fn a_refusal_amid_a_pipeline_keeps_its_place(world: &World, port: u16) {
    let mut client = world.connect(port).await;
    client.ok(&["AUTH", "iam-ro", &Token::new("orders", "iam-ro").mint()]).await.unwrap();
    client.send(&[&["PING"], &["AUTH", "iam-ro", "stale"], &["ACL", "WHOAMI"]]).await.unwrap();
    assert_eq!(client.receive().await.unwrap().text(), "PONG");
    assert_eq!(client.receive().await.unwrap(), Reply::Error(WRONGPASS.into()));
    assert_eq!(client.receive().await.unwrap().text(), "iam-ro", "a failed AUTH changes nothing");
}

async fn auth_inside_multi_is_refused_when_it_is_sent(world: &World, port: u16) {
    let mut client = world.connect(port).await;
    let token = Token::new("orders", "iam-rw").mint();
    client.ok(&["AUTH", "iam-rw", &token]).await.unwrap();
    for login in [vec!["AUTH", "iam-rw", &token], vec!["hello", "2", "auth", "iam-rw", &token]] {
        client.ok(&["MULTI"]).await.unwrap();
        assert_eq!(client.call(&["SET", "in-multi", "1"]).await.unwrap().text(), "QUEUED");
        let refusal = client.call(&login).await.unwrap();
        assert_eq!(refusal, Reply::Error("ERR Command not allowed inside a transaction".into()));
        assert!(client.call(&["EXEC"]).await.unwrap().text().starts_with("EXECABORT"));
        assert_eq!(client.call(&["GET", "in-multi"]).await.unwrap(), Reply::Bulk(None));
    }
    client.ok(&["AUTH", "iam-rw", &token]).await.unwrap();
}

#[tokio::test]
async fn an_iam_connection_is_cut_at_the_end_of_its_life_unless_it_logs_in_again() {
    let home_orders = |r: &Resource| r.id == "orders" && r.account == HOME_ACCOUNT;
    let Some(world) = World::start("life", Duration::from_secs(1), home_orders).await else { return };
    let port = world.cache(Kind::ReplicationGroup, "orders").endpoints["primary"].port;
    let token = || Token::new("orders", "iam-ro").mint();
    let begin = Instant::now();
    let (mut left, mut renewed, mut other) =
        (world.connect(port).await, world.connect(port).await, world.connect(port).await);
    for client in [&mut left, &mut renewed, &mut other] {
        client.ok(&["AUTH", "iam-ro", &token()]).await.unwrap();
    }
    other.ok(&["AUTH", "static-app", &world.passwords.static_app]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    renewed.ok(&["AUTH", "iam-ro", &token()]).await.unwrap();
    let renewed_at = Instant::now();

    assert!(left.receive().await.is_err(), "the server speaks first: it hangs up");
    let lived = begin.elapsed();
    assert!(lived >= Duration::from_secs(1) && lived < Duration::from_millis(1500), "{lived:?}");
    renewed.ok(&["PING"]).await.unwrap();
    assert!(renewed.receive().await.is_err());
    let lived = renewed_at.elapsed();
    assert!(lived >= Duration::from_millis(990) && lived < Duration::from_millis(1500), "{lived:?}");
    other.ok(&["PING"]).await.expect("a password's connection has no such end");
}

#[tokio::test]
async fn the_whole_fixture_answers_where_it_says() {
    let Some(world) = World::start("fixture", TWELVE_HOURS, |_| true).await else { return };
    for cache in &world.manifest.resources {
        let abroad = cache.account == ABROAD_ACCOUNT;
        for (name, endpoint) in &cache.endpoints {
            let token = Token {
                service: if cache.kind == Kind::MemoryDb { "memorydb" } else { "elasticache" },
                region: if abroad { "eu-west-1" } else { "us-east-1" },
                resource_type: (cache.kind == Kind::Serverless).then_some("ServerlessCache"),
                key_id: if abroad { ABROAD_KEY } else { ADMIN_KEY },
                session_token: abroad.then_some(SESSION),
                ..Token::new(&cache.id, "iam-ro")
            };
            assert_eq!(world.auth(endpoint.port, "iam-ro", &token.mint()).await, "OK", "{} {name}", cache.id);
        }
        for node in &cache.nodes {
            let role = world.admin(node.port).await.ok(&["ROLE"]).await.unwrap().elements()[0].text();
            assert_eq!(role == "master", node.role == Role::Primary, "{}", node.id);
            let mut stranger = world.connect(node.port).await;
            assert!(stranger.call(&["PING"]).await.unwrap().text().starts_with("NOAUTH"), "default is off");
        }
    }
    let sessions = world.cache(Kind::ReplicationGroup, "sessions");
    let mut first = world.admin(sessions.nodes[0].port).await;
    // The slot of "foo" is 12182, in the third third.
    let moved = first.call(&["SET", "foo", "1"]).await.unwrap().text();
    assert_eq!(moved, format!("MOVED 12182 localhost:{}", sessions.nodes[2].port));
    world.admin(sessions.nodes[2].port).await.ok(&["SET", "foo", "1"]).await.unwrap();
    a_cluster_outlives_a_primary(&world, sessions).await;
}

/// The replica takes over within seconds, and the configuration endpoint leads to those that live.
async fn a_cluster_outlives_a_primary(world: &World, sessions: &Cache) {
    let primary = Running::find(&world.paths, &sessions.nodes[0].process).unwrap();
    primary.signal(Signal::KILL);
    let mut replica = world.admin(sessions.nodes[3].port).await;
    let begin = Instant::now();
    while replica.ok(&["ROLE"]).await.unwrap().elements()[0].text() != "master" {
        assert!(begin.elapsed() < Duration::from_secs(15), "no failover");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for _ in 0..sessions.nodes.len() {
        let mut any = world.admin(sessions.endpoints["configuration"].port).await;
        assert_eq!(any.ok(&["CLUSTER", "SLOTS"]).await.unwrap().elements().len(), 3);
    }
    restart_node(&world.paths, &sessions.nodes[0]).await.unwrap();
    let mut returned = None;
    while returned.is_none() {
        assert!(begin.elapsed() < Duration::from_secs(25), "the node did not come back");
        let port = sessions.nodes[0].port;
        let login = Client::login(&world.manifest.ca_file, port, TEST_ADMIN, &world.passwords.test_admin);
        returned = login.await.ok();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
