//! Who may call: signatures, roles, and the keys that the servers learn.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sdk_elasticache::error::ProvideErrorMetadata;
use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::credentials::CredentialProblem;
use keystile_aws::discovery::AwsCloud;
use keystile_model::arn::Arn;
use keystile_model::cloud::{Cloud, List, Place, Record};
use keystile_model::database::{AssumeRole, Hub};
use keystile_world::sigv4::{self, KnownKey};

use crate::ground::{Ground, http};

fn code<E: ProvideErrorMetadata>(error: &E) -> &str {
    error.code().unwrap_or("")
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_key_are_refused_in_the_words_of_each_protocol() {
    let ground = Ground::new().await;
    let env = ground.front.users["keystile-admin"].env();
    let wrong =
        ground.sdk(Credentials::new(&env["AWS_ACCESS_KEY_ID"], "wrong", None, None, "t"), "us-east-1").await;
    let root = ground.sdk(Credentials::new("123456789012", "x", None, None, "t"), "us-east-1").await;
    for (config, query, json) in [
        (wrong, "SignatureDoesNotMatch", "InvalidSignatureException"),
        (root, "InvalidClientTokenId", "UnrecognizedClientException"),
    ] {
        let cache = aws_sdk_elasticache::Client::new(&config).describe_users().send().await.unwrap_err();
        assert_eq!(code(&cache), query);
        let memorydb = aws_sdk_memorydb::Client::new(&config).describe_users().send().await.unwrap_err();
        assert_eq!(memorydb.code(), Some(json));
        let sts = aws_sdk_sts::Client::new(&config).get_caller_identity().send().await.unwrap_err();
        assert_eq!(sts.code(), Some(query));
        let table = aws_sdk_dynamodb::Client::new(&config).list_tables().send().await.unwrap_err();
        assert_eq!(table.code(), Some(json));
    }
    assert!(ground.front.calls().iter().all(|call| call.caller.is_empty() && call.status >= 400));
}

#[tokio::test]
async fn the_second_account_opens_with_its_external_id_alone() {
    let ground = Ground::new().await;
    let sts = aws_sdk_sts::Client::new(&ground.admin().await);
    let assume = |id: Option<&str>| {
        sts.assume_role()
            .role_arn("arn:aws:iam::210987654321:role/keystile-discovery")
            .role_session_name("test")
            .set_external_id(id.map(str::to_owned))
            .send()
    };
    for wrong in [None, Some("keystile-other")] {
        let error = assume(wrong).await.unwrap_err();
        assert_eq!(error.code(), Some("AccessDenied"));
    }
    let got = assume(Some("keystile-test")).await.unwrap();
    let key = got.credentials().unwrap().access_key_id();
    let known = &ground.keys_file()["keys"][key];
    assert_eq!(known["arn"], "arn:aws:sts::210987654321:assumed-role/keystile-discovery/test");
    assert_eq!(known["connect_accounts"], serde_json::json!(["210987654321"]));
    assert_eq!(known["session_token"], got.credentials().unwrap().session_token());

    let groups =
        aws_sdk_elasticache::Client::new(&ground.abroad().await).describe_replication_groups().send().await;
    let groups = groups.unwrap();
    let ids: Vec<_> =
        groups.replication_groups().iter().filter_map(|group| group.replication_group_id()).collect();
    assert_eq!(ids, ["impostor", "orders"]);
}

#[tokio::test]
async fn functions_chain_into_the_second_account_and_people_do_not() {
    let ground = Ground::new().await;
    let discover =
        ground.front.role_credentials("keystile-discover", "keystile-discover", 3600).await.unwrap();
    let role = ground.config(discover, "us-east-1").await;
    let arn = "arn:aws:iam::210987654321:role/keystile-discovery";
    let chain = |config: aws_config::SdkConfig| async move {
        aws_sdk_sts::Client::new(&config)
            .assume_role()
            .role_arn(arn)
            .role_session_name("chained")
            .external_id("keystile-test")
            .send()
            .await
    };
    chain(role).await.unwrap();
    assert!(chain(ground.user("alice").await).await.is_err());

    let alice = ground.user("alice").await;
    let me = aws_sdk_sts::Client::new(&alice).get_caller_identity().send().await.unwrap();
    assert_eq!(me.arn(), Some("arn:aws:iam::123456789012:user/alice"));
    let denied = aws_sdk_elasticache::Client::new(&alice).describe_users().send().await.unwrap_err();
    assert_eq!(code(&denied), "AccessDenied");
    let denied = aws_sdk_dynamodb::Client::new(&alice).list_tables().send().await.unwrap_err();
    assert_eq!(denied.code(), Some("AccessDeniedException"));
}

#[tokio::test]
async fn a_role_that_trusts_a_hub_opens_through_it_alone() {
    let ground = Ground::new().await;
    let own = ground.front.role_credentials("keystile-discover", "keystile-discover", 3600).await.unwrap();
    let base = ground.config(own, "us-east-1").await;
    let config = AwsConfig::new(base, "keystile-discover", Arc::new(SystemClock));
    let arn = |text: &str| Arn::parse(text.to_owned()).unwrap();
    let spoke = arn("arn:aws:iam::210987654321:role/keystile-spoke");
    let role = |external_id: &str, hub: Option<&str>| AssumeRole {
        arn: spoke.clone(),
        external_id: Some(external_id.to_owned()),
        through: hub.map(|hub| Hub { assume_role_arn: arn(hub), external_id: None }),
    };
    let hub = "arn:aws:iam::123456789012:role/keystile-hub";
    let absent = "arn:aws:iam::123456789012:role/keystile-nobody";
    // Whose trust policy it is that says no.
    for (wrong, blamed) in [
        (role("keystile-test", None), &spoke),
        (role("keystile-other", Some(hub)), &spoke),
        (role("keystile-test", Some("arn:aws:iam::123456789012:role/keystile-proxy")), &spoke),
        (role("keystile-test", Some(absent)), &arn(absent)),
    ] {
        let problem = config.credentials(Some(&wrong)).unwrap().current().await.unwrap_err();
        let CredentialProblem::Refused { role, through, .. } = problem else { panic!("{problem}") };
        let asked = wrong.through.map(|hub| hub.assume_role_arn).filter(|hub| hub != blamed);
        assert_eq!((&role, through), (blamed, asked));
    }
    let good = role("keystile-test", Some(hub));
    let cloud = AwsCloud::new(config.clone());
    let place = Place { role: Some(good.clone()), region: "eu-west-1".to_owned() };
    let page = cloud.page(&place, &List::ReplicationGroups, None).await.unwrap();
    let ids = page.records.iter().map(|record| match record {
        Record::Cache(cache) => cache.id.as_str(),
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), ["impostor", "orders"]);
    let key = config.credentials(Some(&good)).unwrap().current().await.unwrap();
    let known = &ground.keys_file()["keys"][key.access_key_id()];
    assert_eq!(known["arn"], "arn:aws:sts::210987654321:assumed-role/keystile-spoke/keystile-discover");
    assert_eq!(known["connect_accounts"], serde_json::json!(["210987654321"]));
    // The hub itself opens nothing, at home or abroad.
    let hub = AssumeRole { arn: arn(hub), external_id: None, through: None };
    let place = Place { role: Some(hub), region: "us-east-1".to_owned() };
    let denied = cloud.page(&place, &List::ReplicationGroups, None).await.unwrap_err();
    assert_eq!(denied.to_string(), "no permission: elasticache:DescribeReplicationGroups");
}

#[tokio::test]
async fn a_session_token_of_another_key_is_refused() {
    let ground = Ground::new().await;
    let role = ground.front.role_credentials("keystile-proxy", "task", 3600).await.unwrap().env();
    let forged = Credentials::new(
        &role["AWS_ACCESS_KEY_ID"],
        &role["AWS_SECRET_ACCESS_KEY"],
        Some("another".into()),
        None,
        "test",
    );
    let forged = ground.sdk(forged, "us-east-1").await;
    let error = aws_sdk_elasticache::Client::new(&forged).describe_users().send().await.unwrap_err();
    assert_eq!(code(&error), "InvalidClientTokenId");
    let key = &ground.keys_file()["keys"][&role["AWS_ACCESS_KEY_ID"]];
    assert_eq!(key["connect_accounts"], serde_json::json!(["123456789012"]));
}

#[tokio::test]
async fn a_presigned_caller_identity_binds_its_signed_header() {
    let ground = Ground::new().await;
    let env = ground.front.users["bob"].env();
    let key =
        KnownKey { secret: env["AWS_SECRET_ACCESS_KEY"].clone(), session_token: None, expires_at: None };
    let host = ground.front.endpoint_url.trim_start_matches("http://").to_owned();
    let headers = BTreeMap::from([("host".to_owned(), host), ("x-keystile".to_owned(), "one".to_owned())]);
    let query = "Action=GetCallerIdentity&Version=2011-06-15";
    let request = sigv4::Request { method: "GET", path: "/", query, headers: &headers, body: b"" };
    let now = time::OffsetDateTime::now_utc();
    let life = time::Duration::minutes(5);
    let signed = sigv4::presign(&request, &env["AWS_ACCESS_KEY_ID"], &key, "us-east-1", "sts", life, now);
    let url = format!("{}/?{signed}", ground.front.endpoint_url);
    let ask = async |value: &str| {
        http("GET", &url, &[("x-keystile".to_owned(), value.to_owned())], String::new()).await
    };
    let (status, body) = ask("one").await;
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("<Arn>arn:aws:iam::123456789012:user/bob</Arn>"));
    let (status, body) = ask("two").await;
    assert_eq!(status, 403);
    assert!(body.contains("<Code>SignatureDoesNotMatch</Code>"), "{body}");
}
