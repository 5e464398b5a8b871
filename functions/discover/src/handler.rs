//! Event to job to report.

use keystile_control::discover::Discover;
use keystile_job::turn::Turn;
use keystile_model::report::DiscoveryReport;
use keystile_model::runtime::DISCOVER;
use serde_json::Value;

use crate::event;

/// Runs the job once, in its turn. A dry run writes nothing, so it keeps nobody away and waits for nobody.
pub(crate) async fn handle(
    job: &Discover,
    payload: Value,
    time_left_ms: Option<u64>,
) -> anyhow::Result<DiscoveryReport> {
    let mut ask = event::ask(payload, time_left_ms)?;
    if ask.dry_run {
        return Ok(job.run(ask).await?);
    }
    let turn = Turn { store: &*job.runtime, clock: &*job.clock, job: DISCOVER, called: "discovery" };
    turn.take(time_left_ms, async |left| {
        ask.time_left_ms = left;
        job.run(ask).await
    })
    .await
}
