//! Label sync: keeps the labels that come from tags equal to the tags, in bulk. A tag that cannot be read
//! keeps its last label; labels that discovery owns are never touched.

mod plan;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use keystile_model::arn::Arn;
use keystile_model::audit::{AuditEvent, EventKind, timestamp};
use keystile_model::cloud::{Cloud, CloudError, MAX_TAG_ARNS, Place, Tags};
use keystile_model::database::Database;
use keystile_model::feed::{Entity, Feed};
use keystile_model::gained::roles_gained;
use keystile_model::labels;
use keystile_model::policy::Policy;
use keystile_model::report::{LabelChange, MAX_STORED_BYTES, Skipped, SyncReport};
use keystile_model::runtime::{REPORTS, SYNC_LABELS};
use keystile_model::store::{Clock, CommitError, PolicyStore, RuntimeKey, RuntimeStore, StoreError};
use tokio::task::JoinSet;

use crate::audit::AuditLog;
use crate::commit::{self, Outcome};
use crate::reading::Reader;
pub use plan::{LabelStep, label_differences, plan_sync};

/// The name that label sync writes under.
pub const AUTHOR: &str = "sync-labels";
/// How often a run plans again because somebody else wrote.
const MAX_TRIES: usize = 10;
/// Time that is kept for writing, in milliseconds; at most a fifth of what is left.
const WRITE_RESERVE_MS: u64 = 10_000;

/// Why a run did not come to a report.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A change was refused.
    #[error("the inventory could not be written: {0}")]
    Commit(#[from] CommitError),
    /// Too many writers at once.
    #[error("the inventory kept changing under the run ({0}): run again")]
    Contended(String),
}

/// The job with its ports.
pub struct SyncLabels {
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
    /// The deployment's name, for audit events.
    pub deployment: String,
}

/// What was read of tags.
#[derive(Debug, Default)]
struct ReadTags {
    tags: HashMap<String, Tags>,
    unread: Vec<Skipped>,
}

impl SyncLabels {
    /// Runs once and answers the report. `time_left_ms` is how long until the platform ends the run.
    ///
    /// # Errors
    /// [`SyncError`]; what AWS could not say is in the report.
    pub async fn run(&self, time_left_ms: Option<u64>) -> Result<SyncReport, SyncError> {
        let started = self.clock.now();
        let begun = tokio::time::Instant::now();
        let deadline = time_left_ms.map(|left| {
            begun + std::time::Duration::from_millis(left.saturating_sub(WRITE_RESERVE_MS.min(left / 5)))
        });
        let reader = Reader::new(Arc::clone(&self.cloud), deadline);
        let (_, inventory) = commit::read(&*self.policy, Feed::Inventory).await?;
        let databases = databases(inventory);
        let mut read = read_tags(&reader, &databases).await;
        let mut report = SyncReport { databases: databases.len(), ..SyncReport::default() };
        self.write(&read.tags, started, &mut report).await?;
        read.unread.sort();
        report.complete = read.unread.is_empty();
        report.unread = read.unread;
        report.calls = reader.calls();
        report.started = timestamp(started);
        report.finished = timestamp(self.clock.now());
        report.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let stored = report.clone().fit(MAX_STORED_BYTES);
        let body = serde_json::to_value(&stored).map_err(|error| StoreError::Unreadable {
            key: format!("{REPORTS}/{SYNC_LABELS}"),
            reason: error.to_string(),
        })?;
        self.runtime.write(&RuntimeKey::new(REPORTS, SYNC_LABELS), None, None, body).await?;
        Ok(report)
    }

    async fn write(
        &self,
        tags: &HashMap<String, Tags>,
        started: time::OffsetDateTime,
        report: &mut SyncReport,
    ) -> Result<(), SyncError> {
        let mut why = String::new();
        for attempt in 0..MAX_TRIES {
            if attempt > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt.min(6))).await;
            }
            let (head, inventory) = commit::read(&*self.policy, Feed::Inventory).await?;
            let databases = databases(inventory);
            let steps = plan_sync(tags, &databases);
            if steps.is_empty() {
                return Ok(());
            }
            let (_, access) = commit::read(&*self.policy, Feed::Access).await?;
            let policy = Policy::new(access);
            let at = started.unix_timestamp();
            let (written, commits, outcome) =
                commit::write(&*self.policy, Feed::Inventory, head, AUTHOR, at, &steps).await;
            report.commits += commits;
            for step in &steps[..written] {
                let change = change_of(&policy, step);
                self.audit(step, &change);
                report.changed.push(change);
            }
            match outcome {
                Outcome::Done => return Ok(()),
                Outcome::Stale(reason) => why = reason,
                Outcome::Failed(error) => return Err(error.into()),
            }
        }
        Err(SyncError::Contended(why))
    }

    fn audit(&self, step: &LabelStep, change: &LabelChange) {
        let at = self.clock.now();
        let uid = uuid::Uuid::new_v4();
        let kind = EventKind::DatabaseUpdate;
        let mut event = AuditEvent::new(kind, true, at, uid, &self.deployment, "keystile-sync-labels");
        event.server_id = AUTHOR.to_owned();
        event.db_service = step.after.name.to_string();
        event.db_protocol = step.after.engine.as_str().to_owned();
        event.db_uri = step.after.endpoint.to_string();
        event.db_type = step.after.kind.as_str().to_owned();
        event.message = "labels".to_owned();
        event.details.insert("labels".to_owned(), serde_json::json!(change.labels));
        event.details.insert("roles_gained".to_owned(), serde_json::json!(change.roles_gained));
        self.audit.write(&event);
    }
}

