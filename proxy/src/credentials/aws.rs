//! Secrets from the AWS adapter, read with the proxy's own role.

use async_trait::async_trait;
use keystile_aws::secrets::{ReadError, SecretReader};

use super::{Fault, Secrets, Stage, Version};

/// Secrets Manager of our own account.
#[derive(Debug)]
pub struct AwsPasswords(pub SecretReader);

#[async_trait]
impl Secrets for AwsPasswords {
    async fn read(&self, secret: &str, stage: Stage) -> Result<Version, Fault> {
        let stage = match stage {
            Stage::Current => "AWSCURRENT",
            Stage::Pending => "AWSPENDING",
        };
        match self.0.read(secret, stage).await {
            Ok((id, value)) => Ok(Version { id, value }),
            Err(ReadError::Unavailable(code)) => Err(Fault::Unavailable(code)),
            Err(ReadError::Missing) => Err(Fault::Missing),
            Err(ReadError::Refused(code)) => Err(Fault::Refused(code)),
        }
    }
}
