//! What Secrets Manager does and ministack does not.
//!
//! `ClientRequestToken` of CreateSecret becomes the version's id; a token that is used again with
//! another value is refused; a name that waits for its deletion is `InvalidRequestException`; and the
//! secret of Teleport's is two hours old. Everything else passes through.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::upstream::{Root, Upstream};
use super::wire::{ApiError, Request, Response};
use crate::fixture;

/// How old the secret of Teleport's is made to look, in seconds.
const TELEPORT_AGE: f64 = 7200.0;

/// A call of Secrets Manager on its way through.
pub(crate) struct Passage<'a> {
    pub(crate) upstream: &'a Upstream,
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    pub(crate) now: OffsetDateTime,
}

impl Passage<'_> {
    /// What has to be refused before ministack sees it.
    pub(crate) async fn before(&self, operation: &str, request: &Request) -> Result<(), ApiError> {
        if operation != "PutSecretValue" {
            return Ok(());
        }
        let input: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let (Some(id), Some(token)) = (input.get("SecretId"), input.get("ClientRequestToken")) else {
            return Ok(());
        };
        let known = self.ask("GetSecretValue", &json!({"SecretId": id, "VersionId": token})).await;
        let Some(known) = known else { return Ok(()) };
        let same = |name: &str| known.get(name) == input.get(name);
        if same("SecretString") && same("SecretBinary") {
            return Ok(());
        }
        Err(ApiError::new(
            400,
            "ResourceExistsException",
            "The operation failed because the version already exists with another value.",
        ))
    }

    /// What has to be made right afterwards.
    pub(crate) async fn after(&self, operation: &str, request: &Request, answer: Response) -> Response {
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let input: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut output: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if operation == "CreateSecret"
            && !parts.status.is_success()
            && self.waits_for_deletion(&input, &output).await
        {
            let message = "You can't create this secret because a secret with this name is already scheduled for deletion.";
            return ApiError::new(400, "InvalidRequestException", message)
                .response(super::wire::Protocol::Json);
        }
        let changed = parts.status.is_success()
            && (self.own_version(operation, &input, &mut output).await | aged(&mut output));
        let body = if changed { Bytes::from(output.to_string()) } else { bytes };
        Response::from_parts(parts, Full::new(body))
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

    async fn waits_for_deletion(&self, input: &Value, output: &Value) -> bool {
        let code = output.get("__type").and_then(Value::as_str).unwrap_or_default();
        let Some(name) = input.get("Name").filter(|_| code.ends_with("ResourceExistsException")) else {
            return false;
        };
        let known = self.ask("DescribeSecret", &json!({ "SecretId": name })).await.unwrap_or_default();
        known.get("DeletedDate").is_some_and(|date| !date.is_null())
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

/// Makes the dates of Teleport's secret two hours older, wherever they stand in an answer.
fn aged(output: &mut Value) -> bool {
    let name = fixture::teleport_secret_name("legacy-app");
    match output {
        Value::Object(fields) => {
            let own = fields.get("Name").and_then(Value::as_str) == Some(&name);
            let mut changed = false;
            for (field, value) in fields.iter_mut() {
                let date = own && (field.ends_with("Date"));
                if let Some(seconds) = value.as_f64().filter(|_| date) {
                    *value = json!(seconds - TELEPORT_AGE);
                    changed = true;
                } else if own && field == "Versions" {
                    changed |= aged_versions(value);
                } else {
                    changed |= aged(value);
                }
            }
            changed
        }
        Value::Array(items) => items.iter_mut().fold(false, |changed, item| aged(item) | changed),
        _ => false,
    }
}

fn aged_versions(versions: &mut Value) -> bool {
    let mut changed = false;
    for version in versions.as_array_mut().into_iter().flatten() {
        if let Some(seconds) = version.get("CreatedDate").and_then(Value::as_f64) {
            version["CreatedDate"] = json!(seconds - TELEPORT_AGE);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_of_teleport_looks_older() {
        let name = fixture::teleport_secret_name("legacy-app");
        let mut list = json!({"SecretList": [{"Name": name, "CreatedDate": 10_000.0}, {"Name": "other", "CreatedDate": 10_000.0}]});
        assert!(aged(&mut list));
        assert_eq!(list["SecretList"][0]["CreatedDate"], 2_800.0);
        assert_eq!(list["SecretList"][1]["CreatedDate"], 10_000.0);
        let mut versions = json!({"Name": name, "Versions": [{"CreatedDate": 8_000}]});
        assert!(aged(&mut versions));
        assert_eq!(versions["Versions"][0]["CreatedDate"], 800.0);
    }
}
