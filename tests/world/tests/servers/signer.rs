//! An IAM token signer of the tests' own: it shares no code with the product's, nor with the module's
//! checker. Every part can be set wrong.

use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// What is signed. [`Token::new`] is right; a test changes one field.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) action: &'static str,
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) resource_type: Option<&'static str>,
    pub(crate) service: &'static str,
    pub(crate) region: &'static str,
    pub(crate) key_id: &'static str,
    pub(crate) secret: &'static str,
    pub(crate) session_token: Option<&'static str>,
    /// Seconds since it was signed.
    pub(crate) age: i64,
    pub(crate) expires: i64,
    /// Another parameter, signed like the others.
    pub(crate) extra: Option<(&'static str, &'static str)>,
}

impl Token {
    /// A good token for a replication group of the home account.
    pub(crate) fn new(name: &str, user: &str) -> Self {
        Self {
            action: "connect",
            name: name.into(),
            user: user.into(),
            resource_type: None,
            service: "elasticache",
            region: "us-east-1",
            key_id: super::ADMIN_KEY,
            secret: super::SECRET,
            session_token: None,
            age: 0,
            expires: 900,
            extra: None,
        }
    }

    /// The signed text.
    pub(crate) fn mint(&self) -> String {
        let date = stamp(self.age);
        let scope = format!("{}/{}/{}/aws4_request", &date[..8], self.region, self.service);
        let mut parameters = vec![
            ("Action", self.action.to_owned()),
            ("User", self.user.clone()),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256".to_owned()),
            ("X-Amz-Credential", format!("{}/{scope}", self.key_id)),
            ("X-Amz-Date", date.clone()),
            ("X-Amz-Expires", self.expires.to_string()),
            ("X-Amz-SignedHeaders", "host".to_owned()),
        ];
        parameters.extend(self.resource_type.map(|kind| ("ResourceType", kind.to_owned())));
        parameters.extend(self.session_token.map(|token| ("X-Amz-Security-Token", token.to_owned())));
        parameters.extend(self.extra.map(|(name, value)| (name, value.to_owned())));
        parameters.sort();
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        let query = pairs.join("&");
        let nothing = hex::encode(Sha256::digest(b""));
        let request = format!("GET\n/\n{query}\nhost:{}\n\nhost\n{nothing}", self.name);
        let request = hex::encode(Sha256::digest(request));
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{request}");
        let key =
            scope.split('/').fold(format!("AWS4{}", self.secret).into_bytes(), |key, part| sign(&key, part));
        format!("{}/?{query}&X-Amz-Signature={}", self.name, hex::encode(sign(&key, &text)))
    }
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn encode(text: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            out + &char::from(byte).to_string()
        }
        _ => out + &format!("%{byte:02X}"),
    })
}

#[allow(clippy::disallowed_methods, reason = "the server beside it reads the real clock too")]
fn stamp(age: i64) -> String {
    let now = SystemTime::now();
    let signed = if age < 0 {
        now + Duration::from_secs(age.unsigned_abs())
    } else {
        now - Duration::from_secs(age.unsigned_abs())
    };
    let form = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    time::OffsetDateTime::from(signed).format(&form).unwrap()
}
