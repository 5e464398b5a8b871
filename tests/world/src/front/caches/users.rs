//! Changes of users and groups: what is allowed now, and what it will touch.
//!
//! Pure decisions on a [`World`]: they mark what becomes `modifying` and say what has to reach the
//! servers; nothing waits here. Both services share them and spell the refusals in their own way.

use super::changes::{Change, Effect};
use super::{Family, Group, User, World};
use crate::fixture::CacheAuth;

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("User {0} not found.")]
    UserNotFound(String),
    #[error("User {name} has status {status}. Only active users can be modified.")]
    UserState { name: String, status: &'static str },
    #[error("User {0} already exists.")]
    UserExists(String),
    #[error("Group {0} already has a user with the name {1}.")]
    DuplicateName(String, String),
    #[error("Group {0} not found.")]
    GroupNotFound(String),
    #[error("Group {name} has status {status}. Only active groups can be modified.")]
    GroupState { name: String, status: &'static str },
    #[error("Group {0} already exists.")]
    GroupExists(String),
    #[error("{0}")]
    Value(String),
    #[error("{0}")]
    Combination(String),
}

/// How a request asks a user to authenticate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AskedAuth {
    /// `password`, `iam` or `no-password-required`.
    pub(crate) mode: Option<String>,
    pub(crate) mode_passwords: Vec<String>,
    /// The old, top-level form.
    pub(crate) passwords: Vec<String>,
    pub(crate) no_password: bool,
}

impl AskedAuth {
    /// What is asked, or `None` where nothing is said.
    pub(crate) fn read(self) -> Result<Option<CacheAuth>, Refusal> {
        let old = !self.passwords.is_empty() || self.no_password;
        if old && self.mode.is_some() {
            return Err(Refusal::Combination(
                "AuthenticationMode can't be used with Passwords or NoPasswordRequired.".into(),
            ));
        }
        if self.no_password && !self.passwords.is_empty() {
            return Err(Refusal::Combination("NoPasswordRequired can't be used with Passwords.".into()));
        }
        let without = |auth| {
            if self.mode_passwords.is_empty() {
                Ok(Some(auth))
            } else {
                Err(Refusal::Combination("Passwords can be given only with the type password.".into()))
            }
        };
        match self.mode.as_deref() {
            Some("password") => passwords(self.mode_passwords).map(Some),
            Some("iam") => without(CacheAuth::Iam),
            Some("no-password-required") => without(CacheAuth::None),
            Some(other) => Err(Refusal::Value(format!("Unknown authentication type {other}."))),
            None if self.no_password => Ok(Some(CacheAuth::None)),
            None if !self.passwords.is_empty() => passwords(self.passwords).map(Some),
            None => Ok(None),
        }
    }
}

fn passwords(list: Vec<String>) -> Result<CacheAuth, Refusal> {
    if list.is_empty() || list.len() > 2 {
        return Err(Refusal::Value("A user has one or two passwords.".into()));
    }
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, ',' | '"' | '/' | '@');
    if !list.iter().all(|text| (16..=128).contains(&text.len())) {
        return Err(Refusal::Value("Passwords length must be between 16-128 characters.".into()));
    }
    if !list.iter().all(|text| text.chars().all(legal)) {
        return Err(Refusal::Value(
            "Passwords may only have printable ASCII characters, and not , \" / @.".into(),
        ));
    }
    Ok(CacheAuth::Passwords(list))
}

