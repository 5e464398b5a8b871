//! Command rules of roles, in the grammar of the servers' ACLs: `+@read -keys +client|info`.
//!
//! Only the grammar lives here; which commands a rule means is the command table's business.

use serde::{Deserialize, Serialize};

/// One rule, applied left to right.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommandRule {
    /// `+` or `-`.
    pub allow: bool,
    /// What it is about.
    pub target: CommandTarget,
}

/// What a command rule is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CommandTarget {
    /// `@all`, also `allcommands` and `nocommands`.
    All,
    /// A category, without `@`, in lower case.
    Category(String),
    /// A command, in lower case, and perhaps its subcommand.
    Command(String, Option<String>),
}

/// Why a rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?} is no command rule: write +get, -keys, +client|info, +@read or -@dangerous")]
pub struct CommandRuleError {
    /// The refused rule.
    pub rule: String,
}

impl CommandRule {
    /// Reads one rule. A list may also hold several in one text: see [`parse_list`].
    ///
    /// # Errors
    /// [`CommandRuleError`] when it has no sign or an illegal name.
    pub fn parse(text: &str) -> Result<Self, CommandRuleError> {
        let refuse = || CommandRuleError { rule: text.chars().take(100).collect() };
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "allcommands" => return Ok(Self { allow: true, target: CommandTarget::All }),
            "nocommands" => return Ok(Self { allow: false, target: CommandTarget::All }),
            _ => {}
        }
        let (allow, rest) = match lower.split_at_checked(1) {
            Some(("+", rest)) => (true, rest),
            Some(("-", rest)) => (false, rest),
            _ => return Err(refuse()),
        };
        let legal = |name: &str| {
            !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
        };
        let target = match rest.strip_prefix('@') {
            Some("all") => CommandTarget::All,
            Some(category) if legal(category) => CommandTarget::Category(category.to_owned()),
            Some(_) => return Err(refuse()),
            None => match rest.split_once('|') {
                Some((command, sub)) if legal(command) && legal(sub) => {
                    CommandTarget::Command(command.to_owned(), Some(sub.to_owned()))
                }
                None if legal(rest) => CommandTarget::Command(rest.to_owned(), None),
                _ => return Err(refuse()),
            },
        };
        Ok(Self { allow, target })
    }
}

/// Reads a list of texts, each of one or more rules between blanks, in order.
///
/// # Errors
/// [`CommandRuleError`] for the first rule that is none.
pub fn parse_list<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<CommandRule>, CommandRuleError> {
    texts.into_iter().flat_map(str::split_whitespace).map(CommandRule::parse).collect()
}

impl std::fmt::Display for CommandRule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.allow { "+" } else { "-" })?;
        match &self.target {
            CommandTarget::All => f.write_str("@all"),
            CommandTarget::Category(name) => write!(f, "@{name}"),
            CommandTarget::Command(name, None) => f.write_str(name),
            CommandTarget::Command(name, Some(sub)) => write!(f, "{name}|{sub}"),
        }
    }
}

impl TryFrom<String> for CommandRule {
    type Error = CommandRuleError;
    fn try_from(text: String) -> Result<Self, CommandRuleError> {
        Self::parse(&text)
    }
}

impl From<CommandRule> for String {
    fn from(rule: CommandRule) -> String {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_and_print() {
        for text in ["+@read", "-@all", "+get", "-client|kill", "+json.get"] {
            assert_eq!(CommandRule::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(CommandRule::parse("allcommands").unwrap().to_string(), "+@all");
        assert_eq!(CommandRule::parse("+GET").unwrap().to_string(), "+get");
        for bad in ["get", "+", "+@", "+a|", "+a b", "+é", ""] {
            assert!(CommandRule::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_list(["+@read -keys", "+get"]).unwrap().len(), 3);
    }
}
