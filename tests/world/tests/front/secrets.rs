//! Secrets Manager as rotation leans on it: tokens, labels, deletion.

use std::collections::HashMap;

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use aws_sdk_secretsmanager::types::Tag;
use serde_json::json;
use uuid::Uuid;

use crate::ground::Ground;

const NAME: &str = "keystile/x";

async fn client(ground: &Ground) -> Client {
    Client::new(&ground.admin().await)
}

fn token() -> String {
    Uuid::new_v4().to_string()
}

/// Makes the secret and answers its first version.
async fn create(client: &Client, value: &str) -> String {
    let made = client.create_secret().name(NAME).secret_string(value).client_request_token(token());
    made.send().await.unwrap().version_id.unwrap()
}

async fn put(client: &Client, token: &str, value: &str, label: &str) -> Result<(), String> {
    let put = client.put_secret_value().secret_id(NAME).client_request_token(token).secret_string(value);
    put.version_stages(label)
        .send()
        .await
        .map(drop)
        .map_err(|error| error.code().unwrap_or_default().to_owned())
}

/// Which version has a label.
async fn labels(client: &Client) -> HashMap<String, String> {
    let described = client.describe_secret().secret_id(NAME).send().await.unwrap();
    let stages = described.version_ids_to_stages.unwrap_or_default();
    let mut labels = HashMap::new();
    for (version, names) in stages {
        for name in names {
            assert!(labels.insert(name, version.clone()).is_none(), "one version a label");
        }
    }
    labels
}

#[tokio::test]
async fn a_token_is_its_version_and_a_late_retry_changes_nothing() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    let first = create(&client, "first").await;
    let next = token();
    put(&client, &next, "second", "AWSPENDING").await.unwrap();
    put(&client, &next, "second", "AWSPENDING").await.unwrap();
    assert_eq!(put(&client, &next, "third", "AWSPENDING").await, Err("ResourceExistsException".to_owned()));
    let promote = client.update_secret_version_stage().secret_id(NAME).version_stage("AWSCURRENT");
    promote.move_to_version_id(&next).remove_from_version_id(&first).send().await.unwrap();
    // Promoting leaves the label of what waits; a retry of the put that made it takes nothing away.
    put(&client, &next, "second", "AWSPENDING").await.unwrap();
    let found = labels(&client).await;
    assert_eq!((&found["AWSCURRENT"], &found["AWSPREVIOUS"], &found["AWSPENDING"]), (&next, &first, &next));
    let got = client.get_secret_value().secret_id(NAME).send().await.unwrap();
    assert_eq!(got.secret_string(), Some("second"));
}

#[tokio::test]
async fn a_label_is_on_one_version() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    let first = create(&client, "first").await;
    let (one, two) = (token(), token());
    put(&client, &one, "1", "AWSPENDING").await.unwrap();
    put(&client, &two, "2", "AWSPENDING").await.unwrap();
    assert_eq!(labels(&client).await["AWSPENDING"], two);

    let stage = |label: &str| client.update_secret_version_stage().secret_id(NAME).version_stage(label);
    let gone = stage("AWSCURRENT").remove_from_version_id(&first).send().await.unwrap_err();
    assert_eq!(gone.code(), Some("InvalidParameterException"));
    let wrong = stage("AWSCURRENT").move_to_version_id(&two).remove_from_version_id(&one).send().await;
    assert_eq!(wrong.unwrap_err().code(), Some("InvalidParameterException"), "it is a compare-and-swap");
    stage("AWSPENDING").remove_from_version_id(&two).send().await.unwrap();
    assert!(!labels(&client).await.contains_key("AWSPENDING"));
}

#[tokio::test]
async fn two_that_race_with_one_token_end_with_one_value() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    create(&client, "first").await;
    for round in 0..10 {
        let token = token();
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let (one, two) =
            tokio::join!(put(&client, &token, &a, "AWSPENDING"), put(&client, &token, &b, "AWSPENDING"));
        assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(), 1);
        let got = client.get_secret_value().secret_id(NAME).version_id(&token).send().await.unwrap();
        assert_eq!(got.secret_string(), Some(if one.is_ok() { a.as_str() } else { b.as_str() }));
    }
}

