//! Which roles a change of labels lets in: what the audit says of it. Pure.

use crate::labels::Labels;
use crate::name::RoleName;
use crate::policy::Policy;
use crate::role::CompiledRole;

/// Roles that reach a database with the labels `after` and did not with `before`, by name.
#[must_use]
pub fn roles_gained(policy: &Policy, before: &Labels, after: &Labels) -> Vec<RoleName> {
    policy
        .roles()
        .filter_map(|role| policy.role(&role.name))
        .filter(|role| reaches(role, after) && !reaches(role, before))
        .map(|role| role.name.clone())
        .collect()
}

/// Whether a role lets anybody in at all: it selects the labels for some db user, and does not itself deny
/// the whole database by them.
fn reaches(role: &CompiledRole, labels: &Labels) -> bool {
    let deny = &role.deny;
    let only_labels = deny.db_users.is_empty()
        && deny.commands.is_empty()
        && deny.keys.is_empty()
        && deny.channels.is_empty();
    let denied = deny.has_labels && deny.labels.matches(labels) && (role.greedy_deny || only_labels);
    role.allow.labels.matches(labels) && !role.allow.db_users.is_empty() && !denied
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::Entity;
    use crate::labels::OneOrMany;
    use crate::role::{Conditions, Role, RoleOptions, RoleVersion};

    fn role(name: &str, allow: &str, deny: Option<&str>) -> Entity {
        let select = |value: &str| Conditions {
            db_labels: [("env".to_owned(), OneOrMany::One(value.to_owned()))].into(),
            db_users: vec!["*".to_owned()],
            ..Conditions::default()
        };
        Entity::Role(Box::new(Role {
            name: RoleName::parse(name).unwrap(),
            version: RoleVersion::Ks1,
            description: String::new(),
            allow: select(allow),
            deny: deny.map(|value| Conditions { db_users: vec![], ..select(value) }).unwrap_or_default(),
            options: RoleOptions::default(),
        }))
    }

    #[test]
    fn a_new_label_and_a_lost_deny_let_in() {
        let policy = Policy::new([role("dev", "dev", None), role("all", "*", Some("prod"))]);
        let env = |value: &str| Labels::from([("env".to_owned(), value.to_owned())]);
        let names = |before: &Labels, after: &Labels| -> Vec<String> {
            roles_gained(&policy, before, after).iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&env("prod"), &env("dev")), ["all", "dev"]);
        assert_eq!(names(&env("stage"), &env("dev")), ["dev"]);
        assert!(names(&env("dev"), &env("prod")).is_empty());
        assert!(names(&env("dev"), &env("dev")).is_empty());
    }
}
