//! Proofs: where rotate asks for one, the proxies log in with the password that is on its way, and with the
//! current one, at each node of each database of the user, and write down how that ended.
//!
//! One success a node is enough: each proxy waits a little, a different while, looks at what the others of its
//! group have written, and tries what is left. What failed is tried again for as long as the question stands,
//! for a node may learn a password later than its neighbours. Nothing else follows from a proof here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::database::Database;
use keystile_model::policy::Policy;
use keystile_model::rotation::proof::{
    LoginOutcome, NodeProof, PROOF_KEPT_S, ProofRecord, endpoints, proof_key,
};
use keystile_model::rotation::{Rotation, RotationPhase, VersionId};
use keystile_model::store::{CommitError, RuntimeStore};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::app::Shared;
use crate::clock::unix_ms;
use crate::credentials::Stage;
use crate::throttle::Throttle;
use crate::upstream::managed::Password;

/// How often questions are looked for when nothing is heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The most that a proxy waits before it begins: another one may be faster.
const JITTER: Duration = Duration::from_secs(2);
/// The pause before what failed is tried again; doubles up to the last.
const AGAIN: Duration = Duration::from_secs(4);
const AGAIN_MOST: Duration = Duration::from_secs(60);
/// Logins at a time.
const MOST_AT_ONCE: usize = 16;
/// Most nodes of one record.
const MOST_NODES: usize = 500;
/// How often a record is written again after somebody else has.
const ATTEMPTS: u32 = 8;

/// A question that was seen: what becomes of it next, and when.
struct Open {
    version: VersionId,
    at: Instant,
    pause: Duration,
    running: bool,
}

/// How one round ended.
struct Round {
    arn: Arn,
    version: VersionId,
    /// Whether every node has taken the password.
    whole: bool,
}

/// Answers questions for ever.
pub async fn run(shared: Arc<Shared>, runtime: Arc<dyn RuntimeStore>) {
    let logins = Arc::new(Semaphore::new(MOST_AT_ONCE));
    let failed = Arc::new(Throttle::new(60));
    let mut open: HashMap<Arn, Open> = HashMap::new();
    let mut rounds: JoinSet<Round> = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = rounds.join_next() => {
                if let Ok(round) = ended {
                    settle(&mut open, &round);
                }
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                shared.dialer.secrets.forget_old();
            }
        }
        let snapshot = shared.policy.borrow().clone();
        let Some(policy) = snapshot.policy else { continue };
        note_questions(&policy, &mut open, jitter(&shared));
        let now = Instant::now();
        for (arn, question) in open.iter_mut().filter(|(_, question)| !question.running && question.at <= now)
        {
            question.running = true;
            let (shared, runtime) = (Arc::clone(&shared), Arc::clone(&runtime));
            let (logins, failed) = (Arc::clone(&logins), Arc::clone(&failed));
            let (policy, arn, version) = (Arc::clone(&policy), arn.clone(), question.version.clone());
            rounds.spawn(async move {
                let task = Task { shared, runtime, policy, logins, failed };
                let whole = task.answer(&arn, &version).await;
                Round { arn, version, whole }
            });
        }
    }
}

/// Takes in what rotate asks for now. What it no longer asks for is forgotten.
fn note_questions(policy: &Policy, open: &mut HashMap<Arn, Open>, jitter: Duration) {
    open.retain(|arn, question| {
        policy.rotation(arn).and_then(|rotation| rotation.prove.as_ref()) == Some(&question.version)
    });
    for rotation in policy.rotations() {
        let Some(version) = &rotation.prove else { continue };
        open.entry(rotation.arn.clone()).or_insert_with(|| Open {
            version: version.clone(),
            at: Instant::now() + jitter,
            pause: AGAIN,
            running: false,
        });
    }
}

