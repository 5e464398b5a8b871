//! ministack behind the front: requests forwarded as they are, and calls as an account's root.
//!
//! Forwarded requests keep their `Host` header, which is signed. Calls as root are the world's own
//! (setting up, looking before a write); ministack exempts root keys from signature checks.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use time::OffsetDateTime;

use super::wire::Response;
use crate::sigv4::{self, KnownKey};

/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: &[&str] =
    &["connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer"];

/// The way to ministack.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Waits until ministack answers, 30 s at most.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        for _ in 0..150 {
            let got = self.send(Method::GET, "/_ministack/health", &HeaderMap::new(), Bytes::new()).await;
            if got.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        bail!("ministack at {} does not answer; its log says why", self.address)
    }

    /// Sends a request as it is, and reads the answer whole.
    pub(crate) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path_and_query}", self.address))
            .body(Full::new(body))?;
        for (name, value) in headers {
            if !HOP_BY_HOP.contains(&name.as_str()) {
                request.headers_mut().append(name, value.clone());
            }
        }
        let (mut parts, body) =
            self.client.request(request).await.context("ministack does not answer")?.into_parts();
        let body = body.collect().await?.to_bytes();
        HOP_BY_HOP.iter().for_each(|name| drop(parts.headers.remove(*name)));
        Ok(Response::from_parts(parts, Full::new(body)))
    }

    /// A call as an account's root; gives status and body.
    pub(crate) async fn as_root(
        &self,
        root: Root<'_>,
        headers: &[(&str, &str)],
        body: String,
        now: OffsetDateTime,
    ) -> anyhow::Result<(u16, String)> {
        let mut flat = BTreeMap::from([("host".to_owned(), self.address.to_string())]);
        flat.extend(headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let request =
            sigv4::Request { method: "POST", path: "/", query: "", headers: &flat, body: body.as_bytes() };
        let key = KnownKey { secret: "root".into(), session_token: None, expires_at: None };
        flat.extend(sigv4::sign(&request, root.account, &key, root.region, root.service, now));
        let mut map = HeaderMap::new();
        for (name, value) in &flat {
            map.insert(http::HeaderName::try_from(name.as_str())?, value.parse()?);
        }
        let answer = self.send(Method::POST, "/", &map, body.into()).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// A query call as root; fails on an error, except for codes that are named in `fine`.
    pub(crate) async fn query(
        &self,
        root: Root<'_>,
        action: &str,
        fields: &[(&str, &str)],
        fine: &[&str],
        now: OffsetDateTime,
    ) -> anyhow::Result<String> {
        let version = if root.service == "iam" { "2010-05-08" } else { "2011-06-15" };
        let mut body = format!("Action={action}&Version={version}");
        for (name, value) in fields {
            body.push_str(&format!("&{name}={}", sigv4::encode(value)));
        }
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let (status, text) = self.as_root(root, &form, body, now).await?;
        let code = element(&text, "Code").unwrap_or_default();
        if status >= 300 && !fine.contains(&code.as_str()) {
            bail!("ministack refused {action}: {}", element(&text, "Message").unwrap_or(text));
        }
        Ok(text)
    }
}

/// Whose root calls what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Root<'a> {
    pub(crate) account: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// The text of the first element of this name in an XML document.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let from = xml.find(&format!("<{name}>"))? + name.len() + 2;
    let rest = xml.get(from..)?;
    rest.find(&format!("</{name}>")).and_then(|end| rest.get(..end)).map(str::to_owned)
}
