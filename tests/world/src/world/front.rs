//! The front as a process of the world: started, and waited for until it has written down where it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::paths::Paths;
use super::ports::ServicePorts;
use super::process::{Running, Spec};
use crate::servers;

/// How long it may take to make its principals and listen.
const PATIENCE: Duration = Duration::from_secs(40);

/// What the front writes down once it listens.
#[derive(Debug, Clone, Deserialize)]
pub struct FrontFile {
    /// `AWS_ENDPOINT_URL`.
    pub endpoint_url: String,
    /// `KEYSTILE_FAULTS_URL`.
    pub faults_url: String,
    /// `KEYSTILE_ACCESS_URL`.
    pub access_url: String,
    /// Credentials of roles: `<this>/credentials/<role>` with the token as `Authorization`.
    pub control_url: String,
    /// That token.
    pub control_token: String,
    /// The command that runs a function once.
    pub invoke: PathBuf,
    /// Environment variables with the keys of each IAM user, by its name.
    pub users: BTreeMap<String, BTreeMap<String, String>>,
}

/// Starts the front's process and waits until it has written down where it is.
///
/// # Errors
/// When it ends or takes too long; the error names its log.
pub async fn start(
    paths: &Paths,
    ports: &ServicePorts,
    update_delay: Duration,
    fleet: Option<usize>,
) -> Result<FrontFile> {
    let written = paths.local.join("front/front.json");
    let _ = std::fs::remove_file(&written);
    let mut spec = Spec::new("front", servers::world_program()?)
        .arg("front")
        .arg(format!("--listen={}", ports.front))
        .arg(format!("--control={}", ports.control))
        .arg(format!("--access={}", ports.access))
        .arg(format!("--ministack={}", ports.ministack))
        .arg(format!("--dir={}", paths.local.join("front").display()))
        .arg(format!("--manifest={}", paths.manifest().display()))
        .arg(format!("--passwords={}", paths.passwords().display()))
        .arg(format!("--update-delay={}", update_delay.as_secs_f64()))
        .env("RUST_LOG", "info");
    if let Some(fleet) = fleet {
        spec = spec.arg(format!("--fleet={fleet}"));
    }
    let running = Running::start(paths, spec)?;
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Ok(bytes) = std::fs::read(&written) {
            return serde_json::from_slice(&bytes).context("front.json is broken");
        }
        if !running.is_alive() || tokio::time::Instant::now() > end {
            bail!("the front does not come up; see {}:\n{}", running.log.display(), running.last_lines());
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
