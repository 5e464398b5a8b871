//! The caches' APIs: pages, statuses, refusals, tags.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::error::ProvideErrorMetadata;
use aws_sdk_elasticache::types::{AuthenticationMode, InputAuthenticationType};

use crate::ground::{DELAY, Ground};

fn passwords(list: &[&str]) -> AuthenticationMode {
    let mode = AuthenticationMode::builder().r#type(InputAuthenticationType::Password);
    list.iter().fold(mode, |mode, text| mode.passwords(*text)).build()
}

#[tokio::test]
async fn lists_come_in_pages_of_two() {
    let ground = Ground::new().await;
    let client = Client::new(&ground.admin().await);
    let first = client.describe_replication_groups().send().await.unwrap();
    assert_eq!(first.replication_groups().len(), 2);
    assert!(first.marker().is_some());
    let small = client.describe_replication_groups().max_records(19).send().await.unwrap_err();
    assert_eq!(small.code(), Some("InvalidParameterValue"));

    let all =
        client.describe_replication_groups().into_paginator().items().send().try_collect().await.unwrap();
    let ids: Vec<_> = all.iter().filter_map(|group| group.replication_group_id()).collect();
    assert_eq!(ids, ["forming", "orders", "plain", "sessions"]);
    let orders = &all[1];
    assert_eq!(orders.member_clusters(), ["orders-001", "orders-002"]);
    assert!(orders.node_groups()[0].reader_endpoint().and_then(|at| at.address()).is_some());
    assert_eq!(
        (orders.transit_encryption_enabled(), all[2].transit_encryption_enabled()),
        (Some(true), Some(false))
    );
    assert_eq!(all[0].status(), Some("creating"));
    let slots: Vec<_> = all[3].node_groups().iter().filter_map(|group| group.slots()).collect();
    assert_eq!(slots, ["0-5460", "5461-10921", "10922-16383"]);
    assert!(
        all[3].configuration_endpoint().is_some() && all[3].node_groups()[0].primary_endpoint().is_none()
    );

    let users = client.describe_users().into_paginator().items().send().try_collect().await.unwrap();
    let names: Vec<_> = users.iter().filter_map(|user| user.user_id()).collect();
    assert_eq!(
        names,
        ["default", "iam-admin", "iam-min", "iam-ro", "iam-rw", "legacy-app", "managed-app", "static-app"]
    );
    let clusters =
        client.describe_cache_clusters().into_paginator().items().send().try_collect().await.unwrap();
    assert!(clusters.iter().all(|cluster| cluster.engine_version() == Some("8.0.1")));
    assert_eq!(clusters.len(), 10, "forming, plain, two of orders, six of sessions");
    let serverless = client.describe_serverless_caches().send().await.unwrap();
    let carts = &serverless.serverless_caches()[0];
    assert_eq!((carts.serverless_cache_name(), carts.user_group_id()), (Some("carts"), Some("keystile")));
    assert!(carts.reader_endpoint().is_some());
    let subnets = client.describe_cache_subnet_groups().send().await.unwrap();
    assert!(subnets.cache_subnet_groups()[0].vpc_id().unwrap().starts_with("vpc-"));
    let groups = client.describe_user_groups().send().await.unwrap();
    assert_eq!(groups.user_groups()[0].replication_groups(), ["orders", "sessions"]);
    assert_eq!(groups.user_groups()[0].serverless_caches(), ["carts"]);
}

#[tokio::test]
async fn memorydb_shows_shards_only_when_asked() {
    let ground = Ground::new().await;
    let client = aws_sdk_memorydb::Client::new(&ground.admin().await);
    let plain = client.describe_clusters().send().await.unwrap();
    assert!(plain.clusters()[0].shards().is_empty());
    let full = client.describe_clusters().show_shard_details(true).send().await.unwrap();
    let ledger = &full.clusters()[0];
    let slots: Vec<_> = ledger.shards().iter().filter_map(|shard| shard.slots()).collect();
    assert_eq!((ledger.name(), slots), (Some("ledger"), vec!["0-8191", "8192-16383"]));
    let users = client.describe_users().into_paginator().items().send().try_collect().await.unwrap();
    assert_eq!(users.len(), 5);
    let acls = client.describe_acls().send().await.unwrap();
    assert_eq!(acls.acls()[0].clusters(), ["ledger"]);
}

