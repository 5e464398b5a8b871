//! The two proxy processes, which stand for two Fargate tasks of one service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use super::paths::Paths;
use super::process::{Running, Spec, stop};

/// How long a proxy may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a proxy may drain when the world ends.
const DRAIN: Duration = Duration::from_secs(5);

/// The recorded name of a proxy: 1 or 2.
#[must_use]
pub fn name(number: usize) -> String {
    format!("proxy-{number}")
}

/// Starts one proxy with the given environment and waits until it listens on its port.
///
/// # Errors
/// When the binary is missing, ends, or does not listen in time; the error names its log.
pub async fn start(
    paths: &Paths,
    number: usize,
    port: u16,
    environment: BTreeMap<String, String>,
) -> Result<Running> {
    let program = paths.binaries.join("keystile-proxy");
    let spec = Spec { environment, ..Spec::new(name(number), program) };
    let running = Running::start(paths, spec)?;
    let end = tokio::time::Instant::now() + PATIENCE;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        if !running.is_alive() || tokio::time::Instant::now() > end {
            bail!(
                "{} does not listen on {port}; see {}:\n{}",
                running.spec.name,
                running.log.display(),
                running.last_lines()
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(running)
}

/// Ends a proxy, if it runs, and starts it again as it was started before.
///
/// # Errors
/// When it was never started, or does not come back.
pub async fn restart(paths: &Paths, number: usize, port: u16) -> Result<Running> {
    let before = Running::find(paths, &name(number))
        .with_context(|| format!("{} was not started by this world", name(number)))?;
    let environment = before.spec.environment.clone();
    stop(paths, &[before], DRAIN).await;
    start(paths, number, port, environment).await
}
