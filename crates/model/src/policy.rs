//! The compiled policy: both feeds, ready to be asked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::database::{CacheAuth, Database, DatabaseAuth};
use crate::db_user::DbUser;
use crate::feed::{Change, Entity, EntityKey, EntityKind};
use crate::matcher::Matcher;
use crate::name::{DatabaseName, RoleName, UserName};
use crate::role::{CompiledRole, Role, Span, built_in};
use crate::rotation::Rotation;
use crate::rotation::secret::DEFAULT_PREFIX;
use crate::user::{ArnRule, User};

/// The deployment's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The deployment's name; part of every certificate.
    pub deployment: String,
    /// Accounts whose callers may sign in. Checked before any rule.
    pub trusted_accounts: BTreeSet<String>,
    /// Where clients reach the proxies of group `default`, `host:port`.
    pub proxy_address: String,
    /// `<database>.<domain>` is the TLS server name of a route.
    pub domain: String,
    /// Longest life of a certificate unless a role says less.
    pub max_session_ttl: Span,
    /// The longest that a proxy goes on with sessions on old knowledge, in seconds.
    pub max_policy_age_s: u64,
    /// Networks (CIDR) that static databases may be in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub static_networks: Vec<String>,
    /// How the names of managed users' secrets begin; nothing else may begin so.
    #[serde(default = "default_prefix", skip_serializing_if = "is_default_prefix")]
    pub secret_prefix: String,
}

fn default_prefix() -> String {
    DEFAULT_PREFIX.to_owned()
}

fn is_default_prefix(prefix: &str) -> bool {
    prefix == DEFAULT_PREFIX
}

/// Which CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaKind {
    /// Signs people and workloads.
    User,
    /// Signs proxies.
    Host,
}

impl CaKind {
    /// The word used in keys and texts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Host => "host",
        }
    }
}

/// A certificate of one of the CAs. Several of a kind are trusted at once while a CA rotates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaCertificate {
    /// Which CA.
    pub ca: CaKind,
    /// Counts the CA's keys, from 1.
    pub generation: u32,
    /// The certificate, PEM.
    pub pem: String,
    /// The signing key: a KMS key's ARN, or `file`.
    pub key: String,
    /// Whether new certificates are signed with it.
    pub signing: bool,
}

impl CaCertificate {
    /// Unique among CA certificates.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.ca.as_str(), self.generation)
    }
}

/// What a lock is about; the given parts must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockTarget {
    /// A user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Everybody who holds a role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// A db user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
}

/// A standing refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Unique.
    pub name: String,
    /// What it is about. An empty target locks nothing.
    pub target: LockTarget,
    /// What the person who is refused reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it ends, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
}

/// Who holds a database name: the ARN that had it first, while it exists and 30 days after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameClaim {
    /// The name.
    pub name: DatabaseName,
    /// The resource.
    pub arn: Arn,
    /// When the resource was last found gone, in Unix seconds; none while it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vanished_at: Option<i64>,
}

/// How long a name stays with a resource that is gone, in seconds: 30 days.
pub const NAME_KEPT_S: i64 = 30 * 24 * 3_600;

/// What a db user's name means at a database.
#[derive(Debug, Clone)]
pub enum DbUserLookup {
    /// It exists and is in the database's group.
    Found(Arc<DbUser>),
    /// There is none of this name in the database's account, region and service.
    Unknown,
    /// It exists and is in none of the database's groups.
    NotInGroup(Arc<DbUser>),
    /// Several users of this name are in its groups.
    Ambiguous,
}

