//! The front: one address that is every AWS service of the local world.
//!
//! It checks the signature of each request by itself, notes the call, plays the ordered fault, and
//! then answers (ElastiCache, MemoryDB, tagging, account, Lambda) or forwards to ministack (all
//! others). Beside it are the access function's URL and a control port for tests. Everything listens
//! on loopback, in plain HTTP. It refuses whatever it can't verify: there is no key that is exempt.

mod access_url;
mod account;
mod acl;
pub(crate) mod caches;
mod command;
mod control;
mod faults;
mod keys;
mod listen;
mod principals;
mod router;
mod secrets;
mod upstream;
mod wire;
mod writes;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

pub use command::{FrontArguments, front_command};
pub use faults::{Fault, Order, Recorded};
pub use keys::{Key, KeyRing};
pub use principals::Credentials;
pub use writes::Touched;

use crate::fixture::{self, HOME_REGION, Passwords};
use crate::lambda::Functions;
use crate::servers::Manifest;
use crate::world::paths::replace_file;
use acl::ServerAdmin;
use caches::{Clouds, Settings};
use faults::Faults;
use secrets::Secrets;
use upstream::Upstream;

/// What the front is told at its start.
#[derive(Debug, Clone)]
pub struct FrontConfig {
    /// `AWS_ENDPOINT_URL`; port 0 takes a free one, here and below.
    pub listen: SocketAddr,
    /// Faults, calls, and credentials for the world's own processes.
    pub control: SocketAddr,
    /// The access function's URL.
    pub access: SocketAddr,
    /// Where ministack listens.
    pub ministack: SocketAddr,
    /// The front's own folder: `keys.json`, `front.json`, `functions.json`, `invoke`.
    pub dir: PathBuf,
    /// `servers.json`; none where no servers run.
    pub manifest: Option<PathBuf>,
    /// This start's passwords.
    pub passwords: Passwords,
    /// How long a user stays `modifying`.
    pub update_delay: Duration,
    /// So many more replication groups, and pages as large as asked for; else pages of two.
    pub fleet: Option<usize>,
}

impl FrontConfig {
    /// Free ports of loopback, and the defaults of everything else.
    #[must_use]
    pub fn new(dir: PathBuf, ministack: SocketAddr, passwords: Passwords) -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: any,
            control: any,
            access: any,
            ministack,
            dir,
            manifest: None,
            passwords,
            update_delay: Duration::from_secs(2),
            fleet: None,
        }
    }
}

/// A front that runs; it stops when this is dropped.
#[derive(Debug)]
pub struct FrontHandle {
    /// `AWS_ENDPOINT_URL`.
    pub endpoint_url: String,
    /// `KEYSTILE_FAULTS_URL`.
    pub faults_url: String,
    /// `KEYSTILE_ACCESS_URL`.
    pub access_url: String,
    /// Where the world's own processes get credentials: `<this>/credentials/<role>`, with
    /// `Authorization: <token>`, in the form of the container credentials that Fargate gives.
    pub control_url: String,
    /// The token for it.
    pub control_token: SecretString,
    /// Access keys of the IAM users, by user name.
    pub users: BTreeMap<String, Credentials>,
    /// The command that `KEYSTILE_INVOKE` names.
    pub invoke: PathBuf,
    front: Arc<Front>,
    tasks: Vec<JoinHandle<()>>,
}

impl FrontHandle {
    /// Temporary credentials of a role of the home account, for one of the world's own processes.
    pub async fn role_credentials(
        &self,
        role: &str,
        session: &str,
        seconds: u32,
    ) -> anyhow::Result<Credentials> {
        let front = &self.front;
        principals::assume(&front.upstream, &front.ring, role, session, seconds, OffsetDateTime::now_utc())
            .await
    }

    /// All calls since the start or the last time they were forgotten.
    #[must_use]
    pub fn calls(&self) -> Vec<Recorded> {
        self.front.faults.calls()
    }
}

impl Drop for FrontHandle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) upstream: Upstream,
    pub(crate) ring: KeyRing,
    pub(crate) faults: Faults,
    pub(crate) clouds: Arc<Clouds>,
    pub(crate) secrets: Secrets,
    pub(crate) functions: Functions,
    pub(crate) control_token: SecretString,
    pub(crate) access_host: String,
    /// Holds the port with nothing behind, so that nobody else gets it.
    _dead: TcpSocket,
}

