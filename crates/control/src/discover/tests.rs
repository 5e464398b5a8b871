//! The job on the in-memory cloud and store.

mod failures;

use std::time::Duration;

use keystile_model::cloud::CacheRecord;
use keystile_model::database::{Database, DatabaseKind, Endpoint};
use keystile_model::db_user::{DbUser, DbUserAuth};
use keystile_model::matcher::MatcherSpec;
use keystile_model::store::Consistency;
use keystile_state::memory::MemoryStore;
use serde_json::json;

use super::*;
use crate::audit::AuditMemory;
use crate::fake_cloud::{ABROAD, FakeCloud, Fault, HOME, group, user};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

struct At(i64);

impl Clock for At {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp(self.0).unwrap()
    }
}

fn spec(json: serde_json::Value) -> MatcherSpec {
    serde_json::from_value(json).unwrap()
}

fn matchers() -> Vec<Matcher> {
    let matcher =
        |name: &str, spec: MatcherSpec| Matcher { name: name.into(), description: String::new(), spec };
    vec![
        matcher(
            "home",
            spec(json!({"types": ["elasticache", "elasticache-serverless", "memorydb"],
                "regions": ["us-east-1"], "tags": {"*": "*"}, "import_tags": ["env", "account-id"],
                "adopt_teleport": true})),
        ),
        matcher(
            "abroad",
            spec(json!({"types": ["elasticache"], "regions": ["eu-west-1"], "tags": {"*": "*"},
                "import_tags": ["env"], "external_id": "keystile-test",
                "assume_role_arn": format!("arn:aws:iam::{ABROAD}:role/keystile-discovery")})),
        ),
    ]
}

struct Bench {
    cloud: Arc<FakeCloud>,
    store: Arc<MemoryStore>,
    audit: Arc<AuditMemory>,
}

impl Bench {
    async fn new(cloud: FakeCloud) -> Self {
        Self::with(cloud, matchers()).await
    }

    async fn with(cloud: FakeCloud, matchers: Vec<Matcher>) -> Self {
        let entities = matchers.into_iter().map(|m| Entity::Matcher(Box::new(m))).collect();
        let store = Arc::new(MemoryStore::with(entities).await.unwrap());
        Self { cloud: Arc::new(cloud), store, audit: Arc::default() }
    }

    /// The home account's caches of the fixture, and the abroad ones.
    async fn fixture() -> Self {
        let bench = Self::new(FakeCloud::new(2)).await;
        let cloud = &bench.cloud;
        cloud.add(group("orders", "us-east-1", HOME, 2), &[("env", "prod")]);
        cloud.add(
            CacheRecord { cluster_mode: true, ..group("sessions", "us-east-1", HOME, 6) },
            &[("env", "dev")],
        );
        let plain = CacheRecord { tls: false, ..group("plain", "us-east-1", HOME, 1) };
        cloud.add(plain, &[("env", "dev")]);
        let forming = CacheRecord {
            status: "creating".into(),
            endpoint: None,
            ..group("forming", "us-east-1", HOME, 1)
        };
        cloud.add(forming, &[("env", "dev")]);
        cloud.add(serverless("carts"), &[("env", "dev")]);
        cloud.add(memorydb("ledger"), &[("env", "prod")]);
        cloud.add(group("orders", "eu-west-1", ABROAD, 1), &[("env", "prod")]);
        cloud.add(
            group("impostor", "eu-west-1", ABROAD, 1),
            &[("keystile.dev/name", "orders"), ("account-id", HOME), ("env", "dev")],
        );
        bench
    }

    async fn run_at(&self, now: i64, ask: Ask) -> Result<DiscoveryReport, DiscoverError> {
        let job = Discover {
            cloud: self.cloud.clone(),
            policy: self.store.clone(),
            runtime: self.store.clone(),
            audit: self.audit.clone(),
            clock: Arc::new(At(now)),
            settings: Settings { home_region: "us-east-1".into(), ..Settings::default() },
        };
        job.run(ask).await
    }

