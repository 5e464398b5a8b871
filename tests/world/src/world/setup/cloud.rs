//! What `template.yaml` makes: two tables and two signing keys, by signed calls of the admin.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{POLICY_TABLE, RUNTIME_TABLE};
use crate::fixture::HOME_REGION;
use crate::sigv4::{self, KnownKey};
use crate::world::front::FrontFile;

/// The keys of the CAs, by ARN.
#[derive(Debug)]
pub(super) struct Cloud {
    /// Signs people.
    pub(super) user_ca: String,
    /// Signs proxies.
    pub(super) host_ca: String,
}

/// Makes the tables and the keys.
pub(super) async fn make(front: &FrontFile) -> Result<Cloud> {
    for table in [POLICY_TABLE, RUNTIME_TABLE] {
        let attribute = |name| json!({"AttributeName": name, "AttributeType": "S"});
        let key = |name, kind| json!({"AttributeName": name, "KeyType": kind});
        let body = json!({
            "TableName": table,
            "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [attribute("pk"), attribute("sk")],
            "KeySchema": [key("pk", "HASH"), key("sk", "RANGE")],
        });
        call(front, "dynamodb", "DynamoDB_20120810.CreateTable", &body).await?;
        let ttl =
            json!({"TableName": table, "TimeToLiveSpecification": {"AttributeName": "ttl", "Enabled": true}});
        call(front, "dynamodb", "DynamoDB_20120810.UpdateTimeToLive", &ttl).await?;
    }
    Ok(Cloud { user_ca: signing_key(front, "user CA").await?, host_ca: signing_key(front, "host CA").await? })
}

async fn signing_key(front: &FrontFile, what: &str) -> Result<String> {
    let body = json!({"Description": what, "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"});
    let made = call(front, "kms", "TrentService.CreateKey", &body).await?;
    made["KeyMetadata"]["Arn"].as_str().map(str::to_owned).context("KMS gave no ARN")
}

/// One JSON call as the admin.
async fn call(front: &FrontFile, service: &str, target: &str, body: &Value) -> Result<Value> {
    let keys = front.users.get("keystile-admin").context("the front has no admin")?;
    let key = |name: &str| keys.get(name).cloned().with_context(|| format!("the admin has no {name}"));
    let host = front.endpoint_url.trim_start_matches("http://").to_owned();
    let version = if service == "dynamodb" { "1.0" } else { "1.1" };
    let body = body.to_string();
    let mut headers = BTreeMap::from([
        ("host".to_owned(), host),
        ("content-type".to_owned(), format!("application/x-amz-json-{version}")),
        ("x-amz-target".to_owned(), target.to_owned()),
    ]);
    let request =
        sigv4::Request { method: "POST", path: "/", query: "", headers: &headers, body: body.as_bytes() };
    let known = KnownKey { secret: key("AWS_SECRET_ACCESS_KEY")?, session_token: None, expires_at: None };
    #[allow(clippy::disallowed_methods, reason = "a signature needs the time; this is the adapter")]
    let now = OffsetDateTime::now_utc();
    let signed = sigv4::sign(&request, &key("AWS_ACCESS_KEY_ID")?, &known, HOME_REGION, service, now);
    headers.extend(signed);
    let mut request = http::Request::post(&front.endpoint_url);
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request.body(Full::new(Bytes::from(body)))?).await?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("{target}: {status} {}", String::from_utf8_lossy(&bytes));
    }
    Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
