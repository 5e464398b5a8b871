//! The suite on the in-memory twin.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keystile_model::feed::{EntityKey, Feed};
use keystile_model::store::{PolicyStore, RuntimeStore};
use keystile_state::memory::{Backup, MemoryStore};

use crate::bench::{Bench, Benches};
use crate::suite;

struct MemoryBench {
    store: Arc<MemoryStore>,
    backup: Mutex<Option<Backup>>,
}

#[async_trait]
impl Bench for MemoryBench {
    fn policy(&self) -> Arc<dyn PolicyStore> {
        Arc::clone(&self.store) as _
    }
    fn runtime(&self) -> Arc<dyn RuntimeStore> {
        Arc::clone(&self.store) as _
    }
    async fn back_up(&self) {
        *self.backup.lock().unwrap() = Some(self.store.backup());
    }
    async fn restore(&self) {
        self.store.restore(self.backup.lock().unwrap().as_ref().unwrap());
    }
    async fn age_out(&self, feed: Feed, oldest: u64, told: bool) {
        self.store.age_out_log(feed, oldest, told);
    }
    async fn plant_entity(&self, key: EntityKey, json: String) {
        self.store.plant_entity(key, json);
    }
    async fn plant_log(&self, feed: Feed, json: String) {
        self.store.plant_log(feed, json);
    }
    async fn set_min_reader(&self, feed: Feed, min_reader: u32) {
        self.store.set_min_reader(feed, min_reader);
    }
}

struct MemoryBenches;

#[async_trait]
impl Benches for MemoryBenches {
    async fn fresh(&self) -> Box<dyn Bench> {
        Box::new(MemoryBench { store: Arc::new(MemoryStore::new()), backup: Mutex::default() })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_keeps_the_promises() {
    suite::all(&MemoryBenches, 40).await;
}
