//! AWS Signature Version 4, checked and made without the SDK.
//!
//! Owns the canonical request, the signing key and the order in which a stand-in refuses: what is
//! missing, then who it is, then the time, then the session token, then the signature. It is written
//! apart from the SDK's signer so that one proves the other. It refuses `AWS4-ECDSA` (SigV4A), and
//! reads no clock: the time is an argument.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

/// The only algorithm that is understood.
pub const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// How far the date of a signed header may be from now, either way.
pub const HEADER_AGE: Duration = Duration::minutes(5);
/// STS takes a presigned request for 15 minutes, whatever its `X-Amz-Expires` says.
pub const STS_PRESIGNED_AGE: Duration = Duration::minutes(15);

const BARE: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const BARE_AND_SLASH: AsciiSet = BARE.remove(b'/');
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// A request as the signature sees it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The HTTP method, in capitals.
    pub method: &'a str,
    /// The path as it was on the wire, still encoded.
    pub path: &'a str,
    /// The query as it was on the wire, without `?`.
    pub query: &'a str,
    /// Headers with lower-case names; a repeated one joined by `,`.
    pub headers: &'a BTreeMap<String, String>,
    /// The whole body.
    pub body: &'a [u8],
}

/// What a request says of its own signature, before anything is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The access key id.
    pub access_key: String,
    /// The scope's date, `YYYYMMDD`.
    pub date: String,
    /// The scope's region.
    pub region: String,
    /// The scope's service.
    pub service: String,
    /// Lower-case names of the signed headers.
    pub signed_headers: Vec<String>,
    /// The signature, hexadecimal.
    pub signature: String,
    /// The session token that came with it.
    pub session_token: Option<String>,
    /// The request's own time, `YYYYMMDDTHHMMSSZ`.
    pub time: String,
    /// Seconds of life of a presigned request; `None` for a signed header.
    pub expires: Option<i64>,
}

/// Why a signature is refused; each one has an error code of its own at AWS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature at all.
    #[error("Request is missing Authentication Token")]
    Missing,
    /// A part is missing or can't be read.
    #[error("{0}")]
    Incomplete(String),
    /// The access key is not known, or its session token is not the one it was issued with.
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    /// The temporary credentials have ended.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// The request's time is too far from now, or its presigned life has ended.
    #[error("{0}")]
    Stale(String),
    /// The signature is another than ours.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
}

/// What is known of an access key, as far as signatures need it.
#[derive(Debug, Clone)]
pub struct KnownKey {
    /// The secret access key.
    pub secret: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
    /// When they end, in seconds of the Unix epoch.
    pub expires_at: Option<i64>,
}

/// Reads the claim from the `Authorization` header or from the query.
pub fn claim(request: &Request<'_>) -> Result<Claim, Refusal> {
    if let Some(header) = request.headers.get("authorization") {
        return header_claim(header, request.headers);
    }
    let query = decoded_query(request.query);
    if query.iter().any(|(name, _)| name == "X-Amz-Algorithm") {
        return query_claim(&query);
    }
    Err(Refusal::Missing)
}

/// Checks a claim against what is known of its key at the time `now`.
pub fn verify(
    request: &Request<'_>,
    claim: &Claim,
    key: Option<&KnownKey>,
    now: OffsetDateTime,
) -> Result<(), Refusal> {
    let key = key.ok_or(Refusal::UnknownKey)?;
    check_signed_headers(request, claim)?;
    check_time(claim, now)?;
    if key.session_token != claim.session_token {
        return Err(Refusal::UnknownKey);
    }
    if key.expires_at.is_some_and(|end| now.unix_timestamp() >= end) {
        return Err(Refusal::ExpiredToken);
    }
    let payload = payload_hash(request, claim)?;
    let expected = signature(request, claim, &key.secret, &payload);
    if same(expected.as_bytes(), claim.signature.as_bytes()) { Ok(()) } else { Err(Refusal::Mismatch) }
}

