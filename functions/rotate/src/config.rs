//! The settings of this function, from its environment.

use anyhow::Context;
use keystile_control::rotate::Settings;
use keystile_job::settings::{Settings as Common, optional};
use keystile_model::role::Span;
use keystile_model::rotation::{MAX_PERIOD_S, MIN_PERIOD_S};

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What every scheduled function has.
    pub(crate) common: Common,
    /// What the job is told.
    pub(crate) settings: Settings,
}

impl Config {
    /// Reads the settings through `variable`, which answers none for what is not set.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let common = Common::read(&variable)?;
        let optional = |name: &str| optional(&variable, name);
        let account = optional("KEYSTILE_ACCOUNT_ID").context("KEYSTILE_ACCOUNT_ID is not set")?;
        let legal = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        anyhow::ensure!(legal, "KEYSTILE_ACCOUNT_ID: {account:?} is no account of 12 digits");
        let mut settings = Settings::new(common.deployment.clone(), account);
        if let Some(prefix) = optional("KEYSTILE_SECRET_PREFIX") {
            settings.secret_prefix = legal_prefix("KEYSTILE_SECRET_PREFIX", prefix)?;
        }
        if let Some(prefix) = optional("KEYSTILE_TELEPORT_PREFIX") {
            settings.teleport_prefix = legal_prefix("KEYSTILE_TELEPORT_PREFIX", prefix)?;
        }
        settings.kms_key = optional("KEYSTILE_SECRET_KEY");
        if let Some(days) = optional("KEYSTILE_RECOVERY_DAYS") {
            let days = days.parse().ok().filter(|days| (7..=30).contains(days));
            settings.recovery_days = days.context("KEYSTILE_RECOVERY_DAYS is 7 to 30")?;
        }
        if let Some(seconds) = optional("KEYSTILE_PASSWORD_HELD_S") {
            let seconds = seconds.parse().ok().filter(|seconds| (0..=900).contains(seconds));
            settings.held_s = seconds.context("KEYSTILE_PASSWORD_HELD_S is 0 to 900")?;
        }
        if let Some(groups) = optional("KEYSTILE_PROXY_GROUPS") {
            settings.proxy_groups = groups.split(',').map(|group| group.trim().to_owned()).collect();
            let named = settings.proxy_groups.iter().all(|group| !group.is_empty());
            anyhow::ensure!(named, "KEYSTILE_PROXY_GROUPS: names with commas, {groups:?} has an empty one");
        }
        if let Some(period) = optional("KEYSTILE_ROTATE_EVERY") {
            let span = Span::parse(&period).ok().map(|span| span.seconds);
            let legal = span.filter(|seconds| (MIN_PERIOD_S..=MAX_PERIOD_S).contains(seconds));
            settings.period_s = legal.context("KEYSTILE_ROTATE_EVERY is 15m to 90d")?;
        }
        Ok(Self { common, settings })
    }
}

/// What a secret's name may hold, with room for the rest of it.
fn legal_prefix(name: &str, prefix: String) -> anyhow::Result<String> {
    let legal =
        prefix.len() <= 128 && prefix.chars().all(|c| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c));
    anyhow::ensure!(legal, "{name}: {prefix:?} is no start of a secret's name: letters, digits and /_+=.@-");
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[(&str, &str)]) -> anyhow::Result<Config> {
        let mut pairs = vec![
            ("KEYSTILE_DEPLOYMENT", "d"),
            ("KEYSTILE_POLICY_TABLE", "p"),
            ("KEYSTILE_RUNTIME_TABLE", "r"),
            ("KEYSTILE_ACCOUNT_ID", "123456789012"),
        ];
        pairs.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        pairs.extend(more);
        Config::from_variables(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_usual_settings() {
        let settings = read(&[]).unwrap().settings;
        assert_eq!(settings, Settings::new("d", "123456789012"));
        let more = [
            ("KEYSTILE_SECRET_PREFIX", "prod/keystile/"),
            ("KEYSTILE_SECRET_KEY", "alias/secrets"),
            ("KEYSTILE_RECOVERY_DAYS", "7"),
            ("KEYSTILE_PASSWORD_HELD_S", "0"),
            ("KEYSTILE_PROXY_GROUPS", "default, eu"),
            ("KEYSTILE_ROTATE_EVERY", "1h"),
        ];
        let settings = read(&more).unwrap().settings;
        assert_eq!((settings.recovery_days, settings.period_s, settings.held_s), (7, 3_600, 0));
        assert_eq!(settings.proxy_groups, ["default", "eu"]);
        assert_eq!(
            (settings.secret_prefix.as_str(), settings.kms_key.as_deref()),
            ("prod/keystile/", Some("alias/secrets"))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("KEYSTILE_DEPLOYMENT", ""),
            ("KEYSTILE_ACCOUNT_ID", "12"),
            ("KEYSTILE_SECRET_PREFIX", "a b"),
            ("KEYSTILE_RECOVERY_DAYS", "31"),
            ("KEYSTILE_PASSWORD_HELD_S", "-1"),
            ("KEYSTILE_PROXY_GROUPS", "a,,b"),
            ("KEYSTILE_ROTATE_EVERY", "5m"),
            ("KEYSTILE_ROTATE_EVERY", "91d"),
        ] {
            let error = format!("{:#}", read(&[(name, value)]).unwrap_err());
            assert!(error.contains(name), "{name}={value}: {error}");
        }
    }
}
