//! functions/rotate: gives managed users new passwords, step by step, each minute and on demand.
//!
//! Wiring only: settings, clients and ports are put together here, without asking any service; [`handler`]
//! is event to job to answer.

mod config;
mod event;
mod handler;
mod metrics;

use std::sync::Arc;

use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::rotation::{AwsCacheUsers, AwsSecrets, SystemEntropy};
use keystile_control::audit::AuditLines;
use keystile_control::rotate::{Ports, Rotate};
use keystile_job::serve;
use keystile_model::store::Clock;
use keystile_state::dynamo::{self, DynamoStore};
use keystile_state::snapshot::Snapshot;

use crate::config::Config;
use crate::handler::App;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    serve::log();
    serve::serve(app().await, SystemClock, async |app, event, left| handler::handle(&app, event, left).await)
        .await
}

async fn app() -> anyhow::Result<App> {
    let config = Config::from_variables(|name| std::env::var(name).ok())?;
    let common = config.common;
    let aws = AwsConfig::load("keystile-rotate").await;
    let client = dynamo::client(aws.home(), dynamo::JOB_ATTEMPT);
    let store = Arc::new(DynamoStore::new(client, &common.policy_table, &common.runtime_table));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Ok(App {
        snapshot: Snapshot::new(store.clone(), Arc::clone(&clock)),
        job: Rotate {
            ports: Ports {
                secrets: Arc::new(AwsSecrets::new(aws.home())),
                users: Arc::new(AwsCacheUsers::new(aws)),
                runtime: store.clone(),
                entropy: Arc::new(SystemEntropy),
                clock,
            },
            policy: store,
            audit: Arc::new(AuditLines::new(common.audit_file)),
            settings: config.settings,
        },
        metrics: metrics::print,
    })
}
