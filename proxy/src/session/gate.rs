//! What a session may run: the grant's command rules, compiled to two bits for each command.

use keystile_model::command_rules::{CommandRule, CommandTarget};
use keystile_model::decide::SessionGrant;
use keystile_resp::command::{self, COUNT, CommandId, Flags};
use keystile_resp::rules::{CommandSet, RuleError};

use super::special::{Special, special};

const WORDS: usize = COUNT.div_ceil(64);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Bits([u64; WORDS]);

impl Bits {
    #[inline]
    fn has(&self, id: CommandId) -> bool {
        self.0.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    fn set(&mut self, id: CommandId) {
        if let Some(word) = self.0.get_mut(id.index() / 64) {
            *word |= 1 << (id.index() % 64);
        }
    }
}

/// A rule of a role that means nothing to this version: nothing is guessed, so the session is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("role {role} has a command rule that this proxy cannot read: {error}")]
pub struct GateError {
    /// The role.
    pub role: String,
    /// What is wrong.
    pub error: RuleError,
}

/// The compiled rules of one grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    allowed: Bits,
    plain: Bits,
    /// Rules of each role for commands that the table does not know.
    selectors: Vec<Vec<CommandRule>>,
    denied: Vec<Vec<CommandRule>>,
    limited: bool,
    /// The roles whose rules these are, for the words of a refusal.
    roles: String,
}

fn roles(grant: &SessionGrant) -> String {
    let allowing = grant.selectors.iter().map(|selector| selector.role.as_str());
    let mut names: Vec<&str> =
        allowing.chain(grant.denied_commands.iter().map(|(role, _)| role.as_str())).collect();
    names.dedup();
    format!("{} {}", if names.len() == 1 { "role" } else { "roles" }, names.join(", "))
}

impl Gate {
    /// Compiles a grant. A command passes when any selector permits it and no denial allows it.
    ///
    /// # Errors
    /// [`GateError`] where a rule that takes rights away cannot be understood.
    pub fn compile(grant: &SessionGrant) -> Result<Self, GateError> {
        let mut allowed = CommandSet::NONE;
        for selector in &grant.selectors {
            let own = if selector.commands.is_empty() {
                CommandSet::ALL
            } else {
                compiled(selector.role.as_str(), &selector.commands, false)?
            };
            allowed = allowed.union(&own);
        }
        let mut denied = CommandSet::NONE;
        for (role, rules) in &grant.denied_commands {
            denied = denied.union(&compiled(role.as_str(), rules, true)?);
        }
        let mut gate = Self {
            allowed: Bits([0; WORDS]),
            plain: Bits([0; WORDS]),
            selectors: grant.selectors.iter().map(|selector| selector.commands.clone()).collect(),
            denied: grant.denied_commands.iter().map(|(_, rules)| rules.clone()).collect(),
            limited: grant.limits_commands(),
            roles: roles(grant),
        };
        for id in command::all() {
            // As on the server, signing in and leaving need no right.
            let free = id.command().flags.contains(Flags::NO_AUTH);
            if free || (allowed.allows(id) && !denied.allows(id)) {
                gate.allowed.set(id);
                if special(id) == Special::Plain {
                    gate.plain.set(id);
                }
            }
        }
        Ok(gate)
    }

    /// The roles whose rules decide, such as `role analyst` or `roles a, b`.
    #[must_use]
    pub fn roles(&self) -> &str {
        &self.roles
    }

    /// Whether a command passes and needs no further look.
    #[inline]
    #[must_use]
    pub fn passes(&self, id: CommandId) -> bool {
        self.plain.has(id)
    }

    /// Whether a command is allowed.
    #[must_use]
    pub fn allows(&self, id: CommandId) -> bool {
        self.allowed.has(id)
    }

