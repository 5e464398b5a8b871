//! The suite on DynamoDB, and what only DynamoDB can get wrong: lost answers, strange attributes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use keystile_model::feed::{EntityKey, EntityKind, Feed};
use keystile_model::store::{CommitError, Consistency, PolicyStore, RuntimeKey, RuntimeStore, StoreError};
use keystile_state::dynamo::{self, DynamoStore};
use serde_json::json;

use crate::bench::{Bench, Benches};
use crate::lossy::{Loss, Wire};
use crate::ministack::{Ministack, config};
use crate::samples::{NOW, key, put};
use crate::suite;

type Item = HashMap<String, AttributeValue>;

struct DynamoBench {
    client: Client,
    table: String,
    store: Arc<DynamoStore>,
    backup: Mutex<Vec<Item>>,
}

fn text(value: impl Into<String>) -> AttributeValue {
    AttributeValue::S(value.into())
}

fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn partitions() -> Vec<String> {
    let kinds = EntityKind::ALL.iter().map(|kind| format!("{}#{}", kind.feed().as_str(), kind.as_str()));
    let rest = Feed::ALL.iter().flat_map(|feed| ["log", "head"].map(|p| format!("{}#{p}", feed.as_str())));
    kinds.chain(rest).collect()
}

impl DynamoBench {
    async fn new(client: Client, n: u32) -> Self {
        let (table, runtime) = (format!("policy{n}"), format!("runtime{n}"));
        dynamo::create_tables(&client, &table, &runtime).await.unwrap();
        dynamo::create_tables(&client, &table, &runtime).await.unwrap();
        let store = Arc::new(DynamoStore::new(client.clone(), &table, &runtime).with_page_size(3));
        Self { client, table, store, backup: Mutex::default() }
    }

    async fn items(&self, partition: &str) -> Vec<Item> {
        let query = self.client.query().table_name(&self.table).key_condition_expression("pk = :p");
        let page = query.expression_attribute_values(":p", text(partition)).send().await.unwrap();
        assert!(page.last_evaluated_key.is_none());
        page.items.unwrap()
    }

    async fn put(&self, item: Item) {
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await.unwrap();
    }

    async fn delete(&self, item: &Item) {
        let delete = self.client.delete_item().table_name(&self.table);
        delete.key("pk", item["pk"].clone()).key("sk", item["sk"].clone()).send().await.unwrap();
    }

    /// Changes an attribute of a feed's head.
    async fn set_head(&self, feed: Feed, name: &str, value: AttributeValue) {
        let mut head = self.items(&format!("{}#head", feed.as_str())).await.remove(0);
        head.insert(name.to_owned(), value);
        self.put(head).await;
    }

    async fn revision(&self, feed: Feed) -> u64 {
        self.store.head(feed, Consistency::Strong).await.unwrap().revision
    }
}

