//! Entities of the fixture's policy.

use std::collections::{BTreeMap, BTreeSet};

use keystile_model::arn::Arn;
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::Entity;
use keystile_model::labels::OneOrMany;
use keystile_model::name::{DbUserName, RoleName, UserName};
use keystile_model::role::{Conditions, Role, RoleOptions, RoleVersion};
use keystile_model::user::User;

pub fn user(name: &str, roles: &[&str]) -> Entity {
    Entity::User(User {
        name: UserName::parse(name).unwrap(),
        roles: roles.iter().map(|role| RoleName::parse(*role).unwrap()).collect(),
        traits: BTreeMap::new(),
        not_before: None,
    })
}

pub fn role(name: &str, env: &str, users: &[&str], commands: &[&str], keys: &[&str]) -> Entity {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let label = if env == "*" { "*" } else { "env" };
    Entity::Role(Box::new(Role {
        name: RoleName::parse(name).unwrap(),
        version: RoleVersion::Ks1,
        description: String::new(),
        allow: Conditions {
            db_labels: BTreeMap::from([(label.to_owned(), OneOrMany::One(env.to_owned()))]),
            db_users: texts(users),
            db_commands: texts(commands),
            db_keys: texts(keys),
            ..Conditions::default()
        },
        deny: Conditions::default(),
        options: RoleOptions::default(),
    }))
}

pub fn db_user(name: &str, group: &str, auth: DbUserAuth) -> Entity {
    Entity::DbUser(Box::new(DbUser {
        arn: Arn::parse(format!("arn:aws:elasticache:us-east-1:1:user:{name}")).unwrap(),
        id: name.to_owned(),
        name: DbUserName::parse(name).unwrap(),
        service: DbUserService::Elasticache,
        auth,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: BTreeSet::from([group.to_owned()]),
        managed: false,
    }))
}
