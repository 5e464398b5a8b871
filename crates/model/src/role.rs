//! Roles: what a user may do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command_rules::CommandRule;
use crate::labels::{LabelSelector, OneOrMany, Pattern, PatternError, SelectorSpec};
use crate::name::RoleName;

/// Which rules a role document follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoleVersion {
    /// Ours: a deny block applies where all its fields match.
    Ks1,
    /// Teleport's, where each deny field applies on its own ("greedy").
    V3,
    /// As `v3`.
    V4,
    /// As `v3`.
    V5,
    /// As `v3`.
    V6,
    /// As `v3`.
    V7,
    /// As `v3`.
    V8,
}

/// Right to administer a kind of resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminRule {
    /// `db`, `db_user`, `user`, `role`, `lock`, `matcher`, `discovery`, `ca`, `token`, `audit`, …, or `*`.
    pub resources: Vec<String>,
    /// `list`, `read`, `create`, `update`, `delete`, `run`, `sign`, or `*`.
    pub verbs: Vec<String>,
}

/// One half of a role: what it allows or what it denies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conditions {
    /// Databases by label.
    #[serde(default, skip_serializing_if = "SelectorSpec::is_empty")]
    pub db_labels: SelectorSpec,
    /// Db users: exact names, `*`, globs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db_users: Vec<String>,
    /// Accepted and not enforced: Redis has no database names to enforce.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db_names: Vec<String>,
    /// Commands, in the servers' ACL grammar. Empty: no limit (allow) or nothing denied (deny).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db_commands: Vec<String>,
    /// Key patterns, `~app:*`, `%R~…`, `%W~…`, `allkeys`. Empty: no limit (allow) or none denied (deny).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db_keys: Vec<String>,
    /// Channel patterns, `&news.*`, `allchannels`. Empty: no limit (allow) or none denied (deny).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub db_channels: Vec<String>,
    /// Rights to administer Keystile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<AdminRule>,
    /// Roles that may be requested; kept for access requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<serde_json::Value>,
}

/// Options of a role; of several roles the strictest wins.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleOptions {
    /// Longest life of a certificate, such as `8h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_session_ttl: Option<Span>,
    /// Idle time after which a session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_idle_timeout: Option<Span>,
    /// Connections of one user on one proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// `strict` or `best_effort`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locking_mode: Option<LockingMode>,
    /// How much is audited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditLevel>,
}

/// What happens to sessions when the proxy's knowledge of locks is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockingMode {
    /// Live sessions go on up to the deployment's age limit.
    BestEffort,
    /// Live sessions end after 60 s.
    Strict,
}

/// How much of a session is audited. The order is from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditLevel {
    /// Start and end, and every refusal.
    Session,
    /// And counts by command for each session and interval. The default.
    Summary,
    /// And each command, without its arguments' values.
    Commands,
    /// And the arguments, capped.
    Full,
}

/// A length of time as documents spell it: `90s`, `15m`, `8h`, `2d`, `1h30m`. In whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span {
    /// Seconds, at least 1.
    pub seconds: u64,
}

impl Span {
    /// Reads `90s`, `15m`, `8h`, `2d` or a sequence of those; the sum is at least 1 s and at most 10 years.
    ///
    /// # Errors
    /// A sentence for the person who typed it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is no length of time: write 90s, 15m, 8h, 2d or 1h30m");
        let mut seconds: u64 = 0;
        let mut digits = String::new();
        for c in text.chars() {
            if c.is_ascii_digit() && digits.len() < 10 {
                digits.push(c);
                continue;
            }
            let unit = match c {
                's' => 1,
                'm' => 60,
                'h' => 3_600,
                'd' => 86_400,
                _ => return Err(refuse()),
            };
            let count: u64 = digits.parse().map_err(|_| refuse())?;
            seconds = seconds.saturating_add(count.saturating_mul(unit));
            digits.clear();
        }
        if digits.is_empty() && (1..=315_360_000).contains(&seconds) {
            Ok(Self { seconds })
        } else {
            Err(refuse())
        }
    }
}

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> String {
        span.to_string()
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.seconds;
        for (unit, size) in [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)] {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

/// A role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// Unique.
    pub name: RoleName,
    /// Which rules the document follows.
    pub version: RoleVersion,
    /// A word for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it allows.
    #[serde(default)]
    pub allow: Conditions,
    /// What it denies, whatever any role allows.
    #[serde(default)]
    pub deny: Conditions,
    /// Limits on sessions.
    #[serde(default)]
    pub options: RoleOptions,
}

