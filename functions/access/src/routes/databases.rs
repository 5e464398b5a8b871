//! Databases as the caller may see them.

use std::sync::Arc;

use keystile_api::{DatabaseList, DatabaseView};
use keystile_model::database::{CacheAuth, Database, DatabaseKind};
use keystile_model::decide::{Decision, DenyKind, Request as Asked, allowed_db_users};
use keystile_model::runtime::{ProxyHeartbeat, combined_health, proxies};
use serde_json::Value;

use crate::app::{App, Call};
use crate::failure::Failure;
use crate::handler::json;

/// The one proxy group.
const GROUP: &str = "default";

/// `GET /v1/databases`.
pub(super) async fn list(call: &Call<'_>) -> Result<Value, Failure> {
    let beats = heartbeats(call.app).await;
    let mut databases: Vec<DatabaseView> = call
        .policy
        .databases()
        .filter_map(|database| {
            let db_users = usable(call, database);
            (!db_users.is_empty()).then(|| view(call, database, db_users, &beats))
        })
        .collect();
    databases.sort_by(|a, b| a.name.cmp(&b.name));
    json(&DatabaseList { databases, total: call.policy.databases().count() })
}

/// `GET /v1/databases/NAME`.
pub(super) async fn show(call: &Call<'_>, name: &str) -> Result<Value, Failure> {
    let database = find(call, name)?;
    let db_users = usable(call, &database);
    if db_users.is_empty() {
        return Err(denied(call, &database, None, &why_not(call, &database)));
    }
    json(&view(call, &database, db_users, &heartbeats(call.app).await))
}

/// A database by name or alias.
pub(super) fn find(call: &Call<'_>, name: &str) -> Result<Arc<Database>, Failure> {
    call.policy.database_or_alias(name).cloned().ok_or_else(|| {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
        Failure::not_found(format!("there is no database {shown:?}"))
            .why("neither discovery nor an editor's document knows it")
            .next("keystile db ls")
    })
}

fn usable(call: &Call<'_>, database: &Database) -> Vec<String> {
    allowed_db_users(&call.policy, &call.subject(), database, call.now)
}

/// Why nothing is allowed at a database.
pub(super) fn why_not(call: &Call<'_>, database: &Database) -> Decision {
    let known = call.policy.db_users_of(database);
    let only = call.policy.auth_of(database).only_user();
    let db_user = only.or_else(|| known.first().map(|user| user.name.as_str())).unwrap_or("default");
    match call.decide(Asked::Connect { database, db_user }) {
        Decision::Allow { .. } => Decision::Deny {
            kind: DenyKind::NotAllowed,
            rule: "no role allows it".to_owned(),
            reason: format!("your roles allow no db user that exists at {}", database.name),
        },
        denied @ Decision::Deny { .. } => denied,
    }
}

/// A refusal, with what would be allowed instead.
pub(super) fn denied(
    call: &Call<'_>,
    database: &Database,
    db_user: Option<&str>,
    decision: &Decision,
) -> Failure {
    let name = &database.name;
    let what = db_user
        .map_or_else(|| format!("{name} is denied to you"), |u| format!("{name} as {u} is denied to you"));
    let failure = Failure::denied(what, decision);
    let choices = usable(call, database);
    match choices.first() {
        Some(first) if first != "*" => {
            let line = connect_line(database, first);
            failure.next(line).choices(choices)
        }
        _ => failure.next("keystile db ls shows what you may reach; an editor can give you a role"),
    }
}

/// What to type, fit to be pasted into a shell: a db user may be called almost anything.
pub(super) fn connect_line(database: &Database, db_user: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let word = if db_user.chars().all(plain) {
        db_user.to_owned()
    } else {
        format!("'{}'", db_user.replace('\'', r"'\''"))
    };
    format!("keystile db connect {} --db-user {word}", database.name)
}

/// The heartbeats of the proxies; none when the table is out of reach, for then health is unknown.
pub(super) async fn heartbeats(app: &App) -> Vec<ProxyHeartbeat> {
    match app.runtime.list(&proxies(GROUP)).await {
        Ok(items) => items.into_iter().filter_map(|item| serde_json::from_value(item.body).ok()).collect(),
        Err(error) => {
            tracing::warn!(%error, "heartbeats cannot be read");
            Vec::new()
        }
    }
}

fn view(
    call: &Call<'_>,
    database: &Database,
    db_users: Vec<String>,
    beats: &[ProxyHeartbeat],
) -> DatabaseView {
    DatabaseView {
        name: database.name.to_string(),
        description: database.description.clone(),
        kind: database.kind.as_str().to_owned(),
        engine: database.engine.as_str().to_owned(),
        engine_version: database.engine_version.clone(),
        endpoint_type: database.endpoint_type.as_str().to_owned(),
        uri: database.uri(),
        region: database.region.clone(),
        account_id: database.account_id.clone(),
        labels: database.labels.clone(),
        db_users,
        health: combined_health(beats, database.name.as_str(), call.now).as_str().to_owned(),
        alias: database.alias(),
        auth: call.policy.auth_of(database).word().to_owned(),
        warnings: warnings(database, call.policy.auth_of(database)),
    }
}

fn warnings(database: &Database, auth: &CacheAuth) -> Vec<String> {
    let mut warnings = Vec::new();
    if database.kind == DatabaseKind::Static && *auth == CacheAuth::Auto {
        warnings.push(format!(
            "it has no auth, so sessions are refused: keystile db set {} --auth …",
            database.name
        ));
    }
    if *auth == CacheAuth::None {
        warnings.push(
            "no authentication: nobody signs in to the cache, and every session is its default user"
                .to_owned(),
        );
    }
    warnings
}
