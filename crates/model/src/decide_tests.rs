use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::arn::Arn;
use crate::database::{CacheAuth, DatabaseAuth, DatabaseKind, Endpoint, EndpointType, Engine};
use crate::db_user::{DbUser, DbUserAuth, DbUserService};
use crate::feed::{Change, Entity};
use crate::labels::OneOrMany;
use crate::name::{DatabaseName, DbUserName};
use crate::policy::LockTarget;
use crate::role::{Conditions, Role, RoleOptions, RoleVersion};

fn database(name: &str, env: &str) -> Database {
    Database {
        name: DatabaseName::parse(name).unwrap(),
        description: String::new(),
        kind: DatabaseKind::Elasticache,
        engine: Engine::Valkey,
        engine_version: "8.0".to_owned(),
        endpoint_type: EndpointType::Primary,
        endpoint: Endpoint { host: "localhost".to_owned(), port: 6379 },
        arn: Some(Arn::parse(format!("arn:aws:elasticache:us-east-1:1:replicationgroup:{name}")).unwrap()),
        resource_id: name.to_owned(),
        region: "us-east-1".to_owned(),
        account_id: "1".to_owned(),
        labels: BTreeMap::from([("env".to_owned(), env.to_owned())]),
        cluster_mode: false,
        groups: BTreeSet::from(["keystile".to_owned()]),
        auth: CacheAuth::Auto,
        assume_role: None,
        matcher: "all".to_owned(),
        import_tags: BTreeSet::new(),
        fixed_labels: BTreeMap::new(),
        nodes: Vec::new(),
        ca: None,
    }
}

fn db_user(name: &str, group: &str) -> Entity {
    Entity::DbUser(Box::new(DbUser {
        arn: Arn::parse(format!("arn:aws:elasticache:us-east-1:1:user:{name}")).unwrap(),
        id: name.to_owned(),
        name: DbUserName::parse(name).unwrap(),
        service: DbUserService::Elasticache,
        auth: DbUserAuth::Iam,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: BTreeSet::from([group.to_owned()]),
        managed: false,
    }))
}

fn conditions(env: &str, users: &[&str]) -> Conditions {
    Conditions {
        db_labels: BTreeMap::from([("env".to_owned(), OneOrMany::One(env.to_owned()))]),
        db_users: users.iter().map(|u| (*u).to_owned()).collect(),
        ..Conditions::default()
    }
}

fn role(name: &str, version: RoleVersion, allow: Conditions, deny: Conditions) -> Entity {
    Entity::Role(Box::new(Role {
        name: RoleName::parse(name).unwrap(),
        version,
        description: String::new(),
        allow,
        deny,
        options: RoleOptions::default(),
    }))
}

fn user(name: &str, roles: &[&str]) -> Entity {
    Entity::User(User {
        name: UserName::parse(name).unwrap(),
        roles: roles.iter().map(|r| RoleName::parse(*r).unwrap()).collect(),
        traits: BTreeMap::new(),
        not_before: None,
    })
}

fn subject(name: &str) -> Subject {
    Subject { user: UserName::parse(name).unwrap(), issued_at: Some(100) }
}

fn connect(policy: &Policy, who: &str, database: &Database, db_user: &str) -> Decision {
    decide(policy, &subject(who), Request::Connect { database, db_user }, 1_000)
}

#[test]
fn roles_allow_by_label_and_user_together() {
    let policy = Policy::new([
        user("alice", &["access", "editor"]),
        user("bob", &["dev"]),
        user("dave", &[]),
        role("dev", RoleVersion::Ks1, conditions("dev", &["iam-ro", "iam-rw"]), Conditions::default()),
    ]);
    let (orders, sessions) = (database("orders", "prod"), database("sessions", "dev"));
    let table = [
        ("alice", &orders, "iam-ro", true),
        ("alice", &sessions, "anything", true),
        ("bob", &orders, "iam-ro", false),
        ("bob", &sessions, "iam-ro", true),
        ("bob", &sessions, "iam-admin", false),
        ("dave", &sessions, "iam-ro", false),
        ("nobody", &sessions, "iam-ro", false),
    ];
    for (who, database, db_user, expected) in table {
        assert_eq!(connect(&policy, who, database, db_user).is_allowed(), expected, "{who} {db_user}");
    }
    let Decision::Deny { rule, reason, .. } = connect(&policy, "bob", &sessions, "iam-admin") else {
        panic!()
    };
    assert_eq!(rule, "no role allows it");
    assert!(reason.contains("nearest: role dev allows db users [iam-ro, iam-rw]"), "{reason}");
}

