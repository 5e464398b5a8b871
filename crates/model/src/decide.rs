//! Who may do what. One pure function, the same code in the proxy, the access function and the command.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;

use crate::command_rules::CommandRule;
use crate::database::{CacheAuth, Database};
use crate::db_user::DbUserAuth;
use crate::labels::Pattern;
use crate::name::{RoleName, UserName};
use crate::policy::{Lock, Policy};
use crate::role::{AuditLevel, CompiledConditions, CompiledRole, LockingMode};
use crate::user::User;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The user; roles are looked up in the policy at the moment of the decision.
    pub user: UserName,
    /// When its certificate was issued, in Unix seconds, where there is one.
    pub issued_at: Option<i64>,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// To reach a database as a db user.
    Connect {
        /// The database.
        database: &'a Database,
        /// The db user.
        db_user: &'a str,
    },
    /// To administer Keystile.
    Administer {
        /// `role`, `user`, `discovery`, …
        resource: &'a str,
        /// `list`, `read`, `create`, `update`, `delete`, `run`, `sign`.
        verb: &'a str,
    },
}

/// What one role lets through: a command passes when a single selector permits it and all its keys and
/// channels. Empty lists are no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The role.
    pub role: RoleName,
    /// Command rules, in order.
    pub commands: Vec<CommandRule>,
    /// Key patterns.
    pub keys: Vec<String>,
    /// Channel patterns.
    pub channels: Vec<String>,
}

/// What one deny block takes away: commands that its rules allow (all, where it has none) and that touch one of
/// its keys or channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDenial {
    /// The role.
    pub role: RoleName,
    /// Command rules, in order.
    pub commands: Vec<CommandRule>,
    /// Key patterns.
    pub keys: Vec<String>,
    /// Channel patterns.
    pub channels: Vec<String>,
}

/// What a session may do and how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionGrant {
    /// One for each role that allows the route.
    pub selectors: Vec<Selector>,
    /// Command rules of deny blocks, with the role each is from: a command that one *allows* is denied.
    pub denied_commands: Vec<(RoleName, Vec<CommandRule>)>,
    /// Keys and channels that deny blocks take away.
    pub denied_keys: Vec<KeyDenial>,
    /// The strictest of the roles that allow the route; none is no limit.
    pub max_session_ttl_s: Option<u64>,
    /// As above.
    pub client_idle_timeout_s: Option<u64>,
    /// As above, counted for each user and proxy.
    pub max_connections: Option<u32>,
    /// The strictest.
    pub locking_mode: LockingMode,
    /// The most.
    pub audit: AuditLevel,
}

impl SessionGrant {
    /// Whether commands are limited at all.
    #[must_use]
    pub fn limits_commands(&self) -> bool {
        !self.denied_commands.is_empty()
            || self.selectors.iter().all(|selector| !selector.commands.is_empty())
    }
}

/// Why the answer is no. The order is the order in which it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyKind {
    /// The user is not there any more, or the certificate is older than a reset.
    UnknownUser,
    /// A lock is in force.
    Locked,
    /// A role's deny block matches.
    Denied,
    /// No role allows it.
    NotAllowed,
}

/// The answer, with the rule that decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow {
        /// The rule that decided, such as `role dev, allow`.
        rule: String,
        /// What the session may do; for [`Request::Connect`].
        grant: Option<Box<SessionGrant>>,
    },
    /// No.
    Deny {
        /// What sort of no.
        kind: DenyKind,
        /// The rule that decided, such as `role analyst, deny` or `no role allows it`.
        rule: String,
        /// A sentence for the person.
        reason: String,
    },
}

impl Decision {
    /// Whether it is a yes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }

    /// The rule that decided.
    #[must_use]
    pub fn rule(&self) -> &str {
        match self {
            Self::Allow { rule, .. } | Self::Deny { rule, .. } => rule,
        }
    }
}

