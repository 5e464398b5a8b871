//! Whether a client gets the session that it asks for. Pure: policy, identity and time in, a decision out.

use std::sync::Arc;

use keystile_identity::client::ClientIdentity;
use keystile_model::arn::Arn;
use keystile_model::database::{CacheAuth, Database, DatabaseKind};
use keystile_model::db_user::DbUserAuth;
use keystile_model::decide::{Decision, DenyKind, Request, SessionGrant, Subject, decide, default_db_user};
use keystile_model::policy::{DbUserLookup, Policy};
use keystile_model::rotation::RotationPhase;
use keystile_state::policy_feed::PolicySnapshot;
use time::OffsetDateTime;

use crate::refusal::Refusal;
use crate::route::Target;
use crate::session::gate::Gate;
use crate::session::gates;
use crate::session::handle::{Cut, CutKind};
use crate::upstream::managed::not_looked_at;

/// Knowledge that is older than this begins no session, in seconds.
pub const NEW_SESSIONS_UNTIL_S: u64 = 60;

/// How the cache is signed in to. The same for each of its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Plan {
    /// With an IAM token, minted for each dial.
    Iam,
    /// With the password that Keystile keeps for this user, by its ARN.
    Managed(Arn),
    /// With the shared token in this secret of Secrets Manager, as the default user.
    Shared(Arc<str>),
    /// By the client itself.
    PassThrough,
    /// Not at all.
    Open,
}

/// A yes.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The database.
    pub database: Arc<Database>,
    /// The db user.
    pub db_user: String,
    /// How to sign in.
    pub plan: Plan,
    /// What the session may do.
    pub grant: SessionGrant,
    /// The same, compiled.
    pub gate: Arc<Gate>,
    /// The rule that decided.
    pub rule: String,
}

/// The policy, if it is there and fresh enough for a new session.
///
/// # Errors
/// [`Refusal::NotReady`] and [`Refusal::StalePolicy`].
pub fn fresh_policy(snapshot: &PolicySnapshot, now: OffsetDateTime) -> Result<Arc<Policy>, Refusal> {
    let why = || snapshot.last_error().map_or_else(|| "no error yet".to_owned(), ToString::to_string);
    let (Some(policy), Some(age)) = (&snapshot.policy, snapshot.age(now)) else {
        return Err(Refusal::NotReady(why()));
    };
    if age.as_secs() >= NEW_SESSIONS_UNTIL_S {
        return Err(Refusal::StalePolicy { age_s: age.as_secs(), why: why() });
    }
    Ok(Arc::clone(policy))
}

/// Decides on a new session; `now` in Unix seconds.
///
/// # Errors
/// A [`Refusal`] for each way in which it can be no.
pub fn admit(
    policy: &Policy,
    identity: &ClientIdentity,
    target: &Target,
    now: i64,
) -> Result<Admission, Refusal> {
    let subject = subject(identity);
    let database = policy
        .database_or_alias(&target.database)
        .ok_or_else(|| Refusal::UnknownDatabase(target.database.clone()))?;
    let db_user = match &target.db_user {
        Some(name) => name.clone(),
        None => chosen_db_user(policy, &subject, database, now)?,
    };
    let (rule, grant) = granted(policy, &subject, database, &db_user, now)?;
    let gate = compiled(&grant)?;
    let plan = plan(policy, database, &db_user)?;
    ready(policy, database, &db_user, &plan)?;
    Ok(Admission { database: Arc::clone(database), db_user, plan, grant, gate, rule })
}

/// Whether a live session that signed in by `signed_in` may go on, and by which grant; `now` in Unix seconds.
///
/// # Errors
/// The [`Cut`] that ends it.
pub fn may_go_on(
    policy: &Policy,
    identity: &ClientIdentity,
    (database, db_user, signed_in): (&Database, &str, &Plan),
    now: i64,
) -> Result<(SessionGrant, Arc<Gate>), Cut> {
    let cut = |kind, text: String| Cut { kind, text };
    let known = policy.database(database.name.as_str()).filter(|known| {
        known.arn == database.arn && known.endpoint == database.endpoint && known.kind == database.kind
    });
    let Some(known) = known else {
        let text = format!("database {} is gone or has moved: connect again", database.name);
        return Err(cut(CutKind::Database, text));
    };
    let (_, grant) = granted(policy, &subject(identity), known, db_user, now).map_err(|refusal| {
        let kind = match &refusal {
            Refusal::Denied { kind: DenyKind::Locked, .. } => CutKind::Lock,
            _ => CutKind::Denied,
        };
        cut(kind, format!("this session was ended: {refusal}"))
    })?;
    let gate = compiled(&grant).map_err(|refusal| cut(CutKind::Denied, refusal.to_string()))?;
    let plan = plan(policy, known, db_user).map_err(|refusal| cut(CutKind::Database, refusal.to_string()))?;
    if let Plan::Managed(arn) = &plan
        && let Some(rotation) = policy.rotation(arn).filter(|known| known.phase == RotationPhase::Locked)
    {
        let why = rotation.refusal().unwrap_or_default();
        return Err(cut(CutKind::Lock, format!("this session as {db_user} was ended: {why}")));
    }
    if plan != *signed_in {
        let text = format!("how {} is signed in to has changed: connect again", database.name);
        return Err(cut(CutKind::Database, text));
    }
    Ok((grant, gate))
}

