//! Starts the fixture's servers, waits until each answers as it should, and writes them down.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::certificates::Certificates;
use super::client::Client;
use super::cluster;
use super::configuration::{MAX_CLIENTS, Surroundings, acl_file, is_of, node_configuration};
use super::layout::{Layout, users_file};
use super::manifest::{Manifest, Node};
use crate::fixture::{CacheAuth, CacheUser, Kind, Passwords, Resource, TEST_ADMIN, cache_users};
use crate::packages::Packages;
use crate::world::limits::raise_open_files;
use crate::world::paths::{Paths, replace_file};
use crate::world::ports::Ports;
use crate::world::process::{Running, Spec, stop};

/// How long a server may take to answer; it takes a fraction of a second.
const PATIENCE: Duration = Duration::from_secs(20);
/// Valkey keeps 32 files for itself.
const OWN_FILES: u64 = 32;

/// What to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The caches; those without servers are passed over.
    pub resources: Vec<Resource>,
    /// The passwords of this start.
    pub passwords: Passwords,
    /// How long an IAM connection lives: 12 hours on AWS.
    pub iam_life: Duration,
}

/// Starts all servers and returns what was written to `servers.json`. `say` is told what a person
/// should know.
///
/// # Errors
/// When a server does not start, or a cluster does not form. What was started still runs then, recorded.
pub async fn start(
    paths: &Paths,
    packages: &Packages,
    options: &Options,
    ports: &mut Ports,
    say: impl Fn(&str),
) -> Result<Manifest> {
    let module = paths.iam_module();
    if !module.exists() {
        bail!("{} is missing; run: cargo build --release -p keystile-valkey-iam", module.display());
    }
    say_shortfall(&say);
    let folder = paths.servers();
    let _ = std::fs::remove_dir_all(&folder);
    let certificates = Certificates::make(&folder)?;
    let users = cache_users(&options.passwords);
    let layouts = lay_out(options, ports)?;
    for layout in &layouts {
        start_nodes(paths, packages, options, layout, &certificates, &users)?;
    }
    wait_for_all(paths, &layouts, &certificates, &options.passwords.test_admin).await?;
    for layout in &layouts {
        start_forwarder(paths, layout)?;
    }
    let resources = layouts.iter().map(|l| l.cache(users_file(&folder, &l.resource))).collect();
    let manifest = Manifest { ca_file: certificates.ca, version: packages.version.clone(), resources };
    write_down(paths, &manifest)?;
    Ok(manifest)
}

/// Ends one node, if it runs, and starts it again as it was started.
///
/// # Errors
/// When the node is unknown or does not start.
pub async fn restart_node(paths: &Paths, node: &Node) -> Result<Running> {
    let before = Running::find(paths, &node.process)
        .with_context(|| format!("{} was not started by this world", node.process))?;
    let spec = before.spec.clone();
    stop(paths, &[before], Duration::from_secs(2)).await;
    let running = Running::start(paths, spec)?;
    write_down(paths, &Manifest::read(&paths.manifest())?)?;
    Ok(running)
}

fn say_shortfall(say: &impl Fn(&str)) {
    let wanted = MAX_CLIENTS + OWN_FILES;
    let files = raise_open_files(wanted);
    if files < wanted {
        let clients = files.saturating_sub(OWN_FILES);
        say(&format!(
            "this machine allows {files} open files: maxclients is {clients} on each server, not {MAX_CLIENTS}"
        ));
    }
}

fn lay_out(options: &Options, ports: &mut Ports) -> Result<Vec<Layout>> {
    options.resources.iter().filter(|r| r.servers).map(|resource| Layout::of(resource, ports)).collect()
}

fn start_nodes(
    paths: &Paths,
    packages: &Packages,
    options: &Options,
    layout: &Layout,
    certificates: &Certificates,
    users: &[CacheUser],
) -> Result<()> {
    let own: Vec<&CacheUser> = users.iter().filter(|user| is_of(user, &layout.resource)).collect();
    let users_file = users_file(&paths.servers(), &layout.resource);
    replace_file(&users_file, &serde_json::to_vec(&iam_users(&own))?)?;
    for plan in &layout.nodes {
        let folder = paths.servers().join(&plan.node.process);
        let around = Surroundings {
            resource: &layout.resource,
            folder: &folder,
            certificates,
            passwords: &options.passwords,
            module: &paths.iam_module(),
            keys_file: &paths.keys(),
            users_file: &users_file,
            iam_life: options.iam_life,
        };
        let acl = acl_file(own.iter().copied(), &options.passwords);
        replace_file(&folder.join("users.acl"), acl.as_bytes())?;
        let file = folder.join("valkey.conf");
        replace_file(&file, node_configuration(plan, &around).as_bytes())?;
        let spec =
            Spec::new(&plan.node.process, packages.program("valkey-server")).arg(file.display().to_string());
        Running::start(paths, spec)?;
    }
    Ok(())
}

