//! The job on the in-memory cloud and store.

use keystile_model::database::{DatabaseKind, Endpoint, EndpointType, Engine};
use keystile_model::feed::Change;
use keystile_model::labels::Labels;
use keystile_model::name::DatabaseName;
use keystile_state::memory::MemoryStore;

use super::*;
use crate::audit::AuditMemory;
use crate::fake_cloud::{FakeCloud, Fault, HOME};

struct Noon;

impl Clock for Noon {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn arn(id: &str) -> String {
    format!("arn:aws:elasticache:us-east-1:{HOME}:replicationgroup:{id}")
}

fn database(id: &str, of: &[(&str, &str)]) -> Database {
    Database {
        name: DatabaseName::parse(id).unwrap(),
        description: String::new(),
        kind: DatabaseKind::Elasticache,
        engine: Engine::Valkey,
        engine_version: "8.0".into(),
        endpoint_type: EndpointType::Primary,
        endpoint: Endpoint { host: "x.amazonaws.com".into(), port: 6379 },
        arn: Some(Arn::parse(arn(id)).unwrap()),
        resource_id: id.into(),
        region: "us-east-1".into(),
        account_id: HOME.into(),
        labels: labels(of),
        cluster_mode: false,
        groups: BTreeSet::new(),
        auth: keystile_model::database::CacheAuth::Auto,
        assume_role: None,
        matcher: "m".into(),
        import_tags: ["env", "team", "account-id"].iter().map(|k| (*k).to_owned()).collect(),
        fixed_labels: labels(&[("team", "fixed")]),
        nodes: Vec::new(),
        ca: None,
    }
}

struct Bench {
    cloud: Arc<FakeCloud>,
    store: Arc<MemoryStore>,
    audit: Arc<AuditMemory>,
}

impl Bench {
    async fn new(databases: Vec<Database>) -> Self {
        let store = MemoryStore::with(vec![]).await.unwrap();
        let mut head = store.head(Feed::Inventory, keystile_model::store::Consistency::Strong).await.unwrap();
        for part in databases.chunks(90) {
            let changes: Vec<Change> =
                part.iter().map(|d| Change::Put(Entity::Database(Box::new(d.clone())))).collect();
            head = store.commit(Feed::Inventory, &head, "test", 0, &changes).await.unwrap();
        }
        Self { cloud: Arc::new(FakeCloud::new(100)), store: Arc::new(store), audit: Arc::default() }
    }

    fn tag(&self, id: &str, tags: &[(&str, &str)]) {
        self.cloud.world().tags.insert(arn(id), labels(tags));
    }

    async fn run(&self) -> SyncReport {
        let job = SyncLabels {
            cloud: self.cloud.clone(),
            policy: self.store.clone(),
            runtime: self.store.clone(),
            audit: self.audit.clone(),
            clock: Arc::new(Noon),
            deployment: "test".into(),
        };
        job.run(None).await.unwrap()
    }

    async fn labels_of(&self, name: &str) -> Labels {
        let all = databases(self.store.entities(Feed::Inventory).await.unwrap());
        all.into_iter().find(|d| d.name.as_str() == name).unwrap().labels
    }
}

#[tokio::test]
async fn a_changed_tag_changes_its_label_and_the_second_run_nothing() {
    let owned =
        [("account-id", HOME), ("engine", "valkey"), ("keystile.dev/cloud", "aws"), ("team", "fixed")];
    let mut of = owned.to_vec();
    of.push(("env", "prod"));
    let bench = Bench::new(vec![database("a", &of), database("b", &of)]).await;
    bench.tag("a", &[("env", "dev"), ("team", "shop"), ("account-id", "1"), ("other", "x")]);
    bench.tag("b", &[]);
    let report = bench.run().await;
    let mut changed = owned.to_vec();
    changed.push(("env", "dev"));
    assert_eq!(bench.labels_of("a").await, labels(&changed));
    assert_eq!(bench.labels_of("b").await, labels(&owned), "a removed tag removes its label");
    assert_eq!((report.changed.len(), report.calls, report.commits), (2, 1, 1));
    assert_eq!(
        report.changed[0].labels,
        [("env".to_owned(), Some("prod".to_owned()), Some("dev".to_owned()))]
    );
    assert_eq!(bench.audit.0.lock().unwrap().len(), 2);
    let second = bench.run().await;
    assert!(second.changed.is_empty() && second.complete);
    assert_eq!(second.commits, 0);
}

#[tokio::test]
async fn an_unreadable_tag_keeps_its_label() {
    let bench = Bench::new(vec![database("a", &[("env", "prod"), ("team", "fixed")])]).await;
    bench.tag("a", &[("env", "dev")]);
    let error = CloudError::TimedOut("tag:GetResources".into());
    bench.cloud.world().faults.push(Fault { action: "tag:GetResources", page: 1, error });
    let report = bench.run().await;
    assert_eq!(bench.labels_of("a").await["env"], "prod");
    assert!(!report.complete);
    assert_eq!(report.unread[0].reason, "tags unread: timed out: tag:GetResources");
}

#[tokio::test]
async fn without_the_bulk_right_each_resource_is_asked() {
    let bench = Bench::new(vec![database("a", &[("env", "prod"), ("team", "fixed")])]).await;
    bench.tag("a", &[("env", "dev")]);
    let error = CloudError::Forbidden("tag:GetResources".into());
    bench.cloud.world().faults.push(Fault { action: "tag:GetResources", page: 1, error });
    assert!(bench.run().await.complete);
    assert_eq!(bench.labels_of("a").await["env"], "dev");
}

#[tokio::test]
async fn a_labelled_resource_that_the_bulk_answer_lacks_is_asked_once() {
    let bench = Bench::new(vec![
        database("a", &[("env", "prod"), ("team", "fixed")]),
        database("never-tagged", &[("team", "fixed")]),
    ])
    .await;
    bench.tag("a", &[("env", "dev")]);
    bench.cloud.world().unsettled.push(arn("a"));
    bench.run().await;
    assert_eq!(bench.labels_of("a").await["env"], "dev");
    assert_eq!(bench.cloud.calls_of("ListTags"), 1);
}

#[tokio::test]
async fn faulty_tags_keep_the_label() {
    let bench = Bench::new(vec![database("a", &[("env", "prod"), ("team", "fixed")])]).await;
    bench.tag("a", &[("env", "de\nv")]);
    let report = bench.run().await;
    assert_eq!(bench.labels_of("a").await["env"], "prod");
    assert!(report.unread[0].reason.contains("control characters"));
}

#[tokio::test]
async fn one_bulk_call_for_a_hundred() {
    let bench =
        Bench::new((0..250).map(|i| database(&format!("db{i}"), &[("team", "fixed")])).collect()).await;
    for i in 0..250 {
        bench.tag(&format!("db{i}"), &[("env", "dev")]);
    }
    let report = bench.run().await;
    assert_eq!((report.calls, report.changed.len(), report.commits), (3, 250, 3));
}
