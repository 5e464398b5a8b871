//! The plan: what to add, change and remove, from what was seen and what was known. Pure; the dry run prints
//! the very same plan.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use keystile_model::audit::EventKind;
use keystile_model::database::{Database, DatabaseKind, EndpointType};
use keystile_model::feed::{Change, Entity, EntityKey};
use keystile_model::naming::{self, Claimant, Given, Naming};
use keystile_model::policy::{NAME_KEPT_S, NameClaim};
use keystile_model::removals::Removals;
use keystile_model::report::{NameConflict, Planned, ScopeId, Skipped, database_scope};

use super::brake;
use super::judge::{Verdict, Wanted, judge, plain};
use super::seen::{Known, Seen};
use super::users;
use crate::commit::Unit;
use crate::matchers::ReadyMatcher;

/// How a plan is made.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// Whether endpoints may be on loopback (the local world).
    pub allow_loopback: bool,
    /// Removals above the brake that an admin said are meant.
    pub allow_removals: Removals,
}

/// What happens to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// It is new.
    Add,
    /// It differs.
    Change,
    /// It goes.
    Remove,
}

/// A line of the report, and of the audit.
#[derive(Debug, Clone)]
pub struct Note {
    /// What happens.
    pub verb: Verb,
    /// Whether it is about a db user, not a database.
    pub db_user: bool,
    /// To what, and why.
    pub planned: Planned,
    /// Where it counts.
    pub scope: ScopeId,
    /// The database before, for the audit.
    pub before: Option<Box<Database>>,
    /// The database after.
    pub after: Option<Box<Database>>,
}

impl Note {
    /// The audit event that tells it, for a database.
    #[must_use]
    pub fn event(&self) -> Option<EventKind> {
        match (self.db_user, self.verb) {
            (true, _) => None,
            (false, Verb::Add) => Some(EventKind::DatabaseCreate),
            (false, Verb::Change) => Some(EventKind::DatabaseUpdate),
            (false, Verb::Remove) => Some(EventKind::DatabaseDelete),
        }
    }
}

/// What is written together: everything about one ARN.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// Its changes.
    pub changes: Vec<Change>,
    /// What they mean.
    pub notes: Vec<Note>,
}

impl Unit for Step {
    fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// The plan.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What to write, in order of ARN. Empty when nothing changed.
    pub steps: Vec<Step>,
    /// Resources that give no database.
    pub skipped: Vec<Skipped>,
    /// Names that were asked for and taken.
    pub conflicts: Vec<NameConflict>,
    /// Things to look at.
    pub warnings: Vec<String>,
    /// Things to look at now.
    pub alarms: Vec<String>,
    /// Databases after it.
    pub databases: usize,
    /// Db users after it.
    pub db_users: usize,
}

/// Steps under way, by ARN.
pub(crate) type Steps = BTreeMap<String, Step>;

/// Makes the plan. `now` is Unix seconds.
#[must_use]
pub fn plan(seen: &Seen, matchers: &[ReadyMatcher], known: &Known, options: &PlanOptions, now: i64) -> Plan {
    let mut plan =
        Plan { databases: known.databases.len(), db_users: known.db_users.len(), ..Plan::default() };
    let mut steps = Steps::new();
    if seen.looked_for_caches {
        Databases::new(seen, matchers, known, options, now).plan(&mut plan, &mut steps);
    }
    users::plan(seen, matchers, known, options, &mut plan, &mut steps);
    plan.warnings.extend(brake::misnamed(&options.allow_removals, seen, known));
    plan.steps = steps.into_values().filter(|step| !step.changes.is_empty()).collect();
    for note in plan.steps.iter().flat_map(|step| &step.notes) {
        let count = if note.db_user { &mut plan.db_users } else { &mut plan.databases };
        match note.verb {
            Verb::Add => *count += 1,
            Verb::Remove => *count -= 1,
            Verb::Change => {}
        }
    }
    plan.skipped.sort();
    plan
}

/// A removal that waits for the brake's word.
struct Removal<'a> {
    database: &'a Database,
    reason: String,
}