#[test]
fn labels_of_one_role_never_join_users_of_another() {
    let policy = Policy::new([
        user("eve", &["prod-ro", "dev-rw"]),
        role("prod-ro", RoleVersion::Ks1, conditions("prod", &["ro"]), Conditions::default()),
        role("dev-rw", RoleVersion::Ks1, conditions("dev", &["rw"]), Conditions::default()),
    ]);
    assert!(!connect(&policy, "eve", &database("orders", "prod"), "rw").is_allowed());
    assert!(connect(&policy, "eve", &database("orders", "prod"), "ro").is_allowed());
}

#[test]
fn a_deny_of_ours_is_scoped_and_one_of_teleports_is_greedy() {
    let deny = conditions("prod", &["rw"]);
    for (version, prod_ro, dev_rw) in [(RoleVersion::Ks1, true, true), (RoleVersion::V7, false, false)] {
        let policy = Policy::new([
            user("ann", &["access", "limits"]),
            role("limits", version, Conditions::default(), deny.clone()),
        ]);
        assert!(!connect(&policy, "ann", &database("orders", "prod"), "rw").is_allowed());
        assert_eq!(
            connect(&policy, "ann", &database("orders", "prod"), "ro").is_allowed(),
            prod_ro,
            "{version:?}"
        );
        assert_eq!(connect(&policy, "ann", &database("x", "dev"), "rw").is_allowed(), dev_rw, "{version:?}");
    }
}

#[test]
fn a_deny_with_commands_limits_the_session_only() {
    let mut deny = conditions("prod", &[]);
    deny.db_commands = vec!["+keys".to_owned()];
    let policy = Policy::new([
        user("ann", &["access", "limits"]),
        role("limits", RoleVersion::Ks1, Conditions::default(), deny),
    ]);
    let Decision::Allow { grant: Some(grant), .. } =
        connect(&policy, "ann", &database("orders", "prod"), "rw")
    else {
        panic!()
    };
    assert!(grant.limits_commands());
    assert_eq!(grant.denied_commands.len(), 1);
    let Decision::Allow { grant: Some(grant), .. } = connect(&policy, "ann", &database("x", "dev"), "rw")
    else {
        panic!()
    };
    assert!(!grant.limits_commands());
}

#[test]
fn a_deny_with_keys_limits_the_session_only() {
    let mut deny = conditions("prod", &[]);
    deny.db_commands = vec!["+@write".to_owned()];
    deny.db_keys = vec!["~secret:*".to_owned()];
    deny.db_channels = vec!["&secret.*".to_owned()];
    let granted = |version, env: &str| {
        let mut deny = deny.clone();
        if version != RoleVersion::Ks1 {
            deny.db_labels.clear();
        }
        let policy = Policy::new([
            user("ann", &["access", "limits"]),
            role("limits", version, Conditions::default(), deny),
        ]);
        match connect(&policy, "ann", &database("orders", env), "rw") {
            Decision::Allow { grant: Some(grant), .. } => grant,
            other => panic!("{other:?}"),
        }
    };
    // All its fields together.
    let own = granted(RoleVersion::Ks1, "prod");
    assert!(own.denied_commands.is_empty());
    let [denial] = own.denied_keys.as_slice() else { panic!() };
    assert_eq!((denial.commands.len(), denial.keys.len(), denial.channels.len()), (1, 1, 1));
    assert!(granted(RoleVersion::Ks1, "dev").denied_keys.is_empty());
    // Each on its own.
    let greedy = granted(RoleVersion::V7, "dev");
    assert_eq!(greedy.denied_commands.len(), 1);
    assert!(greedy.denied_keys[0].commands.is_empty());
}

