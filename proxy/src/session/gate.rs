//! What a session may run: the grant's rules, compiled.
//!
//! Most of it is two bits for each command. Where roles limit keys or channels too, each role stays on its own:
//! a request passes when a single one permits its command and all that it touches.

use keystile_model::command_rules::{CommandRule, CommandTarget};
use keystile_model::decide::SessionGrant;
use keystile_resp::command::{self, Arguments, COUNT, CommandId, Flags};
use keystile_resp::key_rules::{Scope, ScopeError};
use keystile_resp::request::Request;
use keystile_resp::rules::{CommandSet, RuleError};
use keystile_resp::touch::{Touch, all_touches, reach};

use super::special::{Special, special};
use super::words::Words;

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
pub enum GateError {
    /// One on commands.
    #[error("role {role} has a command rule that this proxy cannot read: {error}")]
    Commands {
        /// The role.
        role: String,
        /// What is wrong.
        error: RuleError,
    },
    /// One on keys or channels.
    #[error("role {role} has a rule that this proxy cannot read: {error}")]
    Scope {
        /// The role.
        role: String,
        /// What is wrong.
        error: ScopeError,
    },
}

/// What one role permits, or takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    role: String,
    commands: CommandSet,
    /// The same for commands that the table does not know; empty is all.
    rules: Vec<CommandRule>,
    scope: Scope,
}

impl Part {
    /// Whether commands of this reach, to keys and to channels, have to be looked at.
    fn concerns(&self, (keys, channels): (bool, bool)) -> bool {
        keys && self.scope.limits_keys() || channels && self.scope.limits_channels()
    }

    fn is_limited(&self) -> bool {
        self.concerns((true, true))
    }
}

/// The compiled rules of one grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    allowed: Bits,
    plain: Bits,
    /// Commands whose keys and channels decide.
    looks: Bits,
    /// What each role permits.
    selectors: Vec<Part>,
    /// Rules of each role for commands that the table does not know.
    denied: Vec<Vec<CommandRule>>,
    /// Keys and channels that roles take away.
    denials: Vec<Part>,
    limited: bool,
    scoped: bool,
    /// The roles whose rules these are, for the words of a refusal.
    roles: String,
}

/// Why a request that its command alone would let pass does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfScope {
    /// The word for the audit: `db_keys` or `db_channels`.
    pub rule: &'static str,
    /// The text. No key and no channel is in it.
    pub why: String,
}

fn roles(grant: &SessionGrant) -> String {
    let allowing = grant.selectors.iter().map(|selector| selector.role.as_str());
    let denying = grant.denied_commands.iter().map(|(role, _)| role.as_str());
    let mut names: Vec<&str> =
        allowing.chain(denying).chain(grant.denied_keys.iter().map(|denial| denial.role.as_str())).collect();
    names.dedup();
    format!("{} {}", if names.len() == 1 { "role" } else { "roles" }, names.join(", "))
}

impl Gate {
    /// Compiles a grant. A command passes when any selector permits it and no denial allows it.
    ///
    /// # Errors
    /// [`GateError`] where a rule that takes rights away cannot be understood.
    pub fn compile(grant: &SessionGrant) -> Result<Self, GateError> {
        let selectors = grant
            .selectors
            .iter()
            .map(|own| part(own.role.as_str(), &own.commands, (&own.keys, &own.channels), false))
            .collect::<Result<Vec<_>, _>>()?;
        let denials = grant
            .denied_keys
            .iter()
            .map(|own| part(own.role.as_str(), &own.commands, (&own.keys, &own.channels), true))
            .collect::<Result<Vec<_>, _>>()?;
        let mut denied = CommandSet::NONE;
        for (role, rules) in &grant.denied_commands {
            denied = denied.union(&compiled(role.as_str(), rules, true)?);
        }
        let mut gate = Self {
            allowed: Bits([0; WORDS]),
            plain: Bits([0; WORDS]),
            looks: Bits([0; WORDS]),
            scoped: !denials.is_empty() || selectors.iter().any(Part::is_limited),
            selectors,
            denied: grant.denied_commands.iter().map(|(_, rules)| rules.clone()).collect(),
            denials,
            limited: grant.limits_commands(),
            roles: roles(grant),
        };
        for id in command::all() {
            gate.place(id, &denied);
        }
        Ok(gate)
    }