#[async_trait]
impl Bench for DynamoBench {
    fn policy(&self) -> Arc<dyn PolicyStore> {
        Arc::clone(&self.store) as _
    }
    fn runtime(&self) -> Arc<dyn RuntimeStore> {
        Arc::clone(&self.store) as _
    }
    async fn back_up(&self) {
        let mut all = Vec::new();
        for partition in partitions() {
            all.extend(self.items(&partition).await);
        }
        *self.backup.lock().unwrap() = all;
    }
    async fn restore(&self) {
        for partition in partitions() {
            for item in self.items(&partition).await {
                self.delete(&item).await;
            }
        }
        let backup = self.backup.lock().unwrap().clone();
        for item in backup {
            self.put(item).await;
        }
        for feed in Feed::ALL {
            self.set_head(feed, "generation", text(uuid::Uuid::new_v4().to_string())).await;
        }
    }
    async fn age_out(&self, feed: Feed, oldest: u64, told: bool) {
        for item in self.items(&format!("{}#log", feed.as_str())).await {
            if item["sk"].as_s().unwrap().parse::<u64>().unwrap() < oldest {
                self.delete(&item).await;
            }
        }
        if told {
            self.set_head(feed, "min_log_revision", number(oldest)).await;
        }
    }
    async fn plant_entity(&self, key: EntityKey, json: String) {
        let partition = format!("{}#{}", key.kind.feed().as_str(), key.kind.as_str());
        self.put(HashMap::from([
            ("pk".to_owned(), text(partition)),
            ("sk".to_owned(), text(key.id)),
            ("v".to_owned(), number(1)),
            ("revision".to_owned(), number(1)),
            ("body".to_owned(), text(json)),
        ]))
        .await;
    }
    async fn plant_log(&self, feed: Feed, json: String) {
        let head = self.store.head(feed, Consistency::Strong).await.unwrap();
        let revision = head.revision + 1;
        self.put(HashMap::from([
            ("pk".to_owned(), text(format!("{}#log", feed.as_str()))),
            ("sk".to_owned(), text(format!("{revision:020}"))),
            ("v".to_owned(), number(1)),
            ("generation".to_owned(), text(head.generation)),
            ("at".to_owned(), number(NOW)),
            ("uid".to_owned(), text("planted")),
            ("ttl".to_owned(), number(NOW)),
            ("body".to_owned(), text(json)),
        ]))
        .await;
        self.set_head(feed, "revision", number(revision)).await;
    }
    async fn set_min_reader(&self, feed: Feed, min_reader: u32) {
        self.set_head(feed, "min_reader", number(min_reader)).await;
    }
}

struct DynamoBenches {
    client: Client,
    made: AtomicU32,
}

impl DynamoBenches {
    fn new(client: Client) -> Self {
        Self { client, made: AtomicU32::new(0) }
    }

    async fn next(&self) -> DynamoBench {
        DynamoBench::new(self.client.clone(), self.made.fetch_add(1, Ordering::Relaxed)).await
    }
}

