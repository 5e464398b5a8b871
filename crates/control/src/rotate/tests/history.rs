//! One history: ticks at odd intervals, two runs at once, calls that fail or kill, people who meddle; the
//! invariant is checked between any two calls and at every moment at which a node learns something.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use keystile_model::cloud::Place;
use keystile_model::db_user::DbUserAuth;
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{CacheUsers, Stage, UserStatus};
use keystile_model::rotation::proof::{LoginOutcome, NodeProof, ProofRecord, proof_key};
use keystile_model::rotation::row::{LeftAlone, RotationRow, RotationState, row_key};
use keystile_model::rotation::secret::secret_name;
use keystile_model::store::RuntimeItem;

use super::super::Settings;
use super::super::groups::{Member, grants};
use super::super::log::Log;
use super::super::machine::Wanted;
use super::super::ops::{Operation, asked};
use super::super::period::period;
use super::super::step::{Done, Ports, Turn, step};
use super::super::wanted::is_leaving;
use super::twin::{ACCOUNT, Dice, Manner, Twin, user_arn};

/// The user whose password is watched.
pub(super) const APP: &str = "app";

/// Counts what was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) takeovers: AtomicU64,
    pub(super) rotations: AtomicU64,
}

impl Log for Told {
    fn takes_over(&self, _: &RotationRow) {
        self.takeovers.fetch_add(1, Ordering::Relaxed);
    }
    fn rotated(&self, _: &RotationRow) {
        self.rotations.fetch_add(1, Ordering::Relaxed);
    }
    fn left_alone(&self, _: &RotationRow, _: LeftAlone) {}
    fn withdrawn(&self, _: &RotationRow) {}
    fn fails(&self, _: &RotationRow) {}
    fn started_over(&self, _: &RotationRow, _: &str) {}
}

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

/// A history that is being told.
pub(super) struct History {
    pub(super) twin: Arc<Twin>,
    pub(super) ports: Ports,
    pub(super) settings: Settings,
    pub(super) told: Arc<Told>,
    pub(super) dice: Dice,
    pub(super) wanted: Wanted,
    /// Proxies prove what they are asked to.
    pub(super) proxies: bool,
    /// Users that rotate; [`APP`] is the first.
    pub(super) ids: Vec<&'static str>,
    /// Somebody meddled with the password or the secret: nothing is promised until it is taken over again, that
    /// is, above this generation, or in it if it was not taken over yet.
    pub(super) meddled_at: Option<(u64, bool)>,
    /// Somebody meddled at some time: being left alone is no surprise.
    pub(super) ever_meddled: bool,
    /// Passwords that were current, and until when proxies may hold them, in milliseconds.
    held: Vec<(String, i64)>,
    parsed: RefCell<BTreeMap<String, (RotationRow, u64)>>,
    pub(super) checks: u64,
    /// Our clock jumped: until then a cached password may end too soon, and is read afresh.
    pub(super) jumped_until: i64,
}

impl History {
    pub(super) fn new(seed: u64, manner: Manner) -> Self {
        let twin = Twin::new(seed, manner);
        let ports = Ports {
            users: twin.clone(),
            secrets: twin.clone(),
            runtime: twin.clone(),
            entropy: twin.clone(),
            clock: twin.clone(),
        };
        Self {
            twin,
            ports,
            settings: Settings::new("test", ACCOUNT),
            told: Arc::default(),
            dice: Dice::new(seed ^ 0x5eed),
            wanted: Wanted::Yes,
            proxies: true,
            ids: vec![APP],
            meddled_at: None,
            ever_meddled: false,
            held: Vec::new(),
            parsed: RefCell::default(),
            checks: 0,
            jumped_until: 0,
        }
    }

    pub(super) fn row_of(&self, id: &str) -> Option<(RotationRow, u64)> {
        let world = self.twin.world();
        let mut parsed = self.parsed.borrow_mut();
        let Some(item) = world.items.get(&row_key(&user_arn(id))) else {
            parsed.remove(id);
            return None;
        };
        // The rows are looked at far more often than they are written.
        match parsed.get(id) {
            Some((row, version)) if *version == item.version => Some((row.clone(), *version)),
            _ => {
                let row: RotationRow = serde_json::from_value(item.body.clone()).unwrap();
                parsed.insert(id.to_owned(), (row.clone(), item.version));
                Some((row, item.version))
            }
        }
    }

    pub(super) fn row(&self) -> Option<RotationRow> {
        self.row_of(APP).map(|(row, _)| row)
    }

    pub(super) fn secret_name(&self) -> String {
        let arn = user_arn(APP);
        secret_name(
            &self.settings.secret_prefix,
            keystile_model::db_user::DbUserService::Elasticache,
            &arn,
            APP,
        )
    }

    /// An operation, as a person's request writes it.
    pub(super) fn operate(&mut self, operation: Operation) {
        let now = self.ports.clock.now().unix_timestamp();
        let key = row_key(&user_arn(APP));
        let mut world = self.twin.world();
        if let Some(item) = world.items.get_mut(&key) {
            let mut row: RotationRow = serde_json::from_value(item.body.clone()).unwrap();
            if !is_leaving(&row) || row.unscrubbed {
                asked(&mut row, operation, now);
                item.body = serde_json::to_value(&row).unwrap();
                item.version += 1;
            }
        }
    }

