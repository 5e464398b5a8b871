//! `target/local/env`: what a client of the world must know, as `export KEY=VALUE` lines.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::paths::replace_file;

/// The variables, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// The value of a variable.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// All variables, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// As shell lines.
    #[must_use]
    pub fn to_shell(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, (name, value)| {
            let _ = writeln!(text, "export {name}={}", quoted(value));
            text
        })
    }

    /// Writes the shell lines, readable by the owner alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, self.to_shell().as_bytes())
    }
}

/// Plain where the shell reads it as it is, so that simple readers of the file manage too.
fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_was_set() {
        let mut environment = Environment::default();
        environment.set("A", "http://127.0.0.1:1/x?y=1&z='2 3'$HOME");
        environment.set("B", "plain-1");
        assert!(environment.to_shell().ends_with("export B=plain-1\n"));
        let script = format!("{}printf %s \"$A\"", environment.to_shell());
        let done = std::process::Command::new("sh").arg("-c").arg(script).output().unwrap();
        assert_eq!(String::from_utf8(done.stdout).unwrap(), environment.value("A").unwrap());
    }
}
