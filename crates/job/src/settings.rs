//! Settings from the environment: those that every scheduled function has, and how others are read. The
//! environment itself is read by `main`.

use std::path::PathBuf;

use anyhow::Context;

/// What every scheduled function is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `KEYSTILE_DEPLOYMENT`: the deployment's name, for audit events.
    pub deployment: String,
    /// `KEYSTILE_POLICY_TABLE`.
    pub policy_table: String,
    /// `KEYSTILE_RUNTIME_TABLE`.
    pub runtime_table: String,
    /// `KEYSTILE_AUDIT_FILE`: where audit events are appended; standard output otherwise.
    pub audit_file: Option<PathBuf>,
}

impl Settings {
    /// Reads the settings through `variable`, which answers none for what is not set.
    ///
    /// # Errors
    /// Names the variable that is missing.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let needed = |name: &str| optional(&variable, name).with_context(|| format!("{name} is not set"));
        Ok(Self {
            deployment: needed("KEYSTILE_DEPLOYMENT")?,
            policy_table: needed("KEYSTILE_POLICY_TABLE")?,
            runtime_table: needed("KEYSTILE_RUNTIME_TABLE")?,
            audit_file: optional(&variable, "KEYSTILE_AUDIT_FILE").map(PathBuf::from),
        })
    }
}

/// A variable without the space around it; none where nothing is left.
pub fn optional(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> anyhow::Result<Settings> {
        Settings::read(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    const TABLES: [(&str, &str); 3] =
        [("KEYSTILE_DEPLOYMENT", "d"), ("KEYSTILE_POLICY_TABLE", " p "), ("KEYSTILE_RUNTIME_TABLE", "r")];

    #[test]
    fn tables_are_needed() {
        let settings = read(&TABLES).unwrap();
        assert_eq!((settings.policy_table.as_str(), settings.audit_file), ("p", None));
        let error = read(&TABLES[..2]).unwrap_err().to_string();
        assert_eq!(error, "KEYSTILE_RUNTIME_TABLE is not set");
        let blank = [TABLES[0], TABLES[1], ("KEYSTILE_RUNTIME_TABLE", " ")];
        assert!(read(&blank).is_err());
    }
}