    pub(super) fn meddled(&mut self) {
        self.meddled_at = Some(self.row().map_or((0, false), |row| (row.generation, row.taken)));
        self.ever_meddled = true;
        self.held.clear();
    }

    /// Moves time on, stopping wherever a node learns something.
    pub(super) fn pass(&mut self, ms: i64) {
        let until = self.twin.world().now() + ms;
        loop {
            let next = self.twin.world().next_change().filter(|at| *at < until);
            match next {
                Some(at) => {
                    // Just before, and then with it.
                    self.check();
                    let mut world = self.twin.world();
                    let now = world.now();
                    world.set_now(at.max(now));
                }
                None => break,
            }
            self.check();
        }
        self.twin.world().set_now(until);
        self.check();
    }

    /// What the proxies would use at this moment logs in on every node.
    pub(super) fn check(&mut self) {
        self.checks += 1;
        let Some(row) = self.row() else { return self.held.clear() };
        if let Some((generation, taken)) = self.meddled_at {
            let world = self.twin.world();
            let current = world.password(&self.secret_name(), Stage::Current);
            // A hand that comes between the telling and the promotion leaves no trace to find: the next turn
            // heals it.
            let told = current.is_some_and(|(_, password)| {
                world.refusing(APP, &password).is_empty()
                    && world.users.get(APP).is_some_and(|user| user.told.contains(&password))
            });
            drop(world);
            if row.taken && told && (row.generation > generation || !taken) {
                self.meddled_at = None;
            } else {
                return;
            }
        }
        if !row.taken || row.lock || is_leaving(&row) || self.wanted == Wanted::No {
            return self.held.clear();
        }
        let name = self.secret_name();
        let world = self.twin.world();
        let now = world.now();
        // Marked for deletion by somebody else: nobody can read it until it is restored.
        if world.secrets.get(&name).is_some_and(|secret| secret.deleted_at.is_some()) {
            drop(world);
            return self.held.clear();
        }
        let current = world.password(&name, Stage::Current);
        let (_, password) = current.unwrap_or_else(|| panic!("there is no current password: {row:?}"));
        let refusing = world.refusing(APP, &password);
        assert!(refusing.is_empty(), "nodes {refusing:?} refuse the current password: {row:#?}");
        for (held, until) in self.held.iter().filter(|_| now > self.jumped_until) {
            let refusing = world.refusing(APP, held);
            assert!(
                *until < now || refusing.is_empty(),
                "nodes {refusing:?} refuse a cached password: {row:#?}"
            );
        }
        drop(world);
        self.held.retain(|(held, until)| *until >= now && *held != password);
        self.held.push((password, now + 60_000));
    }

    /// Proxies prove what the rows ask for, or some of it.
    fn prove(&mut self) {
        if !self.proxies {
            return;
        }
        for id in self.ids.clone() {
            let Some((row, _)) = self.row_of(id) else { continue };
            let Some(version) = row.projection().prove else { continue };
            let arn = user_arn(id);
            let name = secret_name(
                &self.settings.secret_prefix,
                keystile_model::db_user::DbUserService::Elasticache,
                &arn,
                id,
            );
            let lazy = self.dice.permille(200);
            let mut world = self.twin.world();
            let Some((pending, password)) = world.password(&name, Stage::Pending) else { continue };
            if pending != version || lazy {
                continue;
            }
            let refusing = world.refusing(id, &password);
            let current = world.password(&name, Stage::Current);
            let refused_current = current.map(|(_, password)| world.refusing(id, &password));
            let nodes = world.users.get(id).map_or(0, |user| user.nodes.len());
            let outcome = |refusing: &[usize], node| {
                if refusing.contains(&node) { LoginOutcome::Refused } else { LoginOutcome::Ok }
            };
            let at = world.now() / 1_000;
            let mut record = ProofRecord { version, nodes: BTreeMap::new() };
            for node in 0..nodes {
                let current = refused_current
                    .as_ref()
                    .map_or(LoginOutcome::Untried, |refusing| outcome(refusing, node));
                let seen =
                    NodeProof { pending: outcome(&refusing, node), current, proxy: "p".to_owned(), at };
                record.merge(format!("node-{node}:6379"), seen);
            }
            let key = proof_key("default", &arn);
            let body = serde_json::to_value(&record).unwrap();
            world.items.insert(key.clone(), RuntimeItem { key, version: 1, expires_at: None, body });
        }
    }