struct Databases<'a> {
    seen: &'a Seen,
    matchers: &'a [ReadyMatcher],
    known: &'a Known,
    by_arn: HashMap<&'a str, BTreeMap<EndpointType, &'a Database>>,
    options: &'a PlanOptions,
    now: i64,
    wanted: Vec<(ScopeId, Wanted<'a>)>,
    removals: BTreeMap<ScopeId, Vec<Removal<'a>>>,
    /// ARNs that AWS listed, whatever came of them.
    listed: HashSet<&'a str>,
}

impl<'a> Databases<'a> {
    fn new(
        seen: &'a Seen,
        matchers: &'a [ReadyMatcher],
        known: &'a Known,
        options: &'a PlanOptions,
        now: i64,
    ) -> Self {
        Self {
            seen,
            matchers,
            known,
            by_arn: known.by_arn(),
            options,
            now,
            wanted: Vec::new(),
            removals: BTreeMap::new(),
            listed: HashSet::new(),
        }
    }

    fn plan(mut self, plan: &mut Plan, steps: &mut Steps) {
        self.judge_all(plan);
        self.find_gone();
        let naming = self.name_all(plan);
        self.write_wanted(&naming, steps);
        self.brake(plan, steps);
        self.keep_claims(&naming, plan, steps);
        plan.conflicts = naming.conflicts;
    }

    fn judge_all(&mut self, plan: &mut Plan) {
        for scope in &self.seen.scopes {
            let skipped = |name: &str, arn: &str, reason: String| Skipped {
                name: plain(name, 80),
                reason,
                arn: plain(arn, 300),
                account: scope.id.account.clone(),
                region: scope.id.region.clone(),
                kind: scope.id.kind.clone(),
            };
            for (id, arn, engine) in &scope.plain {
                let reason = if engine == "memcached" {
                    "engine memcached".to_owned()
                } else {
                    "a plain cluster, in no replication group".to_owned()
                };
                plan.skipped.push(skipped(id, arn, reason));
            }
            for cache in &scope.caches {
                let arn = cache.record.arn.as_str();
                if !arn.is_empty() && !self.listed.insert(arn) {
                    plan.skipped.push(skipped(&cache.record.id, arn, "listed twice".to_owned()));
                    continue;
                }
                let known = self.by_arn.get(arn);
                match judge(scope, cache, self.matchers, known, self.options.allow_loopback) {
                    Verdict::Wanted(wanted) => self.wanted.push((scope.id.clone(), wanted)),
                    Verdict::Skipped { reason, gone } => {
                        if gone && scope.failure.is_none() {
                            for database in known.into_iter().flat_map(BTreeMap::values) {
                                let removal = Removal { database, reason: reason.clone() };
                                self.removals.entry(scope.id.clone()).or_default().push(removal);
                            }
                        }
                        plan.skipped.push(skipped(&cache.record.id, arn, reason));
                    }
                }
            }
        }
    }

    /// Known databases that no listing had: gone where their scope was read to its end, or where no matcher
    /// looks any more.
    fn find_gone(&mut self) {
        for database in self.known.databases.values() {
            let Some(arn) = &database.arn else { continue };
            if self.listed.contains(arn.as_str()) {
                continue;
            }
            let scope = scope_of(database);
            if let Some(reason) = self.vanished(&scope, database.kind) {
                self.removals.entry(scope).or_default().push(Removal { database, reason });
            }
        }
    }

    /// Why whatever the scope does not list is gone; none while that cannot be said.
    fn vanished(&self, scope: &ScopeId, kind: DatabaseKind) -> Option<String> {
        match self.seen.scopes.iter().find(|seen| seen.id == *scope) {
            Some(seen) => seen.failure.is_none().then(|| "gone".to_owned()),
            None if self.seen.uncertain.contains_key(&scope.account) => None,
            None => {
                let looked = self.matchers.iter().any(|m| m.covers(&scope.account, &scope.region, kind));
                (!looked).then(|| "no matcher looks there any more".to_owned())
            }
        }
    }

