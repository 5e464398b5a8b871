//! The deployment's set-up: what `sam deploy` and the first editor would do on AWS.
//!
//! Tables and keys are made as CloudFormation makes them; all that Keystile itself keeps is made by the
//! built `keystile` command through functions/access, as the admin, never by writing a table.

mod admin;
mod cloud;
mod functions;
mod serving;

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::environment::Environment;
use super::front::FrontFile;
use super::paths::Paths;
use super::ports::ServicePorts;

/// The deployment's name.
pub const DEPLOYMENT: &str = "keystile";
/// `<database>.<this>` is the TLS server name of a route.
pub const DOMAIN: &str = "db.keystile.test";
/// The table of both feeds.
pub const POLICY_TABLE: &str = "keystile-policy";
/// The table of heartbeats, leases and reports.
pub const RUNTIME_TABLE: &str = "keystile-runtime";

/// What the set-up stands on: everything below it runs and answers.
#[derive(Debug)]
pub struct Ground<'a> {
    /// Folders and files.
    pub paths: &'a Paths,
    /// The ports that are kept for the proxies, and where the load balancer expects them.
    pub ports: &'a ServicePorts,
    /// Where AWS is, and who holds which keys.
    pub front: &'a FrontFile,
    /// How long the caches keep an IAM connection, in seconds: the proxies are told the same.
    pub iam_life_s: f64,
}

impl Ground<'_> {
    /// Where the functions and the proxies append their audit lines.
    fn audit_file(&self) -> PathBuf {
        self.paths.local.join("audit.jsonl")
    }

    /// The command.
    fn command(&self) -> PathBuf {
        self.paths.binaries.join("keystile")
    }
}

/// Makes keys, tables, CA, users, roles, matchers and the host certificate, runs discovery and label sync once,
/// starts the proxies, and adds to the environment what clients need to know of them.
///
/// # Errors
/// When a step fails; the error names it.
pub async fn install(ground: &Ground<'_>, environment: &mut Environment, say: impl Fn(&str)) -> Result<()> {
    std::fs::write(ground.audit_file(), "").context("cannot write the audit file")?;
    let cloud = cloud::make(ground.front).await.context("tables and keys")?;
    functions::deploy(ground, &cloud).context("deploying the functions")?;
    say("signing in as the admin: matchers, roles, users");
    admin::set_up(ground).await?;
    say("looking for caches, reading their tags");
    for function in ["discover", "sync-labels"] {
        admin::invoke(ground, function).await?;
    }
    say("starting two proxies");
    serving::start(ground, environment).await?;
    environment.set("KEYSTILE_BIN", ground.command().display().to_string());
    environment.set("KEYSTILE_DEPLOYMENT", DEPLOYMENT);
    environment.set("KEYSTILE_DOMAIN", DOMAIN);
    environment.set("KEYSTILE_POLICY_TABLE", POLICY_TABLE);
    environment.set("KEYSTILE_RUNTIME_TABLE", RUNTIME_TABLE);
    environment.set("KEYSTILE_AUDIT_FILE", ground.audit_file().display().to_string());
    Ok(())
}
