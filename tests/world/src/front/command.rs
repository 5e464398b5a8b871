//! `keystile-world front`: the front as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use super::{FrontConfig, serve};

/// What `keystile-world front` is told. All ports are of loopback.
#[derive(Debug, Clone, clap::Args)]
pub struct FrontArguments {
    /// The port of `AWS_ENDPOINT_URL`.
    #[arg(long, default_value_t = 0)]
    pub listen: u16,
    /// The port of faults, calls and the world's own credentials.
    #[arg(long, default_value_t = 0)]
    pub control: u16,
    /// The port of the access function's URL.
    #[arg(long, default_value_t = 0)]
    pub access: u16,
    /// ministack's port.
    #[arg(long)]
    pub ministack: u16,
    /// The front's folder.
    #[arg(long)]
    pub dir: PathBuf,
    /// `servers.json`.
    #[arg(long)]
    pub manifest: Option<PathBuf>,
    /// `passwords.json` of this start.
    #[arg(long)]
    pub passwords: PathBuf,
    /// Seconds that a user stays `modifying`.
    #[arg(long, env = "KEYSTILE_UPDATE_DELAY_S", default_value_t = 2.0)]
    pub update_delay: f64,
    /// So many more replication groups.
    #[arg(long, env = "KEYSTILE_FLEET")]
    pub fleet: Option<usize>,
}

/// Serves until it is told to end. `front.json` in its folder appears when it answers.
///
/// # Errors
/// As [`serve`].
pub async fn front_command(arguments: FrontArguments) -> anyhow::Result<()> {
    let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let passwords = std::fs::read(&arguments.passwords)
        .with_context(|| format!("cannot read {}", arguments.passwords.display()))?;
    let config = FrontConfig {
        listen: loopback(arguments.listen),
        control: loopback(arguments.control),
        access: loopback(arguments.access),
        ministack: loopback(arguments.ministack),
        dir: arguments.dir,
        manifest: arguments.manifest,
        passwords: serde_json::from_slice(&passwords)?,
        update_delay: Duration::try_from_secs_f64(arguments.update_delay)
            .context("KEYSTILE_UPDATE_DELAY_S is no time")?,
        fleet: arguments.fleet.filter(|fleet| *fleet > 0),
    };
    let _ = std::fs::remove_file(config.dir.join("front.json"));
    let front = serve(config).await?;
    tracing::info!(endpoint = %front.endpoint_url, "the front answers");
    let (mut end, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = end.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