/// What the module reads: how each user of the group authenticates.
fn iam_users(users: &[&CacheUser]) -> serde_json::Value {
    let entries = users.iter().map(|user| {
        let auth = if user.auth == CacheAuth::Iam { "iam" } else { "other" };
        (user.name.clone(), json!({ "auth": auth }))
    });
    json!({ "users": entries.collect::<serde_json::Map<_, _>>() })
}

/// All caches at once: each takes seconds in which it mostly waits.
async fn wait_for_all(
    paths: &Paths,
    layouts: &[Layout],
    certificates: &Certificates,
    password: &str,
) -> Result<()> {
    let mut caches = tokio::task::JoinSet::new();
    for layout in layouts {
        let (paths, layout, certificates) = (paths.clone(), layout.clone(), certificates.clone());
        let password = password.to_owned();
        caches.spawn(async move { wait_until_ready(&paths, &layout, &certificates, &password).await });
    }
    while let Some(ready) = caches.join_next().await {
        ready.context("a waiting task ended early")??;
    }
    Ok(())
}

async fn wait_until_ready(
    paths: &Paths,
    layout: &Layout,
    certificates: &Certificates,
    password: &str,
) -> Result<()> {
    for plan in &layout.nodes {
        wait_for_answer(paths, &plan.node, certificates, password).await?;
    }
    if layout.resource.cluster {
        return cluster::form(layout, &certificates.ca, password)
            .await
            .with_context(|| format!("the cluster {} does not form", layout.resource.id));
    }
    for plan in layout.nodes.iter().filter(|plan| plan.primary_port.is_some()) {
        let mut client = Client::login(&certificates.ca, plan.node.port, TEST_ADMIN, password).await?;
        cluster::wait_for_replica(&mut client).await?;
    }
    Ok(())
}

async fn wait_for_answer(
    paths: &Paths,
    node: &Node,
    certificates: &Certificates,
    password: &str,
) -> Result<()> {
    let running = Running::find(paths, &node.process).context("it was just recorded")?;
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match Client::login(&certificates.ca, node.port, TEST_ADMIN, password).await {
            Ok(_) => return Ok(()),
            Err(error) if !running.is_alive() || tokio::time::Instant::now() > end => {
                let (log, lines) = (running.log.display(), running.last_lines());
                return Err(error.context(format!("{} does not answer; see {log}:\n{lines}", node.id)));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(30)).await,
        }
    }
}

/// An endpoint that is no node's own: TCP to one of the nodes that live.
fn start_forwarder(paths: &Paths, layout: &Layout) -> Result<()> {
    let Some(port) = layout.forwarded_port else { return Ok(()) };
    let Resource { kind, id, .. } = &layout.resource;
    let name = if *kind == Kind::Serverless { format!("{id}-reader") } else { format!("{id}-endpoint") };
    let mut spec = Spec::new(name, world_program()?).arg("load-balancer").arg(format!("--listen={port}"));
    for plan in &layout.nodes {
        spec = spec.arg(format!("--target=127.0.0.1:{}", plan.node.port));
    }
    Running::start(paths, spec)?;
    Ok(())
}

/// The `keystile-world` binary: this program, or for tests the one that was built beside them.
///
/// # Errors
/// When it is not built.
pub(crate) fn world_program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join("keystile-world"));
    let found = std::iter::once(own.clone())
        .filter(|path| path.file_name().is_some_and(|name| name == "keystile-world"))
        .chain(beside)
        .find(|path| path.exists());
    found.context("keystile-world is not built; run: cargo build --release -p keystile-world")
}

fn write_down(paths: &Paths, manifest: &Manifest) -> Result<()> {
    manifest.write(&paths.manifest())?;
    let mut nodes = Vec::new();
    for cache in &manifest.resources {
        for node in &cache.nodes {
            let running = Running::find(paths, &node.process).context("a node without a record")?;
            nodes.push(json!({
                "resource": cache.id,
                "account": cache.account,
                "region": cache.region,
                "role": node.role,
                "addr": format!("{}:{}", node.host, node.port),
                "pid": running.pid,
                "log": running.log,
                "node": node.id,
            }));
        }
    }
    let unique: BTreeSet<&str> =
        manifest.resources.iter().flat_map(|c| &c.nodes).map(|n| n.process.as_str()).collect();
    debug_assert_eq!(unique.len(), nodes.len(), "each node has a record of its own");
    replace_file(&paths.cache_nodes(), &serde_json::to_vec_pretty(&nodes)?)
}
