//! Db users in the plan: who exists, in which groups, how they sign in, and whether Keystile owns their
//! password. Pure.

use std::collections::HashSet;

use keystile_model::arn::Arn;
use keystile_model::cloud::{Tags, UserRecord};
use keystile_model::database::DatabaseKind;
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity};
use keystile_model::name::DbUserName;
use keystile_model::report::{Planned, ScopeId};

use super::brake;
use super::judge::plain;
use super::plan::{Note, Plan, PlanOptions, Step, Steps, Verb, push};
use super::seen::{Known, Seen, SeenTags, SeenUsers};
use crate::matchers::ReadyMatcher;

/// The owner's word that Keystile may rotate a user's password.
const MANAGED_TAG: &str = "keystile.dev/managed";
/// Teleport's, where a matcher adopts it.
const TELEPORT_TAG: &str = "teleport.dev/managed";
/// Longest access string that is kept, in characters.
const MAX_ACCESS: usize = 4_096;

/// The word for a scope of db users.
#[must_use]
pub fn user_scope(account: &str, region: &str, service: DbUserService) -> ScopeId {
    let kind = match service {
        DbUserService::Elasticache => "elasticache-users",
        DbUserService::Memorydb => "memorydb-users",
    };
    ScopeId { account: account.to_owned(), region: region.to_owned(), kind: kind.to_owned() }
}

/// The services whose users a type of database has.
#[must_use]
pub fn service_of(kind: DatabaseKind) -> Option<DbUserService> {
    match kind {
        DatabaseKind::Elasticache | DatabaseKind::ElasticacheServerless => Some(DbUserService::Elasticache),
        DatabaseKind::Memorydb => Some(DbUserService::Memorydb),
        DatabaseKind::Static => None,
    }
}

pub(crate) fn plan(
    seen: &Seen,
    matchers: &[ReadyMatcher],
    known: &Known,
    options: &PlanOptions,
    plan: &mut Plan,
    steps: &mut Steps,
) {
    let mut listed = HashSet::new();
    for scope in &seen.users {
        let adopt = matchers.iter().any(|m| {
            m.spec.adopt_teleport
                && m.spec.types.iter().any(|kind| {
                    service_of(*kind) == Some(scope.service)
                        && m.covers(&scope.id.account, &scope.id.region, *kind)
                })
        });
        for (record, tags) in &scope.users {
            listed.insert(record.arn.as_str());
            let before = known.db_users.get(&record.arn);
            match db_user(scope, record, tags, adopt, before) {
                Ok(after) => {
                    warn_if_open(&after, plan);
                    write(scope, before, after, steps);
                }
                Err(reason) => plan.warnings.push(format!(
                    "{}: db user {:?} is left out: {reason}",
                    scope.id,
                    plain(&record.name, 80)
                )),
            }
        }
    }
    remove_gone(seen, matchers, known, options, &listed, plan, steps);
}

fn db_user(
    scope: &SeenUsers,
    record: &UserRecord,
    tags: &SeenTags,
    adopt: bool,
    before: Option<&DbUser>,
) -> Result<DbUser, String> {
    let arn = Arn::parse(record.arn.clone()).map_err(|_| "bad ARN".to_owned())?;
    if arn.account() != scope.id.account || arn.region() != scope.id.region {
        return Err("ARN of another account or region".to_owned());
    }
    let name = DbUserName::parse(record.name.clone()).map_err(|error| error.to_string())?;
    let auth = record.auth.ok_or("its way to sign in is unknown")?;
    let managed = match tags {
        SeenTags::Read(tags) => is_managed(tags, adopt),
        SeenTags::Unread => before.is_some_and(|before| before.managed),
    };
    Ok(DbUser {
        arn,
        id: plain(&record.id, 256),
        name,
        service: scope.service,
        auth,
        status: plain(&record.status, 40).to_ascii_lowercase(),
        access_string: plain(&record.access_string, MAX_ACCESS),
        groups: record.groups.clone(),
        // Also of an IAM user, which rotation leaves alone and says so.
        managed,
    })
}

