//! `keystile-world`: the local AWS and the servers behind it, from one command.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use keystile_world::front::{FrontArguments, front_command};
use keystile_world::lambda::{InvokeArguments, invoke_command};
use keystile_world::load_balancer::{Balancer, Target};
use keystile_world::packages::Packages;
use keystile_world::servers::{Manifest, restart_node};
use keystile_world::world::process::Running;
use keystile_world::world::schedules;
use keystile_world::world::up::Settings;
use keystile_world::world::{Paths, down, up};

/// The local world that Keystile is tested in.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start everything and return when it answers.
    Up,
    /// Start only the cache servers.
    Servers,
    /// End everything.
    Down,
    /// Say what runs.
    Ps,
    /// Fetch Valkey and ministack, unless they are there.
    Packages,
    /// End a cache node (such as `orders-001`, or its process' name) and start it again.
    RestartNode {
        /// The node.
        node: String,
    },
    /// End a proxy, 1 or 2, and start it again.
    RestartProxy {
        /// Which.
        #[arg(value_parser = clap::value_parser!(u8).range(1..=2))]
        number: u8,
    },
    /// The front: every AWS service at one address (started by `up`).
    #[command(hide = true)]
    Front(FrontArguments),
    /// Run a function once, as its schedule would: discover, sync-labels, rotate.
    Invoke(InvokeArguments),
    /// The schedules (started by `up` where `KEYSTILE_SCHEDULES=on`).
    #[command(hide = true)]
    Schedules {
        /// The command that runs a function once.
        invoke: PathBuf,
    },
    /// The load balancer's stand-in (started by `up`).
    #[command(hide = true)]
    LoadBalancer {
        /// Its port.
        #[arg(long)]
        listen: u16,
        /// Its control port.
        #[arg(long)]
        control: Option<u16>,
        /// `ADDRESS` or `ADDRESS=PROCESS`, round robin.
        #[arg(long = "target", value_parser = target, required = true)]
        targets: Vec<Target>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
    let verb = Arguments::parse().verb;
    if let Verb::Invoke(arguments) = &verb {
        // Its exit code says whether the function itself failed.
        return invoke_command(arguments).await;
    }
    match run(verb).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(verb: Verb) -> Result<()> {
    let paths = Paths::of_checkout();
    match verb {
        Verb::Up => up(&paths, &Settings::from_environment()?, say).await,
        Verb::Servers => {
            let settings = Settings { servers_only: true, ..Settings::from_environment()? };
            up(&paths, &settings, say).await
        }
        Verb::Down => down(&paths).await,
        Verb::Ps => list(&paths),
        Verb::Packages => Packages::fetch(&paths.repository, &paths.packages),
        Verb::RestartNode { node } => restart(&paths, &node).await,
        Verb::RestartProxy { number } => {
            let running = keystile_world::world::proxies::restart(&paths, usize::from(number)).await?;
            say(&format!("{} runs as pid {}", running.spec.name, running.pid));
            Ok(())
        }
        Verb::Front(arguments) => front_command(arguments).await,
        Verb::Invoke(arguments) => anyhow::bail!("{} ran without its exit code", arguments.function),
        Verb::Schedules { invoke } => {
            schedules::run(&invoke).await;
            Ok(())
        }
        Verb::LoadBalancer { listen, control, targets } => {
            Balancer::new(paths, targets).serve(listen, control).await
        }
    }
}

/// Talk goes to standard error.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "world: {text}");
}

fn list(paths: &Paths) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for process in Running::all(paths) {
        let state = if process.is_alive() { "runs" } else { "ended" };
        writeln!(out, "{:<48} {:>8} {state:<6} {}", process.spec.name, process.pid, process.log.display())?;
    }
    Ok(())
}

async fn restart(paths: &Paths, name: &str) -> Result<()> {
    let manifest = Manifest::read(&paths.manifest())?;
    let node =
        manifest.resources.iter().flat_map(|cache| &cache.nodes).find(|n| n.id == name || n.process == name);
    let node = node.with_context(|| format!("no node is called {name}; `keystile-world ps` lists them"))?;
    let running = restart_node(paths, node).await?;
    say(&format!("{} runs as pid {}", node.id, running.pid));
    Ok(())
}

fn target(text: &str) -> Result<Target, String> {
    let (address, process) = match text.split_once('=') {
        Some((address, process)) => (address, Some(process.to_owned())),
        None => (text, None),
    };
    let address: SocketAddr = address.parse().map_err(|_| format!("{address:?} is no address and port"))?;
    Ok(Target { address, process })
}
