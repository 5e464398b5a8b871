//! A proxy in this process, a policy in memory, CAs of its own, and a real Valkey with TLS behind it.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod cluster;
pub mod random;
pub mod twin;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keystile_identity::ca::{Authority, Issued, self_sign};
use keystile_identity::certificate::{ClientRequest, HostRequest, issue_client, issue_host};
use keystile_identity::client::Route;
use keystile_identity::key::{NewKey, generate};
use keystile_identity::public_key::SubjectKey;
use keystile_identity::signer::FileSigner;
use keystile_model::arn::Arn;
use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint, EndpointType, Engine};
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity, Feed};
use keystile_model::labels::OneOrMany;
use keystile_model::name::{DatabaseName, DbUserName, RoleName, UserName};
use keystile_model::policy::{CaCertificate, CaKind, Settings};
use keystile_model::role::{Conditions, Role, RoleOptions, RoleVersion, Span};
use keystile_model::store::{Clock, Consistency, PolicyStore};
use keystile_model::user::User;
use keystile_proxy::app::{App, Ports, Shared};
use keystile_proxy::config::Config;
use keystile_proxy::credentials::{Fault, Secrets, Stage, Version};
use keystile_proxy::tls::{PemPair, PemSecrets};
use keystile_proxy::upstream::Tokens;
use keystile_state::memory::MemoryStore;
use keystile_state::policy_feed::Intervals;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use uuid::Uuid;

pub const TOKEN: &str = "the-only-token-that-logs-in";
pub const DOMAIN: &str = "ks.test";
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a test on two threads.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// The machine's clock, moved by hand.
#[derive(Debug, Default)]
pub struct MovedClock(AtomicI64);

impl MovedClock {
    pub fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::now_utc() + time::Duration::seconds(self.0.load(Ordering::Relaxed))
    }
}

/// Gives the password that the server knows, or another one.
#[derive(Debug, Default)]
pub struct FixedTokens {
    pub minted: AtomicUsize,
    pub wrong: AtomicUsize,
}

#[async_trait]
impl Tokens for FixedTokens {
    async fn mint(&self, _: &Database, _: &str) -> Result<SecretString, String> {
        self.minted.fetch_add(1, Ordering::Relaxed);
        let wrong = self.wrong.load(Ordering::Relaxed) > 0;
        if wrong {
            self.wrong.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(SecretString::from(if wrong { "wrong" } else { TOKEN }))
    }
}

/// One secret, or none.
#[derive(Debug, Default)]
pub struct FixedSecrets {
    pub pair: Mutex<Option<(String, String)>>,
    pub asked: AtomicUsize,
}

#[async_trait]
impl PemSecrets for FixedSecrets {
    async fn pem_pair(&self, _: &str) -> Result<PemPair, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (certificate, key) = self.pair.lock().unwrap().clone().ok_or("it is away")?;
        Ok(PemPair { certificate, key: SecretString::from(key) })
    }
}

/// Secrets by name and stage.
#[derive(Debug, Default)]
pub struct FixedPasswords {
    pub values: Mutex<HashMap<(String, Stage), (String, String)>>,
    pub reads: AtomicUsize,
}

impl FixedPasswords {
    /// Sets a version: its id and its value.
    pub fn set(&self, secret: &str, stage: Stage, id: &str, value: &str) {
        let version = (id.to_owned(), value.to_owned());
        self.values.lock().unwrap().insert((secret.to_owned(), stage), version);
    }
}

#[async_trait]
impl Secrets for FixedPasswords {
    async fn read(&self, secret: &str, stage: Stage) -> Result<Version, Fault> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let values = self.values.lock().unwrap();
        let (id, value) = values.get(&(secret.to_owned(), stage)).cloned().ok_or(Fault::Missing)?;
        Ok(Version { id, value: SecretString::from(value) })
    }
}

pub struct Ca {
    pem: String,
    signer: FileSigner,
}

impl Ca {
    async fn new(kind: CaKind) -> Self {
        let key = generate().unwrap();
        let signer = FileSigner::from_pem(&key.private).unwrap();
        let pem = self_sign("test", kind, 1, &signer, now(), Uuid::new_v4()).await.unwrap().pem;
        Self { pem, signer }
    }
}

fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// A certificate and its key.
pub struct Pair {
    pub issued: Issued,
    pub key: NewKey,
}

pub struct Valkey {
    child: Child,
    pub port: u16,
}

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Valkey {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The built Valkey, or what the machine has; with the folder of its libraries.
pub fn valkey_server() -> Command {
    let built = packages().join("bin/valkey-server");
    let mut command = Command::new(if built.exists() { built } else { PathBuf::from("valkey-server") });
    let libraries = packages().join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    command.env("LD_LIBRARY_PATH", libraries);
    command
}

fn packages() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/local/pkgs/usr")
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The users of the fixture.
fn acl_lines() -> String {
    let connection = "-@all +@read +@connection +@transaction +@pubsub +acl|whoami +cluster|slots";
    format!(
        "user default off\nuser iam-ro on >{TOKEN} ~* &* {connection}\n\
         user iam-rw on >{TOKEN} ~* &* {connection} +@write +@scripting -@dangerous\n\
         user iam-min on >{TOKEN} ~* -@all +@read\n\
         user iam-admin on >{TOKEN} ~* &* +@all\nuser own on >their-own ~* &* +@all\n"
    )
}

/// Starts a Valkey with TLS and the users of the fixture; its certificate is its own CA.
fn start_valkey(dir: &std::path::Path) -> Valkey {
    start_valkey_with(dir, &acl_lines())
}

/// Starts a Valkey with TLS and these lines of configuration; `cache.crt` in the folder is its CA,
/// made unless it is there.
pub fn start_valkey_with(dir: &std::path::Path, lines: &str) -> Valkey {
    if !dir.join("cache.crt").exists() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cache.crt"), own.cert.pem()).unwrap();
        std::fs::write(dir.join("cache.key"), own.signing_key.serialize_pem()).unwrap();
    }
    let port = free_port();
    let config = format!(
        "port 0\ntls-port {port}\nbind 127.0.0.1 ::1\ntls-cert-file {0}/cache.crt\ntls-key-file {0}/cache.key\n\
         tls-ca-cert-file {0}/cache.crt\ntls-auth-clients no\nsave \"\"\ndir {0}\n{lines}",
        dir.display()
    );
    std::fs::write(dir.join("valkey.conf"), config).unwrap();
    let child = valkey_server()
        .arg(dir.join("valkey.conf"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("valkey-server: {error}; run `make up` once: it fetches Valkey"));
    let valkey = Valkey { child, port };
    for _ in 0..200 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return valkey;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("valkey does not listen");
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub valkey: Valkey,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<MovedClock>,
    pub tokens: Arc<FixedTokens>,
    pub secrets: Arc<FixedSecrets>,
    pub passwords: Arc<FixedPasswords>,
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    user_ca: Ca,
    host_ca: Ca,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<anyhow::Result<()>>>,
}

impl World {
    /// A world with the fixture's policy.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let world = Self::start_cold(settings).await;
        world.set_up().await;
        world.wait_ready().await;
        world
    }

    /// A world whose policy table is empty.
    pub async fn start_cold(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let valkey = start_valkey(dir.path());
        let (user_ca, host_ca) = (Ca::new(CaKind::User).await, Ca::new(CaKind::Host).await);
        let host = host_certificate(&host_ca, 86_400).await;
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("host.crt"), &host.issued.pem).unwrap();
        std::fs::write(path("host.key"), host.key.private.expose_secret()).unwrap();
        let mut vars = HashMap::from(
            [
                ("KEYSTILE_LISTEN", "127.0.0.1:0".to_owned()),
                ("KEYSTILE_METRICS_LISTEN", "127.0.0.1:0".to_owned()),
                ("KEYSTILE_POLICY_TABLE", "policy".to_owned()),
                ("KEYSTILE_RUNTIME_TABLE", "runtime".to_owned()),
                ("KEYSTILE_DEPLOYMENT", "test".to_owned()),
                ("KEYSTILE_HOST_CERT_FILE", path("host.crt")),
                ("KEYSTILE_HOST_KEY_FILE", path("host.key")),
                ("KEYSTILE_CACHE_CA_FILE", path("cache.crt")),
                ("KEYSTILE_ALLOW_LOOPBACK", "on".to_owned()),
                ("KEYSTILE_AUDIT_FILE", path("audit")),
                ("KEYSTILE_DRAIN_S", "1".to_owned()),
                ("KEYSTILE_DIAL_TIMEOUT_S", "2".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let secrets = Arc::<FixedSecrets>::default();
        let private = host.key.private.expose_secret().to_owned();
        *secrets.pair.lock().unwrap() = Some((host.issued.pem.clone(), private));
        vars.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let store = Arc::new(MemoryStore::new());
        let (clock, tokens) = (Arc::<MovedClock>::default(), Arc::<FixedTokens>::default());
        let passwords = Arc::<FixedPasswords>::default();
        let ports = Ports {
            policy: Arc::clone(&store) as _,
            runtime: Arc::clone(&store) as _,
            tokens: Arc::clone(&tokens) as _,
            secrets: Arc::clone(&secrets) as _,
            passwords: Arc::clone(&passwords) as _,
            clock: Arc::clone(&clock) as _,
            intervals: Intervals {
                access: Duration::from_millis(50),
                inventory: Duration::from_millis(50),
                after_errors: Duration::from_millis(100),
            },
        };
        let app = App::build(Config::read(&vars).unwrap(), ports).await.unwrap();
        let (address, metrics, shared) =
            (app.address().unwrap(), app.metrics_address().unwrap(), app.shared());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async {
            let _ = stopped.await;
        }));
        Self {
            dir,
            valkey,
            store,
            clock,
            tokens,
            secrets,
            passwords,
            shared,
            address,
            metrics,
            user_ca,
            host_ca,
            stop: Some(stop),
            running: Some(running),
        }
    }

    /// Writes the fixture's policy.
    pub async fn set_up(&self) {
        for feed in Feed::ALL {
            self.store.set_up(feed).await.unwrap();
        }
        for entity in self.fixture() {
            self.put(entity).await;
        }
    }

    pub async fn wait_ready(&self) {
        wait_until("the policy is loaded", || {
            let snapshot = self.shared.policy.borrow().clone();
            snapshot.policy.is_some_and(|policy| {
                policy.databases().count() == 4 && policy.users().len() == 5 && policy.db_users().count() == 5
            })
        })
        .await;
    }

    pub async fn put(&self, entity: Entity) {
        self.change(Change::Put(entity)).await;
    }

    pub async fn change(&self, change: Change) {
        let feed = change.key().kind.feed();
        let head = self.store.head(feed, Consistency::Strong).await.unwrap();
        self.store.commit(feed, &head, "test", now(), &[change]).await.unwrap();
    }

    fn fixture(&self) -> Vec<Entity> {
        let mut all = vec![
            Entity::Settings(Box::new(Settings {
                deployment: "test".to_owned(),
                trusted_accounts: BTreeSet::new(),
                proxy_address: "localhost:6379".to_owned(),
                domain: DOMAIN.to_owned(),
                max_session_ttl: Span { seconds: 28_800 },
                max_policy_age_s: 900,
                static_networks: Vec::new(),
            })),
            Entity::CaCertificate(CaCertificate {
                ca: CaKind::User,
                generation: 1,
                pem: self.user_ca.pem.clone(),
                key: "file".to_owned(),
                signing: true,
            }),
            role("dev", "prod", &["iam-ro", "iam-rw", "default", "own"], &[], &[]),
            role("analyst", "*", &["iam-ro"], &["+@read +@connection +@transaction -@dangerous"], &[]),
            role("checkout", "*", &["iam-rw"], &[], &["~cart:*"]),
        ];
        for (name, roles) in
            [("alice", ["access"]), ("bob", ["dev"]), ("carol", ["analyst"]), ("shop", ["checkout"])]
        {
            all.push(user(name, &roles));
        }
        all.push(user("dave", &[]));
        let orders = self.database("orders");
        let carts = Database {
            kind: DatabaseKind::ElasticacheServerless,
            cluster_mode: true,
            labels: BTreeMap::from([("env".to_owned(), "dev".to_owned())]),
            ..self.database("carts")
        };
        let sessions = Database { cluster_mode: true, ..self.database("sessions") };
        let mut gone = self.database("gone");
        gone.endpoint.port = free_port();
        all.extend([orders, carts, sessions, gone].map(|database| Entity::Database(Box::new(database))));
        for (name, group, auth) in [
            ("iam-ro", "keystile", DbUserAuth::Iam),
            ("iam-rw", "keystile", DbUserAuth::Iam),
            ("iam-admin", "keystile", DbUserAuth::Iam),
            ("elsewhere", "other", DbUserAuth::Iam),
            ("static-app", "keystile", DbUserAuth::Password),
        ] {
            all.push(db_user(name, group, auth));
        }
        all
    }

    /// Puts a database called `sessions` at a cluster, whose first node stands for the configuration endpoint,
    /// and a db user that may only read.
    pub async fn serve_cluster(&self, cluster: &cluster::Cluster) {
        self.serve_cluster_at(cluster, 0).await;
    }

    /// The same, by an endpoint that leads to this node.
    pub async fn serve_cluster_at(&self, cluster: &cluster::Cluster, node: usize) {
        let mut sessions = Database { cluster_mode: true, ..self.database("sessions") };
        sessions.endpoint.port = cluster.nodes[node].port;
        let endpoint = sessions.endpoint.clone();
        self.put(Entity::Database(Box::new(sessions))).await;
        self.put(db_user("iam-min", "keystile", DbUserAuth::Iam)).await;
        wait_until("the cluster is known", || {
            let snapshot = self.shared.policy.borrow().clone();
            let policy = snapshot.policy.unwrap();
            policy.database("sessions").is_some_and(|known| known.endpoint == endpoint)
                && policy.db_users().count() == 6
        })
        .await;
    }

    /// A database at the world's server.
    pub fn database(&self, name: &str) -> Database {
        Database {
            name: DatabaseName::parse(name).unwrap(),
            description: String::new(),
            kind: DatabaseKind::Elasticache,
            engine: Engine::Valkey,
            engine_version: "8.0".to_owned(),
            endpoint_type: EndpointType::Primary,
            endpoint: Endpoint { host: "localhost".to_owned(), port: self.valkey.port },
            arn: Some(
                Arn::parse(format!("arn:aws:elasticache:us-east-1:1:replicationgroup:{name}")).unwrap(),
            ),
            resource_id: name.to_owned(),
            region: "us-east-1".to_owned(),
            account_id: "1".to_owned(),
            labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            cluster_mode: false,
            groups: BTreeSet::from(["keystile".to_owned()]),
            auth: CacheAuth::Auto,
            assume_role: None,
            matcher: "all".to_owned(),
            import_tags: BTreeSet::new(),
            fixed_labels: BTreeMap::new(),
            nodes: Vec::new(),
            ca: None,
        }
    }

    /// A client certificate.
    pub async fn certificate(&self, user: &str, route: Option<(&str, &str)>, ttl_s: u64) -> Pair {
        client_certificate(&self.user_ca, user, route, ttl_s).await
    }

    /// A client of a user, with a certificate for one route.
    pub async fn routed(&self, user: &str, database: &str, db_user: &str) -> Client {
        let pair = self.certificate(user, Some((database, db_user)), 3_600).await;
        self.connect(Some(&pair), "localhost").await
    }

    /// A client of a user, at the server name of a database.
    pub async fn named(&self, user: &str, server_name: &str) -> Client {
        let pair = self.certificate(user, None, 3_600).await;
        self.connect(Some(&pair), server_name).await
    }

    pub async fn connect(&self, pair: Option<&Pair>, server_name: &str) -> Client {
        self.connect_with(self.client_config(pair), server_name).await.unwrap()
    }

    /// The configuration of a client.
    pub fn client_config(&self, pair: Option<&Pair>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.host_ca.pem.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(keystile_proxy::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(pair.issued.pem.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(pair.key.private.expose_secret().as_bytes()).unwrap(),
                )
                .unwrap(),
        })
    }

    pub async fn connect_with(
        &self,
        config: Arc<ClientConfig>,
        server_name: &str,
    ) -> std::io::Result<Client> {
        self.over_named(TcpStream::connect(self.address).await?, config, server_name).await
    }

    /// A client over a connection that sends these bytes first.
    pub async fn connect_after(&self, first: &[u8], pair: &Pair) -> std::io::Result<Client> {
        let mut tcp = TcpStream::connect(self.address).await?;
        tcp.write_all(first).await?;
        self.over(tcp, self.client_config(Some(pair))).await
    }

    /// A client over this connection.
    pub async fn over(&self, tcp: TcpStream, config: Arc<ClientConfig>) -> std::io::Result<Client> {
        self.over_named(tcp, config, "localhost").await
    }

    async fn over_named(
        &self,
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        server_name: &str,
    ) -> std::io::Result<Client> {
        let name = ServerName::try_from(server_name.to_owned()).unwrap();
        Ok(Client { stream: TlsConnector::from(config).connect(name, tcp).await?, seen: Vec::new() })
    }

    /// Another host certificate of the world's CA.
    pub async fn host_certificate(&self, ttl_s: u64) -> Pair {
        host_certificate(&self.host_ca, ttl_s).await
    }

    /// Stops the proxy and waits until it has.
    pub async fn stop(&mut self) {
        self.begin_stop();
        self.running.take().unwrap().await.unwrap().unwrap();
    }

    pub fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }

    /// The audit lines so far.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.dir.path().join("audit")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What the metrics port answers.
    pub async fn http(&self, path: &str) -> String {
        let mut tcp = TcpStream::connect(self.metrics).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

/// A certificate of another CA that nobody trusts.
pub async fn foreign_certificate(user: &str) -> Pair {
    client_certificate(&Ca::new(CaKind::User).await, user, None, 3_600).await
}

async fn client_certificate(ca: &Ca, user: &str, route: Option<(&str, &str)>, ttl_s: u64) -> Pair {
    let key = generate().unwrap();
    let subject = SubjectKey::from_der(&key.public_der).unwrap();
    let route = route.map(|(database, db_user)| Route {
        database: DatabaseName::parse(database).unwrap(),
        db_user: DbUserName::parse(db_user).unwrap(),
    });
    let user = UserName::parse(user).unwrap();
    let request =
        ClientRequest { deployment: "test", user: &user, route: route.as_ref(), key: &subject, ttl_s };
    let authority = Authority::new(&ca.pem, &ca.signer).await.unwrap();
    let issued = issue_client(&authority, &request, now(), Uuid::new_v4()).await.unwrap();
    Pair { issued, key }
}

async fn host_certificate(ca: &Ca, ttl_s: u64) -> Pair {
    let key = generate().unwrap();
    let subject = SubjectKey::from_der(&key.public_der).unwrap();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), format!("*.{DOMAIN}")];
    let request =
        HostRequest { deployment: "test", group: "default", id: "one", hosts: &hosts, key: &subject, ttl_s };
    let authority = Authority::new(&ca.pem, &ca.signer).await.unwrap();
    let issued = issue_host(&authority, &request, now(), Uuid::new_v4()).await.unwrap();
    Pair { issued, key }
}

