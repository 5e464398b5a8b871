//! Secrets Manager in our own account and region, as rotation needs it.

use std::collections::BTreeMap;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::Builder;
use aws_sdk_secretsmanager::types::Tag;
use keystile_model::arn::Arn;
use keystile_model::cloud::Tags;
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{
    CallError, NewSecret, SecretRead, SecretRecord, Secrets, Stage, Which,
};
use secrecy::{ExposeSecret, SecretString};

use super::errors::call_error;

/// Secrets Manager.
#[derive(Debug, Clone)]
pub struct AwsSecrets {
    client: Client,
}

impl AwsSecrets {
    /// On this configuration; asks nobody yet.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }
}

/// A change is sent once.
fn once() -> Builder {
    Builder::new().retry_config(RetryConfig::disabled())
}

#[async_trait]
impl Secrets for AwsSecrets {
    async fn describe(&self, secret: &str) -> Result<Option<SecretRecord>, CallError> {
        let answer = self.client.describe_secret().secret_id(secret).send().await;
        let found = match answer.map_err(|error| call_error("secretsmanager:DescribeSecret", &error)) {
            Ok(found) => found,
            Err(CallError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(SecretRecord {
            arn: arn(found.arn)?,
            name: found.name.unwrap_or_default(),
            tags: tags_of(found.tags.unwrap_or_default()),
            stages: stages(found.version_ids_to_stages.unwrap_or_default()),
            deleted_at: found.deleted_date.map(|at| at.secs()),
        }))
    }

    async fn create(&self, new: &NewSecret) -> Result<Arn, CallError> {
        let answer = self
            .client
            .create_secret()
            .name(&new.name)
            .description(&new.description)
            .client_request_token(new.token.as_str())
            .secret_string(new.value.expose_secret())
            .set_kms_key_id(new.kms_key.clone())
            .set_tags(Some(tags(&new.tags)))
            .customize()
            .config_override(once())
            .send()
            .await
            .map_err(|error| call_error("secretsmanager:CreateSecret", &error))?;
        arn(answer.arn)
    }

    async fn put_pending(
        &self,
        secret: &str,
        token: &VersionId,
        value: &SecretString,
    ) -> Result<(), CallError> {
        self.client
            .put_secret_value()
            .secret_id(secret)
            .client_request_token(token.as_str())
            .secret_string(value.expose_secret())
            // Without stages the version would be current at once.
            .version_stages(Stage::Pending.as_str())
            .customize()
            .config_override(once())
            .send()
            .await
            .map(drop)
            .map_err(|error| call_error("secretsmanager:PutSecretValue", &error))
    }

    async fn read(&self, secret: &str, which: &Which) -> Result<SecretRead, CallError> {
        let ask = self.client.get_secret_value().secret_id(secret);
        let ask = match which {
            Which::Stage(stage) => ask.version_stage(stage.as_str()),
            Which::Version(version) => ask.version_id(version.as_str()),
        };
        let found = ask.send().await.map_err(|error| call_error("secretsmanager:GetSecretValue", &error))?;
        let odd = |what: &str| CallError::Refused(format!("secretsmanager:GetSecretValue: {what}"));
        let text = match (found.secret_string, found.secret_binary) {
            (Some(text), _) => text,
            (None, Some(bytes)) => {
                String::from_utf8(bytes.into_inner()).map_err(|_| odd("a binary value that is no text"))?
            }
            (None, None) => return Err(odd("an answer without a value")),
        };
        Ok(SecretRead {
            version: found
                .version_id
                .map(VersionId::new)
                .ok_or_else(|| odd("an answer without a version"))?,
            value: SecretString::from(text),
            created_at: found.created_date.map(|at| at.secs()),
        })
    }

    async fn promote(&self, secret: &str, from: &VersionId, to: &VersionId) -> Result<(), CallError> {
        self.client
            .update_secret_version_stage()
            .secret_id(secret)
            .version_stage(Stage::Current.as_str())
            .remove_from_version_id(from.as_str())
            .move_to_version_id(to.as_str())
            .customize()
            .config_override(once())
            .send()
            .await
            .map(drop)
            .map_err(|error| call_error("secretsmanager:UpdateSecretVersionStage", &error))
    }

    async fn tag(&self, secret: &str, added: &Tags) -> Result<(), CallError> {
        self.client
            .tag_resource()
            .secret_id(secret)
            .set_tags(Some(tags(added)))
            .customize()
            .config_override(once())
            .send()
            .await
            .map(drop)
            .map_err(|error| call_error("secretsmanager:TagResource", &error))
    }

    async fn untag(&self, secret: &str, keys: &[String]) -> Result<(), CallError> {
        self.client
            .untag_resource()
            .secret_id(secret)
            .set_tag_keys(Some(keys.to_vec()))
            .customize()
            .config_override(once())
            .send()
            .await
            .map(drop)
            .map_err(|error| call_error("secretsmanager:UntagResource", &error))
    }

    async fn delete(&self, secret: &str, recovery_days: u8) -> Result<(), CallError> {
        let answer = self
            .client
            .delete_secret()
            .secret_id(secret)
            .recovery_window_in_days(i64::from(recovery_days))
            .customize()
            .config_override(once())
            .send()
            .await;
        match answer.map_err(|error| call_error("secretsmanager:DeleteSecret", &error)) {
            // It is being deleted already, which is what was asked.
            Ok(_) | Err(CallError::Scheduled(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn restore(&self, secret: &str) -> Result<(), CallError> {
        let ask = self.client.restore_secret().secret_id(secret).customize().config_override(once());
        match ask.send().await.map_err(|error| call_error("secretsmanager:RestoreSecret", &error)) {
            // "Not scheduled for deletion": it is there, which is what was asked.
            Ok(_) | Err(CallError::Scheduled(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn arn(text: Option<String>) -> Result<Arn, CallError> {
    Arn::parse(text.unwrap_or_default())
        .map_err(|_| CallError::Refused("secretsmanager: an answer without an ARN".to_owned()))
}

fn tags(tags: &Tags) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()
}

fn tags_of(tags: Vec<Tag>) -> Tags {
    tags.into_iter().filter_map(|tag| Some((tag.key?, tag.value.unwrap_or_default()))).collect()
}

fn stages(versions: std::collections::HashMap<String, Vec<String>>) -> BTreeMap<Stage, VersionId> {
    let known = [Stage::Current, Stage::Pending, Stage::Previous];
    let held = versions.into_iter().flat_map(|(version, labels)| {
        let stages =
            known.into_iter().filter(move |stage| labels.iter().any(|label| label == stage.as_str()));
        stages.map(move |stage| (stage, VersionId::new(version.clone())))
    });
    held.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_stages_that_matter() {
        let labels = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let found = stages(
            [
                ("a".to_owned(), labels(&["AWSCURRENT", "mine"])),
                ("b".to_owned(), labels(&["AWSPENDING"])),
                ("c".to_owned(), labels(&["other"])),
            ]
            .into(),
        );
        assert_eq!(found.len(), 2);
        assert_eq!(found[&Stage::Current].as_str(), "a");
        assert_eq!(found[&Stage::Pending].as_str(), "b");
    }
}
