//! Signed requests to functions/access, and what its answers mean. Sends nothing over plain HTTP but to
//! this machine, follows no redirect, and reads no more than it must.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keystile_api::{ErrorBody, MAX_BODY};
use keystile_aws::callers::{Caller, Unsigned, sign_request};
use keystile_aws::config::SystemClock;
use keystile_aws::credentials::CredentialProblem;
use keystile_model::store::Clock as _;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use crate::context::Context;
use crate::failure::{Failure, printable};

/// Longest answer that is read: 5,000 databases with all their labels fit.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// How long an ordinary call may take, a cold start included.
const CALL: Duration = Duration::from_secs(30);
/// How long a run of discovery may take: a function's own limit is 15 minutes.
pub(crate) const RUN: Duration = Duration::from_secs(16 * 60);
/// AWS takes a signature for 5 minutes.
const SKEW_S: i64 = 300;
/// What a path may not hold as it is. `/` and `:` stay, as an ARN has them.
const PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// The access function, as this person.
pub(crate) struct Access {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: Base,
    region: String,
    caller: Caller,
}

/// The Function URL, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Base {
    url: String,
    host: String,
}

impl Access {
    /// The one that is configured.
    pub(crate) async fn open(context: &Context) -> Result<Self, Failure> {
        let url = context.environment.var("KEYSTILE_ACCESS_URL").or(context.config.access_url.as_deref());
        let url = url.ok_or_else(|| {
            Failure::usage("the access URL is not known")
                .why("it is remembered by the first login")
                .next("keystile login --url https://<id>.lambda-url.<region>.on.aws")
        })?;
        Self::at(context, url, None).await
    }

    /// The one at this URL.
    pub(crate) async fn at(context: &Context, url: &str, region: Option<&str>) -> Result<Self, Failure> {
        let base = Base::parse(url)?;
        let region = match region {
            Some(region) => Some(region.to_owned()),
            None => base.region().or_else(|| context.region(None)),
        };
        let caller = Caller::find(context.home.aws_folder(), region, Arc::new(SystemClock)).await;
        let region = caller.region().map(str::to_owned).ok_or_else(|| {
            Failure::usage("the region of the access URL is not known").next("keystile login --region REGION")
        })?;
        Ok(Self { client: client()?, base, region, caller })
    }

    /// Where that is.
    pub(crate) fn url(&self) -> &str {
        &self.base.url
    }

    /// Reads.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None::<&()>, CALL).await
    }

    /// Asks for something to be done.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call(Method::POST, path, Some(body), CALL).await
    }

    /// Writes.
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.call(Method::PUT, path, Some(body), CALL).await
    }

    /// Removes.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::DELETE, path, None::<&()>, CALL).await
    }

    /// Any of them, with a limit of its own.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        limit: Duration,
    ) -> Result<T, Failure> {
        // A signature covers the path as AWS folds it: such a name would be another request, or none.
        if path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(Failure::usage(format!(
                "{path:?} names nothing: a name has no part that is . or .."
            )));
        }
        let body = body.map(serde_json::to_vec).transpose();
        let body =
            body.map_err(|error| Failure::failed("the request cannot be written").why(error.to_string()))?;
        let body = body.unwrap_or_default();
        if body.len() > MAX_BODY {
            return Err(Failure::usage(format!("the request has more than {MAX_BODY} bytes")));
        }
        let request = self.signed(&method, path, body).await?;
        let answer = tokio::time::timeout(limit, self.exchange(request)).await;
        let (status, headers, body) = answer
            .unwrap_or_else(|_| Err(self.unreachable(&format!("no answer within {} s", limit.as_secs()))))?;
        if !status.is_success() {
            return Err(refusal(&self.base.url, status, &headers, &body, SystemClock.now()));
        }
        serde_json::from_slice(&body).map_err(|error| something_else(&self.base.url, &error.to_string()))
    }

    async fn signed(
        &self,
        method: &Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<http::Request<Full<Bytes>>, Failure> {
        let credentials = self.caller.credentials().await.map_err(|problem| no_credentials(&problem))?;
        let url = format!("{}{}", self.base.url, utf8_percent_encode(path, PATH));
        let content: &[(&str, &str)] =
            if body.is_empty() { &[] } else { &[("content-type", "application/json")] };
        let unsigned = Unsigned {
            method: method.as_str(),
            url: &url,
            headers: content,
            body: &body,
            region: &self.region,
            service: "lambda",
        };
        let refused = |error: &dyn std::fmt::Display| {
            Failure::failed("the request cannot be sent").why(error.to_string())
        };
        let signature =
            sign_request(&credentials, &unsigned, SystemClock.now()).map_err(|error| refused(&error))?;
        let mut request = http::Request::builder()
            .method(method)
            .uri(&url)
            .header("host", &self.base.host)
            .header("user-agent", concat!("keystile/", env!("CARGO_PKG_VERSION")));
        for (name, value) in content {
            request = request.header(*name, *value);
        }
        for (name, value) in signature {
            request = request.header(name, value);
        }
        request.body(Full::new(Bytes::from(body))).map_err(|error| refused(&error))
    }

    async fn exchange(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<(StatusCode, HeaderMap, Bytes), Failure> {
        let answer = self.client.request(request).await.map_err(|error| self.unreachable(&causes(&error)))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.unreachable(&format!("the answer broke off: {error}")))?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::unreachable(format!("the access function at {} is out of reach", self.base.url))
            .why(printable(why))
            .next("check the network, then the URL: keystile login --url URL")
    }
}

