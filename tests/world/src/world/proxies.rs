//! The two proxy processes, which stand for two Fargate tasks of one service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use super::paths::{Paths, replace_file};
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

/// Ends a proxy, if it runs, starts it again as it was started before, and writes its new pid to the
/// environment that clients source.
///
/// # Errors
/// When it was never started, or does not come back.
pub async fn restart(paths: &Paths, number: usize) -> Result<Running> {
    let before = Running::find(paths, &name(number))
        .with_context(|| format!("{} was not started by this world", name(number)))?;
    let environment = before.spec.environment.clone();
    let listen = environment.get("KEYSTILE_LISTEN").and_then(|listen| listen.rsplit_once(':'));
    let port = listen.and_then(|(_, port)| port.parse().ok()).context("its port is not known")?;
    stop(paths, &[before], DRAIN).await;
    let running = start(paths, number, port, environment).await?;
    let written = std::fs::read_to_string(paths.env()).unwrap_or_default();
    replace_file(&paths.env(), with_pid(&written, number, running.pid).as_bytes())?;
    Ok(running)
}

/// The name of the variable that holds a proxy's address, pid and so on, without what follows `_`.
#[must_use]
pub fn variable(number: usize) -> String {
    if number == 1 { "KEYSTILE_PROXY".to_owned() } else { format!("KEYSTILE_PROXY{number}") }
}

fn with_pid(written: &str, number: usize, pid: u32) -> String {
    let name = format!("export {}_PID=", variable(number));
    written
        .lines()
        .map(|line| if line.starts_with(&name) { format!("{name}{pid}\n") } else { format!("{line}\n") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pid_of_that_proxy_changes() {
        let before = "export KEYSTILE_PROXY_PID=1\nexport KEYSTILE_PROXY2_PID=2\nexport A=b\n";
        assert_eq!(
            with_pid(before, 2, 7),
            "export KEYSTILE_PROXY_PID=1\nexport KEYSTILE_PROXY2_PID=7\nexport A=b\n"
        );
    }
}
