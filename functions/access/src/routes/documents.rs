//! Documents: list, read, write, remove. Each change is audited with before and after, each refusal too.

use keystile_api::{DocumentList, WriteAnswer};
use keystile_model::audit::EventKind;
use keystile_model::document::Document;
use keystile_model::feed::{Change, Entity, EntityKey, EntityKind};
use keystile_model::name::RoleName;
use keystile_model::policy::Policy;
use serde_json::{Value, json};

use crate::app::{Call, authorize};
use crate::change::{Plan, unwritable, write};
use crate::documents::{self, Kind, Reading};
use crate::failure::Failure;
use crate::handler::json as answer_json;

/// Everything under `/v1/documents/KIND`.
pub(super) async fn answer(call: &Call<'_>, kind: &str, name: Option<&str>) -> Result<Value, Failure> {
    let kind = Kind::parse(kind)?;
    let writing = call.request.method != "GET";
    let outcome = match (call.request.method.as_str(), name) {
        ("PUT", Some(name)) => put(call, kind, name).await,
        ("DELETE", Some(name)) => remove(call, kind, name).await,
        (_, Some(name)) => read(call, kind, name).await,
        (_, None) => list(call, kind).await,
    };
    if let Err(failure) = &outcome
        && (writing || failure.code() == keystile_api::ErrorCode::Denied)
    {
        let user = call.user.name.as_str();
        let name: String = name.unwrap_or_default().chars().take(256).collect();
        let details =
            vec![("kind", json!(kind.word())), ("name", json!(name)), ("method", json!(call.request.method))];
        crate::audit::refused(call.app, call.request, EventKind::PolicyDenied, user, failure, details);
    }
    outcome
}

async fn list(call: &Call<'_>, kind: Kind) -> Result<Value, Failure> {
    call.authorize(kind.word(), "list")?;
    answer_json(&DocumentList { documents: all(call, kind).await })
}

async fn read(call: &Call<'_>, kind: Kind, name: &str) -> Result<Value, Failure> {
    call.authorize(kind.word(), "read")?;
    let all = all(call, kind).await;
    let document = match all.iter().find(|document| document.metadata.name == name) {
        Some(document) => document,
        None if kind == Kind::DbUser => db_user_by_name(&all, name)?,
        None => return Err(unknown(kind, name)),
    };
    serde_json::to_value(document).map_err(|error| unwritable(&error))
}

async fn all(call: &Call<'_>, kind: Kind) -> Vec<Document> {
    match kind {
        Kind::DbServer => {
            let beats = super::databases::heartbeats(call.app).await;
            documents::db_servers(&call.policy, &beats, call.now)
        }
        Kind::Proxy => documents::proxies(&super::databases::heartbeats(call.app).await, call.now),
        stored => documents::all(&call.policy, stored),
    }
}

/// Db users are kept by ARN, and people know their names.
fn db_user_by_name<'a>(all: &'a [Document], name: &str) -> Result<&'a Document, Failure> {
    let mut found = all.iter().filter(|document| document.spec["name"] == name);
    match (found.next(), found.next()) {
        (Some(document), None) => Ok(document),
        (Some(one), Some(other)) => {
            let arns = [one, other].into_iter().chain(found).map(|document| document.metadata.name.clone());
            Err(Failure::conflict(format!("several db users are called {name:?}")).choices(arns.collect()))
        }
        (None, _) => Err(unknown(Kind::DbUser, name)),
    }
}

fn unknown(kind: Kind, name: &str) -> Failure {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
    Failure::not_found(format!("there is no {} {shown:?}", kind.word()))
        .next(format!("keystile get {}", kind.word()))
}

/// What a write did, with what the audit tells of it.
struct Written {
    outcome: &'static str,
    warnings: Vec<String>,
    /// Documents before and after.
    steps: Vec<(EntityKey, Option<Document>, Option<Document>)>,
}

