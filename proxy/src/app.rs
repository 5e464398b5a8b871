//! The wiring: what the proxy is made of, how it starts, runs and stops.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use keystile_model::store::{Clock, PolicyStore, RuntimeStore};
use keystile_state::policy_feed::{self, Intervals, PolicySnapshot};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::accept::{Places, listeners};
use crate::admin;
use crate::audit::{Sink, Writer};
use crate::clock::{CoarseClock, unix_ms};
use crate::cluster::Budget;
use crate::cluster::map::Maps;
use crate::config::Config;
use crate::credentials::Secrets;
use crate::credentials::cache::SecretCache;
use crate::failed_sign_ins::FailedSignIns;
use crate::identities::Identities;
use crate::logins::Logins;
use crate::metrics::Metrics;
use crate::session::handle::{Cut, CutKind};
use crate::sessions::{Overseer, Sessions};
use crate::throttle::Throttle;
use crate::tls::{self, ClientVerifier, HostCertificate, PemSecrets};
use crate::upstream::names::Names;
use crate::upstream::tls::CacheTls;
use crate::upstream::{Dialer, Tokens};
use crate::workers::Workers;

/// How long sessions may take to end once they were told to.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// What every connection needs.
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// The deployment.
    pub deployment: Arc<str>,
    /// This process, a UUID.
    pub proxy_id: Arc<str>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The time as sessions read it.
    pub coarse: Arc<CoarseClock>,
    /// What is known of the policy.
    pub policy: watch::Receiver<PolicySnapshot>,
    /// TLS with clients.
    pub tls: Arc<ServerConfig>,
    /// Which client certificates count.
    pub verifier: Arc<ClientVerifier>,
    /// Who holds which of them.
    pub identities: Identities,
    /// Connections to caches.
    pub dialer: Dialer,
    /// The live sessions.
    pub sessions: Arc<Sessions>,
    /// What is known of the clusters' slots.
    pub maps: Maps,
    /// What all sessions together may hold of replies that several nodes give.
    pub merging: Arc<Budget>,
    /// What happens to sign-ins to caches.
    pub logins: Logins,
    /// What addresses fail to sign in.
    pub failed_sign_ins: FailedSignIns,
    /// Log lines about limits.
    pub limit_log: Throttle,
    /// Audit.
    pub sink: Sink,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Whether the proxy stops: no new sessions.
    pub draining: AtomicBool,
}

/// What the proxy reaches the world by; tests give their own.
pub struct Ports {
    /// The policy table.
    pub policy: Arc<dyn PolicyStore>,
    /// The runtime table.
    pub runtime: Arc<dyn RuntimeStore>,
    /// IAM tokens.
    pub tokens: Arc<dyn Tokens>,
    /// Passwords and shared tokens.
    pub passwords: Arc<dyn Secrets>,
    /// Where the host certificate is, if it is in a secret.
    pub secrets: Arc<dyn PemSecrets>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How often the feeds are polled.
    pub intervals: Intervals,
}

/// A proxy that listens and is ready to run.
pub struct App {
    shared: Arc<Shared>,
    runtime: Arc<dyn RuntimeStore>,
    certificate: Arc<HostCertificate>,
    /// One for each worker, all at the same address.
    listeners: Vec<StdListener>,
    metrics_listener: TcpListener,
    writer: Writer,
}