/// Checks an access string as far as the API does.
pub(crate) fn access(text: &str) -> Result<String, Refusal> {
    if text.trim().is_empty() {
        return Err(Refusal::Value("The access string may not be blank.".into()));
    }
    let words = [
        "on",
        "off",
        "allkeys",
        "allchannels",
        "allcommands",
        "nocommands",
        "resetkeys",
        "resetchannels",
        "clearselectors",
    ];
    let legal = |word: &str| {
        words.contains(&word) || word.starts_with(['+', '-', '~', '%', '&', '(', ')']) || word.ends_with(')')
    };
    match text.split_whitespace().find(|word| !legal(word)) {
        Some(word) => Err(Refusal::Value(format!("Access string has an illegal part: {word}"))),
        None => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// Changes a user's password or access string.
pub(crate) fn modify(
    world: &mut World,
    family: Family,
    id: &str,
    auth: Option<CacheAuth>,
    access: Option<String>,
) -> Result<(User, Change), Refusal> {
    let user = active_user(world, family, id)?;
    let groups = world.groups_with(family, &user.id);
    let user =
        world.users.get_mut(&(family, id.to_owned())).ok_or_else(|| Refusal::UserNotFound(id.into()))?;
    if matches!(auth, Some(CacheAuth::Iam)) && user.id != user.name {
        return Err(Refusal::Value("A user with IAM authentication must have the same id and name.".into()));
    }
    if let Some(auth) = auth {
        user.auth = auth;
    }
    if let Some(access) = access {
        user.access = access;
    }
    let change = Change::start(world, family, vec![id.to_owned()], groups);
    let user = world.users.get(&(family, id.to_owned())).cloned();
    user.map(|user| (user, change)).ok_or_else(|| Refusal::UserNotFound(id.into()))
}

/// Makes a user; it is in no group yet.
pub(crate) fn create(world: &mut World, family: Family, user: User) -> Result<(User, Change), Refusal> {
    let legal = user.id.starts_with(|c: char| c.is_ascii_alphabetic())
        && user.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !legal || user.id.len() > 40 {
        return Err(Refusal::Value(
            "A user id is at most 40 letters, digits and hyphens, and starts with a letter.".into(),
        ));
    }
    if user.auth == CacheAuth::Iam && user.id != user.name {
        return Err(Refusal::Value("A user with IAM authentication must have the same id and name.".into()));
    }
    let key = (family, user.id.clone());
    if world.users.contains_key(&key) {
        return Err(Refusal::UserExists(user.id));
    }
    let id = user.id.clone();
    world.users.insert(key, user.clone());
    Ok((user, Change::start(world, family, vec![id], Vec::new())))
}

/// Deletes a user, out of its groups too.
pub(crate) fn delete(world: &mut World, family: Family, id: &str) -> Result<(User, Change), Refusal> {
    active_user(world, family, id)?;
    let groups = world.groups_with(family, id);
    let Some(user) = world.users.get_mut(&(family, id.to_owned())) else {
        return Err(Refusal::UserNotFound(id.into()));
    };
    user.deleting = true;
    let user = user.clone();
    for group in &groups {
        if let Some(group) = world.groups.get_mut(&(family, group.clone())) {
            group.to_remove.push(user.id.clone());
        }
    }
    Ok((user, Change::start(world, family, vec![id.to_owned()], groups)))
}

/// Puts users into a group and takes others out.
pub(crate) fn modify_group(
    world: &mut World,
    family: Family,
    id: &str,
    add: Vec<String>,
    remove: Vec<String>,
) -> Result<(Group, Change), Refusal> {
    let group =
        world.groups.get(&(family, id.to_owned())).ok_or_else(|| Refusal::GroupNotFound(id.into()))?;
    if group.busy > 0 {
        return Err(Refusal::GroupState { name: id.into(), status: group.status() });
    }
    if add.is_empty() && remove.is_empty() {
        return Err(Refusal::Combination("Name at least one user to add or to remove.".into()));
    }
    if let Some(missing) = remove.iter().find(|user| !group.users.contains(user)) {
        return Err(Refusal::UserNotFound(missing.clone()));
    }
    if let Some(twice) = add.iter().find(|user| group.users.contains(user)) {
        return Err(Refusal::Combination(format!("User {twice} is in the group already.")));
    }
    let staying: Vec<String> = group.users.iter().filter(|user| !remove.contains(user)).cloned().collect();
    for user in add.iter().chain(&remove) {
        let name = active_user(world, family, user)?.name;
        let taken = |other: &String| {
            world.users.get(&(family, other.clone())).is_some_and(|other| other.name == name)
        };
        if add.contains(user) && staying.iter().any(taken) {
            return Err(Refusal::DuplicateName(id.into(), name));
        }
    }
    if let Some(group) = world.groups.get_mut(&(family, id.to_owned())) {
        (group.to_add, group.to_remove) = (add.clone(), remove.clone());
    }
    let touched = add.into_iter().chain(remove).collect();
    let change = Change::start(world, family, touched, vec![id.to_owned()]);
    let group = world.groups.get(&(family, id.to_owned())).cloned();
    group.map(|group| (group, change)).ok_or_else(|| Refusal::GroupNotFound(id.into()))
}

/// Makes a group of users that are active.
pub(crate) fn create_group(
    world: &mut World,
    family: Family,
    id: &str,
    engine: &str,
    users: Vec<String>,
) -> Result<(Group, Change), Refusal> {
    let key = (family, id.to_owned());
    if world.groups.contains_key(&key) {
        return Err(Refusal::GroupExists(id.into()));
    }
    for user in &users {
        active_user(world, family, user)?;
    }
    let group = Group { id: id.into(), engine: engine.into(), users, ..Group::default() };
    world.groups.insert(key, group.clone());
    Ok((group, Change::start(world, family, Vec::new(), vec![id.to_owned()])))
}

fn active_user(world: &World, family: Family, id: &str) -> Result<User, Refusal> {
    let user = world.users.get(&(family, id.to_owned())).ok_or_else(|| Refusal::UserNotFound(id.into()))?;
    if user.status() != "active" {
        return Err(Refusal::UserState { name: user.name.clone(), status: user.status() });
    }
    Ok(user.clone())
}

/// What the servers of a group's caches must be told of these users.
pub(crate) fn effects(world: &World, family: Family, users: &[String], group: &Group) -> Vec<Effect> {
    let leaves = |user: &User| user.deleting || group.to_remove.contains(&user.id);
    let found = users.iter().filter_map(|id| world.users.get(&(family, id.clone())));
    let member = |user: &&User| group.users.contains(&user.id) || group.to_add.contains(&user.id);
    found
        .filter(member)
        .map(|user| {
            if leaves(user) {
                Effect::Remove { name: user.name.clone() }
            } else {
                Effect::Set { name: user.name.clone(), auth: user.auth.clone(), access: user.access.clone() }
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_one_or_two_of_16_to_128_characters() {
        let ask = |list: &[&str]| {
            AskedAuth {
                mode: Some("password".into()),
                mode_passwords: list.iter().map(|s| (*s).to_owned()).collect(),
                ..AskedAuth::default()
            }
            .read()
        };
        let ok = "x".repeat(16);
        assert!(ask(&[&ok]).is_ok() && ask(&[&ok, &ok]).is_ok());
        assert!(ask(&[]).is_err() && ask(&[&ok, &ok, &ok]).is_err());
        assert!(ask(&[&"x".repeat(15)]).is_err() && ask(&[&"x".repeat(129)]).is_err());
        assert!(ask(&["has/a/slash/in/it/somewhere"]).is_err());
    }

    #[test]
    fn the_old_form_does_not_mix_with_the_new_one() {
        let both =
            AskedAuth { mode: Some("iam".into()), passwords: vec!["x".repeat(16)], ..AskedAuth::default() };
        assert!(matches!(both.read(), Err(Refusal::Combination(_))));
        assert_eq!(AskedAuth::default().read(), Ok(None));
    }

    #[test]
    fn an_access_string_may_not_carry_passwords() {
        assert!(access("on ~* +@all").is_ok());
        for wrong in ["", "  ", "on >secret", "on #abc", "on nopass"] {
            assert!(access(wrong).is_err(), "{wrong}");
        }
    }
}
