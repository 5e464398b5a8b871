//! Users and user groups.

use std::sync::Arc;

use super::super::users::{AskedAuth, Refusal};
use super::super::{Clouds, Group, User, World, users};
use super::{Answer, EC, list, needed, paged, refused, set_tags, value};
use crate::fixture::{CacheAuth, Kind};
use crate::front::wire::{ApiError, Form, Xml};

pub(super) fn describe_users(clouds: &Clouds, world: &World, form: &Form) -> Answer {
    let mut found: Vec<&User> = world.users_of(EC).collect();
    if let Some(engine) = form.text("Engine") {
        found.retain(|user| user.engine == engine.to_lowercase());
    }
    if let Some(id) = form.text("UserId") {
        found.retain(|user| user.id == id.to_lowercase());
        if found.is_empty() {
            return Err(refused(Refusal::UserNotFound(id.into())));
        }
    }
    for n in 1.. {
        let Some(name) = form.text(&format!("Filters.member.{n}.Name")) else { break };
        let values = form.list(&format!("Filters.member.{n}.Values"));
        found.retain(|user| match name {
            "user-id" => values.contains(&user.id),
            "user-name" => values.contains(&user.name),
            "status" => values.iter().any(|value| value == user.status()),
            _ => true,
        });
    }
    let found = paged(clouds, form, found.into_iter(), |user| user.id.clone())?;
    Ok(list("Users", "member", found, "Marker", |user| render_user(world, user)))
}

pub(super) fn render_user(world: &World, user: &User) -> Vec<Xml> {
    let (kind, count) = match &user.auth {
        CacheAuth::Iam => ("iam", 0),
        CacheAuth::Passwords(list) => ("password", list.len()),
        CacheAuth::None => ("no-password", 0),
    };
    let mut authentication = vec![Xml::text("Type", kind)];
    if count > 0 {
        authentication.push(Xml::text("PasswordCount", count));
    }
    vec![
        Xml::text("UserId", &user.id),
        Xml::text("UserName", &user.name),
        Xml::text("Status", user.status()),
        Xml::text("Engine", &user.engine),
        Xml::text("MinimumEngineVersion", if user.auth == CacheAuth::Iam { "7.2" } else { "7.0" }),
        Xml::text("AccessString", &user.access),
        Xml::texts("UserGroupIds", "member", &world.groups_with(EC, &user.id)),
        Xml::node("Authentication", authentication),
        Xml::text("ARN", world.arn(EC, "user", &user.id)),
    ]
}

pub(super) fn describe_user_groups(clouds: &Clouds, world: &World, form: &Form) -> Answer {
    let mut found: Vec<&Group> = world.groups_of(EC).collect();
    if let Some(id) = form.text("UserGroupId") {
        found.retain(|group| group.id == id.to_lowercase());
        if found.is_empty() {
            return Err(refused(Refusal::GroupNotFound(id.into())));
        }
    }
    let found = paged(clouds, form, found.into_iter(), |group| group.id.clone())?;
    Ok(list("UserGroups", "member", found, "Marker", |group| render_group(world, group)))
}

pub(super) fn render_group(world: &World, group: &Group) -> Vec<Xml> {
    let ids = |kind: Kind| -> Vec<String> {
        world
            .caches_with(EC, &group.id)
            .filter(|cache| cache.resource.kind == kind)
            .map(|cache| cache.resource.id.clone())
            .collect()
    };
    let mut fields = vec![
        Xml::text("UserGroupId", &group.id),
        Xml::text("Status", group.status()),
        Xml::text("Engine", &group.engine),
        Xml::texts("UserIds", "member", &group.users),
        Xml::text("MinimumEngineVersion", "7.2"),
        Xml::texts("ReplicationGroups", "member", &ids(Kind::ReplicationGroup)),
        Xml::texts("ServerlessCaches", "member", &ids(Kind::Serverless)),
        Xml::text("ARN", world.arn(EC, "usergroup", &group.id)),
    ];
    if !group.to_add.is_empty() || !group.to_remove.is_empty() {
        let pending = vec![
            Xml::texts("UserIdsToRemove", "member", &group.to_remove),
            Xml::texts("UserIdsToAdd", "member", &group.to_add),
        ];
        fields.push(Xml::node("PendingChanges", pending));
    }
    fields
}

pub(super) fn asked_auth(form: &Form) -> Result<Option<CacheAuth>, ApiError> {
    let asked = AskedAuth {
        mode: form.text("AuthenticationMode.Type").map(str::to_owned),
        mode_passwords: form.list("AuthenticationMode.Passwords"),
        passwords: form.list("Passwords"),
        no_password: form.text("NoPasswordRequired") == Some("true"),
    };
    asked.read().map_err(refused)
}

pub(super) fn create_user(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let auth = asked_auth(form)?
        .ok_or_else(|| value("Give Passwords, NoPasswordRequired or AuthenticationMode."))?;
    let user = User {
        id: needed(form, "UserId")?.to_lowercase(),
        name: needed(form, "UserName")?.to_owned(),
        engine: needed(form, "Engine")?.to_lowercase(),
        access: users::access(needed(form, "AccessString")?).map_err(refused)?,
        auth,
        busy: 0,
        deleting: false,
    };
    let (user, change) = users::create(world, EC, user).map_err(refused)?;
    set_tags(world, world.arn(EC, "user", &user.id), form.tags());
    clouds.run(change);
    Ok(render_user(world, &user))
}

pub(super) fn modify_user(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "UserId")?.to_lowercase();
    let auth = asked_auth(form)?;
    let access = match (form.text("AccessString"), form.text("AppendAccessString")) {
        (Some(_), Some(_)) => {
            return Err(refused(Refusal::Combination(
                "AccessString and AppendAccessString exclude each other.".into(),
            )));
        }
        (None, Some(more)) => {
            let old = world.users.get(&(EC, id.clone())).map(|user| user.access.clone()).unwrap_or_default();
            Some(format!("{old} {more}"))
        }
        (all, None) if form.has("AccessString") => Some(all.unwrap_or_default().to_owned()),
        _ => None,
    };
    let access = access.map(|text| users::access(&text)).transpose().map_err(refused)?;
    let (user, change) = users::modify(world, EC, &id, auth, access).map_err(refused)?;
    clouds.run(change);
    Ok(render_user(world, &user))
}

pub(super) fn delete_user(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "UserId")?.to_lowercase();
    let (user, change) = users::delete(world, EC, &id).map_err(refused)?;
    clouds.run(change);
    Ok(render_user(world, &user))
}

pub(super) fn create_user_group(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "UserGroupId")?.to_lowercase();
    let engine = needed(form, "Engine")?.to_lowercase();
    let (group, change) =
        users::create_group(world, EC, &id, &engine, form.list("UserIds")).map_err(refused)?;
    set_tags(world, world.arn(EC, "usergroup", &id), form.tags());
    clouds.run(change);
    Ok(render_group(world, &group))
}

pub(super) fn modify_user_group(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "UserGroupId")?.to_lowercase();
    let (add, remove) = (form.list("UserIdsToAdd"), form.list("UserIdsToRemove"));
    let (group, change) = users::modify_group(world, EC, &id, add, remove).map_err(refused)?;
    clouds.run(change);
    Ok(render_group(world, &group))
}