/// Signs a request by headers: gives the headers to add (`x-amz-date`, `authorization`, and the
/// session token's). `headers` must hold `host`; all of them are signed.
#[must_use]
pub fn sign(
    request: &Request<'_>,
    access_key: &str,
    key: &KnownKey,
    region: &str,
    service: &str,
    now: OffsetDateTime,
) -> Vec<(String, String)> {
    let stamp = timestamp(now);
    let mut headers = request.headers.clone();
    let mut added = vec![("x-amz-date".to_owned(), stamp.clone())];
    if let Some(token) = &key.session_token {
        added.push(("x-amz-security-token".to_owned(), token.clone()));
    }
    headers.extend(added.iter().cloned());
    let claim = Claim {
        access_key: access_key.to_owned(),
        date: stamp.chars().take(8).collect(),
        region: region.to_owned(),
        service: service.to_owned(),
        signed_headers: headers.keys().cloned().collect(),
        signature: String::new(),
        session_token: key.session_token.clone(),
        time: stamp,
        expires: None,
    };
    let signed = Request { headers: &headers, ..*request };
    let payload = hex::encode(Sha256::digest(request.body));
    let signature = signature(&signed, &claim, &key.secret, &payload);
    added.push((
        "authorization".to_owned(),
        format!(
            "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
            claim.access_key,
            scope(&claim),
            claim.signed_headers.join(";"),
        ),
    ));
    added
}

/// Presigns a request: gives its query with everything that the signature adds, payload empty.
/// `headers` must hold `host`; all of them are signed.
#[must_use]
pub fn presign(
    request: &Request<'_>,
    access_key: &str,
    key: &KnownKey,
    region: &str,
    service: &str,
    expires: Duration,
    now: OffsetDateTime,
) -> String {
    let stamp = timestamp(now);
    let claim = Claim {
        access_key: access_key.to_owned(),
        date: stamp.chars().take(8).collect(),
        region: region.to_owned(),
        service: service.to_owned(),
        signed_headers: request.headers.keys().cloned().collect(),
        signature: String::new(),
        session_token: key.session_token.clone(),
        time: stamp,
        expires: Some(expires.whole_seconds()),
    };
    let mut query = request.query.to_owned();
    let mut add = |name: &str, value: &str| {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(&format!("{name}={}", encode(value)));
    };
    add("X-Amz-Algorithm", ALGORITHM);
    add("X-Amz-Credential", &format!("{access_key}/{}", scope(&claim)));
    add("X-Amz-Date", &claim.time);
    add("X-Amz-Expires", &expires.whole_seconds().to_string());
    if let Some(token) = &key.session_token {
        add("X-Amz-Security-Token", token);
    }
    add("X-Amz-SignedHeaders", &claim.signed_headers.join(";"));
    let payload = hex::encode(Sha256::digest(b""));
    let signature = signature(&Request { query: &query, ..*request }, &claim, &key.secret, &payload);
    format!("{query}&X-Amz-Signature={signature}")
}

/// `YYYYMMDDTHHMMSSZ`.
#[must_use]
pub fn timestamp(now: OffsetDateTime) -> String {
    now.to_offset(time::UtcOffset::UTC).format(DATE).unwrap_or_default()
}

/// Percent-encodes as SigV4 does: only `A-Za-z0-9-._~` stay bare.
#[must_use]
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, &BARE).to_string()
}

fn header_claim(header: &str, headers: &BTreeMap<String, String>) -> Result<Claim, Refusal> {
    let parts = header.trim().strip_prefix(ALGORITHM).ok_or_else(|| {
        Refusal::Incomplete(format!("Unsupported authorization type: only {ALGORITHM} is taken."))
    })?;
    let mut fields = BTreeMap::new();
    for part in parts.split(',') {
        if let Some((name, value)) = part.trim().split_once('=') {
            fields.insert(name.to_owned(), value.to_owned());
        }
    }
    let time = headers.get("x-amz-date").cloned().ok_or_else(|| {
        Refusal::Incomplete("Authorization header requires the existence of 'X-Amz-Date'.".into())
    })?;
    let token = headers.get("x-amz-security-token").cloned();
    assemble(&fields, ["Credential", "SignedHeaders", "Signature"], time, token, None)
}