/// Why a role was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoleError {
    /// A pattern that does not compile.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// A command rule that is none.
    #[error(transparent)]
    Command(#[from] crate::command_rules::CommandRuleError),
    /// A key or channel pattern that is none.
    #[error("{0}")]
    Shape(String),
}

/// A half of a role, compiled.
#[derive(Debug, Clone, Default)]
pub struct CompiledConditions {
    /// Whether any field about databases is there at all.
    pub has_db_fields: bool,
    /// Databases.
    pub labels: LabelSelector,
    /// Whether `db_labels` was given.
    pub has_labels: bool,
    /// Db users.
    pub db_users: Vec<Pattern>,
    /// The db users as written, for lists that people read.
    pub db_user_texts: Vec<String>,
    /// Commands, in order.
    pub commands: Vec<CommandRule>,
    /// Key patterns as written.
    pub keys: Vec<String>,
    /// Channel patterns as written.
    pub channels: Vec<String>,
    /// Rights to administer.
    pub rules: Vec<AdminRule>,
}

impl Conditions {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// [`RoleError`] with the words for the person who wrote the document.
    pub fn compile(&self) -> Result<CompiledConditions, RoleError> {
        if let Some(key) = self.db_keys.iter().find(|key| !is_key_rule(key)) {
            return Err(RoleError::Shape(format!(
                "{key:?} is no key pattern: write ~app:*, %R~app:*, %W~app:* or allkeys, without blanks and of at \
                 most {MOST_PATTERN} bytes"
            )));
        }
        if let Some(channel) = self.db_channels.iter().find(|channel| !is_channel_rule(channel)) {
            return Err(RoleError::Shape(format!(
                "{channel:?} is no channel pattern: write &news.* or allchannels, without blanks and of at most \
                 {MOST_PATTERN} bytes"
            )));
        }
        Ok(CompiledConditions {
            has_db_fields: !(self.db_labels.is_empty()
                && self.db_users.is_empty()
                && self.db_commands.is_empty()
                && self.db_keys.is_empty()
                && self.db_channels.is_empty()),
            labels: LabelSelector::compile(&self.db_labels)?,
            has_labels: !self.db_labels.is_empty(),
            db_users: self.db_users.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?,
            db_user_texts: self.db_users.clone(),
            commands: crate::command_rules::parse_list(self.db_commands.iter().map(String::as_str))?,
            keys: self.db_keys.clone(),
            channels: self.db_channels.clone(),
            rules: self.rules.clone(),
        })
    }
}

/// Longest pattern of keys or channels, in bytes.
const MOST_PATTERN: usize = 512;

/// Only the shape; what a pattern matches is the proxy's business.
fn is_key_rule(text: &str) -> bool {
    let pattern = ["~", "%R~", "%W~", "%RW~", "%WR~"].iter().find_map(|mark| text.strip_prefix(mark));
    pattern.is_some_and(is_pattern) || text.eq_ignore_ascii_case("allkeys")
}

fn is_channel_rule(text: &str) -> bool {
    text.strip_prefix('&').is_some_and(is_pattern) || text.eq_ignore_ascii_case("allchannels")
}

