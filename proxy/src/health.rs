//! Heartbeats and the health of databases.

use std::sync::Arc;

use keystile_model::store::RuntimeStore;

use crate::app::Shared;

/// Runs for ever.
pub async fn run(shared: Arc<Shared>, runtime: Arc<dyn RuntimeStore>) {
    let _ = (shared, runtime);
    std::future::pending::<()>().await;
}