impl App {
    /// Opens what must be there: certificate, listeners, audit. AWS need not be.
    ///
    /// # Errors
    /// What is missing, in words.
    pub async fn build(config: Config, ports: Ports) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let (writer, sink) =
            Writer::start(&config.audit, Arc::clone(&metrics)).context("opening the audit")?;
        let provider = tls::provider();
        let now = ports.clock.now().unix_timestamp();
        let source = config.host_certificate.clone();
        let certificate =
            Arc::new(HostCertificate::load(Arc::clone(&provider), source, ports.secrets, now).await?);
        metrics.certificate_left_s.set(certificate.life().not_after - now);
        let (policy, _feed) = policy_feed::spawn(ports.policy, Arc::clone(&ports.clock), ports.intervals);
        let verifier = Arc::new(ClientVerifier::new(Arc::clone(&provider), policy.clone()));
        let tls = tls::server_config(Arc::clone(&provider), Arc::clone(&certificate), Arc::clone(&verifier))?;
        let dialer = Dialer {
            policy: policy.clone(),
            clock: Arc::clone(&ports.clock),
            alarms: Throttle::new(60),
            tls: CacheTls::new(provider, config.cache_ca_file.as_deref())?,
            tokens: ports.tokens,
            secrets: SecretCache::new(ports.passwords, Arc::clone(&metrics)),
            step: config.dial_timeout,
            names: Names::default(),
            allow_loopback: config.allow_loopback,
            metrics: Arc::clone(&metrics),
        };
        let listeners = listeners(config.listen, config.workers)
            .with_context(|| format!("listening on {}", config.listen))?;
        let metrics_listener = TcpListener::bind(config.metrics_listen)
            .await
            .with_context(|| format!("listening on {}", config.metrics_listen))?;
        let deployment: Arc<str> = Arc::from(config.deployment.as_str());
        let shared = Arc::new(Shared {
            identities: Identities::new(Arc::clone(&deployment)),
            deployment,
            proxy_id: Arc::from(uuid::Uuid::new_v4().to_string()),
            coarse: Arc::new(CoarseClock::new(unix_ms(ports.clock.now()))),
            clock: ports.clock,
            policy,
            tls: Arc::new(tls),
            verifier,
            dialer,
            sessions: Arc::default(),
            maps: Maps::default(),
            merging: Budget::new(config.merged_reply_bytes),
            logins: Logins::default(),
            failed_sign_ins: FailedSignIns::new(config.failed_sign_ins_per_minute),
            limit_log: Throttle::new(30),
            sink,
            metrics,
            draining: AtomicBool::new(false),
            config,
        });
        Ok(Self { shared, runtime: ports.runtime, certificate, listeners, metrics_listener, writer })
    }

    /// Where clients come.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listeners.first().ok_or(std::io::ErrorKind::AddrNotAvailable)?.local_addr()
    }

    /// Where `/metrics` is.
    ///
    /// # Errors
    /// When the socket has no address.
    pub fn metrics_address(&self) -> std::io::Result<SocketAddr> {
        self.metrics_listener.local_addr()
    }

    /// What the connections share, for tests that look inside.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Serves until `stop` is done, then drains.
    ///
    /// # Errors
    /// None that is known; errors of single connections stay with them.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self { shared, runtime, certificate, listeners, metrics_listener, writer } = self;
        let mut background = JoinSet::new();
        background.spawn(overseer(&shared).run());
        background.spawn(admin::serve(Arc::clone(&shared), metrics_listener));
        background.spawn(tls::watch::run(
            certificate,
            Arc::clone(&shared.clock),
            Arc::clone(&shared.metrics),
        ));
        background.spawn(crate::credentials::prove::run(Arc::clone(&shared), Arc::clone(&runtime)));
        background.spawn(crate::health::run(Arc::clone(&shared), Arc::clone(&runtime)));
        background.spawn(crate::memory::run(Arc::clone(&shared.metrics)));
        let places = Places::new(&shared.config);
        let workers = Workers::start(&shared, &places, listeners).context("starting the workers")?;
        tracing::info!(
            address = %shared.config.listen,
            id = %shared.proxy_id,
            workers = shared.config.workers,
            "the proxy listens"
        );
        stop.await;
        // No more connections, before anything else: the load balancer sends them elsewhere.
        workers.stop_accepting();
        drain(&shared).await;
        workers.end().await;
        background.shutdown().await;
        crate::health::leave(&shared, &*runtime).await;
        tokio::task::spawn_blocking(move || writer.finish())
            .await
            .context("writing the last of the audit")?;
        tracing::info!("the proxy has stopped");
        Ok(())
    }
}

fn overseer(shared: &Shared) -> Overseer {
    Overseer {
        sessions: Arc::clone(&shared.sessions),
        policy: shared.policy.clone(),
        clock: Arc::clone(&shared.clock),
        coarse: Arc::clone(&shared.coarse),
        iam_life: shared.config.iam_life,
        slow_client: shared.config.slow_client,
        summary_interval: shared.config.summary_interval,
        metrics: Arc::clone(&shared.metrics),
    }
}

/// Lets sessions end by themselves, then tells them to, then waits for the last words.
async fn drain(shared: &Shared) {
    shared.draining.store(true, Ordering::Relaxed);
    let live = shared.sessions.count();
    tracing::info!(sessions = live, seconds = shared.config.drain.as_secs(), "draining");
    let _ = tokio::time::timeout(shared.config.drain, all_gone(shared)).await;
    shared.sessions.cut_all(&Cut {
        kind: CutKind::Shutdown,
        text: "this proxy is stopping: connect again, another one takes over".to_owned(),
    });
    if tokio::time::timeout(LAST_MOMENTS, all_gone(shared)).await.is_err() {
        tracing::warn!(sessions = shared.sessions.count(), "sessions did not end in time");
    }
}

async fn all_gone(shared: &Shared) {
    while shared.sessions.count() > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
