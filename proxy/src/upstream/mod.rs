//! Towards the cache: resolve, connect, TLS, sign in. Each way to fail has its own words for the client.

pub mod host_rule;
pub mod managed;
pub mod names;
mod sign_in;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keystile_model::database::Database;
use keystile_model::store::Clock;
use keystile_resp::reply::{Kind, Limits, ReplyScanner, Step};
use keystile_state::policy_feed::PolicySnapshot;
use rustls::pki_types::ServerName;
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admission::Plan;
use crate::credentials::cache::SecretCache;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::session::leg::Leg;
use crate::throttle::Throttle;
use names::Names;
use tls::CacheTls;

/// Longest answer to an AUTH that is read.
const MOST_ANSWER: usize = 4_096;
/// Idle time after which the kernel asks whether the other side still lives, and how often it asks again.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(15);
/// How long what was sent to a cache may stay unacknowledged before the connection counts as lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Makes IAM tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A token for one dial, just signed. The error is text for the client.
    async fn mint(&self, database: &Database, db_user: &str) -> Result<SecretString, String>;
}

/// Opens connections to caches.
pub struct Dialer {
    /// TLS.
    pub tls: CacheTls,
    /// IAM tokens.
    pub tokens: Arc<dyn Tokens>,
    /// Passwords and shared tokens.
    pub secrets: SecretCache,
    /// What is known of rotations.
    pub policy: watch::Receiver<PolicySnapshot>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Log lines about passwords that no cache takes.
    pub alarms: Throttle,
    /// For each step.
    pub step: Duration,
    /// What host names resolved to a moment ago.
    pub names: Names,
    /// Whether databases may be at loopback addresses.
    pub allow_loopback: bool,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Dialer {
    /// A connection that is signed in as the plan says. For one node of a cluster: the database with the node's
    /// endpoint in place of its own.
    ///
    /// # Errors
    /// A [`Refusal`] for each step that can fail.
    pub async fn dial(
        &self,
        database: &Database,
        db_user: &str,
        plan: &Plan,
        static_networks: &[String],
    ) -> Result<Leg, Refusal> {
        let began = Instant::now();
        let leg = match plan {
            Plan::PassThrough | Plan::Open => self.open(database, static_networks).await?,
            Plan::Iam => self.by_token(database, db_user, static_networks).await?,
            Plan::Managed(user) => self.by_managed_password(database, db_user, user, static_networks).await?,
            Plan::Shared(secret) => self.by_shared_token(database, secret, static_networks).await?,
        };
        self.metrics.dial_seconds.observe(began.elapsed());
        Ok(leg)
    }

    /// TCP and TLS to a database, not signed in.
    ///
    /// # Errors
    /// [`Refusal`] of the host rule, DNS, TCP or TLS.
    pub async fn open(&self, database: &Database, static_networks: &[String]) -> Result<Leg, Refusal> {
        let mut leg = self.begin(database, static_networks).await?;
        match timeout(self.step, leg.finish()).await {
            Ok(Ok(())) => Ok(leg),
            Ok(Err(error)) => Err(tls_refusal(database, tls::words(&error, &database.endpoint.host))),
            Err(_) => Err(tls_refusal(database, format!("no answer within {} s", self.step.as_secs()))),
        }
    }

    /// As [`Dialer::open`], for whoever writes at once: the server learns with it that the handshake is over.
    async fn begin(&self, database: &Database, static_networks: &[String]) -> Result<Leg, Refusal> {
        let tcp = self.connect(database, static_networks).await?;
        let host = database.endpoint.host.as_str();
        let refuse = |why: String| tls_refusal(database, why);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| refuse(format!("{host:?} is no host name")))?;
        let config = self.tls.for_ca(database.ca.as_deref()).map_err(|error| refuse(error.to_string()))?;
        match timeout(self.step, Leg::connect(tcp, config, name)).await {
            Ok(Ok(leg)) => Ok(leg),
            Ok(Err(error)) => Err(refuse(tls::words(&error, host))),
            Err(_) => Err(refuse(format!(
                "no answer within {} s; is in-transit encryption enabled on the cache?",
                self.step.as_secs()
            ))),
        }
    }

    async fn connect(&self, database: &Database, static_networks: &[String]) -> Result<TcpStream, Refusal> {
        let name = database.name.to_string();
        let rule = |why: String| Refusal::HostRule { database: name.clone(), why };
        host_rule::check_name(database, self.allow_loopback).map_err(rule)?;
        let endpoint = &database.endpoint;
        let addresses = self.resolve(database).await?;
        let mut last = None;
        for ip in addresses {
            host_rule::check_address(database, ip, static_networks, self.allow_loopback).map_err(rule)?;
            let why = match timeout(self.step, TcpStream::connect(SocketAddr::new(ip, endpoint.port))).await {
                Ok(Ok(tcp)) => {
                    tune(&socket2::SockRef::from(&tcp));
                    // A cache that has vanished says nothing: its host, or the way to it, is gone.
                    let _ = socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
                    return Ok(tcp);
                }
                Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    "was refused".to_owned()
                }
                Ok(Err(error)) => format!("failed ({error})"),
                Err(_) => format!("timed out after {} s", self.step.as_secs()),
            };
            last = Some(why);
        }
        self.names.forget(&endpoint.host);
        Err(Refusal::Connect {
            database: name.clone(),
            address: endpoint.to_string(),
            why: last.unwrap_or_else(|| "found no address".to_owned()),
        })
    }

    async fn resolve(&self, database: &Database) -> Result<Vec<IpAddr>, Refusal> {
        let endpoint = &database.endpoint;
        if let Ok(address) = endpoint.host.parse() {
            return Ok(vec![address]);
        }
        if let Some(recent) = self.names.recent(&endpoint.host, Instant::now()) {
            return Ok(recent);
        }
        let fail = |why: String| Refusal::Dns {
            database: database.name.to_string(),
            host: endpoint.host.clone(),
            why,
        };
        match timeout(self.step, tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))).await {
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                self.names.remember(&endpoint.host, &addresses, Instant::now());
                Ok(addresses)
            }
            Ok(Err(error)) => Err(fail(error.to_string())),
            Err(_) => Err(fail(format!("no answer within {} s", self.step.as_secs()))),
        }
    }
}

fn tls_refusal(database: &Database, why: String) -> Refusal {
    Refusal::Tls { database: database.name.to_string(), address: database.endpoint.to_string(), why }
}

/// One request, one short reply: its kind and its text.
pub(crate) async fn ask(leg: &mut Leg, request: &[u8]) -> Result<(Kind, String), String> {
    leg.write(request).map_err(|error| error.to_string())?;
    leg.flush().await.map_err(|error| format!("the cache closed the connection ({error})"))?;
    let mut scanner = ReplyScanner::new(Limits::DEFAULT);
    let mut answer = Vec::new();
    loop {
        if let Step::Frame(frame) = scanner.scan(&answer).map_err(|error| error.to_string())? {
            let text = String::from_utf8_lossy(frame.text(&answer).unwrap_or_default()).into_owned();
            return Ok((frame.kind, text));
        }
        if answer.len() > MOST_ANSWER {
            return Err("the cache's answer is too long".to_owned());
        }
        match leg.fill(&mut answer).await {
            Ok(0) => return Err("the cache closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// No delay for small packets, and a question now and then whether the other side still lives.
///
/// What is accepted has what its listening socket has, so that it need not be told.
pub fn tune(socket: &socket2::SockRef<'_>) {
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN);
    let _ = socket.set_tcp_keepalive(&keepalive);
}
