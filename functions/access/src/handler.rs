//! One event to one answer: who calls, what the deployment knows, which route.

use std::sync::Arc;

use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlResponse;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use keystile_api::ErrorCode;
use keystile_model::audit::EventKind;
use keystile_model::decide::{Decision, DenyKind, Request as Asked};
use keystile_model::policy::Policy;
use keystile_model::user::{ArnRule, IdentifyError, identify};
use serde_json::Value;

use crate::app::{App, Call};
use crate::failure::{Failure, internal, not_set_up};
use crate::request::Request;

/// Largest answer: a synchronous invocation ends at 6 MB.
const MAX_ANSWER: usize = 5_500_000;

/// Answers an event. Never fails: what goes wrong is an answer too.
pub(crate) async fn handle(app: &App, event: Value) -> LambdaFunctionUrlResponse {
    let outcome = match Request::from_event(event) {
        Ok(request) => {
            let outcome = answer(app, &request).await;
            let id = request.id.as_str();
            match &outcome {
                Ok(_) => tracing::info!(
                    request_id = id,
                    method = request.method,
                    path = path(&request),
                    "answered"
                ),
                Err(failure) => told(&request, failure),
            }
            outcome
        }
        Err(failure) => Err(failure),
    };
    respond(outcome)
}

async fn answer(app: &App, request: &Request) -> Result<Value, Failure> {
    crate::bootstrap::ensure(app, request).await?;
    let (policy, _) = app.snapshot.current().await?;
    let call = match known(app, request, policy) {
        Ok(call) => call,
        Err(failure) => {
            let details = vec![("path", Value::String(request.path.chars().take(200).collect()))];
            crate::audit::refused(app, request, EventKind::Login, "", &failure, details);
            return Err(failure);
        }
    };
    crate::routes::answer(&call).await
}

/// Who calls: a user that exists and is not locked.
fn known<'a>(app: &'a App, request: &'a Request, policy: Arc<Policy>) -> Result<Call<'a>, Failure> {
    let settings = policy.settings().cloned().ok_or_else(not_set_up)?;
    let rules = policy.arn_rules().map(AsRef::<ArnRule>::as_ref);
    let name = identify(&request.caller, &settings.trusted_accounts, rules)
        .map_err(|error| nobody(request, &error))?;
    let user = policy.user(&name).cloned().ok_or_else(|| {
        Failure::new(ErrorCode::NotMapped, format!("there is no user {name}"))
            .why(format!("a rule says that {} is {name}", request.caller.arn))
            .next(format!("ask an editor: keystile users add {name} --roles=ROLE"))
    })?;
    let call = Call { app, request, policy, settings, user, now: app.now() };
    // A lock on the user, or on a role that it holds, closes every door here too.
    let decision = call.decide(Asked::Administer { resource: "session", verb: "create" });
    if let Decision::Deny { kind: DenyKind::Locked | DenyKind::UnknownUser, .. } = decision {
        return Err(Failure::denied(format!("{name} is locked out"), &decision).next("ask an editor"));
    }
    Ok(call)
}

fn nobody(request: &Request, error: &IdentifyError) -> Failure {
    let (principal, _) = request.caller.arn.principal();
    let failure = Failure::new(ErrorCode::NotMapped, format!("nobody here is {}", request.caller.arn))
        .why(error.to_string());
    match error {
        IdentifyError::UntrustedAccount(account) => failure.next(format!(
            "ask whoever runs the deployment to add {account} to the template's TrustedAccounts"
        )),
        IdentifyError::Ambiguous(..) | IdentifyError::Name(_) => {
            failure.next("ask an editor to look at the rules: keystile get arn_rule")
        }
        IdentifyError::Unmapped(_) => {
            failure.next(format!("ask an editor: keystile users map-arn {principal} --user NAME"))
        }
    }
}

/// What we could not do is for whoever is on call; what we would not do is for the caller, and in the audit.
fn told(request: &Request, failure: &Failure) {
    let (id, method, path) = (request.id.as_str(), &request.method, path(request));
    let (code, detail) = (failure.code(), failure.detail());
    let (message, why) = (detail.message.as_str(), detail.why.as_str());
    match code {
        ErrorCode::Internal | ErrorCode::Unavailable => {
            tracing::error!(request_id = id, %method, path, ?code, message, why, "could not answer");
        }
        _ => tracing::info!(request_id = id, %method, path, ?code, message, "refused"),
    }
}

/// The path, short enough for a log.
fn path(request: &Request) -> String {
    request.path.chars().take(200).collect()
}

fn respond(outcome: Result<Value, Failure>) -> LambdaFunctionUrlResponse {
    let (status, body) = match outcome {
        Ok(value) => (200, value.to_string()),
        Err(failure) => error_body(failure),
    };
    let (status, body) = if body.len() > MAX_ANSWER {
        error_body(
            Failure::new(ErrorCode::TooLarge, "the answer is too large")
                .next("ask for one thing by its name"),
        )
    } else {
        (status, body)
    };
    let mut response = LambdaFunctionUrlResponse::default();
    response.status_code = i64::from(status);
    response.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.body = Some(body);
    response
}

fn error_body(failure: Failure) -> (u16, String) {
    let status = failure.code().status();
    (status, serde_json::to_string(&failure.into_body()).unwrap_or_default())
}

/// An answer of the API as JSON.
pub(crate) fn json(answer: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        internal("the answer cannot be written")
    })
}
