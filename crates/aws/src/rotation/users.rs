//! Users of ElastiCache and MemoryDB, in every account and region that discovery reaches.

use std::sync::Arc;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use keystile_model::cloud::Place;
use keystile_model::db_user::{DbUserAuth, DbUserService};
use keystile_model::rotation::ports::{CacheUser, CacheUsers, CallError, UserStatus};
use secrecy::{ExposeSecret, SecretString};

use super::errors::call_error;
use crate::config::AwsConfig;
use crate::places::Places;

/// The largest page of both lists.
const PAGE: i32 = 100;
/// Most pages of one list: 2,000 users are the larger quota, in pages as small as two.
const MAX_PAGES: usize = 2_000;

/// Clients of one place.
#[derive(Debug)]
struct Clients {
    elasticache: aws_sdk_elasticache::Client,
    memorydb: aws_sdk_memorydb::Client,
}

/// The users of the caches' ACLs. One client a service, role and region, made when first asked for.
#[derive(Debug)]
pub struct AwsCacheUsers(Places<Clients>);

impl AwsCacheUsers {
    /// On this configuration; asks nobody yet.
    #[must_use]
    pub fn new(config: AwsConfig) -> Self {
        Self(Places::new(config))
    }

    fn clients(&self, place: &Place) -> Arc<Clients> {
        self.0.clients(place, |config| Clients {
            elasticache: aws_sdk_elasticache::Client::new(config),
            memorydb: aws_sdk_memorydb::Client::new(config),
        })
    }
}

#[async_trait]
impl CacheUsers for AwsCacheUsers {
    async fn users(&self, place: &Place, service: DbUserService) -> Result<Vec<CacheUser>, CallError> {
        let clients = self.clients(place);
        let mut users = Vec::new();
        let mut token: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let (page, next) = match service {
                DbUserService::Elasticache => elasticache_page(&clients.elasticache, token.clone()).await?,
                DbUserService::Memorydb => memorydb_page(&clients.memorydb, token.clone()).await?,
            };
            users.extend(page);
            match next.filter(|next| !next.is_empty()) {
                None => return Ok(users),
                // The list would go round for ever: it is not whole.
                Some(next) if Some(&next) == token.as_ref() => break,
                Some(next) => token = Some(next),
            }
        }
        Err(CallError::Unknown("the list of users has no end".to_owned()))
    }

    async fn set_passwords(
        &self,
        place: &Place,
        service: DbUserService,
        id: &str,
        passwords: &[SecretString],
    ) -> Result<(), CallError> {
        let clients = self.clients(place);
        let passwords = passwords.iter().map(|password| password.expose_secret().to_owned()).collect();
        match service {
            DbUserService::Elasticache => modify(&clients.elasticache, id, passwords).await,
            DbUserService::Memorydb => update(&clients.memorydb, id, passwords).await,
        }
    }
}

async fn elasticache_page(
    client: &aws_sdk_elasticache::Client,
    token: Option<String>,
) -> Result<(Vec<CacheUser>, Option<String>), CallError> {
    let answer = client
        .describe_users()
        .max_records(PAGE)
        .set_marker(token)
        .send()
        .await
        .map_err(|error| call_error("elasticache:DescribeUsers", &error))?;
    Ok((answer.users.unwrap_or_default().into_iter().map(elasticache_user).collect(), answer.marker))
}

