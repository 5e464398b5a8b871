//! The live sessions, and what ends them from outside: one look a second, and one at each change of policy.
//!
//! A session has no timer of its own. What it must know is decided here, once for all sessions of the same
//! user and route, and ordered to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keystile_identity::client::ClientIdentity;
use keystile_model::arn::Arn;
use keystile_model::database::{Database, DatabaseKind, Endpoint};
use keystile_model::decide::SessionGrant;
use keystile_model::policy::Policy;
use keystile_model::role::LockingMode;
use keystile_model::store::Clock;
use keystile_state::policy_feed::PolicySnapshot;
use tokio::sync::watch;
use uuid::Uuid;

use crate::admission::{NEW_SESSIONS_UNTIL_S, Plan, may_go_on};
use crate::clock::{CoarseClock, unix_ms};
use crate::metrics::Metrics;
use crate::session::gate::Gate;
use crate::session::handle::{Cut, CutKind, Handle};
use crate::session::renewal::{self, Due};

/// How often the sessions are looked at when nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two judgements of all sessions when the policy does not change: what a decision goes by may
/// end with time.
const JUDGE_EVERY: u32 = 15;
/// Sessions between two pauses of a look, so that it never holds a thread for long.
const BETWEEN_PAUSES: usize = 256;
/// The policy's greatest age for live sessions where the deployment says nothing, in seconds.
const MAX_POLICY_AGE_S: u64 = 900;

/// A live session as the registry knows it.
#[derive(Debug, Clone)]
pub struct Live {
    /// How it is reached.
    pub handle: Arc<Handle>,
    /// Who.
    pub identity: Arc<ClientIdentity>,
    /// Where.
    pub database: Arc<Database>,
    /// As whom.
    pub db_user: String,
    /// How it signed in.
    pub plan: Plan,
    /// What it may do.
    pub grant: Arc<SessionGrant>,
    /// The rules that it was last given.
    pub gate: Arc<Gate>,
}

/// How many sessions there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Of one user.
    pub per_user: usize,
    /// To one database.
    pub per_database: usize,
}

/// Why there is no place for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// The user has this many, the most that its roles allow.
    Roles(usize),
    /// The user has this many, the most that the proxy allows.
    User(usize),
    /// The database has this many, the most that the proxy allows.
    Database(usize),
}

#[derive(Debug, Default)]
struct Registry {
    live: HashMap<Uuid, Live>,
    by_user: HashMap<String, usize>,
    by_database: HashMap<String, usize>,
}

/// All live sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    registry: Mutex<Registry>,
}

