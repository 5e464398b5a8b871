//! One AWS call from its signature to its answer.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use time::OffsetDateTime;
use time::macros::format_description;

use super::caches::{elasticache, memorydb, tagging};
use super::faults::{Fault, Recorded, fault_error};
use super::keys::Key;
use super::secrets::Passage;
use super::wire::{ApiError, Call, Form, Protocol, Request, Response, call_of};
use super::writes::touched;
use super::{Front, account, principals};
use crate::fixture::{self, HOME_ACCOUNT, HOME_REGION, Rights};
use crate::sigv4::{self, Refusal};

/// A caller whose signature is verified.
pub(crate) struct Caller {
    pub(crate) key: Key,
    pub(crate) access_key: String,
    pub(crate) region: String,
}

/// Answers one request; `None` closes the connection.
pub(crate) async fn answer(front: Arc<Front>, request: Request) -> Option<Response> {
    let now = OffsetDateTime::now_utc();
    let claim = sigv4::claim(&signed(&request));
    let scope = claim.as_ref().map(|claim| (claim.service.clone(), claim.region.clone())).unwrap_or_default();
    let call = call_of(&request, &scope.0);
    let caller = claim.and_then(|claim| verified(&front, &request, &claim, now));
    let mut record = recorded(&call, &scope.1, caller.as_ref().ok(), now);
    if call.service == "dynamodb" {
        record.parts = touched(&call.operation, &request.body);
    }
    let outcome = match caller {
        Ok(caller) => with_faults(&front, &request, &call, &caller, now).await,
        Err(refusal) => Some(refusal_error(&refusal, call.protocol).response(call.protocol)),
    };
    record.status = outcome.as_ref().map_or(0, |response| response.status().as_u16());
    front.faults.record(record);
    outcome
}

/// The request as its signature sees it.
pub(crate) fn signed(request: &Request) -> sigv4::Request<'_> {
    sigv4::Request {
        method: request.method.as_str(),
        path: &request.path,
        query: &request.query,
        headers: &request.flat,
        body: &request.body,
    }
}

/// Checks a signature against the known keys.
pub(crate) fn verified(
    front: &Front,
    request: &Request,
    claim: &sigv4::Claim,
    now: OffsetDateTime,
) -> Result<Caller, Refusal> {
    let key = front.ring.find(&claim.access_key);
    sigv4::verify(&signed(request), claim, key.as_ref().map(Key::known).as_ref(), now)?;
    let key = key.ok_or(Refusal::UnknownKey)?;
    Ok(Caller { key, access_key: claim.access_key.clone(), region: claim.region.clone() })
}

/// A refused signature in the words of AWS, which depend on the protocol.
pub(crate) fn refusal_error(refusal: &Refusal, protocol: Protocol) -> ApiError {
    let (query, json) = match refusal {
        Refusal::Missing => ("MissingAuthenticationToken", "MissingAuthenticationTokenException"),
        Refusal::Incomplete(_) => ("IncompleteSignature", "IncompleteSignatureException"),
        Refusal::UnknownKey => ("InvalidClientTokenId", "UnrecognizedClientException"),
        Refusal::ExpiredToken => ("ExpiredToken", "ExpiredTokenException"),
        Refusal::Stale(_) | Refusal::Mismatch => ("SignatureDoesNotMatch", "InvalidSignatureException"),
    };
    let (status, code) = match protocol {
        Protocol::Json => (400, json),
        Protocol::RestJson => (403, json),
        Protocol::Query if matches!(refusal, Refusal::Incomplete(_)) => (400, query),
        Protocol::Query | Protocol::RestXml => (403, query),
    };
    ApiError::new(status, code, refusal.to_string())
}

pub(crate) fn recorded(call: &Call, region: &str, caller: Option<&Caller>, now: OffsetDateTime) -> Recorded {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    Recorded {
        service: call.service.clone(),
        operation: call.operation.clone(),
        account: caller.map(|caller| caller.key.account.clone()).unwrap_or_default(),
        region: region.to_owned(),
        caller: caller.map(|caller| caller.key.arn.clone()).unwrap_or_default(),
        resource: call.resource.clone(),
        time: now.format(form).unwrap_or_default(),
        status: 0,
        parts: Vec::new(),
    }
}

async fn with_faults(
    front: &Arc<Front>,
    request: &Request,
    call: &Call,
    caller: &Caller,
    now: OffsetDateTime,
) -> Option<Response> {
    let fault = front.faults.take(call);
    if let Some((Fault::Throttle | Fault::ErrorBefore | Fault::Denied | Fault::Quota, _)) = fault {
        return fault.map(|(fault, _)| fault_error(fault, call).response(call.protocol));
    }
    if let Some((Fault::Slow, seconds)) = fault {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    }
    let done = dispatch(front, request, call, caller, now)
        .await
        .unwrap_or_else(|error| error.response(call.protocol));
    match fault {
        Some((Fault::ErrorAfter, _)) => Some(fault_error(Fault::ErrorAfter, call).response(call.protocol)),
        Some((Fault::Drop, _)) => None,
        _ => Some(done),
    }
}

