//! What Secrets Manager does and ministack does not.
//!
//! - A `ClientRequestToken` is the version's id, also in CreateSecret. With the same value it changes nothing
//!   (ministack would take the version's labels off); with another value it is refused.
//! - A label that a new version asks for leaves the version that had it.
//! - `AWSCURRENT` can be moved and never taken away.
//! - A name that waits for its deletion is `InvalidRequestException`.
//! - The secret of Teleport's is two hours old.
//! - The proxies' role reads what is tagged for its group, as its policy says; ministack asks no policy.
//!
//! Everything else passes through. Writes go one after the other: two that race with one token must end with
//! one value.

mod age;
mod fence;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{Mutex, MutexGuard};

use super::upstream::{Root, Upstream};
use super::wire::{ApiError, Protocol, Request, Response, json_answer};
use age::aged;

/// Longest name of a secret.
const NAME_LIMIT: usize = 512;
/// Most secrets of one `BatchGetSecretValue`.
const BATCH_LIMIT: usize = 20;

/// What all calls share.
#[derive(Debug)]
pub(crate) struct Secrets {
    /// When the world's own secrets were made.
    made: OffsetDateTime,
    writing: Mutex<()>,
}

impl Secrets {
    pub(crate) fn new(made: OffsetDateTime) -> Self {
        Self { made, writing: Mutex::new(()) }
    }

    /// Writes wait for each other; reads do not wait.
    pub(crate) async fn turn(&self, operation: &str) -> Option<MutexGuard<'_, ()>> {
        let reads = [
            "GetSecretValue",
            "BatchGetSecretValue",
            "DescribeSecret",
            "ListSecrets",
            "ListSecretVersionIds",
        ];
        if reads.contains(&operation) { None } else { Some(self.writing.lock().await) }
    }
}

/// A call of Secrets Manager on its way through.
pub(crate) struct Passage<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) upstream: &'a Upstream,
    /// The caller's ARN.
    pub(crate) caller: &'a str,
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    pub(crate) now: OffsetDateTime,
}

