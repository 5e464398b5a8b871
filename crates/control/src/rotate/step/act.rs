//! What a step does: each function is one action of the machine's, with its calls in the order that makes it safe
//! to be killed between them.

use std::collections::BTreeSet;
use std::time::Duration;

use keystile_model::cloud::Tags;
use keystile_model::rotation::ports::{CallError, NewSecret, SecretRecord, Stage, Which};
use keystile_model::rotation::proof::{LoginOutcome, Proof, ProofRecord, Proven};
use keystile_model::rotation::row::RotationState;
use keystile_model::rotation::secret::{
    SecretValue, new_password, placeholder_value, placeholder_version, ready_value,
};
use keystile_model::rotation::{SecretRef, VersionId};
use secrecy::{ExposeSecret, SecretString};

use super::{Outcome, Step, Stop};
use crate::rotate::after;
use crate::rotate::machine::TeleportSeen;

/// How often a user that is still being changed, though its group's change should be over, is asked again.
const PROBES: u32 = 3;

impl Step<'_> {
    pub(super) async fn create_secret(&mut self, teleport: TeleportSeen) -> Result<(), Stop> {
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

    pub(super) async fn set_tags(&self, missing: &Tags, surplus: &[String]) -> Result<(), Stop> {
        let id = self.secret_id();
        // First away: a group that no longer serves the user can read its password until then.
        if !surplus.is_empty() {
            self.ports.secrets.untag(&id, surplus).await?;
        }
        if !missing.is_empty() {
            self.ports.secrets.tag(&id, missing).await?;
        }
        Ok(())
    }

    pub(super) fn keep_secret(&mut self, record: SecretRecord, teleport: TeleportSeen) {
        let current = record.version(Stage::Current).cloned();
        let secret = SecretRef { arn: record.arn, name: record.name };
        after::secret_is_there(&mut self.turn.row, secret, current, self.now);
        after::comes_from(&mut self.turn.row, teleport);
    }

    pub(super) async fn put(&mut self, version: VersionId, pending: Option<VersionId>) -> Result<(), Stop> {
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
    pub(super) async fn tell(&mut self, version: VersionId) -> Result<Outcome, Stop> {
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

    pub(super) async fn set_passwords(&self, passwords: &[SecretString]) -> Result<(), CallError> {
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
    pub(super) async fn passwords(&mut self, version: &VersionId) -> Result<Option<Vec<SecretString>>, Stop> {
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

    pub(super) async fn promote(
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

    pub(super) fn proof(
        &self,
        version: &VersionId,
        proven: Proven,
        since: i64,
        records: &[ProofRecord],
    ) -> Proof {
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

    pub(super) async fn scrub(&mut self) -> Result<(), Stop> {
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

    pub(super) async fn delete_secret(&mut self) -> Result<(), Stop> {
        match self.ports.secrets.delete(&self.secret_id(), self.settings.recovery_days).await {
            Ok(()) | Err(CallError::NotFound(_) | CallError::Scheduled(_)) => {}
            Err(error) => return Err(error.into()),
        }
        after::moved(&mut self.turn.row, RotationState::Withdrawn { since: self.now }, self.now);
        self.turn.row.taken = false;
        self.log.withdrawn(&self.turn.row);
        Ok(())
    }
}