    fn place(&mut self, id: CommandId, denied: &CommandSet) {
        // As on the server, signing in and leaving need no right.
        let free = id.command().flags.contains(Flags::NO_AUTH);
        let mut permitting = self.selectors.iter().filter(|part| part.commands.allows(id)).peekable();
        if !free && (permitting.peek().is_none() || denied.allows(id)) {
            return;
        }
        let reach = reach(id);
        let touches = reach != (false, false);
        let looks = !free
            && (permitting.all(|part| part.concerns(reach))
                || touches && self.denials.iter().any(|part| part.commands.allows(id)));
        self.allowed.set(id);
        if looks {
            self.looks.set(id);
        } else if special(id) == Special::Plain {
            self.plain.set(id);
        }
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

    /// Whether a request passes once its keys and channels were looked at, and needs no further look; `buf`
    /// begins with it.
    #[must_use]
    pub fn passes_looked_at(&self, id: CommandId, request: &Request, buf: &[u8]) -> bool {
        self.looks.has(id) && special(id) == Special::Plain && self.look(id, &Words::of(request, buf)).is_ok()
    }

    /// Whether a command is allowed, as far as its name decides.
    #[must_use]
    pub fn allows(&self, id: CommandId) -> bool {
        self.allowed.has(id)
    }

    /// Whether keys or channels are limited: requests then have to be seen.
    #[inline]
    #[must_use]
    pub fn is_scoped(&self) -> bool {
        self.scoped
    }

    /// Whether the other one limits the same keys and channels in the same way.
    #[must_use]
    pub fn has_scope_of(&self, other: &Self) -> bool {
        self.selectors == other.selectors && self.denials == other.denials
    }

    /// Whether a request may touch what it touches; of a command that [`Gate::allows`].
    ///
    /// # Errors
    /// [`OutOfScope`] with the words for the client.
    pub fn look<A: Arguments + ?Sized>(&self, id: CommandId, args: &A) -> Result<(), OutOfScope> {
        if !self.looks.has(id) {
            return Ok(());
        }
        for part in self.denials.iter().filter(|part| part.commands.allows(id)) {
            let mut hit = Touch::Unseen;
            if !all_touches(id, args, |touch| !seen(&mut hit, touch, part.scope.hits(touch))) {
                return Err(denied(&part.role, hit));
            }
        }
        let mut failed = None;
        for part in self.selectors.iter().filter(|part| part.commands.allows(id)) {
            let mut kind = Touch::Unseen;
            if all_touches(id, args, |touch| !seen(&mut kind, touch, !part.scope.permits(touch))) {
                return Ok(());
            }
            failed = failed.or(Some(kind));
        }
        Err(not_permitted(&self.roles, failed.unwrap_or(Touch::Unseen)))
    }

    /// Whether a command that the table does not know is allowed, by its name. Where keys or channels are
    /// limited it is not, for nobody knows what it touches.
    #[must_use]
    pub fn allows_unknown(&self, name: &[u8]) -> bool {
        if !self.limited && !self.scoped {
            return true;
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let among = |rules: &[CommandRule], denying| rules.is_empty() || names_unknown(rules, &name, denying);
        self.selectors.iter().any(|part| !part.is_limited() && among(&part.rules, false))
            && !self.denied.iter().any(|rules| names_unknown(rules, &name, true))
            && !self.denials.iter().any(|part| among(&part.rules, true))
    }
}

/// Notes the sort of what decided, without the bytes.
fn seen(kind: &mut Touch<'static>, touch: Touch<'_>, decided: bool) -> bool {
    if decided {
        *kind = match touch {
            Touch::Key(_, access) => Touch::Key(b"", access),
            Touch::KeysFrom(_) => Touch::KeysFrom(b""),
            Touch::Listen(_) => Touch::Listen(b""),
            Touch::ListenPattern(_) => Touch::ListenPattern(b""),
            Touch::Publish(_) => Touch::Publish(b""),
            Touch::AnyKey(access) => Touch::AnyKey(access),
            Touch::AnyChannel => Touch::AnyChannel,
            Touch::Unseen => Touch::Unseen,
        };
    }
    decided
}

fn rule_of(touch: Touch<'_>) -> &'static str {
    match touch {
        Touch::Key(..) | Touch::KeysFrom(_) | Touch::AnyKey(_) | Touch::Unseen => "db_keys",
        Touch::Listen(_) | Touch::ListenPattern(_) | Touch::Publish(_) | Touch::AnyChannel => "db_channels",
    }
}

/// What it is about the request that the rules do not allow.
fn object(touch: Touch<'_>) -> &'static str {
    match touch {
        Touch::Key(..) => "one of its keys",
        Touch::KeysFrom(_) => "the keys that begin with its prefix",
        Touch::AnyKey(_) => "it, for it can touch any key",
        Touch::Unseen => {
            "it, for its keys cannot be located (they have to stand in the first 1,048,576 bytes of a request)"
        }
        Touch::Listen(_) | Touch::Publish(_) => "one of its channels",
        Touch::ListenPattern(_) => "one of its patterns, which have to be named as they are",
        Touch::AnyChannel => "it, for it can touch any channel",
    }
}

fn not_permitted(roles: &str, touch: Touch<'_>) -> OutOfScope {
    let rule = rule_of(touch);
    // Keyspace notifications are channels that tell keys.
    let why = match touch {
        Touch::Listen(_) | Touch::ListenPattern(_) => format!(
            "the db_channels of {roles} do not allow {} (channels of keyspace notifications have to be named \
             where db_keys limits keys): ask an editor for a role that does",
            object(touch)
        ),
        _ => format!(
            "the {rule} of {roles} do not allow {}: ask an editor for a role that does",
            object(touch)
        ),
    };
    OutOfScope { rule, why }
}

fn denied(role: &str, touch: Touch<'_>) -> OutOfScope {
    let rule = rule_of(touch);
    OutOfScope { rule, why: format!("role {role} denies by its {rule} {}: ask an editor", object(touch)) }
}

fn part(
    role: &str,
    rules: &[CommandRule],
    (keys, channels): (&[String], &[String]),
    denying: bool,
) -> Result<Part, GateError> {
    let commands = if rules.is_empty() { CommandSet::ALL } else { compiled(role, rules, denying)? };
    let scope =
        Scope::compile(keys, channels).map_err(|error| GateError::Scope { role: role.to_owned(), error })?;
    Ok(Part { role: role.to_owned(), commands, rules: rules.to_vec(), scope })
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
            Err(error) => return Err(GateError::Commands { role: role.to_owned(), error }),
        }
    }
    Ok(set)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
