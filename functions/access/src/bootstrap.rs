//! The first set-up, and settings that follow the template: done when the bootstrap admin calls. It can be
//! done twice and at once: each change expects the head that it was planned on.

use std::collections::BTreeSet;

use keystile_identity::ca::self_sign;
use keystile_model::feed::{Change, Entity, Feed};
use keystile_model::name::{RoleName, UserName};
use keystile_model::policy::{CaCertificate, CaKind, Policy};
use keystile_model::store::{CommitError, StoreError};
use keystile_model::user::User;

use crate::app::{App, signing_certificate};
use crate::failure::{Failure, internal};
use crate::request::Request;

/// The first editor's name.
pub(crate) const ADMIN: &str = "bootstrap-admin";
/// Attempts while others write.
const ATTEMPTS: usize = 5;

/// Brings the deployment up to the environment if the caller is the bootstrap admin; does nothing otherwise.
///
/// The first time it also makes the CAs and the first editor. That happens once: a bootstrap admin who was
/// removed later stays removed.
pub(crate) async fn ensure(app: &App, request: &Request) -> Result<(), Failure> {
    let Some(rule) = &app.config.bootstrap_admin else { return Ok(()) };
    if rule.user_of(&request.caller).is_none() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS {
        let (policy, head) = match app.snapshot.current().await {
            Err(StoreError::NotSetUp(_)) => {
                for feed in Feed::ALL {
                    app.store.set_up(feed).await?;
                }
                app.snapshot.current().await?
            }
            known => known?,
        };
        let changes = plan(app, &policy).await?;
        if changes.is_empty() {
            return Ok(());
        }
        match app.store.commit(Feed::Access, &head, "access", app.now(), &changes).await {
            Ok(_) => {
                app.snapshot.forget().await;
                audit(app, request, &policy, &changes);
                return Ok(());
            }
            Err(CommitError::Conflict) => app.snapshot.forget().await,
            Err(CommitError::Illegal(inside)) => {
                tracing::error!(inside, "the set-up cannot be written");
                return Err(internal("the deployment could not be set up"));
            }
            Err(CommitError::Store(error)) => {
                app.snapshot.forget().await;
                return Err(error.into());
            }
        }
    }
    Err(Failure::conflict("the deployment is being changed by others all the while").next("try again"))
}

/// What is missing. Empty when nothing is.
async fn plan(app: &App, policy: &Policy) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    let stored = policy.settings().map(AsRef::as_ref);
    let wanted = app.config.settings(stored);
    if stored != Some(&wanted) {
        changes.push(Change::Put(Entity::Settings(Box::new(wanted))));
    }
    for kind in [CaKind::User, CaKind::Host] {
        if signing_certificate(policy, kind).is_none() {
            changes.push(Change::Put(Entity::CaCertificate(new_ca(app, policy, kind).await?)));
        }
    }
    if stored.is_none() {
        changes.extend(first_editor(app)?);
    }
    Ok(changes)
}

async fn new_ca(app: &App, policy: &Policy, kind: CaKind) -> Result<CaCertificate, Failure> {
    let signer = app.signer(kind);
    let other = app.signer(if kind == CaKind::User { CaKind::Host } else { CaKind::User });
    let (own_key, other_key) = (signer.public_key().await, other.public_key().await);
    if own_key.is_ok() && own_key == other_key {
        tracing::error!("the user CA and the host CA have one key");
        return Err(internal("the user CA and the host CA need different keys"));
    }
    let generation = policy.ca_certificates(kind).map(|ca| ca.generation).max().unwrap_or(0) + 1;
    let made = self_sign(&app.config.deployment, kind, generation, signer, app.now(), (app.ids)()).await?;
    Ok(CaCertificate { ca: kind, generation, pem: made.pem, key: signer.key().to_owned(), signing: true })
}

fn first_editor(app: &App) -> Result<Vec<Change>, Failure> {
    let unnamed = |_| internal("the first editor could not be made");
    let Some(rule) = app.config.bootstrap_admin.clone() else { return Ok(Vec::new()) };
    let user = User {
        name: UserName::parse(ADMIN).map_err(unnamed)?,
        roles: BTreeSet::from([RoleName::parse("editor").map_err(unnamed)?]),
        traits: std::collections::BTreeMap::new(),
        not_before: None,
    };
    Ok(vec![Change::Put(Entity::User(user)), Change::Put(Entity::ArnRule(rule))])
}

fn audit(app: &App, request: &Request, before: &Policy, changes: &[Change]) {
    for change in changes {
        let Change::Put(entity) = change else { continue };
        let key = entity.key();
        let kind = key.kind.as_str();
        let old = crate::documents::of_key(before, &key);
        let new = crate::documents::of_entity(entity);
        crate::audit::changed(app, request, ADMIN, (kind, &key.id), old.as_ref(), new.as_ref());
    }
}
