//! IAM tokens from the AWS adapter, with the words for the client.

use async_trait::async_trait;
use keystile_aws::iam_token::{MintError, TokenMinter};
use keystile_model::database::Database;
use secrecy::SecretString;

use crate::upstream::Tokens;

/// The minter, as the dialer wants it.
#[derive(Debug)]
pub struct IamTokens(pub TokenMinter);

#[async_trait]
impl Tokens for IamTokens {
    async fn mint(&self, database: &Database, db_user: &str) -> Result<SecretString, String> {
        self.0.mint(database, db_user).await.map(|token| token.secret).map_err(|error| words(&error))
    }
}

fn words(error: &MintError) -> String {
    match error {
        MintError::AssumeRoleRefused { .. } => {
            format!("{error}: its trust policy must let the proxy's role in, with the matcher's external id")
        }
        MintError::NoCredentials(_) => format!("{error}: give the proxy's task a role"),
        other => other.to_string(),
    }
}