    async fn run(&self) -> DiscoveryReport {
        self.run_at(NOW, Ask::default()).await.unwrap()
    }

    async fn known(&self) -> Known {
        Known::new(self.store.entities(Feed::Inventory).await.unwrap(), BTreeSet::new())
    }

    async fn names(&self) -> Vec<String> {
        self.known().await.databases.into_keys().collect()
    }

    async fn database(&self, name: &str) -> Database {
        self.known().await.databases.remove(name).unwrap()
    }

    async fn revision(&self) -> u64 {
        self.store.head(Feed::Inventory, Consistency::Strong).await.unwrap().revision
    }
}

fn serverless(id: &str) -> CacheRecord {
    let host = |port| Endpoint { host: format!("{id}-x.serverless.use1.cache.amazonaws.com"), port };
    CacheRecord {
        kind: DatabaseKind::ElasticacheServerless,
        arn: format!("arn:aws:elasticache:us-east-1:{HOME}:serverlesscache:{id}"),
        status: "AVAILABLE".into(),
        engine_version: "8.0".into(),
        cluster_mode: true,
        endpoint: Some(host(6379)),
        reader: Some(host(6380)),
        nodes: Vec::new(),
        ..group(id, "us-east-1", HOME, 1)
    }
}

fn memorydb(id: &str) -> CacheRecord {
    CacheRecord {
        kind: DatabaseKind::Memorydb,
        arn: format!("arn:aws:memorydb:us-east-1:{HOME}:cluster/{id}"),
        engine_version: "7.1".into(),
        subnet_group: "default".into(),
        cluster_mode: true,
        reader: None,
        ..group(id, "us-east-1", HOME, 2)
    }
}

