//! Credentials: the process's own, and those of roles that it assumes; each kept until shortly before its
//! end, fetched once however many ask. Refuses to guess: every failure keeps its kind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_sts::error::{DisplayErrorContext, ProvideErrorMetadata};
use keystile_model::arn::Arn;
use keystile_model::database::AssumeRole;
use keystile_model::store::Clock;
use tokio::sync::Mutex;

/// Credentials are renewed when less than this is left of their life.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// A failure is answered again from memory for this long, so that a storm of dials asks STS once.
const FAILURE_KEPT: Duration = Duration::from_secs(2);
/// Role chaining allows at most an hour, and ours are chained always: we are a role ourselves.
const ROLE_SESSION_S: i32 = 3_600;

/// Why there are no credentials.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CredentialProblem {
    /// The environment offers none.
    #[error("no AWS credentials: {0}")]
    None(String),
    /// STS said no. A wrong external id, a missing role and a missing right all look the same.
    #[error(
        "AssumeRole of {role} was refused ({reason}): check that the role exists, that its trust policy names {}, and its external id",
        through.as_ref().map_or("us", |hub| hub.as_str())
    )]
    Refused {
        /// The role.
        role: Arn,
        /// The hub role that asked for it; none where we asked ourselves.
        through: Option<Arn>,
        /// STS's code.
        reason: String,
    },
    /// Out of reach, throttled, or something else that may pass.
    #[error("AWS credentials could not be had: {0}")]
    Unavailable(String),
}

/// Where credentials come from.
#[derive(Debug)]
enum Source {
    Chain(SharedCredentialsProvider),
    Role { sts: aws_sdk_sts::Client, role: AssumeRole, session_name: String },
}

/// What is remembered between calls.
#[derive(Debug, Default)]
struct Kept {
    credentials: Option<Credentials>,
    failure: Option<(Instant, CredentialProblem)>,
}

/// Credentials of one source, cached. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct CachedCredentials {
    source: Arc<Source>,
    kept: Arc<Mutex<Kept>>,
    clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for CachedCredentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CachedCredentials").finish_non_exhaustive()
    }
}

impl CachedCredentials {
    /// The process's own, from the SDK's provider chain.
    pub fn chain(provider: SharedCredentialsProvider, clock: Arc<dyn Clock>) -> Self {
        Self { source: Arc::new(Source::Chain(provider)), kept: Arc::default(), clock }
    }

    /// Those of a role, assumed through this STS client: one with our own credentials, or its hub's.
    pub fn role(
        sts: aws_sdk_sts::Client,
        role: AssumeRole,
        session_name: String,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { source: Arc::new(Source::Role { sts, role, session_name }), kept: Arc::default(), clock }
    }

    /// Credentials that are good now and for a while.
    ///
    /// # Errors
    /// [`CredentialProblem`]; a failed renewal is no error while the old ones still live.
    pub async fn current(&self) -> Result<Credentials, CredentialProblem> {
        let mut kept = self.kept.lock().await;
        let now = std::time::SystemTime::from(self.clock.now());
        let lives = |credentials: &Credentials, margin: Duration| {
            credentials.expiry().is_none_or(|end| now + margin < end)
        };
        if let Some(credentials) = kept.credentials.as_ref().filter(|c| lives(c, RENEW_BEFORE)) {
            return Ok(credentials.clone());
        }
        let failure = kept.failure.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_KEPT);
        let fetched = match failure {
            Some((_, problem)) => Err(problem.clone()),
            None => self.source.fetch().await,
        };
        match fetched {
            Ok(credentials) => {
                *kept = Kept { credentials: Some(credentials.clone()), failure: None };
                Ok(credentials)
            }
            Err(problem) => {
                kept.failure = Some((Instant::now(), problem.clone()));
                let old = kept.credentials.as_ref().filter(|c| lives(c, Duration::ZERO));
                old.cloned().ok_or(problem)
            }
        }
    }
}

impl Source {
    async fn fetch(&self) -> Result<Credentials, CredentialProblem> {
        match self {
            Self::Chain(provider) => provider.provide_credentials().await.map_err(chain_problem),
            Self::Role { sts, role, session_name } => assume(sts, role, session_name).await,
        }
    }
}

fn chain_problem(error: CredentialsError) -> CredentialProblem {
    let text = DisplayErrorContext(&error).to_string();
    match error {
        CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
            CredentialProblem::None(text)
        }
        _ => CredentialProblem::Unavailable(text),
    }
}

async fn assume(
    sts: &aws_sdk_sts::Client,
    role: &AssumeRole,
    session_name: &str,
) -> Result<Credentials, CredentialProblem> {
    let answer = sts
        .assume_role()
        .role_arn(role.arn.as_str())
        .role_session_name(session_name)
        .set_external_id(role.external_id.clone())
        .duration_seconds(ROLE_SESSION_S)
        .send()
        .await;
    let answer = answer.map_err(|error| role_problem(role, &error))?;
    let found = answer
        .credentials
        .ok_or_else(|| CredentialProblem::Unavailable("STS answered without credentials".to_owned()))?;
    let expiry = std::time::SystemTime::try_from(found.expiration)
        .map_err(|_| CredentialProblem::Unavailable("STS answered an end that is no time".to_owned()))?;
    Ok(Credentials::new(
        found.access_key_id,
        found.secret_access_key,
        Some(found.session_token),
        Some(expiry),
        "keystile-assume-role",
    ))
}

fn role_problem<E>(
    role: &AssumeRole,
    error: &aws_sdk_sts::error::SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>,
) -> CredentialProblem
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code);
    match code {
        Some(code @ ("AccessDenied" | "AccessDeniedException" | "RegionDisabledException")) => {
            let through = role.through.as_ref().map(|hub| hub.assume_role_arn.clone());
            CredentialProblem::Refused { role: role.arn.clone(), through, reason: code.to_owned() }
        }
        Some(code) => CredentialProblem::Unavailable(format!("AssumeRole of {}: {code}", role.arn)),
        None => problem_within(error).unwrap_or_else(|| {
            CredentialProblem::Unavailable(format!(
                "AssumeRole of {}: {}",
                role.arn,
                DisplayErrorContext(error)
            ))
        }),
    }
}

/// The credential problem that an SDK error carries inside, if that is what it is about.
#[must_use]
pub fn problem_within(error: &(dyn std::error::Error + 'static)) -> Option<CredentialProblem> {
    let mut source = Some(error);
    while let Some(inner) = source {
        if let Some(problem) = inner.downcast_ref::<CredentialProblem>() {
            return Some(problem.clone());
        }
        source = inner.source();
    }
    None
}

impl ProvideCredentials for CachedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.current().await.map_err(|problem| match problem {
                CredentialProblem::None(_) => CredentialsError::not_loaded(problem),
                _ => CredentialsError::provider_error(problem),
            })
        })
    }
}
