//! One step of one user: looks up what the machine needs, asks it, does what it says, and remembers it.
//!
//! The row is written before every call that changes a user or a stage, on condition of the version that was
//! read: of two runs at once only one goes on.

mod act;
mod look;

use std::collections::BTreeSet;
use std::sync::Arc;

use keystile_model::cloud::{Place, Tags};
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{CacheUser, CacheUsers, CallError, Entropy, Secrets, Stage};
use keystile_model::rotation::proof::{ProofRecord, Proven};
use keystile_model::rotation::row::{RotationRow, RotationState, row_key};
use keystile_model::store::{Clock, CommitError, RuntimeStore, StoreError};

use super::after;
use super::log::Log;
use super::machine::{Action, SecretSeen, Seen, TeleportSeen, Wanted, needs, next};
use super::period::Period;
use super::settings::Settings;

/// What steps need of the world.
#[derive(Clone)]
pub struct Ports {
    /// The users of ElastiCache and MemoryDB.
    pub users: Arc<dyn CacheUsers>,
    /// Secrets Manager.
    pub secrets: Arc<dyn Secrets>,
    /// The runtime table.
    pub runtime: Arc<dyn RuntimeStore>,
    /// Randomness for passwords.
    pub entropy: Arc<dyn Entropy>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// One user's turn in a tick.
#[derive(Debug, Clone)]
pub(crate) struct Turn {
    /// The row as it is stored.
    pub(crate) before: RotationRow,
    /// The row as it stands: what discovery says of it is noted already.
    pub(crate) row: RotationRow,
    /// The stored row's version; 0 if it is not stored yet.
    pub(crate) stored: u64,
    pub(crate) place: Place,
    pub(crate) user: Option<CacheUser>,
    pub(crate) wanted: Wanted,
    /// Its groups allow a change now.
    pub(crate) free: bool,
    /// The list says that a group is busy, but what keeps it so should be over by now.
    pub(crate) probe: bool,
    pub(crate) explained: Option<i64>,
    /// Nodes that must take a new password, as discovery knows them.
    pub(crate) nodes: BTreeSet<String>,
    pub(crate) period: Period,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing to do, and why.
    Waited(&'static str),
    /// It went on.
    Moved,
    /// A call failed; the row says how.
    Failed(CallError),
    /// Another run was faster, or the store did not answer: nothing more was done.
    Stale(String),
}

/// The row after the step, as far as it is known.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) row: RotationRow,
    /// Nothing is left: the row was removed.
    pub(crate) forgotten: bool,
    pub(crate) outcome: Outcome,
}

/// Why a step ends early.
enum Stop {
    Stale(String),
    Call(CallError),
}

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Stale(error.to_string())
    }
}

/// Runs one step.
pub(crate) async fn step(ports: &Ports, settings: &Settings, log: &dyn Log, turn: Turn) -> Done {
    let now = ports.clock.now().unix_timestamp();
    let mut step = Step { ports, settings, log, before: turn.before.clone(), turn, now, forgotten: false };
    let outcome = match step.run().await {
        Ok(outcome) => outcome,
        Err(Stop::Stale(why)) => Outcome::Stale(why),
        Err(Stop::Call(error)) => step.failed(error).await,
    };
    Done { row: step.turn.row, forgotten: step.forgotten, outcome }
}

/// What a user's step would be, and whose Teleport's secret it would go by: looks it up, and changes nothing.
///
/// # Errors
/// Why something could not be looked up.
pub(crate) async fn foresee(
    ports: &Ports,
    settings: &Settings,
    log: &dyn Log,
    turn: Turn,
) -> Result<(Action, TeleportSeen), String> {
    let now = ports.clock.now().unix_timestamp();
    let mut step = Step { ports, settings, log, before: turn.before.clone(), turn, now, forgotten: false };
    match step.look().await {
        Ok((action, facts)) => Ok((action, facts.teleport)),
        Err(Stop::Stale(why)) => Err(why),
        Err(Stop::Call(error)) => Err(error.to_string()),
    }
}

struct Step<'a> {
    ports: &'a Ports,
    settings: &'a Settings,
    log: &'a dyn Log,
    /// The row as it is stored.
    before: RotationRow,
    turn: Turn,
    now: i64,
    forgotten: bool,
}

/// What was looked up, beside what the machine decides by.
struct Facts {
    teleport: TeleportSeen,
    /// Tags that should be on the secret and are not.
    missing: Tags,
    /// Tags of proxy groups that no longer serve the user.
    surplus: Vec<String>,
    /// The version that holds AWSPENDING.
    pending: Option<VersionId>,
    proven: Proven,
    records: Vec<ProofRecord>,
}

