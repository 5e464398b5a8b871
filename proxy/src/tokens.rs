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
        MintError::AssumeRoleRefused { through, .. } => {
            let asking = through.as_ref().map_or("the proxy's role", |hub| hub.as_str());
            format!("{error}: its trust policy must let {asking} in, with the matcher's external id")
        }
        MintError::NoCredentials(_) => format!("{error}: give the proxy's task a role"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use keystile_model::arn::Arn;

    use super::*;

    #[test]
    fn a_refused_role_names_who_asked_for_it() {
        let arn = |name: &str| Arn::parse(format!("arn:aws:iam::210987654321:role/{name}")).unwrap();
        let refused = |through| {
            let (role, region, reason) = (arn("spoke"), "eu-west-1".to_owned(), "AccessDenied".to_owned());
            words(&MintError::AssumeRoleRefused { role, through, region, reason })
        };
        assert!(refused(None).contains("must let the proxy's role in"));
        let text = refused(Some(Box::new(arn("hub"))));
        assert!(text.starts_with("AssumeRole of arn:aws:iam::210987654321:role/spoke"), "{text}");
        assert!(text.contains("must let arn:aws:iam::210987654321:role/hub in"), "{text}");
    }
}