/// Both feeds, compiled. Cheap to clone: what is large is shared.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    settings: Option<Arc<Settings>>,
    users: HashMap<String, Arc<User>>,
    arn_rules: BTreeMap<String, Arc<ArnRule>>,
    roles: BTreeMap<String, (Arc<Role>, Arc<CompiledRole>)>,
    /// Roles whose documents do not compile: whoever holds one is refused.
    broken_roles: BTreeMap<String, String>,
    locks: BTreeMap<String, Arc<Lock>>,
    matchers: BTreeMap<String, Arc<Matcher>>,
    ca_certificates: BTreeMap<String, Arc<CaCertificate>>,
    databases: BTreeMap<String, Arc<Database>>,
    static_databases: BTreeMap<String, Arc<Database>>,
    /// By database.
    database_auths: BTreeMap<String, Arc<DatabaseAuth>>,
    db_users: HashMap<String, Arc<DbUser>>,
    db_users_by_name: HashMap<String, Vec<Arc<DbUser>>>,
    name_claims: BTreeMap<String, Arc<NameClaim>>,
    rotations: HashMap<String, Arc<Rotation>>,
}

impl Policy {
    /// A policy of these entities, with the built-in roles.
    #[must_use]
    pub fn new(entities: impl IntoIterator<Item = Entity>) -> Self {
        let mut policy = Self::default();
        for role in built_in() {
            policy.put(Entity::Role(Box::new(role)));
        }
        for entity in entities {
            policy.put(entity);
        }
        policy
    }