pub fn user(name: &str, roles: &[&str]) -> Entity {
    Entity::User(User {
        name: UserName::parse(name).unwrap(),
        roles: roles.iter().map(|role| RoleName::parse(*role).unwrap()).collect(),
        traits: BTreeMap::new(),
        not_before: None,
    })
}

pub fn role(name: &str, env: &str, users: &[&str], commands: &[&str], keys: &[&str]) -> Entity {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let label = if env == "*" { "*" } else { "env" };
    Entity::Role(Box::new(Role {
        name: RoleName::parse(name).unwrap(),
        version: RoleVersion::Ks1,
        description: String::new(),
        allow: Conditions {
            db_labels: BTreeMap::from([(label.to_owned(), OneOrMany::One(env.to_owned()))]),
            db_users: texts(users),
            db_commands: texts(commands),
            db_keys: texts(keys),
            ..Conditions::default()
        },
        deny: Conditions::default(),
        options: RoleOptions::default(),
    }))
}

fn db_user(name: &str, group: &str, auth: DbUserAuth) -> Entity {
    Entity::DbUser(Box::new(DbUser {
        arn: Arn::parse(format!("arn:aws:elasticache:us-east-1:1:user:{name}")).unwrap(),
        id: name.to_owned(),
        name: DbUserName::parse(name).unwrap(),
        service: DbUserService::Elasticache,
        auth,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: BTreeSet::from([group.to_owned()]),
        managed: false,
    }))
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to be that {what}");
}

