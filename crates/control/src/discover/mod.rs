//! Discovery: finds caches and their users, and keeps the inventory equal to what AWS says.
//!
//! One run looks, plans, writes and reports. The plan is pure ([`plan::plan`]); writing is conditional on
//! where the feed stood, and a conflict means planning again with what was seen.

mod brake;
mod judge;
pub mod look;
pub mod plan;
mod report;
pub mod seen;
pub mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keystile_model::audit::AuditEvent;
use keystile_model::cloud::{Cloud, CloudError};
use keystile_model::feed::{Entity, Feed};
use keystile_model::labels::Labels;
use keystile_model::matcher::Matcher;
use keystile_model::removals::Removals;
use keystile_model::report::{DiscoveryReport, MAX_STORED_BYTES};
use keystile_model::runtime::{DISCOVER, REPORTS};
use keystile_model::store::{Clock, CommitError, PolicyStore, RuntimeKey, RuntimeStore, StoreError};
use serde::{Deserialize, Serialize};

use crate::audit::AuditLog;
use crate::commit::{self, Outcome};
use crate::matchers;
use crate::reading::Reader;
use look::{Looking, look};
use plan::{Note, Plan, PlanOptions, plan};
use seen::{Known, Seen};

/// The name that discovery writes under.
pub const AUTHOR: &str = "discover";
/// How often a run plans again because somebody else wrote.
const MAX_TRIES: usize = 10;
/// Time that is kept for writing, in milliseconds, out of what the platform leaves; at most a fifth of it.
const WRITE_RESERVE_MS: u64 = 20_000;

/// What one run is asked to do.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Print the plan, write nothing.
    pub dry_run: bool,
    /// Other matchers than the stored ones; only with `dry_run`.
    pub matchers: Option<Vec<Matcher>>,
    /// Db users only.
    pub only_users: bool,
    /// Removals above the brake that are meant.
    pub allow_removals: Removals,
    /// The person who asks; none for the schedule.
    pub asked_by: Option<String>,
    /// Milliseconds until the platform ends the run.
    pub time_left_ms: Option<u64>,
}

/// What stays the same between runs.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// The deployment's name, for audit events.
    pub deployment: String,
    /// Our own account, where it is configured.
    pub home_account: Option<String>,
    /// Our own region.
    pub home_region: String,
    /// Whether endpoints may be on loopback (the local world).
    pub allow_loopback: bool,
}

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A change was refused.
    #[error("the inventory could not be written: {0}")]
    Commit(#[from] CommitError),
    /// Our own account is not known.
    #[error("our own account could not be told: {0}; set KEYSTILE_ACCOUNT_ID or check the credentials")]
    Account(CloudError),
    /// Too many writers at once.
    #[error("the inventory kept changing under the run ({0}): run again")]
    Contended(String),
    /// Other matchers were given for a run that writes.
    #[error("other matchers can only be tried with dry_run")]
    MatchersNeedDryRun,
}

/// What is remembered from the last run, beside its report.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    report: DiscoveryReport,
    /// When the details of groups were last read, by account and region, in Unix seconds.
    #[serde(default)]
    details_read: BTreeMap<String, i64>,
}

/// The job with its ports.
pub struct Discover {
    /// AWS.
    pub cloud: Arc<dyn Cloud>,
    /// The policy table.
    pub policy: Arc<dyn PolicyStore>,
    /// The runtime table.
    pub runtime: Arc<dyn RuntimeStore>,
    /// Audit events.
    pub audit: Arc<dyn AuditLog>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Settings.
    pub settings: Settings,
}

