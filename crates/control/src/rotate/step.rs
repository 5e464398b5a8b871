//! One step of one user: looks up what the machine needs, asks it, does what it says, and remembers it.
//!
//! The row is written before every call that changes a user or a stage, on condition of the version that was
//! read: of two runs at once only one goes on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use keystile_model::cloud::{Place, Tags};
use keystile_model::rotation::ports::{
    CacheUser, CacheUsers, CallError, Entropy, NewSecret, SecretRecord, Secrets, Stage, Which,
};
use keystile_model::rotation::proof::{LoginOutcome, Proof, ProofRecord, Proven, judge, proof_key};
use keystile_model::rotation::row::{RotationRow, RotationState, row_key};
use keystile_model::rotation::secret::{
    DEPLOYMENT_TAG, OWNER_TAG, SecretValue, group_tag, new_password, placeholder_value, placeholder_version,
    ready_value, secret_name, teleport_secret_name,
};
use keystile_model::rotation::{SecretRef, VersionId};
use keystile_model::store::{Clock, CommitError, RuntimeStore, StoreError};
use secrecy::{ExposeSecret, SecretString};

use super::after;
use super::log::Log;
use super::machine::{Action, Needs, SecretSeen, Seen, TeleportSeen, Wanted, needs, next};
use super::period::Period;
use super::settings::Settings;

/// How often a user that is still being changed, though its group's change should be over, is asked again.
const PROBES: u32 = 3;

/// Proxies try again what failed at least this often, in seconds.
const REPEATED_S: i64 = 300;

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
    let mut step = Step { ports, settings, log, before: turn.row.clone(), turn, now, forgotten: false };
    let outcome = match step.run().await {
        Ok(outcome) => outcome,
        Err(Stop::Stale(why)) => Outcome::Stale(why),
        Err(Stop::Call(error)) => step.failed(error).await,
    };
    Done { row: step.turn.row, forgotten: step.forgotten, outcome }
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
    /// The version that holds AWSPENDING.
    pending: Option<VersionId>,
    proven: Proven,
    records: Vec<ProofRecord>,
}

