//! An in-memory twin of AWS with the real semantics: two passwords at most, `modifying` for a while, nodes that
//! learn one by one, groups that block each other; secrets with stages, tokens, quotas and recovery windows.
//! Every call passes a gate, where a test lets it fail before or after its effect, kills the caller, or lets
//! another caller go first.

mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use keystile_model::arn::Arn;
use keystile_model::cloud::{Place, Tags};
use keystile_model::db_user::{DbUserAuth, DbUserService};
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{
    CacheUser, CacheUsers, CallError, Entropy, NewSecret, SecretRead, SecretRecord, Secrets, Stage,
    UserStatus, Which,
};
use keystile_model::rotation::secret::SecretValue;
use keystile_model::store::{Clock, CommitError, RuntimeItem, RuntimeKey, RuntimeStore, StoreError};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use time::OffsetDateTime;

pub(super) const ACCOUNT: &str = "123456789012";
pub(super) const REGION: &str = "eu-west-1";
/// When histories begin, in milliseconds.
const BEGIN_MS: i64 = 1_800_000_000_000;

/// A small fast generator; every history is its seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n.max(1)
    }

    /// True in so many of 1,000 cases.
    pub(super) fn permille(&mut self, n: u64) -> bool {
        self.below(1_000) < n
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    FailsBefore,
    FailsAfter,
    DiesBefore,
    DiesAfter,
}

/// One user of a cache.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) groups: BTreeSet<String>,
    pub(super) auth: DbUserAuth,
    /// What it was last told.
    pub(super) told: Vec<String>,
    /// What each node knows now.
    pub(super) nodes: Vec<Vec<String>>,
    /// What each node learns, and when, in milliseconds.
    coming: Vec<Option<(i64, Vec<String>)>>,
    busy_until: i64,
    /// Lists show the change only from here on.
    shown_from: i64,
}

impl User {
    fn modifying(&self, now: i64) -> bool {
        now < self.busy_until
    }
}

#[derive(Debug, Clone)]
pub(super) struct Secret {
    arn: Arn,
    pub(super) tags: Tags,
    pub(super) versions: BTreeMap<VersionId, (String, i64)>,
    pub(super) stages: BTreeMap<Stage, VersionId>,
    pub(super) deleted_at: Option<i64>,
}

/// How the world behaves.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// How long an update takes, in milliseconds, least and most.
    pub(super) update_ms: (i64, i64),
    /// For how long lists may show the state before a change, in milliseconds.
    pub(super) list_lag_ms: i64,
    /// Whether a change shows on all users of the group.
    pub(super) group_shows: bool,
    /// Calls of 1,000 that fail, and that kill.
    pub(super) failing: u64,
    pub(super) killing: u64,
    /// The key refuses.
    pub(super) key_refuses: bool,
    /// Our policy does not let us change the user.
    pub(super) change_denied: bool,
    /// Calls are stopping points: a test polls them one by one.
    pub(super) stepwise: bool,
    /// How long a call takes in tokio's time.
    pub(super) call_ms: u64,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            update_ms: (1_000, 240_000),
            list_lag_ms: 0,
            group_shows: false,
            failing: 0,
            killing: 0,
            key_refuses: false,
            change_denied: false,
            stepwise: false,
            call_ms: 0,
        }
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) manner: Manner,
    pub(super) dice: Dice,
    pub(super) users: BTreeMap<String, User>,
    pub(super) secrets: BTreeMap<String, Secret>,
    pub(super) items: BTreeMap<RuntimeKey, RuntimeItem>,
    now_ms: i64,
    started: Option<tokio::time::Instant>,
    /// By how much our clock is wrong, in milliseconds.
    pub(super) skew_ms: i64,
    /// The caller that was polled last is dead.
    pub(super) died: bool,
    pub(super) calls: BTreeMap<&'static str, u64>,
    pub(super) quota_hits: u64,
    entropy: u64,
    ids: u64,
}

/// The twin.
#[derive(Debug)]
pub(super) struct Twin(Mutex<World>);

pub(super) fn user_arn(id: &str) -> Arn {
    Arn::parse(format!("arn:aws:elasticache:{REGION}:{ACCOUNT}:user:{id}")).unwrap()
}