impl Discover {
    /// Runs once and answers the report. Failures of AWS are in the report; only the state's and our own
    /// identity's are errors.
    ///
    /// # Errors
    /// [`DiscoverError`].
    pub async fn run(&self, ask: Ask) -> Result<DiscoveryReport, DiscoverError> {
        if ask.matchers.is_some() && !ask.dry_run {
            return Err(DiscoverError::MatchersNeedDryRun);
        }
        let started = self.clock.now();
        let begun = tokio::time::Instant::now();
        let deadline = ask.time_left_ms.map(|left| {
            begun + std::time::Duration::from_millis(left.saturating_sub(WRITE_RESERVE_MS.min(left / 5)))
        });
        let reader = Reader::new(Arc::clone(&self.cloud), deadline);
        let home_account = match &self.settings.home_account {
            Some(account) => account.clone(),
            None => reader.home_account().await.map_err(DiscoverError::Account)?,
        };
        let (mut matchers, static_names, last) = self.standing(&ask).await?;
        if let Some(tried) = ask.matchers.clone() {
            matchers = with_external_ids(tried, &matchers);
        }
        let (ready, broken) = matchers::ready(matchers, &home_account);
        let ready = Arc::new(ready);
        let (_, inventory) = commit::read(&*self.policy, Feed::Inventory).await?;
        let looking = Looking {
            matchers: Arc::clone(&ready),
            known: Arc::new(Known::new(inventory, static_names.clone())),
            details_read: Arc::new(last.details_read.clone()),
            home_account,
            home_region: self.settings.home_region.clone(),
            only_users: ask.only_users,
            now: started.unix_timestamp(),
        };
        let mut seen = look(&reader, &looking).await;
        keep_where_matchers_are_broken(&mut seen, &looking.known, &broken);
        // Planning reads the inventory again: a large one is not kept twice.
        drop(looking);
        let options = PlanOptions {
            allow_loopback: self.settings.allow_loopback,
            allow_removals: ask.allow_removals.clone(),
        };
        let made = self.carry_out(&seen, &ready, &static_names, &options, &ask, started).await?;
        let mut report = report::report(&seen, &made.plan, &made.notes, &ready);
        report.warnings.extend(broken);
        report.totals.calls = reader.calls();
        report.totals.commits = made.commits;
        report.dry_run = ask.dry_run;
        if ask.dry_run && ask.only_users {
            report.users.managed = users::managed(&made.plan.steps);
        }
        report.asked_by = ask.asked_by;
        report.allowed_removals = ask.allow_removals;
        report.started = keystile_model::audit::timestamp(started);
        report.finished = keystile_model::audit::timestamp(self.clock.now());
        report.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        if !report.dry_run {
            let kept = report.clone();
            let kept = if ask.only_users { kept.with_databases_of(last.report) } else { kept };
            self.keep_report(kept, &seen, last.details_read, started.unix_timestamp()).await?;
        }
        for alarm in &report.alarms {
            tracing::error!(alarm, "discovery stopped short");
        }
        Ok(report)
    }

    /// Matchers, names of static databases, and what is remembered from the last run.
    async fn standing(&self, ask: &Ask) -> Result<(Vec<Matcher>, BTreeSet<String>, Stored), DiscoverError> {
        let (_, access) = commit::read(&*self.policy, Feed::Access).await?;
        let mut matchers = Vec::new();
        let mut static_names = BTreeSet::new();
        for entity in access {
            match entity {
                Entity::Matcher(matcher) => matchers.push(*matcher),
                Entity::StaticDatabase(database) => {
                    static_names.insert(database.name.to_string());
                }
                _ => {}
            }
        }
        let last = if ask.matchers.is_some() {
            Stored::default()
        } else {
            let item = self.runtime.read(&RuntimeKey::new(REPORTS, DISCOVER)).await?;
            // A report of another version is no reason to stop: it is only read for what it saves.
            item.and_then(|item| serde_json::from_value::<Stored>(item.body).ok()).unwrap_or_default()
        };
        Ok((matchers, static_names, last))
    }

