//! Signing in, who the caller is, and certificates of one route.

use keystile_api::{ErrorCode, LoginAnswer, LoginRequest, RouteAnswer, RouteRequest, StatusAnswer};
use keystile_identity::ca::Issued;
use keystile_identity::certificate::{ClientRequest, issue_client};
use keystile_identity::client::Route;
use keystile_identity::public_key::SubjectKey;
use keystile_model::audit::EventKind;
use keystile_model::database::{CacheAuth, Database, DatabaseKind};
use keystile_model::db_user::DbUserAuth;
use keystile_model::decide::{Decision, Request as Asked, SessionGrant, default_db_user};
use keystile_model::name::DbUserName;
use keystile_model::policy::{CaKind, DbUserLookup};
use serde_json::{Value, json};

use super::rfc3339;
use crate::app::{Call, bundle};
use crate::failure::Failure;
use crate::handler::json as answer;

/// `POST /v1/login`.
pub(super) async fn login(call: &Call<'_>) -> Result<Value, Failure> {
    let made = sign_in(call).await;
    match &made {
        Ok(_) => {
            let mut event =
                crate::audit::event(call.app, call.request, EventKind::Login, call.user.name.as_str(), true);
            event.roles = call.roles();
            call.app.audit.write(&event);
        }
        Err(failure) => {
            let user = call.user.name.as_str();
            crate::audit::refused(call.app, call.request, EventKind::Login, user, failure, Vec::new());
        }
    }
    answer(&made?)
}

async fn sign_in(call: &Call<'_>) -> Result<LoginAnswer, Failure> {
    let wanted: LoginRequest = call.request.json()?;
    let key = public_key(&wanted.public_key)?;
    let of_roles = call
        .user
        .roles
        .iter()
        .filter_map(|name| call.policy.role(name))
        .filter_map(|role| role.options.max_session_ttl)
        .map(|span| span.seconds)
        .min();
    let issued = issue(call, &key, None, life(call, wanted.ttl_s, of_roles)?).await?;
    let mut status = status_of(call)?;
    status.valid_until = rfc3339(issued.not_after);
    Ok(LoginAnswer { certificate: issued.pem, status })
}

/// `GET /v1/status`.
pub(super) fn status(call: &Call<'_>) -> Result<Value, Failure> {
    answer(&status_of(call)?)
}

fn status_of(call: &Call<'_>) -> Result<StatusAnswer, Failure> {
    Ok(StatusAnswer {
        user: call.user.name.to_string(),
        roles: call.roles(),
        valid_until: String::new(),
        deployment: call.settings.deployment.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        proxy_address: call.settings.proxy_address.clone(),
        domain: call.settings.domain.clone(),
        host_ca: bundle(&call.policy, CaKind::Host),
        ca_pins: super::ca::views(call)?.into_iter().map(|view| view.pin).collect(),
    })
}

/// `POST /v1/route`: decides first, then issues a certificate of that one route.
pub(super) async fn route(call: &Call<'_>) -> Result<Value, Failure> {
    let wanted: RouteRequest = call.request.json()?;
    let key = public_key(&wanted.public_key)?;
    let database = super::databases::find(call, &wanted.database)?;
    let (db_user, grant) = match choose(call, &database, wanted.db_user.as_deref()) {
        Ok(chosen) => chosen,
        Err(failure) => {
            audit_refusal(call, &database, wanted.db_user.as_deref(), &failure);
            return Err(failure);
        }
    };
    let route = Route { database: database.name.clone(), db_user: db_user.clone() };
    let ttl_s = life(call, wanted.ttl_s, grant.max_session_ttl_s)?;
    let issued = issue(call, &key, Some(&route), ttl_s).await?;
    let label = if database.name.as_str().len() <= 63 { database.name.to_string() } else { database.alias() };
    answer(&RouteAnswer {
        certificate: issued.pem,
        valid_until: rfc3339(issued.not_after),
        database: database.name.to_string(),
        db_user: db_user.to_string(),
        engine: database.engine.as_str().to_owned(),
        server_name: format!("{label}.{}", call.settings.domain),
        proxy_address: call.settings.proxy_address.clone(),
        host_ca: bundle(&call.policy, CaKind::Host),
    })
}

fn choose(
    call: &Call<'_>,
    database: &Database,
    asked: Option<&str>,
) -> Result<(DbUserName, SessionGrant), Failure> {
    let name = match asked {
        Some(name) => name.to_owned(),
        None => default(call, database)?,
    };
    let db_user = DbUserName::parse(name).map_err(|error| Failure::bad(error.to_string()))?;
    let decision = call.decide(Asked::Connect { database, db_user: db_user.as_str() });
    let Decision::Allow { grant: Some(grant), .. } = decision else {
        return Err(super::databases::denied(call, database, Some(db_user.as_str()), &decision));
    };
    exists(call, database, &db_user)?;
    Ok((db_user, *grant))
}

/// The db user to take when none was named.
fn default(call: &Call<'_>, database: &Database) -> Result<String, Failure> {
    default_db_user(&call.policy, &call.subject(), database, call.now).map_err(|choices| {
        if choices.is_empty() {
            let decision = super::databases::why_not(call, database);
            return super::databases::denied(call, database, None, &decision);
        }
        let first = choices.first().cloned().unwrap_or_default();
        Failure::new(ErrorCode::Ambiguous, format!("choose a db user of {}", database.name))
            .why("your roles allow more than one")
            .next(super::databases::connect_line(database, &first))
            .choices(choices)
    })
}

