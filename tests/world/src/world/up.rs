//! `up` and `down`: everything in its order, and nothing left behind.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::environment::Environment;
use super::paths::{Paths, replace_file};
use super::ports::{Ports, ServicePorts};
use super::process::{Running, Spec, stop};
use super::{front, homes, ministack, proxies, setup};
use crate::fixture::{self, HOME_ACCOUNT, HOME_REGION, Kind, Passwords};
use crate::packages::Packages;
use crate::servers::{self, Manifest};

/// How long the services have to end, then the servers.
const GRACE: Duration = Duration::from_secs(8);

/// What the world is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `KEYSTILE_PORT_BASE`.
    pub port_base: Option<u16>,
    /// `KEYSTILE_IAM_LIFE_S`, 12 hours by default.
    pub iam_life: Duration,
    /// `KEYSTILE_UPDATE_DELAY_S`, 2 s by default: how long a user stays `modifying`.
    pub update_delay: Duration,
    /// `KEYSTILE_FLEET`: so many more replication groups, and pages as large as asked for.
    pub fleet: Option<usize>,
    /// `KEYSTILE_SCHEDULES=on`: the functions run at their rates by themselves.
    pub schedules: bool,
    /// Only the cache servers.
    pub servers_only: bool,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// When a variable is not a number of its kind.
    pub fn from_environment() -> Result<Self> {
        Ok(Self {
            port_base: number("KEYSTILE_PORT_BASE")?,
            iam_life: seconds("KEYSTILE_IAM_LIFE_S", 43_200.0)?,
            update_delay: seconds("KEYSTILE_UPDATE_DELAY_S", 2.0)?,
            fleet: number("KEYSTILE_FLEET")?,
            schedules: std::env::var("KEYSTILE_SCHEDULES").is_ok_and(|value| value == "on"),
            servers_only: false,
        })
    }
}

fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>> {
    match std::env::var(name).ok().filter(|text| !text.is_empty()) {
        Some(text) => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("{name} is {text:?}, which is no such number; unset it or correct it"),
        },
        None => Ok(None),
    }
}

fn seconds(name: &str, default: f64) -> Result<Duration> {
    let value = number(name)?.unwrap_or(default);
    Duration::try_from_secs_f64(value).with_context(|| format!("{name} is {value}, which is no time"))
}