impl World {
    pub(super) fn now(&self) -> i64 {
        match self.started {
            Some(started) => self.now_ms + i64::try_from(started.elapsed().as_millis()).unwrap(),
            None => self.now_ms,
        }
    }

    fn seconds(&self) -> i64 {
        (self.now() + self.skew_ms).div_euclid(1_000)
    }

    /// Nodes learn what is due by now.
    fn settle(&mut self) {
        let now = self.now();
        for user in self.users.values_mut() {
            for (node, coming) in user.nodes.iter_mut().zip(&mut user.coming) {
                if coming.as_ref().is_some_and(|(at, _)| *at <= now)
                    && let Some((_, list)) = coming.take()
                {
                    *node = list;
                }
            }
        }
    }

    /// The next moment at which a node learns something.
    pub(super) fn next_change(&self) -> Option<i64> {
        self.users.values().flat_map(|user| user.coming.iter().flatten().map(|(at, _)| *at)).min()
    }

    pub(super) fn set_now(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.settle();
    }

    pub(super) fn add_user(&mut self, id: &str, groups: &[&str], nodes: usize, passwords: &[&str]) {
        let told: Vec<String> = passwords.iter().map(|p| (*p).to_owned()).collect();
        let user = User {
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            auth: if told.is_empty() { DbUserAuth::None } else { DbUserAuth::Password },
            nodes: vec![told.clone(); nodes],
            coming: vec![None; nodes],
            told,
            busy_until: 0,
            shown_from: 0,
        };
        self.users.insert(id.to_owned(), user);
    }

    fn group_busy(&self, id: &str) -> bool {
        let now = self.now();
        let Some(user) = self.users.get(id) else { return false };
        user.modifying(now)
            || self
                .users
                .values()
                .any(|other| other.modifying(now) && !other.groups.is_disjoint(&user.groups))
    }

    /// Replaces passwords as the service does, whoever asks.
    pub(super) fn set(&mut self, id: &str, passwords: Vec<String>) -> Result<(), CallError> {
        self.settle();
        if !self.users.contains_key(id) {
            return Err(CallError::NotFound(id.to_owned()));
        }
        if self.group_busy(id) {
            return Err(CallError::Busy(format!("User {id} has status modifying.")));
        }
        let legal =
            (1..=2).contains(&passwords.len()) && passwords.iter().all(|p| (16..=128).contains(&p.len()));
        if !legal {
            return Err(CallError::Refused("Passwords length must be between 16-128 characters.".to_owned()));
        }
        let now = self.now();
        let (least, most) = self.manner.update_ms;
        let takes = least + i64::try_from(self.dice.below(u64::try_from(most - least + 1).unwrap())).unwrap();
        let lag =
            i64::try_from(self.dice.below(u64::try_from(self.manner.list_lag_ms + 1).unwrap())).unwrap();
        let nodes = self.users[id].nodes.len();
        let when: Vec<i64> = (0..nodes)
            .map(|_| now + i64::try_from(self.dice.below(u64::try_from(takes).unwrap_or(1))).unwrap())
            .collect();
        let user = self.users.get_mut(id).unwrap();
        user.auth = DbUserAuth::Password;
        user.told.clone_from(&passwords);
        user.coming = when.into_iter().map(|at| Some((at, passwords.clone()))).collect();
        user.busy_until = now + takes;
        user.shown_from = now + lag.min(takes);
        self.settle();
        Ok(())
    }

    /// Keeps a user `modifying`, as a change of its group or cache does.
    pub(super) fn occupy(&mut self, id: &str, ms: i64) {
        let now = self.now();
        if let Some(user) = self.users.get_mut(id) {
            user.busy_until = user.busy_until.max(now + ms);
        }
    }