/// Decides. `now` is Unix seconds.
#[must_use]
pub fn decide(policy: &Policy, subject: &Subject, request: Request<'_>, now: i64) -> Decision {
    let user = match standing_user(policy, subject) {
        Ok(user) => user,
        Err(denied) => return denied,
    };
    if let Some(lock) = lock_in_force(policy, user, request, now) {
        return locked(lock);
    }
    match request {
        Request::Connect { database, db_user } => decide_connect(policy, user, database, db_user),
        Request::Administer { resource, verb } => decide_administer(policy, user, resource, verb),
    }
}

fn standing_user<'a>(policy: &'a Policy, subject: &Subject) -> Result<&'a Arc<User>, Decision> {
    let unknown = |reason: String| {
        Err(Decision::Deny { kind: DenyKind::UnknownUser, rule: "no such user".to_owned(), reason })
    };
    let Some(user) = policy.user(&subject.user) else {
        return unknown(format!("user {} does not exist (any more)", subject.user));
    };
    match (user.not_before, subject.issued_at) {
        (Some(reset), Some(issued)) if issued < reset => {
            unknown(format!("the certificate of {} was revoked: sign in again", subject.user))
        }
        _ => Ok(user),
    }
}

fn lock_in_force<'a>(
    policy: &'a Policy,
    user: &User,
    request: Request<'_>,
    now: i64,
) -> Option<&'a Arc<Lock>> {
    let (database, db_user) = match request {
        Request::Connect { database, db_user } => (Some(database.name.as_str()), Some(db_user)),
        Request::Administer { .. } => (None, None),
    };
    policy.locks().find(|lock| {
        let target = &lock.target;
        let parts = [
            target.user.as_deref().map(|name| name == user.name.as_str()),
            target.role.as_deref().map(|name| user.roles.iter().any(|role| role.as_str() == name)),
            target.database.as_deref().map(|name| Some(name) == database),
            target.db_user.as_deref().map(|name| Some(name) == db_user),
        ];
        let given: Vec<bool> = parts.into_iter().flatten().collect();
        !given.is_empty() && given.iter().all(|fits| *fits) && lock.expires_at.is_none_or(|end| now < end)
    })
}

fn locked(lock: &Lock) -> Decision {
    let message = if lock.message.is_empty() { "no reason given" } else { &lock.message };
    Decision::Deny {
        kind: DenyKind::Locked,
        rule: format!("lock {}", lock.name),
        reason: format!("a lock is in force: {message}"),
    }
}

/// The user's roles that exist; a missing or broken one gives nothing, a broken one is named.
fn roles_of<'a>(policy: &'a Policy, user: &'a User) -> Result<Vec<&'a Arc<CompiledRole>>, Decision> {
    let mut roles = Vec::with_capacity(user.roles.len());
    for name in &user.roles {
        if let Some(error) = policy.broken_role(name) {
            return Err(Decision::Deny {
                kind: DenyKind::Denied,
                rule: format!("role {name}"),
                reason: format!("role {name} cannot be read, so nothing is allowed: {error}"),
            });
        }
        roles.extend(policy.role(name));
    }
    Ok(roles)
}