fn change_of(policy: &Policy, step: &LabelStep) -> LabelChange {
    LabelChange {
        database: step.after.name.to_string(),
        labels: label_differences(&step.before.labels, &step.after.labels),
        roles_gained: roles_gained(policy, &step.before.labels, &step.after.labels)
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

fn databases(inventory: Vec<Entity>) -> Vec<Database> {
    let discovered = |entity| match entity {
        Entity::Database(database) => Some(*database),
        _ => None,
    };
    inventory.into_iter().filter_map(discovered).collect()
}

/// Resources to ask for, by place; with whether they have labels from tags now.
fn by_place(databases: &[Database]) -> BTreeMap<Place, BTreeMap<Arn, bool>> {
    let mut places: BTreeMap<Place, BTreeMap<Arn, bool>> = BTreeMap::new();
    for database in databases {
        let Some(arn) = &database.arn else { continue };
        let place = Place { role: database.assume_role.clone(), region: database.region.clone() };
        let labelled = database.labels.keys().any(|key| {
            !labels::is_owned(key)
                && database.import_tags.contains(key)
                && !database.fixed_labels.contains_key(key)
        });
        *places.entry(place).or_default().entry(arn.clone()).or_default() |= labelled;
    }
    places
}

async fn read_tags(reader: &Reader, databases: &[Database]) -> ReadTags {
    let mut tasks = JoinSet::new();
    for (place, arns) in by_place(databases) {
        let all: Vec<(Arn, bool)> = arns.into_iter().collect();
        for part in all.chunks(MAX_TAG_ARNS) {
            let (reader, place, part) = (reader.clone(), place.clone(), part.to_vec());
            tasks.spawn(async move { read_part(&reader, &place, part).await });
        }
    }
    let mut read = ReadTags::default();
    while let Some(done) = tasks.join_next().await {
        let Ok(part) = done else { continue };
        read.tags.extend(part.tags);
        read.unread.extend(part.unread);
    }
    let faulty: BTreeSet<String> = read
        .tags
        .iter()
        .filter(|(_, t)| labels::tag_fault(t).is_some())
        .map(|(arn, _)| arn.clone())
        .collect();
    for arn in faulty {
        if let Some(tags) = read.tags.remove(&arn)
            && let Ok(parsed) = Arn::parse(arn)
        {
            read.unread.push(unread(&parsed, labels::tag_fault(&tags).unwrap_or_default()));
        }
    }
    read
}

/// At most 100 resources of a place: one bulk call. One that the answer leaves out never had a tag, or is too
/// new for it; where labels say that it had some, its own service is asked.
async fn read_part(reader: &Reader, place: &Place, part: Vec<(Arn, bool)>) -> ReadTags {
    let arns: Vec<Arn> = part.iter().map(|(arn, _)| arn.clone()).collect();
    let mut read = ReadTags::default();
    let ask: Vec<Arn> = match reader.tags_by_arn(place, &arns).await {
        Ok(answer) => {
            let asked: BTreeSet<&str> = arns.iter().map(Arn::as_str).collect();
            read.tags.extend(answer.into_iter().filter(|(arn, _)| asked.contains(arn.as_str())));
            let mut ask = Vec::new();
            for (arn, labelled) in part {
                if read.tags.contains_key(arn.as_str()) {
                    continue;
                }
                if labelled {
                    ask.push(arn);
                } else {
                    read.tags.insert(arn.to_string(), Tags::new());
                }
            }
            ask
        }
        Err(CloudError::Forbidden(_)) => arns,
        Err(error) => {
            read.unread.extend(arns.iter().map(|arn| unread(arn, error.to_string())));
            return read;
        }
    };
    let mut tasks = JoinSet::new();
    for arn in ask {
        let (reader, place) = (reader.clone(), place.clone());
        tasks.spawn(async move {
            let answer = reader.tags_of(&place, &arn).await;
            (arn, answer)
        });
    }
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok((arn, Ok(tags))) => {
                read.tags.insert(arn.to_string(), tags);
            }
            Ok((arn, Err(error))) => read.unread.push(unread(&arn, error.to_string())),
            Err(_) => {}
        }
    }
    read
}

fn unread(arn: &Arn, reason: String) -> Skipped {
    let (kind, name) = arn.resource_parts();
    Skipped {
        name: name.to_owned(),
        reason: format!("tags unread: {reason}"),
        arn: arn.to_string(),
        account: arn.account().to_owned(),
        region: arn.region().to_owned(),
        kind: kind.to_owned(),
    }
}

#[cfg(test)]
mod tests;
