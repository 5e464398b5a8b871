//! Whether a password is a good IAM token: a SigV4-presigned `connect` URL without its scheme.
//!
//! Pure: keys and clock are arguments. It is written apart from the signer that Keystile uses, on
//! purpose, so that a mistake in one is not a mistake in both.

use std::collections::BTreeMap;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest, Sha256};
use time::PrimitiveDateTime;
use time::macros::format_description;

use crate::keys::{Key, Keys};

/// The longest that a token may be good for: AWS's 15 minutes.
const MAX_EXPIRES: i64 = 900;
/// How far a signer's clock may be ahead of ours.
const MAX_AHEAD: i64 = 300;
/// Longer than any token: a session token is at most about 2,000 bytes, encoded three times that.
const MAX_LENGTH: usize = 16 * 1024;
/// What SigV4 leaves bare in a query: letters, digits, `-`, `.`, `_`, `~`.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The cache that a token must be for.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    /// `elasticache` or `memorydb`.
    pub(crate) service: String,
    /// The resource's name in lower case (not the endpoint's host).
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) serverless: bool,
}

/// Why a token is refused. The client never learns which.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    Unreadable(&'static str),
    Action(String),
    Name(String),
    User(String),
    ResourceType,
    Parameters(String),
    Scope(String),
    Time(String),
    UnknownKey(String),
    KeyExpired(String),
    SessionToken(String),
    Signature(String),
    NotAllowed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(what) => write!(out, "it is no token: {what}"),
            Self::Action(found) => write!(out, "Action is {found:?}, not \"connect\""),
            Self::Name(found) => write!(out, "it is for the resource {found:?}"),
            Self::User(found) => write!(out, "it is for the user {found:?}"),
            Self::ResourceType => {
                out.write_str("ResourceType must be ServerlessCache exactly for serverless")
            }
            Self::Parameters(what) => write!(out, "{what}"),
            Self::Scope(found) => write!(out, "its scope is {found:?}"),
            Self::Time(what) => write!(out, "{what}"),
            Self::UnknownKey(id) => write!(out, "nobody holds the access key {id:?}"),
            Self::KeyExpired(arn) => write!(out, "the temporary key of {arn} has expired"),
            Self::SessionToken(arn) => write!(out, "its session token is not that of {arn}'s key"),
            Self::Signature(arn) => write!(out, "its signature is not {arn}'s"),
            Self::NotAllowed(arn) => write!(out, "{arn} is not allowed to Connect"),
        }
    }
}

/// Checks a token at `now` (Unix seconds), in AWS's order of doubt.
pub(crate) fn check(
    password: &[u8],
    user: &str,
    target: &Target,
    keys: &Keys,
    now: i64,
) -> Result<(), Refusal> {
    let token = Token::parse(password)?;
    token.check_purpose(user, target)?;
    token.check_parameters(target)?;
    let scope = token.check_scope(target)?;
    token.check_time(&scope, now)?;
    let key = keys.keys.get(scope.key_id).ok_or_else(|| Refusal::UnknownKey(clip(scope.key_id)))?;
    token.check_session(key, now)?;
    token.check_signature(&scope, key)?;
    if !key.connect_accounts.contains(&target.account) {
        return Err(Refusal::NotAllowed(key.arn.clone()));
    }
    Ok(())
}

/// A token taken apart: the name before the slash, and the decoded parameters in their order.
struct Token {
    name: String,
    parameters: Vec<(String, String)>,
}

/// `KEY/DATE/REGION/SERVICE/aws4_request`.
struct Scope<'a> {
    key_id: &'a str,
    date: &'a str,
    rest: &'a str,
}

