//! Event to job to report.

use std::time::Duration;

use keystile_control::lease;
use keystile_control::sync_labels::SyncLabels;
use keystile_model::report::SyncReport;
use keystile_model::runtime::SYNC_LABELS;

/// How long a run keeps others away, in seconds. Short: a killed run holds its lease to the end, and two runs
/// at once are harmless, since every write is conditional.
const LEASE_S: i64 = 30;
/// How long a run waits for another one's lease.
const WAIT: Duration = Duration::from_secs(35);
/// Between two looks at a lease that is held.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs the job once, unless another run does not end in time.
pub(crate) async fn handle(job: &SyncLabels, time_left_ms: Option<u64>) -> anyhow::Result<SyncReport> {
    let begun = tokio::time::Instant::now();
    let owner = uuid::Uuid::new_v4().to_string();
    let wait = time_left_ms.map_or(WAIT, |left| WAIT.min(Duration::from_millis(left / 2)));
    let held = loop {
        let now = job.clock.now().unix_timestamp();
        if let Some(held) = lease::acquire(&*job.runtime, SYNC_LABELS, &owner, now, LEASE_S).await? {
            break held;
        }
        anyhow::ensure!(
            begun.elapsed() < wait,
            "another run of label sync is under way: try again in a minute"
        );
        tokio::time::sleep(PAUSE).await;
    };
    let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let outcome = job.run(time_left_ms.map(|left| left.saturating_sub(waited))).await;
    if let Err(error) = lease::release(&*job.runtime, held).await {
        tracing::warn!(%error, "the lease was not given back; it ends by itself");
    }
    Ok(outcome?)
}
