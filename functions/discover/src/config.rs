//! The settings of this function, from its environment.

use keystile_job::settings::{Settings, optional};

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// What every scheduled function has.
    pub(crate) common: Settings,
    /// Our own account; asked of STS where it is not set.
    pub(crate) home_account: Option<String>,
    /// Whether endpoints may be on loopback: the local world only.
    pub(crate) allow_loopback: bool,
}

impl Config {
    /// Reads the settings through `variable`, which answers none for what is not set.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let home_account = optional(&variable, "KEYSTILE_ACCOUNT_ID");
        if let Some(account) = &home_account {
            let legal = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            anyhow::ensure!(legal, "KEYSTILE_ACCOUNT_ID: {account:?} is no account of 12 digits");
        }
        Ok(Self {
            home_account,
            allow_loopback: optional(&variable, "KEYSTILE_ALLOW_LOOPBACK").is_some_and(|word| word == "on"),
            common: Settings::read(variable)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &[(&str, &str)]) -> anyhow::Result<Config> {
        let tables =
            [("KEYSTILE_DEPLOYMENT", "d"), ("KEYSTILE_POLICY_TABLE", "p"), ("KEYSTILE_RUNTIME_TABLE", "r")];
        Config::from_variables(|name| {
            let mut pairs = tables.iter().chain(more);
            pairs.find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn loopback_is_off_unless_it_is_on() {
        for (more, allowed) in [
            (&[][..], false),
            (&[("KEYSTILE_ALLOW_LOOPBACK", "yes")], false),
            (&[("KEYSTILE_ALLOW_LOOPBACK", "on")], true),
        ] {
            assert_eq!(read(more).unwrap().allow_loopback, allowed, "{more:?}");
        }
    }

    #[test]
    fn an_account_has_twelve_digits() {
        assert!(read(&[("KEYSTILE_ACCOUNT_ID", "12")]).is_err());
        let account = "123456789012";
        assert_eq!(read(&[("KEYSTILE_ACCOUNT_ID", account)]).unwrap().home_account.as_deref(), Some(account));
    }
}
