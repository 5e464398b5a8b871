//! Documents: from what people write to the entities that are stored, and back. Reading checks everything that
//! can be told without asking anybody; nothing is written here.

mod arn_rule;
mod db;
mod db_auth;
mod lock;
mod matcher;
mod role;
mod shown;
mod teleport;
mod user;

use keystile_model::decide::{Request as Asked, Subject, decide};
use keystile_model::document::{Document, MAX_BYTES, Metadata, VERSION};
use keystile_model::feed::{Entity, EntityKey, EntityKind};
use keystile_model::policy::{Policy, Settings};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::config::Config;
use crate::failure::Failure;

pub(crate) use shown::{db_servers, proxies};

/// The kinds of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Role,
    Matcher,
    Db,
    /// How a discovered database is signed in to.
    DbAuth,
    User,
    ArnRule,
    Lock,
    /// Discovered, read-only.
    DbUser,
    /// From the template, read-only.
    Settings,
    /// A database as each proxy sees it, read-only.
    DbServer,
    /// From heartbeats, read-only.
    Proxy,
}

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::Role,
        Self::Matcher,
        Self::Db,
        Self::DbAuth,
        Self::User,
        Self::ArnRule,
        Self::Lock,
        Self::DbUser,
        Self::Settings,
        Self::DbServer,
        Self::Proxy,
    ];

    /// The word in documents, paths and roles' rules.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Matcher => "matcher",
            Self::Db => "db",
            Self::DbAuth => "db_auth",
            Self::User => "user",
            Self::ArnRule => "arn_rule",
            Self::Lock => "lock",
            Self::DbUser => "db_user",
            Self::Settings => "settings",
            Self::DbServer => "db_server",
            Self::Proxy => "proxy",
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, Failure> {
        Self::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(|| {
            let shown: String = word.chars().filter(|c| !c.is_control()).take(40).collect();
            let known: Vec<_> = Self::ALL.iter().map(|kind| kind.word()).collect();
            Failure::bad(format!("there is no kind {shown:?}")).why(format!("kinds are {}", known.join(", ")))
        })
    }

    /// The kind of entity that is stored for it; none for what nobody writes through us.
    pub(crate) fn entity(self) -> Option<EntityKind> {
        match self {
            Self::Role => Some(EntityKind::Role),
            Self::Matcher => Some(EntityKind::Matcher),
            Self::Db => Some(EntityKind::StaticDatabase),
            Self::DbAuth => Some(EntityKind::DatabaseAuth),
            Self::User => Some(EntityKind::User),
            Self::ArnRule => Some(EntityKind::ArnRule),
            Self::Lock => Some(EntityKind::Lock),
            Self::DbUser | Self::Settings | Self::DbServer | Self::Proxy => None,
        }
    }
}

/// A document that was read.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) entity: Entity,
    /// What the person should know.
    pub(crate) warnings: Vec<String>,
}

/// What a document is read against.
pub(crate) struct Reading<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) settings: &'a Settings,
    pub(crate) config: &'a Config,
    /// Unix seconds.
    pub(crate) now: i64,
    /// A random id, for what is made up.
    pub(crate) id: Uuid,
}

impl Reading<'_> {
    /// Reads a document of a kind that is to be called `name`.
    pub(crate) fn document(&self, kind: Kind, name: &str, document: Document) -> Result<Read, Failure> {
        if document.kind != kind.word() {
            let shown: String = document.kind.chars().take(40).collect();
            return Err(Failure::bad(format!("the document's kind is {shown:?}, not {:?}", kind.word())));
        }
        if document.metadata.name != name {
            return Err(Failure::bad("metadata.name is not the name in the path"));
        }
        if kind != Kind::Role && document.version != VERSION {
            let shown: String = document.version.chars().take(40).collect();
            return Err(Failure::bad(format!("version {shown:?} is unknown: write version: {VERSION}")));
        }
        plain_metadata(&document.metadata)?;
        let mut warnings = Vec::new();
        if !document.metadata.labels.is_empty() && kind != Kind::Db {
            warnings.push(format!("labels of a {} have no meaning and are not kept", kind.word()));
        }
        let keeps = matches!(kind, Kind::Db | Kind::Role | Kind::Matcher);
        if !document.metadata.description.is_empty() && !keeps {
            warnings.push(format!("the description of a {} is not kept", kind.word()));
        }
        let entity = match kind {
            Kind::Role => role::read(document, &mut warnings),
            Kind::Matcher => matcher::read(self, document, &mut warnings),
            Kind::Db => db::read(self, document, &mut warnings),
            Kind::DbAuth => db_auth::read(self, document, &mut warnings),
            Kind::User => user::read(self, document, &mut warnings),
            Kind::ArnRule => arn_rule::read(self, document, &mut warnings),
            Kind::Lock => lock::read(self, document, &mut warnings),
            Kind::DbUser | Kind::Settings | Kind::DbServer | Kind::Proxy => Err(read_only(kind)),
        }?;
        Ok(Read { entity, warnings })
    }
}

/// Nobody writes this kind through us.
pub(crate) fn read_only(kind: Kind) -> Failure {
    let why = match kind {
        Kind::DbUser => "db users are what discovery finds in AWS",
        Kind::Settings => "settings come from the deployment's template",
        _ => "it is what the proxies report",
    };
    Failure::bad(format!("a {} cannot be written", kind.word())).why(why)
}