impl Sessions {
    /// Adds a session unless its user or its database has as many as it may.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn add(&self, sid: Uuid, session: Live, most: Most) -> Result<(), NoPlace> {
        let mut registry = self.lock();
        let (user, database) = (session.identity.user.to_string(), session.database.name.to_string());
        let own = registry.by_user.get(&user).copied().unwrap_or(0);
        let there = registry.by_database.get(&database).copied().unwrap_or(0);
        if session.grant.max_connections.is_some_and(|most| own >= most as usize) {
            return Err(NoPlace::Roles(own));
        }
        if own >= most.per_user {
            return Err(NoPlace::User(own));
        }
        if there >= most.per_database {
            return Err(NoPlace::Database(there));
        }
        *registry.by_user.entry(user).or_default() += 1;
        *registry.by_database.entry(database).or_default() += 1;
        registry.live.insert(sid, session);
        Ok(())
    }

    /// What a session may do was decided anew before it began.
    pub fn judged_anew(&self, sid: Uuid, grant: &SessionGrant, gate: &Arc<Gate>) {
        if let Some(known) = self.lock().live.get_mut(&sid) {
            (known.grant, known.gate) = (Arc::new(grant.clone()), Arc::clone(gate));
        }
    }

    /// Takes a session out.
    pub fn remove(&self, sid: Uuid) {
        let mut registry = self.lock();
        if let Some(gone) = registry.live.remove(&sid) {
            count_down(&mut registry.by_user, gone.identity.user.as_str());
            count_down(&mut registry.by_database, gone.database.name.as_str());
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().live.len()
    }

    /// The databases in use, by name.
    #[must_use]
    pub fn databases(&self) -> Vec<String> {
        let mut names: Vec<_> = self.lock().by_database.keys().cloned().collect();
        names.sort();
        names
    }

    /// Ends them all.
    pub fn cut_all(&self, cut: &Cut) {
        for live in self.lock().live.values() {
            live.handle.order(|orders| orders.cut = Some(cut.clone()));
        }
    }

    fn snapshot(&self) -> Vec<(Uuid, Live)> {
        self.lock().live.iter().map(|(sid, live)| (*sid, live.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says once that the proxy has stopped beginning sessions, and once that it begins them again.
fn tell_staleness(snapshot: &PolicySnapshot, now: time::OffsetDateTime, before: bool) -> bool {
    let Some(age_s) = snapshot.age(now).map(|age| age.as_secs()) else { return before };
    let stale = age_s >= NEW_SESSIONS_UNTIL_S;
    if stale && !before {
        let error = snapshot.last_error().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            age_s,
            error,
            "the policy is too old: no new sessions begin, and live ones end at max_policy_age; check DynamoDB and \
             the way to it"
        );
    } else if before && !stale {
        tracing::info!("the policy is fresh again: sessions begin");
    }
    stale
}

fn place_of(database: &Database) -> (String, Option<Arn>, Endpoint, DatabaseKind) {
    (database.name.to_string(), database.arn.clone(), database.endpoint.clone(), database.kind)
}

fn count_down(counts: &mut HashMap<String, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Who is judged alike: user, its certificate's date, database (which may have moved under its name), db user, and how
/// it signed in.
type Route = (String, i64, (String, Option<Arn>, Endpoint, DatabaseKind), String, Plan);
type Verdict = Result<(Arc<SessionGrant>, Arc<Gate>), Cut>;

/// What the overseer goes by.
pub struct Overseer {
    /// The sessions.
    pub sessions: Arc<Sessions>,
    /// The policy.
    pub policy: watch::Receiver<PolicySnapshot>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The time as sessions read it.
    pub coarse: Arc<CoarseClock>,
    /// The life of an IAM connection.
    pub iam_life: Duration,
    /// How long a client may take nothing of what waits for it; zero is for ever.
    pub slow_client: Duration,
    /// How often counts are written down.
    pub summary_interval: Duration,
    /// Metrics.
    pub metrics: Arc<Metrics>,
}

impl Overseer {
    /// Looks after the sessions for ever.
    pub async fn run(mut self) {
        let mut decided_for: Option<Arc<Policy>> = None;
        let mut summary_at = self.clock.now() + self.summary_interval;
        let mut looks = 0;
        let mut stale = false;
        // Between our end of an IAM connection's life and the cache's lie seven thousandths of it.
        let look_every = LOOK_EVERY.min(self.iam_life / 250);
        loop {
            let changed = tokio::time::timeout(look_every, self.policy.changed()).await;
            if matches!(changed, Ok(Err(_))) {
                // The feed has ended with the process.
                tokio::time::sleep(LOOK_EVERY).await;
            }
            let now = self.clock.now();
            self.coarse.set(unix_ms(now));
            let snapshot = self.policy.borrow_and_update().clone();
            self.note(&snapshot, now);
            stale = tell_staleness(&snapshot, now, stale);
            let news = match (&snapshot.policy, &decided_for) {
                (Some(new), Some(old)) => !Arc::ptr_eq(new, old),
                (new, _) => new.is_some(),
            };
            let summary = now >= summary_at;
            if summary {
                summary_at = now + self.summary_interval;
            }
            looks = (looks + 1) % JUDGE_EVERY;
            self.look(&snapshot, now, summary, news || looks == 0).await;
            if news {
                decided_for.clone_from(&snapshot.policy);
            }
        }
    }

    fn note(&self, snapshot: &PolicySnapshot, now: time::OffsetDateTime) {
        let millis =
            |age: Option<Duration>| age.map_or(-1, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        self.metrics.access_age_ms.set(millis(snapshot.access.age(now)));
        self.metrics.inventory_age_ms.set(millis(snapshot.inventory.age(now)));
        if let Some(policy) = &snapshot.policy {
            self.metrics.databases.set(i64::try_from(policy.databases().count()).unwrap_or(i64::MAX));
        }
    }

    /// One look at every session; sessions of the same user and route share one judgement.
    async fn look(&self, snapshot: &PolicySnapshot, now: time::OffsetDateTime, summary: bool, judge: bool) {
        let age_s = snapshot.age(now).map_or(u64::MAX, |age| age.as_secs());
        let mut judged: HashMap<Route, Verdict> = HashMap::new();
        for (index, (sid, mut live)) in self.sessions.snapshot().into_iter().enumerate() {
            if index % BETWEEN_PAUSES == BETWEEN_PAUSES - 1 {
                tokio::task::yield_now().await;
            }
            if summary {
                live.handle.order(|orders| orders.summary = true);
            }
            if let Some(cut) = self.due(&live, snapshot, age_s, now) {
                live.handle.order(|orders| orders.cut = Some(cut));
                continue;
            }
            self.renew(sid, &live, now);
            let Some(policy) = snapshot.policy.as_ref().filter(|_| judge) else { continue };
            let key = (
                live.identity.user.to_string(),
                live.identity.issued_at(),
                place_of(&live.database),
                live.db_user.clone(),
                live.plan.clone(),
            );
            let verdict = judged.entry(key).or_insert_with(|| {
                let route = (live.database.as_ref(), live.db_user.as_str(), &live.plan);
                may_go_on(policy, &live.identity, route, now.unix_timestamp())
                    .map(|(grant, gate)| (Arc::new(grant), gate))
            });
            match verdict {
                Err(cut) => live.handle.order(|orders| orders.cut = Some(cut.clone())),
                Ok((grant, gate))
                    if (!Arc::ptr_eq(gate, &live.gate) && **gate != *live.gate) || **grant != *live.grant =>
                {
                    let given = Arc::clone(gate);
                    live.handle.order(|orders| orders.gate = Some(given));
                    (live.grant, live.gate) = (Arc::clone(grant), Arc::clone(gate));
                    if let Some(known) = self.sessions.lock().live.get_mut(&sid) {
                        *known = live;
                    }
                }
                Ok(_) => {}
            }
        }
    }

    /// What ends a session whatever its roles say.
    fn due(
        &self,
        live: &Live,
        snapshot: &PolicySnapshot,
        age_s: u64,
        now: time::OffsetDateTime,
    ) -> Option<Cut> {
        let cut = |kind, text: String| Some(Cut { kind, text });
        if let Err(error) = live.identity.check_validity(now.unix_timestamp()) {
            return cut(CutKind::Certificate, format!("{error}: run 'keystile login' and connect again"));
        }
        if let Some(most) = live.grant.client_idle_timeout_s
            && unix_ms(now) - live.handle.active_at()
                >= i64::try_from(most).unwrap_or(i64::MAX).saturating_mul(1_000)
        {
            let text =
                format!("nothing was sent for {most} s, the role's client_idle_timeout: connect again");
            return cut(CutKind::Idle, text);
        }
        let slow = i64::try_from(self.slow_client.as_millis()).unwrap_or(i64::MAX);
        if slow > 0 && live.handle.stalled_at().is_some_and(|since| unix_ms(now) - since >= slow) {
            self.metrics.limits.add("slow_client");
            let text = format!(
                "the client took nothing of its replies for {} s (KEYSTILE_SLOW_CLIENT_S): connect again, and read",
                self.slow_client.as_secs()
            );
            return cut(CutKind::SlowClient, text);
        }
        let settings = snapshot.policy.as_deref().and_then(Policy::settings);
        let most = match live.grant.locking_mode {
            LockingMode::Strict => NEW_SESSIONS_UNTIL_S,
            LockingMode::BestEffort => {
                settings.map_or(MAX_POLICY_AGE_S, |settings| settings.max_policy_age_s)
            }
        };
        if age_s >= most {
            let text = format!(
                "the proxy has not heard of its policy for {age_s} s, over the {most} s that live sessions may go \
                 on: connect again when it has"
            );
            return cut(CutKind::StalePolicy, text);
        }
        None
    }

    /// Renews the life of an IAM connection, or ends it before the cache does.
    fn renew(&self, sid: Uuid, live: &Live, now: time::OffsetDateTime) {
        if live.plan != Plan::Iam {
            return;
        }
        let since = |then: i64| Duration::from_millis(u64::try_from(unix_ms(now) - then).unwrap_or(0));
        let failed = live.handle.sign_in_failed_at().map(since);
        let due = renewal::due(self.iam_life, since(live.handle.signed_in_at()), failed, sid.as_bytes()[0]);
        match due {
            Due::Nothing => {}
            Due::SignIn => live.handle.order(|orders| orders.sign_in = true),
            Due::Hurry => live.handle.order(|orders| (orders.sign_in, orders.hurry) = (true, true)),
            Due::End => live.handle.order(|orders| {
                let text = format!(
                    "connect again: the cache ends IAM connections after {} s, and this one could not be signed \
                     in again in time",
                    self.iam_life.as_secs()
                );
                orders.cut = Some(Cut { kind: CutKind::IamLife, text });
            }),
        }
    }
}
