//! IAM tokens: what ElastiCache and MemoryDB take as the password of an IAM user. Signs and mints; never
//! logs a token, and keeps none beyond its second.

mod this_second;

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings};
use keystile_model::arn::Arn;
use keystile_model::database::{Database, DatabaseKind};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::SecretString;
use time::OffsetDateTime;

use crate::config::AwsConfig;
use crate::credentials::CredentialProblem;
use this_second::ThisSecond;

/// A token begins a session for at most 15 minutes.
pub const TOKEN_LIFE: Duration = Duration::from_secs(900);

/// RFC 3986's unreserved characters stay bare, everything else is escaped.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `elasticache` or `memorydb`.
    pub service: &'static str,
    /// Replication group id, serverless cache name or MemoryDB cluster name; never the endpoint's host.
    pub cache: String,
    /// The db user, as the cache's ACL spells it.
    pub user: String,
    /// The cache's region.
    pub region: String,
    /// Whether it is a serverless cache.
    pub serverless: bool,
}

impl Target {
    /// The target of a discovered database.
    ///
    /// # Errors
    /// [`MintError::NotIam`] for one that AWS did not describe: it never gets a token.
    pub fn of(database: &Database, db_user: &str) -> Result<Self, MintError> {
        let service = database.kind.signing_service();
        match service {
            Some(service)
                if database.arn.is_some()
                    && !database.resource_id.is_empty()
                    && !database.region.is_empty() =>
            {
                Ok(Self {
                    service,
                    cache: database.resource_id.clone(),
                    user: db_user.to_owned(),
                    region: database.region.clone(),
                    serverless: database.kind == DatabaseKind::ElasticacheServerless,
                })
            }
            _ => Err(MintError::NotIam { database: database.name.to_string() }),
        }
    }
}

/// A token and its end.
#[derive(Debug, Clone)]
pub struct Token {
    /// What AUTH is given as the password.
    pub secret: SecretString,
    /// When it stops beginning sessions: its own life, or its credentials' if that is shorter.
    pub expires_at: OffsetDateTime,
}

/// Why there is no token. The text is fit for the client.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MintError {
    /// A static database, or one without a resource behind it.
    #[error("database {database} is none that AWS described, so it gets no IAM token")]
    NotIam {
        /// The database.
        database: String,
    },
    /// The process has no AWS credentials.
    #[error("no AWS credentials to sign an IAM token with: {0}")]
    NoCredentials(String),
    /// The role of the cache's account cannot be assumed.
    #[error("AssumeRole of {role} for region {region} was refused ({reason})")]
    AssumeRoleRefused {
        /// The role.
        role: Arn,
        /// The hub role that asked for it; none where we asked ourselves.
        through: Option<Box<Arn>>,
        /// The cache's region.
        region: String,
        /// STS's code.
        reason: String,
    },
    /// Anything else: STS or the credential source out of reach, or a value that cannot be signed.
    #[error("no IAM token could be made: {0}")]
    Other(String),
}

/// Signs a token: a presigned `connect` URL for the cache's name in lower case, without its scheme. Pure.
///
/// # Errors
/// [`MintError::Other`] when the parts do not make a URL that can be signed.
pub fn sign(credentials: &Credentials, target: &Target, now: OffsetDateTime) -> Result<Token, MintError> {
    sign_for(credentials, target, now, TOKEN_LIFE)
}

/// As [`sign`], with another life.
fn sign_for(
    credentials: &Credentials,
    target: &Target,
    now: OffsetDateTime,
    life: Duration,
) -> Result<Token, MintError> {
    let name = target.cache.to_lowercase();
    let resource_type = if target.serverless { "&ResourceType=ServerlessCache" } else { "" };
    let user = utf8_percent_encode(&target.user, ESCAPED);
    let unsigned = format!("{name}/?Action=connect&User={user}{resource_type}");
    let own = presign(credentials, target, &format!("https://{unsigned}"), now, life)
        .map_err(|error| MintError::Other(format!("signing for {name}: {error}")))?;
    // AWS does not mind the order; the signature comes last as in its own tools.
    let (signature, mut params): (Vec<_>, Vec<_>) =
        own.into_iter().partition(|(key, _)| key == "X-Amz-Signature");
    params.extend(signature);
    let mut token = unsigned;
    for (key, value) in params {
        token.push('&');
        token.push_str(&key);
        token.push('=');
        token.extend(utf8_percent_encode(&value, ESCAPED));
    }
    let own_end = now + life;
    let expires_at = credentials.expiry().map_or(own_end, |end| own_end.min(end.into()));
    Ok(Token { secret: SecretString::from(token), expires_at })
}

