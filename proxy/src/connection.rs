//! One connection of a client, from accept to end: handshake, identity, route, decision, dial, session.
//!
//! What goes wrong before the session is told to the client as the answer to its first command, in words,
//! and the connection is closed so that the words arrive.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keystile_identity::client::ClientIdentity;
use keystile_model::audit::EventKind;
use keystile_model::database::{Database, Endpoint, EndpointType};
use keystile_model::policy::Policy;
use rustls::pki_types::{CertificateDer, UnixTime};
use secrecy::SecretString;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::{Admission, Plan, admit, fresh_policy};
use crate::app::Shared;
use crate::audit::Facts;
use crate::clock::unix_ms;
use crate::cluster::{ClusterParts, ClusterSession, Dial, Dialing};
use crate::preamble::{NoRequest, Preamble};
use crate::proxy_protocol;
use crate::refusal::Refusal;
use crate::route;
use crate::session::handle::Handle;
use crate::session::journal::Journal;
use crate::session::leg::Leg;
use crate::session::{Parts, Session, SignIn, Standing, Tries};
use crate::sessions::{Live, Most, NoPlace};
use crate::upstream::host_rule;

/// How long a refused client's first command is waited for.
const FIRST_WORDS: Duration = Duration::from_secs(1);
/// How long the refusal may take to leave, and the client to close.
const FAREWELL: Duration = Duration::from_secs(2);

/// The label of a database whose `MSET` may be split over slots, where it is `true`: it is not atomic then.
const SPLIT_MSET: &str = "keystile.dev/split-mset";

/// Why no session began.
enum NoSession {
    /// The client is told why.
    Refused(Refusal),
    /// The client left, or never said anything.
    Left,
    /// The client said QUIT.
    Quit,
}

