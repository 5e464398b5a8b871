//! functions/sync-labels: keeps the labels of databases equal to their AWS tags.
//!
//! Wiring only: settings, clients and ports are put together here, without asking any service; [`handler`]
//! is event to job to report.

mod handler;

use std::sync::Arc;

use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::discovery::AwsCloud;
use keystile_control::audit::AuditLines;
use keystile_control::sync_labels::SyncLabels;
use keystile_job::serve;
use keystile_job::settings::Settings;
use keystile_state::dynamo::{self, DynamoStore};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    serve::log();
    serve::serve(job().await, SystemClock, async |job, _, left| handler::handle(&job, left).await).await
}

async fn job() -> anyhow::Result<SyncLabels> {
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    let aws = AwsConfig::load("keystile-sync-labels").await;
    let client = dynamo::client(aws.home(), dynamo::JOB_ATTEMPT);
    let store = Arc::new(DynamoStore::new(client, &settings.policy_table, &settings.runtime_table));
    Ok(SyncLabels {
        policy: store.clone(),
        runtime: store,
        audit: Arc::new(AuditLines::new(settings.audit_file)),
        clock: Arc::new(SystemClock),
        deployment: settings.deployment,
        cloud: Arc::new(AwsCloud::new(aws)),
    })
}