fn decide_connect(policy: &Policy, user: &User, database: &Database, db_user: &str) -> Decision {
    let roles = match roles_of(policy, user) {
        Ok(roles) => roles,
        Err(denied) => return denied,
    };
    let mut denied_commands = Vec::new();
    let mut denied_keys = Vec::new();
    for role in &roles {
        match denial(role, database, db_user) {
            Denial::No => {}
            Denial::Route => {
                return Decision::Deny {
                    kind: DenyKind::Denied,
                    rule: format!("role {}, deny", role.name),
                    reason: format!("role {} denies {} as {db_user}", role.name, database.name),
                };
            }
            Denial::Parts { commands, keys } => {
                denied_commands.extend(commands.then(|| (role.name.clone(), role.deny.commands.clone())));
                denied_keys.extend(keys);
            }
        }
    }
    let allowing: Vec<_> = roles.iter().filter(|role| allows(&role.allow, database, db_user)).collect();
    let Some(first) = allowing.first() else {
        return not_allowed(user, database, db_user, &roles);
    };
    let options = || allowing.iter().map(|role| &role.options);
    let grant = SessionGrant {
        selectors: allowing
            .iter()
            .map(|role| Selector {
                role: role.name.clone(),
                commands: role.allow.commands.clone(),
                keys: role.allow.keys.clone(),
                channels: role.allow.channels.clone(),
            })
            .collect(),
        denied_commands,
        denied_keys,
        max_session_ttl_s: options().filter_map(|o| o.max_session_ttl).map(|span| span.seconds).min(),
        client_idle_timeout_s: options().filter_map(|o| o.client_idle_timeout).map(|span| span.seconds).min(),
        max_connections: options().filter_map(|o| o.max_connections).min(),
        locking_mode: options().filter_map(|o| o.locking_mode).max().unwrap_or(LockingMode::BestEffort),
        audit: options().filter_map(|o| o.audit).max().unwrap_or(AuditLevel::Summary),
    };
    Decision::Allow { rule: format!("role {}, allow", first.name), grant: Some(Box::new(grant)) }
}

fn not_allowed(user: &User, database: &Database, db_user: &str, roles: &[&Arc<CompiledRole>]) -> Decision {
    let nearest = roles.iter().find(|role| role.allow.labels.matches(&database.labels)).map(|role| {
        format!(
            "; nearest: role {} allows db users [{}] there",
            role.name,
            role.allow.db_user_texts.join(", ")
        )
    });
    let held = if user.roles.is_empty() {
        "holds no role".to_owned()
    } else {
        format!("holds [{}]", user.roles.iter().map(RoleName::as_str).collect::<Vec<_>>().join(", "))
    };
    Decision::Deny {
        kind: DenyKind::NotAllowed,
        rule: "no role allows it".to_owned(),
        reason: format!(
            "no role of {} allows {} as {db_user}: {} {held}{}",
            user.name,
            database.name,
            user.name,
            nearest.unwrap_or_default()
        ),
    }
}

fn allows(allow: &CompiledConditions, database: &Database, db_user: &str) -> bool {
    allow.labels.matches(&database.labels) && allow.db_users.iter().any(|pattern| pattern.matches(db_user))
}

enum Denial {
    No,
    Route,
    Parts { commands: bool, keys: Option<KeyDenial> },
}

/// A deny block of our own version applies where all its fields match; one of Teleport's where any does. Keys
/// and channels are one field: what a command touches.
fn denial(role: &CompiledRole, database: &Database, db_user: &str) -> Denial {
    let deny = &role.deny;
    if !deny.has_db_fields {
        return Denial::No;
    }
    let labels = deny.has_labels.then(|| deny.labels.matches(&database.labels));
    let users =
        (!deny.db_users.is_empty()).then(|| deny.db_users.iter().any(|pattern| pattern.matches(db_user)));
    let has_commands = !deny.commands.is_empty();
    let has_keys = !(deny.keys.is_empty() && deny.channels.is_empty());
    let keys = |commands: &[CommandRule]| {
        has_keys.then(|| KeyDenial {
            role: role.name.clone(),
            commands: commands.to_vec(),
            keys: deny.keys.clone(),
            channels: deny.channels.clone(),
        })
    };
    if role.greedy_deny {
        return if labels == Some(true) || users == Some(true) {
            Denial::Route
        } else {
            Denial::Parts { commands: has_commands, keys: keys(&[]) }
        };
    }
    if labels == Some(false) || users == Some(false) {
        Denial::No
    } else if has_keys || has_commands {
        Denial::Parts { commands: has_commands && !has_keys, keys: keys(&deny.commands) }
    } else {
        Denial::Route
    }
}

