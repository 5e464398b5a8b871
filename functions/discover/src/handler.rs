//! Event to job to report.

use std::time::Duration;

use keystile_control::discover::Discover;
use keystile_control::lease;
use keystile_model::report::DiscoveryReport;
use keystile_model::runtime::DISCOVER;

use serde_json::Value;

use crate::event;

/// How long a run keeps others away, in seconds. Short: a killed run holds its lease to the end, and two runs
/// at once are harmless, since every write is conditional.
const LEASE_S: i64 = 30;
/// How long a run waits for another one's lease.
const WAIT: Duration = Duration::from_secs(35);
/// Between two looks at a lease that is held.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the job once, unless another run does not end in time.
pub(crate) async fn handle(
    job: &Discover,
    payload: Value,
    time_left_ms: Option<u64>,
) -> anyhow::Result<DiscoveryReport> {
    let begun = tokio::time::Instant::now();
    let mut ask = event::ask(payload, time_left_ms)?;
    if ask.dry_run {
        // It writes nothing, so it keeps nobody away and waits for nobody.
        return Ok(job.run(ask).await?);
    }
    let owner = uuid::Uuid::new_v4().to_string();
    let wait = time_left_ms.map_or(WAIT, |left| WAIT.min(Duration::from_millis(left / 2)));
    let held = loop {
        let now = job.clock.now().unix_timestamp();
        if let Some(held) = lease::acquire(&*job.runtime, DISCOVER, &owner, now, LEASE_S).await? {
            break held;
        }
        anyhow::ensure!(
            begun.elapsed() < wait,
            "another run of discovery is under way: try again in a minute"
        );
        tokio::time::sleep(PAUSE).await;
    };
    let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = {
        ask.time_left_ms = ask.time_left_ms.map(|left| left.saturating_sub(waited));
        job.run(ask).await
    };
    if let Err(error) = lease::release(&*job.runtime, held).await {
        tracing::warn!(%error, "the lease was not given back; it ends by itself");
    }
    Ok(outcome?)
}
