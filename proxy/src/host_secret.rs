//! Secrets from the AWS adapter, with the words for whoever runs the proxy.

use async_trait::async_trait;
use keystile_aws::config::AwsConfig;
use keystile_aws::secrets::{SecretError, read_pem_pair};

use crate::tls::{PemPair, PemSecrets};

/// Secrets Manager, with the proxy's own role.
#[derive(Debug)]
pub struct AwsSecrets(pub AwsConfig);

#[async_trait]
impl PemSecrets for AwsSecrets {
    async fn pem_pair(&self, secret: &str) -> Result<PemPair, String> {
        let pair = read_pem_pair(self.0.home(), secret).await.map_err(|error| words(&error))?;
        Ok(PemPair { certificate: pair.certificate, key: pair.key })
    }
}

fn words(error: &SecretError) -> String {
    let next = match error {
        SecretError::Unavailable => "check the way from the proxy's subnets to Secrets Manager",
        SecretError::Refused(_) => {
            "check that it exists in the proxy's region, and that the task's role may \
             secretsmanager:GetSecretValue it"
        }
        SecretError::Malformed => "store what 'keystile ca host-cert' wrote, both PEM",
    };
    format!("{error}: {next}")
}