    fn name_all(&self, plan: &mut Plan) -> Naming {
        let mut claimants = Vec::with_capacity(self.wanted.len());
        for (_, wanted) in &self.wanted {
            let asked = naming::asked_name(wanted.tags).unwrap_or_else(|why| {
                plan.warnings.push(format!("{}: {why}; its id is used instead", wanted.arn));
                None
            });
            claimants.push(Claimant {
                arn: wanted.arn.to_string(),
                id: wanted.id.clone(),
                kind: wanted.record.kind,
                region: wanted.arn.region().to_owned(),
                account: wanted.arn.account().to_owned(),
                asked,
                reader: wanted.reader.is_some(),
                matcher: wanted.matcher.index,
            });
        }
        let mut held: BTreeMap<String, String> = self
            .known
            .claims
            .values()
            .filter(|claim| !self.run_out(claim))
            .map(|claim| (claim.name.to_string(), claim.arn.to_string()))
            .collect();
        // A database that stands is a claim too, should its claim be missing.
        for database in self.known.databases.values() {
            if let Some(arn) = &database.arn {
                held.entry(database.name.to_string()).or_insert_with(|| arn.to_string());
            }
        }
        naming::assign(&claimants, &held, &self.known.static_names, &self.seen.home_account)
    }

    fn run_out(&self, claim: &NameClaim) -> bool {
        claim.vanished_at.is_some_and(|at| self.now - at >= NAME_KEPT_S)
            && !self.listed.contains(claim.arn.as_str())
    }

    fn write_wanted(&mut self, naming: &Naming, steps: &mut Steps) {
        let wanted = std::mem::take(&mut self.wanted);
        for (scope, wanted) in &wanted {
            let Some(given) = naming.given.get(wanted.arn.as_str()) else { continue };
            let known = self.by_arn.get(wanted.arn.as_str()).cloned().unwrap_or_default();
            let step = steps.entry(wanted.arn.to_string()).or_default();
            let mut standing = BTreeSet::new();
            for database in databases_of(wanted, given, &known) {
                standing.insert(database.endpoint_type);
                write_database(step, scope, known.get(&database.endpoint_type).copied(), database);
            }
            let complete = self.seen.scopes.iter().any(|s| s.id == *scope && s.failure.is_none());
            for (endpoint, old) in known {
                if complete && !standing.contains(&endpoint) {
                    let reason = format!("its {} endpoint is gone", endpoint.as_str());
                    let removal = Removal { database: old, reason };
                    self.removals.entry(scope.clone()).or_default().push(removal);
                }
            }
        }
    }

    /// Removes what is gone, unless a scope would lose too much at once.
    fn brake(&mut self, plan: &mut Plan, steps: &mut Steps) {
        for (scope, removals) in std::mem::take(&mut self.removals) {
            let known = self.known.databases.values().filter(|d| scope_of(d) == scope).count();
            let why = removals.first().map(|removal| removal.reason.as_str()).unwrap_or_default();
            let things = format!("databases ({why})");
            let allowed = &self.options.allow_removals;
            if let Some(alarm) = brake::held(&scope, removals.len(), known, &things, allowed) {
                plan.alarms.push(alarm);
                continue;
            }
            for Removal { database, reason } in removals {
                let arn = database.arn.as_ref().map(ToString::to_string).unwrap_or_default();
                let step = steps.entry(arn.clone()).or_default();
                push(step, Change::Delete(Entity::Database(Box::new(database.clone())).key()));
                step.notes.push(Note {
                    verb: Verb::Remove,
                    db_user: false,
                    planned: Planned { name: database.name.to_string(), reason, arn },
                    scope: scope.clone(),
                    before: Some(Box::new(database.clone())),
                    after: None,
                });
            }
        }
    }

    /// Claims: made for new names, marked when their resource is gone, dropped 30 days later.
    fn keep_claims(&self, naming: &Naming, plan: &Plan, steps: &mut Steps) {
        let claimed: BTreeMap<&str, &str> =
            naming.claimed.iter().map(|(name, arn)| (name.as_str(), arn.as_str())).collect();
        for (name, arn) in &naming.claimed {
            let Ok(arn) = keystile_model::arn::Arn::parse(arn.clone()) else { continue };
            let claim = NameClaim { name: name.clone(), arn, vanished_at: None };
            if self.known.claims.get(name.as_str()) != Some(&claim) {
                let step = steps.entry(claim.arn.to_string()).or_default();
                push(step, Change::Put(Entity::NameClaim(claim)));
            }
        }
        for (name, claim) in &self.known.claims {
            if claimed.contains_key(name.as_str()) {
                continue;
            }
            let step = || claim.arn.to_string();
            if self.run_out(claim) {
                let key = Entity::NameClaim(claim.clone()).key();
                push(steps.entry(step()).or_default(), Change::Delete(key));
            } else if claim.vanished_at.is_some() && self.listed.contains(claim.arn.as_str()) {
                let claim = NameClaim { vanished_at: None, ..claim.clone() };
                push(steps.entry(step()).or_default(), Change::Put(Entity::NameClaim(claim)));
            } else if claim.vanished_at.is_none() && self.is_gone(claim, plan) {
                let claim = NameClaim { vanished_at: Some(self.now), ..claim.clone() };
                push(steps.entry(step()).or_default(), Change::Put(Entity::NameClaim(claim)));
            }
        }
    }