impl Step<'_> {
    async fn run(&mut self) -> Result<Outcome, Stop> {
        self.take_in_period();
        after::anchored(&mut self.turn.row, self.now);
        let needs = needs(&self.turn.row, self.turn.wanted, self.now);
        let secret = self.secret(needs).await?;
        let teleport = self.teleport(needs).await?;
        let (proven, records) = self.proofs(needs).await?;
        if let SecretSeen::There(_) = secret {
            self.turn.row.secret_seen_at = self.now;
        }
        let (missing, pending) = match &secret {
            SecretSeen::There(record) => (self.missing_tags(record), record.version(Stage::Pending).cloned()),
            _ => (Tags::new(), None),
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
            untagged: !missing.is_empty(),
        };
        let action = next(&self.turn.row, &seen, self.now);
        if !matches!(action, Action::Odd(_)) {
            self.turn.row.odd = 0;
        }
        let facts = Facts { teleport, missing, pending, proven, records };
        self.carry_out(action, facts).await
    }

    async fn carry_out(&mut self, action: Action, facts: Facts) -> Result<Outcome, Stop> {
        let Facts { teleport, missing, pending, proven, records } = facts;
        let now = self.now;
        match action {
            Action::Wait(why) => {
                self.save().await?;
                return Ok(Outcome::Waited(why));
            }
            Action::Note => {
                self.save().await?;
                return Ok(Outcome::Waited("not its turn"));
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
            Action::TagSecret => self.ports.secrets.tag(&self.secret_id(), &missing).await?,
            Action::Put(version) => self.put(version, pending).await?,
            Action::Tell(version) => return self.tell(version).await,
            Action::Promote { version, known } => {
                return self.promote(version, known, proven, &records).await;
            }
            Action::Scrub => self.scrub().await?,
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

    fn secret_id(&self) -> String {
        match &self.turn.row.secret {
            Some(secret) => secret.arn.to_string(),
            None => self.secret_name(),
        }
    }

    fn secret_name(&self) -> String {
        let row = &self.turn.row;
        secret_name(&self.settings.secret_prefix, row.service, &row.arn, &row.id)
    }

    fn wanted_tags(&self) -> Tags {
        let mut tags = Tags::from([
            (OWNER_TAG.to_owned(), self.turn.row.arn.to_string()),
            (DEPLOYMENT_TAG.to_owned(), self.settings.deployment.clone()),
        ]);
        tags.extend(self.settings.proxy_groups.iter().map(|group| (group_tag(group), "true".to_owned())));
        tags
    }

    fn missing_tags(&self, record: &SecretRecord) -> Tags {
        self.wanted_tags().into_iter().filter(|(key, value)| record.tags.get(key) != Some(value)).collect()
    }

    async fn secret(&self, needs: Needs) -> Result<SecretSeen, Stop> {
        if !needs.secret {
            return Ok(SecretSeen::NotAsked);
        }
        // By name: a secret that was deleted and made again has another ARN.
        let name = match &self.turn.row.secret {
            Some(secret) => secret.name.clone(),
            None => self.secret_name(),
        };
        Ok(match self.ports.secrets.describe(&name).await? {
            None => SecretSeen::Missing,
            Some(record) => SecretSeen::There(record),
        })
    }

    async fn teleport(&self, needs: Needs) -> Result<TeleportSeen, Stop> {
        if !needs.teleport {
            return Ok(TeleportSeen::Nothing);
        }
        let row = &self.turn.row;
        let name = teleport_secret_name(&self.settings.teleport_prefix, row.service, &row.arn, &row.id);
        match self.ports.secrets.describe(&name).await {
            Ok(Some(record)) if record.deleted_at.is_none() => {}
            Ok(_) => return Ok(TeleportSeen::Nothing),
            // Without the right to look there is no Teleport to come from.
            Err(CallError::Denied(_)) => return Ok(TeleportSeen::Nothing),
            Err(error) => return Err(error.into()),
        }
        match self.ports.secrets.read(&name, &Which::Stage(Stage::Current)).await {
            Ok(read) => {
                let age_s = read.created_at.map(|at| self.now - at);
                Ok(TeleportSeen::There { name, age_s })
            }
            Err(CallError::NotFound(_) | CallError::Scheduled(_)) => Ok(TeleportSeen::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    async fn proofs(&self, needs: Needs) -> Result<(Proven, Vec<ProofRecord>), Stop> {
        let mut records = Vec::new();
        let Some(version) = self.turn.row.state.pending().filter(|_| needs.proof) else {
            return Ok((Proven::Silent, records));
        };
        for group in &self.settings.proxy_groups {
            let item = self.ports.runtime.read(&proof_key(group, &self.turn.row.arn)).await?;
            // A record that cannot be read is none: it proves nothing.
            records.extend(item.and_then(|item| serde_json::from_value::<ProofRecord>(item.body).ok()));
        }
        // A refusal that nobody repeats is of a proxy that went, or of before the password was told again.
        for record in &mut records {
            let now = self.now;
            record
                .nodes
                .retain(|_, seen| seen.pending == LoginOutcome::Ok || (now - seen.at).abs() <= REPEATED_S);
        }
        Ok((judge(&records, version, &self.turn.nodes), records))
    }

    async fn create_secret(&mut self, teleport: TeleportSeen) -> Result<(), Stop> {
        let row = &self.turn.row;
        let token = placeholder_version(&row.arn, row.generation);
        let new = NewSecret {
            name: self.secret_name(),
            token: token.clone(),
            value: placeholder_value(&row.name),
            description: format!("Password of {}; made and rotated by Keystile.", row.arn),
            kms_key: self.settings.kms_key.clone(),
            tags: self.wanted_tags(),
        };
        let arn = self.ports.secrets.create(&new).await?;
        after::secret_is_there(&mut self.turn.row, SecretRef { arn, name: new.name }, Some(token), self.now);
        after::comes_from(&mut self.turn.row, teleport);
        Ok(())
    }

    fn keep_secret(&mut self, record: SecretRecord, teleport: TeleportSeen) {
        let current = record.version(Stage::Current).cloned();
        let secret = SecretRef { arn: record.arn, name: record.name };
        after::secret_is_there(&mut self.turn.row, secret, current, self.now);
        after::comes_from(&mut self.turn.row, teleport);
    }

    async fn put(&mut self, version: VersionId, pending: Option<VersionId>) -> Result<(), Stop> {
        let password = new_password(|buffer| self.ports.entropy.fill(buffer));
        let value = ready_value(&self.turn.row.name, &password);
        match self.ports.secrets.put_pending(&self.secret_id(), &version, &value).await {
            Ok(()) => {}
            // It was put before, with a password that is read when it is told.
            Err(CallError::Exists(_)) if pending.as_ref() == Some(&version) => {}
            // So it was, and another one after it: proxies would not find it under its stage any more.
            Err(CallError::Exists(_)) => {
                after::unusable(&mut self.turn.row, self.now);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        after::put(&mut self.turn.row, version, self.now);
        Ok(())
    }

    /// Tells the user `[current, pending]`: at its takeover the pending one alone, or with Teleport's.
    async fn tell(&mut self, version: VersionId) -> Result<Outcome, Stop> {
        let Some(passwords) = self.passwords(&version).await? else {
            self.save().await?;
            return Ok(Outcome::Moved);
        };
        let again = matches!(self.turn.row.state, RotationState::Setting { sent: true, .. });
        self.turn.row.state = RotationState::Setting { version: version.clone(), sent: true };
        self.fence().await?;
        if !self.turn.row.taken && !again {
            self.log.takes_over(&self.turn.row);
        }
        match self.set_passwords(&passwords).await {
            Ok(()) => {}
            Err(CallError::Busy(_)) => return Ok(Outcome::Waited("the user or its group is being modified")),
            Err(CallError::NotFound(_)) => return Ok(Outcome::Waited("the user is gone")),
            Err(error) => return Err(error.into()),
        }
        let count = u8::try_from(passwords.len()).unwrap_or(2);
        let answered = self.ports.clock.now().unix_timestamp();
        after::told(&mut self.turn.row, version, count, answered);
        self.save().await?;
        Ok(Outcome::Moved)
    }

    async fn set_passwords(&self, passwords: &[SecretString]) -> Result<(), CallError> {
        let row = &self.turn.row;
        let mut tries = if self.turn.probe { PROBES } else { 1 };
        loop {
            let answer =
                self.ports.users.set_passwords(&self.turn.place, row.service, &row.id, passwords).await;
            tries -= 1;
            match answer {
                Err(CallError::Busy(_)) if tries > 0 => {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                answer => return answer,
            }
        }
    }

    /// The passwords to tell; none if the versions are not what they were taken for, and the row says so.
    async fn passwords(&mut self, version: &VersionId) -> Result<Option<Vec<SecretString>>, Stop> {
        let id = self.secret_id();
        let secrets = &self.ports.secrets;
        let pending = match secrets.read(&id, &Which::Version(version.clone())).await {
            Ok(read) => SecretValue::parse(&read.value).ok(),
            Err(CallError::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Some(SecretValue::Ready { password: pending, .. }) = pending else {
            // Gone with its secret, or not what we wrote: another version, and the secret is looked at first.
            after::unusable(&mut self.turn.row, self.now);
            return Ok(None);
        };
        if self.turn.row.lock && self.turn.row.lock_version.as_ref() == Some(version) {
            return Ok(Some(vec![pending]));
        }
        let current = secrets.read(&id, &Which::Stage(Stage::Current)).await?;
        if Some(&current.version) != self.turn.row.current.as_ref() {
            // Ready looks at the secret and says what is wrong.
            after::unusable(&mut self.turn.row, self.now);
            return Ok(None);
        }
        let mut passwords = Vec::new();
        passwords.extend(SecretValue::parse(&current.value).ok().and_then(|value| value.password().cloned()));
        if passwords.is_empty() && self.turn.row.taken {
            after::unusable(&mut self.turn.row, self.now);
            return Ok(None);
        }
        if passwords.is_empty()
            && let Some(teleport) = &self.turn.row.teleport_secret
        {
            let read = secrets.read(teleport, &Which::Stage(Stage::Current)).await?;
            let usable = (16..=128).contains(&read.value.expose_secret().len());
            passwords.extend(usable.then_some(read.value));
        }
        passwords.push(pending);
        Ok(Some(passwords))
    }

    async fn promote(
        &mut self,
        version: VersionId,
        known: bool,
        proven: Proven,
        records: &[ProofRecord],
    ) -> Result<Outcome, Stop> {
        if let RotationState::Proving { active_since, .. } = self.turn.row.state {
            self.turn.row.proof = Some(self.proof(&version, proven, active_since, records));
        }
        self.turn.row.state = RotationState::Promoting { version: version.clone() };
        self.fence().await?;
        if !known {
            let Some(current) = self.turn.row.current.clone() else {
                return Ok(Outcome::Waited("its secret has no current version"));
            };
            self.ports.secrets.promote(&self.secret_id(), &current, &version).await?;
        }
        after::promoted(&mut self.turn.row, version, self.now);
        self.save().await?;
        self.log.rotated(&self.turn.row);
        Ok(Outcome::Moved)
    }

    fn proof(&self, version: &VersionId, proven: Proven, since: i64, records: &[ProofRecord]) -> Proof {
        let ok: BTreeSet<&String> = records
            .iter()
            .filter(|record| record.version == *version)
            .flat_map(|record| &record.nodes)
            .filter(|(_, seen)| seen.pending == LoginOutcome::Ok)
            .map(|(node, _)| node)
            .collect();
        let of = if self.turn.nodes.is_empty() { ok.len() } else { self.turn.nodes.len() };
        let missing = self.turn.nodes.iter().filter(|node| !ok.contains(node)).take(10).cloned().collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let nodes_ok = if self.turn.nodes.is_empty() {
            ok.len()
        } else {
            ok.iter().filter(|node| self.turn.nodes.contains(**node)).count()
        };
        Proof {
            version: version.clone(),
            outcome: proven,
            at: self.now,
            active_s: self.now - since,
            nodes_ok: count(nodes_ok),
            nodes: count(of),
            missing,
        }
    }

    async fn scrub(&mut self) -> Result<(), Stop> {
        self.turn.row.state = RotationState::Scrubbing { sent: true };
        self.fence().await?;
        let nobody_knows = new_password(|buffer| self.ports.entropy.fill(buffer));
        match self.set_passwords(&[nobody_knows]).await {
            Ok(()) | Err(CallError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        after::moved(&mut self.turn.row, RotationState::Deleting, self.now);
        self.turn.row.taken = false;
        Ok(())
    }

    async fn delete_secret(&mut self) -> Result<(), Stop> {
        match self.ports.secrets.delete(&self.secret_id(), self.settings.recovery_days).await {
            Ok(()) | Err(CallError::NotFound(_) | CallError::Scheduled(_)) => {}
            Err(error) => return Err(error.into()),
        }
        after::moved(&mut self.turn.row, RotationState::Withdrawn { since: self.now }, self.now);
        self.turn.row.taken = false;
        self.log.withdrawn(&self.turn.row);
        Ok(())
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