/// Starts the world and writes down its environment. `say` is told of each step. One that runs already is
/// left as it is.
///
/// # Errors
/// When a part does not start; what was started is ended again, and the error names the log.
pub async fn up(paths: &Paths, settings: &Settings, say: impl Fn(&str)) -> Result<()> {
    if is_up(paths) {
        say(&format!("it runs already; {} says where things are", paths.env().display()));
        return Ok(());
    }
    down(paths).await?;
    let started = tokio::select! {
        done = bring_up(paths, settings, &say) => done,
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = started {
        say("it did not come up; ending what was started");
        down(paths).await?;
        return Err(error);
    }
    Ok(())
}

/// Ends every recorded process: services first, so that none sees its servers go. Doing it twice is fine.
///
/// # Errors
/// When a process cannot be ended.
pub async fn down(paths: &Paths) -> Result<()> {
    let (servers, services): (Vec<Running>, Vec<Running>) =
        Running::all(paths).into_iter().partition(|process| process.spec.name.starts_with("valkey-"));
    stop(paths, &services, GRACE).await;
    stop(paths, &servers, GRACE).await;
    let left: Vec<String> =
        Running::all(paths).iter().map(|p| format!("{} ({})", p.spec.name, p.pid)).collect();
    if !left.is_empty() {
        bail!("still running: {}", left.join(", "));
    }
    // Addresses of servers that are gone would only mislead.
    for file in [paths.env(), paths.manifest(), paths.cache_nodes()] {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

fn is_up(paths: &Paths) -> bool {
    let all = Running::all(paths);
    paths.env().exists() && !all.is_empty() && all.iter().all(Running::is_alive)
}

async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

async fn bring_up(paths: &Paths, settings: &Settings, say: &impl Fn(&str)) -> Result<()> {
    let packages = Packages::locate(&paths.packages)?;
    let _ = std::fs::remove_dir_all(paths.local.join("log"));
    let passwords = Passwords::generate();
    replace_file(&paths.passwords(), &serde_json::to_vec(&passwords)?)?;
    let mut ports = Ports::new(settings.port_base);
    let services = ports.services()?;

    say(&format!("starting the cache servers, Valkey {}", packages.version));
    let options = servers::Options {
        resources: fixture::resources(&packages.version, 0),
        passwords: passwords.clone(),
        iam_life: settings.iam_life,
    };
    let manifest = servers::start(paths, &packages, &options, &mut ports, say).await?;
    let mut environment = cache_environment(paths, &manifest, &passwords)?;
    if !settings.servers_only {
        bring_up_services(paths, &packages, settings, &services, &mut environment, say).await?;
    }
    environment.write(&paths.env())?;
    say(&format!("up: source {}; `make down` ends it", paths.env().display()));
    Ok(())
}

async fn bring_up_services(
    paths: &Paths,
    packages: &Packages,
    settings: &Settings,
    ports: &ServicePorts,
    environment: &mut Environment,
    say: &impl Fn(&str),
) -> Result<()> {
    say("starting ministack and the front, which together are AWS");
    ministack::start(paths, packages, ports.ministack).await?;
    let front = front::start(paths, ports, settings.update_delay, settings.fleet).await?;
    homes::make(paths, &front)?;
    aws_environment(&front, environment);
    start_load_balancer(paths, ports)?;
    environment.set("KEYSTILE_FRONT_ADDR", format!("127.0.0.1:{}", ports.load_balancer.0));
    environment.set("KEYSTILE_FRONT_CONTROL_URL", format!("http://127.0.0.1:{}", ports.load_balancer.1));
    say("setting Keystile up");
    let ground = setup::Ground { paths, ports, front: &front, iam_life_s: settings.iam_life.as_secs_f64() };
    setup::install(&ground, environment, say).await.context("the set-up failed")?;
    if settings.schedules {
        let spec = Spec::new("schedules", servers::world_program()?)
            .arg("schedules")
            .arg(front.invoke.display().to_string());
        Running::start(paths, spec)?;
    }
    Ok(())
}

/// Where AWS is, and the admin's keys.
fn aws_environment(front: &front::FrontFile, environment: &mut Environment) {
    environment.set("AWS_ENDPOINT_URL", &front.endpoint_url);
    environment.set("KEYSTILE_FAULTS_URL", &front.faults_url);
    environment.set("KEYSTILE_ACCESS_URL", &front.access_url);
    environment.set("KEYSTILE_INVOKE", front.invoke.display().to_string());
    for (name, value) in front.users.get("keystile-admin").into_iter().flatten() {
        environment.set(name, value);
    }
}

fn start_load_balancer(paths: &Paths, ports: &ServicePorts) -> Result<Running> {
    let mut spec = Spec::new("load-balancer", servers::world_program()?)
        .arg("load-balancer")
        .arg(format!("--listen={}", ports.load_balancer.0))
        .arg(format!("--control={}", ports.load_balancer.1));
    for (number, (port, _)) in ports.proxies.iter().enumerate() {
        spec = spec.arg(format!("--target=127.0.0.1:{port}={}", proxies::name(number + 1)));
    }
    Running::start(paths, spec)
}

/// What a client must know of the caches themselves.
fn cache_environment(paths: &Paths, manifest: &Manifest, passwords: &Passwords) -> Result<Environment> {
    let mut environment = Environment::default();
    for (variable, kind, id, endpoint) in [
        ("ORDERS_ADDR", Kind::ReplicationGroup, "orders", "primary"),
        ("SESSIONS_ADDR", Kind::ReplicationGroup, "sessions", "configuration"),
        ("LEDGER_ADDR", Kind::MemoryDb, "ledger", "cluster"),
        ("CARTS_ADDR", Kind::Serverless, "carts", "serverless"),
    ] {
        let cache = manifest.cache(HOME_ACCOUNT, kind, id).with_context(|| format!("{id} has no server"))?;
        environment.set(variable, cache.endpoints[endpoint].to_string());
    }
    environment.set("AWS_REGION", HOME_REGION);
    environment.set("CACHE_CA_FILE", manifest.ca_file.display().to_string());
    environment.set("CACHE_NODES_FILE", paths.cache_nodes().display().to_string());
    environment.set("STATIC_APP_PASSWORD", &passwords.static_app);
    environment.set("TEST_ADMIN_PASSWORD", &passwords.test_admin);
    Ok(environment)
}
