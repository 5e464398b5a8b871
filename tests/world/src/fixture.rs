//! The fixture of the local world, as data: accounts, caches, cache users and principals.
//!
//! Owns what exists when the world starts and nothing of how it is served. Passwords and keys are
//! made anew for each start, so nothing here is a secret. What the world accepts later lives in
//! [`crate::front`].

use serde::{Deserialize, Serialize};

/// The account that Keystile is deployed in.
pub const HOME_ACCOUNT: &str = "123456789012";
/// The home account's region.
pub const HOME_REGION: &str = "us-east-1";
/// The second account, reached by assuming a role.
pub const ABROAD_ACCOUNT: &str = "210987654321";
/// The second account's region.
pub const ABROAD_REGION: &str = "eu-west-1";
/// The external id that the second account's role asks for.
pub const EXTERNAL_ID: &str = "keystile-test";
/// The home account's role that the second account's `keystile-spoke` trusts, and nobody else.
pub const HUB: &str = "keystile-hub";
/// The deployment's `BootstrapAdminArn`.
pub const ADMIN_ARN: &str = "arn:aws:iam::123456789012:user/keystile-admin";
/// The user that exists on the servers alone, with all rights.
pub const TEST_ADMIN: &str = "test-admin";
/// The user group and the ACL of both accounts.
pub const GROUP: &str = "keystile";

/// What a resource is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An ElastiCache replication group.
    ReplicationGroup,
    /// An ElastiCache serverless cache.
    Serverless,
    /// A MemoryDB cluster.
    #[serde(rename = "memorydb")]
    MemoryDb,
}

/// One cache of the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// The account it belongs to.
    pub account: String,
    /// Its region.
    pub region: String,
    /// What it is.
    pub kind: Kind,
    /// Its id or name.
    pub id: String,
    /// `valkey` or `redis`.
    pub engine: String,
    /// The engine's full version in the API.
    pub engine_version: String,
    /// In-transit encryption.
    pub tls: bool,
    /// Cluster mode.
    pub cluster: bool,
    /// Number of primaries.
    pub shards: u16,
    /// Replicas of each primary.
    pub replicas: u16,
    /// The status in the API, when nothing is in flight.
    pub status: String,
    /// Its tags.
    pub tags: Vec<(String, String)>,
    /// The user group or ACL that it uses.
    pub group: Option<String>,
    /// Whether real servers stand behind it.
    pub servers: bool,
}

impl Resource {
    /// Its ARN.
    #[must_use]
    pub fn arn(&self) -> String {
        let Self { account, region, id, .. } = self;
        match self.kind {
            Kind::ReplicationGroup => format!("arn:aws:elasticache:{region}:{account}:replicationgroup:{id}"),
            Kind::Serverless => format!("arn:aws:elasticache:{region}:{account}:serverlesscache:{id}"),
            Kind::MemoryDb => format!("arn:aws:memorydb:{region}:{account}:cluster/{id}"),
        }
    }
}

/// How a cache user authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheAuth {
    /// By an IAM token.
    Iam,
    /// By one of these passwords, at most two.
    Passwords(Vec<String>),
    /// Not at all.
    None,
}

/// A user of the caches, in ElastiCache or MemoryDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheUser {
    /// The account it belongs to.
    pub account: String,
    /// Its region.
    pub region: String,
    /// Whether it is MemoryDB's; else it is ElastiCache's.
    pub memorydb: bool,
    /// Id and name, which are the same here.
    pub name: String,
    /// How it authenticates.
    pub auth: CacheAuth,
    /// What it may do, in the grammar of the servers' ACLs.
    pub access: String,
    /// Its tags.
    pub tags: Vec<(String, String)>,
}

