//! What fails, and what must not follow from it.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_third_page_that_fails_removes_nothing() {
    let bench = Bench::new(FakeCloud::new(2)).await;
    for i in 0..10 {
        bench.cloud.add(group(&format!("db{i}"), "us-east-1", HOME, 1), &[("env", "dev")]);
    }
    bench.run().await;
    bench.cloud.remove("db0");
    bench.cloud.world().faults.push(Fault {
        action: "elasticache:DescribeReplicationGroups",
        page: 3,
        error: CloudError::Throttled("elasticache:DescribeReplicationGroups".into()),
    });
    let report = bench.run().await;
    assert_eq!(bench.names().await.len(), 10);
    let scope =
        report.scopes.iter().find(|s| s.scope.kind == "elasticache" && s.scope.account == HOME).unwrap();
    assert!(!scope.complete && !report.complete);
    assert_eq!(scope.reason.as_deref(), Some("throttled: elasticache:DescribeReplicationGroups"));
    bench.cloud.world().faults.clear();
    assert_eq!(bench.run().await.remove.len(), 1);
}

#[tokio::test]
async fn a_repeated_token_is_a_failure_of_the_scope() {
    let bench = Bench::new(FakeCloud::new(2)).await;
    for i in 0..10 {
        bench.cloud.add(group(&format!("db{i}"), "us-east-1", HOME, 1), &[("env", "dev")]);
    }
    bench.run().await;
    bench.cloud.world().repeat_token_of = Some("elasticache:DescribeReplicationGroups");
    let report = bench.run().await;
    assert_eq!(bench.names().await.len(), 10);
    let reason = report.scopes.iter().find_map(|s| s.reason.clone()).unwrap();
    assert_eq!(reason, "page token repeated: elasticache:DescribeReplicationGroups");
}

#[tokio::test]
async fn the_brake_holds_and_an_admin_can_release_it() {
    let bench = Bench::new(FakeCloud::new(100)).await;
    for i in 0..12 {
        bench.cloud.add(group(&format!("db{i}"), "us-east-1", HOME, 1), &[("env", "dev")]);
    }
    bench.run().await;
    for i in 0..4 {
        bench.cloud.remove(&format!("db{i}"));
    }
    let revision = bench.revision().await;
    let report = bench.run().await;
    assert_eq!(report.alarms.len(), 1, "{report:#?}");
    assert!(report.remove.is_empty());
    assert_eq!(bench.revision().await, revision);
    assert_eq!(bench.known().await.claims["db0"].vanished_at, None);
    let scope = format!("{HOME}/us-east-1/elasticache");
    let line = format!("keystile discover run --allow-removals {scope}");
    assert!(report.alarms[0].ends_with(&line), "{}", report.alarms[0]);
    let allow = |words: &[&str]| Ask {
        allow_removals: Removals::parse(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).unwrap(),
        asked_by: Some("alice".to_owned()),
        ..Ask::default()
    };
    let others = [format!("{HOME}/us-east-1/memorydb"), format!("{HOME}/us-west-2/elasticache")];
    let report = bench.run_at(NOW, allow(&[&others[0], &others[1]])).await.unwrap();
    assert_eq!((report.remove.len(), report.alarms.len()), (0, 1), "another scope's word does not count");
    assert_eq!(
        report.warnings.len(),
        1,
        "one of them is looked at, and one is a slip: {:?}",
        report.warnings
    );
    assert!(report.warnings[0].contains("us-west-2"), "{:?}", report.warnings);
    bench.audit.0.lock().unwrap().clear();
    let report = bench.run_at(NOW, allow(&[&scope])).await.unwrap();
    assert_eq!((report.remove.len(), report.alarms.len()), (4, 0));
    assert_eq!((report.asked_by.as_deref(), report.allowed_removals.words()), (Some("alice"), vec![scope]));
    let audited = bench.audit.0.lock().unwrap().clone();
    assert_eq!(audited.len(), 4);
    assert!(audited.iter().all(|event| event.code == "TDB05I" && event.details["asked_by"] == "alice"));
}

