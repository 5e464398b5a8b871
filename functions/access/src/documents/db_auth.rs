//! How a database is signed in to, as an editor says: of a discovered one an entity of its own, which discovery
//! does not write; of a static one the `auth` of its document.

use keystile_model::database::{CacheAuth, Database, DatabaseAuth, DatabaseKind};
use keystile_model::document::{DatabaseAuthSpec, Document};
use keystile_model::feed::Entity;
use keystile_model::name::DatabaseName;
use keystile_model::rotation::secret::is_managed_name;

use super::{Reading, named, spec};
use crate::config::Config;
use crate::failure::Failure;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name = DatabaseName::parse(document.metadata.name).map_err(|e| named(&e))?;
    let body: DatabaseAuthSpec = spec(document.spec)?;
    let database = reading.policy.database_or_alias(name.as_str()).ok_or_else(|| {
        Failure::not_found(format!("there is no database {name}"))
            .why("neither discovery nor an editor's document knows it")
            .next("keystile get db")
    })?;
    may_be_used(&body.auth, reading.config)?;
    warnings.extend(caution(&body.auth));
    match &database.arn {
        _ if database.kind == DatabaseKind::Static => {
            Ok(Entity::StaticDatabase(Box::new(Database { auth: body.auth, ..(**database).clone() })))
        }
        Some(arn) => Ok(Entity::DatabaseAuth(DatabaseAuth {
            database: database.name.clone(),
            arn: arn.clone(),
            endpoint_type: database.endpoint_type,
            auth: body.auth,
        })),
        None => Err(Failure::conflict(format!("{name} has no ARN, so nothing can be said of it"))
            .next("keystile discover run")),
    }
}

/// A shared token is sent wherever the database is; the password of a managed user must not be. Proxies look again,
/// at the value too.
pub(super) fn may_be_used(auth: &CacheAuth, config: &Config) -> Result<(), Failure> {
    match auth {
        CacheAuth::Secret(name) if is_managed_name(&config.secret_prefix, name) => {
            Err(Failure::bad(format!("secret {name} is kept for the passwords of managed users"))
                .why(format!(
                    "names that begin with {} (template parameter SecretPrefix) are rotation's alone",
                    config.secret_prefix
                ))
                .next("put the shared token into a secret of its own"))
        }
        _ => Ok(()),
    }
}

/// What whoever chooses a way to sign in should know.
pub(super) fn caution(auth: &CacheAuth) -> Option<String> {
    match auth {
        CacheAuth::None => Some(
            "nobody signs in to the cache: whoever reaches it past the proxy has all of it, and every session is \
             its default user"
                .to_owned(),
        ),
        CacheAuth::Secret(name) => Some(format!(
            "secret {name} must hold the bare token and carry the tag keystile.dev/group/<proxy group>=true; every \
             session is the default user"
        )),
        CacheAuth::Auto | CacheAuth::PassThrough => None,
    }
}