    /// Applies one step of a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Put(entity) => self.put(entity),
            Change::Delete(key) => self.delete(&key),
        }
    }

    /// Drops everything of a feed: a full reload begins.
    pub fn clear(&mut self, feed: crate::feed::Feed) {
        let keys: Vec<EntityKey> =
            self.entities().iter().map(Entity::key).filter(|key| key.kind.feed() == feed).collect();
        for key in keys {
            self.delete(&key);
        }
        if feed == EntityKind::Role.feed() {
            // Broken roles are not among the entities; one may hide a built-in role.
            for id in std::mem::take(&mut self.broken_roles).into_keys() {
                self.delete(&EntityKey { kind: EntityKind::Role, id });
            }
        }
    }

    /// Every entity that is stored; built-in roles are not among them.
    #[must_use]
    pub fn entities(&self) -> Vec<Entity> {
        let built = built_in();
        let mut all: Vec<Entity> = Vec::new();
        all.extend(self.settings.iter().map(|s| Entity::Settings(Box::new((**s).clone()))));
        all.extend(self.users.values().map(|u| Entity::User((**u).clone())));
        all.extend(self.arn_rules.values().map(|r| Entity::ArnRule((**r).clone())));
        all.extend(
            self.roles
                .values()
                .filter(|(r, _)| !built.contains(r))
                .map(|(r, _)| Entity::Role(Box::new((**r).clone()))),
        );
        all.extend(self.locks.values().map(|l| Entity::Lock((**l).clone())));
        all.extend(self.matchers.values().map(|m| Entity::Matcher(Box::new((**m).clone()))));
        all.extend(self.ca_certificates.values().map(|c| Entity::CaCertificate((**c).clone())));
        all.extend(self.static_databases.values().map(|d| Entity::StaticDatabase(Box::new((**d).clone()))));
        all.extend(self.database_auths.values().map(|a| Entity::DatabaseAuth((**a).clone())));
        all.extend(self.databases.values().map(|d| Entity::Database(Box::new((**d).clone()))));
        all.extend(self.db_users.values().map(|u| Entity::DbUser(Box::new((**u).clone()))));
        all.extend(self.name_claims.values().map(|c| Entity::NameClaim((**c).clone())));
        all.extend(self.rotations.values().map(|r| Entity::Rotation(Box::new((**r).clone()))));
        all
    }

    fn put(&mut self, entity: Entity) {
        let id = entity.key().id;
        match entity {
            Entity::Settings(settings) => self.settings = Some(Arc::from(settings)),
            Entity::User(user) => {
                self.users.insert(id, Arc::new(user));
            }
            Entity::ArnRule(rule) => {
                self.arn_rules.insert(id, Arc::new(rule));
            }
            Entity::Role(role) => self.put_role(id, *role),
            Entity::Lock(lock) => {
                self.locks.insert(id, Arc::new(lock));
            }
            Entity::Matcher(matcher) => {
                self.matchers.insert(id, Arc::from(matcher));
            }
            Entity::StaticDatabase(database) => {
                self.static_databases.insert(id, Arc::from(database));
            }
            Entity::DatabaseAuth(auth) => {
                self.database_auths.insert(id, Arc::new(auth));
            }
            Entity::CaCertificate(ca) => {
                self.ca_certificates.insert(id, Arc::new(ca));
            }
            Entity::Database(database) => {
                self.databases.insert(id, Arc::from(database));
            }
            Entity::DbUser(user) => {
                self.forget_db_user(&id);
                let user: Arc<DbUser> = Arc::from(user);
                self.db_users_by_name.entry(user.name.to_string()).or_default().push(Arc::clone(&user));
                self.db_users.insert(id, user);
            }
            Entity::NameClaim(claim) => {
                self.name_claims.insert(id, Arc::new(claim));
            }
            Entity::Rotation(rotation) => {
                self.rotations.insert(id, Arc::from(rotation));
            }
        }
    }

    fn put_role(&mut self, id: String, role: Role) {
        match role.compile() {
            Ok(compiled) => {
                self.broken_roles.remove(&id);
                self.roles.insert(id, (Arc::new(role), Arc::new(compiled)));
            }
            Err(error) => {
                self.roles.remove(&id);
                self.broken_roles.insert(id, error.to_string());
            }
        }
    }

    fn delete(&mut self, key: &EntityKey) {
        let id = key.id.as_str();
        match key.kind {
            EntityKind::Settings => self.settings = None,
            EntityKind::User => drop(self.users.remove(id)),
            EntityKind::ArnRule => drop(self.arn_rules.remove(id)),
            EntityKind::Role => {
                self.roles.remove(id);
                self.broken_roles.remove(id);
                if let Some(role) = built_in().into_iter().find(|role| role.name.as_str() == id) {
                    self.put_role(id.to_owned(), role);
                }
            }
            EntityKind::Lock => drop(self.locks.remove(id)),
            EntityKind::Matcher => drop(self.matchers.remove(id)),
            EntityKind::StaticDatabase => drop(self.static_databases.remove(id)),
            EntityKind::DatabaseAuth => drop(self.database_auths.remove(id)),
            EntityKind::CaCertificate => drop(self.ca_certificates.remove(id)),
            EntityKind::Database => drop(self.databases.remove(id)),
            EntityKind::DbUser => self.forget_db_user(id),
            EntityKind::NameClaim => drop(self.name_claims.remove(id)),
            EntityKind::Rotation => drop(self.rotations.remove(id)),
        }
    }

    fn forget_db_user(&mut self, arn: &str) {
        if let Some(old) = self.db_users.remove(arn)
            && let Some(same_name) = self.db_users_by_name.get_mut(old.name.as_str())
        {
            same_name.retain(|user| user.arn != old.arn);
        }
    }

    /// The deployment's settings, once they are there.
    #[must_use]
    pub fn settings(&self) -> Option<&Arc<Settings>> {
        self.settings.as_ref()
    }

    /// A user by name.
    #[must_use]
    pub fn user(&self, name: &UserName) -> Option<&Arc<User>> {
        self.users.get(name.as_str())
    }

    /// All users, by name.
    #[must_use]
    pub fn users(&self) -> Vec<&Arc<User>> {
        let mut users: Vec<_> = self.users.values().collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }

    /// All ARN rules, by name.
    pub fn arn_rules(&self) -> impl Iterator<Item = &Arc<ArnRule>> {
        self.arn_rules.values()
    }

    /// A role by name, built-in ones included.
    #[must_use]
    pub fn role(&self, name: &RoleName) -> Option<&Arc<CompiledRole>> {
        self.roles.get(name.as_str()).map(|(_, compiled)| compiled)
    }

    /// Why a role that is stored cannot be used, if so.
    #[must_use]
    pub fn broken_role(&self, name: &RoleName) -> Option<&str> {
        self.broken_roles.get(name.as_str()).map(String::as_str)
    }

    /// All role documents, by name, built-in ones included.
    pub fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values().map(|(role, _)| role)
    }

    /// All locks, by name.
    pub fn locks(&self) -> impl Iterator<Item = &Arc<Lock>> {
        self.locks.values()
    }

    /// All matchers, by name.
    pub fn matchers(&self) -> impl Iterator<Item = &Arc<Matcher>> {
        self.matchers.values()
    }

    /// The certificates of a CA, by generation.
    pub fn ca_certificates(&self, ca: CaKind) -> impl Iterator<Item = &Arc<CaCertificate>> {
        self.ca_certificates.values().filter(move |certificate| certificate.ca == ca)
    }

    /// A database by its name, static ones first: an admin wrote them down.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&Arc<Database>> {
        self.static_databases.get(name).or_else(|| self.databases.get(name))
    }

    /// A database by name or by alias; an alias that two share finds nothing.
    #[must_use]
    pub fn database_or_alias(&self, name: &str) -> Option<&Arc<Database>> {
        if let Some(database) = self.database(name) {
            return Some(database);
        }
        if !name.starts_with("d-") {
            return None;
        }
        let mut found = self.databases().filter(|database| database.alias() == name);
        let first = found.next()?;
        if found.next().is_some() { None } else { Some(first) }
    }

    /// All databases: static ones, then discovered ones that no static one hides; each by name.
    pub fn databases(&self) -> impl Iterator<Item = &Arc<Database>> {
        self.static_databases.values().chain(
            self.databases
                .iter()
                .filter(|(name, _)| !self.static_databases.contains_key(*name))
                .map(|(_, d)| d),
        )
    }

    /// Discovered databases only, by name.
    pub fn discovered_databases(&self) -> impl Iterator<Item = &Arc<Database>> {
        self.databases.values()
    }

    /// What admins said of how discovered databases are signed in to, by database. Not each is in force:
    /// [`Policy::auth_of`] judges.
    pub fn database_auths(&self) -> impl Iterator<Item = &Arc<DatabaseAuth>> {
        self.database_auths.values()
    }

    /// How a database is signed in to: as an admin said of this very resource, else as it says itself.
    #[must_use]
    pub fn auth_of<'a>(&'a self, database: &'a Database) -> &'a CacheAuth {
        self.database_auths
            .get(database.name.as_str())
            .filter(|said| {
                Some(&said.arn) == database.arn.as_ref() && said.endpoint_type == database.endpoint_type
            })
            .map_or(&database.auth, |said| &said.auth)
    }

    /// All db users, in no order.
    pub fn db_users(&self) -> impl Iterator<Item = &Arc<DbUser>> {
        self.db_users.values()
    }

    /// All name claims, by name.
    pub fn name_claims(&self) -> impl Iterator<Item = &Arc<NameClaim>> {
        self.name_claims.values()
    }

    /// The rotation of a db user, by its ARN; none before rotate saw it.
    #[must_use]
    pub fn rotation(&self, arn: &Arn) -> Option<&Arc<Rotation>> {
        self.rotations.get(arn.as_str())
    }

    /// All rotations, in no order.
    pub fn rotations(&self) -> impl Iterator<Item = &Arc<Rotation>> {
        self.rotations.values()
    }

    /// What a db user's name means at a database.
    #[must_use]
    pub fn db_user(&self, database: &Database, name: &str) -> DbUserLookup {
        let same_name = self.db_users_by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut serving = same_name.iter().filter(|user| user.serves(database));
        if let Some(user) = serving.next() {
            return if serving.next().is_some() {
                DbUserLookup::Ambiguous
            } else {
                DbUserLookup::Found(Arc::clone(user))
            };
        }
        let elsewhere = same_name.iter().find(|user| {
            user.arn.account() == database.account_id
                && user.arn.region() == database.region
                && Some(user.arn.service()) == database.kind.signing_service()
        });
        elsewhere.map_or(DbUserLookup::Unknown, |user| DbUserLookup::NotInGroup(Arc::clone(user)))
    }

    /// Db users that can sign in to a database, by name.
    #[must_use]
    pub fn db_users_of(&self, database: &Database) -> Vec<&Arc<DbUser>> {
        let mut users: Vec<_> = self.db_users.values().filter(|user| user.serves(database)).collect();
        users.sort_by(|a, b| a.name.cmp(&b.name));
        users
    }
}