fn settle(open: &mut HashMap<Arn, Open>, round: &Round) {
    let Some(question) = open.get_mut(&round.arn).filter(|question| question.version == round.version) else {
        return;
    };
    question.running = false;
    // Answered: it is looked at again, for a node may be new, until rotate takes the question back.
    question.pause = if round.whole { AGAIN_MOST } else { question.pause };
    question.at = Instant::now() + question.pause;
    question.pause = (question.pause * 2).min(AGAIN_MOST);
}

/// A part of [`JITTER`] that is this proxy's own.
fn jitter(shared: &Shared) -> Duration {
    let byte = shared.proxy_id.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    JITTER.mul_f64(f64::from(byte) / 255.0)
}

/// The nodes where a user must be able to sign in, by `host:port`, each with the database to dial it as.
#[must_use]
pub fn nodes_of(policy: &Policy, user: &Arn) -> BTreeMap<String, Database> {
    let mut nodes = BTreeMap::new();
    let Some(user) = policy.db_users().find(|known| known.arn == *user) else { return nodes };
    for database in policy.discovered_databases().filter(|database| user.serves(database)) {
        for endpoint in endpoints(database) {
            nodes
                .entry(endpoint.to_string())
                .or_insert_with(|| Database { endpoint: endpoint.clone(), ..(**database).clone() });
        }
    }
    nodes.into_iter().take(MOST_NODES).collect()
}

/// What one round works with.
#[derive(Clone)]
struct Task {
    shared: Arc<Shared>,
    runtime: Arc<dyn RuntimeStore>,
    policy: Arc<Policy>,
    logins: Arc<Semaphore>,
    failed: Arc<Throttle>,
}

/// The two passwords; what is none is not tried.
struct Passwords {
    pending: Option<Password>,
    current: Option<Password>,
}

impl Task {
    /// One round: true where every node has taken the password.
    async fn answer(&self, arn: &Arn, version: &VersionId) -> bool {
        let Some(rotation) = self.policy.rotation(arn).cloned() else { return true };
        let nodes = nodes_of(&self.policy, arn);
        let Some(db_user) =
            self.policy.db_users().find(|user| user.arn == *arn).map(|user| user.name.to_string())
        else {
            return true;
        };
        let known = match self.record(arn, version).await {
            Ok((record, _)) => record,
            Err(error) => {
                self.tell(arn, &error.to_string());
                return false;
            }
        };
        let left: Vec<(String, Database)> =
            nodes.into_iter().filter(|(node, _)| !is_proven(&known, node)).collect();
        let Some((_, example)) = left.first() else { return true };
        let passwords = self.passwords(example, &db_user, &rotation, version).await;
        if passwords.pending.is_none() {
            self.tell(arn, "the version to be proved cannot be read");
            return false;
        }
        let seen = self.log_in_everywhere(left, &db_user, Arc::new(passwords)).await;
        let whole = seen.values().all(|seen| seen.pending == LoginOutcome::Ok);
        match self.write(arn, version, seen).await {
            Ok(()) => whole,
            Err(error) => {
                self.tell(arn, &error.to_string());
                false
            }
        }
    }

    async fn passwords(
        &self,
        database: &Database,
        db_user: &str,
        rotation: &Rotation,
        version: &VersionId,
    ) -> Passwords {
        let read = async |stage, wanted: Option<&VersionId>| {
            let now = std::time::Instant::now();
            // Another version than that which is meant may only be an older reading.
            for since in [None, Some(now)] {
                let read =
                    self.shared.dialer.managed_password(database, db_user, &rotation.arn, stage, since).await;
                if let Some(password) = read.ok().filter(|read| Some(&read.version) == wanted) {
                    return Some(password);
                }
            }
            None
        };
        let has_current = !matches!(rotation.phase, RotationPhase::TakingOver | RotationPhase::Locked);
        Passwords {
            pending: read(Stage::Pending, Some(version)).await,
            current: if has_current { read(Stage::Current, rotation.current.as_ref()).await } else { None },
        }
    }

