//! Rotation of managed users: the tick.
//!
//! A tick reads the rows, lists the users of each account and region that has managed ones, moves each row by at
//! most one step ([`machine`]), and writes to the inventory feed what the proxies must know. It waits for
//! nothing: what is not ready is looked at again by the next tick.

mod about;
mod after;
mod entities;
mod groups;
mod log;
pub mod machine;
mod ops;
pub mod period;
mod scope;
mod settings;
mod step;
mod telling;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::audit::timestamp;
use keystile_model::db_user::DbUser;
use keystile_model::policy::Policy;
use keystile_model::report::{DiscoveryReport, Planned};
use keystile_model::rotation::report::RotationReport;
use keystile_model::rotation::row::{LeftAlone, ROWS, RotationRow, RotationState};
use keystile_model::runtime::{DISCOVER, REPORTS, ROTATE};
use keystile_model::store::{PolicyStore, RuntimeKey, StoreError};

pub use log::AUTHOR;
pub use ops::{Operation, OperationError, status};
pub use settings::Settings;
pub use step::Ports;

use crate::audit::AuditLog;
use crate::matchers::{self, ReadyMatcher};
use log::Events;
use scope::{Scope, ScopeJob};

/// The longest that a tick works, in seconds: the next one comes after 60.
const LONGEST_TICK_S: u64 = 50;
/// Time that is kept for the feed and the report, out of what the platform leaves.
const WRITE_RESERVE: Duration = Duration::from_secs(5);

/// The job with its ports.
pub struct Rotate {
    /// AWS and the runtime table.
    pub ports: Ports,
    /// The policy table: only the inventory feed's rotations are written.
    pub policy: Arc<dyn PolicyStore>,
    /// Audit events.
    pub audit: Arc<dyn AuditLog>,
    /// Settings.
    pub settings: Settings,
}

/// What one tick is asked to do.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Say what is queued and who would be taken over; change nothing.
    pub dry_run: bool,
    /// Of a dry run: as if every turn were due now.
    pub force: bool,
    /// Withdrawals above the brake are meant.
    pub allow_removals: bool,
    /// Milliseconds until the platform ends the run.
    pub time_left_ms: Option<u64>,
}

/// Why there was no tick.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A row as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) row: RotationRow,
    /// 0 if it is not stored yet.
    pub(crate) version: u64,
}

impl Rotate {
    /// One tick over everybody. `policy` is both feeds as they are now. Failures of AWS are in the report; only
    /// the state's are errors.
    ///
    /// # Errors
    /// [`RotateError`].
    pub async fn tick(&self, policy: &Policy, ask: &Ask) -> Result<RotationReport, RotateError> {
        let started = self.ports.clock.now();
        let deadline = deadline(ask.time_left_ms);
        let mut report =
            RotationReport { started: timestamp(started), dry_run: ask.dry_run, ..Default::default() };
        report.complete = true;
        let stored = self.rows(&mut report).await?;
        let listing = self.listing(policy, &stored).await?;
        let matchers = policy.matchers().map(|matcher| (**matcher).clone()).collect();
        let (ready, broken) = matchers::ready(matchers, &self.settings.home_account);
        report.warnings.extend(broken);
        let now = started.unix_timestamp();
        let scopes = self.scopes(policy, stored, &ready, now);
        let job = Arc::new(ScopeJob {
            ports: self.ports.clone(),
            settings: self.settings.clone(),
            events: self.events(),
            listing,
            dry_run: ask.dry_run,
            force: ask.force,
            allow_removals: ask.allow_removals,
            deadline,
        });
        let mut tasks = tokio::task::JoinSet::new();
        for scope in scopes {
            let job = Arc::clone(&job);
            tasks.spawn(async move { job.run(scope).await });
        }
        let mut rows: Vec<RotationRow> = Vec::new();
        let mut forgotten: Vec<Arn> = Vec::new();
        while let Some(done) = tasks.join_next().await {
            match done {
                Ok(done) => {
                    telling::add(&mut report, &done, now);
                    rows.extend(done.rows);
                    forgotten.extend(done.forgotten);
                }
                Err(error) => report.alarms.push(format!("a scope was not finished: {error}")),
            }
        }
        if !ask.dry_run {
            let changes = entities::changes(policy, &rows, &forgotten);
            match entities::write(&*self.policy, now, &changes).await {
                Ok(commits) => report.commits = commits,
                Err(why) => {
                    report.alarms.push(format!("the proxies were not told: {why}; the next tick tries again"))
                }
            }
        }
        report.complete &= report.alarms.is_empty();
        report.finished = timestamp(self.ports.clock.now());
        for alarm in &report.alarms {
            tracing::error!(alarm, "rotation needs somebody");
        }
        if !ask.dry_run {
            self.keep_report(&report).await?;
        }
        Ok(report)
    }