impl Step<'_> {
    async fn run(&mut self) -> Result<Outcome, Stop> {
        let (action, facts) = self.look().await?;
        self.carry_out(action, facts).await
    }

    /// Looks up what the machine needs, and asks it.
    async fn look(&mut self) -> Result<(Action, Facts), Stop> {
        self.take_in_period();
        after::anchored(&mut self.turn.row, self.now);
        let needs = needs(&self.turn.row, self.turn.wanted, self.now);
        let secret = self.secret(needs).await?;
        let teleport = self.teleport(needs).await?;
        let (proven, records) = self.proofs(needs).await?;
        if let SecretSeen::There(_) = secret {
            self.turn.row.secret_seen_at = self.now;
        }
        let (missing, surplus, pending) = match &secret {
            SecretSeen::There(record) => (
                self.missing_tags(record),
                self.surplus_tags(record),
                record.version(Stage::Pending).cloned(),
            ),
            _ => (Tags::new(), Vec::new(), None),
        };
        let seen = Seen {
            user: self.turn.user.as_ref(),
            wanted: self.turn.wanted,
            secret,
            teleport: teleport.clone(),
            proven,
            free: self.turn.free,
            held: self.held(),
            probe: self.turn.probe,
            explained: self.turn.explained,
            deployment: &self.settings.deployment,
            untagged: !missing.is_empty() || !surplus.is_empty(),
        };
        let action = next(&self.turn.row, &seen, self.now);
        if !matches!(action, Action::Odd(_)) {
            self.turn.row.odd = 0;
        }
        let facts = Facts { teleport, missing, surplus, pending, proven, records };
        Ok((action, facts))
    }

    async fn carry_out(&mut self, action: Action, facts: Facts) -> Result<Outcome, Stop> {
        let Facts { teleport, missing, surplus, pending, proven, records } = facts;
        let now = self.now;
        match action {
            Action::Wait(why) | Action::Note(why) => {
                self.save().await?;
                return Ok(Outcome::Waited(why));
            }
            Action::Odd(why) => {
                self.turn.row.odd += 1;
                self.save().await?;
                return Ok(Outcome::Waited(why));
            }
            Action::Move(state) => after::moved(&mut self.turn.row, state, now),
            Action::StartOver(why) => {
                self.log.started_over(&self.turn.row, why);
                after::started_over(&mut self.turn.row, now);
            }
            Action::LeaveAlone(why) => {
                after::moved(&mut self.turn.row, RotationState::LeftAlone { why }, now);
                after::succeeded(&mut self.turn.row);
                self.save().await?;
                self.log.left_alone(&self.turn.row, why);
                return Ok(Outcome::Moved);
            }
            Action::CreateSecret => self.create_secret(teleport).await?,
            Action::KeepSecret(record) => self.keep_secret(record, teleport),
            Action::RestoreSecret => {
                self.ports.secrets.restore(&self.secret_id()).await?;
                self.turn.row.secret_seen_at = 0;
            }
            Action::TagSecret => self.set_tags(&missing, &surplus).await?,
            Action::Put(version) => self.put(version, pending).await?,
            Action::Tell(version) => return self.tell(version).await,
            Action::Promote { version, known } => {
                return self.promote(version, known, proven, &records).await;
            }
            Action::Scrub => self.scrub().await?,
            Action::GiveUpScrub => after::unscrubbed(&mut self.turn.row, now),
            Action::DeleteSecret => self.delete_secret().await?,
            Action::Forget => {
                self.ports.runtime.remove(&row_key(&self.turn.row.arn)).await?;
                self.forgotten = true;
                return Ok(Outcome::Moved);
            }
        }
        after::succeeded(&mut self.turn.row);
        self.save().await?;
        Ok(Outcome::Moved)
    }

    fn held(&self) -> bool {
        let since = self.turn.row.rotated_at.map(|at| self.now - at);
        since.is_some_and(|since| (0..self.settings.held_s).contains(&since))
    }

    fn take_in_period(&mut self) {
        let row = &mut self.turn.row;
        row.period_s = self.turn.period.seconds;
        row.widened.clone_from(&self.turn.period.widened);
    }

    async fn failed(&mut self, error: CallError) -> Outcome {
        if matches!(error, CallError::Busy(_)) {
            return Outcome::Waited("the user or its group is being modified");
        }
        after::failed(&mut self.turn.row, &error, self.now);
        if self.turn.row.failure.as_ref().is_some_and(|failure| failure.count == 3) {
            self.log.fails(&self.turn.row);
        }
        if let Err(Stop::Stale(why)) = self.save().await {
            return Outcome::Stale(why);
        }
        Outcome::Failed(error)
    }

    /// Writes the row if it changed since it was stored.
    async fn save(&mut self) -> Result<(), Stop> {
        if self.turn.row == self.before && self.turn.stored > 0 { Ok(()) } else { self.fence().await }
    }

    /// Writes the row, changed or not: whoever read the same version stops here.
    async fn fence(&mut self) -> Result<(), Stop> {
        let stale = |why: String| Stop::Stale(why);
        let body = serde_json::to_value(&self.turn.row).map_err(|error| stale(error.to_string()))?;
        let key = row_key(&self.turn.row.arn);
        match self.ports.runtime.write(&key, Some(self.turn.stored), None, body).await {
            Ok(version) => {
                self.turn.stored = version;
                self.before = self.turn.row.clone();
                Ok(())
            }
            Err(CommitError::Conflict) => Err(stale("another run was faster".to_owned())),
            Err(error) => Err(stale(error.to_string())),
        }
    }
}
