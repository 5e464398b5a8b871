//! A proxy in this process, with its policy, its CAs and a cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint, EndpointType, Engine};
use keystile_model::db_user::DbUserAuth;
use keystile_model::feed::{Change, Entity, Feed};
use keystile_model::name::DatabaseName;
use keystile_model::policy::{CaCertificate, CaKind, Settings};
use keystile_model::role::Span;
use keystile_model::store::{Consistency, PolicyStore};
use keystile_proxy::app::{App, Ports, Shared};
use keystile_proxy::config::Config;
use keystile_state::memory::MemoryStore;
use keystile_state::policy_feed::Intervals;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::certificates::{Ca, Pair, client_certificate, host_certificate, now};
use super::client::Client;
use super::cluster::Cluster;
use super::policy::{db_user, role, user};
use super::server::{Valkey, engine_version, free_port, start_valkey};
use super::stand_ins::{FixedPasswords, FixedSecrets, FixedTokens, MovedClock};
use super::{DOMAIN, wait_until};

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

    /// Adds a database, and waits until the proxy knows it.
    pub async fn add(&self, database: Database) {
        let name = database.name.to_string();
        let is_static = database.kind == DatabaseKind::Static;
        let entity = if is_static { Entity::StaticDatabase } else { Entity::Database };
        self.put(entity(Box::new(database))).await;
        wait_until("it is known", || {
            self.shared.policy.borrow().policy.as_ref().is_some_and(|policy| policy.database(&name).is_some())
        })
        .await;
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
                secret_prefix: "keystile/".to_owned(),
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
    pub async fn serve_cluster(&self, cluster: &Cluster) {
        self.serve_cluster_at(cluster, 0).await;
    }

    /// The same, by an endpoint that leads to this node.
    pub async fn serve_cluster_at(&self, cluster: &Cluster, node: usize) {
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
            engine_version: engine_version(),
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
        Ok(Client::over(TlsConnector::from(config).connect(name, tcp).await?))
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