#[async_trait]
impl Benches for DynamoBenches {
    async fn fresh(&self) -> Box<dyn Bench> {
        Box::new(self.next().await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynamodb_keeps_the_promises() {
    let Some(ministack) = Ministack::start().await else { return };
    let benches = DynamoBenches::new(dynamo::client(&ministack.config(), dynamo::JOB_ATTEMPT));
    suite::all(&benches, 32).await;
    strange_attributes_are_refused(&benches.next().await).await;
    log_items_expire(&benches.next().await).await;
}

async fn strange_attributes_are_refused(bench: &DynamoBench) {
    let feed = Feed::Access;
    let head = bench.store.set_up(feed).await.unwrap();
    bench.store.commit(feed, &head, "test", NOW, &[put(feed, "alice", 1)]).await.unwrap();
    let places = [("access#user", "access#user/alice"), ("access#log", "access#log/00000000000000000001")];
    for (partition, name) in places {
        let good = bench.items(partition).await.remove(0);
        for (field, value) in [("wand", text("oak")), ("v", number(2)), ("v", text("x")), ("body", number(1))]
        {
            let mut item = good.clone();
            item.insert(field.to_owned(), value);
            bench.put(item).await;
            let read = match partition {
                "access#log" => bench.store.log_after(feed, 0).await.map(drop),
                _ => bench.store.entities(feed).await.map(drop),
            };
            assert!(
                matches!(&read, Err(StoreError::Unreadable { key, .. }) if key == name),
                "{partition} {field}: {read:?}"
            );
        }
        bench.put(good).await;
    }
    bench.set_head(feed, "wand", text("oak")).await;
    let head = bench.store.head(feed, Consistency::Eventual).await;
    assert!(
        matches!(&head, Err(StoreError::Unreadable { key, .. }) if key == "access#head/head"),
        "{head:?}"
    );
}

async fn log_items_expire(bench: &DynamoBench) {
    let feed = Feed::Inventory;
    let head = bench.store.set_up(feed).await.unwrap();
    bench.store.commit(feed, &head, "test", NOW, &[put(feed, "a", 1)]).await.unwrap();
    let log = bench.items("inventory#log").await.remove(0);
    assert_eq!(log["ttl"], number(NOW + 8 * 24 * 3_600));
    assert!(!bench.items("inventory#name_claim").await.remove(0).contains_key("ttl"));
}

const WRITE: &str = "TransactWriteItems";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_neither_a_conflict_nor_a_second_write() {
    let Some(ministack) = Ministack::start().await else { return };
    let direct = DynamoBenches::new(dynamo::client(&ministack.config(), dynamo::JOB_ATTEMPT));
    let bench = direct.next().await;
    let wire = Wire::to(ministack.port()).await;
    let lossy = |table: &str| {
        let client = dynamo::client(&config(wire.port), dynamo::JOB_ATTEMPT);
        DynamoStore::new(client, table, table.replace("policy", "runtime"))
    };
    let (store, feed) = (lossy(&bench.table), Feed::Access);
    let mut head = store.set_up(feed).await.unwrap();
    wire.calls();

    for (losses, tries) in [
        (vec![(WRITE, Loss::After)], 2),
        (vec![(WRITE, Loss::Before), (WRITE, Loss::After)], 3),
        // All six attempts: only the log item can tell.
        (vec![(WRITE, Loss::After); 6], 6),
    ] {
        wire.lose(&losses);
        head = store.commit(feed, &head, "test", NOW, &[put(feed, "alice", 1)]).await.unwrap();
        assert_eq!(wire.calls().iter().filter(|call| *call == WRITE).count(), tries);
        assert_eq!(bench.revision(feed).await, head.revision);
    }

    // Never arrived, and it is not known: the caller reads again.
    wire.lose(&[(WRITE, Loss::Before); 6]);
    let unknown = store.commit(feed, &head, "test", NOW, &[put(feed, "alice", 2)]).await;
    assert!(matches!(unknown, Err(CommitError::Store(StoreError::Unavailable(_)))), "{unknown:?}");
    assert_eq!(bench.revision(feed).await, head.revision);

    // Without the token the second attempt fails the condition: on its own first attempt.
    wire.forget_tokens();
    wire.lose(&[(WRITE, Loss::After)]);
    head = store.commit(feed, &head, "test", NOW, &[put(feed, "alice", 3)]).await.unwrap();
    assert_eq!(bench.revision(feed).await, head.revision);

    // Somebody else's change is a conflict, lost answers or not.
    bench.store.commit(feed, &head, "other", NOW, &[put(feed, "bob", 1)]).await.unwrap();
    wire.lose(&[(WRITE, Loss::After)]);
    let late = store.commit(feed, &head, "test", NOW, &[put(feed, "alice", 4)]).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    assert_eq!(bench.revision(feed).await, head.revision + 1);

    // A conditional write of the runtime table finds its own first attempt, too.
    let lease = RuntimeKey::new("lease", "discover");
    wire.lose(&[("UpdateItem", Loss::After)]);
    assert_eq!(store.write(&lease, Some(0), None, json!({"owner": "a"})).await.unwrap(), 1);
    wire.lose(&[("UpdateItem", Loss::After); 3]);
    assert_eq!(store.write(&lease, Some(1), None, json!({"owner": "b"})).await.unwrap(), 2);
    let taken = store.write(&lease, Some(1), None, json!({"owner": "c"})).await;
    assert!(matches!(taken, Err(CommitError::Conflict)), "{taken:?}");

    // Reads are tried again.
    wire.lose(&[("Query", Loss::After), ("GetItem", Loss::Before)]);
    assert_eq!(store.log_after(feed, 0).await.unwrap().len(), 5);
    assert!(store.head(feed, Consistency::Strong).await.is_ok());
    assert!(bench.store.entities(feed).await.unwrap().iter().any(|e| e.key() == key(feed, "alice")));
}

const DENIED: &str = r#"{"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "no"}"#;
const THROTTLED: &str = r#"{"__type": "com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "message": "slow"}"#;
const INVALID: &str = r#"{"__type": "com.amazon.coral.validate#ValidationException", "message": "odd"}"#;
const MET_ANOTHER: &str = r#"{"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
    "Message": "cancelled", "CancellationReasons": [{"Code": "None"}, {"Code": "TransactionConflict", "Message": "met"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_mean_what_they_say() {
    let Some(ministack) = Ministack::start().await else { return };
    let direct = DynamoBenches::new(dynamo::client(&ministack.config(), dynamo::JOB_ATTEMPT));
    let (bench, feed) = (direct.next().await, Feed::Inventory);
    let wire = Wire::to(ministack.port()).await;
    let client = dynamo::client(&config(wire.port), dynamo::JOB_ATTEMPT);
    let store = DynamoStore::new(client, &bench.table, bench.table.replace("policy", "runtime"));
    let head = store.set_up(feed).await.unwrap();
    let change = [put(feed, "a", 1)];
    let writes = || wire.calls().iter().filter(|call| *call == WRITE).count();
    writes();

    wire.lose(&[("GetItem", Loss::Error(DENIED)), (WRITE, Loss::Error(DENIED))]);
    let denied = store.head(feed, Consistency::Eventual).await;
    assert!(matches!(denied, Err(StoreError::Refused(_))), "{denied:?}");
    let denied = store.commit(feed, &head, "test", NOW, &change).await;
    assert!(matches!(denied, Err(CommitError::Store(StoreError::Refused(_)))), "{denied:?}");
    assert_eq!(writes(), 1);

    wire.lose(&[(WRITE, Loss::Error(INVALID))]);
    let odd = store.commit(feed, &head, "test", NOW, &change).await;
    assert!(matches!(odd, Err(CommitError::Illegal(_))), "{odd:?}");
    assert_eq!(writes(), 1);

    wire.lose(&[("GetItem", Loss::Error(THROTTLED)); 3]);
    let throttled = store.head(feed, Consistency::Strong).await;
    assert!(matches!(throttled, Err(StoreError::Unavailable(_))), "{throttled:?}");

    // Nobody was faster, so it is no conflict: out of patience, and nothing is written.
    wire.lose(&[(WRITE, Loss::Error(MET_ANOTHER)); 6]);
    let crowded = store.commit(feed, &head, "test", NOW, &change).await;
    assert!(matches!(crowded, Err(CommitError::Store(StoreError::Unavailable(_)))), "{crowded:?}");
    assert_eq!((writes(), bench.revision(feed).await), (6, 0));

    wire.lose(&[(WRITE, Loss::Error(MET_ANOTHER)), (WRITE, Loss::Error(THROTTLED))]);
    store.commit(feed, &head, "test", NOW, &change).await.unwrap();
    assert_eq!((writes(), bench.revision(feed).await), (3, 1));
}

#[tokio::test]
async fn trouble_is_told_apart() {
    let nobody = dynamo::client(&config(keystile_free_ports::take().unwrap()), Duration::from_millis(300));
    let store = DynamoStore::new(nobody, "policy", "runtime");
    let away = store.head(Feed::Access, Consistency::Strong).await;
    assert!(matches!(away, Err(StoreError::Unavailable(_))), "{away:?}");

    // One that accepts and never answers.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent = config(listener.local_addr().unwrap().port());
    let store = DynamoStore::new(dynamo::client(&silent, Duration::from_millis(100)), "policy", "runtime");
    let began = std::time::Instant::now();
    let hung = store.read(&RuntimeKey::new("lease", "x")).await;
    assert!(matches!(hung, Err(StoreError::Unavailable(_))), "{hung:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());

    let Some(ministack) = Ministack::start().await else { return };
    let store = DynamoStore::new(dynamo::client(&ministack.config(), dynamo::JOB_ATTEMPT), "none", "none");
    let missing = store.entities(Feed::Inventory).await;
    assert!(matches!(missing, Err(StoreError::NotSetUp("inventory"))), "{missing:?}");
}