/// A principal that signs requests: an IAM user, or a role that someone assumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The account it belongs to.
    pub account: &'static str,
    /// Its name.
    pub name: &'static str,
    /// A role; else a user with an access key.
    pub role: bool,
    /// The external id that the role's trust asks for.
    pub external_id: Option<&'static str>,
    /// Whom a role trusts: the one home role of this name, or anybody of the home account who may.
    pub trusts: Option<&'static str>,
    /// What it may do.
    pub rights: Rights,
}

/// What a principal may do, in broad strokes: the proof of least privilege is made from recorded calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Everything in its account.
    All,
    /// Ask who it is, and call the access function's URL.
    Person,
    /// Assume another role, and nothing else.
    Hub,
}

/// Passwords made for one start of the world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passwords {
    /// The first password of `managed-app`, which nobody is told.
    pub managed_app: String,
    /// What Teleport's secret holds for `legacy-app`.
    pub legacy_app: String,
    /// The password that nobody rotates.
    pub static_app: String,
    /// The password of [`TEST_ADMIN`].
    pub test_admin: String,
}

impl Passwords {
    /// New random passwords of 64 characters.
    #[must_use]
    pub fn generate() -> Self {
        Self { managed_app: random(), legacy_app: random(), static_app: random(), test_admin: random() }
    }
}

/// All caches, the home account's first. `version` is what the real servers report, such as `8.0.1`.
#[must_use]
pub fn resources(version: &str, fleet: usize) -> Vec<Resource> {
    let home = |kind, id: &str, tags: &[(&str, &str)]| Resource {
        account: HOME_ACCOUNT.into(),
        region: HOME_REGION.into(),
        kind,
        id: id.into(),
        engine: "valkey".into(),
        engine_version: version.into(),
        tls: true,
        cluster: false,
        shards: 1,
        replicas: 0,
        status: "available".into(),
        tags: owned(tags),
        group: Some(GROUP.into()),
        servers: true,
    };
    let group = |id, tags| home(Kind::ReplicationGroup, id, tags);
    let abroad =
        |resource| Resource { account: ABROAD_ACCOUNT.into(), region: ABROAD_REGION.into(), ..resource };
    let mut all = vec![
        Resource { replicas: 1, ..group("orders", &[("env", "prod"), ("team", "shop")]) },
        Resource {
            cluster: true,
            shards: 3,
            replicas: 1,
            ..group("sessions", &[("env", "dev"), ("team", "identity")])
        },
        Resource { cluster: true, ..home(Kind::Serverless, "carts", &[("env", "dev"), ("team", "shop")]) },
        Resource {
            cluster: true,
            shards: 2,
            ..home(Kind::MemoryDb, "ledger", &[("env", "prod"), ("team", "pay")])
        },
        Resource { tls: false, group: None, servers: false, ..group("plain", &[]) },
        Resource { status: "creating".into(), group: None, servers: false, ..group("forming", &[]) },
        abroad(group("orders", &[("env", "prod"), ("team", "emea")])),
        abroad(Resource {
            servers: false,
            ..group(
                "impostor",
                &[("keystile.dev/name", "orders"), ("account-id", HOME_ACCOUNT), ("env", "dev")],
            )
        }),
    ];
    all.extend((1..=fleet).map(|n| Resource {
        group: None,
        servers: false,
        ..home(
            Kind::ReplicationGroup,
            &format!("fleet-{n:05}"),
            &[("env", "fleet"), ("team", &format!("fleet-{:02}", n % 100))],
        )
    }));
    all
}

/// All cache users of both accounts and both services.
#[must_use]
pub fn cache_users(passwords: &Passwords) -> Vec<CacheUser> {
    let mut users = Vec::new();
    for name in
        ["iam-ro", "iam-rw", "iam-min", "iam-admin", "managed-app", "legacy-app", "static-app", "default"]
    {
        users.push(cache_user(HOME_ACCOUNT, HOME_REGION, false, name, passwords));
    }
    for name in ["iam-ro", "iam-rw", "iam-admin", "static-app", "default"] {
        users.push(cache_user(HOME_ACCOUNT, HOME_REGION, true, name, passwords));
    }
    for name in ["iam-ro", "iam-rw", "default"] {
        users.push(cache_user(ABROAD_ACCOUNT, ABROAD_REGION, false, name, passwords));
    }
    users
}