fn elasticache_user(user: aws_sdk_elasticache::types::User) -> CacheUser {
    use aws_sdk_elasticache::types::AuthenticationType;
    let (kind, count) = user.authentication.map_or((None, None), |auth| (auth.r#type, auth.password_count));
    CacheUser {
        arn: user.arn.unwrap_or_default(),
        id: user.user_id.unwrap_or_default(),
        name: user.user_name.unwrap_or_default(),
        status: UserStatus::parse(&user.status.unwrap_or_default()),
        groups: user.user_group_ids.unwrap_or_default().into_iter().collect(),
        auth: kind.and_then(|kind| match kind {
            AuthenticationType::Iam => Some(DbUserAuth::Iam),
            AuthenticationType::Password => Some(DbUserAuth::Password),
            AuthenticationType::NoPassword => Some(DbUserAuth::None),
            _ => None,
        }),
        passwords: passwords(count),
    }
}

async fn memorydb_page(
    client: &aws_sdk_memorydb::Client,
    token: Option<String>,
) -> Result<(Vec<CacheUser>, Option<String>), CallError> {
    let answer = client
        .describe_users()
        .max_results(PAGE)
        .set_next_token(token)
        .send()
        .await
        .map_err(|error| call_error("memorydb:DescribeUsers", &error))?;
    Ok((answer.users.unwrap_or_default().into_iter().map(memorydb_user).collect(), answer.next_token))
}

fn memorydb_user(user: aws_sdk_memorydb::types::User) -> CacheUser {
    use aws_sdk_memorydb::types::AuthenticationType;
    let (kind, count) = user.authentication.map_or((None, None), |auth| (auth.r#type, auth.password_count));
    let name = user.name.unwrap_or_default();
    CacheUser {
        arn: user.arn.unwrap_or_default(),
        id: name.clone(),
        name,
        status: UserStatus::parse(&user.status.unwrap_or_default()),
        groups: user.acl_names.unwrap_or_default().into_iter().collect(),
        auth: kind.and_then(|kind| match kind {
            AuthenticationType::Iam => Some(DbUserAuth::Iam),
            AuthenticationType::Password => Some(DbUserAuth::Password),
            AuthenticationType::NoPassword => Some(DbUserAuth::None),
            _ => None,
        }),
        passwords: passwords(count),
    }
}

fn passwords(count: Option<i32>) -> u8 {
    count.and_then(|count| u8::try_from(count).ok()).unwrap_or_default()
}

async fn modify(
    client: &aws_sdk_elasticache::Client,
    id: &str,
    passwords: Vec<String>,
) -> Result<(), CallError> {
    use aws_sdk_elasticache::config::Builder;
    use aws_sdk_elasticache::types::{AuthenticationMode, InputAuthenticationType};
    let mode = AuthenticationMode::builder()
        .r#type(InputAuthenticationType::Password)
        .set_passwords(Some(passwords))
        .build();
    client
        .modify_user()
        .user_id(id)
        .authentication_mode(mode)
        .customize()
        .config_override(Builder::new().retry_config(RetryConfig::disabled()))
        .send()
        .await
        .map(drop)
        .map_err(|error| call_error("elasticache:ModifyUser", &error))
}

async fn update(
    client: &aws_sdk_memorydb::Client,
    name: &str,
    passwords: Vec<String>,
) -> Result<(), CallError> {
    use aws_sdk_memorydb::config::Builder;
    use aws_sdk_memorydb::types::{AuthenticationMode, InputAuthenticationType};
    let mode = AuthenticationMode::builder()
        .r#type(InputAuthenticationType::Password)
        .set_passwords(Some(passwords))
        .build();
    client
        .update_user()
        .user_name(name)
        .authentication_mode(mode)
        .customize()
        .config_override(Builder::new().retry_config(RetryConfig::disabled()))
        .send()
        .await
        .map(drop)
        .map_err(|error| call_error("memorydb:UpdateUser", &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_not_guessed() {
        let user = elasticache_user(aws_sdk_elasticache::types::User::builder().build());
        assert_eq!((user.status, user.auth, user.passwords), (UserStatus::Modifying, None, 0));
        let user =
            memorydb_user(aws_sdk_memorydb::types::User::builder().status("Active").name("app").build());
        assert_eq!((user.status, user.id.as_str()), (UserStatus::Active, "app"));
        assert_eq!((passwords(Some(2)), passwords(Some(-1)), passwords(None)), (2, 0, 0));
    }
}
