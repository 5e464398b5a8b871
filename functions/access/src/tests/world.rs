//! A deployment in memory: the admin has set it up, alice edits, bob and dave exist.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keystile_identity::key::generate;
use keystile_identity::signer::FileSigner;
use keystile_model::arn::Arn;
use keystile_model::audit::AuditEvent;
use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint, EndpointType, Engine};
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity, Feed};
use keystile_model::labels::Labels;
use keystile_model::name::{DatabaseName, DbUserName};
use keystile_model::store::{Consistency, PolicyStore, RuntimeStore};
use keystile_state::memory::{ManualClock, MemoryStore};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, Job};
use crate::audit::AuditSink;
use crate::config::Config;
use crate::failure::Failure;
use keystile_state::snapshot::Snapshot;

pub(super) const ADMIN: &str = "arn:aws:iam::123456789012:user/keystile-admin";
pub(super) const ALICE: &str = "arn:aws:iam::123456789012:user/alice";
pub(super) const BOB: &str = "arn:aws:iam::123456789012:user/bob";
pub(super) const DAVE: &str = "arn:aws:iam::123456789012:user/dave";
pub(super) const NOW: i64 = 1_800_000_000;

#[derive(Default)]
pub(super) struct Events(Mutex<Vec<AuditEvent>>);