/// As the servers have it: no blanks.
fn is_pattern(pattern: &str) -> bool {
    let blank = |byte: u8| byte.is_ascii_whitespace() || byte == b'\x0b' || byte == 0;
    (1..=MOST_PATTERN).contains(&pattern.len()) && !pattern.bytes().any(blank)
}

/// A role with its patterns compiled.
#[derive(Debug, Clone)]
pub struct CompiledRole {
    /// Its name.
    pub name: RoleName,
    /// Whether its deny fields apply each on their own.
    pub greedy_deny: bool,
    /// What it allows.
    pub allow: CompiledConditions,
    /// What it denies.
    pub deny: CompiledConditions,
    /// Limits.
    pub options: RoleOptions,
}

impl Role {
    /// Compiles a role.
    ///
    /// # Errors
    /// [`RoleError`] with the words for the person who wrote the document.
    pub fn compile(&self) -> Result<CompiledRole, RoleError> {
        Ok(CompiledRole {
            name: self.name.clone(),
            greedy_deny: self.version != RoleVersion::Ks1,
            allow: self.allow.compile()?,
            deny: self.deny.compile()?,
            options: self.options.clone(),
        })
    }
}

/// The roles that every deployment has; a stored role of the same name comes over them.
///
/// `access`: every database and db user. `editor`: administration. `auditor`: reads everything about
/// Keystile. `requester` and `reviewer` exist for access requests.
#[must_use]
pub fn built_in() -> Vec<Role> {
    let role = |name: &str, allow: Conditions| Role {
        name: RoleName::parse(name).unwrap_or_else(|_| unreachable!("a literal name")),
        version: RoleVersion::Ks1,
        description: "built in".to_owned(),
        allow,
        deny: Conditions::default(),
        options: RoleOptions::default(),
    };
    let any = || vec!["*".to_owned()];
    let rules = |resources: &[&str], verbs: &[&str]| {
        vec![AdminRule {
            resources: resources.iter().map(|r| (*r).to_owned()).collect(),
            verbs: verbs.iter().map(|v| (*v).to_owned()).collect(),
        }]
    };
    vec![
        role(
            "access",
            Conditions {
                db_labels: BTreeMap::from([("*".to_owned(), OneOrMany::One("*".to_owned()))]),
                db_users: any(),
                db_names: any(),
                ..Conditions::default()
            },
        ),
        role("editor", Conditions { rules: rules(&["*"], &["*"]), ..Conditions::default() }),
        role("auditor", Conditions { rules: rules(&["*"], &["list", "read"]), ..Conditions::default() }),
        role("requester", Conditions::default()),
        role("reviewer", Conditions::default()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("8h", 28_800), ("1h30m", 5_400), ("2d", 172_800)]
        {
            assert_eq!(Span::parse(text).unwrap().seconds, seconds);
            assert_eq!(Span::parse(&Span { seconds }.to_string()).unwrap().seconds, seconds);
        }
        for bad in ["", "8", "h", "-1h", "8 h", "0s", "99999999999d", "1y"] {
            assert!(Span::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn built_in_roles_compile() {
        for role in built_in() {
            role.compile().unwrap();
        }
    }

    #[test]
    fn key_and_channel_patterns_have_their_shape() {
        let keys = |text: &str| {
            Conditions { db_keys: vec![text.to_owned()], ..Conditions::default() }.compile().is_ok()
        };
        let channels = |text: &str| {
            Conditions { db_channels: vec![text.to_owned()], ..Conditions::default() }.compile().is_ok()
        };
        for good in ["~app:*", "%R~app:*", "%W~a", "%RW~a", "allkeys", "~*"] {
            assert!(keys(good), "{good}");
        }
        for bad in ["app:*", "~", "%R~", "%X~a", "~a b", "~a\n", "&a", &format!("~{}", "a".repeat(513))] {
            assert!(!keys(bad), "{bad}");
        }
        assert!(channels("&news.*") && channels("allchannels"));
        assert!(!channels("news") && !channels("&") && !channels("~a") && !channels("& a"));
    }
}