/// The parameters that signing adds, unescaped.
fn presign(
    credentials: &Credentials,
    target: &Target,
    url: &str,
    now: OffsetDateTime,
    life: Duration,
) -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(life);
    let identity = credentials.clone().into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region(&target.region)
        .name(target.service)
        .time(now.into())
        .settings(settings)
        .build()?;
    let request = SignableRequest::new("GET", url, std::iter::empty(), SignableBody::Bytes(b""))?;
    let (instructions, _) = aws_sigv4::http_request::sign(request, &params.into())?.into_parts();
    let (_, own) = instructions.into_parts();
    Ok(own.into_iter().map(|(key, value)| (key.to_owned(), value.into_owned())).collect())
}

/// Mints tokens with the credentials of the moment: our own, or those of the database's account.
#[derive(Debug, Clone)]
pub struct TokenMinter {
    config: AwsConfig,
    this_second: Arc<ThisSecond>,
}

impl TokenMinter {
    /// A minter on this configuration; asks nobody yet.
    #[must_use]
    pub fn new(config: AwsConfig) -> Self {
        Self { config, this_second: Arc::default() }
    }

    /// A token for one dial, signed within this second.
    ///
    /// # Errors
    /// [`MintError`], each kind with its own words for the client.
    pub async fn mint(&self, database: &Database, db_user: &str) -> Result<Token, MintError> {
        let target = Target::of(database, db_user)?;
        let source = self
            .config
            .credentials(database.assume_role.as_ref())
            .ok_or_else(|| MintError::NoCredentials("the environment offers none".to_owned()))?;
        let credentials = source.current().await.map_err(|problem| match problem {
            CredentialProblem::None(why) => MintError::NoCredentials(why),
            CredentialProblem::Refused { role, through, reason } => {
                let (through, region) = (through.map(Box::new), target.region.clone());
                MintError::AssumeRoleRefused { role, through, region, reason }
            }
            CredentialProblem::Unavailable(why) => MintError::Other(why),
        })?;
        let now = self.config.clock().now();
        self.this_second.token(&credentials, &target, now, || sign(&credentials, &target, now))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;
    use serde::Deserialize;
    use time::macros::format_description;

    use super::*;

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        service: String,
        cluster: String,
        user: String,
        region: String,
        access_key: String,
        secret_key: String,
        session_token: Option<String>,
        serverless: bool,
        time: String,
        expires: u64,
        token: String,
    }

    fn vectors() -> Vec<Vector> {
        let text = include_str!("../../../tests/fixtures/iam_token_vectors.jsonl");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn parts(vector: &Vector) -> (Credentials, Target, OffsetDateTime) {
        let credentials = Credentials::new(
            vector.access_key.clone(),
            vector.secret_key.clone(),
            vector.session_token.clone(),
            None,
            "vector",
        );
        let target = Target {
            service: if vector.service == "memorydb" { "memorydb" } else { "elasticache" },
            cache: vector.cluster.clone(),
            user: vector.user.clone(),
            region: vector.region.clone(),
            serverless: vector.serverless,
        };
        let format = format_description!("[year][month][day]T[hour][minute][second]Z");
        let now = time::PrimitiveDateTime::parse(&vector.time, format).unwrap().assume_utc();
        (credentials, target, now)
    }

    #[test]
    fn every_vector_to_the_letter() {
        let vectors = vectors();
        assert!(vectors.len() >= 14);
        for vector in vectors {
            let (credentials, target, now) = parts(&vector);
            let life = Duration::from_secs(vector.expires);
            let token = sign_for(&credentials, &target, now, life).unwrap();
            assert_eq!(token.secret.expose_secret(), vector.token, "{}", vector.name);
            assert_eq!(token.expires_at, now + life, "{}", vector.name);
        }
    }

    #[test]
    fn odd_users_are_escaped() {
        let (credentials, mut target, now) = parts(&vectors()[0]);
        target.user = "a b+c/é".to_owned();
        let token = sign(&credentials, &target, now).unwrap();
        assert!(
            token
                .secret
                .expose_secret()
                .starts_with("orders/?Action=connect&User=a%20b%2Bc%2F%C3%A9&X-Amz-Algorithm")
        );
    }

    #[test]
    fn a_token_ends_with_its_credentials() {
        let (_, target, now) = parts(&vectors()[0]);
        let end = now + Duration::from_secs(60);
        let credentials = Credentials::new("A", "B", Some("C".to_owned()), Some(end.into()), "test");
        assert_eq!(sign(&credentials, &target, now).unwrap().expires_at, end);
    }

    #[test]
    fn debug_shows_no_token() {
        let (credentials, target, now) = parts(&vectors()[0]);
        let token = sign(&credentials, &target, now).unwrap();
        assert!(!format!("{token:?}").contains("X-Amz"));
    }
}
