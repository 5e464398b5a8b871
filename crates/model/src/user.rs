//! Users, the ARN rules that say who a caller is, and the accounts that are trusted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::labels::Pattern;
use crate::name::{RoleName, UserName};

/// A person or a workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Unique.
    pub name: UserName,
    /// Roles that it holds; may be empty: such a user signs in and sees nothing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roles: BTreeSet<RoleName>,
    /// Traits, such as `db_users`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub traits: BTreeMap<String, Vec<String>>,
    /// When a certificate must be at least as new as, in Unix seconds: what a reset sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
}

/// Says which user a caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArnRule {
    /// The rule's name; by default the ARN.
    pub name: String,
    /// `arn:…:iam::ACCOUNT:user/NAME` or `arn:…:iam::ACCOUNT:role/NAME`. The account is exact; a `*` stays
    /// inside one `/` part of the resource.
    pub arn: String,
    /// Who that is: a user's name; for `sso` rules it may contain `{{session}}`.
    pub user: String,
    /// Whether the session's name is an identity: only for roles spelled in full as
    /// `AWSReservedSSO_<set>_<16 hex digits>`.
    #[serde(default)]
    pub sso: bool,
    /// The role's or user's unique id (`AROA…`, `AIDA…`), to pin it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
}

/// A caller as AWS verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The ARN as AWS gave it.
    pub arn: Arn,
    /// `AIDA…`, or `AROA…:session`; may be empty where the source does not say.
    pub unique_id: String,
}

/// Why a rule was refused when it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ARN rule {rule:?}: {reason}")]
pub struct ArnRuleError {
    /// The rule's name.
    pub rule: String,
    /// Why, in words.
    pub reason: String,
}

impl ArnRule {
    /// Checks the rule on its own and against the trusted accounts.
    ///
    /// # Errors
    /// [`ArnRuleError`] for a rule with a glob in its account, of an untrusted account, for something that
    /// signs nobody in, or an `sso` rule without a full role name.
    pub fn check(&self, trusted_accounts: &BTreeSet<String>) -> Result<(), ArnRuleError> {
        let refuse = |reason: String| Err(ArnRuleError { rule: self.name.clone(), reason });
        let arn = match Arn::parse(self.arn.clone()) {
            Ok(arn) => arn,
            Err(error) => return refuse(error.to_string()),
        };
        if arn.service() != "iam"
            || !(arn.resource().starts_with("user/") || arn.resource().starts_with("role/"))
        {
            return refuse(
                "name an IAM user or role: arn:aws:iam::ACCOUNT:user/NAME or …:role/NAME".to_owned(),
            );
        }
        if !trusted_accounts.contains(arn.account()) {
            return refuse(format!("account {:?} is not among the trusted accounts", arn.account()));
        }
        let name = arn.resource().rsplit('/').next().unwrap_or_default();
        if name.chars().all(|c| c == '*') {
            return refuse(
                "it would let in everybody of the account: name at least a part of the role".to_owned(),
            );
        }
        if self.sso && !is_full_sso_role(name) {
            return refuse(
                "an sso rule spells its role in full: AWSReservedSSO_<set>_<16 hex digits>".to_owned(),
            );
        }
        if !self.sso && self.user.contains("{{") {
            return refuse("a session's name is an identity only in sso rules".to_owned());
        }
        if self.user.contains("{{") {
            let bare = self.user.replace("{{session}}", "x");
            if bare.contains("{{") || UserName::parse(bare).is_err() {
                return refuse("user may hold {{session}} and otherwise is a user's name".to_owned());
            }
        } else if let Err(error) = UserName::parse(self.user.clone()) {
            return refuse(error.to_string());
        }
        Ok(())
    }