#[test]
fn a_role_that_does_not_compile_closes_everything() {
    let mut broken = conditions("prod", &["ro"]);
    broken.db_commands = vec!["nonsense".to_owned()];
    let policy = Policy::new([
        user("ann", &["access", "broken"]),
        role("broken", RoleVersion::Ks1, broken, Conditions::default()),
    ]);
    let decision = connect(&policy, "ann", &database("orders", "prod"), "ro");
    assert!(!decision.is_allowed());
    assert_eq!(decision.rule(), "role broken");
}

#[test]
fn locks_come_first_and_end() {
    let mut policy = Policy::new([user("alice", &["access"])]);
    let lock = |target, expires_at| {
        Change::Put(Entity::Lock(Lock {
            name: "l".to_owned(),
            target,
            message: "INC-1".to_owned(),
            expires_at,
        }))
    };
    let orders = database("orders", "prod");
    policy.apply(lock(LockTarget { user: Some("alice".to_owned()), ..LockTarget::default() }, None));
    assert_eq!(connect(&policy, "alice", &orders, "ro").rule(), "lock l");
    policy.apply(lock(LockTarget { user: Some("alice".to_owned()), ..LockTarget::default() }, Some(1_000)));
    assert!(connect(&policy, "alice", &orders, "ro").is_allowed(), "it ended at 1,000");
    policy.apply(lock(LockTarget::default(), None));
    assert!(connect(&policy, "alice", &orders, "ro").is_allowed(), "an empty target locks nothing");
    let both = LockTarget {
        database: Some("orders".to_owned()),
        db_user: Some("rw".to_owned()),
        ..LockTarget::default()
    };
    policy.apply(lock(both, None));
    assert!(connect(&policy, "alice", &orders, "ro").is_allowed());
    assert!(!connect(&policy, "alice", &orders, "rw").is_allowed());
}

#[test]
fn a_reset_revokes_older_certificates() {
    let Entity::User(mut old) = user("alice", &["access"]) else { unreachable!() };
    old.not_before = Some(101);
    let policy = Policy::new([Entity::User(old)]);
    assert!(!connect(&policy, "alice", &database("orders", "prod"), "ro").is_allowed());
}

#[test]
fn administration() {
    let policy =
        Policy::new([user("alice", &["editor"]), user("bob", &["access"]), user("ann", &["auditor"])]);
    let may = |who: &str, verb: &str| {
        decide(&policy, &subject(who), Request::Administer { resource: "role", verb }, 0).is_allowed()
    };
    assert!(may("alice", "create"));
    assert!(!may("bob", "list"));
    assert!(may("ann", "list"));
    assert!(!may("ann", "create"));
}

#[test]
fn listed_db_users_are_those_that_are_allowed() {
    let policy = Policy::new([
        user("alice", &["access"]),
        user("bob", &["dev"]),
        role("dev", RoleVersion::Ks1, conditions("dev", &["iam-*"]), Conditions::default()),
        db_user("iam-ro", "keystile"),
        db_user("iam-rw", "keystile"),
        db_user("iam-other", "elsewhere"),
        db_user("static-app", "keystile"),
    ]);
    let sessions = database("sessions", "dev");
    assert_eq!(allowed_db_users(&policy, &subject("alice"), &sessions, 0), ["*"]);
    assert_eq!(allowed_db_users(&policy, &subject("bob"), &sessions, 0), ["iam-ro", "iam-rw"]);
    assert!(allowed_db_users(&policy, &subject("bob"), &database("orders", "prod"), 0).is_empty());
    assert_eq!(
        default_db_user(&policy, &subject("bob"), &sessions, 0),
        Err(vec!["iam-ro".to_owned(), "iam-rw".to_owned()])
    );
    let mut labelled = sessions.clone();
    labelled.labels.insert("keystile.dev/default-db-user".to_owned(), "iam-ro".to_owned());
    assert_eq!(default_db_user(&policy, &subject("bob"), &labelled, 0).as_deref(), Ok("iam-ro"));
}

