//! The shared SDK configuration: time limits, retries, regions, and one set of credentials a role. Makes no
//! call by itself; clients of single services are built from what it gives.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use keystile_model::database::AssumeRole;
use keystile_model::store::Clock;

use crate::credentials::CachedCredentials;

/// Longest wait for a connection. The SDK's own default, spelled out.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(3_100);
/// Longest wait for one attempt: the SDK has no limit of its own, and a hung endpoint would hold a function
/// until its end.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a call with all its attempts.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts in all, the first included.
const ATTEMPTS: u32 = 3;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::now_utc()
    }
}

/// The SDK's configuration for our own account and for every role that was assumed. Cheap to clone; clones
/// share the credentials.
#[derive(Clone)]
pub struct AwsConfig {
    base: SdkConfig,
    own: Option<CachedCredentials>,
    session_name: Arc<str>,
    clock: Arc<dyn Clock>,
    roles: Arc<Mutex<HashMap<AssumeRole, CachedCredentials>>>,
}

impl std::fmt::Debug for AwsConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsConfig").field("region", &self.home_region()).finish_non_exhaustive()
    }
}

impl AwsConfig {
    /// Reads the environment and the profile files; asks no service. `session_name` (2 to 64 characters)
    /// tells other accounts who comes: `keystile-discover`, `keystile-proxy`, …
    pub async fn load(session_name: &str) -> Self {
        let base = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .load()
            .await;
        Self::new(base, session_name, Arc::new(SystemClock))
    }

    /// The same from a configuration that is there already; sets limits on time and retries where it has
    /// none.
    #[must_use]
    pub fn new(base: SdkConfig, session_name: &str, clock: Arc<dyn Clock>) -> Self {
        let mut builder = base.to_builder();
        if base.timeout_config().is_none_or(|timeouts| timeouts.operation_timeout().is_none()) {
            builder = builder.timeout_config(timeouts());
        }
        let own = base.credentials_provider().map(|chain| CachedCredentials::chain(chain, clock.clone()));
        if let Some(own) = own.clone() {
            builder.set_credentials_provider(Some(SharedCredentialsProvider::new(own)));
        }
        Self {
            base: builder.build(),
            own,
            session_name: Arc::from(session_name),
            clock,
            roles: Arc::default(),
        }
    }

    /// Our own account and region.
    #[must_use]
    pub fn home(&self) -> &SdkConfig {
        &self.base
    }

    /// Our own region; empty when the environment names none.
    #[must_use]
    pub fn home_region(&self) -> &str {
        self.base.region().map(Region::as_ref).unwrap_or_default()
    }

    /// The clock that everything here goes by.
    #[must_use]
    pub fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// A region of our own account, or of the account of a role.
    #[must_use]
    pub fn access(&self, role: Option<&AssumeRole>, region: &str) -> SdkConfig {
        let config = match role {
            Some(role) => self.as_role(role),
            None => self.base.clone(),
        };
        config.to_builder().region(Region::new(region.to_owned())).build()
    }

    /// Our own region, with the credentials of a role.
    fn as_role(&self, role: &AssumeRole) -> SdkConfig {
        let mut builder = self.base.to_builder();
        builder.set_credentials_provider(Some(SharedCredentialsProvider::new(self.role_credentials(role))));
        // The base's identity cache holds our own credentials: a role's clients get one of their own.
        builder.set_identity_cache(Some(aws_config::identity::IdentityCache::no_cache()));
        builder.build()
    }

    /// The credentials of our own account, or of a role; none when the environment offers no chain at all.
    #[must_use]
    pub fn credentials(&self, role: Option<&AssumeRole>) -> Option<CachedCredentials> {
        match role {
            None => self.own.clone(),
            Some(role) => Some(self.role_credentials(role)),
        }
    }

    /// One set a role, whatever the region: what a regional STS endpoint issues is good in all regions. A
    /// role behind a hub is asked for with the hub's credentials, which all roles behind it share.
    fn role_credentials(&self, role: &AssumeRole) -> CachedCredentials {
        if let Some(found) = self.roles().get(role) {
            return found.clone();
        }
        let asking = match role.through.clone() {
            None => self.base.clone(),
            Some(hub) => self.as_role(&hub.into()),
        };
        let made = CachedCredentials::role(
            aws_sdk_sts::Client::new(&asking),
            role.clone(),
            self.session_name.to_string(),
            self.clock.clone(),
        );
        // Another task may have been first: its cache is the one to share.
        self.roles().entry(role.clone()).or_insert(made).clone()
    }

    fn roles(&self) -> MutexGuard<'_, HashMap<AssumeRole, CachedCredentials>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT)
        .build()
}
