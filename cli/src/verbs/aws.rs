//! `aws token`: an IAM token of the caller's own credentials. Needs no session and asks Keystile nothing.

use std::sync::Arc;

use keystile_aws::callers::Caller;
use keystile_aws::config::SystemClock;
use keystile_aws::iam_token::{Target, sign};
use secrecy::ExposeSecret as _;
use serde_json::json;
use time::format_description::well_known::Rfc3339;

use crate::access::no_credentials;
use crate::args::{Aws, Service};
use crate::context::{Context, wait};
use crate::failure::Failure;

/// Runs `aws …`.
pub(crate) fn run(context: &Context, verb: Aws) -> Result<(), Failure> {
    let Aws::Token { service, cache, user, region } = verb;
    if cache.is_empty() || user.is_empty() {
        return Err(Failure::usage("--cache and --user may not be empty"));
    }
    wait(async {
        let region = context.region(region.as_deref());
        let caller = Caller::find(context.home.aws_folder(), region, Arc::new(SystemClock)).await;
        let region = caller.region().ok_or_else(|| {
            Failure::usage("the cache's region is not known").next("keystile aws token --region REGION …")
        })?;
        let target = target(service, cache, user, region.to_owned());
        let credentials = caller.credentials().await.map_err(|problem| no_credentials(&problem))?;
        let token = sign(&credentials, &target, context.now())
            .map_err(|error| Failure::failed("no token could be signed").why(error.to_string()))?;
        let expires_at = token.expires_at.format(&Rfc3339).unwrap_or_default();
        let secret = token.secret.expose_secret();
        let value = json!({ "token": secret, "user": target.user, "expires_at": expires_at });
        context.output.emit(&value, || format!("{secret}\n"))
    })
}

fn target(service: Service, cache: String, user: String, region: String) -> Target {
    let name = match service {
        Service::Elasticache | Service::ElasticacheServerless => "elasticache",
        Service::Memorydb => "memorydb",
    };
    Target { service: name, cache, user, region, serverless: service == Service::ElasticacheServerless }
}
