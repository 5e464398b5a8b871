//! An event of the Function URL as a request: the caller that AWS verified, the path, the body. Limits come
//! before anything is read.

use aws_lambda_events::lambda_function_urls::LambdaFunctionUrlRequest;
use base64::Engine as _;
use keystile_api::{ErrorCode, MAX_BODY};
use keystile_model::arn::Arn;
use keystile_model::user::Caller;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Longest path, in bytes: a document named by an ARN, percent-encoded, and room.
const MAX_PATH: usize = 4_096;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// AWS's id of the request, for logs.
    pub(crate) id: String,
    /// In capitals.
    pub(crate) method: String,
    /// Without the leading slash, still percent-encoded.
    pub(crate) path: String,
    /// At most [`MAX_BODY`] bytes.
    pub(crate) body: Vec<u8>,
    /// Whom AWS verified.
    pub(crate) caller: Caller,
    /// Where it came from.
    pub(crate) source_ip: String,
}

impl Request {
    /// Reads an event.
    pub(crate) fn from_event(event: serde_json::Value) -> Result<Self, Failure> {
        let event: LambdaFunctionUrlRequest = serde_json::from_value(event).map_err(|error| {
            tracing::warn!(%error, "an event is none of a function URL");
            Failure::bad("this function answers requests of its function URL only")
        })?;
        let caller = caller(&event)?;
        let context = event.request_context;
        let path = event.raw_path.or(context.http.path).unwrap_or_default();
        if path.len() > MAX_PATH {
            return Err(Failure::new(
                ErrorCode::TooLarge,
                format!("the path is longer than {MAX_PATH} bytes"),
            ));
        }
        let body = body(event.body.unwrap_or_default(), event.is_base64_encoded)?;
        let content = event.headers.get(http::header::CONTENT_TYPE).map(|value| value.to_str());
        if !body.is_empty() && !content.is_none_or(|value| value.is_ok_and(is_json)) {
            return Err(Failure::bad("the body must be JSON: content-type application/json"));
        }
        Ok(Self {
            id: context.request_id.unwrap_or_default(),
            method: context.http.method.unwrap_or_default(),
            path: path.strip_prefix('/').unwrap_or(&path).to_owned(),
            body,
            caller,
            source_ip: context.http.source_ip.unwrap_or_default(),
        })
    }

    /// The body as one of the API's types.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        object(&self.body).map_err(|why| Failure::bad("the body cannot be read").why(why))
    }
}

/// A JSON object as one of our types; the error is why not. An array is refused: serde would take its elements
/// for the fields in their order.
pub(crate) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err("it must be a JSON object".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| error.to_string().chars().take(500).collect())
}

/// One part of a path, decoded once.
pub(crate) fn decoded(part: &str) -> Result<String, Failure> {
    percent_decode_str(part)
        .decode_utf8()
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Failure::bad("the path is no UTF-8"))
}

/// Only what AWS itself verified counts; nothing of the headers or the body.
fn caller(event: &LambdaFunctionUrlRequest) -> Result<Caller, Failure> {
    let nobody = |why: &str| {
        Failure::new(ErrorCode::NotMapped, "AWS did not say who calls")
            .why(why)
            .next("the function's URL must have the authorization type AWS_IAM")
    };
    let iam = event
        .request_context
        .authorizer
        .as_ref()
        .and_then(|authorizer| authorizer.iam.as_ref())
        .ok_or_else(|| nobody("the request carries no verified identity"))?;
    let arn = iam
        .user_arn
        .as_deref()
        .and_then(|text| Arn::parse(text).ok())
        .ok_or_else(|| nobody("the verified identity has no ARN"))?;
    if iam.account_id.as_deref().is_some_and(|account| account != arn.account()) {
        return Err(nobody("the verified identity's account and ARN disagree"));
    }
    Ok(Caller { arn, unique_id: iam.caller_id.clone().unwrap_or_default() })
}

fn body(text: String, base64: bool) -> Result<Vec<u8>, Failure> {
    let large = || {
        Failure::new(ErrorCode::TooLarge, format!("the body is larger than {MAX_BODY} bytes"))
            .next("send documents one by one")
    };
    if !base64 {
        return if text.len() > MAX_BODY { Err(large()) } else { Ok(text.into_bytes()) };
    }
    if text.len() > MAX_BODY / 3 * 4 + 8 {
        return Err(large());
    }
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|_| Failure::bad("the body is said to be base64 and is not"))?;
    if bytes.len() > MAX_BODY { Err(large()) } else { Ok(bytes) }
}

fn is_json(value: &str) -> bool {
    value.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
