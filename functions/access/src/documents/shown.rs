//! Entities as documents: what `keystile get` prints, and what `keystile create` takes again.

use keystile_api::{ArnRuleSpec, LockSpec, UserSpec};
use keystile_model::database::{Database, DatabaseAuth, DatabaseKind};
use keystile_model::db_user::DbUser;
use keystile_model::document::{DatabaseAuthSpec, Document, Metadata, RoleSpec, StaticDatabaseSpec, VERSION};
use keystile_model::feed::Entity;
use keystile_model::labels::Labels;
use keystile_model::matcher::Matcher;
use keystile_model::policy::{Lock, Policy, Settings};
use keystile_model::role::Role;
use keystile_model::runtime::{ProxyHeartbeat, combined_health};
use keystile_model::user::{ArnRule, User};
use serde_json::{Value, json};

fn document(kind: &str, name: &str, spec: Value) -> Document {
    Document {
        kind: kind.to_owned(),
        version: VERSION.to_owned(),
        metadata: Metadata { name: name.to_owned(), labels: Labels::new(), description: String::new() },
        spec,
    }
}

/// Our own types always turn into JSON; should one not, its spec is empty and the log says so.
fn spec(of: &impl serde::Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_else(|error| {
        tracing::error!(%error, "a spec cannot be shown");
        Value::Null
    })
}

pub(super) fn entity(entity: &Entity) -> Option<Document> {
    match entity {
        Entity::Settings(item) => Some(settings(item)),
        Entity::User(item) => Some(user(item)),
        Entity::ArnRule(item) => Some(arn_rule(item)),
        Entity::Role(item) => Some(role(item)),
        Entity::Lock(item) => Some(lock(item)),
        Entity::Matcher(item) => Some(matcher(item)),
        Entity::StaticDatabase(item) | Entity::Database(item) => Some(database(item)),
        Entity::DatabaseAuth(item) => Some(db_auth(item)),
        Entity::DbUser(item) => Some(db_user(item)),
        Entity::CaCertificate(item) => Some(document("ca", &item.id(), spec(item))),
        Entity::NameClaim(_) | Entity::Rotation(_) => None,
    }
}

pub(super) fn role(role: &Role) -> Document {
    let body = RoleSpec { allow: role.allow.clone(), deny: role.deny.clone(), options: role.options.clone() };
    let mut document = document("role", role.name.as_str(), spec(&body));
    document.version = serde_json::to_value(role.version)
        .ok()
        .and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default();
    document.metadata.description.clone_from(&role.description);
    document
}

pub(super) fn matcher(matcher: &Matcher) -> Document {
    let mut document = document("matcher", &matcher.name, spec(&matcher.spec));
    document.metadata.description.clone_from(&matcher.description);
    document
}

pub(super) fn user(user: &User) -> Document {
    let body =
        UserSpec { roles: user.roles.iter().map(ToString::to_string).collect(), traits: user.traits.clone() };
    document("user", user.name.as_str(), spec(&body))
}

pub(super) fn arn_rule(rule: &ArnRule) -> Document {
    let body = ArnRuleSpec {
        arn: rule.arn.clone(),
        user: rule.user.clone(),
        sso: rule.sso,
        unique_id: rule.unique_id.clone(),
    };
    document("arn_rule", &rule.name, spec(&body))
}

pub(super) fn lock(lock: &Lock) -> Document {
    let expires = lock
        .expires_at
        .and_then(|at| time::OffsetDateTime::from_unix_timestamp(at).ok())
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok());
    let body = LockSpec { target: lock.target.clone(), message: lock.message.clone(), expires };
    document("lock", &lock.name, spec(&body))
}

pub(super) fn settings(settings: &Settings) -> Document {
    document("settings", "settings", spec(settings))
}

pub(super) fn db_user(user: &DbUser) -> Document {
    document("db_user", user.arn.as_str(), spec(user))
}

/// Db users with the databases that they belong to, and how their rotation stands.
pub(super) fn db_users(policy: &Policy) -> Vec<Document> {
    let mut documents: Vec<Document> = policy
        .db_users()
        .map(|user| {
            let mut document = db_user(user);
            if let Some(fields) = document.spec.as_object_mut() {
                let serves = policy.discovered_databases().filter(|database| user.serves(database));
                let names: Vec<&str> = serves.map(|database| database.name.as_str()).collect();
                fields.insert("databases".to_owned(), json!(names));
                if let Some(rotation) = policy.rotation(&user.arn) {
                    let mut told = json!({"phase": rotation.phase, "generation": rotation.generation});
                    if let Some(secret) = &rotation.secret {
                        told["secret"] = json!(secret.name);
                    }
                    if !rotation.reason.is_empty() {
                        told["reason"] = json!(rotation.reason);
                    }
                    fields.insert("rotation".to_owned(), told);
                }
            }
            document
        })
        .collect();
    documents.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    documents
}

/// A static database as it was written; a discovered one with what is known of it.
pub(super) fn database(database: &Database) -> Document {
    let body = if database.kind == DatabaseKind::Static {
        spec(&StaticDatabaseSpec {
            protocol: database.engine,
            uri: database.uri(),
            ca: database.ca.clone(),
            auth: database.auth.clone(),
        })
    } else {
        let mut body = spec(database);
        if let Some(fields) = body.as_object_mut() {
            for field in ["name", "description", "labels", "endpoint", "engine"] {
                fields.remove(field);
            }
            fields.insert("protocol".to_owned(), json!(database.engine));
            fields.insert("uri".to_owned(), json!(database.uri()));
        }
        body
    };
    let mut document = document("db", database.name.as_str(), body);
    document.metadata.labels.clone_from(&database.labels);
    document.metadata.description.clone_from(&database.description);
    document
}

/// What an admin said of a discovered database; the resource that it was said of cannot be written.
pub(super) fn db_auth(auth: &DatabaseAuth) -> Document {
    document("db_auth", auth.database.as_str(), spec(&DatabaseAuthSpec { auth: auth.auth.clone() }))
}

/// Databases as each live proxy sees them, by name.
pub(crate) fn db_servers(policy: &Policy, beats: &[ProxyHeartbeat], now: i64) -> Vec<Document> {
    let mut documents: Vec<Document> = policy
        .databases()
        .map(|database| {
            let name = database.name.as_str();
            let seen: Vec<Value> = beats
                .iter()
                .filter(|beat| now - beat.at <= 60)
                .map(|beat| {
                    let health = beat.databases.get(name);
                    json!({
                        "proxy": beat.id,
                        "hostname": beat.hostname,
                        "state": health.map(|h| h.state).unwrap_or_default(),
                        "reason": health.map(|h| h.reason.as_str()).unwrap_or_default(),
                        "since": health.map(|h| h.since),
                    })
                })
                .collect();
            let health = combined_health(beats, name, now).as_str();
            document("db_server", name, json!({ "uri": database.uri(), "health": health, "proxies": seen }))
        })
        .collect();
    documents.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    documents
}

/// Proxies by their heartbeats; `live` says whether the last is under a minute old.
pub(crate) fn proxies(beats: &[ProxyHeartbeat], now: i64) -> Vec<Document> {
    beats
        .iter()
        .map(|beat| {
            let mut body = spec(beat);
            if let Some(fields) = body.as_object_mut() {
                fields.insert("live".to_owned(), json!(now - beat.at <= 60));
            }
            document("proxy", &beat.id, body)
        })
        .collect()
}