#[test]
fn a_db_user_is_looked_up_in_its_own_account_and_group() {
    let policy = Policy::new([db_user("iam-ro", "keystile"), db_user("stray", "elsewhere")]);
    let orders = database("orders", "prod");
    use crate::policy::DbUserLookup;
    assert!(matches!(policy.db_user(&orders, "iam-ro"), DbUserLookup::Found(_)));
    assert!(matches!(policy.db_user(&orders, "stray"), DbUserLookup::NotInGroup(_)));
    assert!(matches!(policy.db_user(&orders, "nobody"), DbUserLookup::Unknown));
    let mut abroad = orders.clone();
    abroad.account_id = "2".to_owned();
    assert!(matches!(policy.db_user(&abroad, "iam-ro"), DbUserLookup::Unknown));
}

#[test]
fn a_cache_that_takes_no_name_has_one_user() {
    let all = role("all", RoleVersion::Ks1, conditions("prod", &["*"]), Conditions::default());
    let two =
        role("two", RoleVersion::Ks1, conditions("prod", &["iam-ro", "default"]), Conditions::default());
    let one = role("one", RoleVersion::Ks1, conditions("prod", &["iam-ro"]), Conditions::default());
    let policy = Policy::new([
        all,
        two,
        one,
        user("alice", &["all"]),
        user("bob", &["two"]),
        user("carol", &["one"]),
        db_user("iam-ro", "keystile"),
    ]);
    let subject = |name: &str| Subject { user: UserName::parse(name).unwrap(), issued_at: None };
    for auth in [CacheAuth::None, CacheAuth::Secret("token".to_owned())] {
        let shared = Database { auth, ..database("orders", "prod") };
        let usable = |name| allowed_db_users(&policy, &subject(name), &shared, 0);
        assert_eq!(
            [usable("alice"), usable("bob"), usable("carol")],
            [vec!["default"], vec!["default"], vec![]]
        );
        assert_eq!(default_db_user(&policy, &subject("alice"), &shared, 0), Ok("default".to_owned()));
        assert_eq!(default_db_user(&policy, &subject("carol"), &shared, 0), Err(Vec::new()));
    }
}

#[test]
fn what_an_admin_said_of_a_database_comes_over_its_matcher() {
    let orders = database("orders", "prod");
    let said = DatabaseAuth {
        database: orders.name.clone(),
        arn: orders.arn.clone().unwrap(),
        endpoint_type: EndpointType::Primary,
        auth: CacheAuth::PassThrough,
    };
    let mut policy = Policy::new([Entity::Database(Box::new(orders.clone()))]);
    assert_eq!(policy.auth_of(&orders), &CacheAuth::Auto);
    policy.apply(Change::Put(Entity::DatabaseAuth(said.clone())));
    assert_eq!(policy.auth_of(&orders), &CacheAuth::PassThrough);
    // A full load of what discovery writes does not touch it.
    policy.clear(crate::feed::Feed::Inventory);
    policy.apply(Change::Put(Entity::Database(Box::new(orders.clone()))));
    assert_eq!(policy.auth_of(&orders), &CacheAuth::PassThrough);
    // Another resource of the name, or another endpoint of the same, does not inherit it.
    let other = Database { arn: database("carts", "prod").arn, ..orders.clone() };
    let reader = Database { endpoint_type: EndpointType::Reader, ..orders.clone() };
    assert_eq!([policy.auth_of(&other), policy.auth_of(&reader)], [&CacheAuth::Auto; 2]);
    policy.apply(Change::Delete(Entity::DatabaseAuth(said).key()));
    assert_eq!(policy.auth_of(&orders), &CacheAuth::Auto);
}

#[test]
fn ways_to_sign_in_have_words() {
    for (text, word) in [
        ("auto", "auto"),
        ("iam", "auto"),
        ("pass-through", "pass-through"),
        ("secret:prod/orders_token", "secret"),
        ("secret:arn:aws:secretsmanager:us-east-1:1:secret:x-AbCdEf", "secret"),
        ("none", "none"),
    ] {
        assert_eq!(CacheAuth::try_from(text.to_owned()).unwrap().word(), word, "{text}");
    }
    for bad in ["", "password", "secret:", "secret:a b", "secret:a\n", "NONE"] {
        assert!(CacheAuth::try_from(bad.to_owned()).is_err(), "{bad:?}");
    }
}
