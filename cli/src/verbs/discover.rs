//! `discover run` and `discover status`.

use http::Method;
use keystile_api::DiscoverRequest;
use keystile_model::removals::Removals;
use keystile_model::report::DiscoveryReport;
use serde_json::Value;

use crate::access::{Access, RUN};
use crate::args::Discover;
use crate::context::{Context, wait};
use crate::failure::Failure;
use crate::output::yaml;
use crate::verbs::{documents, report};

/// Runs `discover …`.
pub(crate) fn run(context: &Context, verb: Discover) -> Result<(), Failure> {
    let answer: Value = match verb {
        Discover::Run { dry_run, matchers, allow_removals } => {
            let allow_removals = Removals::parse(&allow_removals).map_err(Failure::usage)?;
            let matchers = matchers.map(|file| documents::read(&file)).transpose()?;
            let request = DiscoverRequest { dry_run, matchers, allow_removals };
            wait(async {
                let access = Access::open(context).await?;
                access.call(Method::POST, "/v1/discover/run", Some(&request), RUN).await
            })?
        }
        Discover::Status => wait(async { Access::open(context).await?.get("/v1/discover/status").await })?,
    };
    // A report of a newer control plane may not fit: its YAML is still readable.
    let text = match serde_json::from_value::<DiscoveryReport>(answer.clone()) {
        Ok(known) => report::render(&known, context.output.bold),
        Err(_) => yaml(&answer)?,
    };
    context.output.emit(&answer, || text)
}