    /// The user that the caller is by this rule, if it matches. The trusted accounts are checked by
    /// [`identify`].
    #[must_use]
    pub fn user_of(&self, caller: &Caller) -> Option<String> {
        let rule = Arn::parse(self.arn.clone()).ok()?;
        let (principal, session) = caller.arn.principal();
        if rule.partition() != principal.partition()
            || rule.service() != principal.service()
            || rule.account() != principal.account()
        {
            return None;
        }
        let role = session.is_some();
        if !resource_matches(rule.resource(), principal.resource(), role) {
            return None;
        }
        let id = caller.unique_id.split(':').next().unwrap_or_default();
        if self.unique_id.as_deref().is_some_and(|pinned| pinned != id) {
            return None;
        }
        if !self.sso {
            return Some(self.user.clone());
        }
        let session = session.filter(|session| !session.is_empty())?;
        Some(self.user.replace("{{session}}", &session))
    }
}

fn is_full_sso_role(name: &str) -> bool {
    name.strip_prefix("AWSReservedSSO_").and_then(|rest| rest.rsplit_once('_')).is_some_and(|(set, hash)| {
        !set.is_empty()
            && !set.contains('*')
            && hash.len() == 16
            && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// STS drops a role's path, so a rule for a role compares last parts; a user's path is kept.
fn resource_matches(rule: &str, principal: &str, role: bool) -> bool {
    let parts = |text: &str| -> Vec<String> {
        let all: Vec<&str> = text.split('/').collect();
        if role && all.len() > 2 {
            vec![all[0].to_owned(), all[all.len() - 1].to_owned()]
        } else {
            all.into_iter().map(str::to_owned).collect()
        }
    };
    let (rule, principal) = (parts(rule), parts(principal));
    rule.len() == principal.len()
        && rule
            .iter()
            .zip(&principal)
            .all(|(pattern, part)| glob(pattern).is_some_and(|pattern| pattern.matches(part)))
}

/// In an ARN only `*` is special: no regular expressions here.
fn glob(text: &str) -> Option<Pattern> {
    if text.starts_with('^') { None } else { Pattern::parse(text).ok() }
}

/// Why a caller is nobody here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifyError {
    /// The caller's account is not trusted.
    #[error("account {0} is not trusted by this deployment")]
    UntrustedAccount(String),
    /// No rule names the caller.
    #[error("no user is mapped to {0}")]
    Unmapped(String),
    /// Rules disagree about who it is.
    #[error("the rules {0:?} disagree about who {1} is")]
    Ambiguous(Vec<String>, String),
    /// A rule gave something that is no user name.
    #[error("{0}")]
    Name(String),
}

/// Who the caller is: trusted accounts first, then the rules; two that disagree are an error.
///
/// # Errors
/// [`IdentifyError`] says why the caller is nobody.
pub fn identify<'a>(
    caller: &Caller,
    trusted_accounts: &BTreeSet<String>,
    rules: impl IntoIterator<Item = &'a ArnRule>,
) -> Result<UserName, IdentifyError> {
    if !trusted_accounts.contains(caller.arn.account()) {
        return Err(IdentifyError::UntrustedAccount(caller.arn.account().to_owned()));
    }
    let found: BTreeMap<String, String> = rules
        .into_iter()
        .filter(|rule| rule.check(trusted_accounts).is_ok())
        .filter_map(|rule| rule.user_of(caller).map(|user| (rule.name.clone(), user)))
        .collect();
    let users: BTreeSet<&String> = found.values().collect();
    match users.len() {
        0 => Err(IdentifyError::Unmapped(caller.arn.to_string())),
        1 => UserName::parse(users.into_iter().next().cloned().unwrap_or_default())
            .map_err(|error| IdentifyError::Name(error.to_string())),
        _ => Err(IdentifyError::Ambiguous(found.into_keys().collect(), caller.arn.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "123456789012";

    fn rule(arn: &str, user: &str, sso: bool) -> ArnRule {
        ArnRule { name: arn.to_owned(), arn: arn.to_owned(), user: user.to_owned(), sso, unique_id: None }
    }

    fn trusted() -> BTreeSet<String> {
        BTreeSet::from([HOME.to_owned()])
    }

    fn who(caller: &str, rules: &[ArnRule]) -> Result<UserName, IdentifyError> {
        let caller = Caller { arn: Arn::parse(caller).unwrap(), unique_id: "AROAX:session".to_owned() };
        identify(&caller, &trusted(), rules)
    }

    #[test]
    fn users_and_roles() {
        let rules = [
            rule("arn:aws:iam::123456789012:user/alice", "alice", false),
            rule("arn:aws:iam::123456789012:role/team/checkout", "checkout", false),
            rule("arn:aws:iam::123456789012:role/ci-*", "ci", false),
            rule("arn:aws:iam::123456789012:role/AWSReservedSSO_Dev_0123456789abcdef", "{{session}}", true),
        ];
        let table = [
            ("arn:aws:iam::123456789012:user/alice", Some("alice")),
            ("arn:aws:iam::123456789012:user/team/alice", None),
            ("arn:aws:sts::123456789012:assumed-role/checkout/i-1", Some("checkout")),
            ("arn:aws:sts::123456789012:assumed-role/ci-main/x", Some("ci")),
            (
                "arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Dev_0123456789abcdef/ann@acme.example",
                Some("ann@acme.example"),
            ),
            ("arn:aws:sts::123456789012:assumed-role/AWSReservedSSO_Dev_0123456789abcdee/ann", None),
            ("arn:aws-cn:iam::123456789012:user/alice", None),
            ("arn:aws:iam::123456789012:root", None),
        ];
        for (caller, expected) in table {
            assert_eq!(who(caller, &rules).ok().map(String::from).as_deref(), expected, "{caller}");
        }
        assert_eq!(
            who("arn:aws:iam::999999999999:user/alice", &rules),
            Err(IdentifyError::UntrustedAccount("999999999999".to_owned()))
        );
    }

    #[test]
    fn a_session_name_is_no_identity_elsewhere() {
        assert!(rule("arn:aws:iam::123456789012:role/dev", "{{session}}", false).check(&trusted()).is_err());
        assert!(rule("arn:aws:iam::123456789012:role/dev", "{{session}}", true).check(&trusted()).is_err());
        let star =
            rule("arn:aws:iam::123456789012:role/AWSReservedSSO_*_0123456789abcdef", "{{session}}", true);
        assert!(star.check(&trusted()).is_err());
    }

    #[test]
    fn rules_that_match_the_world_do_not_load() {
        for arn in [
            "arn:aws:iam::123456789012:role/*",
            "arn:aws:iam::*:role/dev",
            "arn:aws:iam::999999999999:role/dev",
            "arn:aws:iam::123456789012:root",
            "arn:aws:s3:::bucket",
            "*",
        ] {
            assert!(rule(arn, "x", false).check(&trusted()).is_err(), "{arn}");
        }
    }

    #[test]
    fn two_rules_that_disagree_are_refused() {
        let rules = [
            rule("arn:aws:iam::123456789012:user/al*", "a", false),
            rule("arn:aws:iam::123456789012:user/alice", "b", false),
        ];
        assert!(matches!(
            who("arn:aws:iam::123456789012:user/alice", &rules),
            Err(IdentifyError::Ambiguous(..))
        ));
    }

    #[test]
    fn a_pinned_id_must_fit() {
        let mut pinned = rule("arn:aws:iam::123456789012:role/dev", "dev", false);
        pinned.unique_id = Some("AROAOTHER".to_owned());
        assert!(who("arn:aws:sts::123456789012:assumed-role/dev/x", &[pinned.clone()]).is_err());
        pinned.unique_id = Some("AROAX".to_owned());
        assert!(who("arn:aws:sts::123456789012:assumed-role/dev/x", &[pinned]).is_ok());
    }
}
