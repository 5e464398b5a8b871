//! Towards the cache: resolve, connect, TLS, sign in. Each way to fail has its own words for the client.

pub mod host_rule;
pub mod names;
pub mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use keystile_model::database::Database;
use keystile_resp::encode;
use keystile_resp::reply::{Kind, Limits, ReplyScanner, Step};
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::Plan;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::session::leg::Leg;
use names::Names;
use tls::CacheTls;

/// Longest answer to an AUTH that is read.
const MOST_ANSWER: usize = 4_096;
/// The pause before the second try of a refused token: AWS answers throttling with the same error. Jittered
/// up to twice this.
const SECOND_TRY: Duration = Duration::from_millis(750);
/// Idle time after which the kernel asks whether the other side still lives, and how often it asks again.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(15);

/// Makes IAM tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A fresh token for one dial. The error is text for the client.
    async fn mint(&self, database: &Database, db_user: &str) -> Result<SecretString, String>;
}

/// Opens connections to caches.
pub struct Dialer {
    /// TLS.
    pub tls: CacheTls,
    /// IAM tokens.
    pub tokens: Arc<dyn Tokens>,
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
    /// A connection that is signed in as the plan says.
    ///
    /// # Errors
    /// A [`Refusal`] for each step that can fail.
    pub async fn dial(
        &self,
        database: &Database,
        db_user: &str,
        plan: Plan,
        static_networks: &[String],
    ) -> Result<Leg, Refusal> {
        let began = Instant::now();
        let leg = match plan {
            Plan::PassThrough | Plan::Open => self.open(database, static_networks).await?,
            Plan::Iam => match self.signed_in(database, db_user, static_networks).await? {
                Ok(leg) => leg,
                Err(first) if first.starts_with("WRONGPASS") => {
                    let jitter = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
                    tokio::time::sleep(SECOND_TRY.mul_f64(1.0 + jitter)).await;
                    self.signed_in(database, db_user, static_networks)
                        .await?
                        .map_err(|again| Refusal::Auth(auth_words(database, db_user, &again)))?
                }
                Err(other) => return Err(Refusal::Auth(auth_words(database, db_user, &other))),
            },
        };
        self.metrics.dial_seconds.observe(began.elapsed());
        Ok(leg)
    }

    /// TCP and TLS to a database, not signed in.
    ///
    /// # Errors
    /// [`Refusal`] of the host rule, DNS, TCP or TLS.
    pub async fn open(&self, database: &Database, static_networks: &[String]) -> Result<Leg, Refusal> {
        let tcp = self.connect(database, static_networks).await?;
        let host = database.endpoint.host.as_str();
        let address = database.endpoint.to_string();
        let refuse =
            |why: String| Refusal::Tls { database: database.name.to_string(), address: address.clone(), why };
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
                    tune(&tcp);
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

    /// One try. The inner error is the cache's text.
    async fn signed_in(
        &self,
        database: &Database,
        db_user: &str,
        static_networks: &[String],
    ) -> Result<Result<Leg, String>, Refusal> {
        let token = self.tokens.mint(database, db_user).await.map_err(|why| Refusal::Token {
            database: database.name.to_string(),
            db_user: db_user.to_owned(),
            why,
        })?;
        let mut leg = self.open(database, static_networks).await?;
        match timeout(self.step, authenticate(&mut leg, db_user, &token)).await {
            Ok(Ok(())) => Ok(Ok(leg)),
            Ok(Err(text)) => Ok(Err(text)),
            Err(_) => Ok(Err(format!("no answer to AUTH within {} s", self.step.as_secs()))),
        }
    }
}

/// `AUTH user password`; `+OK` is the proof of who we are.
async fn authenticate(leg: &mut Leg, db_user: &str, password: &SecretString) -> Result<(), String> {
    let mut request = Vec::new();
    encode::request(&mut request, &[b"AUTH", db_user.as_bytes(), password.expose_secret().as_bytes()]);
    match ask(leg, &request).await? {
        (Kind::Reply, text) if text == "OK" => Ok(()),
        (_, text) => Err(text),
    }
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

/// The cache has one error for every cause: the likely ones, in order.
fn auth_words(database: &Database, db_user: &str, text: &str) -> String {
    let name = &database.name;
    if !text.starts_with("WRONGPASS") {
        return format!("{name} refused to sign {db_user} in ({text}): try again, or check the cache");
    }
    let service = database.kind.signing_service().unwrap_or("elasticache");
    format!(
        "{name} refused the IAM token of {db_user}, twice ({text}). Likely reasons, in order: {db_user} is not in \
         the cache's user group or ACL; its user id and user name differ; the engine is older than 7.0; the \
         proxy's role{} lacks {service}:Connect on the cache and the user; the clocks differ by over 5 minutes",
        database.assume_role.as_ref().map(|role| format!(" {}", role.arn)).unwrap_or_default()
    )
}

/// No delay for small packets, and a question now and then whether the other side still lives.
pub fn tune(tcp: &TcpStream) {
    let _ = tcp.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN);
    let _ = socket2::SockRef::from(tcp).set_tcp_keepalive(&keepalive);
}
