//! Which secrets the proxies may read: the conditions of the task role in `infra/proxy.yaml`.

use serde_json::{Value, json};

use super::Passage;
use crate::front::wire::ApiError;

/// The tag of the world's one proxy group.
const TAG: &str = "keystile.dev/group/default";
/// The stages that the role may read.
const STAGES: [&str; 2] = ["AWSCURRENT", "AWSPENDING"];

/// Whether the caller is a proxy.
pub(super) fn stands(caller: &str) -> bool {
    caller.contains(":assumed-role/keystile-proxy/")
}

impl Passage<'_> {
    pub(super) async fn fenced(&self, input: &Value) -> Result<(), ApiError> {
        let stage = input.get("VersionStage").and_then(Value::as_str);
        let id = input.get("SecretId").cloned().unwrap_or_default();
        let known = self.ask("DescribeSecret", &json!({ "SecretId": id })).await;
        let tags = known.as_ref().and_then(|known| known.get("Tags")).and_then(Value::as_array);
        let tagged = tags.into_iter().flatten().any(|tag| *tag == json!({"Key": TAG, "Value": "true"}));
        if tagged && stage.is_some_and(|stage| STAGES.contains(&stage)) {
            return Ok(());
        }
        // Without the secret there is no tag either: AWS says the same of both.
        Err(ApiError::new(
            400,
            "AccessDeniedException",
            format!(
                "User: {} is not authorized to perform: secretsmanager:GetSecretValue on resource: {} because no \
                 identity-based policy allows the secretsmanager:GetSecretValue action",
                self.caller,
                id.as_str().unwrap_or_default()
            ),
        ))
    }
}