    fn listed(&self) -> Vec<CacheUser> {
        let now = self.now();
        let shows = |user: &User| user.modifying(now) && now >= user.shown_from;
        self.users
            .iter()
            .map(|(id, user)| {
                let others = self.manner.group_shows
                    && self
                        .users
                        .values()
                        .any(|other| shows(other) && !other.groups.is_disjoint(&user.groups));
                CacheUser {
                    arn: user_arn(id).to_string(),
                    id: id.clone(),
                    name: id.clone(),
                    status: if shows(user) || others { UserStatus::Modifying } else { UserStatus::Active },
                    groups: user.groups.clone(),
                    auth: Some(user.auth),
                    passwords: u8::try_from(user.told.len()).unwrap(),
                }
            })
            .collect()
    }

    fn secret(&mut self, id: &str) -> Option<(&String, &mut Secret)> {
        let now = self.now();
        self.secrets.retain(|_, secret| secret.deleted_at.is_none_or(|at| now - at < 30 * 86_400_000));
        self.secrets.iter_mut().find(|(name, secret)| name.as_str() == id || secret.arn.as_str() == id)
    }

    fn living(&mut self, id: &str) -> Result<&mut Secret, CallError> {
        match self.secret(id) {
            None => Err(CallError::NotFound(id.to_owned())),
            Some((name, secret)) if secret.deleted_at.is_some() => Err(CallError::Scheduled(name.clone())),
            Some((_, secret)) => Ok(secret),
        }
    }

    fn key(&self) -> Result<(), CallError> {
        if self.manner.key_refuses { Err(CallError::Key("AccessDeniedException".to_owned())) } else { Ok(()) }
    }

    pub(super) fn create(&mut self, new: &NewSecret) -> Result<Arn, CallError> {
        self.key()?;
        if let Some((name, secret)) = self.secret(&new.name) {
            if secret.deleted_at.is_some() {
                return Err(CallError::Scheduled(name.clone()));
            }
            let same = secret.versions.get(&new.token).is_some_and(|(v, _)| v == new.value.expose_secret());
            return if same { Ok(secret.arn.clone()) } else { Err(CallError::Exists(name.clone())) };
        }
        self.ids += 1;
        let text = format!("arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{}-{:06}", new.name, self.ids);
        let arn = Arn::parse(text).unwrap();
        let now = self.now();
        let secret = Secret {
            arn: arn.clone(),
            tags: new.tags.clone(),
            versions: BTreeMap::from([(new.token.clone(), (new.value.expose_secret().to_owned(), now))]),
            stages: BTreeMap::from([(Stage::Current, new.token.clone())]),
            deleted_at: None,
        };
        self.secrets.insert(new.name.clone(), secret);
        Ok(arn)
    }

    fn put(&mut self, id: &str, token: &VersionId, value: &SecretString) -> Result<(), CallError> {
        self.key()?;
        let now = self.now();
        let secret = self.living(id)?;
        match secret.versions.get(token) {
            Some((held, _)) if held == value.expose_secret() => return Ok(()),
            Some(_) => return Err(CallError::Exists(token.to_string())),
            None => {}
        }
        // The newest hundred are kept, and those of a day; versions without a stage go.
        let labelled: BTreeSet<VersionId> = secret.stages.values().cloned().collect();
        secret.versions.retain(|id, (_, at)| labelled.contains(id) || now - *at < 86_400_000);
        if secret.versions.len() >= 100 {
            self.quota_hits += 1;
            return Err(CallError::Quota("LimitExceededException".to_owned()));
        }
        secret.versions.insert(token.clone(), (value.expose_secret().to_owned(), now));
        secret.stages.insert(Stage::Pending, token.clone());
        Ok(())
    }

    fn read(&mut self, id: &str, which: &Which) -> Result<SecretRead, CallError> {
        self.key()?;
        let secret = self.living(id)?;
        let version = match which {
            Which::Version(version) => Some(version.clone()),
            Which::Stage(stage) => secret.stages.get(stage).cloned(),
        };
        let gone = || CallError::NotFound("version".to_owned());
        let version = version.ok_or_else(gone)?;
        let (value, at) = secret.versions.get(&version).ok_or_else(gone)?;
        let (value, at) = (SecretString::from(value.clone()), at.div_euclid(1_000));
        Ok(SecretRead { version, value, created_at: Some(at) })
    }