#[tokio::test]
async fn creating_twice_with_one_token_is_creating_once() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    let token = token();
    let create = |value: &str| {
        let create = client.create_secret().name(NAME).secret_string(value).client_request_token(&token);
        create.tags(Tag::builder().key("owner").value("keystile").build()).send()
    };
    let (one, two) = (create("first").await.unwrap(), create("first").await.unwrap());
    assert_eq!((one.arn(), one.version_id()), (two.arn(), Some(token.as_str())));
    let other = create("second").await.unwrap_err();
    assert_eq!(other.code(), Some("ResourceExistsException"));
    let bad = client.create_secret().name("bad name!").secret_string("x").send().await.unwrap_err();
    assert_eq!(bad.code(), Some("ValidationException"));
    let short = put(&client, "short", "x", "AWSPENDING").await;
    assert_eq!(short, Err("InvalidParameterException".to_owned()));
    let described = client.describe_secret().secret_id(NAME).send().await.unwrap();
    assert_eq!(described.tags()[0].key(), Some("owner"));
}

#[tokio::test]
async fn a_secret_that_waits_for_deletion_is_closed_and_comes_back_as_it_was() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    create(&client, "first").await;
    let delete = || client.delete_secret().secret_id(NAME);
    let both = delete().recovery_window_in_days(7).force_delete_without_recovery(true).send().await;
    assert_eq!(both.unwrap_err().code(), Some("InvalidParameterException"));
    assert_eq!(
        delete().recovery_window_in_days(6).send().await.unwrap_err().code(),
        Some("InvalidParameterException")
    );
    delete().recovery_window_in_days(7).send().await.unwrap();
    let closed = client.get_secret_value().secret_id(NAME).send().await.unwrap_err();
    assert_eq!(closed.code(), Some("InvalidRequestException"));
    assert_eq!(put(&client, &token(), "x", "AWSPENDING").await, Err("InvalidRequestException".to_owned()));
    let again = client.create_secret().name(NAME).secret_string("x").send().await.unwrap_err();
    assert_eq!(again.code(), Some("InvalidRequestException"));
    let described = client.describe_secret().secret_id(NAME).send().await.unwrap();
    assert!(described.deleted_date().is_some());
    client.restore_secret().secret_id(NAME).send().await.unwrap();
    let got = client.get_secret_value().secret_id(NAME).send().await.unwrap();
    assert_eq!(got.secret_string(), Some("first"));

    let many = client.batch_get_secret_value().set_secret_id_list(Some(vec![NAME.to_owned(); 21]));
    assert_eq!(many.send().await.unwrap_err().code(), Some("InvalidParameterException"));
    let batch = client.batch_get_secret_value().secret_id_list(NAME).secret_id_list("keystile/none");
    let batch = batch.send().await.unwrap();
    assert_eq!(batch.secret_values()[0].secret_string(), Some("first"));
    assert_eq!(batch.errors()[0].error_code(), Some("ResourceNotFoundException"));
}

#[tokio::test]
async fn what_somebody_puts_into_teleports_secret_is_new() {
    let ground = Ground::new().await;
    let client = client(&ground).await;
    let name = "teleport/elasticache/us-east-1/123456789012/user/legacy-app";
    let age = |seconds: i64| time::OffsetDateTime::now_utc().unix_timestamp() - seconds;
    let got = client.get_secret_value().secret_id(name).send().await.unwrap();
    assert!((7_195..7_300).contains(&age(got.created_date().unwrap().secs())));
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    client.put_secret_value().secret_id(name).secret_string("rotated").send().await.unwrap();
    let got = client.get_secret_value().secret_id(name).send().await.unwrap();
    assert!((0..60).contains(&age(got.created_date().unwrap().secs())));
}

#[tokio::test]
async fn a_quota_refuses_in_the_words_of_the_service() {
    let ground = Ground::new().await;
    let config = ground.admin().await.into_builder().retry_config(RetryConfig::disabled()).build();
    let client = Client::new(&config);
    create(&client, "first").await;
    ground.order(json!({"op": "secretsmanager:PutSecretValue", "fault": "quota"})).await;
    assert_eq!(put(&client, &token(), "x", "AWSPENDING").await, Err("LimitExceededException".to_owned()));
    assert!(!labels(&client).await.contains_key("AWSPENDING"));
}