/// Managed users among what a plan would write.
pub(crate) fn managed(steps: &[Step]) -> Vec<DbUser> {
    let written = steps.iter().flat_map(|step| &step.changes).filter_map(|change| match change {
        Change::Put(Entity::DbUser(user)) if user.managed => Some((**user).clone()),
        _ => None,
    });
    written.collect()
}

fn is_managed(tags: &Tags, adopt: bool) -> bool {
    let says = |key: &str| tags.get(key).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    says(MANAGED_TAG) || (adopt && says(TELEPORT_TAG))
}

fn warn_if_open(user: &DbUser, plan: &mut Plan) {
    let on = user.access_string.split_whitespace().any(|word| word == "on");
    if user.name.as_str() == "default" && user.auth == DbUserAuth::None && on && !user.groups.is_empty() {
        let groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
        plan.warnings.push(format!(
            "{}: the default user is on and has no password (groups {}): whoever reaches the network is in",
            user.arn,
            groups.join(", ")
        ));
    }
}

fn write(scope: &SeenUsers, before: Option<&DbUser>, after: DbUser, steps: &mut Steps) {
    if before == Some(&after) {
        return;
    }
    let (verb, reason) = match before {
        None => (Verb::Add, "new".to_owned()),
        Some(before) => (Verb::Change, difference(before, &after)),
    };
    let arn = after.arn.to_string();
    let step = steps.entry(arn.clone()).or_default();
    step.notes.push(note(verb, &scope.id, arn, reason));
    push(step, Change::Put(Entity::DbUser(Box::new(after))));
}

fn note(verb: Verb, scope: &ScopeId, arn: String, reason: String) -> Note {
    Note {
        verb,
        db_user: true,
        planned: Planned { name: arn, reason, arn: String::new() },
        scope: scope.clone(),
        before: None,
        after: None,
    }
}

fn difference(before: &DbUser, after: &DbUser) -> String {
    let parts = [
        ("name", before.name != after.name),
        ("auth", before.auth != after.auth),
        ("status", before.status != after.status),
        ("access string", before.access_string != after.access_string),
        ("groups", before.groups != after.groups),
        ("managed", before.managed != after.managed),
    ];
    let named: Vec<&str> = parts.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    named.join(", ")
}

fn remove_gone(
    seen: &Seen,
    matchers: &[ReadyMatcher],
    known: &Known,
    options: &PlanOptions,
    listed: &HashSet<&str>,
    plan: &mut Plan,
    steps: &mut Steps,
) {
    let mut gone: std::collections::BTreeMap<ScopeId, Vec<&DbUser>> = std::collections::BTreeMap::new();
    for user in known.db_users.values().filter(|user| !listed.contains(user.arn.as_str())) {
        let scope = user_scope(user.arn.account(), user.arn.region(), user.service);
        let vanished = match seen.users.iter().find(|s| s.id == scope) {
            Some(s) => s.failure.is_none(),
            None => {
                let looked = matchers.iter().any(|m| {
                    m.spec.types.iter().any(|kind| {
                        service_of(*kind) == Some(user.service)
                            && m.covers(&scope.account, &scope.region, *kind)
                    })
                });
                !looked && !seen.uncertain.contains_key(&scope.account)
            }
        };
        if vanished {
            gone.entry(scope).or_default().push(user);
        }
    }
    for (scope, users) in gone {
        let of_scope = |u: &&DbUser| user_scope(u.arn.account(), u.arn.region(), u.service) == scope;
        let all = known.db_users.values().filter(of_scope).count();
        if let Some(alarm) = brake::held(&scope, users.len(), all, "db users", &options.allow_removals) {
            plan.alarms.push(alarm);
            continue;
        }
        for user in users {
            let arn = user.arn.to_string();
            let step = steps.entry(arn.clone()).or_default();
            push(step, Change::Delete(Entity::DbUser(Box::new(user.clone())).key()));
            step.notes.push(note(Verb::Remove, &scope, arn, "gone".to_owned()));
        }
    }
}