    pub(super) fn promote(&mut self, id: &str, from: &VersionId, to: &VersionId) -> Result<(), CallError> {
        let secret = self.living(id)?;
        if secret.stages.get(&Stage::Current) != Some(from) {
            return Err(CallError::Moved("InvalidParameterException".to_owned()));
        }
        if !secret.versions.contains_key(to) {
            return Err(CallError::NotFound("version".to_owned()));
        }
        secret.stages.insert(Stage::Previous, from.clone());
        secret.stages.insert(Stage::Current, to.clone());
        Ok(())
    }

    /// The password under a stage, as a proxy would read it; none while it cannot be read.
    pub(super) fn password(&self, name: &str, stage: Stage) -> Option<(VersionId, String)> {
        let secret = self.secrets.get(name).filter(|secret| secret.deleted_at.is_none())?;
        let version = secret.stages.get(&stage)?;
        let (value, _) = secret.versions.get(version)?;
        let value = SecretValue::parse(&SecretString::from(value.clone())).ok()?;
        Some((version.clone(), value.password()?.expose_secret().to_owned()))
    }

    /// Nodes that refuse this password now.
    pub(super) fn refusing(&self, id: &str, password: &str) -> Vec<usize> {
        let Some(user) = self.users.get(id) else { return Vec::new() };
        let refuses = |node: &&Vec<String>| !node.iter().any(|known| known == password);
        user.nodes.iter().enumerate().filter(|(_, node)| refuses(node)).map(|(index, _)| index).collect()
    }

    fn fate(&mut self) -> Fate {
        let (failing, killing) = (self.manner.failing, self.manner.killing);
        let drawn = self.dice.below(1_000);
        if drawn < failing {
            if self.dice.permille(500) { Fate::FailsBefore } else { Fate::FailsAfter }
        } else if drawn < failing + killing {
            if self.dice.permille(500) { Fate::DiesBefore } else { Fate::DiesAfter }
        } else {
            Fate::Passes
        }
    }
}

impl Twin {
    pub(super) fn new(seed: u64, manner: Manner) -> Arc<Self> {
        Arc::new(Self(Mutex::new(World {
            manner,
            dice: Dice::new(seed),
            users: BTreeMap::new(),
            secrets: BTreeMap::new(),
            items: BTreeMap::new(),
            now_ms: BEGIN_MS,
            started: None,
            skew_ms: 0,
            died: false,
            calls: BTreeMap::new(),
            quota_hits: 0,
            entropy: seed,
            ids: 0,
        })))
    }

    /// Time is tokio's from now on.
    pub(super) fn follow_tokio(&self) {
        self.world().started = Some(tokio::time::Instant::now());
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Passes the gate, then does `effect`, and fails or dies as the dice say.
    async fn call<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World) -> Result<T, CallError> + Send,
    ) -> Result<T, CallError> {
        let (stepwise, call_ms) = {
            let world = self.world();
            (world.manner.stepwise, world.manner.call_ms)
        };
        if stepwise {
            StoppingPoint(false).await;
        }
        if call_ms > 0 {
            tokio::time::sleep(Duration::from_millis(call_ms)).await;
        }
        let (fate, outcome) = {
            let mut world = self.world();
            world.settle();
            *world.calls.entry(name).or_default() += 1;
            let fate = world.fate();
            let outcome = match fate {
                Fate::FailsBefore => {
                    let throttled = world.dice.permille(300);
                    let text = "Rate exceeded".to_owned();
                    Err(if throttled { CallError::Throttled(text) } else { CallError::Unknown(text) })
                }
                Fate::DiesBefore => Err(CallError::Unknown(String::new())),
                Fate::Passes | Fate::FailsAfter | Fate::DiesAfter => effect(&mut world),
            };
            world.died = matches!(fate, Fate::DiesBefore | Fate::DiesAfter);
            (fate, outcome)
        };
        match fate {
            Fate::Passes | Fate::FailsBefore => outcome,
            Fate::FailsAfter => Err(CallError::Unknown("timed out".to_owned())),
            Fate::DiesBefore | Fate::DiesAfter => std::future::pending().await,
        }
    }
}

/// Lets others run once.
struct StoppingPoint(bool);

impl Future for StoppingPoint {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        Poll::Pending
    }
}