#[tokio::test]
async fn a_fleet_comes_in_large_pages() {
    let ground = Ground::with_fleet(Some(250)).await;
    let client = Client::new(&ground.admin().await);
    let first = client.describe_replication_groups().send().await.unwrap();
    assert_eq!(first.replication_groups().len(), 100);
    let all =
        client.describe_replication_groups().into_paginator().items().send().try_collect().await.unwrap();
    assert_eq!(all.len(), 254);
}

#[tokio::test]
async fn a_change_blocks_all_users_of_the_group_until_it_is_done() {
    let ground = Ground::new().await;
    let client = Client::new(&ground.admin().await);
    let (one, two) = ("a".repeat(16), "b".repeat(64));
    let modify = |user: &str, list: &[&str]| {
        client.modify_user().user_id(user).authentication_mode(passwords(list)).send()
    };
    for wrong in [vec!["short"], vec![one.as_str(); 3]] {
        let error = modify("managed-app", &wrong).await.unwrap_err();
        assert_eq!(error.code(), Some("InvalidParameterValue"));
    }
    let user = modify("managed-app", &[&one, &two]).await.unwrap();
    assert_eq!(user.status(), Some("modifying"));
    let again = modify("legacy-app", &[&one]).await.unwrap_err();
    assert!(again.as_service_error().unwrap().is_invalid_user_state_fault(), "{again:?}");
    assert_eq!(again.code(), Some("InvalidUserState"));
    let group =
        client.modify_user_group().user_group_id("keystile").user_ids_to_remove("iam-min").send().await;
    assert_eq!(group.unwrap_err().code(), Some("InvalidUserGroupState"));

    tokio::time::sleep(DELAY + Duration::from_millis(400)).await;
    let user = client.describe_users().user_id("managed-app").send().await.unwrap();
    let user = &user.users()[0];
    assert_eq!(user.status(), Some("active"));
    assert_eq!(user.authentication().unwrap().password_count(), Some(2));
    let missing = modify("nobody", &[&one]).await.unwrap_err();
    assert_eq!(missing.code(), Some("UserNotFound"));
}

#[tokio::test]
async fn memorydb_spells_the_same_refusals_with_fault() {
    let ground = Ground::new().await;
    let client = aws_sdk_memorydb::Client::new(&ground.admin().await);
    let update = |user: &str| client.update_user().user_name(user).access_string("on ~* +@read").send();
    update("static-app").await.unwrap();
    let busy = update("iam-ro").await.unwrap_err();
    assert!(busy.as_service_error().unwrap().is_invalid_user_state_fault());
    assert_eq!(busy.as_service_error().unwrap().code(), Some("InvalidUserStateFault"));
    let missing = update("nobody").await.unwrap_err();
    assert_eq!(missing.as_service_error().unwrap().code(), Some("UserNotFoundFault"));
}

