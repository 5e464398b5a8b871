//! One connection of a client, from accept to end: handshake, identity, route, decision, dial, session.
//!
//! What goes wrong before the session is told to the client as the answer to its first command, in words,
//! and the connection is closed so that the words arrive.

mod farewell;
mod handshake;
mod identity;
mod node;
mod place;
mod sign_in;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use keystile_identity::client::ClientIdentity;
use keystile_model::audit::EventKind;
use keystile_model::database::Endpoint;
use keystile_model::policy::Policy;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::admission::{Admission, Plan, admit, fresh_policy};
use crate::app::Shared;
use crate::audit::{Facts, Particulars};
use crate::clock::unix_ms;
use crate::cluster::{ClusterParts, ClusterSession};
use crate::preamble::{NoRequest, Preamble};
use crate::refusal::Refusal;
use crate::route;
use crate::session::handle::Handle;
use crate::session::journal::Journal;
use crate::session::leg::Leg;
use crate::session::{Parts, Session, Standing};
use farewell::{FAREWELL, FIRST_WORDS, refuse};
use handshake::{facts, handshake, told_address};
use identity::identify;
use node::{dial_first, is_cluster, node_dialer};
use place::reserve;
use sign_in::{Again, OwnPasswords};

pub use farewell::{note_limit, turn_away};

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
    let about = facts.about_mut();
    about.user = identity.user.to_string();
    about.roles = policy
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
    let about = facts.about_mut();
    about.database = Some(Arc::clone(&admission.database));
    about.db_user.clone_from(&admission.db_user);
    let networks = policy.settings().map(|settings| settings.static_networks.clone()).unwrap_or_default();
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
        let admission = still_allowed(shared, &policy, &admission, &identity)?;
        Ok((server, node, admission))
    };
    match ready.await {
        Ok((server, node, newer)) => {
            if let Some(newer) = &newer {
                shared.sessions.judged_anew(facts.sid(), &newer.grant, &newer.gate);
            }
            let admission = newer.unwrap_or(admission);
            Ok(Ready { server, node, admission, identity, handle, networks })
        }
        Err(refusal) => {
            shared.sessions.remove(facts.sid());
            Err(NoSession::Refused(refusal))
        }
    }
}

/// A change of policy between the decision and now might have been looked at before this session could be
/// seen: then what it says now counts. `None` where nothing has changed.
fn still_allowed(
    shared: &Shared,
    decided_on: &Arc<Policy>,
    admission: &Admission,
    identity: &ClientIdentity,
) -> Result<Option<Admission>, Refusal> {
    let snapshot = shared.policy.borrow().clone();
    let current = fresh_policy(&snapshot, shared.clock.now())?;
    if Arc::ptr_eq(&current, decided_on) {
        return Ok(None);
    }
    let target = route::Target {
        database: admission.database.name.to_string(),
        db_user: Some(admission.db_user.clone()),
    };
    let newer = admit(&current, identity, &target, shared.clock.now().unix_timestamp())?;
    let (before, now) = (&admission.database, &newer.database);
    let is_same = (&before.arn, &before.endpoint, before.kind) == (&now.arn, &now.endpoint, now.kind);
    if !is_same || admission.plan != newer.plan {
        return Err(Refusal::Unsupported(format!(
            "{} has moved, or how it is signed in to has changed, while this connection was made: connect again",
            now.name
        )));
    }
    Ok(Some(newer))
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
    let about = facts.about_mut();
    about.asked.clone_from(&target.database);
    about.db_user = target.db_user.clone().unwrap_or_default();
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
    let particulars = Particulars { rule: &admission.rule, ..Particulars::default() };
    shared.sink.send(&facts.event(EventKind::SessionStart, true, &particulars));
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
