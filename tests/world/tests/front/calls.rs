//! Faults, and the record of calls.

use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::config::retry::RetryConfig;
use aws_sdk_elasticache::error::ProvideErrorMetadata;
use serde_json::json;

use crate::ground::{Ground, http};

#[tokio::test]
async fn faults_hit_the_ordered_calls_in_each_way() {
    let ground = Ground::new().await;
    let once = ground.admin().await.into_builder().retry_config(RetryConfig::disabled()).build();
    let client = Client::new(&once);
    ground.order(json!({"op": "elasticache:DescribeUsers", "fault": "throttle", "count": 1})).await;
    let throttled = client.describe_users().send().await.unwrap_err();
    assert_eq!(throttled.code(), Some("Throttling"));
    client.describe_users().send().await.unwrap();

    let rg = "arn:aws:elasticache:us-east-1:123456789012:replicationgroup:orders";
    let tag = |key: &str| {
        let tag = aws_sdk_elasticache::types::Tag::builder().key(key).value("x").build();
        client.add_tags_to_resource().resource_name(rg).tags(tag).send()
    };
    let has = |key: &'static str| async {
        let tags = client.list_tags_for_resource().resource_name(rg).send().await.unwrap();
        tags.tag_list().iter().any(|tag| tag.key() == Some(key))
    };
    ground.order(json!({"op": "elasticache:AddTags*", "fault": "error-before"})).await;
    assert!(tag("before").await.is_err());
    assert!(!has("before").await);
    ground.order(json!({"op": "elasticache:*", "fault": "error-after"})).await;
    assert!(tag("after").await.is_err());
    assert!(has("after").await);
    ground.order(json!({"op": "elasticache:AddTagsToResource", "fault": "drop"})).await;
    assert!(tag("drop").await.unwrap_err().as_service_error().is_none(), "no answer at all");
    assert!(has("drop").await);
    ground.order(json!({"op": "elasticache:DescribeUsers", "fault": "slow", "seconds": 0.5})).await;
    let start = std::time::Instant::now();
    client.describe_users().send().await.unwrap();
    assert!(start.elapsed().as_millis() >= 500);

    ground.order(json!({"op": "memorydb:*", "fault": "throttle", "count": 100})).await;
    let memorydb = aws_sdk_memorydb::Client::new(&once);
    assert!(memorydb.describe_users().send().await.is_err());
    assert_eq!(http("DELETE", &ground.front.faults_url, &[], String::new()).await.0, 200);
    memorydb.describe_users().send().await.unwrap();
}

#[tokio::test]
async fn the_sdk_retries_what_is_throttled() {
    let ground = Ground::new().await;
    let config = ground.admin().await;
    for op in
        ["elasticache:DescribeUsers", "memorydb:DescribeUsers", "tagging:GetResources", "dynamodb:ListTables"]
    {
        ground.order(json!({"op": op, "fault": "throttle", "count": 1})).await;
    }
    Client::new(&config).describe_users().send().await.unwrap();
    aws_sdk_memorydb::Client::new(&config).describe_users().send().await.unwrap();
    aws_sdk_resourcegroupstagging::Client::new(&config).get_resources().send().await.unwrap();
    aws_sdk_dynamodb::Client::new(&config).list_tables().send().await.unwrap();
    assert_eq!(ground.front.calls().len(), 8);
}

#[tokio::test]
async fn each_call_is_recorded_with_its_table_and_caller() {
    use aws_sdk_dynamodb::types::{
        AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    };
    let ground = Ground::new().await;
    let client = aws_sdk_dynamodb::Client::new(&ground.admin().await);
    let key = KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap();
    let attribute = AttributeDefinition::builder()
        .attribute_name("pk")
        .attribute_type(ScalarAttributeType::S)
        .build()
        .unwrap();
    let create = client.create_table().table_name("policy").key_schema(key).attribute_definitions(attribute);
    create.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    let (status, body) = http("GET", &ground.front.faults_url, &[], String::new()).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let call = &body["calls"][0];
    assert_eq!(
        (status, &call["service"], &call["operation"]),
        (200, &json!("dynamodb"), &json!("CreateTable"))
    );
    assert_eq!((&call["resource"], &call["status"]), (&json!("policy"), &json!(200)));
    assert_eq!(call["caller"], "arn:aws:iam::123456789012:user/keystile-admin");
    assert_eq!((&call["account"], &call["region"]), (&json!("123456789012"), &json!("us-east-1")));
    http("DELETE", &format!("{}?calls", ground.front.faults_url), &[], String::new()).await;
    assert!(ground.front.calls().is_empty());
    let (status, _) =
        http("POST", &ground.front.faults_url, &[], r#"{"op": "x:*", "fault": "melt"}"#.into()).await;
    assert_eq!(status, 400);
}