fn query_claim(query: &[(String, String)]) -> Result<Claim, Refusal> {
    let mut fields = BTreeMap::new();
    for (name, value) in query.iter().filter(|(name, _)| name.starts_with("X-Amz-")) {
        if fields.insert(name.clone(), value.clone()).is_some() {
            return Err(Refusal::Incomplete(format!("'{name}' is given twice.")));
        }
    }
    if fields.get("X-Amz-Algorithm").map(String::as_str) != Some(ALGORITHM) {
        return Err(Refusal::Incomplete(format!("X-Amz-Algorithm must be {ALGORITHM}.")));
    }
    let expires = fields.get("X-Amz-Expires").map_or(Some(900), |text| text.parse::<i64>().ok());
    let expires = expires.filter(|seconds| (1..=604_800).contains(seconds)).ok_or_else(|| {
        Refusal::Incomplete("X-Amz-Expires must be a number of 1 to 604800 seconds.".into())
    })?;
    let time = fields.get("X-Amz-Date").cloned().unwrap_or_default();
    let token = fields.get("X-Amz-Security-Token").cloned();
    let names = ["X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature"];
    assemble(&fields, names, time, token, Some(expires))
}

fn assemble(
    fields: &BTreeMap<String, String>,
    [credential, signed, signature]: [&str; 3],
    time: String,
    session_token: Option<String>,
    expires: Option<i64>,
) -> Result<Claim, Refusal> {
    let field = |name: &str| {
        fields
            .get(name)
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Refusal::Incomplete(format!("Authorization requires the '{name}' parameter.")))
    };
    let scope: Vec<&str> = field(credential)?.split('/').collect();
    let [access_key, date, region, service, "aws4_request"] = scope.as_slice() else {
        return Err(Refusal::Incomplete("Credential must be KEY/DATE/REGION/SERVICE/aws4_request.".into()));
    };
    Ok(Claim {
        access_key: (*access_key).to_owned(),
        date: (*date).to_owned(),
        region: (*region).to_owned(),
        service: (*service).to_owned(),
        signed_headers: field(signed)?.split(';').map(str::to_lowercase).collect(),
        signature: field(signature)?.clone(),
        session_token,
        time,
        expires,
    })
}

fn check_signed_headers(request: &Request<'_>, claim: &Claim) -> Result<(), Refusal> {
    let signed = |name: &str| claim.signed_headers.iter().any(|have| have == name);
    if !signed("host") {
        return Err(Refusal::Incomplete("'Host' must be a signed header.".into()));
    }
    let unsigned = request
        .headers
        .keys()
        .find(|name| name.starts_with("x-amz-") && *name != "x-amz-user-agent" && !signed(name));
    match unsigned {
        Some(name) if claim.expires.is_none() => Err(Refusal::Incomplete(format!(
            "There were headers present in the request which were not signed: {name}"
        ))),
        _ => Ok(()),
    }
}

fn check_time(claim: &Claim, now: OffsetDateTime) -> Result<(), Refusal> {
    let at = PrimitiveDateTime::parse(&claim.time, DATE)
        .map_err(|_| Refusal::Incomplete(format!("Date '{}' is not in ISO 8601 basic form.", claim.time)))?
        .assume_utc();
    if !claim.time.starts_with(&claim.date) {
        return Err(Refusal::Stale(
            "Date in Credential scope does not match YYYYMMDD of the request's date.".into(),
        ));
    }
    let (oldest, word) = match claim.expires {
        None => (HEADER_AGE, "Signature expired"),
        Some(_) if claim.service == "sts" => (STS_PRESIGNED_AGE, "Signature expired"),
        Some(seconds) => (Duration::seconds(seconds), "Request has expired"),
    };
    if now - at > oldest {
        let (then, limit) = (&claim.time, timestamp(now - oldest));
        return Err(Refusal::Stale(format!(
            "{word}: {then} is now earlier than {limit} ({} - {} min.)",
            timestamp(now),
            oldest.whole_minutes()
        )));
    }
    if at - now > HEADER_AGE {
        return Err(Refusal::Stale(format!(
            "Signature not yet current: {} is still later than {}",
            claim.time,
            timestamp(now + HEADER_AGE)
        )));
    }
    Ok(())
}

