//! A store under test, with what only a test may do to it.

use std::sync::Arc;

use async_trait::async_trait;
use keystile_model::feed::{EntityKey, Feed};
use keystile_model::store::{PolicyStore, RuntimeStore};

#[async_trait]
pub(crate) trait Bench: Send + Sync {
    fn policy(&self) -> Arc<dyn PolicyStore>;
    fn runtime(&self) -> Arc<dyn RuntimeStore>;
    /// Remembers the policy table.
    async fn back_up(&self);
    /// Puts back what was remembered, under a new generation.
    async fn restore(&self);
    /// Drops log entries below `oldest`; `told` says whether the head knows.
    async fn age_out(&self, feed: Feed, oldest: u64, told: bool);
    /// Puts the JSON of an entity there, whatever it is.
    async fn plant_entity(&self, key: EntityKey, json: String);
    /// Puts the JSON of the next log entry there and moves the head.
    async fn plant_log(&self, feed: Feed, json: String);
    async fn set_min_reader(&self, feed: Feed, min_reader: u32);
}

/// Makes benches with empty tables.
#[async_trait]
pub(crate) trait Benches: Send + Sync {
    async fn fresh(&self) -> Box<dyn Bench>;
}
