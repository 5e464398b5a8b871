//! Settings of rotation.

use keystile_model::rotation::secret::DEFAULT_PREFIX;

/// What stays the same between ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The deployment's name: part of audit events, and a tag of its secrets.
    pub deployment: String,
    /// Our own account, reached without a role.
    pub home_account: String,
    /// Prefix of our secrets' names.
    pub secret_prefix: String,
    /// Prefix of Teleport's.
    pub teleport_prefix: String,
    /// The key of our secrets; none for the account's own.
    pub kms_key: Option<String>,
    /// How long a deleted secret can be restored, in days: 7 to 30.
    pub recovery_days: u8,
    /// The proxy groups that serve managed users: their tags are on the secrets, and their proofs are read.
    pub proxy_groups: Vec<String>,
    /// The period where no matcher says another, in seconds.
    pub period_s: u64,
    /// How long proxies may hold a password after it was replaced, in seconds: the next change, which ends that
    /// one, waits for it. Break-glass alone does not wait.
    pub held_s: i64,
    /// Users that are moved at once in one account and region.
    pub concurrency: usize,
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub fn new(deployment: impl Into<String>, home_account: impl Into<String>) -> Self {
        Self {
            deployment: deployment.into(),
            home_account: home_account.into(),
            secret_prefix: DEFAULT_PREFIX.to_owned(),
            teleport_prefix: "teleport/".to_owned(),
            kms_key: None,
            recovery_days: 30,
            proxy_groups: vec!["default".to_owned()],
            period_s: keystile_model::rotation::MIN_PERIOD_S,
            held_s: 75,
            concurrency: 8,
        }
    }
}