fn payload_hash(request: &Request<'_>, claim: &Claim) -> Result<String, Refusal> {
    let ours = hex::encode(Sha256::digest(request.body));
    let unsigned_allowed = claim.service == "s3";
    match request.headers.get("x-amz-content-sha256") {
        Some(theirs) if *theirs == ours => Ok(ours),
        Some(theirs) if unsigned_allowed && !theirs.chars().all(|c| c.is_ascii_hexdigit()) => {
            Ok(theirs.clone())
        }
        Some(_) => Err(Refusal::Mismatch),
        None if unsigned_allowed && claim.expires.is_some() => Ok("UNSIGNED-PAYLOAD".into()),
        None => Ok(ours),
    }
}

fn signature(request: &Request<'_>, claim: &Claim, secret: &str, payload: &str) -> String {
    let mut canonical = format!(
        "{}\n{}\n{}\n",
        request.method,
        canonical_path(request.path, &claim.service),
        canonical_query(request.query)
    );
    for name in &claim.signed_headers {
        let value = request.headers.get(name).map(String::as_str).unwrap_or_default();
        let value: Vec<&str> = value.split_whitespace().collect();
        canonical.push_str(&format!("{name}:{}\n", value.join(" ")));
    }
    canonical.push_str(&format!("\n{}\n{payload}", claim.signed_headers.join(";")));
    let text = format!(
        "{ALGORITHM}\n{}\n{}\n{}",
        claim.time,
        scope(claim),
        hex::encode(Sha256::digest(canonical.as_bytes()))
    );
    let mut key = hmac(format!("AWS4{secret}").as_bytes(), &claim.date);
    for part in [claim.region.as_str(), claim.service.as_str(), "aws4_request"] {
        key = hmac(&key, part);
    }
    hex::encode(hmac(&key, &text))
}

fn scope(claim: &Claim) -> String {
    format!("{}/{}/{}/aws4_request", claim.date, claim.region, claim.service)
}

/// The path is encoded once more, except for S3, which signs it as it is.
fn canonical_path(path: &str, service: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    if service == "s3" { path.to_owned() } else { utf8_percent_encode(path, &BARE_AND_SLASH).to_string() }
}

