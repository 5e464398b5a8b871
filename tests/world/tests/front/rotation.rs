//! The ports of rotation over AWS, asked against the front: what each refusal means, and that a change is
//! sent once.

use std::time::Duration;

use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::rotation::{AwsCacheUsers, AwsSecrets};
use keystile_model::arn::Arn;
use keystile_model::cloud::Place;
use keystile_model::database::AssumeRole;
use keystile_model::db_user::{DbUserAuth, DbUserService};
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{
    CacheUser, CacheUsers, CallError, NewSecret, Secrets, Stage, UserStatus, Which,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::ground::{DELAY, Ground};

const NAME: &str = "keystile/elasticache/123456789012/us-east-1/app";

async fn config(ground: &Ground) -> AwsConfig {
    AwsConfig::new(ground.admin().await, "keystile-rotate", std::sync::Arc::new(SystemClock))
}

fn home() -> Place {
    Place { role: None, region: "us-east-1".to_owned() }
}

fn passwords(list: &[&str]) -> Vec<SecretString> {
    list.iter().map(|text| SecretString::from(text.repeat(16))).collect()
}

async fn user(users: &AwsCacheUsers, service: DbUserService, name: &str) -> CacheUser {
    let all = users.users(&home(), service).await.unwrap();
    all.into_iter().find(|user| user.name == name).unwrap()
}

fn kind<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> &'static str {
    outcome.map_or_else(|error| error.kind(), |_| "ok")
}

#[tokio::test]
async fn users_of_both_services_are_listed_and_changed() {
    let ground = Ground::new().await;
    let users = AwsCacheUsers::new(config(&ground).await);
    for (service, name) in
        [(DbUserService::Elasticache, "managed-app"), (DbUserService::Memorydb, "static-app")]
    {
        let before = user(&users, service, name).await;
        assert_eq!(
            (before.status, before.auth, before.passwords),
            (UserStatus::Active, Some(DbUserAuth::Password), 1)
        );
        assert!(before.groups.contains("keystile") && before.arn.ends_with(name));
        let set = |list: &[&str]| {
            let list = passwords(list);
            let users = &users;
            async move { users.set_passwords(&home(), service, name, &list).await }
        };
        set(&["a", "b"]).await.unwrap();
        assert_eq!(kind(set(&["c"]).await), "busy");
        assert_eq!(
            user(&users, service, "iam-ro").await.status,
            UserStatus::Modifying,
            "its group's users wait"
        );
        tokio::time::sleep(DELAY + Duration::from_millis(400)).await;
        let after = user(&users, service, name).await;
        assert_eq!((after.status, after.passwords), (UserStatus::Active, 2));
        assert_eq!(kind(set(&["a", "b", "c"]).await), "refused");
        let gone = users.set_passwords(&home(), service, "nobody", &passwords(&["a"])).await;
        assert_eq!(kind(gone), "not-found");
    }
}

#[tokio::test]
async fn another_account_is_reached_by_its_role() {
    let ground = Ground::new().await;
    let users = AwsCacheUsers::new(config(&ground).await);
    let place = |external: &str| Place {
        role: Some(AssumeRole {
            arn: Arn::parse("arn:aws:iam::210987654321:role/keystile-discovery").unwrap(),
            external_id: Some(external.to_owned()),
            through: None,
        }),
        region: "eu-west-1".to_owned(),
    };
    let found = users.users(&place("keystile-test"), DbUserService::Elasticache).await.unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(kind(users.users(&place("wrong"), DbUserService::Elasticache).await), "denied");
}

#[tokio::test]
async fn a_change_is_sent_once_whatever_comes_back() {
    let ground = Ground::new().await;
    let users = AwsCacheUsers::new(config(&ground).await);
    for (fault, meaning) in [
        ("throttle", "throttled"),
        ("denied", "denied"),
        ("error-before", "unknown"),
        ("error-after", "unknown"),
        ("drop", "unknown"),
    ] {
        let sent = || ground.front.calls().iter().filter(|call| call.operation == "ModifyUser").count();
        let before = sent();
        ground.order(json!({"op": "elasticache:ModifyUser", "fault": fault})).await;
        let set =
            users.set_passwords(&home(), DbUserService::Elasticache, "managed-app", &passwords(&["a"])).await;
        assert_eq!(kind(set), meaning, "{fault}");
        assert_eq!(sent(), before + 1, "{fault}");
        tokio::time::sleep(DELAY + Duration::from_millis(400)).await;
    }
    // A list is tried again.
    ground.order(json!({"op": "elasticache:DescribeUsers", "fault": "throttle"})).await;
    assert!(users.users(&home(), DbUserService::Elasticache).await.is_ok());
}

fn new_secret(token: &str, value: &str) -> NewSecret {
    NewSecret {
        name: NAME.to_owned(),
        token: version(token),
        value: SecretString::from(value),
        description: "made by a test".to_owned(),
        kms_key: None,
        tags: [("keystile.dev/user".to_owned(), "arn".to_owned())].into(),
    }
}