impl Passage<'_> {
    /// What has to be refused, or answered, before ministack sees it.
    pub(crate) async fn before(
        &self,
        operation: &str,
        request: &Request,
    ) -> Result<Option<Response>, ApiError> {
        let input: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        token_length(&input)?;
        match operation {
            "CreateSecret" => legal_name(&input).map(|()| None),
            "PutSecretValue" => self.known_token(&input).await,
            "UpdateSecretVersionStage" => stays_current(&input).map(|()| None),
            "GetSecretValue" if fence::stands(self.caller) => self.fenced(&input).await.map(|()| None),
            "BatchGetSecretValue" => small_batch(&input).map(|()| None),
            _ => Ok(None),
        }
    }

    /// A token that is a version already: nothing happens, or it is refused.
    async fn known_token(&self, input: &Value) -> Result<Option<Response>, ApiError> {
        let (Some(id), Some(token)) = (input.get("SecretId"), input.get("ClientRequestToken")) else {
            return Ok(None);
        };
        let known = self.ask("GetSecretValue", &json!({"SecretId": id, "VersionId": token})).await;
        let Some(known) = known else { return Ok(None) };
        if !same_value(&known, input) {
            return Err(exists(
                "The operation failed because the version already exists with another value.",
            ));
        }
        let mut answer = json!({});
        for name in ["ARN", "Name", "VersionId", "VersionStages"] {
            answer[name] = known.get(name).cloned().unwrap_or_default();
        }
        Ok(Some(json_answer(&answer)))
    }

    /// What has to be made right afterwards.
    pub(crate) async fn after(&self, operation: &str, request: &Request, answer: Response) -> Response {
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let input: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut output: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if !parts.status.is_success() {
            let other =
                if operation == "CreateSecret" { self.create_again(&input, &output).await } else { None };
            return other.unwrap_or_else(|| Response::from_parts(parts, Full::new(bytes)));
        }
        if operation == "PutSecretValue" {
            self.move_labels(&input, &output).await;
        }
        let changed =
            self.own_version(operation, &input, &mut output).await | aged(&mut output, self.secrets.made);
        let body = if changed { Bytes::from(output.to_string()) } else { bytes };
        Response::from_parts(parts, Full::new(body))
    }

    /// Labels that the new version asked for leave the versions that had them. (`AWSCURRENT` does so in
    /// ministack itself.)
    async fn move_labels(&self, input: &Value, output: &Value) {
        let (Some(id), Some(version)) =
            (input.get("SecretId"), output.get("VersionId").and_then(Value::as_str))
        else {
            return;
        };
        let wanted = input.get("VersionStages").and_then(Value::as_array).into_iter().flatten();
        let wanted: Vec<&Value> = wanted.filter(|label| *label != "AWSCURRENT").collect();
        let known = self.ask("DescribeSecret", &json!({ "SecretId": id })).await.unwrap_or_default();
        let stages = known.get("VersionIdsToStages").and_then(Value::as_object);
        for (other, labels) in stages.into_iter().flatten().filter(|(other, _)| *other != version) {
            let had = labels.as_array().into_iter().flatten().filter(|label| wanted.contains(label));
            for label in had {
                let take = json!({"SecretId": id, "VersionStage": label, "RemoveFromVersionId": other});
                let _ = self.ask("UpdateSecretVersionStage", &take).await;
            }
        }
    }

    /// Moves a new secret's value to the version that the caller named.
    async fn own_version(&self, operation: &str, input: &Value, output: &mut Value) -> bool {
        let token = input.get("ClientRequestToken").and_then(Value::as_str);
        let (Some(token), Some(made)) = (token, output.get("VersionId").and_then(Value::as_str)) else {
            return false;
        };
        if operation != "CreateSecret" || token == made {
            return false;
        }
        let id = output.get("ARN").cloned().unwrap_or_default();
        let mut put = json!({"SecretId": id, "ClientRequestToken": token, "VersionStages": ["AWSCURRENT"]});
        for name in ["SecretString", "SecretBinary"] {
            if let Some(value) = input.get(name) {
                put[name] = value.clone();
            }
        }
        if self.ask("PutSecretValue", &put).await.is_none() {
            return false;
        }
        let unlabel = json!({"SecretId": id, "VersionStage": "AWSPREVIOUS", "RemoveFromVersionId": made});
        let _ = self.ask("UpdateSecretVersionStage", &unlabel).await;
        output["VersionId"] = token.into();
        true
    }

    /// A name that is taken: by a secret that waits for its deletion, or by this very call before.
    async fn create_again(&self, input: &Value, output: &Value) -> Option<Response> {
        let code = output.get("__type").and_then(Value::as_str).unwrap_or_default();
        let name = input.get("Name").filter(|_| code.ends_with("ResourceExistsException"))?;
        let known = self.ask("DescribeSecret", &json!({ "SecretId": name })).await.unwrap_or_default();
        if known.get("DeletedDate").is_some_and(|date| !date.is_null()) {
            let message = "You can't create this secret because a secret with this name is already scheduled for deletion.";
            let error = ApiError::new(400, "InvalidRequestException", message);
            return Some(error.response(Protocol::Json));
        }
        let token = input.get("ClientRequestToken")?;
        let made = self.ask("GetSecretValue", &json!({"SecretId": name, "VersionId": token})).await?;
        let part = |name: &str| made.get(name).cloned().unwrap_or_default();
        same_value(&made, input).then(|| {
            json_answer(&json!({"ARN": part("ARN"), "Name": part("Name"), "VersionId": part("VersionId")}))
        })
    }

    /// Asks as root; `None` where it is refused.
    async fn ask(&self, operation: &str, input: &Value) -> Option<Value> {
        let root = Root { account: self.account, region: self.region, service: "secretsmanager" };
        let target = format!("secretsmanager.{operation}");
        let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target.as_str())];
        let (status, text) = self.upstream.as_root(root, &headers, input.to_string(), self.now).await.ok()?;
        if status < 300 { serde_json::from_str(&text).ok() } else { None }
    }
}

fn same_value(known: &Value, input: &Value) -> bool {
    let same = |name: &str| known.get(name) == input.get(name);
    same("SecretString") && same("SecretBinary")
}

fn exists(message: &str) -> ApiError {
    ApiError::new(400, "ResourceExistsException", message)
}

fn parameter(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "InvalidParameterException", message)
}

fn token_length(input: &Value) -> Result<(), ApiError> {
    match input.get("ClientRequestToken").and_then(Value::as_str) {
        Some(token) if !(32..=64).contains(&token.len()) => {
            Err(parameter("ClientRequestToken must be 32 to 64 characters long."))
        }
        _ => Ok(()),
    }
}

fn legal_name(input: &Value) -> Result<(), ApiError> {
    let name = input.get("Name").and_then(Value::as_str).unwrap_or_default();
    let legal = |c: char| c.is_ascii_alphanumeric() || "/_+=.@-".contains(c);
    if name.is_empty() || name.len() > NAME_LIMIT || !name.chars().all(legal) {
        let message = "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!";
        return Err(ApiError::new(400, "ValidationException", message));
    }
    Ok(())
}

fn stays_current(input: &Value) -> Result<(), ApiError> {
    let takes = input.get("VersionStage").is_some_and(|label| label == "AWSCURRENT");
    let moves = input.get("MoveToVersionId").is_some_and(|version| !version.is_null());
    if takes && !moves {
        let message = "You can only move staging label AWSCURRENT to a different secret version. It can't be completely removed.";
        return Err(parameter(message));
    }
    Ok(())
}

fn small_batch(input: &Value) -> Result<(), ApiError> {
    let count = input.get("SecretIdList").and_then(Value::as_array).map_or(0, Vec::len);
    if count > BATCH_LIMIT {
        return Err(parameter(format!("SecretIdList takes at most {BATCH_LIMIT} secrets.")));
    }
    Ok(())
}
