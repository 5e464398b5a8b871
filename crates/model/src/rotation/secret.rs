//! The secret of a managed user: its name, its tags, its value, and the password in it.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::VersionId;
use crate::arn::Arn;
use crate::db_user::DbUserService;

/// The prefix of secret names where none is configured.
pub const DEFAULT_PREFIX: &str = "keystile/";
/// The tag that says who made a secret: its value is the ARN of the user. A secret without it is not ours.
pub const OWNER_TAG: &str = "keystile.dev/user";
/// The tag of the deployment that made a secret.
pub const DEPLOYMENT_TAG: &str = "keystile.dev/deployment";
/// Length of a password: 64 characters of 62 hold 381 bits, more than 47 random bytes; both services take 16
/// to 128.
pub const PASSWORD_CHARS: usize = 64;
/// Namespace of the tokens.
const TOKENS: Uuid = Uuid::from_u128(0x6b65_7973_7469_6c65_8f21_5b0e_7c11_a001);

/// How the tags of proxy groups begin.
pub const GROUP_TAG: &str = "keystile.dev/group/";

/// The tag that lets a proxy group's task role read the secret; its value is `true`.
#[must_use]
pub fn group_tag(group: &str) -> String {
    format!("{GROUP_TAG}{group}")
}

/// `<prefix><service>/<account>/<region>/<user id>`. Only what a secret's name may hold is kept; both
/// services' ids are of that kind.
#[must_use]
pub fn secret_name(prefix: &str, service: DbUserService, arn: &Arn, user_id: &str) -> String {
    let service = match service {
        DbUserService::Elasticache => "elasticache",
        DbUserService::Memorydb => "memorydb",
    };
    let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
    let name = format!("{prefix}{slash}{service}/{}/{}/{user_id}", arn.account(), arn.region());
    name.chars().filter(|c| c.is_ascii_alphanumeric() || "/_+=.@-".contains(*c)).take(512).collect()
}

/// Whether `secret`, a name or an ARN, lies where the secrets of managed users lie: nothing else may begin with
/// the prefix.
#[must_use]
pub fn is_managed_name(prefix: &str, secret: &str) -> bool {
    let is_arn = secret.starts_with("arn:");
    // arn:PARTITION:secretsmanager:REGION:ACCOUNT:secret:NAME
    let name = if is_arn { secret.splitn(7, ':').nth(6).unwrap_or_default() } else { secret };
    !prefix.is_empty() && name.starts_with(prefix)
}

/// Where Teleport keeps the password of the same user.
#[must_use]
pub fn teleport_secret_name(prefix: &str, service: DbUserService, arn: &Arn, user_id: &str) -> String {
    let service = match service {
        DbUserService::Elasticache => "elasticache",
        DbUserService::Memorydb => "memorydb",
    };
    format!("{prefix}{service}/{}/{}/user/{user_id}", arn.region(), arn.account())
}

/// The id of the pending version that follows `current`: the same for the same three, so that a call that is
/// made again makes nothing twice.
#[must_use]
pub fn pending_version(arn: &Arn, current: Option<&VersionId>, attempt: u64) -> VersionId {
    let current = current.map_or("none", VersionId::as_str);
    VersionId::new(Uuid::new_v5(&TOKENS, format!("{arn}\n{current}\n{attempt}").as_bytes()).to_string())
}

/// The id of a secret's first version, the placeholder.
#[must_use]
pub fn placeholder_version(arn: &Arn, generation: u64) -> VersionId {
    VersionId::new(Uuid::new_v5(&TOKENS, format!("{arn}\nplaceholder\n{generation}").as_bytes()).to_string())
}

/// What a version of the secret holds: JSON with `username` and `password`. Secrets Manager makes the first
/// version current whatever is asked, so that one has no password and is read as "not ready".
#[derive(Debug, Clone)]
pub enum SecretValue {
    /// Not ready.
    Placeholder,
    /// A password.
    Ready {
        /// What AUTH is given.
        username: String,
        /// What it is given with it.
        password: SecretString,
    },
}

#[derive(Serialize, Deserialize)]
struct Wire {
    username: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
}

/// The value is not of our making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret is no JSON with username and password")]
pub struct NotOurs;

impl SecretValue {
    /// Reads a version's value.
    ///
    /// # Errors
    /// [`NotOurs`], which shows nothing of it.
    pub fn parse(value: &SecretString) -> Result<Self, NotOurs> {
        let wire: Wire = serde_json::from_str(value.expose_secret()).map_err(|_| NotOurs)?;
        match wire.password {
            Some(password) if !password.is_empty() => {
                Ok(Self::Ready { username: wire.username, password: SecretString::from(password) })
            }
            _ if wire.status.as_deref() == Some("not-ready") => Ok(Self::Placeholder),
            _ => Err(NotOurs),
        }
    }

    /// The password, where there is one.
    #[must_use]
    pub fn password(&self) -> Option<&SecretString> {
        match self {
            Self::Placeholder => None,
            Self::Ready { password, .. } => Some(password),
        }
    }
}

/// Whether a value can be a shared token: one line, and no JSON object. What Keystile keeps itself (passwords of
/// managed users, host certificates) is never taken for one. A line break at its end counts as none: files have one.
#[must_use]
pub fn is_bare_token(value: &SecretString) -> bool {
    let token = value.expose_secret().trim_end_matches(['\r', '\n']);
    let is_object = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(token).is_ok();
    !token.is_empty() && !token.contains(['\r', '\n']) && !is_object
}