    /// Plans and writes until everything is written.
    async fn carry_out(
        &self,
        seen: &Seen,
        matchers: &[matchers::ReadyMatcher],
        static_names: &BTreeSet<String>,
        options: &PlanOptions,
        ask: &Ask,
        started: time::OffsetDateTime,
    ) -> Result<Made, DiscoverError> {
        let now = started.unix_timestamp();
        let mut made = Made::default();
        let mut why = String::new();
        for attempt in 0..MAX_TRIES {
            if attempt > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt.min(6))).await;
            }
            let (head, inventory) = commit::read(&*self.policy, Feed::Inventory).await?;
            let known = Known::new(inventory, static_names.clone());
            made.plan = plan(seen, matchers, &known, options, now);
            if ask.dry_run {
                made.notes = made.plan.steps.iter().flat_map(|step| step.notes.clone()).collect();
                return Ok(made);
            }
            let steps = &made.plan.steps;
            let (written, commits, outcome) =
                commit::write(&*self.policy, Feed::Inventory, head, AUTHOR, now, steps).await;
            let notes: Vec<Note> = steps[..written].iter().flat_map(|step| step.notes.clone()).collect();
            self.audit(&notes, ask.asked_by.as_deref());
            made.notes.extend(notes);
            made.commits += commits;
            match outcome {
                Outcome::Done => return Ok(made),
                Outcome::Stale(reason) => why = reason,
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        Err(DiscoverError::Contended(why))
    }

    fn audit(&self, notes: &[Note], asked_by: Option<&str>) {
        for note in notes {
            let Some(kind) = note.event() else { continue };
            let Some(database) = note.after.as_deref().or(note.before.as_deref()) else { continue };
            let at = self.clock.now();
            let uid = uuid::Uuid::new_v4();
            let mut event =
                AuditEvent::new(kind, true, at, uid, &self.settings.deployment, "keystile-discover");
            event.server_id = AUTHOR.to_owned();
            event.db_service = note.planned.name.clone();
            event.db_protocol = database.engine.as_str().to_owned();
            event.db_uri = database.endpoint.to_string();
            event.db_type = database.kind.as_str().to_owned();
            event.message.clone_from(&note.planned.reason);
            let empty = Labels::new();
            let before = note.before.as_deref().map_or(&empty, |d| &d.labels);
            let after = note.after.as_deref().map_or(&empty, |d| &d.labels);
            let labels = crate::sync_labels::label_differences(before, after);
            event.details.insert("arn".to_owned(), note.planned.arn.clone().into());
            event.details.insert("labels".to_owned(), serde_json::json!(labels));
            if let Some(person) = asked_by {
                event.details.insert("asked_by".to_owned(), person.into());
            }
            self.audit.write(&event);
        }
    }

    async fn keep_report(
        &self,
        report: DiscoveryReport,
        seen: &Seen,
        mut details_read: BTreeMap<String, i64>,
        now: i64,
    ) -> Result<(), DiscoverError> {
        details_read.extend(seen.details_read.iter().map(|place| (place.clone(), now)));
        let stored = Stored { report: report.fit(MAX_STORED_BYTES), details_read };
        let body = serde_json::to_value(&stored).map_err(|error| StoreError::Unreadable {
            key: format!("{REPORTS}/{DISCOVER}"),
            reason: error.to_string(),
        })?;
        self.runtime.write(&RuntimeKey::new(REPORTS, DISCOVER), None, None, body).await?;
        Ok(())
    }
}

/// What came of planning and writing.
#[derive(Default)]
struct Made {
    plan: Plan,
    notes: Vec<Note>,
    commits: usize,
}

/// A matcher that is tried takes the external id of the stored one of its name and role.
fn with_external_ids(mut tried: Vec<Matcher>, stored: &[Matcher]) -> Vec<Matcher> {
    for matcher in tried.iter_mut().filter(|matcher| matcher.spec.external_id.is_none()) {
        let same = |other: &&Matcher| {
            other.spec.assume_role_arn == matcher.spec.assume_role_arn && other.spec.external_id.is_some()
        };
        let twin = stored.iter().filter(same).min_by_key(|other| other.name != matcher.name);
        matcher.spec.external_id = twin.and_then(|twin| twin.spec.external_id.clone());
    }
    tried
}

/// A matcher that cannot be used looks nowhere, which must not read as "nobody wants it": its databases'
/// accounts are left alone.
fn keep_where_matchers_are_broken(seen: &mut Seen, known: &Known, broken: &[String]) {
    let Some(why) = broken.first() else { return };
    for database in known.databases.values() {
        seen.uncertain.entry(database.account_id.clone()).or_insert_with(|| why.clone());
    }
    for user in known.db_users.values() {
        seen.uncertain.entry(user.arn.account().to_owned()).or_insert_with(|| why.clone());
    }
}

#[cfg(test)]
mod tests;