impl From<Refusal> for NoSession {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// What runs a session.
enum Engine {
    Single(Box<Session>),
    Cluster(Box<ClusterSession>),
}

/// Serves one connection to its end.
pub async fn serve(shared: Arc<Shared>, tcp: TcpStream, remote: SocketAddr) {
    // Boxed: what is needed once, at the start, is not carried by the session that follows.
    let Some(session) = Box::pin(begin(&shared, tcp, remote)).await else { return };
    let (sid, session) = session;
    let end = match session {
        Engine::Single(session) => session.run().await,
        Engine::Cluster(session) => session.run().await,
    };
    shared.sessions.remove(sid);
    shared.metrics.sessions_open.add(-1);
    tracing::debug!(%sid, reason = end.as_str(), "session ended");
}

async fn begin(shared: &Arc<Shared>, mut tcp: TcpStream, remote: SocketAddr) -> Option<(uuid::Uuid, Engine)> {
    let remote = told_address(shared, &mut tcp, remote).await?;
    // Without a policy no certificate could be verified in the handshake; it must be before it counts.
    let cold = shared.policy.borrow().policy.is_none();
    let mut facts = facts(shared, remote);
    let mut client = handshake(shared, tcp, &mut facts, remote).await?;
    let mut preamble = Preamble::default();
    match establish(shared, &mut client, &mut preamble, &mut facts, cold).await {
        Ok(ready) => Some(start(shared, client, preamble, facts, ready, remote.ip())),
        Err(NoSession::Refused(refusal)) => {
            refuse(shared, &mut client, preamble, &mut facts, refusal, remote).await;
            None
        }
        Err(NoSession::Quit) => {
            let _ = client.write(b"+OK\r\n");
            let _ = timeout(FAREWELL, client.shut()).await;
            None
        }
        Err(NoSession::Left) => None,
    }
}

/// Tells a client that the proxy has as many connections as it may. Nobody asks who it is.
pub async fn turn_away(shared: &Arc<Shared>, mut tcp: TcpStream, remote: SocketAddr) {
    note_limit(shared, "proxy", "");
    let Some(remote) = told_address(shared, &mut tcp, remote).await else { return };
    let Some(mut client) = handshake(shared, tcp, &mut facts(shared, remote), remote).await else { return };
    let refusal = Refusal::Limit {
        limit: "proxy",
        text: format!(
            "this proxy has {} connections, the most that it takes (KEYSTILE_MAX_CONNECTIONS): try again in a \
             moment, and close connections that you do not need",
            shared.config.max_connections
        ),
    };
    say(&mut client, Preamble::default(), &refusal).await;
}

/// Counts a connection that a limit turned away, and tells of it now and then.
pub fn note_limit(shared: &Shared, limit: &'static str, who: &str) {
    shared.metrics.limits.add(limit);
    shared.metrics.refusals.add("limit");
    if let Some(times) = shared.limit_log.tell(unix_ms(shared.clock.now())) {
        tracing::warn!(
            limit,
            who,
            times,
            "limits turn clients away: see keystile_limit_refusals_total for which, and docs/RUNBOOK.md"
        );
    }
}

fn facts(shared: &Shared, remote: SocketAddr) -> Facts {
    Facts::new(
        Arc::clone(&shared.clock),
        Arc::clone(&shared.deployment),
        Arc::clone(&shared.proxy_id),
        remote.to_string(),
    )
}

/// The client's address: what a load balancer of ours says, else the one that is seen.
async fn told_address(shared: &Shared, tcp: &mut TcpStream, seen: SocketAddr) -> Option<SocketAddr> {
    let ip = seen.ip().to_canonical();
    if !shared.config.proxy_protocol.iter().any(|network| host_rule::contains(network, ip)) {
        return Some(seen);
    }
    match timeout(shared.config.handshake_timeout, proxy_protocol::read(tcp)).await {
        Ok(Ok(told)) => Some(told.unwrap_or(seen)),
        Ok(Err(error)) => {
            tracing::debug!(%error, %seen, "closed a connection");
            None
        }
        Err(_) => None,
    }
}

async fn handshake(shared: &Shared, tcp: TcpStream, facts: &mut Facts, remote: SocketAddr) -> Option<Leg> {
    // Somebody who says nothing at all: a scanner, or a pool that was opened and forgotten.
    if timeout(shared.config.first_byte_timeout, tcp.peek(&mut [0])).await.is_err() {
        shared.metrics.limits.add("first_byte");
        return None;
    }
    let leg = match timeout(shared.config.handshake_timeout, Leg::accept(tcp, &shared.tls)).await {
        Ok(Ok(leg)) => leg,
        Ok(Err(error)) => {
            shared.metrics.handshakes.add("failed");
            tracing::debug!(%error, %remote, "a client's TLS handshake failed");
            if let Some(rustls::Error::InvalidCertificate(fault)) =
                error.get_ref().and_then(|inner| inner.downcast_ref())
            {
                // TLS has closed the connection with an alert: there is nobody to tell, but it is written down.
                let refusal = Refusal::Certificate(format!("the client certificate does not count: {fault}"));
                let refusal = judged_by_source(shared, refusal, remote);
                note_refusal(shared, facts, &refusal);
            }
            return None;
        }
        Err(_) => {
            shared.metrics.handshakes.add("timeout");
            shared.metrics.limits.add("handshake");
            return None;
        }
    };
    shared.metrics.handshakes.add(if leg.resumed() { "resumed" } else { "full" });
    Some(leg)
}

/// What a session starts from.
struct Ready {
    server: Leg,
    /// Where that leads.
    node: Endpoint,
    admission: Admission,
    identity: Arc<ClientIdentity>,
    handle: Arc<Handle>,
    /// Networks that static databases may be in.
    networks: Vec<String>,
}

async fn establish(
    shared: &Arc<Shared>,
    client: &mut Leg,
    preamble: &mut Preamble,
    facts: &mut Facts,
    cold: bool,
) -> Result<Ready, NoSession> {
    let snapshot = shared.policy.borrow().clone();
    let policy = fresh_policy(&snapshot, shared.clock.now())?;
    let Some(identity) = identify(shared, client, cold)? else {
        return Err(without_certificate(shared, client, preamble).await);
    };
    facts.user = identity.user.to_string();
    facts.roles = policy
        .user(&identity.user)
        .map(|user| user.roles.iter().map(ToString::to_string).collect())
        .unwrap_or_default();
    let admission = timeout(
        shared.config.auth_timeout,
        negotiate(shared, &policy, client, preamble, &identity, facts),
    )
    .await
    .map_err(|_| Refusal::Limit {
        limit: "auth",
        text: format!(
            "nothing said which database to reach within {} s (KEYSTILE_AUTH_TIMEOUT_S): connect again, and \
                     name it in the server name or with AUTH <db user>@<database>",
            shared.config.auth_timeout.as_secs()
        ),
    })??;
    facts.database = Some(Arc::clone(&admission.database));
    facts.db_user.clone_from(&admission.db_user);
    let networks = policy.settings().map(|settings| settings.static_networks.clone()).unwrap_or_default();
    let identity = Arc::new(identity);
    let handle = Arc::new(Handle::new(unix_ms(shared.clock.now())));
    reserve(shared, facts, &admission, &identity, &handle)?;
    let ready = async {
        let (server, node) = dial_first(shared, &admission, &networks).await;
        let name = admission.database.name.as_str();
        match &server {
            Ok(_) => shared.logins.succeeded(name),
            Err(refusal) if refusal.is_of_the_cache() => shared.logins.failed(name, &refusal.to_string()),
            Err(_) => {}
        }
        let server = server?;
        still_allowed(shared, &policy, &admission, &identity)?;
        Ok((server, node))
    };
    match ready.await {
        Ok((server, node)) => Ok(Ready { server, node, admission, identity, handle, networks }),
        Err(refusal) => {
            shared.sessions.remove(facts.sid());
            Err(NoSession::Refused(refusal))
        }
    }
}

/// The first connection to the cache: in cluster mode to the node of commands without a key, if that is known and
/// answers, else to the endpoint, which leads to any node.
async fn dial_first(
    shared: &Arc<Shared>,
    admission: &Admission,
    networks: &[String],
) -> (Result<Leg, Refusal>, Endpoint) {
    let database = &admission.database;
    if is_cluster(database)
        && let map = shared.maps.of(database)
        && map.is_told()
        && let Some(home) = map.load().home().filter(|home| **home != database.endpoint)
        && let Ok(server) = node_dialer(shared, admission, networks.to_vec()).dial(home).await
    {
        return (Ok(server), home.clone());
    }
    let dialed = shared.dialer.dial(database, &admission.db_user, &admission.plan, networks).await;
    (dialed, database.endpoint.clone())
}

/// Whether sessions keep links to the nodes of a cluster. The reader endpoint of a serverless cache is one server to
/// whoever speaks to it.
fn is_cluster(database: &Database) -> bool {
    database.cluster_mode && database.endpoint_type != EndpointType::Reader
}

fn node_dialer(shared: &Arc<Shared>, admission: &Admission, networks: Vec<String>) -> NodeDialer {
    NodeDialer {
        shared: Arc::clone(shared),
        database: Arc::clone(&admission.database),
        db_user: admission.db_user.clone(),
        plan: admission.plan.clone(),
        networks,
    }
}

/// Takes a place among the live sessions before the dial, so that limits hold and cuts reach it.
fn reserve(
    shared: &Shared,
    facts: &Facts,
    admission: &Admission,
    identity: &Arc<ClientIdentity>,
    handle: &Arc<Handle>,
) -> Result<(), Refusal> {
    let live = Live {
        handle: Arc::clone(handle),
        identity: Arc::clone(identity),
        database: Arc::clone(&admission.database),
        db_user: admission.db_user.clone(),
        plan: admission.plan.clone(),
        grant: Arc::new(admission.grant.clone()),
        gate: Arc::clone(&admission.gate),
    };
    let most = Most {
        per_user: shared.config.max_connections_per_user,
        per_database: shared.config.max_connections_per_database,
    };
    shared.sessions.add(facts.sid(), live, most).map_err(|no_place| {
        let user = &identity.user;
        let (limit, text) = match no_place {
            NoPlace::Roles(has) => (
                "user",
                format!(
                    "{user} has {has} connections on this proxy, the most that its roles allow \
                     (max_connections): close one"
                ),
            ),
            NoPlace::User(has) => (
                "user",
                format!(
                    "{user} has {has} connections on this proxy, the most that it takes of one user \
                     (KEYSTILE_MAX_CONNECTIONS_PER_USER): close one"
                ),
            ),
            NoPlace::Database(has) => (
                "database",
                format!(
                    "{} has {has} connections through this proxy, the most that it opens to one database \
                     (KEYSTILE_MAX_CONNECTIONS_PER_DATABASE): close one, or try again in a moment",
                    admission.database.name
                ),
            ),
        };
        Refusal::Limit { limit, text }
    })
}

/// A change of policy between the decision and now might have been looked at before this session could be
/// seen.
fn still_allowed(
    shared: &Shared,
    decided_on: &Arc<Policy>,
    admission: &Admission,
    identity: &ClientIdentity,
) -> Result<(), Refusal> {
    let snapshot = shared.policy.borrow().clone();
    let current = fresh_policy(&snapshot, shared.clock.now())?;
    if Arc::ptr_eq(&current, decided_on) {
        return Ok(());
    }
    let target = route::Target {
        database: admission.database.name.to_string(),
        db_user: Some(admission.db_user.clone()),
    };
    admit(&current, identity, &target, shared.clock.now().unix_timestamp()).map(drop)
}

/// Who the client's certificate says that it is. After a resumed handshake, where TLS verified nothing, the
/// chain is verified again: its CA may have gone.
fn identify(shared: &Shared, client: &Leg, cold: bool) -> Result<Option<ClientIdentity>, Refusal> {
    let Some(chain) = client.peer_certificates() else { return Ok(None) };
    let Some(end) = chain.first() else { return Ok(None) };
    if client.resumed() || cold {
        verify_again(shared, chain)?;
    }
    let identity = ClientIdentity::from_der(end, &shared.deployment)
        .map_err(|error| Refusal::Certificate(error.to_string()))?;
    identity
        .check_validity(shared.clock.now().unix_timestamp())
        .map_err(|error| Refusal::Certificate(error.to_string()))?;
    Ok(Some(identity))
}

fn verify_again(shared: &Shared, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    let now = u64::try_from(shared.clock.now().unix_timestamp()).unwrap_or(0);
    shared.verifier.verify(chain, UnixTime::since_unix_epoch(Duration::from_secs(now))).map_err(|_| {
        Refusal::Certificate("the certificate is signed by no CA that counts any more".to_owned())
    })
}

/// Without a certificate there is only a refusal; which one, the first command may tell.
async fn without_certificate(shared: &Shared, client: &mut Leg, preamble: &mut Preamble) -> NoSession {
    let first = timeout(FIRST_WORDS.min(shared.config.auth_timeout), preamble.next(client)).await;
    match first {
        Ok(Ok(first)) if first.credentials.as_ref().is_some_and(|credentials| credentials.proof) => {
            Refusal::ProofNotYet.into()
        }
        Ok(Err(no_request)) => no_session(shared, no_request),
        Ok(Ok(_)) | Err(_) => Refusal::NotSignedIn.into(),
    }
}

fn no_session(shared: &Shared, no_request: NoRequest) -> NoSession {
    if matches!(&no_request, NoRequest::Malformed(error) if error.is_limit()) {
        shared.metrics.limits.add("before_auth");
    }
    match no_request {
        NoRequest::Gone => NoSession::Left,
        NoRequest::Malformed(keystile_resp::request::RequestError::Http) => NoSession::Left,
        NoRequest::Malformed(error) => Refusal::Protocol(error.to_string()).into(),
    }
}

/// Finds the route, reading the first commands where it takes them, and decides.
async fn negotiate(
    shared: &Shared,
    policy: &Policy,
    client: &mut Leg,
    preamble: &mut Preamble,
    identity: &ClientIdentity,
    facts: &mut Facts,
) -> Result<Admission, NoSession> {
    let domain = policy.settings().map(|settings| settings.domain.clone()).unwrap_or_default();
    let server_name = route::from_server_name(client.server_name(), &domain).map(str::to_owned);
    let known = route::before_first_command(policy, identity.route.as_ref(), server_name.as_deref())?;
    let now = || shared.clock.now().unix_timestamp();
    if let Some(target) = known.as_ref().filter(|target| target.db_user.is_some()) {
        note(facts, target);
        return Ok(admit(policy, identity, target, now())?);
    }
    loop {
        let first = preamble.next(client).await.map_err(|none| no_session(shared, none))?;
        if first.quit {
            return Err(NoSession::Quit);
        }
        let target = route::with_first_command(policy, known.clone(), first.credentials.as_ref())?;
        note(facts, &target);
        match admit(policy, identity, &target, now()) {
            Ok(admission) => return Ok(admission),
            // An AUTH may follow, as after the NOAUTH of a server.
            Err(refusal) if refusal.may_continue() => {
                let gone = |_| NoSession::Left;
                client.write(&refusal.line()).map_err(gone)?;
                client.flush().await.map_err(gone)?;
                preamble.skip(first.len);
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
}

fn note(facts: &mut Facts, target: &route::Target) {
    facts.asked.clone_from(&target.database);
    facts.db_user = target.db_user.clone().unwrap_or_default();
}

fn start(
    shared: &Arc<Shared>,
    client: Leg,
    preamble: Preamble,
    mut facts: Facts,
    ready: Ready,
    source: IpAddr,
) -> (uuid::Uuid, Engine) {
    let Ready { server, node, admission, identity, handle, networks } = ready;
    let sid = facts.sid();
    let mut event = facts.event(EventKind::SessionStart, true);
    event.rule.clone_from(&admission.rule);
    shared.sink.send(event);
    shared.metrics.sessions.add(1);
    shared.metrics.sessions_open.add(1);
    tracing::debug!(%sid, user = %identity.user, database = %admission.database.name, "session began");
    let standing = match &admission.plan {
        Plan::Iam | Plan::Managed(_) | Plan::Shared(_) => Standing::Ours(Arc::new(Again {
            shared: Arc::clone(shared),
            database: Arc::clone(&admission.database),
            db_user: admission.db_user.clone(),
            plan: admission.plan.clone(),
        })),
        Plan::PassThrough => {
            let tries = Arc::new(OwnPasswords { shared: Arc::clone(shared), source });
            Standing::PassThrough { admitted: false, tries }
        }
        Plan::Open => Standing::Open,
    };
    let cluster = is_cluster(&admission.database)
        .then(|| (reached_at(&client), Arc::new(node_dialer(shared, &admission, networks))));
    let parts = Parts {
        client,
        held: preamble.into_held(),
        server,
        standing,
        limits: shared.config.session_limits(),
        hide_topology: admission.database.cluster_mode,
        gate: admission.gate,
        journal: Journal::new(facts, shared.sink.clone(), admission.grant.audit),
        handle,
        clock: Arc::clone(&shared.coarse),
        metrics: Arc::clone(&shared.metrics),
    };
    let Some((address, dial)) = cluster else { return (sid, Engine::Single(Session::new(parts))) };
    let session = ClusterSession::new(ClusterParts {
        parts,
        node,
        dial,
        map: shared.maps.of(&admission.database),
        reached: (Arc::clone(&shared.deployment), address),
        budget: Arc::clone(&shared.merging),
        split_mset: admission.database.labels.get(SPLIT_MSET).is_some_and(|value| value == "true"),
        database: admission.database,
    });
    (sid, Engine::Cluster(session))
}

/// The address by which a client reached the proxy, as far as its connection tells.
fn reached_at(client: &Leg) -> Endpoint {
    let local = client.local_addr().ok();
    let host = match (client.server_name(), local) {
        (Some(name), _) => name.to_owned(),
        (None, Some(local)) => local.ip().to_canonical().to_string(),
        (None, None) => "localhost".to_owned(),
    };
    Endpoint { host, port: local.map_or(6379, |local| local.port()) }
}

/// Writes a refusal down, says why, and closes so that it arrives.
async fn refuse(
    shared: &Shared,
    client: &mut Leg,
    preamble: Preamble,
    facts: &mut Facts,
    refusal: Refusal,
    remote: SocketAddr,
) {
    let refusal = judged_by_source(shared, refusal, remote);
    note_refusal(shared, facts, &refusal);
    say(client, preamble, &refusal).await;
}

/// A failed sign-in of an address that fails too often becomes a refusal of its own.
fn judged_by_source(shared: &Shared, refusal: Refusal, remote: SocketAddr) -> Refusal {
    if !refusal.is_failed_sign_in() {
        return refusal;
    }
    let Err(wait_s) = shared.failed_sign_ins.fail(remote.ip(), unix_ms(shared.clock.now())) else {
        return refusal;
    };
    Refusal::Limit {
        limit: "failed_sign_ins",
        text: format!(
            "too many failed sign-ins from {} (more than {} a minute): wait {wait_s} s; the last one failed \
             because: {refusal}",
            remote.ip(),
            shared.config.failed_sign_ins_per_minute
        ),
    }
}

fn note_refusal(shared: &Shared, facts: &mut Facts, refusal: &Refusal) {
    tracing::debug!(user = %facts.user, kind = refusal.kind(), %refusal, "refused a client");
    if let Refusal::Limit { limit, .. } = refusal {
        let who = match *limit {
            "failed_sign_ins" => facts.remote.clone(),
            "database" => facts.database.as_ref().map(|known| known.name.to_string()).unwrap_or_default(),
            _ => facts.user.clone(),
        };
        note_limit(shared, limit, &who);
        if *limit == "failed_sign_ins" {
            // Its own failures fill the audit up to the limit, and no further.
            return;
        }
    } else {
        shared.metrics.refusals.add(refusal.kind());
    }
    let mut event = facts.event(EventKind::SessionStart, false);
    event.error = refusal.kind().to_owned();
    event.message = refusal.to_string();
    event.rule = refusal.rule().to_owned();
    shared.sink.send(event);
}

/// Says why, once the client has asked anything, and closes so that it arrives.
async fn say(client: &mut Leg, mut preamble: Preamble, refusal: &Refusal) {
    let _ = timeout(FIRST_WORDS, preamble.any(client)).await;
    if client.write(&refusal.line()).is_ok() {
        let _ = timeout(FAREWELL, client.shut()).await;
        let _ = timeout(FAREWELL, client.discard()).await;
    }
}

/// Opens a session's connections to the nodes of its cluster.
struct NodeDialer {
    shared: Arc<Shared>,
    database: Arc<Database>,
    db_user: String,
    plan: Plan,
    networks: Vec<String>,
}

impl Dial for NodeDialer {
    fn may_dial(&self, node: &Endpoint) -> bool {
        host_rule::check_node(&self.database, node, self.shared.dialer.allow_loopback).is_ok()
    }

    fn dial(&self, node: &Endpoint) -> Dialing {
        let shared = Arc::clone(&self.shared);
        let database = Database { endpoint: node.clone(), ..Database::clone(&self.database) };
        let allowed = host_rule::check_node(&self.database, node, shared.dialer.allow_loopback);
        let (db_user, plan, networks) = (self.db_user.clone(), self.plan.clone(), self.networks.clone());
        Box::pin(async move {
            allowed?;
            shared
                .dialer
                .dial(&database, &db_user, &plan, &networks)
                .await
                .map_err(|refusal| refusal.to_string())
        })
    }
}

/// Signs a session in again, as it was signed in.
struct Again {
    shared: Arc<Shared>,
    database: Arc<Database>,
    db_user: String,
    plan: Plan,
}

impl SignIn for Again {
    fn password(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Option<SecretString>, String>> + Send>> {
        let (shared, database, db_user, plan) =
            (Arc::clone(&self.shared), Arc::clone(&self.database), self.db_user.clone(), self.plan.clone());
        Box::pin(async move { shared.dialer.password(&database, &db_user, &plan).await })
    }
}

/// The passwords that a client tries at a cache that judges them itself: they count as failed sign-ins of its
/// address, and those beyond the limit do not reach the cache.
struct OwnPasswords {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Tries for OwnPasswords {
    fn may_try(&self) -> Result<(), String> {
        let now = unix_ms(self.shared.clock.now());
        self.shared.failed_sign_ins.may_fail(self.source, now).map_err(|wait_s| {
            note_limit(&self.shared, "failed_sign_ins", &self.source.to_string());
            format!(
                "too many failed sign-ins from {} (more than {} a minute): wait {wait_s} s",
                self.source, self.shared.config.failed_sign_ins_per_minute
            )
        })
    }

    fn wrong(&self) {
        // What is over the limit is not tried, so this one was within it.
        let _ = self.shared.failed_sign_ins.fail(self.source, unix_ms(self.shared.clock.now()));
    }
}