/// A route opens only as a db user that is known to be there and that the proxy can sign in as.
fn exists(call: &Call<'_>, database: &Database, db_user: &DbUserName) -> Result<(), Failure> {
    let auth = call.policy.auth_of(database);
    if let Some(only) = auth.only_user().filter(|only| *only != db_user.as_str()) {
        return Err(Failure::not_found(format!("there is no db user {db_user} of {}", database.name))
            .why(format!(
                "nobody's name is given to it (auth {}), so its only db user is {only}",
                auth.word()
            ))
            .next(super::databases::connect_line(database, only)));
    }
    // Where the proxy does not sign in as a discovered user, there is none to look for.
    if *auth != CacheAuth::Auto {
        return Ok(());
    }
    if database.kind == DatabaseKind::Static {
        return Err(Failure::conflict(format!("{} has no way to sign in", database.name))
            .why("its document has no auth")
            .next(format!(
                "ask an editor: keystile db set {} --auth pass-through (or secret:NAME, or none)",
                database.name
            )));
    }
    let of = format!("db user {db_user} of {}", database.name);
    let groups = database.groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match call.policy.db_user(database, db_user.as_str()) {
        DbUserLookup::Found(user) if user.status == "deleting" => {
            Err(Failure::conflict(format!("{of} is being deleted")))
        }
        DbUserLookup::Found(user) if user.auth == DbUserAuth::Iam || user.managed => Ok(()),
        DbUserLookup::Found(user) => {
            let how =
                if user.auth == DbUserAuth::Password { "with a password" } else { "without a password" };
            Err(Failure::conflict(format!("{of} cannot be signed in as"))
                .why(format!("it signs in {how} that Keystile does not manage"))
                .next("use a db user with IAM authentication, or tag this one keystile.dev/managed=true"))
        }
        DbUserLookup::NotInGroup(_) => {
            Err(Failure::conflict(format!("{of} is not in the cache's user group"))
                .why(format!("the cache's groups are [{groups}]"))
                .next("add it to the group in AWS, then: keystile discover run"))
        }
        DbUserLookup::Unknown => Err(Failure::not_found(format!("there is no {of}"))
            .why(format!("discovery knows no such user in the cache's account and region; groups [{groups}]"))
            .next(format!("keystile db show {}", database.name))),
        DbUserLookup::Ambiguous => Err(Failure::conflict(format!("{of} is not one user"))
            .why("several users of this name are in the cache's groups")),
    }
}

fn audit_refusal(call: &Call<'_>, database: &Database, db_user: Option<&str>, failure: &Failure) {
    let user = call.user.name.as_str();
    let mut event = crate::audit::event(call.app, call.request, EventKind::SessionStart, user, false);
    let detail = failure.detail();
    event.error = "route refused".to_owned();
    event.message = format!("{}: {}", detail.message, detail.why);
    event.rule.clone_from(&detail.rule);
    event.roles = call.roles();
    event.db_service = database.name.to_string();
    event.db_protocol = database.engine.as_str().to_owned();
    event.db_uri = database.uri();
    event.db_type = database.kind.as_str().to_owned();
    event.db_user = db_user.unwrap_or_default().chars().take(256).collect();
    call.app.audit.write(&event);
}

async fn issue(
    call: &Call<'_>,
    key: &SubjectKey,
    route: Option<&Route>,
    ttl_s: u64,
) -> Result<Issued, Failure> {
    let app = call.app;
    let authority = app.authority(&call.policy, CaKind::User).await?;
    let wanted =
        ClientRequest { deployment: &call.settings.deployment, user: &call.user.name, route, key, ttl_s };
    let issued = issue_client(&authority, &wanted, call.now, (app.ids)()).await?;
    let user = call.user.name.as_str();
    let mut event = crate::audit::event(app, call.request, EventKind::CertificateIssued, user, true);
    event.roles = call.roles();
    if let Some(route) = route {
        event.db_service = route.database.to_string();
        event.db_user = route.db_user.to_string();
    }
    event.details.insert("serial".to_owned(), json!(issued.serial));
    event.details.insert("valid_until".to_owned(), json!(rfc3339(issued.not_after)));
    app.audit.write(&event);
    Ok(issued)
}

/// The shortest of what was asked for, what the deployment allows, and what the roles allow; in seconds.
fn life(call: &Call<'_>, asked: Option<u64>, of_roles: Option<u64>) -> Result<u64, Failure> {
    if asked == Some(0) {
        return Err(Failure::bad("a certificate lives at least one second"));
    }
    let most = call.settings.max_session_ttl.seconds.min(of_roles.unwrap_or(u64::MAX));
    Ok(asked.unwrap_or(most).min(most))
}

pub(super) fn public_key(pem: &str) -> Result<SubjectKey, Failure> {
    SubjectKey::from_pem(pem)
        .map_err(|error| Failure::bad("the public key gets no certificate").why(error.to_string()))
}