fn canonical_query(query: &str) -> String {
    let mut pairs: Vec<(String, String)> = decoded_query(query)
        .into_iter()
        .filter(|(name, _)| name != "X-Amz-Signature")
        .map(|(name, value)| (encode(&name), encode(&value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn decoded_query(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |raw: &str| percent_decode_str(raw).decode_utf8_lossy().into_owned();
            (text(name), text(value))
        })
        .collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    // HMAC takes a key of any length, so this never fails; an empty key would only mismatch.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// Compares in a time that does not tell where two texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |seen, (x, y)| seen | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-05-01 12:00 UTC);

    fn key() -> KnownKey {
        KnownKey {
            secret: "secret".into(),
            session_token: Some("to/k+en=".into()),
            expires_at: Some(NOW.unix_timestamp() + 60),
        }
    }

    fn signed(body: &[u8]) -> BTreeMap<String, String> {
        let mut headers = BTreeMap::from([("host".to_owned(), "127.0.0.1:1".to_owned())]);
        let request =
            Request { method: "POST", path: "/a%3Ab", query: "z=1&a=%20", headers: &headers.clone(), body };
        headers.extend(sign(&request, "AKIA", &key(), "us-east-1", "dynamodb", NOW));
        headers
    }

    fn check(
        headers: &BTreeMap<String, String>,
        body: &[u8],
        key: Option<&KnownKey>,
        now: OffsetDateTime,
    ) -> Result<(), Refusal> {
        let request = Request { method: "POST", path: "/a%3Ab", query: "z=1&a=%20", headers, body };
        verify(&request, &claim(&request)?, key, now)
    }

    #[test]
    fn the_documented_example_of_iam_list_users_has_its_signature() {
        // "Examples of how to derive a signing key" in the AWS General Reference: the well-known pair.
        let headers = BTreeMap::from([
            ("content-type".to_owned(), "application/x-www-form-urlencoded; charset=utf-8".to_owned()),
            ("host".to_owned(), "iam.amazonaws.com".to_owned()),
            ("x-amz-date".to_owned(), "20150830T123600Z".to_owned()),
        ]);
        let request = Request {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &headers,
            body: b"",
        };
        let claim = Claim {
            access_key: "AKIDEXAMPLE".into(),
            date: "20150830".into(),
            region: "us-east-1".into(),
            service: "iam".into(),
            signed_headers: headers.keys().cloned().collect(),
            signature: String::new(),
            session_token: None,
            time: "20150830T123600Z".into(),
            expires: None,
        };
        let payload = hex::encode(Sha256::digest(b""));
        assert_eq!(
            signature(&request, &claim, "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &payload),
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn what_we_sign_verifies_and_every_change_is_refused() {
        let headers = signed(b"{}");
        assert_eq!(check(&headers, b"{}", Some(&key()), NOW), Ok(()));
        assert_eq!(check(&headers, b"{ }", Some(&key()), NOW), Err(Refusal::Mismatch));
        assert_eq!(check(&headers, b"{}", None, NOW), Err(Refusal::UnknownKey));
        let other = KnownKey { secret: "other".into(), ..key() };
        assert_eq!(check(&headers, b"{}", Some(&other), NOW), Err(Refusal::Mismatch));
        let no_token = KnownKey { session_token: None, ..key() };
        assert_eq!(check(&headers, b"{}", Some(&no_token), NOW), Err(Refusal::UnknownKey));
        assert_eq!(
            check(&headers, b"{}", Some(&key()), NOW + Duration::minutes(2)),
            Err(Refusal::ExpiredToken)
        );
        assert!(matches!(
            check(&headers, b"{}", Some(&key()), NOW + Duration::minutes(6)),
            Err(Refusal::Stale(_))
        ));
        assert!(matches!(
            check(&headers, b"{}", Some(&key()), NOW - Duration::minutes(6)),
            Err(Refusal::Stale(_))
        ));
        assert_eq!(check(&BTreeMap::new(), b"", Some(&key()), NOW), Err(Refusal::Missing));
    }

    #[test]
    fn a_presigned_request_lives_as_long_as_it_says_and_with_sts_15_minutes() {
        let headers = BTreeMap::from([("host".to_owned(), "localhost".to_owned())]);
        let plain =
            Request { method: "GET", path: "/", query: "Action=x&b=%2F", headers: &headers, body: b"" };
        let key = KnownKey { expires_at: None, ..key() };
        for (service, minute, refused) in [("sts", 14, false), ("sts", 16, true), ("lambda", 2, true)] {
            let query = presign(&plain, "AKIA", &key, "us-east-1", service, Duration::seconds(60), NOW);
            let request = Request { query: &query, ..plain };
            let claim = claim(&request).unwrap();
            assert_eq!(verify(&request, &claim, Some(&key), NOW), Ok(()));
            let later = verify(&request, &claim, Some(&key), NOW + Duration::minutes(minute));
            assert_eq!(later.is_err(), refused, "{service} after {minute} minutes");
            let changed = query.replace("Action=x", "Action=y");
            let request = Request { query: &changed, ..plain };
            assert_eq!(verify(&request, &claim, Some(&key), NOW), Err(Refusal::Mismatch));
        }
    }

    #[test]
    fn an_unsigned_amz_header_is_refused() {
        let mut headers = signed(b"{}");
        headers.insert("x-amz-target".into(), "DynamoDB_20120810.PutItem".into());
        assert!(matches!(check(&headers, b"{}", Some(&key()), NOW), Err(Refusal::Incomplete(_))));
    }
}