impl Base {
    fn parse(url: &str) -> Result<Self, Failure> {
        let refused = |why: &str| {
            Failure::usage(format!("{} is no access URL", printable(url)))
                .why(why)
                .next("keystile login --url https://<id>.lambda-url.<region>.on.aws")
        };
        let parsed: Uri = url.trim().parse().map_err(|_| refused("it cannot be read"))?;
        let authority = parsed.authority().ok_or_else(|| refused("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refused("it may not hold a password"));
        }
        if parsed.query().is_some() {
            return Err(refused("it may not have a query"));
        }
        match parsed.scheme_str() {
            Some("https") => {}
            Some("http") if is_loopback(authority.host()) => {}
            Some("http") => return Err(refused("plain http is taken only for this machine")),
            _ => return Err(refused("it must begin with https://")),
        }
        Ok(Self { url: url.trim().trim_end_matches('/').to_owned(), host: authority.as_str().to_owned() })
    }

    /// `<id>.lambda-url.<region>.on.aws` says it.
    fn region(&self) -> Option<String> {
        let (_, rest) = self.host.split_once(".lambda-url.")?;
        rest.strip_suffix(".on.aws").map(str::to_owned)
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn client() -> Result<Client<HttpsConnector<HttpConnector>, Full<Bytes>>, Failure> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(Duration::from_secs(10)));
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|error| Failure::failed("TLS could not be set up").why(error.to_string()))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Why there is nothing to sign with.
pub(crate) fn no_credentials(problem: &CredentialProblem) -> Failure {
    let why = printable(&problem.to_string());
    match problem {
        CredentialProblem::None(_) => Failure::sign_in("there are no AWS credentials to sign with")
            .why(
                "none in the environment, the profile files, SSO, a credential process, a container or EC2 \
                 (in a container on EC2, the instance metadata needs a hop limit of 2)",
            )
            .next("aws sso login, or set AWS_PROFILE, then: keystile login"),
        CredentialProblem::Refused { .. } => {
            Failure::denied("the role of the AWS profile cannot be assumed").why(why)
        }
        CredentialProblem::Unavailable(text) if text.to_lowercase().contains("expired") => {
            Failure::sign_in("the AWS credentials have ended")
                .why(why)
                .next("aws sso login, then: keystile login")
        }
        CredentialProblem::Unavailable(_) => Failure::sign_in("the AWS credentials could not be had")
            .why(why)
            .next("aws sts get-caller-identity"),
    }
}

/// What an answer that is no success means.
fn refusal(url: &str, status: StatusCode, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> Failure {
    if let Ok(ErrorBody { error }) = serde_json::from_slice(body) {
        return Failure::answered(error);
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let said: String = printable(&String::from_utf8_lossy(body)).chars().take(300).collect();
    let kind = format!("{} {said}", text("x-amzn-errortype"));
    let off = clock_off(text("date"), now);
    let has = |word: &str| kind.contains(word);
    match status.as_u16() {
        401 | 403
            if off.is_some_and(|off| off.abs() > SKEW_S)
                || has("Signature expired")
                || has("Signature not yet") =>
        {
            clock_skew(off, &said)
        }
        401 | 403 if has("ExpiredToken") || has("expired") => {
            Failure::sign_in("the AWS credentials have ended")
                .why(said)
                .next("aws sso login, then: keystile login")
        }
        401 | 403
            if has("Forbidden")
                || has("ignature")
                || has("oken")
                || has("AccessDenied")
                || has("not authorized") =>
        {
            Failure::denied("AWS did not let the request pass to the access function")
                .why(format!("{said} (wrong keys, a wrong region, or no right to lambda:InvokeFunctionUrl)"))
                .next("aws sts get-caller-identity")
        }
        429 | 502..=504 => Failure::unreachable(format!("the access function at {url} does not answer now"))
            .why(format!("HTTP {}: {said}", status.as_u16()))
            .next("try again in a moment"),
        code => something_else(url, &format!("it answered HTTP {code}: {said}")),
    }
}

/// Seconds that our clock is ahead of an HTTP date.
fn clock_off(date: &str, now: OffsetDateTime) -> Option<i64> {
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let theirs = time::PrimitiveDateTime::parse(date, format).ok()?.assume_utc();
    Some((now - theirs).whole_seconds())
}

fn clock_skew(off: Option<i64>, said: &str) -> Failure {
    let by = off.map_or_else(String::new, |off| {
        format!("; it is {} s {}", off.abs(), if off > 0 { "ahead" } else { "behind" })
    });
    Failure::failed("this machine's clock is wrong, so AWS refuses its signatures")
        .why(format!("{said}{by}"))
        .next("set the clock (timedatectl set-ntp true), then run this again")
}

fn something_else(url: &str, why: &str) -> Failure {
    Failure::failed(format!("{url} is not a Keystile access function"))
        .why(printable(why))
        .next("keystile login --url URL")
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-01-01 12:00 UTC);

    fn refused(status: u16, headers: &[(&'static str, &str)], body: &str) -> Failure {
        let headers =
            headers.iter().map(|(n, v)| (http::HeaderName::from_static(n), v.parse().unwrap())).collect();
        refusal("https://x", StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes(), NOW)
    }

    #[test]
    fn only_https_or_this_machine() {
        for good in [
            "https://x.lambda-url.eu-west-1.on.aws/",
            "http://127.0.0.1:80",
            "http://[::1]:1/a",
            "http://localhost:2",
        ] {
            assert!(Base::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "http://x.example",
            "http://127.0.0.1.example",
            "ftp://x",
            "https://u:p@x",
            "https://x/?a=1",
        ] {
            assert_eq!(Base::parse(bad).unwrap_err().exit, 2, "{bad}");
        }
        let base = Base::parse("https://x.lambda-url.eu-west-1.on.aws/").unwrap();
        assert_eq!(base.region().as_deref(), Some("eu-west-1"));
        assert_eq!(base.url, "https://x.lambda-url.eu-west-1.on.aws");
        assert_eq!(Base::parse("http://localhost:1").unwrap().region(), None);
    }

    #[test]
    fn each_refusal_has_its_words() {
        let ours = r#"{"error":{"code":"not_found","message":"no database x"}}"#;
        assert_eq!(refused(404, &[], ours).exit, 3);
        let skewed = refused(403, &[("date", "Thu, 01 Jan 2026 11:00:00 GMT")], r#"{"Message":"Forbidden"}"#);
        assert!(skewed.message.contains("clock") && skewed.why.contains("3600 s ahead"), "{skewed:?}");
        let stale = r#"{"message":"Signature expired: 20260101T110000Z is now earlier than"}"#;
        assert!(refused(403, &[], stale).message.contains("clock"));
        assert_eq!(refused(403, &[("x-amzn-errortype", "ExpiredTokenException")], "{}").exit, 4);
        assert_eq!(refused(403, &[], r#"{"Message":"Forbidden"}"#).exit, 5);
        assert_eq!(refused(502, &[], "Internal Server Error").exit, 7);
        let page = refused(404, &[], "<html>");
        assert!(page.exit == 1 && page.message.contains("not a Keystile"), "{page:?}");
        assert_eq!(refused(301, &[("location", "http://evil")], "").exit, 1);
    }

    #[test]
    fn paths_keep_an_arn_and_escape_the_rest() {
        let path = "/v1/documents/arn_rule/arn:aws:iam::1:role/a b?";
        assert_eq!(
            utf8_percent_encode(path, PATH).to_string(),
            "/v1/documents/arn_rule/arn:aws:iam::1:role/a%20b%3F"
        );
    }
}