fn plain_metadata(metadata: &Metadata) -> Result<(), Failure> {
    if metadata.description.len() > 1_000 || metadata.description.chars().any(char::is_control) {
        return Err(Failure::bad("a description has at most 1,000 bytes and no control characters"));
    }
    match keystile_model::labels::tag_fault(&metadata.labels) {
        Some(fault) => Err(Failure::bad("the labels cannot be kept").why(fault)),
        None => Ok(()),
    }
}

/// The `spec` of a document as one of our types.
fn spec<T: DeserializeOwned>(spec: serde_json::Value) -> Result<T, Failure> {
    let spec = if spec.is_null() { serde_json::json!({}) } else { spec };
    if !spec.is_object() {
        return Err(Failure::bad("the spec must be a mapping"));
    }
    serde_json::from_value(spec).map_err(|error| {
        let text: String = error.to_string().chars().take(500).collect();
        Failure::bad("the spec cannot be read").why(text)
    })
}

fn named(error: &impl std::fmt::Display) -> Failure {
    Failure::bad(error.to_string())
}

/// A request's body as a document.
pub(crate) fn parse(body: &[u8]) -> Result<Document, Failure> {
    if body.len() > MAX_BYTES {
        return Err(Failure::new(
            keystile_api::ErrorCode::TooLarge,
            format!("the document is larger than {MAX_BYTES} bytes"),
        ));
    }
    crate::request::object(body).map_err(|why| Failure::bad("the document cannot be read").why(why))
}

/// The entity of a kind and name that is stored.
pub(crate) fn stored(policy: &Policy, kind: EntityKind, name: &str) -> Option<Entity> {
    match kind {
        EntityKind::Settings => policy.settings().map(|s| Entity::Settings(Box::new((**s).clone()))),
        EntityKind::User => {
            let name = keystile_model::name::UserName::parse(name).ok()?;
            policy.user(&name).map(|user| Entity::User((**user).clone()))
        }
        EntityKind::ArnRule => {
            policy.arn_rules().find(|rule| rule.name == name).map(|rule| Entity::ArnRule((**rule).clone()))
        }
        EntityKind::Role => policy
            .roles()
            .find(|role| role.name.as_str() == name && !keystile_model::role::built_in().contains(role))
            .map(|role| Entity::Role(Box::new((**role).clone()))),
        EntityKind::Lock => {
            policy.locks().find(|lock| lock.name == name).map(|lock| Entity::Lock((**lock).clone()))
        }
        EntityKind::Matcher => policy
            .matchers()
            .find(|matcher| matcher.name == name)
            .map(|matcher| Entity::Matcher(Box::new((**matcher).clone()))),
        EntityKind::StaticDatabase => policy
            .database(name)
            .filter(|database| database.kind == keystile_model::database::DatabaseKind::Static)
            .map(|database| Entity::StaticDatabase(Box::new((**database).clone()))),
        EntityKind::DatabaseAuth => policy
            .database_auths()
            .find(|auth| auth.database.as_str() == name)
            .map(|auth| Entity::DatabaseAuth((**auth).clone())),
        EntityKind::CaCertificate
        | EntityKind::Database
        | EntityKind::DbUser
        | EntityKind::NameClaim
        | EntityKind::Rotation => None,
    }
}

/// What is stored under a key, as a document.
pub(crate) fn of_key(policy: &Policy, key: &EntityKey) -> Option<Document> {
    stored(policy, key.kind, &key.id).and_then(|entity| of_entity(&entity))
}

/// An entity as a document; none for kinds that are no documents.
pub(crate) fn of_entity(entity: &Entity) -> Option<Document> {
    shown::entity(entity)
}

/// All documents of a kind that the policy holds, by name.
pub(crate) fn all(policy: &Policy, kind: Kind) -> Vec<Document> {
    let mut documents: Vec<Document> = match kind {
        Kind::Role => policy.roles().map(|role| shown::role(role)).collect(),
        Kind::Matcher => policy.matchers().map(|matcher| shown::matcher(matcher)).collect(),
        Kind::Db => policy.databases().map(|database| shown::database(database)).collect(),
        Kind::DbAuth => policy.database_auths().map(|auth| shown::db_auth(auth)).collect(),
        Kind::User => policy.users().into_iter().map(|user| shown::user(user)).collect(),
        Kind::ArnRule => policy.arn_rules().map(|rule| shown::arn_rule(rule)).collect(),
        Kind::Lock => policy.locks().map(|lock| shown::lock(lock)).collect(),
        Kind::DbUser => shown::db_users(policy),
        Kind::Settings => policy.settings().map(|settings| shown::settings(settings)).into_iter().collect(),
        Kind::DbServer | Kind::Proxy => Vec::new(),
    };
    documents.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    documents
}

/// Whether a user may change users and roles: who may not, grants nothing by other documents either.
pub(crate) fn grants(policy: &Policy, subject: &Subject, now: i64) -> Result<(), Failure> {
    for resource in ["user", "role"] {
        let decision = decide(policy, subject, Asked::Administer { resource, verb: "update" }, now);
        if !decision.is_allowed() {
            return Err(Failure::denied("you may not say who a caller is", &decision)
                .next("ask somebody who may update users and roles"));
        }
    }
    Ok(())
}
