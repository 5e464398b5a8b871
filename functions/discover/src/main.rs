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
use keystile_state::dynamo::{self, DynamoStore};
use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;

use crate::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
    let job = match job().await {
        Ok(job) => Arc::new(job),
        Err(error) => {
            tracing::error!("cannot start: {error:#}");
            return Err(error.into());
        }
    };
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let job = Arc::clone(&job);
        async move {
            let left = time_left_ms(event.context.deadline, &*job.clock);
            handler::handle(&job, event.payload, left).await.map_err(|error| {
                tracing::error!("the run failed: {error:#}");
                lambda_runtime::Error::from(error)
            })
        }
    }))
    .await
}

/// Milliseconds from now to the platform's deadline, given in Unix milliseconds.
fn time_left_ms(deadline: u64, clock: &dyn keystile_model::store::Clock) -> Option<u64> {
    let now = u64::try_from(clock.now().unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    (deadline > 0).then(|| deadline.saturating_sub(now))
}

async fn job() -> anyhow::Result<Discover> {
    let config = Config::from_variables(|name| std::env::var(name).ok())?;
    let aws = AwsConfig::load("keystile-discover").await;
    let client = dynamo::client(aws.home(), dynamo::JOB_ATTEMPT);
    let store = Arc::new(DynamoStore::new(client, &config.policy_table, &config.runtime_table));
    Ok(Discover {
        policy: store.clone(),
        runtime: store,
        audit: Arc::new(AuditLines::new(config.audit_file)),
        clock: Arc::new(SystemClock),
        settings: Settings {
            deployment: config.deployment,
            home_account: config.home_account,
            home_region: aws.home_region().to_owned(),
            allow_loopback: config.allow_loopback,
        },
        cloud: Arc::new(AwsCloud::new(aws)),
    })
}