#[tokio::test]
async fn users_and_groups_can_be_made_and_unmade() {
    let ground = Ground::new().await;
    let client = Client::new(&ground.admin().await);
    let settle = || tokio::time::sleep(DELAY + Duration::from_millis(400));
    let create = client
        .create_user()
        .user_id("probe")
        .user_name("probe")
        .engine("valkey")
        .access_string("on ~* +@read")
        .authentication_mode(AuthenticationMode::builder().r#type(InputAuthenticationType::Iam).build());
    create.clone().send().await.unwrap();
    assert_eq!(create.send().await.unwrap_err().code(), Some("UserAlreadyExists"));
    settle().await;
    let join =
        client.modify_user_group().user_group_id("keystile").user_ids_to_add("probe").send().await.unwrap();
    assert_eq!(join.pending_changes().unwrap().user_ids_to_add(), ["probe"]);
    settle().await;
    let users = client.describe_users().user_id("probe").send().await.unwrap();
    assert_eq!(users.users()[0].user_group_ids(), ["keystile"]);
    client.delete_user().user_id("probe").send().await.unwrap();
    settle().await;
    assert_eq!(
        client.describe_users().user_id("probe").send().await.unwrap_err().code(),
        Some("UserNotFound")
    );
    let group = client.describe_user_groups().user_group_id("keystile").send().await.unwrap();
    assert!(!group.user_groups()[0].user_ids().contains(&"probe".to_owned()));
}

#[tokio::test]
async fn tags_come_with_an_empty_page_and_without_the_untagged() {
    let ground = Ground::new().await;
    let client = aws_sdk_resourcegroupstagging::Client::new(&ground.admin().await);
    let mut token = None;
    let (mut arns, mut sizes) = (BTreeSet::new(), Vec::new());
    loop {
        let page = client.get_resources().set_pagination_token(token).send().await.unwrap();
        let list = page.resource_tag_mapping_list();
        sizes.push(list.len());
        arns.extend(list.iter().filter_map(|resource| resource.resource_arn().map(str::to_owned)));
        token = page.pagination_token().filter(|text| !text.is_empty()).map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(sizes[1], 0, "{sizes:?}");
    let orders = "arn:aws:elasticache:us-east-1:123456789012:replicationgroup:orders";
    assert!(
        arns.contains(orders)
            && arns.contains("arn:aws:elasticache:us-east-1:123456789012:cluster:orders-001")
    );
    assert!(arns.contains("arn:aws:memorydb:us-east-1:123456789012:cluster/ledger"));
    assert!(arns.contains("arn:aws:elasticache:us-east-1:123456789012:user:managed-app"));
    assert!(!arns.iter().any(|arn| arn.contains("plain") || arn.contains("iam-ro")));

    let both = client
        .get_resources()
        .resource_arn_list(orders)
        .resource_type_filters("elasticache:user")
        .send()
        .await;
    assert!(both.unwrap_err().as_service_error().unwrap().is_invalid_parameter_exception());
    let known =
        client.get_resources().resource_arn_list(orders).resource_arn_list("arn:aws:s3:::gone").send().await;
    assert_eq!(known.unwrap().resource_tag_mapping_list().len(), 1);

    let caches = Client::new(&ground.admin().await);
    let tag = aws_sdk_elasticache::types::Tag::builder().key("env").value("test").build();
    caches.add_tags_to_resource().resource_name(orders).tags(tag).send().await.unwrap();
    caches.remove_tags_from_resource().resource_name(orders).tag_keys("team").send().await.unwrap();
    let tags = caches.list_tags_for_resource().resource_name(orders).send().await.unwrap();
    let tags: Vec<_> = tags.tag_list().iter().map(|tag| (tag.key().unwrap(), tag.value().unwrap())).collect();
    assert_eq!(tags, [("env", "test")]);
    let forming = orders.replace("orders", "forming");
    let error = caches.list_tags_for_resource().resource_name(forming).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidReplicationGroupState"));
}

#[tokio::test]
async fn regions_are_listed_and_a_disabled_one_refuses() {
    let ground = Ground::new().await;
    let client = aws_sdk_account::Client::new(&ground.admin().await);
    let all = client.list_regions().into_paginator().items().send().try_collect().await.unwrap();
    assert_eq!(all.len(), 4);
    let env = ground.front.users["keystile-admin"].clone();
    let off = Client::new(&ground.config(env.clone(), "ap-east-1").await);
    assert_eq!(off.describe_users().send().await.unwrap_err().code(), Some("InvalidClientTokenId"));
    let empty = Client::new(&ground.config(env, "eu-west-1").await);
    assert!(empty.describe_users().send().await.unwrap().users().is_empty());
}
