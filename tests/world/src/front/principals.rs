//! IAM users and roles of the fixture, made in ministack, and the keys that come of them.

use std::collections::BTreeMap;

use anyhow::Context;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::keys::{Key, KeyRing};
use super::upstream::{Root, Upstream, element};
use crate::fixture::{self, HOME_ACCOUNT, PRINCIPALS, Principal, Rights};

/// Credentials as a client takes them.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The access key id.
    pub access_key: String,
    /// The secret access key.
    pub secret: SecretString,
    /// The session token of temporary credentials.
    pub session_token: Option<SecretString>,
    /// When they end.
    pub expires_at: Option<OffsetDateTime>,
}

impl Credentials {
    /// As the SDK reads them from the environment.
    #[must_use]
    pub fn env(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([
            ("AWS_ACCESS_KEY_ID".to_owned(), self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY".to_owned(), self.secret.expose_secret().to_owned()),
        ]);
        if let Some(token) = &self.session_token {
            env.insert("AWS_SESSION_TOKEN".into(), token.expose_secret().to_owned());
        }
        env
    }
}

fn root<'a>(account: &'a str, service: &'a str) -> Root<'a> {
    Root { account, region: "us-east-1", service }
}

/// Makes every principal and gives each user an access key, by user name.
pub(crate) async fn create_all(
    upstream: &Upstream,
    ring: &KeyRing,
    now: OffsetDateTime,
) -> anyhow::Result<BTreeMap<String, Credentials>> {
    let mut users = BTreeMap::new();
    for principal in PRINCIPALS {
        if principal.role {
            create_role(upstream, principal, now).await?;
        } else {
            let credentials = create_user(upstream, ring, principal, now).await?;
            users.insert(principal.name.to_owned(), credentials);
        }
    }
    Ok(users)
}

async fn create_user(
    upstream: &Upstream,
    ring: &KeyRing,
    principal: &Principal,
    now: OffsetDateTime,
) -> anyhow::Result<Credentials> {
    let iam = root(principal.account, "iam");
    let name = [("UserName", principal.name)];
    upstream.query(iam, "CreateUser", &name, &["EntityAlreadyExists"], now).await?;
    let user = upstream.query(iam, "GetUser", &name, &[], now).await?;
    let document = policy(principal.rights);
    let fields = [("UserName", principal.name), ("PolicyName", "world"), ("PolicyDocument", &document)];
    upstream.query(iam, "PutUserPolicy", &fields, &[], now).await?;
    let made = upstream.query(iam, "CreateAccessKey", &name, &[], now).await?;
    let part = |xml: &str, name: &str| {
        element(xml, name).with_context(|| format!("ministack's answer has no {name}"))
    };
    let (access_key, secret) = (part(&made, "AccessKeyId")?, part(&made, "SecretAccessKey")?);
    let key = Key {
        secret: secret.clone(),
        session_token: None,
        expires_at: None,
        account: principal.account.into(),
        arn: part(&user, "Arn")?,
        user_id: part(&user, "UserId")?,
        connect_accounts: Vec::new(),
    };
    ring.learn(&access_key, key, now)?;
    Ok(Credentials { access_key, secret: secret.into(), session_token: None, expires_at: None })
}

async fn create_role(upstream: &Upstream, principal: &Principal, now: OffsetDateTime) -> anyhow::Result<()> {
    let iam = root(principal.account, "iam");
    let trusted = match principal.trusts {
        Some(role) => format!("arn:aws:iam::{HOME_ACCOUNT}:role/{role}"),
        None => format!("arn:aws:iam::{HOME_ACCOUNT}:root"),
    };
    let mut statement = json!({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": trusted}});
    if let Some(id) = principal.external_id {
        statement["Condition"] = json!({"StringEquals": {"sts:ExternalId": id}});
    }
    let trust = json!({"Version": "2012-10-17", "Statement": [statement]}).to_string();
    let fields =
        [("RoleName", principal.name), ("MaxSessionDuration", "43200"), ("AssumeRolePolicyDocument", &trust)];
    upstream.query(iam, "CreateRole", &fields, &["EntityAlreadyExists"], now).await?;
    let document = policy(principal.rights);
    let fields = [("RoleName", principal.name), ("PolicyName", "world"), ("PolicyDocument", &document)];
    upstream.query(iam, "PutRolePolicy", &fields, &[], now).await?;
    Ok(())
}

fn policy(rights: Rights) -> String {
    let actions = match rights {
        Rights::All => json!(["*"]),
        Rights::Hub => json!(["sts:AssumeRole"]),
        Rights::Person => {
            json!(["sts:GetCallerIdentity", "lambda:InvokeFunctionUrl", "lambda:InvokeFunction"])
        }
    };
    json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]})
        .to_string()
}