fn reason_of(report: &DiscoveryReport, name: &str) -> String {
    report.skip.iter().find(|s| s.name == name).map(|s| s.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn the_fixture_gives_its_databases() {
    let bench = Bench::fixture().await;
    let report = bench.run().await;
    let expected = [
        "carts",
        "carts-reader",
        "impostor-elasticache-eu-west-1-210987654321",
        "ledger",
        "orders",
        "orders-elasticache-eu-west-1-210987654321",
        "orders-reader",
        "sessions",
    ];
    assert_eq!(bench.names().await, expected);
    assert_eq!(report.add.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), expected);
    assert_eq!(reason_of(&report, "plain"), "tls disabled");
    assert_eq!(reason_of(&report, "forming"), "status creating");
    assert_eq!(report.name_conflicts.len(), 2);
    assert!(report.complete, "{report:#?}");
    let orders = bench.database("orders").await;
    assert_eq!(orders.engine_version, "8.0.1");
    assert_eq!(orders.labels["env"], "prod");
    for name in expected {
        let vpc = (!name.starts_with("carts")).then_some("vpc-1");
        let labels = bench.database(name).await.labels;
        assert_eq!(labels.get("vpc-id").map(String::as_str), vpc, "{name}: none on serverless");
    }
    assert_eq!(orders.labels["endpoint-type"], "primary");
    assert_eq!(bench.database("orders-reader").await.labels["endpoint-type"], "reader");
    let impostor = bench.database("impostor-elasticache-eu-west-1-210987654321").await;
    assert_eq!(impostor.labels["account-id"], ABROAD);
    assert!(impostor.assume_role.is_some());
    assert_eq!(bench.audit.0.lock().unwrap().len(), expected.len());
}

#[tokio::test]
async fn databases_keep_the_way_to_their_account() {
    let hub = "arn:aws:iam::123456789012:role/keystile-hub";
    let mut behind = matchers();
    behind[1].spec.through = serde_json::from_value(json!({"assume_role_arn": hub})).unwrap();
    let bench = Bench::with(FakeCloud::new(2), behind).await;
    bench.cloud.add(group("orders", "eu-west-1", ABROAD, 1), &[]);
    bench.run().await;
    let role = bench.database("orders").await.assume_role.unwrap();
    assert_eq!((role.arn.account(), role.external_id.as_deref()), (ABROAD, Some("keystile-test")));
    assert_eq!(role.through.unwrap().assume_role_arn.as_str(), hub);
}

#[tokio::test]
async fn a_second_run_writes_nothing() {
    let bench = Bench::fixture().await;
    bench.cloud.world().users.push(user("iam-ro", DbUserAuth::Iam));
    bench.run().await;
    let revision = bench.revision().await;
    let runtime = bench.store.read(&RuntimeKey::new(REPORTS, DISCOVER)).await.unwrap().unwrap().version;
    let report = bench.run_at(NOW + 300, Ask::default()).await.unwrap();
    assert_eq!(bench.revision().await, revision);
    assert_eq!(report.totals.commits, 0);
    assert!(report.add.is_empty() && report.change.is_empty() && report.remove.is_empty());
    let after = bench.store.read(&RuntimeKey::new(REPORTS, DISCOVER)).await.unwrap().unwrap().version;
    assert_eq!(after, runtime + 1, "the report is one write");
}

#[tokio::test]
async fn a_gone_cache_goes_and_its_name_is_kept_thirty_days() {
    let bench = Bench::fixture().await;
    bench.run().await;
    bench.cloud.world().caches.retain(|c| !(c.id == "orders" && c.arn.contains(HOME)));
    let report = bench.run_at(NOW + DAY, Ask::default()).await.unwrap();
    let removed: Vec<&str> = report.remove.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(removed, ["orders", "orders-reader"]);
    assert_eq!(bench.known().await.claims["orders"].vanished_at, Some(NOW + DAY));
    let report = bench.run_at(NOW + 30 * DAY, Ask::default()).await.unwrap();
    assert!(report.change.is_empty(), "{:?}", report.change);
    // Then the next in rank gets it: the impostor's ARN comes before that of the other orders.
    bench.run_at(NOW + 31 * DAY, Ask::default()).await.unwrap();
    assert!(bench.known().await.claims["orders"].arn.as_str().contains(ABROAD));
}

#[tokio::test]
async fn a_cache_that_comes_back_has_its_name_again() {
    let bench = Bench::fixture().await;
    bench.run().await;
    let orders = bench.cloud.world().caches[0].clone();
    bench.cloud.world().caches.remove(0);
    bench.run_at(NOW + DAY, Ask::default()).await.unwrap();
    bench.cloud.world().caches.push(orders);
    bench.run_at(NOW + 2 * DAY, Ask::default()).await.unwrap();
    assert!(bench.names().await.contains(&"orders".to_owned()));
    assert_eq!(bench.known().await.claims["orders"].vanished_at, None);
}

#[tokio::test]
async fn a_changed_name_tag_renames_once() {
    let bench = Bench::fixture().await;
    bench.run().await;
    let arn = bench.database("orders").await.arn.unwrap().to_string();
    bench.cloud.world().tags.get_mut(&arn).unwrap().insert("keystile.dev/name".into(), "shop".into());
    let report = bench.run().await;
    let changed: Vec<(&str, &str)> =
        report.change.iter().map(|p| (p.name.as_str(), p.reason.as_str())).collect();
    assert_eq!(changed, [("shop", "renamed from orders"), ("shop-reader", "renamed from orders-reader")]);
    let names = bench.names().await;
    assert!(!names.contains(&"orders".to_owned()) && names.contains(&"shop-reader".to_owned()));
    let revision = bench.revision().await;
    bench.run().await;
    assert_eq!(bench.revision().await, revision);
}

#[tokio::test]
async fn labels_from_tags_are_left_to_label_sync_and_owned_ones_are_kept_right() {
    let bench = Bench::fixture().await;
    bench.run().await;
    let arn = bench.database("ledger").await.arn.unwrap().to_string();
    bench.cloud.world().tags.get_mut(&arn).unwrap().insert("env".into(), "dev".into());
    for cache in &mut bench.cloud.world().caches {
        if cache.id == "ledger" {
            cache.engine_version = "7.3".into();
        }
    }
    bench.run().await;
    let ledger = bench.database("ledger").await;
    assert_eq!((ledger.labels["env"].as_str(), ledger.labels["engine-version"].as_str()), ("prod", "7.3"));
}

#[tokio::test]
async fn bad_input_skips_the_one_resource() {
    let bench = Bench::new(FakeCloud::new(100)).await;
    let base = |id: &str| group(id, "us-east-1", HOME, 1);
    let odd_host = Endpoint { host: "evil.example".into(), port: 6379 };
    bench.cloud.add(base("good"), &[("env", "dev")]);
    bench.cloud.add(CacheRecord { endpoint: None, ..base("no-endpoint") }, &[("env", "dev")]);
    bench.cloud.add(CacheRecord { arn: String::new(), ..base("no-arn") }, &[]);
    bench.cloud.add(CacheRecord { endpoint: Some(odd_host), ..base("odd-host") }, &[("env", "dev")]);
    bench.cloud.add(base(&"x".repeat(300)), &[("env", "dev")]);
    bench.cloud.add(base("controls"), &[("env", "a\u{1b}[31m")]);
    bench.cloud.add(CacheRecord { engine: "memcached".into(), ..base("memcached") }, &[("env", "dev")]);
    bench.cloud.add(base("many"), &[("env", "dev")]);
    let many = (0..10_000).map(|i| (format!("k{i}"), String::new())).collect();
    bench.cloud.world().tags.insert(base("many").arn, many);
    let report = bench.run().await;
    assert_eq!(bench.names().await, ["good"]);
    // The one without an ARN is in no place for the fake, so both places list it.
    assert_eq!(report.skip.len(), 8, "{:#?}", report.skip);
    assert_eq!(reason_of(&report, "no-endpoint"), "no endpoint");
    assert_eq!(reason_of(&report, "no-arn"), "no ARN");
    assert_eq!(reason_of(&report, "memcached"), "engine memcached");
    assert_eq!(reason_of(&report, "many"), "10000 tags, at most 200 are read");
    assert!(reason_of(&report, "odd-host").contains("no host of AWS"));
}

#[tokio::test]
async fn a_look_at_users_alone_keeps_what_the_report_says_of_databases() {
    let bench = Bench::fixture().await;
    let whole = bench.run().await;
    bench.cloud.world().users.push(user("late", DbUserAuth::Password));
    let caches = bench.cloud.calls_of("elasticache:DescribeReplicationGroups");
    let users = bench.run_at(NOW + 60, Ask { only_users: true, ..Ask::default() }).await.unwrap();
    assert_eq!(bench.cloud.calls_of("elasticache:DescribeReplicationGroups"), caches);
    assert_eq!((users.users.add.len(), users.skip.len()), (1, 0));
    let item = bench.store.read(&RuntimeKey::new(REPORTS, DISCOVER)).await.unwrap().unwrap();
    let kept: DiscoveryReport = serde_json::from_value(item.body).unwrap();
    assert_eq!((&kept.skip, &kept.scopes), (&whole.skip, &whole.scopes));
    assert_eq!(kept.name_conflicts, whole.name_conflicts);
    assert_eq!((kept.users.add.len(), kept.started), (1, users.started));
    assert_eq!(kept.complete, whole.complete);
}

#[tokio::test]
async fn db_users_come_with_groups_and_the_managed_flag() {
    let bench = Bench::fixture().await;
    {
        let mut world = bench.cloud.world();
        world.users.extend([
            user("iam-ro", DbUserAuth::Iam),
            user("managed-app", DbUserAuth::Password),
            user("legacy-app", DbUserAuth::Password),
            user("static-app", DbUserAuth::Password),
            user("default", DbUserAuth::None),
        ]);
        for (name, key) in [("managed-app", "keystile.dev/managed"), ("legacy-app", "teleport.dev/managed")] {
            let arn = format!("arn:aws:elasticache:us-east-1:{HOME}:user:{name}");
            world.tags.insert(arn, [(key.to_owned(), "true".to_owned())].into());
        }
    }
    let look = Ask { dry_run: true, only_users: true, ..Ask::default() };
    let names =
        |users: &[DbUser]| -> Vec<String> { users.iter().map(|user| user.name.to_string()).collect() };
    let told = bench.run_at(NOW, look.clone()).await.unwrap();
    assert_eq!(names(&told.users.managed), ["legacy-app", "managed-app"], "a dry look tells who is managed");
    assert_eq!(bench.revision().await, 0);
    let report = bench.run().await;
    assert!(report.users.managed.is_empty(), "only a dry look needs to tell");
    assert!(bench.run_at(NOW, look).await.unwrap().users.managed.is_empty(), "nobody new");
    let users = bench.known().await.db_users;
    let managed: Vec<&str> = users.values().filter(|u| u.managed).map(|u| u.name.as_str()).collect();
    assert_eq!(managed, ["legacy-app", "managed-app"]);
    assert_eq!(report.users.add.len(), 5);
    assert!(report.warnings.iter().any(|w| w.contains("default user is on")), "{:?}", report.warnings);
    let orders = bench.database("orders").await;
    assert!(users.values().all(|u| u.serves(&orders)));
    bench.cloud.world().users.retain(|u| u.name != "static-app");
    bench.cloud.world().faults.push(Fault {
        action: "elasticache:DescribeUserGroups",
        page: 1,
        error: CloudError::Forbidden("elasticache:DescribeUserGroups".into()),
    });
    bench.run().await;
    assert_eq!(bench.known().await.db_users.len(), 5, "an incomplete scope loses nobody");
    bench.cloud.world().faults.clear();
    assert_eq!(bench.run().await.users.remove.len(), 1);
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let bench = Bench::fixture().await;
    let dry = bench.run_at(NOW, Ask { dry_run: true, ..Ask::default() }).await.unwrap();
    assert_eq!(bench.revision().await, 0);
    assert!(bench.store.read(&RuntimeKey::new(REPORTS, DISCOVER)).await.unwrap().is_none());
    assert!(bench.audit.0.lock().unwrap().is_empty());
    let real = bench.run().await;
    assert_eq!((dry.add, dry.skip), (real.add, real.skip));
    let narrow = vec![Matcher {
        name: "narrow".into(),
        description: String::new(),
        spec: spec(json!({"types": ["memorydb"], "regions": ["us-east-1"], "tags": {"env": "prod"}})),
    }];
    let ask = Ask { dry_run: true, matchers: Some(narrow.clone()), ..Ask::default() };
    let tried = bench.run_at(NOW, ask).await.unwrap();
    assert!(tried.remove.iter().any(|p| p.name == "impostor-elasticache-eu-west-1-210987654321"));
    let ask = Ask { matchers: Some(narrow), ..Ask::default() };
    assert!(matches!(bench.run_at(NOW, ask).await, Err(DiscoverError::MatchersNeedDryRun)));
}

#[tokio::test(start_paused = true)]
async fn five_thousand_caches_in_time_and_in_few_calls() {
    let bench = Bench::new(FakeCloud::slow(100, Duration::from_millis(100))).await;
    for i in 0..5_000 {
        bench.cloud.add(group(&format!("fleet-{i}"), "us-east-1", HOME, 1), &[("env", "dev")]);
    }
    let begun = tokio::time::Instant::now();
    let report = bench.run().await;
    assert_eq!(report.add.len(), 5_000);
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
    let first = bench.cloud.calls();
    assert!(first <= 165, "{first} calls: three for 100 caches, and what does not grow");
    let begun = tokio::time::Instant::now();
    let report = bench.run_at(NOW + 300, Ask::default()).await.unwrap();
    assert_eq!(report.totals.commits, 0);
    let second = bench.cloud.calls() - first;
    assert!(second <= 115, "{second} calls: two for 100 caches, and what does not grow");
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
}