fn decide_administer(policy: &Policy, user: &User, resource: &str, verb: &str) -> Decision {
    let roles = match roles_of(policy, user) {
        Ok(roles) => roles,
        Err(denied) => return denied,
    };
    let fits = |conditions: &CompiledConditions| {
        conditions.rules.iter().any(|rule| {
            let has = |list: &[String], word: &str| list.iter().any(|entry| entry == "*" || entry == word);
            has(&rule.resources, resource) && has(&rule.verbs, verb)
        })
    };
    if let Some(role) = roles.iter().find(|role| fits(&role.deny)) {
        return Decision::Deny {
            kind: DenyKind::Denied,
            rule: format!("role {}, deny", role.name),
            reason: format!("role {} denies {verb} on {resource}", role.name),
        };
    }
    if let Some(role) = roles.iter().find(|role| fits(&role.allow)) {
        return Decision::Allow { rule: format!("role {}, allow", role.name), grant: None };
    }
    Decision::Deny {
        kind: DenyKind::NotAllowed,
        rule: "no role allows it".to_owned(),
        reason: format!("no role of {} allows {verb} on {resource}; role editor does", user.name),
    }
}

/// The db users that a person may use on a database, as lists show them: `["*"]` for all.
#[must_use]
pub fn allowed_db_users(policy: &Policy, subject: &Subject, database: &Database, now: i64) -> Vec<String> {
    let Ok(user) = standing_user(policy, subject) else { return Vec::new() };
    let Ok(roles) = roles_of(policy, user) else { return Vec::new() };
    let permitted =
        |name: &str| decide(policy, subject, Request::Connect { database, db_user: name }, now).is_allowed();
    if let Some(only) = policy.auth_of(database).only_user() {
        return if permitted(only) { vec![only.to_owned()] } else { Vec::new() };
    }
    let mut names = BTreeSet::new();
    for role in roles.iter().filter(|role| role.allow.labels.matches(&database.labels)) {
        for (pattern, text) in role.allow.db_users.iter().zip(&role.allow.db_user_texts) {
            match pattern {
                Pattern::Any => {
                    // Any name at all: nobody has this one.
                    if permitted("*") {
                        return vec!["*".to_owned()];
                    }
                    names.extend(policy.db_users_of(database).iter().map(|user| user.name.to_string()));
                }
                Pattern::Exact(_) => {
                    names.insert(text.clone());
                }
                Pattern::Regex(_) => {
                    names.extend(
                        policy
                            .db_users_of(database)
                            .iter()
                            .filter(|user| pattern.matches(user.name.as_str()))
                            .map(|user| user.name.to_string()),
                    );
                }
            }
        }
    }
    names.into_iter().filter(|name| permitted(name)).collect()
}

/// The db user to take when none was named: the only one allowed that exists, else the label
/// `keystile.dev/default-db-user`. The error is the list to choose from.
///
/// # Errors
/// The names to choose from; empty when nothing is allowed.
pub fn default_db_user(
    policy: &Policy,
    subject: &Subject,
    database: &Database,
    now: i64,
) -> Result<String, Vec<String>> {
    let mut names = allowed_db_users(policy, subject, database, now);
    if names == ["*"] {
        // Of all that are allowed, those that a session could be opened as.
        let own_password = *policy.auth_of(database) == CacheAuth::PassThrough;
        names = policy
            .db_users_of(database)
            .iter()
            .filter(|user| own_password || user.auth == DbUserAuth::Iam || user.managed)
            .map(|user| user.name.to_string())
            .filter(|name| {
                decide(policy, subject, Request::Connect { database, db_user: name }, now).is_allowed()
            })
            .collect();
    }
    if let [only] = names.as_slice() {
        return Ok(only.clone());
    }
    match database.labels.get("keystile.dev/default-db-user") {
        Some(label) if names.contains(label) => Ok(label.clone()),
        _ => Err(names),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