/// Credentials of a home role for the world's own processes (functions, proxies), as the Lambda
/// service or Fargate would give them.
pub(crate) async fn assume(
    upstream: &Upstream,
    ring: &KeyRing,
    role: &str,
    session: &str,
    seconds: u32,
    now: OffsetDateTime,
) -> anyhow::Result<Credentials> {
    let known = PRINCIPALS.iter().any(|p| p.role && p.account == HOME_ACCOUNT && p.name == role);
    anyhow::ensure!(known, "there is no role {role} in the home account");
    let arn = format!("arn:aws:iam::{HOME_ACCOUNT}:role/{role}");
    let seconds = seconds.to_string();
    let fields = [("RoleArn", arn.as_str()), ("RoleSessionName", session), ("DurationSeconds", &seconds)];
    let xml = upstream.query(root(HOME_ACCOUNT, "sts"), "AssumeRole", &fields, &[], now).await?;
    learn(ring, &xml, now)
}

/// Learns the temporary key out of an answer of AssumeRole.
pub(crate) fn learn(ring: &KeyRing, xml: &str, now: OffsetDateTime) -> anyhow::Result<Credentials> {
    let part =
        |name: &str| element(xml, name).with_context(|| format!("the answer of AssumeRole has no {name}"));
    let arn = part("Arn")?;
    let expires_at = OffsetDateTime::parse(&part("Expiration")?, &Rfc3339)?;
    let (access_key, secret, token) = (part("AccessKeyId")?, part("SecretAccessKey")?, part("SessionToken")?);
    let key = Key {
        secret: secret.clone(),
        session_token: Some(token.clone()),
        expires_at: Some(expires_at.unix_timestamp()),
        account: arn.split(':').nth(4).unwrap_or_default().to_owned(),
        user_id: part("AssumedRoleId")?,
        arn,
        connect_accounts: Vec::new(),
    };
    ring.learn(&access_key, key, now)?;
    Ok(Credentials {
        access_key,
        secret: secret.into(),
        session_token: Some(token.into()),
        expires_at: Some(expires_at),
    })
}

/// Puts the secret in which Teleport keeps `legacy-app`'s password, with its own tags.
pub(crate) async fn create_teleport_secret(
    upstream: &Upstream,
    password: &str,
    now: OffsetDateTime,
) -> anyhow::Result<()> {
    use base64::Engine as _;
    let body = json!({
        "Name": fixture::teleport_secret_name("legacy-app"),
        "Description": "Created by Teleport.",
        "SecretBinary": base64::engine::general_purpose::STANDARD.encode(password),
        "Tags": [{"Key": "teleport.dev/created", "Value": "true"}, {"Key": "teleport.dev/cluster", "Value": "teleport.example.com"}],
    });
    let headers =
        [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "secretsmanager.CreateSecret")];
    let (status, text) =
        upstream.as_root(root(HOME_ACCOUNT, "secretsmanager"), &headers, body.to_string(), now).await?;
    anyhow::ensure!(
        status < 300 || text.contains("ResourceExistsException"),
        "ministack refused the secret of legacy-app ({status})"
    );
    Ok(())
}