    /// The turns of a tick that begins now.
    pub(super) fn turns(&mut self) -> Vec<Turn> {
        let now = self.ports.clock.now().unix_timestamp();
        let users = {
            let stepwise = std::mem::replace(&mut self.twin.world().manner.stepwise, false);
            let (failing, killing) = {
                let mut world = self.twin.world();
                (std::mem::take(&mut world.manner.failing), std::mem::take(&mut world.manner.killing))
            };
            let place = Place { role: None, region: super::twin::REGION.to_owned() };
            let users =
                now_or_never(self.twin.users(&place, keystile_model::db_user::DbUserService::Elasticache));
            let mut world = self.twin.world();
            (world.manner.stepwise, world.manner.failing, world.manner.killing) =
                (stepwise, failing, killing);
            users.unwrap()
        };
        let service = keystile_model::db_user::DbUserService::Elasticache;
        let rows: Vec<(RotationRow, u64)> = self
            .ids
            .iter()
            .map(|id| {
                let new =
                    || RotationRow::found(user_arn(id), service, (*id).to_owned(), (*id).to_owned(), now);
                self.row_of(id).unwrap_or_else(|| (new(), 0))
            })
            .collect();
        let members: Vec<Member<'_>> = users
            .iter()
            .map(|user| Member {
                arn: &user.arn,
                service,
                groups: &user.groups,
                active: user.status == UserStatus::Active,
                row: rows.iter().map(|(row, _)| row).find(|row| row.arn.as_str() == user.arn),
            })
            .collect();
        let granted = grants(&members, 240, now);
        rows.iter()
            .map(|(row, stored)| {
                let grant = granted.get(row.arn.as_str()).copied().unwrap_or_default();
                let user = users.iter().find(|user| user.arn == row.arn.as_str()).cloned();
                let nodes = user.as_ref().map_or(0, |user| {
                    self.twin.world().users.get(&user.id).map_or(0, |user| user.nodes.len())
                });
                Turn {
                    before: row.clone(),
                    row: row.clone(),
                    stored: *stored,
                    place: Place { role: None, region: super::twin::REGION.to_owned() },
                    user,
                    wanted: if row.id == APP { self.wanted } else { Wanted::Yes },
                    free: grant.free,
                    probe: false,
                    explained: grant.explained,
                    nodes: (0..nodes).map(|node| format!("node-{node}:6379")).collect::<BTreeSet<_>>(),
                    period: period(900, &[], 240),
                }
            })
            .collect()
    }

    fn run(&self, turn: Turn) -> Running {
        let (ports, settings, told) = (self.ports.clone(), self.settings.clone(), Arc::clone(&self.told));
        Box::pin(async move { step(&ports, &settings, &*told, turn).await })
    }

    /// One tick, perhaps two at once; each call is a point at which the other may go on and time passes.
    pub(super) fn tick(&mut self, twice: bool) {
        let mut running: Vec<Running> = Vec::new();
        let turns = self.turns();
        running.extend(turns.into_iter().map(|turn| self.run(turn)));
        let mut second = twice;
        // A platform ends a run after its time: nothing goes on longer than 50 s.
        let deadline = self.twin.world().now() + 50_000;
        while !running.is_empty() {
            if second && self.dice.permille(300) {
                second = false;
                let turns = self.turns();
                running.extend(turns.into_iter().map(|turn| self.run(turn)));
            }
            let chosen = usize::try_from(self.dice.below(running.len() as u64)).unwrap();
            let ended = poll(&mut running[chosen]).is_some();
            let died = std::mem::take(&mut self.twin.world().died);
            if ended || died {
                drop(running.swap_remove(chosen));
            }
            self.check();
            if self.dice.permille(300) {
                let ms = i64::try_from(self.dice.below(4_000)).unwrap();
                self.pass(ms);
            }
            if self.twin.world().now() > deadline {
                running.clear();
            }
        }
        self.prove();
    }

    /// Ticks without failures, a minute apart.
    pub(super) fn calm(&mut self, ticks: usize) {
        {
            let mut world = self.twin.world();
            (world.manner.failing, world.manner.killing, world.manner.key_refuses) = (0, 0, false);
        }
        for _ in 0..ticks {
            self.tick(false);
            self.pass(60_000);
        }
    }

    /// The same, at most so many, until `done`.
    pub(super) fn calm_until(&mut self, ticks: usize, done: impl Fn(&Self) -> bool) {
        for _ in 0..ticks {
            self.calm(1);
            if done(self) {
                return;
            }
        }
    }

    /// Whether the user is in a state in which one may be left: it rotates, or the report says why not.
    pub(super) fn settled(&self) -> Result<(), String> {
        let row = self.row().ok_or("there is no row")?;
        match &row.state {
            RotationState::LeftAlone { why } if why.needs_force() && self.ever_meddled => Ok(()),
            RotationState::LeftAlone { why } => Err(format!("it is left alone for no reason: {why:?}")),
            _ if !row.taken => Err(format!("it was not taken over: {row:#?}")),
            _ => Ok(()),
        }
    }

    pub(super) fn current(&self) -> Option<(VersionId, String)> {
        self.twin.world().password(&self.secret_name(), Stage::Current)
    }

    pub(super) fn set_auth(&self, auth: DbUserAuth) {
        self.twin.world().users.get_mut(APP).unwrap().auth = auth;
    }
}

fn poll(running: &mut Running) -> Option<Done> {
    match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(done) => Some(done),
        std::task::Poll::Pending => None,
    }
}

/// A future that waits for nothing.
pub(super) fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