    async fn log_in_everywhere(
        &self,
        nodes: Vec<(String, Database)>,
        db_user: &str,
        passwords: Arc<Passwords>,
    ) -> BTreeMap<String, NodeProof> {
        let settings = self.policy.settings();
        let networks: Arc<[String]> =
            settings.map(|settings| settings.static_networks.as_slice()).unwrap_or_default().into();
        let mut tries = JoinSet::new();
        for (node, database) in nodes {
            let (task, passwords, db_user) = (self.clone(), Arc::clone(&passwords), db_user.to_owned());
            let networks = Arc::clone(&networks);
            tries.spawn(async move {
                let _place = task.logins.acquire().await;
                let (pending, current) = task.log_in(&database, &db_user, &passwords, &networks).await;
                task.shared.metrics.proofs.add(word(pending));
                let proxy = task.shared.proxy_id.to_string();
                let at = task.shared.clock.now().unix_timestamp();
                (node, NodeProof { pending, current, proxy, at })
            });
        }
        let mut seen = BTreeMap::new();
        while let Some(ended) = tries.join_next().await {
            seen.extend(ended.ok());
        }
        seen
    }

    async fn log_in(
        &self,
        node: &Database,
        db_user: &str,
        passwords: &Passwords,
        networks: &[String],
    ) -> (LoginOutcome, LoginOutcome) {
        // A connection each: a server may close after a refusal.
        let one = async |password: Option<&Password>| {
            let Some(password) = password else { return LoginOutcome::Untried };
            let dialer = &self.shared.dialer;
            match dialer.open(node, networks).await {
                Ok(mut leg) => dialer.log_in_on(&mut leg, db_user, &password.value).await,
                Err(_) => LoginOutcome::Unreachable,
            }
        };
        let pending = one(passwords.pending.as_ref()).await;
        // What cannot be reached is not waited for twice.
        let current = match pending {
            LoginOutcome::Unreachable => LoginOutcome::Untried,
            _ => one(passwords.current.as_ref()).await,
        };
        (pending, current)
    }

    /// The group's record of this version, or a new one, and the item's version in the table.
    async fn record(&self, arn: &Arn, version: &VersionId) -> Result<(ProofRecord, u64), CommitError> {
        let key = proof_key(&self.shared.config.group, arn);
        let item = self.runtime.read(&key).await?;
        let at = item.as_ref().map_or(0, |item| item.version);
        let held = item.and_then(|item| serde_json::from_value::<ProofRecord>(item.body).ok());
        let held = held.filter(|record| record.version == *version);
        Ok((held.unwrap_or_else(|| ProofRecord { version: version.clone(), nodes: BTreeMap::new() }), at))
    }

    async fn write(
        &self,
        arn: &Arn,
        version: &VersionId,
        seen: BTreeMap<String, NodeProof>,
    ) -> Result<(), CommitError> {
        let key = proof_key(&self.shared.config.group, arn);
        let mut last = CommitError::Conflict;
        for _ in 0..ATTEMPTS {
            let (mut record, at) = self.record(arn, version).await?;
            for (node, seen) in &seen {
                record.merge(node.clone(), seen.clone());
            }
            let body =
                serde_json::to_value(&record).map_err(|error| CommitError::Illegal(error.to_string()))?;
            let expires = self.shared.clock.now().unix_timestamp() + PROOF_KEPT_S;
            match self.runtime.write(&key, Some(at), Some(expires), body).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict) => last = CommitError::Conflict,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn tell(&self, arn: &Arn, error: &str) {
        if let Some(times) = self.failed.tell(unix_ms(self.shared.clock.now())) {
            tracing::warn!(user = %arn, error, times, "a password could not be proved: it is tried again");
        }
    }
}

fn is_proven(record: &ProofRecord, node: &str) -> bool {
    record.nodes.get(node).is_some_and(|seen| seen.pending == LoginOutcome::Ok)
}

fn word(outcome: LoginOutcome) -> &'static str {
    match outcome {
        LoginOutcome::Ok => "ok",
        LoginOutcome::Refused => "refused",
        LoginOutcome::Unreachable | LoginOutcome::Untried => "unreachable",
    }
}