fn subject(identity: &ClientIdentity) -> Subject {
    Subject { user: identity.user.clone(), issued_at: Some(identity.issued_at()) }
}

fn chosen_db_user(
    policy: &Policy,
    subject: &Subject,
    database: &Database,
    now: i64,
) -> Result<String, Refusal> {
    default_db_user(policy, subject, database, now).map_err(|names| {
        if names.is_empty() {
            // The decision on a user that nobody has names the lock or the missing role.
            match decide(policy, subject, Request::Connect { database, db_user: "*" }, now) {
                Decision::Deny { kind, rule, reason } => Refusal::Denied { kind, rule, reason },
                Decision::Allow { .. } => Refusal::DbUser(format!(
                    "{} has no database user that discovery knows of: run 'keystile discover run', or name one",
                    database.name
                )),
            }
        } else {
            Refusal::NameDbUser(format!(
                "you may use [{}] on {}; type AUTH {} x",
                names.join(", "),
                database.name,
                names.first().map(String::as_str).unwrap_or_default()
            ))
        }
    })
}

fn granted(
    policy: &Policy,
    subject: &Subject,
    database: &Database,
    db_user: &str,
    now: i64,
) -> Result<(String, SessionGrant), Refusal> {
    match decide(policy, subject, Request::Connect { database, db_user }, now) {
        Decision::Allow { rule, grant: Some(grant) } => Ok((rule, *grant)),
        Decision::Allow { rule, grant: None } => Err(Refusal::Denied {
            kind: DenyKind::Denied,
            rule,
            reason: "the decision has no grant".to_owned(),
        }),
        Decision::Deny { kind, rule, reason } => Err(Refusal::Denied { kind, rule, reason }),
    }
}

fn compiled(grant: &SessionGrant) -> Result<Arc<Gate>, Refusal> {
    gates::gate(grant).map_err(|error| {
        Refusal::Unsupported(format!("{error}; have the role corrected with 'keystile edit role'"))
    })
}

fn plan(policy: &Policy, database: &Database, db_user: &str) -> Result<Plan, Refusal> {
    let auth = policy.auth_of(database);
    if let Some(only) = auth.only_user().filter(|only| *only != db_user) {
        let how = match auth {
            CacheAuth::None => "without authentication (auth: none)",
            _ => "with a shared token (auth: secret:…)",
        };
        return Err(Refusal::DbUser(format!(
            "{} is reached {how}, so its only database user is '{only}'",
            database.name
        )));
    }
    match auth {
        CacheAuth::PassThrough => return Ok(Plan::PassThrough),
        CacheAuth::None => return Ok(Plan::Open),
        CacheAuth::Secret(name) => return Ok(Plan::Shared(Arc::from(name.as_str()))),
        CacheAuth::Auto if database.kind == DatabaseKind::Static => {
            return Err(Refusal::Unsupported(format!(
                "the static database {0} does not say how to sign in: have an editor run 'keystile db set {0} --auth \
                 pass-through' (or secret:NAME, or none)",
                database.name
            )));
        }
        CacheAuth::Auto => {}
    }
    let user = match policy.db_user(database, db_user) {
        DbUserLookup::Found(user) => user,
        DbUserLookup::Unknown => {
            return Err(Refusal::DbUser(format!(
                "{} has no database user {db_user:?} that discovery knows of: check its spelling, or run \
                 'keystile discover run' if it is new",
                database.name
            )));
        }
        DbUserLookup::NotInGroup(_) => {
            return Err(Refusal::DbUser(format!(
                "database user {db_user:?} exists but is in no user group of {} ({}): add it to the group, then \
                 run 'keystile discover run'",
                database.name,
                database.groups.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
            )));
        }
        DbUserLookup::Ambiguous => {
            return Err(Refusal::DbUser(format!(
                "several users named {db_user:?} are in the groups of {}: rename one",
                database.name
            )));
        }
    };
    match user.auth {
        DbUserAuth::Iam => {}
        DbUserAuth::Password if user.managed => return Ok(Plan::Managed(user.arn.clone())),
        DbUserAuth::Password | DbUserAuth::None => {
            return Err(Refusal::Unsupported(format!(
                "database user {db_user:?} is not an IAM user and its password is not managed by Keystile: \
                 switch it to IAM authentication, or tag it keystile.dev/managed=true"
            )));
        }
    }
    if !knows_iam(&database.engine_version) {
        return Err(Refusal::Unsupported(format!(
            "{} runs engine {}, and IAM authentication needs 7.0 or newer: upgrade the cache",
            database.name, database.engine_version
        )));
    }
    Ok(Plan::Iam)
}

/// Whether a managed password can be used now, by what rotate says of it.
fn ready(policy: &Policy, database: &Database, db_user: &str, plan: &Plan) -> Result<(), Refusal> {
    let Plan::Managed(arn) = plan else { return Ok(()) };
    let why = match policy.rotation(arn) {
        None => not_looked_at(),
        Some(rotation) => match rotation.refusal() {
            Some(why) => format!("{why}; see 'keystile rotate status'"),
            None => return Ok(()),
        },
    };
    Err(Refusal::Secret(format!("cannot sign in to {} as {db_user}: {why}", database.name)))
}

/// Redis OSS 7.0, Valkey 7.2, MemoryDB 7.0; a version that is not known is tried.
fn knows_iam(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_none_or(|major| major >= 7)
}
