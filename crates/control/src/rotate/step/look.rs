//! What a step looks up before it is decided: the secret, Teleport's, and what proxies proved.

use keystile_model::cloud::Tags;
use keystile_model::rotation::ports::{CallError, SecretRecord, Stage, Which};
use keystile_model::rotation::proof::{LoginOutcome, ProofRecord, Proven, judge, proof_key};
use keystile_model::rotation::secret::{
    DEPLOYMENT_TAG, GROUP_TAG, OWNER_TAG, group_tag, secret_name, teleport_secret_name,
};

use super::{Step, Stop};
use crate::rotate::machine::{Needs, SecretSeen, TeleportSeen};

/// Proxies try again what failed at least this often, in seconds.
const REPEATED_S: i64 = 300;

impl Step<'_> {
    pub(super) fn secret_id(&self) -> String {
        match &self.turn.row.secret {
            Some(secret) => secret.arn.to_string(),
            None => self.secret_name(),
        }
    }

    pub(super) fn secret_name(&self) -> String {
        let row = &self.turn.row;
        secret_name(&self.settings.secret_prefix, row.service, &row.arn, &row.id)
    }

    pub(super) fn wanted_tags(&self) -> Tags {
        let mut tags = Tags::from([
            (OWNER_TAG.to_owned(), self.turn.row.arn.to_string()),
            (DEPLOYMENT_TAG.to_owned(), self.settings.deployment.clone()),
        ]);
        tags.extend(self.settings.proxy_groups.iter().map(|group| (group_tag(group), "true".to_owned())));
        tags
    }

    pub(super) fn missing_tags(&self, record: &SecretRecord) -> Tags {
        self.wanted_tags().into_iter().filter(|(key, value)| record.tags.get(key) != Some(value)).collect()
    }

    /// A task role may read what carries its group's tag: one that is no longer told of goes.
    pub(super) fn surplus_tags(&self, record: &SecretRecord) -> Vec<String> {
        let wanted = self.wanted_tags();
        let of_a_group = |key: &&String| key.starts_with(GROUP_TAG) && !wanted.contains_key(*key);
        record.tags.keys().filter(of_a_group).cloned().collect()
    }

    pub(super) async fn secret(&self, needs: Needs) -> Result<SecretSeen, Stop> {
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

    pub(super) async fn teleport(&self, needs: Needs) -> Result<TeleportSeen, Stop> {
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

    pub(super) async fn proofs(&self, needs: Needs) -> Result<(Proven, Vec<ProofRecord>), Stop> {
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
}
