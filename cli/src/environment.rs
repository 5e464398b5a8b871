//! What surrounds the process: variables and terminals, read once, so that everything else can be tested.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;

/// Variables and terminals.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    vars: BTreeMap<String, String>,
    /// Whether somebody can type.
    pub(crate) stdin_is_terminal: bool,
    /// Whether somebody reads the data.
    pub(crate) stdout_is_terminal: bool,
    /// Whether somebody reads the talk.
    pub(crate) stderr_is_terminal: bool,
}

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out.
    pub(crate) fn of_process() -> Self {
        let vars = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            vars,
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// One made up of these variables, without a terminal.
    #[cfg(test)]
    pub(crate) fn of(vars: &[(&str, &str)]) -> Self {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { vars, ..Self::default() }
    }

    /// A variable; an empty one counts as none.
    pub(crate) fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Whether a question may be asked: somebody reads it and can answer.
    pub(crate) fn can_prompt(&self) -> bool {
        self.stdin_is_terminal && self.stderr_is_terminal
    }
}
