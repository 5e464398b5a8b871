//! The schedules, which run only where `KEYSTILE_SCHEDULES=on`: a check says when by itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::MissedTickBehavior;

/// The functions with a schedule, and its rate, as the template has them.
const SCHEDULES: [(&str, Duration); 3] = [
    ("discover", Duration::from_secs(300)),
    ("sync-labels", Duration::from_secs(300)),
    ("rotate", Duration::from_secs(60)),
];

/// Runs the functions at their rates until the process ends. A run that fails is logged, and the next
/// one comes at its time; no function overlaps itself.
pub async fn run(invoke: &Path) {
    let each = SCHEDULES.map(|(function, rate)| {
        let invoke = invoke.to_path_buf();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                run_once(&invoke, function).await;
            }
        })
    });
    for schedule in each {
        let _ = schedule.await;
    }
}

async fn run_once(invoke: &Path, function: &str) {
    let mut command = Command::new(invoke);
    command.arg(function).stdin(Stdio::null()).kill_on_drop(true);
    match command.status().await {
        Ok(status) => tracing::info!(function, %status, "a scheduled run ended"),
        Err(error) => tracing::error!(function, %error, "a scheduled run did not start"),
    }
}