    pub(crate) fn events(&self) -> Events {
        Events {
            audit: Arc::clone(&self.audit),
            clock: Arc::clone(&self.ports.clock),
            deployment: self.settings.deployment.clone(),
        }
    }

    async fn rows(&self, report: &mut RotationReport) -> Result<Vec<Stored>, StoreError> {
        let mut rows = Vec::new();
        for item in self.ports.runtime.list(ROWS).await? {
            match serde_json::from_value(item.body) {
                Ok(row) => rows.push(Stored { row, version: item.version }),
                // Left as it is: a newer version's row is not ours to start over.
                Err(error) => report.alarms.push(format!("row {} cannot be read: {error}", item.key.sort)),
            }
        }
        Ok(rows)
    }

    /// Discovery's last report, where a row has lost its tag.
    async fn listing(&self, policy: &Policy, rows: &[Stored]) -> Result<Option<DiscoveryReport>, StoreError> {
        let managed = managed(policy);
        let lost = |stored: &Stored| !managed.contains_key(stored.row.arn.as_str());
        if !rows
            .iter()
            .any(|stored| lost(stored) && !matches!(stored.row.state, RotationState::Withdrawn { .. }))
        {
            return Ok(None);
        }
        let item = self.ports.runtime.read(&RuntimeKey::new(REPORTS, DISCOVER)).await?;
        Ok(item.and_then(|item| serde_json::from_value(item.body).ok()))
    }

    /// Rows and new users by account and region.
    fn scopes(
        &self,
        policy: &Policy,
        stored: Vec<Stored>,
        matchers: &[ReadyMatcher],
        now: i64,
    ) -> Vec<Scope> {
        let managed = managed(policy);
        let mut scopes: BTreeMap<(String, String), Scope> = BTreeMap::new();
        let known: BTreeSet<String> = stored.iter().map(|stored| stored.row.arn.to_string()).collect();
        let new = managed.values().filter(|user| !known.contains(user.arn.as_str())).map(|user| Stored {
            row: RotationRow::found(
                user.arn.clone(),
                user.service,
                user.id.clone(),
                user.name.to_string(),
                now,
            ),
            version: 0,
        });
        for stored in stored.into_iter().chain(new) {
            let (account, region) = (stored.row.arn.account().to_owned(), stored.row.arn.region().to_owned());
            let user = managed.get(stored.row.arn.as_str());
            let about = about::about(policy, &stored.row, user.copied(), matchers, &self.settings);
            scopes
                .entry((account.clone(), region.clone()))
                .or_insert_with(|| Scope { account, region, users: Vec::new() })
                .users
                .push(scope::Known { stored, about });
        }
        scopes.into_values().collect()
    }

    async fn keep_report(&self, report: &RotationReport) -> Result<(), StoreError> {
        let mut report = report.clone();
        for list in [&mut report.queued, &mut report.take_over, &mut report.left_alone, &mut report.widened] {
            list.truncate(200);
        }
        report.moved.truncate(200);
        report.failed.truncate(200);
        let key = RuntimeKey::new(REPORTS, ROTATE);
        let body = serde_json::to_value(&report).unwrap_or_default();
        match self.ports.runtime.write(&key, None, None, body).await {
            Ok(_) => Ok(()),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }
}

/// Tagged users, by ARN.
fn managed(policy: &Policy) -> BTreeMap<&str, &DbUser> {
    policy.db_users().filter(|user| user.managed).map(|user| (user.arn.as_str(), &**user)).collect()
}

fn deadline(time_left_ms: Option<u64>) -> tokio::time::Instant {
    let left = time_left_ms.map_or(Duration::MAX, Duration::from_millis).saturating_sub(WRITE_RESERVE);
    tokio::time::Instant::now() + left.min(Duration::from_secs(LONGEST_TICK_S))
}

/// A line of a report about a user.
pub(crate) fn planned(row: &RotationRow, reason: impl Into<String>) -> Planned {
    Planned { name: row.name.clone(), reason: reason.into(), arn: row.arn.to_string() }
}

/// Why a row is left alone.
pub(crate) fn left_alone(row: &RotationRow) -> Option<LeftAlone> {
    match &row.state {
        RotationState::LeftAlone { why } => Some(*why),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
