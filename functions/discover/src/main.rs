//! functions/discover: finds caches and their users, on a schedule and on demand.
//!
//! Wiring only: settings, clients and ports are put together here, without asking any service; [`handler`]
//! is event to job to report.

mod config;
mod event;
mod handler;

use std::sync::Arc;

use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::discovery::AwsCloud;
use keystile_control::audit::AuditLines;
use keystile_control::discover::{Discover, Settings};
use keystile_job::serve;
use keystile_state::dynamo::{self, DynamoStore};

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    serve::log();
    serve::serve(job().await, SystemClock, async |job, event, left| handler::handle(&job, event, left).await)
        .await
}

async fn job() -> anyhow::Result<Discover> {
    let config = Config::from_variables(|name| std::env::var(name).ok())?;
    let common = config.common;
    let aws = AwsConfig::load("keystile-discover").await;
    let client = dynamo::client(aws.home(), dynamo::JOB_ATTEMPT);
    let store = Arc::new(DynamoStore::new(client, &common.policy_table, &common.runtime_table));
    Ok(Discover {
        policy: store.clone(),
        runtime: store,
        audit: Arc::new(AuditLines::new(common.audit_file)),
        clock: Arc::new(SystemClock),
        settings: Settings {
            deployment: common.deployment,
            home_account: config.home_account,
            home_region: aws.home_region().to_owned(),
            allow_loopback: config.allow_loopback,
        },
        cloud: Arc::new(AwsCloud::new(aws)),
    })
}
