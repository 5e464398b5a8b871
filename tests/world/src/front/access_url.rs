//! The access function's URL: `AWS_IAM` authorization, then API Gateway's payload 2.0.
//!
//! A caller reaches the function only with a fresh signature of a known key of the home account
//! over this very host; what the function is told of the caller comes from the key, never from the
//! request.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

use super::Front;
use super::faults::{Fault, fault_error};
use super::router::{Caller, recorded, refusal_error, signed, verified};
use super::wire::{Call, Protocol, Request, Response, answer as respond, decode};
use crate::fixture::{self, HOME_ACCOUNT, HOME_REGION};
use crate::sigv4;

/// Lambda's largest synchronous payload, both ways.
const PAYLOAD_LIMIT: usize = 6 << 20;
const API_ID: &str = "keystileaccess";

/// Answers one request; `None` closes the connection.
pub(crate) async fn answer(front: Arc<Front>, request: Request) -> Option<Response> {
    let now = OffsetDateTime::now_utc();
    let call = Call {
        service: "lambda".into(),
        operation: "InvokeFunctionUrl".into(),
        resource: "access".into(),
        protocol: Protocol::RestJson,
    };
    let caller = caller(&front, &request, now);
    let mut record = recorded(&call, HOME_REGION, caller.as_ref().ok(), now);
    let outcome = match caller {
        Ok(caller) => with_faults(&front, &request, &call, &caller, now).await,
        Err(refusal) => Some(*refusal),
    };
    record.status = outcome.as_ref().map_or(0, |response| response.status().as_u16());
    front.faults.record(record);
    outcome
}

fn message(status: u16, text: &str) -> Response {
    respond(status, "application/json", json!({ "Message": text }).to_string())
}

/// Who calls, or the refusal.
fn caller(front: &Front, request: &Request, now: OffsetDateTime) -> Result<Caller, Box<Response>> {
    let refused = |refusal: &sigv4::Refusal| {
        Box::new(match refusal {
            sigv4::Refusal::Missing => message(403, "Forbidden"),
            other => refusal_error(other, Protocol::RestJson).response(Protocol::RestJson),
        })
    };
    let forbidden = || Box::new(message(403, "Forbidden"));
    let claim = sigv4::claim(&signed(request)).map_err(|refusal| refused(&refusal))?;
    let caller = verified(front, request, &claim, now).map_err(|refusal| refused(&refusal))?;
    if claim.service != "lambda" || claim.region != HOME_REGION {
        let why = format!(
            "Credential should be scoped to a valid region and to the service 'lambda': {HOME_REGION}."
        );
        return Err(refused(&sigv4::Refusal::Incomplete(why)));
    }
    if request.flat.get("host") != Some(&front.access_host) {
        return Err(forbidden());
    }
    // The resource policy names the home account; a principal needs the right of its own besides.
    if caller.key.account != HOME_ACCOUNT || fixture::rights(&caller.key.arn).is_none() {
        return Err(forbidden());
    }
    Ok(caller)
}

async fn with_faults(
    front: &Arc<Front>,
    request: &Request,
    call: &Call,
    caller: &Caller,
    now: OffsetDateTime,
) -> Option<Response> {
    let fault = front.faults.take(call);
    match fault {
        Some((fault @ (Fault::Throttle | Fault::ErrorBefore | Fault::Denied), _)) => {
            return Some(fault_error(fault, call).response(call.protocol));
        }
        Some((Fault::Slow, seconds)) => tokio::time::sleep(std::time::Duration::from_secs_f64(seconds)).await,
        _ => {}
    }
    let done = run(front, request, caller, now).await;
    match fault {
        Some((Fault::ErrorAfter, _)) => Some(fault_error(Fault::ErrorAfter, call).response(call.protocol)),
        Some((Fault::Drop, _)) => None,
        _ => Some(done),
    }
}

