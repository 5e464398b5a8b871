//! Command rules in the grammar of the servers' ACLs, compiled to one bit for each command.
//!
//! `+get -@dangerous +client|info allcommands nocommands`, applied from left to right. Only commands:
//! keys, channels, passwords and selectors are refused here as unknown rules.
//!
//! Commands that the table does not know (those of modules) pass only after `+@all` or
//! `allcommands`, and only until a later rule takes a category away: an unknown command could be in
//! it. A single command taken away (`-keys`) says nothing of unknown ones.

use thiserror::Error;

use crate::command::{self, COUNT, Categories, CommandId, Named};

const WORDS: usize = COUNT.div_ceil(64);

/// Which commands are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandSet {
    words: [u64; WORDS],
    unknown: bool,
}

/// A rule that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RuleError {
    /// It is not written as a command rule.
    #[error(
        "'{0}' is no command rule: write +command, -command, +@category, -@category, allcommands or nocommands"
    )]
    Syntax(String),
    /// No server that we know has this command.
    #[error("'{rule}' names an unknown command")]
    UnknownCommand {
        /// The rule as it was written.
        rule: String,
    },
    /// No server that we know has this category.
    #[error("'{rule}' names an unknown category; there are all, {}", Categories::NAMES.join(", "))]
    UnknownCategory {
        /// The rule as it was written.
        rule: String,
    },
    /// The command exists and has no such subcommand (the servers' old `+select|0` is not supported).
    #[error("'{rule}' names an unknown subcommand")]
    UnknownSubcommand {
        /// The rule as it was written.
        rule: String,
    },
}

impl CommandSet {
    /// No command at all: where every list of rules starts.
    pub const NONE: Self = Self { words: [0; WORDS], unknown: false };

    /// Every command, the unknown ones too.
    pub const ALL: Self = Self { words: [u64::MAX; WORDS], unknown: true };

    /// Compiles rules that blanks part.
    ///
    /// # Errors
    /// [`RuleError`] for the first rule that means nothing.
    pub fn compile(rules: &str) -> Result<Self, RuleError> {
        let mut set = Self::NONE;
        for rule in rules.split_ascii_whitespace() {
            set.apply(rule)?;
        }
        Ok(set)
    }

    /// Applies one more rule.
    ///
    /// # Errors
    /// [`RuleError`] where it means nothing; the set is then as it was.
    pub fn apply(&mut self, rule: &str) -> Result<(), RuleError> {
        if rule.eq_ignore_ascii_case("allcommands") {
            *self = Self::ALL;
            return Ok(());
        }
        if rule.eq_ignore_ascii_case("nocommands") {
            *self = Self::NONE;
            return Ok(());
        }
        let (allow, name) = match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
            (Some(name), _) if !name.is_empty() => (true, name),
            (_, Some(name)) if !name.is_empty() => (false, name),
            _ => return Err(RuleError::Syntax(rule.to_owned())),
        };
        match name.strip_prefix('@') {
            Some(category) => self.apply_category(rule, allow, category),
            None => self.apply_command(rule, allow, name),
        }
    }

    /// Whether this command is allowed.
    #[inline]
    #[must_use]
    pub fn allows(&self, id: CommandId) -> bool {
        self.words.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    /// Whether commands that the table does not know are allowed.
    #[inline]
    #[must_use]
    pub fn allows_unknown(&self) -> bool {
        self.unknown
    }

    /// Whether what a request names is allowed (see [`command::resolve`]). An unknown subcommand
    /// passes only where both its container and unknown commands do.
    #[inline]
    #[must_use]
    pub fn permits(&self, named: Named) -> bool {
        match named {
            Named::Known(id) => self.allows(id),
            Named::UnknownSubcommand(container) => self.unknown && self.allows(container),
            Named::Unknown => self.unknown,
        }
    }

    /// Allows what either allows.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        self.unknown |= other.unknown;
        self
    }

    fn apply_category(&mut self, rule: &str, allow: bool, category: &str) -> Result<(), RuleError> {
        if category.eq_ignore_ascii_case("all") {
            *self = if allow { Self::ALL } else { Self::NONE };
            return Ok(());
        }
        let Some(category) = Categories::named(category) else {
            return Err(RuleError::UnknownCategory { rule: rule.to_owned() });
        };
        for id in command::all().filter(|id| id.command().categories.contains(category)) {
            self.put(id, allow);
        }
        self.unknown &= allow;
        Ok(())
    }

    fn apply_command(&mut self, rule: &str, allow: bool, name: &str) -> Result<(), RuleError> {
        let (name, subcommand) = match name.split_once('|') {
            Some((name, subcommand)) => (name, Some(subcommand)),
            None => (name, None),
        };
        let id = command::find(name.as_bytes())
            .ok_or_else(|| RuleError::UnknownCommand { rule: rule.to_owned() })?;
        match subcommand {
            None => {
                self.put(id, allow);
                command::subcommands(id).for_each(|id| self.put(id, allow));
            }
            Some(subcommand) => {
                let id = command::find_subcommand(id, subcommand.as_bytes());
                self.put(id.ok_or_else(|| RuleError::UnknownSubcommand { rule: rule.to_owned() })?, allow);
            }
        }
        Ok(())
    }

    fn put(&mut self, id: CommandId, allow: bool) {
        if let Some(word) = self.words.get_mut(id.index() / 64) {
            let bit = 1 << (id.index() % 64);
            *word = if allow { *word | bit } else { *word & !bit };
        }
    }
}
