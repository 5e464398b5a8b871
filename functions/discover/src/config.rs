//! The settings of this function, from its environment. Nothing else reads the environment.

use std::path::PathBuf;

use anyhow::Context;

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// The deployment's name, for audit events.
    pub(crate) deployment: String,
    /// `KEYSTILE_POLICY_TABLE`.
    pub(crate) policy_table: String,
    /// `KEYSTILE_RUNTIME_TABLE`.
    pub(crate) runtime_table: String,
    /// Our own account; asked of STS where it is not set.
    pub(crate) home_account: Option<String>,
    /// Whether endpoints may be on loopback: the local world only.
    pub(crate) allow_loopback: bool,
    /// Where audit events are appended; standard output otherwise.
    pub(crate) audit_file: Option<PathBuf>,
}

impl Config {
    /// Reads the settings through `variable`, which answers none for what is not set.
    pub(crate) fn from_variables(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let optional =
            |name: &str| variable(name).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        let needed = |name: &str| optional(name).with_context(|| format!("{name} is not set"));
        let home_account = optional("KEYSTILE_ACCOUNT_ID");
        if let Some(account) = &home_account {
            let legal = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
            anyhow::ensure!(legal, "KEYSTILE_ACCOUNT_ID: {account:?} is no account of 12 digits");
        }
        Ok(Self {
            deployment: needed("KEYSTILE_DEPLOYMENT")?,
            policy_table: needed("KEYSTILE_POLICY_TABLE")?,
            runtime_table: needed("KEYSTILE_RUNTIME_TABLE")?,
            home_account,
            allow_loopback: optional("KEYSTILE_ALLOW_LOOPBACK").is_some_and(|word| word == "on"),
            audit_file: optional("KEYSTILE_AUDIT_FILE").map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> anyhow::Result<Config> {
        Config::from_variables(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const TABLES: [(&str, &str); 3] =
        [("KEYSTILE_DEPLOYMENT", "d"), ("KEYSTILE_POLICY_TABLE", "p"), ("KEYSTILE_RUNTIME_TABLE", "r")];

    #[test]
    fn tables_are_needed() {
        assert!(read(&TABLES).is_ok());
        let error = read(&TABLES[..2]).unwrap_err().to_string();
        assert_eq!(error, "KEYSTILE_RUNTIME_TABLE is not set");
    }

    #[test]
    fn loopback_is_off_unless_it_is_on() {
        assert!(!read(&TABLES).unwrap().allow_loopback);
        let mut with = TABLES.to_vec();
        with.push(("KEYSTILE_ALLOW_LOOPBACK", "yes"));
        assert!(!read(&with).unwrap().allow_loopback);
        with[3].1 = "on";
        assert!(read(&with).unwrap().allow_loopback);
    }

    #[test]
    fn an_account_has_twelve_digits() {
        let mut with = TABLES.to_vec();
        with.push(("KEYSTILE_ACCOUNT_ID", "12"));
        assert!(read(&with).is_err());
    }
}