/// Starts the front: makes the principals in ministack, then listens.
///
/// # Errors
/// When a port is taken, the folder can't be written, the servers' file can't be read, or ministack
/// does not answer within 30 seconds.
pub async fn serve(config: FrontConfig) -> anyhow::Result<FrontHandle> {
    std::fs::create_dir_all(&config.dir).with_context(|| format!("cannot make {}", config.dir.display()))?;
    // What an earlier world had deployed does not exist in this one.
    let _ = std::fs::remove_file(config.dir.join("functions.json"));
    let bind = |address: SocketAddr| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let (aws, control, access) =
        (bind(config.listen).await?, bind(config.control).await?, bind(config.access).await?);
    let endpoint_url = format!("http://{}", aws.local_addr()?);
    let control_url = format!("http://{}", control.local_addr()?);
    let access_host = access.local_addr()?.to_string();
    let access_url = format!("http://{access_host}");

    let now = OffsetDateTime::now_utc();
    let upstream = Upstream::new(config.ministack);
    upstream.ready().await?;
    let ring = KeyRing::new(&config.dir.join("keys.json"));
    let users = principals::create_all(&upstream, &ring, now).await?;
    principals::create_teleport_secret(&upstream, &config.passwords.legacy_app, now).await?;

    let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let dead = TcpSocket::new_v4()?;
    dead.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let clouds = clouds(&config, dead.local_addr()?.port())?;
    let functions = Functions::new(config.dir.join("functions.json"), &endpoint_url);
    let front = Arc::new(Front {
        upstream,
        ring,
        faults: Faults::default(),
        clouds,
        secrets: Secrets::new(OffsetDateTime::now_utc()),
        functions,
        control_token: token.into(),
        access_host,
        _dead: dead,
    });
    let tasks = vec![
        listen::spawn(aws, Arc::clone(&front), router::answer),
        listen::spawn(control, Arc::clone(&front), control::answer),
        listen::spawn(access, Arc::clone(&front), access_url::answer),
    ];
    let handle = FrontHandle {
        endpoint_url,
        faults_url: format!("{control_url}/faults"),
        access_url,
        control_url,
        control_token: front.control_token.clone(),
        users,
        invoke: config.dir.canonicalize()?.join("invoke"),
        front,
        tasks,
    };
    write_down(&handle, &config)?;
    Ok(handle)
}

fn clouds(config: &FrontConfig, dead_port: u16) -> anyhow::Result<Arc<Clouds>> {
    let manifest = config.manifest.as_deref().map(Manifest::read).transpose()?;
    let version = manifest.as_ref().map_or("8.0.1", |manifest| manifest.version.as_str());
    let password = &config.passwords.test_admin;
    let admin = manifest.as_ref().map(|manifest| ServerAdmin::new(&manifest.ca_file, password));
    let settings =
        Settings { update_delay: config.update_delay, page: if config.fleet.is_some() { 100 } else { 2 } };
    let resources = fixture::resources(version, config.fleet.unwrap_or(0));
    let users = fixture::cache_users(&config.passwords);
    Ok(Clouds::new(resources, users, manifest.as_ref(), dead_port, settings, admin))
}

/// Writes the `invoke` command, and then `front.json`, which the rest of the world waits for.
fn write_down(handle: &FrontHandle, config: &FrontConfig) -> anyhow::Result<()> {
    write_invoke(handle, config)?;
    let users: BTreeMap<&String, BTreeMap<String, String>> =
        handle.users.iter().map(|(name, credentials)| (name, credentials.env())).collect();
    let written = json!({
        "region": HOME_REGION,
        "endpoint_url": handle.endpoint_url,
        "faults_url": handle.faults_url,
        "access_url": handle.access_url,
        "control_url": handle.control_url,
        "control_token": handle.control_token.expose_secret(),
        "invoke": handle.invoke,
        "users": users,
    });
    replace_file(&config.dir.join("front.json"), &serde_json::to_vec_pretty(&written)?)
}

/// A command without arguments of its own, so that it can be run as one word.
fn write_invoke(handle: &FrontHandle, config: &FrontConfig) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let world = std::env::current_exe()?;
    let dir = config.dir.canonicalize()?;
    let script = format!("#!/bin/sh\nexec '{}' invoke --front '{}' \"$@\"\n", world.display(), dir.display());
    replace_file(&handle.invoke, script.as_bytes())?;
    std::fs::set_permissions(&handle.invoke, std::fs::Permissions::from_mode(0o700))?;
    Ok(())
}