impl Token {
    fn parse(password: &[u8]) -> Result<Self, Refusal> {
        if password.len() > MAX_LENGTH {
            return Err(Refusal::Unreadable("it is too long"));
        }
        let text = std::str::from_utf8(password).map_err(|_| Refusal::Unreadable("it is not text"))?;
        let (name, query) = text.split_once("/?").ok_or(Refusal::Unreadable("it has no /?"))?;
        let mut parameters = Vec::new();
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').ok_or(Refusal::Unreadable("a parameter without ="))?;
            parameters.push((decode(key)?, decode(value)?));
        }
        Ok(Self { name: name.to_owned(), parameters })
    }

    /// The first value of a parameter; that there is no second one is checked apart.
    fn value(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn required(&self, key: &str) -> Result<&str, Refusal> {
        self.value(key).ok_or_else(|| Refusal::Parameters(format!("it has no {key}")))
    }

    fn check_purpose(&self, user: &str, target: &Target) -> Result<(), Refusal> {
        if self.value("Action") != Some("connect") {
            return Err(Refusal::Action(clip(self.value("Action").unwrap_or(""))));
        }
        if self.name != target.name {
            return Err(Refusal::Name(clip(&self.name)));
        }
        if self.value("User") != Some(user) {
            return Err(Refusal::User(clip(self.value("User").unwrap_or(""))));
        }
        let expected = target.serverless.then_some("ServerlessCache");
        if self.value("ResourceType") != expected {
            return Err(Refusal::ResourceType);
        }
        Ok(())
    }

    /// Each expected parameter once, the session token at most once, and nothing else.
    fn check_parameters(&self, target: &Target) -> Result<(), Refusal> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in &self.parameters {
            *counts.entry(name).or_default() += 1;
        }
        if let Some((name, _)) = counts.iter().find(|(_, count)| **count > 1) {
            return Err(Refusal::Parameters(format!("{:?} is there twice", clip(name))));
        }
        let mut required = vec![
            "Action",
            "User",
            "X-Amz-Algorithm",
            "X-Amz-Credential",
            "X-Amz-Date",
            "X-Amz-Expires",
            "X-Amz-SignedHeaders",
            "X-Amz-Signature",
        ];
        if target.serverless {
            required.push("ResourceType");
        }
        for name in &required {
            self.required(name)?;
        }
        required.push("X-Amz-Security-Token");
        if let Some(name) = counts.keys().find(|name| !required.contains(name)) {
            return Err(Refusal::Parameters(format!("{:?} does not belong here", clip(name))));
        }
        for (name, expected) in [("X-Amz-Algorithm", "AWS4-HMAC-SHA256"), ("X-Amz-SignedHeaders", "host")] {
            if self.value(name) != Some(expected) {
                return Err(Refusal::Parameters(format!("{name} is not {expected}")));
            }
        }
        Ok(())
    }

    fn check_scope(&self, target: &Target) -> Result<Scope<'_>, Refusal> {
        let credential = self.required("X-Amz-Credential")?;
        let wrong = || Refusal::Scope(clip(credential));
        let (key_id, rest) = credential.split_once('/').ok_or_else(wrong)?;
        let (date, place) = rest.split_once('/').ok_or_else(wrong)?;
        if place != format!("{}/{}/aws4_request", target.region, target.service) {
            return Err(wrong());
        }
        Ok(Scope { key_id, date, rest })
    }

    fn check_time(&self, scope: &Scope<'_>, now: i64) -> Result<(), Refusal> {
        let stamp = self.required("X-Amz-Date")?;
        let signed_at =
            unix_seconds(stamp).ok_or_else(|| Refusal::Time(format!("X-Amz-Date is {:?}", clip(stamp))))?;
        if !stamp.starts_with(scope.date) || scope.date.len() != 8 {
            return Err(Refusal::Time("the dates of X-Amz-Date and of the scope differ".into()));
        }
        let expires = self.required("X-Amz-Expires")?;
        let life = expires
            .parse::<i64>()
            .ok()
            .filter(|life| (1..=MAX_EXPIRES).contains(life) && life.to_string() == expires)
            .ok_or_else(|| Refusal::Time(format!("X-Amz-Expires is {:?}, not 1 to 900", clip(expires))))?;
        if signed_at > now + MAX_AHEAD {
            return Err(Refusal::Time(format!("it was signed {} s in the future", signed_at - now)));
        }
        if now > signed_at + life {
            return Err(Refusal::Time(format!("it expired {} s ago", now - signed_at - life)));
        }
        Ok(())
    }

    fn check_session(&self, key: &Key, now: i64) -> Result<(), Refusal> {
        if self.value("X-Amz-Security-Token") != key.session_token.as_deref() {
            return Err(Refusal::SessionToken(key.arn.clone()));
        }
        match key.expires_at {
            Some(end) if end <= now as f64 => Err(Refusal::KeyExpired(key.arn.clone())),
            _ => Ok(()),
        }
    }

    fn check_signature(&self, scope: &Scope<'_>, key: &Key) -> Result<(), Refusal> {
        let wrong = || Refusal::Signature(key.arn.clone());
        let text = self.required("X-Amz-Signature")?;
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let given = hex::decode(text).map_err(|_| wrong())?;
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{}\n{}",
            self.required("X-Amz-Date")?,
            scope.rest,
            hex::encode(Sha256::digest(self.canonical_request()))
        );
        let mut signing_key = format!("AWS4{}", key.secret).into_bytes();
        for part in scope.rest.split('/') {
            signing_key = keyed(&signing_key, part).finalize().into_bytes().to_vec();
        }
        keyed(&signing_key, &to_sign).verify_slice(&given).map_err(|_| wrong())
    }

    fn canonical_request(&self) -> String {
        let mut encoded: Vec<(String, String)> = self
            .parameters
            .iter()
            .filter(|(name, _)| name != "X-Amz-Signature")
            .map(|(name, value)| (encode(name), encode(value)))
            .collect();
        encoded.sort();
        let query: Vec<String> = encoded.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let empty_body = hex::encode(Sha256::digest(b""));
        format!("GET\n/\n{}\nhost:{}\n\nhost\n{empty_body}", query.join("&"), self.name)
    }
}

fn keyed(key: &[u8], message: &str) -> Hmac<Sha256> {
    // HMAC hashes a key that is too long and pads one that is too short: no key is refused.
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any length");
    mac.update(message.as_bytes());
    mac
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// Strict: a `%` without two hex digits and a bare `+` (a space to some, a plus to others) are refused.
fn decode(text: &str) -> Result<String, Refusal> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
                let decoded = hex::decode(digits).map_err(|_| Refusal::Unreadable("a wrong percent sign"))?;
                out.extend(decoded);
            }
            b'+' => return Err(Refusal::Unreadable("a plus sign that is not encoded")),
            0x21..=0x7e => out.push(byte),
            _ => return Err(Refusal::Unreadable("a character that must be encoded")),
        }
    }
    String::from_utf8(out).map_err(|_| Refusal::Unreadable("it is not text"))
}

fn unix_seconds(stamp: &str) -> Option<i64> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    if stamp.len() != 16 {
        return None;
    }
    PrimitiveDateTime::parse(stamp, form).ok().map(|time| time.assume_utc().unix_timestamp())
}

/// Cuts what a stranger sent to a length that fits a log line.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