#[tokio::test]
async fn one_word_lets_everything_go() {
    let bench = Bench::new(FakeCloud::new(100)).await;
    for i in 0..12 {
        bench.cloud.add(group(&format!("db{i}"), "us-east-1", HOME, 1), &[]);
        bench.cloud.world().users.push(user(&format!("u{i}"), DbUserAuth::Iam));
    }
    bench.run().await;
    for i in 0..6 {
        bench.cloud.remove(&format!("db{i}"));
        bench.cloud.world().users.retain(|user| user.id != format!("u{i}"));
    }
    assert_eq!(bench.run().await.alarms.len(), 2);
    let ask = Ask { allow_removals: Removals::All, ..Ask::default() };
    let report = bench.run_at(NOW, ask).await.unwrap();
    assert_eq!((report.remove.len(), report.users.remove.len(), report.alarms.len()), (6, 6, 0));
}

#[tokio::test]
async fn a_missing_right_is_named_and_harms_nobody_else() {
    let bench = Bench::fixture().await;
    bench.cloud.world().faults.push(Fault {
        action: "elasticache:DescribeServerlessCaches",
        page: 1,
        error: CloudError::Forbidden("elasticache:DescribeServerlessCaches".into()),
    });
    let report = bench.run().await;
    let reason =
        report.scopes.iter().find(|s| s.scope.kind == "elasticache-serverless").unwrap().reason.clone();
    assert_eq!(reason.as_deref(), Some("no permission: elasticache:DescribeServerlessCaches"));
    assert_eq!(report.add.len(), 6);
}

#[tokio::test]
async fn tags_that_cannot_be_read_add_nothing_and_keep_what_is_known() {
    let bench = Bench::fixture().await;
    let timed_out =
        Fault { action: "tag:GetResources", page: 1, error: CloudError::TimedOut("tag:GetResources".into()) };
    bench.cloud.world().faults.push(timed_out.clone());
    let report = bench.run().await;
    assert!(report.add.is_empty());
    assert_eq!(reason_of(&report, "orders"), "tags unread");
    bench.cloud.world().faults.clear();
    bench.run().await;
    let before = bench.known().await.databases;
    bench.cloud.world().faults.push(timed_out);
    bench.run().await;
    assert_eq!(bench.known().await.databases, before);
}

#[tokio::test]
async fn without_the_bulk_right_each_new_resource_is_asked_once() {
    let bench = Bench::fixture().await;
    bench.cloud.world().faults.push(Fault {
        action: "tag:GetResources",
        page: 1,
        error: CloudError::Forbidden("tag:GetResources".into()),
    });
    let report = bench.run().await;
    assert_eq!(report.add.len(), 8, "{report:#?}");
    assert_eq!(bench.database("orders").await.labels["env"], "prod");
    let asked = bench.cloud.calls_of("ListTags");
    bench.run().await;
    // Only those that are not known yet (plain and forming) are asked again.
    assert_eq!(bench.cloud.calls_of("ListTags"), asked + 2);
}

#[tokio::test]
async fn a_resource_too_new_for_the_bulk_list_is_asked_for_its_tags() {
    let bench = Bench::new(FakeCloud::new(100)).await;
    let fresh = CacheRecord { created_at: Some(NOW - 10), ..group("fresh", "us-east-1", HOME, 1) };
    bench.cloud.add(fresh.clone(), &[("env", "prod")]);
    bench.cloud.world().unsettled.push(fresh.arn);
    bench.run().await;
    assert_eq!(bench.database("fresh").await.labels["env"], "prod");
}