async fn run(front: &Arc<Front>, request: &Request, caller: &Caller, now: OffsetDateTime) -> Response {
    let event = event(request, caller, &front.access_host, now).to_string();
    if event.len() > PAYLOAD_LIMIT {
        return message(413, "Request Entity Too Large");
    }
    let outcome = match front.functions.find("access") {
        Ok(Some(spec)) => front.run(&spec, Bytes::from(event), now).await,
        Ok(None) => {
            Err(anyhow::anyhow!("the function access is not deployed: functions.json does not name it"))
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(outcome) if !outcome.error() && outcome.payload.len() <= PAYLOAD_LIMIT => {
            response(&outcome.payload)
        }
        Ok(outcome) => {
            tracing::warn!("functions/access failed: {}", String::from_utf8_lossy(&outcome.payload));
            message(502, "Internal Server Error")
        }
        Err(error) => {
            tracing::warn!("functions/access could not run: {error:#}");
            message(502, "Internal Server Error")
        }
    }
}

/// API Gateway's payload 2.0 of a request.
fn event(request: &Request, caller: &Caller, host: &str, now: OffsetDateTime) -> Value {
    let form = format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
    let path = decode(&request.path);
    let agent = request.flat.get("user-agent").cloned().unwrap_or_default();
    let key = &caller.key;
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": request.query,
        "headers": request.flat,
        "requestContext": {
            "accountId": key.account,
            "apiId": API_ID,
            "authentication": null,
            "authorizer": {"iam": {
                "accessKey": caller.access_key,
                "accountId": key.account,
                "callerId": key.user_id,
                "cognitoIdentity": null,
                "principalOrgId": null,
                "userArn": key.arn,
                "userId": key.user_id,
            }},
            "domainName": host,
            "domainPrefix": API_ID,
            "http": {"method": request.method.as_str(), "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": agent},
            "requestId": uuid::Uuid::new_v4().to_string(),
            "routeKey": "$default",
            "stage": "$default",
            "time": now.format(form).unwrap_or_default(),
            "timeEpoch": now.unix_timestamp() * 1000 + i64::from(now.millisecond()),
        },
        "isBase64Encoded": false,
    });
    let query = query(&request.query);
    if !query.is_empty() {
        event["queryStringParameters"] = query.into();
    }
    if !request.body.is_empty() {
        let text = std::str::from_utf8(&request.body).ok().filter(|_| is_text(request));
        event["isBase64Encoded"] = text.is_none().into();
        event["body"] = text.map_or_else(|| STANDARD.encode(&request.body), str::to_owned).into();
    }
    event
}

/// Lambda hands a body on as text only for types that are text.
fn is_text(request: &Request) -> bool {
    let kind = request.flat.get("content-type").map(String::as_str).unwrap_or_default();
    kind.starts_with("text/") || ["json", "xml", "javascript"].iter().any(|word| kind.contains(word))
}

fn query(raw: &str) -> Map<String, Value> {
    let mut found: Map<String, Value> = Map::new();
    for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, mut value) = (decode(name), decode(value));
        if let Some(have) = found.get(&name).and_then(Value::as_str) {
            value = format!("{have},{value}");
        }
        found.insert(name, value.into());
    }
    found
}

/// The function's answer as HTTP: `{statusCode, headers, body, …}`, or any other JSON as a body.
fn response(payload: &Bytes) -> Response {
    let parsed: Value = serde_json::from_slice(payload).unwrap_or_default();
    let Some(status) = parsed.get("statusCode").and_then(Value::as_u64) else {
        return respond(200, "application/json", payload.clone());
    };
    let text = parsed.get("body").and_then(Value::as_str).unwrap_or_default();
    let encoded = parsed.get("isBase64Encoded").and_then(Value::as_bool).unwrap_or(false);
    let body = if encoded { STANDARD.decode(text).unwrap_or_default() } else { text.as_bytes().to_vec() };
    let mut response = respond(u16::try_from(status).unwrap_or(502), "application/json", body);
    let headers = parsed.get("headers").and_then(Value::as_object);
    for (name, value) in headers.into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(name.as_str()), value.parse())
            && name != http::header::CONTENT_LENGTH
        {
            response.headers_mut().insert(name, value);
        }
    }
    for cookie in parsed.get("cookies").and_then(Value::as_array).into_iter().flatten() {
        if let Some(Ok(value)) = cookie.as_str().map(str::parse) {
            response.headers_mut().append("set-cookie", value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_status_is_a_body() {
        let plain = response(&Bytes::from_static(b"{\"a\":1}"));
        assert_eq!(plain.status(), 200);
        let mapped = response(&Bytes::from(
            json!({"statusCode": 403, "headers": {"X-A": "b"}, "body": "bm8=", "isBase64Encoded": true})
                .to_string(),
        ));
        assert_eq!((mapped.status().as_u16(), mapped.headers()["x-a"].to_str().unwrap()), (403, "b"));
    }

    #[test]
    fn a_repeated_parameter_is_joined() {
        assert_eq!(query("a=1&a=2&b=%20"), json!({"a": "1,2", "b": " "}).as_object().unwrap().clone());
    }
}