/// A command as an array.
pub fn encoded(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    keystile_resp::encode::request(&mut out, words);
    out
}

/// A client that speaks bytes.
pub struct Client {
    pub stream: TlsStream<TcpStream>,
    seen: Vec<u8>,
}

impl Client {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads one line, without its end; empty at the end of the stream.
    pub async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(at) = self.seen.windows(2).position(|pair| pair == b"\r\n") {
                    let rest = self.seen.split_off(at + 2);
                    let line = std::mem::replace(&mut self.seen, rest);
                    return String::from_utf8_lossy(&line[..at]).into_owned();
                }
                let mut more = vec![0; 65_536];
                match self.stream.read(&mut more).await {
                    Ok(0) | Err(_) => return String::new(),
                    Ok(n) => self.seen.extend_from_slice(&more[..n]),
                }
            }
        })
        .await
        .expect("no answer in time")
    }

    pub async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// Reads one whole reply: `+…`, `-…`, `:…`, a bulk as its text, `(nil)`, `[a b]` for aggregates.
    pub async fn reply(&mut self) -> String {
        let line = self.line().await;
        let (marker, rest) = line.split_at(line.len().min(1));
        match (marker, rest) {
            ("$" | "*", "-1") | ("_", _) => "(nil)".to_owned(),
            ("$" | "=", length) => self.exact(length.parse().unwrap()).await,
            ("*" | "~" | ">" | "%", count) => {
                let count: usize = count.parse().unwrap();
                let mut items = Vec::new();
                for _ in 0..if marker == "%" { 2 * count } else { count } {
                    items.push(Box::pin(self.reply()).await);
                }
                format!("{}[{}]", if marker == ">" { ">" } else { "" }, items.join(" "))
            }
            _ => line,
        }
    }

    /// Reads so many bytes and the end of a line.
    async fn exact(&mut self, length: usize) -> String {
        tokio::time::timeout(PATIENCE, async {
            while self.seen.len() < length + 2 {
                let mut more = vec![0; 65_536];
                match self.stream.read(&mut more).await {
                    Ok(0) | Err(_) => return String::new(),
                    Ok(n) => self.seen.extend_from_slice(&more[..n]),
                }
            }
            let rest = self.seen.split_off(length + 2);
            let mut bytes = std::mem::replace(&mut self.seen, rest);
            bytes.truncate(length);
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .await
        .expect("no answer in time")
    }

    /// Sends a command of these words and reads its whole reply.
    pub async fn command(&mut self, words: &[&str]) -> String {
        self.send(encoded(words)).await;
        self.reply().await
    }

    /// Sends, and reads so many lines.
    pub async fn lines_of(&mut self, bytes: &str, count: usize) -> Vec<String> {
        self.send(bytes).await;
        self.lines(count).await
    }

    /// Sends, and reads a line, also where the other side stops listening halfway.
    pub async fn line_after(&mut self, bytes: &[u8]) -> String {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
        self.line().await
    }

    /// Sends an inline command and reads one line.
    pub async fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        self.line().await
    }

    /// Whether the stream ends, with whatever comes before.
    pub async fn rest(&mut self) -> String {
        let read = async {
            let mut rest = std::mem::take(&mut self.seen);
            let _ = self.stream.read_to_end(&mut rest).await;
            String::from_utf8_lossy(&rest).into_owned()
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the stream does not end")
    }
}