#[tokio::test]
async fn all_regions_that_are_enabled_and_none_lost_when_they_cannot_be_listed() {
    let all = vec![Matcher {
        name: "all".into(),
        description: String::new(),
        spec: spec(json!({"types": ["elasticache"], "regions": ["*"], "tags": {"*": "*"}})),
    }];
    let bench = Bench::with(FakeCloud::new(100), all).await;
    bench.cloud.world().regions = vec!["us-east-1".into(), "eu-west-1".into(), "eu-north-1".into()];
    bench.cloud.add(group("a", "us-east-1", HOME, 1), &[("env", "dev")]);
    bench.cloud.add(group("b", "eu-west-1", HOME, 1), &[("env", "dev")]);
    let report = bench.run().await;
    assert_eq!((report.add.len(), report.scopes.len()), (2, 3));
    bench.cloud.world().faults.push(Fault {
        action: "account:ListRegions",
        page: 1,
        error: CloudError::Forbidden("account:ListRegions".into()),
    });
    let report = bench.run().await;
    assert_eq!(bench.names().await, ["a", "b"]);
    let scope = report.scopes.iter().find(|s| s.scope.region == "*").unwrap();
    assert_eq!(scope.reason.as_deref(), Some("no permission: account:ListRegions"));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_out_of_time_keeps_what_it_had() {
    let bench = Bench::new(FakeCloud::slow(2, Duration::from_millis(100))).await;
    for i in 0..40 {
        bench.cloud.add(group(&format!("db{i}"), "us-east-1", HOME, 1), &[("env", "dev")]);
    }
    bench.run().await;
    let ask = Ask { time_left_ms: Some(1_000), ..Ask::default() };
    let begun = tokio::time::Instant::now();
    let report = bench.run_at(NOW, ask).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_millis(1_000));
    assert_eq!(bench.names().await.len(), 40);
    assert!(report.scopes.iter().any(|s| s.reason.as_deref().is_some_and(|r| r.starts_with("out of time"))));
}

const ACTIONS: [&str; 10] = [
    "elasticache:DescribeReplicationGroups",
    "elasticache:DescribeCacheClusters",
    "elasticache:DescribeServerlessCaches",
    "elasticache:DescribeUsers",
    "elasticache:DescribeUserGroups",
    "elasticache:DescribeCacheSubnetGroups",
    "memorydb:DescribeClusters",
    "memorydb:DescribeSubnetGroups",
    "tag:GetResources",
    "ListTags",
];

fn error() -> impl Strategy<Value = CloudError> {
    prop_oneof![
        Just(CloudError::Forbidden("x".into())),
        Just(CloudError::TimedOut("x".into())),
        Just(CloudError::Throttled("x".into())),
        Just(CloudError::RegionDisabled),
        Just(CloudError::Unreachable("x".into())),
        Just(CloudError::TokenExpired("x".into())),
        Just(CloudError::RoleRefused("x".into())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever calls fail, at whatever page: nothing that still exists goes or is renamed, labels stay, and
    /// when all is well again nothing is left to write.
    #[test]
    fn no_failure_removes_anything_that_exists(
        faults in prop::collection::vec((0..ACTIONS.len(), 1_usize..4, error()), 0..5),
        stale in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let bench = Bench::fixture().await;
            bench.cloud.world().users.push(user("iam-ro", DbUserAuth::Iam));
            bench.run().await;
            let before = bench.known().await;
            bench.cloud.world().faults = faults
                .iter()
                .map(|(action, page, error)| Fault { action: ACTIONS[*action], page: *page, error: error.clone() })
                .collect();
            // With old details the members are read again, and may fail.
            let now = NOW + if stale { DAY } else { 60 };
            bench.run_at(now, Ask::default()).await.unwrap();
            let after = bench.known().await;
            assert_eq!(after.databases, before.databases);
            assert_eq!(after.db_users, before.db_users);
            assert_eq!(after.claims, before.claims);
            bench.cloud.world().faults.clear();
            let revision = bench.revision().await;
            let report = bench.run_at(now + 60, Ask::default()).await.unwrap();
            assert!(report.complete);
            assert_eq!(bench.revision().await, revision);
        });
    }
}
