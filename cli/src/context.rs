//! What every verb gets: the environment, the folders, the configuration, the output, the time.

use keystile_aws::config::SystemClock;
use keystile_model::store::Clock as _;
use time::OffsetDateTime;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::home::{Config, Home};
use crate::output::Output;

/// What every verb gets.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Variables and terminals.
    pub(crate) environment: Environment,
    /// The folders.
    pub(crate) home: Home,
    /// The configuration as it was at the start.
    pub(crate) config: Config,
    /// Where data goes.
    pub(crate) output: Output,
}

impl Context {
    /// The machine's time.
    pub(crate) fn now(&self) -> OffsetDateTime {
        SystemClock.now()
    }

    /// The proxy to dial: what the environment says comes over what the deployment said.
    pub(crate) fn proxy_address(&self, told: &str) -> String {
        self.environment.var("KEYSTILE_PROXY_ADDR").unwrap_or(told).to_owned()
    }

    /// The region that was set by hand: a flag, the configuration, the environment. A home with AWS
    /// credentials of its own is not told by the environment.
    pub(crate) fn region(&self, flag: Option<&str>) -> Option<String> {
        let environment = || match self.home.aws_folder() {
            Some(_) => None,
            None => self.environment.var("AWS_REGION").or_else(|| self.environment.var("AWS_DEFAULT_REGION")),
        };
        flag.or(self.config.region.as_deref()).or_else(environment).map(str::to_owned)
    }
}

/// Runs a verb that waits for the network, until Ctrl-C. Local verbs never start the runtime.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    wait_through(async {
        tokio::select! {
            outcome = work => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    })
}

/// The same for work that hears signals itself.
pub(crate) fn wait_through<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the runtime could not start").why(error.to_string()))?;
    let outcome = runtime.block_on(work);
    // A name look-up that hangs must not hold the command after its verb has ended.
    runtime.shutdown_background();
    outcome
}