/// The JSON of a placeholder.
#[must_use]
pub fn placeholder_value(username: &str) -> SecretString {
    json(&Wire { username: username.to_owned(), password: None, status: Some("not-ready".to_owned()) })
}

/// The JSON of a password.
#[must_use]
pub fn ready_value(username: &str, password: &SecretString) -> SecretString {
    let password = Some(password.expose_secret().to_owned());
    json(&Wire { username: username.to_owned(), password, status: None })
}

fn json(wire: &Wire) -> SecretString {
    SecretString::from(serde_json::to_string(wire).unwrap_or_default())
}

/// A new password from the operating system's randomness: [`PASSWORD_CHARS`] of `[A-Za-z0-9]`, which every
/// rule of both services takes. `fill` fills a buffer with random bytes.
pub fn new_password(mut fill: impl FnMut(&mut [u8])) -> SecretString {
    const CHARS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut password = String::with_capacity(PASSWORD_CHARS);
    let mut buffer = [0_u8; 2 * PASSWORD_CHARS];
    while password.len() < PASSWORD_CHARS {
        fill(&mut buffer);
        // Six bits choose one of 64; the two that are no character are drawn again, so none is likelier.
        let drawn =
            buffer.iter().filter_map(|byte| CHARS.get(usize::from(byte & 63))).map(|c| char::from(*c));
        password.extend(drawn.take(PASSWORD_CHARS - password.len()));
    }
    buffer.fill(0);
    SecretString::from(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn() -> Arn {
        Arn::parse("arn:aws:elasticache:eu-west-1:123456789012:user:managed-app").unwrap()
    }

    #[test]
    fn names() {
        let name = |prefix: &str| secret_name(prefix, DbUserService::Elasticache, &arn(), "managed-app");
        assert_eq!(name(DEFAULT_PREFIX), "keystile/elasticache/123456789012/eu-west-1/managed-app");
        assert_eq!(name("prod"), "prod/elasticache/123456789012/eu-west-1/managed-app");
        let teleport = teleport_secret_name("teleport/", DbUserService::Elasticache, &arn(), "legacy-app");
        assert_eq!(teleport, "teleport/elasticache/eu-west-1/123456789012/user/legacy-app");
    }

    #[test]
    fn managed_names_are_told_by_their_prefix() {
        let arn = "arn:aws:secretsmanager:us-east-1:123456789012:secret:";
        for (secret, managed) in [
            ("keystile/elasticache/1/us-east-1/app", true),
            (&format!("{arn}keystile/elasticache/1/us-east-1/app-AbCdEf"), true),
            (&format!("{arn}shop/keystile/app-AbCdEf"), false),
            ("shop/keystile/app", false),
            ("keystil", false),
            ("arn:aws", false),
        ] {
            assert_eq!(is_managed_name(DEFAULT_PREFIX, secret), managed, "{secret}");
        }
        assert!(is_managed_name("prod", "production"), "the rights of rotation reach it, too");
        assert!(!is_managed_name("", "shop/token"));
    }

    #[test]
    fn a_bare_token_is_one_line() {
        let password = SecretString::from("p".to_owned());
        for ours in
            [ready_value("app", &password), placeholder_value("app"), SecretString::from(String::new())]
        {
            assert!(!is_bare_token(&ours));
        }
        for (value, bare) in [
            ("token", true),
            ("token\r\n", true),
            ("{token}", true),
            ("17", true),
            ("[1]", true),
            (" {} ", false),
            ("a\nb", false),
        ] {
            assert_eq!(is_bare_token(&SecretString::from(value.to_owned())), bare, "{value:?}");
        }
    }

    #[test]
    fn a_token_follows_from_what_it_is_for() {
        let current = VersionId::new("a");
        let token = pending_version(&arn(), Some(&current), 1);
        assert_eq!(token, pending_version(&arn(), Some(&current), 1));
        assert!((32..=64).contains(&token.as_str().len()));
        let others = [
            pending_version(&arn(), Some(&current), 2),
            pending_version(&arn(), Some(&VersionId::new("b")), 1),
            pending_version(&arn(), None, 1),
            placeholder_version(&arn(), 1),
        ];
        assert!(others.iter().all(|other| *other != token));
    }

    #[test]
    fn values_come_back_and_are_not_shown() {
        let password = SecretString::from("hunter2-hunter2-hunter2");
        let value = ready_value("app", &password);
        let read = SecretValue::parse(&value).unwrap();
        assert_eq!(read.password().unwrap().expose_secret(), password.expose_secret());
        assert!(!format!("{read:?} {value:?}").contains("hunter2"));
        assert!(matches!(SecretValue::parse(&placeholder_value("app")), Ok(SecretValue::Placeholder)));
        for foreign in ["", "hunter2", "{}", r#"{"username":"app"}"#, r#"{"username":"app","password":""}"#] {
            assert_eq!(SecretValue::parse(&SecretString::from(foreign)).unwrap_err(), NotOurs);
        }
    }

    #[test]
    fn passwords_are_long_plain_and_new() {
        let mut state = 1_u64;
        let mut fill = |buffer: &mut [u8]| {
            for byte in buffer {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 56) as u8;
            }
        };
        let (a, b) = (new_password(&mut fill), new_password(&mut fill));
        for password in [&a, &b] {
            assert_eq!(password.expose_secret().len(), PASSWORD_CHARS);
            assert!(password.expose_secret().bytes().all(|c| c.is_ascii_alphanumeric()));
        }
        assert_ne!(a.expose_secret(), b.expose_secret());
    }
}