async fn dispatch(
    front: &Arc<Front>,
    request: &Request,
    call: &Call,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Response, ApiError> {
    if request.path.starts_with("/service/") && request.path.contains("/operation/") {
        let message = "This local stand-in speaks the JSON and query protocols only; the SDK sent smithy-rpc-v2-cbor. Pin the SDK, or teach the front CBOR.";
        return Err(ApiError::new(400, "UnsupportedProtocolException", message));
    }
    let ours = ["elasticache", "memorydb", "tagging", "account", "lambda"].contains(&call.service.as_str());
    if !ours {
        return forward(front, request, call, caller, now).await;
    }
    permitted(call, caller)?;
    if !account::enabled(&caller.region) {
        return Err(refusal_error(&Refusal::UnknownKey, call.protocol));
    }
    let (account, region) = (caller.key.account.as_str(), caller.region.as_str());
    match call.service.as_str() {
        "elasticache" => elasticache::handle(&front.clouds, account, region, &Form::of(request)),
        "memorydb" => memorydb::handle(&front.clouds, account, region, &call.operation, &request.body),
        "tagging" => tagging::handle(&front.clouds, account, region, &call.operation, &request.body),
        "account" => account::handle(&call.operation, request, front.clouds.settings.page),
        _ => invoke(front, request, call, caller, now).await,
    }
}

/// The world's rough fence: people may only ask who they are and call the access URL.
fn permitted(call: &Call, caller: &Caller) -> Result<(), ApiError> {
    if fixture::rights(&caller.key.arn) == Some(Rights::All) {
        return Ok(());
    }
    let action = format!("{}:{}", call.service, call.operation);
    let message = format!(
        "User: {} is not authorized to perform: {action} because no identity-based policy allows the {action} action",
        caller.key.arn
    );
    Err(match call.protocol {
        Protocol::Json => ApiError::new(400, "AccessDeniedException", message),
        Protocol::RestJson => ApiError::new(403, "AccessDeniedException", message),
        Protocol::Query | Protocol::RestXml => ApiError::new(403, "AccessDenied", message),
    })
}

async fn forward(
    front: &Front,
    request: &Request,
    call: &Call,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Response, ApiError> {
    let passage = Passage {
        secrets: &front.secrets,
        upstream: &front.upstream,
        caller: &caller.key.arn,
        account: &caller.key.account,
        region: &caller.region,
        now,
    };
    let secrets = call.service == "secretsmanager";
    let _turn = if secrets { front.secrets.turn(&call.operation).await } else { None };
    if secrets && let Some(answer) = passage.before(&call.operation, request).await? {
        return Ok(answer);
    }
    let mut target = request.path.clone();
    if !request.query.is_empty() {
        target = format!("{target}?{}", request.query);
    }
    let answer =
        front.upstream.send(request.method.clone(), &target, &request.headers, request.body.clone()).await;
    let answer = answer.map_err(|error| ApiError::new(503, "ServiceUnavailable", format!("{error:#}")))?;
    if secrets {
        return Ok(passage.after(&call.operation, request, answer).await);
    }
    if call.service == "sts" && call.operation.starts_with("AssumeRole") && answer.status().is_success() {
        return learn(front, answer, now).await;
    }
    Ok(answer)
}

/// A new temporary key is known here, and to the servers, before its owner reads it.
async fn learn(front: &Front, answer: Response, now: OffsetDateTime) -> Result<Response, ApiError> {
    let (parts, body) = answer.into_parts();
    let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    principals::learn(&front.ring, &String::from_utf8_lossy(&bytes), now).map_err(|error| {
        ApiError::new(500, "InternalFailure", format!("the new key could not be noted: {error:#}"))
    })?;
    Ok(Response::from_parts(parts, bytes.into()))
}

async fn invoke(
    front: &Arc<Front>,
    request: &Request,
    call: &Call,
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Response, ApiError> {
    if call.operation != "Invoke" {
        return Err(ApiError::new(
            400,
            "InvalidRequestContentException",
            format!(
                "The local stand-in of Lambda knows Invoke alone, not {} {}.",
                request.method, request.path
            ),
        ));
    }
    let spec = front
        .functions
        .find(&call.resource)
        .map_err(|error| ApiError::new(500, "ServiceException", format!("{error:#}")))?;
    let home = caller.key.account == HOME_ACCOUNT && caller.region == HOME_REGION;
    let spec = spec.filter(|_| home).ok_or_else(|| {
        ApiError::new(404, "ResourceNotFoundException", format!("Function not found: {}", call.resource))
    })?;
    let event = request.body.clone();
    match request.flat.get("x-amz-invocation-type").map(String::as_str) {
        Some("DryRun") => Ok(super::wire::answer(204, "application/json", "")),
        Some("Event") => {
            let front = Arc::clone(front);
            tokio::spawn(async move {
                if let Err(error) = front.run(&spec, event, now).await {
                    tracing::warn!(function = %spec.name, "an asynchronous invocation failed: {error:#}");
                }
            });
            Ok(super::wire::answer(202, "application/json", ""))
        }
        _ => {
            let outcome = front.run(&spec, event, now).await;
            let outcome =
                outcome.map_err(|error| ApiError::new(500, "ServiceException", format!("{error:#}")))?;
            let mut response = super::wire::answer(200, "application/json", outcome.payload.clone());
            let headers = response.headers_mut();
            headers.insert("x-amz-executed-version", http::HeaderValue::from_static("$LATEST"));
            if outcome.error() {
                headers.insert("x-amz-function-error", http::HeaderValue::from_static("Unhandled"));
            }
            Ok(response)
        }
    }
}
