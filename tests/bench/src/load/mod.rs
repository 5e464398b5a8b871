//! The load generator. Every reply is compared with what it must be; the first difference, error or lost
//! connection ends the run with exit status 1 and its reason.
//!
//! It goes in steps, so that whoever started it can read the target's clocks between them: it prints
//! `ready` once all connections stand and have been used, works when it reads a line, prints `done` with
//! all connections still open, and at the next line checks what is left to check and prints one JSON object.

mod connection;
mod data;
mod idle;
mod requests;
mod setup;
mod store;

use std::io::{BufRead as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;

use connection::Target;

/// What is asked of whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// Give up after so many seconds.
    #[arg(long, default_value_t = 120)]
    limit_seconds: u64,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Debug, Subcommand)]
enum Workload {
    /// Write the values that GET expects.
    Fill(data::Dataset),
    /// Remove them.
    Purge(data::Dataset),
    /// A closed loop of batches on some connections.
    Requests(requests::Arguments),
    /// Connect, PING, close; again and again.
    Setup(setup::Arguments),
    /// Many connections, used once and then silent.
    Idle(idle::Arguments),
}

/// Runs one workload to its end.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let limit = Duration::from_secs(arguments.limit_seconds);
    tokio::time::timeout(limit, work(arguments))
        .await
        .with_context(|| format!("no end after {} s", arguments.limit_seconds))?
}

async fn work(arguments: &Arguments) -> Result<()> {
    let target = &arguments.target;
    match &arguments.workload {
        Workload::Fill(dataset) => store::fill(target, dataset).await,
        Workload::Purge(dataset) => store::purge(target, dataset).await,
        Workload::Requests(workload) => requests::run(target, workload).await,
        Workload::Setup(workload) => setup::run(target, workload).await,
        Workload::Idle(workload) => idle::run(target, workload).await,
    }
}

/// Says a step, and waits for the next. Blocks on purpose: nothing may happen meanwhile.
fn step(name: &str) -> Result<()> {
    say(name)?;
    let mut line = String::new();
    ensure!(std::io::stdin().lock().read_line(&mut line)? > 0, "nobody says how to go on after {name}");
    Ok(())
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

/// The value below which so many hundredths lie, in microseconds.
fn percentile_us(sorted: &[Duration], hundredths: usize) -> f64 {
    let at = (sorted.len().saturating_sub(1)) * hundredths / 100;
    sorted.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_and_of_none() {
        let all: Vec<_> = (1..=101).map(Duration::from_micros).collect();
        assert!((percentile_us(&all, 50) - 51.0).abs() < 1e-9);
        assert!((percentile_us(&all, 99) - 100.0).abs() < 1e-9);
        assert!(percentile_us(&[], 50).abs() < 1e-9);
    }
}