/// An id of legal length.
fn version(letter: &str) -> VersionId {
    VersionId::new(letter.repeat(36))
}

#[tokio::test]
async fn a_secret_from_its_first_version_to_its_deletion_and_back() {
    let ground = Ground::new().await;
    let secrets = AwsSecrets::new(config(&ground).await.home());
    assert_eq!(secrets.describe(NAME).await.unwrap(), None);
    let arn = secrets.create(&new_secret("a", "first")).await.unwrap();
    assert_eq!(secrets.create(&new_secret("a", "first")).await.unwrap(), arn);
    assert_eq!(kind(secrets.create(&new_secret("b", "other")).await), "exists");
    let put = |letter: &'static str, value: &'static str| {
        let (secrets, value) = (&secrets, SecretString::from(value));
        async move { secrets.put_pending(NAME, &version(letter), &value).await }
    };
    put("b", "second").await.unwrap();
    put("b", "second").await.unwrap();
    assert_eq!(kind(put("b", "third").await), "exists");
    let described = secrets.describe(arn.as_str()).await.unwrap().unwrap();
    assert_eq!((&described.arn, described.name.as_str(), described.deleted_at), (&arn, NAME, None));
    assert_eq!(described.version(Stage::Current), Some(&version("a")));
    assert_eq!(described.version(Stage::Pending), Some(&version("b")));
    assert_eq!(described.tags["keystile.dev/user"], "arn");

    let pending = secrets.read(NAME, &Which::Stage(Stage::Pending)).await.unwrap();
    assert_eq!((pending.version, pending.value.expose_secret()), (version("b"), "second"));
    assert!(pending.created_at.is_some());
    assert_eq!(kind(secrets.read(NAME, &Which::Version(version("z"))).await), "not-found");
    assert_eq!(kind(secrets.read(NAME, &Which::Stage(Stage::Previous)).await), "not-found");

    secrets.promote(NAME, &version("a"), &version("b")).await.unwrap();
    assert_eq!(kind(secrets.promote(NAME, &version("a"), &version("b")).await), "moved");
    let current = secrets.read(NAME, &Which::Stage(Stage::Current)).await.unwrap();
    assert_eq!(current.value.expose_secret(), "second");

    secrets.tag(NAME, &[("keystile.dev/group/default".to_owned(), "true".to_owned())].into()).await.unwrap();
    secrets.untag(NAME, &["keystile.dev/user".to_owned()]).await.unwrap();
    let tags = secrets.describe(NAME).await.unwrap().unwrap().tags;
    assert_eq!(tags.into_keys().collect::<Vec<_>>(), ["keystile.dev/group/default"]);

    secrets.delete(NAME, 7).await.unwrap();
    secrets.delete(NAME, 7).await.unwrap();
    assert!(secrets.describe(NAME).await.unwrap().unwrap().deleted_at.is_some());
    assert_eq!(kind(secrets.read(NAME, &Which::Stage(Stage::Current)).await), "scheduled");
    assert_eq!(kind(put("c", "late").await), "scheduled");
    assert_eq!(kind(secrets.create(&new_secret("d", "again")).await), "scheduled");
    secrets.restore(NAME).await.unwrap();
    secrets.restore(NAME).await.unwrap();
    let back = secrets.read(NAME, &Which::Stage(Stage::Current)).await.unwrap();
    assert_eq!(back.value.expose_secret(), "second");
}

#[tokio::test]
async fn teleports_binary_secret_is_read_with_its_age() {
    let ground = Ground::new().await;
    let secrets = AwsSecrets::new(config(&ground).await.home());
    let name = "teleport/elasticache/us-east-1/123456789012/user/legacy-app";
    let read = secrets.read(name, &Which::Stage(Stage::Current)).await.unwrap();
    assert_eq!(read.value.expose_secret(), ground.passwords.legacy_app);
    let age = time::OffsetDateTime::now_utc().unix_timestamp() - read.created_at.unwrap();
    assert!((7_195..7_300).contains(&age), "{age}");
}

#[tokio::test]
async fn refusals_of_secrets_keep_their_kind_and_tell_no_value() {
    let ground = Ground::new().await;
    let secrets = AwsSecrets::new(config(&ground).await.home());
    secrets.create(&new_secret("a", "first")).await.unwrap();
    for (fault, meaning) in [
        ("throttle", "throttled"),
        ("quota", "quota"),
        ("denied", "denied"),
        ("error-before", "unknown"),
        ("error-after", "unknown"),
        ("drop", "unknown"),
    ] {
        ground.order(json!({"op": "secretsmanager:PutSecretValue", "fault": fault})).await;
        let value = SecretString::from("correct-horse-battery");
        let error = secrets.put_pending(NAME, &version("b"), &value).await.unwrap_err();
        assert_eq!(error.kind(), meaning, "{fault}");
        assert!(!format!("{error} {error:?}").contains("horse"));
    }
    let sent = ground.front.calls().into_iter().filter(|call| call.operation == "PutSecretValue").count();
    assert_eq!(sent, 6);
}
