//! The binary: settings, adapters, one [`App`], signals.

use std::sync::Arc;

use anyhow::Context as _;
use keystile_aws::config::AwsConfig;
use keystile_aws::iam_token::TokenMinter;
use keystile_aws::secrets::SecretReader;
use keystile_proxy::app::{App, Ports};
use keystile_proxy::clock::SystemClock;
use keystile_proxy::config::Config;
use keystile_proxy::credentials::aws::AwsPasswords;
use keystile_proxy::host_secret::AwsSecrets;
use keystile_proxy::open_files;
use keystile_proxy::tokens::IamTokens;
use keystile_state::dynamo::{self, DynamoStore};
use keystile_state::policy_feed::Intervals;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    let config = Config::from_env()?;
    let room = open_files::raise();
    if room < config.max_connections as u64 {
        tracing::warn!(
            room,
            wanted = config.max_connections,
            "the limit of open files has room for fewer connections than KEYSTILE_MAX_CONNECTIONS: raise the task's nofile"
        );
    }
    // What clients wait for runs on the workers' own runtimes: feeds, probes and metrics need no more than this.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let aws = AwsConfig::load("keystile-proxy").await;
    let client = dynamo::client(aws.home(), dynamo::POLL_ATTEMPT);
    let store = Arc::new(DynamoStore::new(client, &config.policy_table, &config.runtime_table));
    let ports = Ports {
        policy: Arc::clone(&store) as _,
        runtime: store,
        secrets: Arc::new(AwsSecrets(aws.clone())),
        passwords: Arc::new(AwsPasswords(SecretReader::new(aws.home()))),
        tokens: Arc::new(IamTokens(TokenMinter::new(aws))),
        clock: Arc::new(SystemClock),
        intervals: Intervals::default(),
    };
    let app = App::build(config, ports).await?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    app.run(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}
