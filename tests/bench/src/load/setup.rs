//! Connections that are made, used once and closed: what signing in costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::{Dialer, Target};
use super::{percentile_us, say, step};

/// How many connections, and of which kind.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many in all.
    #[arg(long)]
    connections: usize,
    /// How many under way at a time.
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// Resume TLS sessions.
    #[arg(long)]
    resume: bool,
}

/// Makes them between the two steps; before the first each worker makes one, for its ticket.
pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let Arguments { connections, concurrency, resume } = *arguments;
    ensure!(connections > 0 && concurrency > 0, "no connection would be made");
    let dialer = Arc::new(target.dialer(resume)?);
    all(&dialer, concurrency, 1).await?;

    step("ready")?;
    let started = Instant::now();
    let each = connections.div_ceil(concurrency);
    let made = all(&dialer, concurrency, each).await?;
    let seconds = started.elapsed().as_secs_f64();
    step("done")?;

    let resumed = made.iter().filter(|one| one.resumed).count();
    let mut latencies: Vec<Duration> = made.iter().map(|one| one.latency).collect();
    latencies.sort_unstable();
    say(&json!({
        "connections": made.len(),
        "resumed": resumed,
        "seconds": seconds,
        "p50_us": percentile_us(&latencies, 50),
        "p99_us": percentile_us(&latencies, 99),
    })
    .to_string())
}

/// What one connection was like; its latency is from connect to the reply of PING.
struct Made {
    latency: Duration,
    resumed: bool,
}

async fn all(dialer: &Arc<Dialer>, concurrency: usize, each: usize) -> Result<Vec<Made>> {
    let mut workers = JoinSet::new();
    for _ in 0..concurrency {
        let dialer = Arc::clone(dialer);
        workers.spawn(async move {
            let mut made = Vec::with_capacity(each);
            for _ in 0..each {
                made.push(one(&dialer).await?);
            }
            anyhow::Ok(made)
        });
    }
    let mut made = Vec::new();
    while let Some(ended) = workers.join_next().await {
        made.append(&mut ended??);
    }
    Ok(made)
}

async fn one(dialer: &Dialer) -> Result<Made> {
    let started = Instant::now();
    let mut connection = dialer.connect().await?;
    connection.ping().await?;
    let made = Made { latency: started.elapsed(), resumed: connection.resumed() };
    connection.close().await?;
    Ok(made)
}
