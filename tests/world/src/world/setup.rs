//! The deployment's set-up: what `sam deploy` and the first editor would do on AWS.
//!
//! Not wired yet: it needs the functions and the command. [`install`] is where it goes.

use anyhow::Result;

use super::environment::Environment;
use super::front::FrontFile;
use super::paths::Paths;
use super::ports::ServicePorts;

/// What the set-up stands on: everything below it runs and answers.
#[derive(Debug)]
pub struct Ground<'a> {
    /// Folders and files.
    pub paths: &'a Paths,
    /// The ports that are kept for the proxies, and where the load balancer expects them.
    pub ports: &'a ServicePorts,
    /// Where AWS is, and who holds which keys.
    pub front: &'a FrontFile,
}

/// Makes keys, tables, CA, users, roles, matchers and the host certificate, starts the proxies
/// ([`super::proxies::start`]), and adds to the environment what clients need to know of them.
///
/// # Errors
/// When a step fails; the error names it.
#[allow(clippy::unused_async, reason = "its steps call the front")]
pub async fn install(_ground: &Ground<'_>, _environment: &mut Environment) -> Result<()> {
    Ok(())
}
