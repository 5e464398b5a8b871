//! The deployment's set-up: what `sam deploy` and the first editor would do on AWS.
//!
//! Not wired yet: it needs the functions and the command. [`install`] is where it goes.

use anyhow::Result;

use super::environment::Environment;
use super::paths::Paths;
use super::ports::ServicePorts;

/// Makes keys, tables, CA, users, roles, matchers and the host certificate, starts the proxies, and adds
/// to the environment what clients need to know of them.
///
/// # Errors
/// When a step fails; the error names it.
#[allow(clippy::unused_async, reason = "its steps call the front")]
pub async fn install(_paths: &Paths, _ports: &ServicePorts, _environment: &mut Environment) -> Result<()> {
    Ok(())
}