    fn is_gone(&self, claim: &NameClaim, plan: &Plan) -> bool {
        let kind = match claim.arn.resource_parts().0 {
            "replicationgroup" => DatabaseKind::Elasticache,
            "serverlesscache" => DatabaseKind::ElasticacheServerless,
            _ => DatabaseKind::Memorydb,
        };
        let scope = database_scope(claim.arn.account(), claim.arn.region(), kind);
        !self.listed.contains(claim.arn.as_str())
            && self.vanished(&scope, kind).is_some()
            && !brake::is_held(&scope, &plan.alarms)
    }
}

/// The scope that a known database belongs to.
pub(crate) fn scope_of(database: &Database) -> ScopeId {
    database_scope(&database.account_id, &database.region, database.kind)
}

fn databases_of(
    wanted: &Wanted<'_>,
    given: &Given,
    known: &BTreeMap<EndpointType, &Database>,
) -> Vec<Database> {
    let own = known.iter().find(|(endpoint, _)| **endpoint != EndpointType::Reader).map(|(_, d)| *d);
    let mut databases = vec![wanted.database(given.name.clone(), false, own)];
    if let Some(name) = given.reader.clone().filter(|_| wanted.reader.is_some()) {
        // A new reader beside a known database takes the labels that its sibling has.
        let before = known.get(&EndpointType::Reader).copied().or(own);
        databases.push(wanted.database(name, true, before));
    }
    databases
}

fn write_database(step: &mut Step, scope: &ScopeId, before: Option<&Database>, after: Database) {
    if before == Some(&after) {
        return;
    }
    let (verb, reason) = match before {
        None => (Verb::Add, "new".to_owned()),
        Some(before) => (Verb::Change, difference(before, &after)),
    };
    if let Some(old) = before.filter(|old| old.name != after.name) {
        push(step, Change::Delete(Entity::Database(Box::new(old.clone())).key()));
    }
    step.notes.push(Note {
        verb,
        db_user: false,
        planned: Planned {
            name: after.name.to_string(),
            reason,
            arn: after.arn.as_ref().map(ToString::to_string).unwrap_or_default(),
        },
        scope: scope.clone(),
        before: before.map(|database| Box::new(database.clone())),
        after: Some(Box::new(after.clone())),
    });
    push(step, Change::Put(Entity::Database(Box::new(after))));
}

/// What differs, in words.
fn difference(before: &Database, after: &Database) -> String {
    if before.name != after.name {
        return format!("renamed from {}", before.name);
    }
    let parts = [
        ("endpoint", before.endpoint != after.endpoint),
        ("engine", before.engine != after.engine),
        ("engine version", before.engine_version != after.engine_version),
        ("labels", before.labels != after.labels),
        ("groups", before.groups != after.groups),
        ("nodes", before.nodes != after.nodes),
        ("auth", before.auth != after.auth),
        ("matcher", before.matcher != after.matcher || before.import_tags != after.import_tags),
        ("role", before.assume_role != after.assume_role),
        ("description", before.description != after.description),
    ];
    let named: Vec<&str> = parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    if named.is_empty() { "other".to_owned() } else { named.join(", ") }
}

/// Adds a change to a step; of two about one entity a new image wins over a tombstone.
pub(crate) fn push(step: &mut Step, change: Change) {
    let key: EntityKey = change.key();
    match step.changes.iter_mut().find(|earlier| earlier.key() == key) {
        None => step.changes.push(change),
        Some(earlier) => {
            if matches!(change, Change::Put(_)) {
                *earlier = change;
            }
        }
    }
}
