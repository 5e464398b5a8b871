//! The settings of this function, from its environment. Nothing else reads the environment.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use keystile_identity::certificate::is_dns_name;
use keystile_identity::name::is_deployment;
use keystile_model::arn::Arn;
use keystile_model::policy::Settings;
use keystile_model::role::Span;
use keystile_model::rotation::secret::DEFAULT_PREFIX;
use keystile_model::user::ArnRule;

use crate::network::Network;

/// The longest that a proxy goes on with sessions on old knowledge, in seconds: 15 minutes.
const MAX_POLICY_AGE_S: u64 = 900;

/// A CA's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CaKey {
    /// A KMS key's ARN.
    Kms(String),
    /// A PEM file: tests and local worlds.
    File(PathBuf),
}

/// The settings.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) deployment: String,
    pub(crate) policy_table: String,
    pub(crate) runtime_table: String,
    /// Matches the first editor, exactly.
    pub(crate) bootstrap_admin: Option<ArnRule>,
    pub(crate) trusted_accounts: BTreeSet<String>,
    pub(crate) proxy_address: String,
    pub(crate) domain: String,
    pub(crate) max_session_ttl: Span,
    pub(crate) user_ca: CaKey,
    pub(crate) host_ca: CaKey,
    pub(crate) discover_function: String,
    pub(crate) rotate_function: String,
    pub(crate) audit_file: Option<PathBuf>,
    pub(crate) static_networks: Vec<Network>,
    /// How the names of managed users' secrets begin.
    pub(crate) secret_prefix: String,
    pub(crate) allow_loopback: bool,
}

impl Config {
    /// Reads the settings through `variable`, which answers none for what is not set.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let optional =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        let needed = |name: &str| optional(name).with_context(|| format!("{name} is not set"));
        let list = |name: &str| -> Vec<String> {
            let text = optional(name).unwrap_or_default();
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let max_session_ttl = match optional("KEYSTILE_MAX_SESSION_TTL") {
            None => Span { seconds: 8 * 3_600 },
            Some(text) => Span::parse(&text).map_err(|e| anyhow::anyhow!("KEYSTILE_MAX_SESSION_TTL: {e}"))?,
        };
        let trusted_accounts: BTreeSet<String> = list("KEYSTILE_TRUSTED_ACCOUNTS").into_iter().collect();
        for account in &trusted_accounts {
            let legal = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            ensure!(legal, "KEYSTILE_TRUSTED_ACCOUNTS: {account:?} is no account of 12 digits");
        }
        let bootstrap_admin = optional("KEYSTILE_BOOTSTRAP_ADMIN_ARN")
            .map(|arn| bootstrap_rule(&arn, &trusted_accounts))
            .transpose()?;
        let config = Self {
            deployment: needed("KEYSTILE_DEPLOYMENT")?,
            policy_table: needed("KEYSTILE_POLICY_TABLE")?,
            runtime_table: needed("KEYSTILE_RUNTIME_TABLE")?,
            bootstrap_admin,
            trusted_accounts,
            proxy_address: needed("KEYSTILE_PROXY_ADDRESS")?.to_ascii_lowercase(),
            domain: needed("KEYSTILE_DOMAIN")?,
            max_session_ttl,
            user_ca: ca_key(&needed("KEYSTILE_USER_CA_KEY")?),
            host_ca: ca_key(&needed("KEYSTILE_HOST_CA_KEY")?),
            discover_function: optional("KEYSTILE_DISCOVER_FUNCTION").unwrap_or_default(),
            rotate_function: optional("KEYSTILE_ROTATE_FUNCTION").unwrap_or_default(),
            audit_file: optional("KEYSTILE_AUDIT_FILE").map(PathBuf::from),
            static_networks: list("KEYSTILE_STATIC_NETWORKS")
                .iter()
                .map(|text| {
                    Network::parse(text).with_context(|| format!("KEYSTILE_STATIC_NETWORKS: {text:?}"))
                })
                .collect::<anyhow::Result<_>>()?,
            secret_prefix: optional("KEYSTILE_SECRET_PREFIX").unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
            allow_loopback: optional("KEYSTILE_ALLOW_LOOPBACK").as_deref() == Some("on"),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            is_deployment(&self.deployment),
            "KEYSTILE_DEPLOYMENT: use 1 to 63 lower-case letters, digits and hyphens"
        );
        let domain = &self.domain;
        ensure!(
            is_dns_name(domain) && is_dns_name(&format!("*.{domain}")),
            "KEYSTILE_DOMAIN: {domain:?} is no DNS name of at least two parts"
        );
        ensure!(
            self.proxy_host().is_some(),
            "KEYSTILE_PROXY_ADDRESS: write host:port, not {:?}",
            self.proxy_address
        );
        ensure!(self.user_ca != self.host_ca, "the user CA and the host CA need different keys");
        Ok(())
    }