async fn put(call: &Call<'_>, kind: Kind, name: &str) -> Result<Value, Failure> {
    if kind.entity().is_none() {
        return Err(documents::read_only(kind));
    }
    // The right first: who may not write learns nothing of what would be legal.
    may_write(call, &call.policy, kind, &["create", "update"])?;
    let document = documents::parse(&call.request.body)?;
    let id = (call.app.ids)();
    finish(call, |policy| {
        may_write(call, policy, kind, &["create", "update"])?;
        let settings = policy.settings().ok_or_else(crate::failure::not_set_up)?;
        let reading = Reading { policy, settings, config: &call.app.config, now: call.now, id };
        let read = reading.document(kind, name, document.clone())?;
        let key = read.entity.key();
        let before = documents::stored(policy, key.kind, &key.id);
        if before.as_ref() == Some(&read.entity) {
            let written = Written { outcome: "unchanged", warnings: read.warnings, steps: Vec::new() };
            return Ok(Plan { changes: Vec::new(), outcome: written });
        }
        let written = Written {
            outcome: if before.is_some() { "updated" } else { "created" },
            warnings: read.warnings,
            steps: vec![(
                key,
                before.as_ref().and_then(documents::of_entity),
                documents::of_entity(&read.entity),
            )],
        };
        Ok(Plan { changes: vec![Change::Put(read.entity)], outcome: written })
    })
    .await
}

async fn remove(call: &Call<'_>, kind: Kind, name: &str) -> Result<Value, Failure> {
    let Some(entity) = kind.entity() else { return Err(documents::read_only(kind)) };
    finish(call, |policy| {
        may_write(call, policy, kind, &["delete"])?;
        let key = EntityKey { kind: entity, id: name.to_owned() };
        let broken = entity == EntityKind::Role
            && RoleName::parse(name).is_ok_and(|name| policy.broken_role(&name).is_some());
        let before = documents::stored(policy, entity, name);
        if before.is_none() && !broken {
            return Err(not_removable(policy, kind, name));
        }
        let mut steps = vec![(key, before.as_ref().and_then(documents::of_entity), None)];
        let mut warnings = Vec::new();
        match before {
            Some(Entity::User(_)) => rules_of(policy, name, &mut steps, &mut warnings)?,
            Some(Entity::Role(_)) => {
                let holders = policy.users().into_iter().filter(|user| user.roles.contains(name)).count();
                if holders > 0 {
                    warnings.push(format!("{holders} users hold the role; it gives them nothing now"));
                }
            }
            _ => {}
        }
        let changes = steps.iter().map(|(key, _, _)| Change::Delete(key.clone())).collect();
        Ok(Plan { changes, outcome: Written { outcome: "removed", warnings, steps } })
    })
    .await
}

/// The rules that name a user go with it: a later user of the same name is somebody else.
fn rules_of(
    policy: &Policy,
    name: &str,
    steps: &mut Vec<(EntityKey, Option<Document>, Option<Document>)>,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    for rule in policy.arn_rules().filter(|rule| rule.user == name) {
        let entity = Entity::ArnRule((**rule).clone());
        steps.push((entity.key(), documents::of_entity(&entity), None));
        warnings.push(format!("arn_rule {} went with the user", rule.name));
    }
    if steps.len() > keystile_model::feed::MAX_CHANGES {
        return Err(Failure::conflict("too many ARN rules name this user: remove some of them first"));
    }
    Ok(())
}

fn not_removable(policy: &Policy, kind: Kind, name: &str) -> Failure {
    match kind {
        Kind::Role if RoleName::parse(name).is_ok_and(|name| policy.role(&name).is_some()) => {
            Failure::conflict(format!("role {name} is built in"))
        }
        Kind::Db if policy.database(name).is_some() => {
            Failure::conflict(format!("{name} was discovered, not written down"))
                .why("it goes when AWS no longer has it, or when no matcher finds it")
        }
        _ => unknown(kind, name),
    }
}

fn may_write(call: &Call<'_>, policy: &Policy, kind: Kind, verbs: &[&str]) -> Result<(), Failure> {
    let subject = call.subject();
    for verb in verbs {
        authorize(policy, &subject, kind.word(), verb, call.now)?;
    }
    if kind == Kind::ArnRule { documents::grants(policy, &subject, call.now) } else { Ok(()) }
}

async fn finish(
    call: &Call<'_>,
    plan: impl Fn(&Policy) -> Result<Plan<Written>, Failure>,
) -> Result<Value, Failure> {
    let (written, revision) = write(call, plan).await?;
    let user = call.user.name.as_str();
    for (key, before, after) in &written.steps {
        // A static database is called by the kind that people know.
        let kind = if key.kind == EntityKind::StaticDatabase { "db" } else { key.kind.as_str() };
        crate::audit::changed(call.app, call.request, user, (kind, &key.id), before.as_ref(), after.as_ref());
    }
    answer_json(&WriteAnswer { outcome: written.outcome.to_owned(), revision, warnings: written.warnings })
}