/// The `ACL SETUSER` rules that make a user on a server, from a clean slate. A user with IAM has no
/// password, so only the IAM module can let it in.
#[must_use]
pub fn acl_rules(auth: &CacheAuth, access: &str) -> Vec<String> {
    let mut rules = vec!["reset".to_owned()];
    rules.extend(access.split_whitespace().map(str::to_owned));
    match auth {
        CacheAuth::Passwords(passwords) => {
            rules.extend(passwords.iter().map(|password| format!(">{password}")))
        }
        CacheAuth::Iam => {}
        // A user that is off can't log in either way; `nopass` only where it is on.
        CacheAuth::None if access.split_whitespace().any(|word| word == "on") => rules.push("nopass".into()),
        CacheAuth::None => {}
    }
    rules
}

/// Everybody who signs requests. The first one is the admin.
pub const PRINCIPALS: &[Principal] = &[
    user("keystile-admin", Rights::All),
    user("alice", Rights::Person),
    user("bob", Rights::Person),
    user("carol", Rights::Person),
    user("dave", Rights::Person),
    role("checkout", Rights::Person),
    role("keystile-proxy", Rights::All),
    role("keystile-discover", Rights::All),
    role("keystile-sync-labels", Rights::All),
    role("keystile-rotate", Rights::All),
    role("keystile-access", Rights::All),
    role("keystile-join", Rights::All),
    Principal {
        account: ABROAD_ACCOUNT,
        name: "keystile-discovery",
        role: true,
        external_id: Some(EXTERNAL_ID),
        trusts: None,
        rights: Rights::All,
    },
    role(HUB, Rights::Hub),
    Principal {
        account: ABROAD_ACCOUNT,
        name: "keystile-spoke",
        role: true,
        external_id: Some(EXTERNAL_ID),
        trusts: Some(HUB),
        rights: Rights::All,
    },
];

/// The accounts whose caches a principal may open with an IAM token (`elasticache:Connect`,
/// `memorydb:Connect`): nobody passes by the proxy, so people have none.
#[must_use]
pub fn connect_accounts(arn: &str) -> Vec<String> {
    let proxy = "arn:aws:sts::123456789012:assumed-role/keystile-proxy/";
    let abroad = ["keystile-discovery", "keystile-spoke"]
        .map(|role| format!("arn:aws:sts::{ABROAD_ACCOUNT}:assumed-role/{role}/"));
    if arn == ADMIN_ARN || arn.starts_with(proxy) {
        vec![HOME_ACCOUNT.into()]
    } else if abroad.iter().any(|role| arn.starts_with(role)) {
        vec![ABROAD_ACCOUNT.into()]
    } else {
        Vec::new()
    }
}

/// What a caller may do, by its ARN; `None` for one that the world does not know.
#[must_use]
pub fn rights(arn: &str) -> Option<Rights> {
    let mut parts = arn.splitn(6, ':').skip(4);
    let (account, resource) = (parts.next()?, parts.next()?);
    let mut names = resource.split('/');
    let is_role = match names.next()? {
        "assumed-role" => true,
        "user" => false,
        _ => return None,
    };
    let name = names.next()?;
    let found = PRINCIPALS.iter().find(|p| p.account == account && p.name == name && p.role == is_role);
    found.map(|principal| principal.rights)
}

/// Name of the secret in which Teleport keeps the password of a managed user.
#[must_use]
pub fn teleport_secret_name(user: &str) -> String {
    format!("teleport/elasticache/{HOME_REGION}/{HOME_ACCOUNT}/user/{user}")
}

const fn user(name: &'static str, rights: Rights) -> Principal {
    Principal { account: HOME_ACCOUNT, name, role: false, external_id: None, trusts: None, rights }
}