    /// The host of the proxy address.
    pub(crate) fn proxy_host(&self) -> Option<&str> {
        let (host, port) = self.proxy_address.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let legal = is_dns_name(host) || host.parse::<std::net::IpAddr>().is_ok();
        (legal && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(host)
    }

    /// The deployment's settings as they should be stored; what the environment does not say is kept.
    pub(crate) fn settings(&self, stored: Option<&Settings>) -> Settings {
        Settings {
            deployment: self.deployment.clone(),
            trusted_accounts: self.trusted_accounts.clone(),
            proxy_address: self.proxy_address.clone(),
            domain: self.domain.clone(),
            max_session_ttl: self.max_session_ttl,
            max_policy_age_s: stored.map_or(MAX_POLICY_AGE_S, |settings| settings.max_policy_age_s),
            static_networks: self.static_networks.iter().map(ToString::to_string).collect(),
            secret_prefix: self.secret_prefix.clone(),
        }
    }
}

fn ca_key(text: &str) -> CaKey {
    text.strip_prefix("file:").map_or_else(|| CaKey::Kms(text.to_owned()), |path| CaKey::File(path.into()))
}

fn bootstrap_rule(text: &str, trusted: &BTreeSet<String>) -> anyhow::Result<ArnRule> {
    let arn = Arn::parse(text).context("KEYSTILE_BOOTSTRAP_ADMIN_ARN")?;
    if text.contains('*') || text.contains('^') {
        bail!("KEYSTILE_BOOTSTRAP_ADMIN_ARN names one user or role, without wildcards");
    }
    let (principal, _) = arn.principal();
    let rule = ArnRule {
        name: principal.to_string(),
        arn: principal.to_string(),
        user: crate::bootstrap::ADMIN.to_owned(),
        sso: false,
        unique_id: None,
    };
    rule.check(trusted).context("KEYSTILE_BOOTSTRAP_ADMIN_ARN")?;
    Ok(rule)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(crate) fn variables() -> BTreeMap<&'static str, String> {
        [
            ("KEYSTILE_DEPLOYMENT", "prod"),
            ("KEYSTILE_POLICY_TABLE", "policy"),
            ("KEYSTILE_RUNTIME_TABLE", "runtime"),
            ("KEYSTILE_BOOTSTRAP_ADMIN_ARN", "arn:aws:iam::123456789012:user/keystile-admin"),
            ("KEYSTILE_TRUSTED_ACCOUNTS", "123456789012, 210987654321"),
            ("KEYSTILE_PROXY_ADDRESS", "proxy.cache.acme.example:6379"),
            ("KEYSTILE_DOMAIN", "cache.acme.example"),
            ("KEYSTILE_USER_CA_KEY", "file:/tmp/user.pem"),
            ("KEYSTILE_HOST_CA_KEY", "file:/tmp/host.pem"),
            ("KEYSTILE_DISCOVER_FUNCTION", "prod-discover"),
            ("KEYSTILE_ROTATE_FUNCTION", "prod-rotate"),
            ("KEYSTILE_STATIC_NETWORKS", "10.0.0.0/8,fd00:1::/64"),
        ]
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
    }

    fn read(changes: &[(&'static str, &str)]) -> anyhow::Result<Config> {
        let mut all = variables();
        all.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Config::from_variables(|name| all.get(name).cloned())
    }

    #[test]
    fn a_full_environment_is_read() {
        let config = read(&[]).unwrap();
        assert_eq!(config.max_session_ttl.seconds, 28_800);
        assert_eq!(config.trusted_accounts.len(), 2);
        assert_eq!(config.proxy_host(), Some("proxy.cache.acme.example"));
        assert_eq!(config.static_networks.len(), 2);
        assert!(!config.allow_loopback);
        let role = "arn:aws:sts::123456789012:assumed-role/Admin/ann";
        let rule = read(&[("KEYSTILE_BOOTSTRAP_ADMIN_ARN", role)]).unwrap().bootstrap_admin.unwrap();
        assert_eq!(rule.arn, "arn:aws:iam::123456789012:role/Admin");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("KEYSTILE_DEPLOYMENT", ""),
            ("KEYSTILE_DEPLOYMENT", "Prod/x"),
            ("KEYSTILE_TRUSTED_ACCOUNTS", "*"),
            ("KEYSTILE_BOOTSTRAP_ADMIN_ARN", "arn:aws:iam::123456789012:user/*"),
            ("KEYSTILE_BOOTSTRAP_ADMIN_ARN", "arn:aws:iam::999999999999:user/x"),
            ("KEYSTILE_BOOTSTRAP_ADMIN_ARN", "arn:aws:iam::123456789012:root"),
            ("KEYSTILE_MAX_SESSION_TTL", "long"),
            ("KEYSTILE_PROXY_ADDRESS", "proxy"),
            ("KEYSTILE_DOMAIN", "local"),
            ("KEYSTILE_STATIC_NETWORKS", "10.0.0.0/33"),
        ] {
            let error = format!("{:#}", read(&[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{name}={value}: {error}");
        }
        assert!(read(&[("KEYSTILE_HOST_CA_KEY", "file:/tmp/user.pem")]).is_err());
    }
}
