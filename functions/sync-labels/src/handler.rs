//! Event to job to report.

use keystile_control::sync_labels::SyncLabels;
use keystile_job::turn::Turn;
use keystile_model::report::SyncReport;
use keystile_model::runtime::SYNC_LABELS;

/// Runs the job once, in its turn.
pub(crate) async fn handle(job: &SyncLabels, time_left_ms: Option<u64>) -> anyhow::Result<SyncReport> {
    let turn = Turn { store: &*job.runtime, clock: &*job.clock, job: SYNC_LABELS, called: "label sync" };
    turn.take(time_left_ms, async |left| job.run(left).await).await
}