const fn role(name: &'static str, rights: Rights) -> Principal {
    Principal { account: HOME_ACCOUNT, name, role: true, external_id: None, trusts: None, rights }
}

const READ: &str =
    "on ~* &* -@all +@read +@connection +@transaction +@pubsub +acl|whoami +cluster|slots +cluster|shards";

fn cache_user(account: &str, region: &str, memorydb: bool, name: &str, passwords: &Passwords) -> CacheUser {
    let app = "on ~* &* +@all -@dangerous";
    let (auth, access, tags): (_, String, &[_]) = match name {
        "iam-ro" => (CacheAuth::Iam, READ.into(), &[]),
        "iam-rw" => (CacheAuth::Iam, format!("{READ} +@write +@scripting -@dangerous"), &[]),
        "iam-min" => (CacheAuth::Iam, "on ~* -@all +@read".into(), &[]),
        "iam-admin" => (CacheAuth::Iam, "on ~* &* +@all".into(), &[]),
        "managed-app" => (password(&passwords.managed_app), app.into(), &[("keystile.dev/managed", "true")]),
        "legacy-app" => (password(&passwords.legacy_app), app.into(), &[("teleport.dev/managed", "true")]),
        "static-app" => (password(&passwords.static_app), app.into(), &[]),
        _ => (CacheAuth::None, "off -@all".into(), &[]),
    };
    CacheUser {
        account: account.into(),
        region: region.into(),
        memorydb,
        name: name.into(),
        auth,
        access,
        tags: owned(tags),
    }
}

fn password(text: &str) -> CacheAuth {
    CacheAuth::Passwords(vec![text.to_owned()])
}

fn owned(tags: &[(&str, &str)]) -> Vec<(String, String)> {
    tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn random() -> String {
    let half = || uuid::Uuid::new_v4().simple().to_string();
    half() + &half()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_admin_and_the_proxy_may_open_a_cache_of_the_home_account() {
        let open = |arn: &str| connect_accounts(arn);
        assert_eq!(open(ADMIN_ARN), [HOME_ACCOUNT]);
        assert_eq!(open("arn:aws:sts::123456789012:assumed-role/keystile-proxy/x"), [HOME_ACCOUNT]);
        assert_eq!(open("arn:aws:sts::210987654321:assumed-role/keystile-discovery/x"), [ABROAD_ACCOUNT]);
        assert!(open("arn:aws:iam::123456789012:user/alice").is_empty());
        assert!(open("arn:aws:sts::123456789012:assumed-role/keystile-proxy-2/x").is_empty());
        assert!(open("arn:aws:sts::123456789012:assumed-role/checkout/x").is_empty());
    }

    #[test]
    fn rights_come_from_account_kind_and_name_together() {
        assert_eq!(rights(ADMIN_ARN), Some(Rights::All));
        assert_eq!(rights("arn:aws:iam::123456789012:user/bob"), Some(Rights::Person));
        assert_eq!(rights("arn:aws:sts::123456789012:assumed-role/checkout/s"), Some(Rights::Person));
        assert_eq!(rights("arn:aws:iam::210987654321:user/bob"), None);
        assert_eq!(rights("arn:aws:iam::123456789012:user/keystile-proxy"), None);
    }

    #[test]
    fn an_iam_user_has_no_password_on_the_server() {
        let users = cache_users(&Passwords::generate());
        let rules = |name: &str| {
            let user = users.iter().find(|user| user.name == name).unwrap();
            acl_rules(&user.auth, &user.access)
        };
        assert!(rules("iam-ro").iter().all(|rule| !rule.starts_with('>') && rule != "nopass"));
        assert_eq!(rules("default"), ["reset", "off", "-@all"]);
        assert_eq!(rules("static-app").iter().filter(|rule| rule.starts_with('>')).count(), 1);
    }
}