impl AuditSink for Events {
    fn write(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

#[derive(Default)]
pub(super) struct FakeDiscovery {
    pub(super) events: Mutex<Vec<Value>>,
}

#[async_trait]
impl Job for FakeDiscovery {
    async fn run(&self, event: &Value) -> Result<Value, Failure> {
        self.events.lock().unwrap().push(event.clone());
        let users = json!({"managed": [{"id": "newly-tagged"}]});
        Ok(json!({"add": [], "dry_run": event["dry_run"], "users": users}))
    }
}

/// Rotation that answers what a test put there, the last answer again and again.
#[derive(Default)]
pub(super) struct FakeRotation {
    pub(super) events: Mutex<Vec<Value>>,
    pub(super) answer: Mutex<Value>,
}

#[async_trait]
impl Job for FakeRotation {
    async fn run(&self, event: &Value) -> Result<Value, Failure> {
        self.events.lock().unwrap().push(event.clone());
        Ok(self.answer.lock().unwrap().clone())
    }
}

pub(super) struct World {
    pub(super) app: App,
    pub(super) memory: Arc<MemoryStore>,
    pub(super) events: Arc<Events>,
    pub(super) discovery: Arc<FakeDiscovery>,
    pub(super) rotation: Arc<FakeRotation>,
    pub(super) clock: Arc<ManualClock>,
}

/// Nothing is set up.
pub(super) fn empty_with(changes: &[(&'static str, &str)]) -> World {
    let memory = Arc::new(MemoryStore::new());
    empty_over(changes, memory.clone(), memory)
}

pub(super) fn empty_over(
    changes: &[(&'static str, &str)],
    memory: Arc<MemoryStore>,
    store: Arc<dyn PolicyStore>,
) -> World {
    let mut variables = crate::config::tests::variables();
    variables.extend(changes.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let config = Config::from_variables(|name| variables.get(name).cloned()).unwrap();
    let signer = || Arc::new(FileSigner::from_pem(&generate().unwrap().private).unwrap());
    let events = Arc::new(Events::default());
    let discovery = Arc::new(FakeDiscovery::default());
    let rotation = Arc::new(FakeRotation::default());
    let clock = Arc::new(ManualClock::new(time::OffsetDateTime::from_unix_timestamp(NOW).unwrap()));
    let app = App {
        snapshot: Snapshot::new(Arc::clone(&store), clock.clone()),
        store,
        runtime: memory.clone(),
        user_ca: signer(),
        host_ca: signer(),
        discovery: discovery.clone(),
        rotation: rotation.clone(),
        audit: events.clone(),
        clock: clock.clone(),
        ids: Uuid::new_v4,
        config,
    };
    World { app, memory, events, discovery, rotation, clock }
}

/// Set up, with people, a role and databases.
pub(super) async fn ready() -> World {
    let world = empty_with(&[]);
    people(&world).await;
    inventory(&world).await;
    world
}

pub(super) async fn people(world: &World) {
    world.ok(ADMIN, "GET", "/v1/status", None).await;
    let dev = json!({"allow": {"db_labels": {"env": "dev"}, "db_users": ["iam-ro", "iam-rw"]},
        "options": {"max_session_ttl": "1h"}});
    world.put(ADMIN, "role", "dev", dev).await;
    for (name, roles) in [("alice", vec!["access", "editor"]), ("bob", vec!["dev"]), ("dave", vec![])] {
        world.put(ADMIN, "user", name, json!({"roles": roles})).await;
        let arn = format!("arn:aws:iam::123456789012:user/{name}");
        world.put(ADMIN, "arn_rule", &arn, json!({"arn": arn, "user": name})).await;
    }
}

pub(super) async fn inventory(world: &World) {
    let changes = vec![
        Change::Put(Entity::Database(Box::new(database("orders", "prod")))),
        Change::Put(Entity::Database(Box::new(database("carts", "dev")))),
        Change::Put(Entity::DbUser(Box::new(db_user("iam-ro", DbUserAuth::Iam, &["app"])))),
        Change::Put(Entity::DbUser(Box::new(db_user("iam-rw", DbUserAuth::Iam, &["app"])))),
        Change::Put(Entity::DbUser(Box::new(db_user("legacy", DbUserAuth::Password, &["app"])))),
        Change::Put(Entity::DbUser(Box::new(db_user("elsewhere", DbUserAuth::Iam, &["other"])))),
    ];
    let head = world.memory.head(Feed::Inventory, Consistency::Strong).await.unwrap();
    world.memory.commit(Feed::Inventory, &head, "discover", NOW, &changes).await.unwrap();
}

pub(super) fn database(name: &str, env: &str) -> Database {
    Database {
        name: DatabaseName::parse(name).unwrap(),
        description: String::new(),
        kind: DatabaseKind::Elasticache,
        engine: Engine::Valkey,
        engine_version: "8.0".to_owned(),
        endpoint_type: EndpointType::Primary,
        endpoint: Endpoint { host: format!("master.{name}.use1.cache.amazonaws.com"), port: 6379 },
        arn: Some(
            Arn::parse(format!("arn:aws:elasticache:us-east-1:123456789012:replicationgroup:{name}"))
                .unwrap(),
        ),
        resource_id: name.to_owned(),
        region: "us-east-1".to_owned(),
        account_id: "123456789012".to_owned(),
        labels: BTreeMap::from([("env".to_owned(), env.to_owned())]),
        cluster_mode: false,
        groups: BTreeSet::from(["app".to_owned()]),
        auth: CacheAuth::Auto,
        assume_role: None,
        matcher: "home".to_owned(),
        import_tags: BTreeSet::new(),
        fixed_labels: Labels::new(),
        nodes: Vec::new(),
        ca: None,
    }
}

fn db_user(name: &str, auth: DbUserAuth, groups: &[&str]) -> DbUser {
    DbUser {
        arn: Arn::parse(format!("arn:aws:elasticache:us-east-1:123456789012:user:{name}")).unwrap(),
        id: name.to_owned(),
        name: DbUserName::parse(name).unwrap(),
        service: DbUserService::Elasticache,
        auth,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        managed: false,
    }
}

pub(super) fn event(caller: &str, method: &str, path: &str, body: Option<String>) -> Value {
    let account = caller.split(':').nth(4).unwrap_or_default();
    json!({
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"content-type": "application/json", "host": "x.lambda-url.us-east-1.on.aws"},
        "requestContext": {
            "accountId": account,
            "requestId": "r-1",
            "authorizer": {"iam": {
                "accountId": account, "callerId": "AIDAEXAMPLEEXAMPLE", "userArn": caller, "userId": "x"}},
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7",
                "userAgent": "test"},
            "timeEpoch": 0,
        },
        "body": body,
        "isBase64Encoded": false,
    })
}

pub(super) fn document(kind: &str, name: &str, spec: Value) -> Value {
    json!({"kind": kind, "version": "ks1", "metadata": {"name": name}, "spec": spec})
}

pub(super) fn public_key() -> String {
    generate().unwrap().public
}

impl World {
    pub(super) async fn raw(&self, event: Value) -> (i64, Value) {
        let response = crate::handler::handle(&self.app, event).await;
        (response.status_code, serde_json::from_str(&response.body.unwrap()).unwrap())
    }

    pub(super) async fn call(
        &self,
        caller: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> (i64, Value) {
        self.raw(event(caller, method, path, body.map(|body| body.to_string()))).await
    }

    pub(super) async fn ok(&self, caller: &str, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, body) = self.call(caller, method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {body}");
        body
    }

    /// The error's details.
    pub(super) async fn refused(
        &self,
        status: i64,
        caller: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let (got, body) = self.call(caller, method, path, body).await;
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        body["error"].clone()
    }

    pub(super) async fn put(&self, caller: &str, kind: &str, name: &str, spec: Value) -> Value {
        let path = format!("/v1/documents/{kind}/{name}");
        self.ok(caller, "PUT", &path, Some(document(kind, name, spec))).await
    }

    pub(super) async fn put_refused(&self, status: i64, kind: &str, name: &str, spec: Value) -> Value {
        let path = format!("/v1/documents/{kind}/{name}");
        self.refused(status, ALICE, "PUT", &path, Some(document(kind, name, spec))).await
    }

    /// Events of a kind, as JSON, and forgets all.
    pub(super) fn audited(&self, kind: &str) -> Vec<Value> {
        self.events
            .0
            .lock()
            .unwrap()
            .drain(..)
            .map(|event| serde_json::to_value(event).unwrap())
            .filter(|event| event["event"] == kind)
            .collect()
    }

    pub(super) async fn report(&self, partition: &str, sort: &str, body: Value) {
        let key = keystile_model::store::RuntimeKey::new(partition, sort);
        self.memory.write(&key, None, None, body).await.unwrap();
    }
}