    /// Whether a command that the table does not know is allowed, by its name.
    #[must_use]
    pub fn allows_unknown(&self, name: &[u8]) -> bool {
        if !self.limited {
            return true;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        self.selectors.iter().any(|rules| rules.is_empty() || names_unknown(rules, &name, false))
            && !self.denied.iter().any(|rules| names_unknown(rules, &name, true))
    }
}

/// An unknown command could be in any category: one that is given says nothing for it in an allow block
/// and everything in a deny block; one that is taken away takes it along in an allow block.
fn names_unknown(rules: &[CommandRule], name: &str, denying: bool) -> bool {
    rules.iter().fold(false, |held, rule| match &rule.target {
        CommandTarget::All => rule.allow,
        CommandTarget::Category(_) if denying => held || rule.allow,
        CommandTarget::Category(_) => held && rule.allow,
        // One subcommand that is given says nothing for another that the table does not know.
        CommandTarget::Command(command, Some(_)) if command == name && rule.allow && !denying => held,
        CommandTarget::Command(command, _) if command == name => rule.allow,
        CommandTarget::Command(..) => held,
    })
}

fn compiled(role: &str, rules: &[CommandRule], denying: bool) -> Result<CommandSet, GateError> {
    let mut set = CommandSet::NONE;
    for rule in rules {
        match set.apply(&rule.to_string()) {
            Ok(()) => {}
            // Commands of modules: judged by name.
            Err(RuleError::UnknownCommand { .. }) => {}
            // What would widen and means nothing widens nothing.
            Err(_) if rule.allow && !denying => {}
            Err(error) => return Err(GateError { role: role.to_owned(), error }),
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use keystile_model::command_rules::parse_list;
    use keystile_model::decide::Selector;
    use keystile_model::name::RoleName;
    use keystile_model::role::{AuditLevel, LockingMode};

    use super::*;

    fn grant(selectors: &[&str], denied: &[&str]) -> SessionGrant {
        let role = || RoleName::parse("r").unwrap();
        SessionGrant {
            selectors: selectors
                .iter()
                .map(|rules| Selector {
                    role: role(),
                    commands: parse_list([*rules]).unwrap(),
                    keys: Vec::new(),
                    channels: Vec::new(),
                })
                .collect(),
            denied_commands: denied.iter().map(|rules| (role(), parse_list([*rules]).unwrap())).collect(),
            denied_keys: Vec::new(),
            max_session_ttl_s: None,
            client_idle_timeout_s: None,
            max_connections: None,
            locking_mode: LockingMode::BestEffort,
            audit: AuditLevel::Summary,
        }
    }

    fn allows(gate: &Gate, name: &str) -> bool {
        gate.allows(command::find(name.as_bytes()).unwrap())
    }

    #[test]
    fn any_selector_permits_and_a_denial_wins() {
        let gate = Gate::compile(&grant(&["+@read", "+set"], &["+mget"])).unwrap();
        assert!(allows(&gate, "get") && allows(&gate, "set"));
        assert!(!allows(&gate, "mget") && !allows(&gate, "del"));
        assert!(allows(&gate, "hello") && allows(&gate, "auth"), "signing in needs no right");
        assert!(gate.passes(command::find(b"get").unwrap()) && !gate.passes(command::find(b"auth").unwrap()));
    }

    #[test]
    fn unknown_commands_go_by_name() {
        let open = Gate::compile(&grant(&[""], &[])).unwrap();
        assert!(open.allows_unknown(b"json.get"));
        let named = Gate::compile(&grant(&["+@read +json.get"], &[])).unwrap();
        assert!(named.allows_unknown(b"JSON.GET") && !named.allows_unknown(b"json.set"));
        let sub = Gate::compile(&grant(&["+@read +client|info"], &[])).unwrap();
        assert!(!sub.allows_unknown(b"client"), "an unknown subcommand of CLIENT");
        let less = Gate::compile(&grant(&["+@all -@dangerous"], &[])).unwrap();
        assert!(!less.allows_unknown(b"json.get"));
        let denied = Gate::compile(&grant(&[""], &["+@write"])).unwrap();
        assert!(!denied.allows_unknown(b"json.get"));
    }

    #[test]
    fn a_denial_that_cannot_be_read_refuses() {
        assert!(Gate::compile(&grant(&["+@all -@nonsense"], &[])).is_err());
        assert!(Gate::compile(&grant(&[""], &["+@nonsense"])).is_err());
        assert!(Gate::compile(&grant(&["+@nonsense +get"], &[])).is_ok());
    }
}
