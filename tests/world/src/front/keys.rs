//! The access keys that this world knows, in memory and in a file.
//!
//! Owns who a key belongs to and the file that the Valkey module reads (replaced whole, never
//! edited in place). It refuses to forget a temporary key before its end is well past, so that an
//! expired one is told from one that never was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::fixture;
use crate::sigv4::KnownKey;
use crate::world::paths::replace_file;

/// How long an ended key stays known, so that its holder reads "expired" and not "unknown".
const KEEP_ENDED: Duration = Duration::hours(1);

/// One access key. The secret is written out on purpose: this is the servers' list of keys of a
/// throwaway world, in a file that only its owner may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// The secret access key.
    pub secret: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
    /// When temporary credentials end, in seconds of the Unix epoch.
    pub expires_at: Option<i64>,
    /// The account of the principal.
    pub account: String,
    /// The caller's ARN, as GetCallerIdentity gives it.
    pub arn: String,
    /// The caller's unique id, as GetCallerIdentity gives it.
    #[serde(default)]
    pub user_id: String,
    /// Accounts whose caches this key may open with an IAM token.
    #[serde(default)]
    pub connect_accounts: Vec<String>,
}

impl Key {
    /// The part that signatures are checked with.
    #[must_use]
    pub fn known(&self) -> KnownKey {
        KnownKey {
            secret: self.secret.clone(),
            session_token: self.session_token.clone(),
            expires_at: self.expires_at,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct KeysFile {
    keys: BTreeMap<String, Key>,
}

/// All known keys, by access key id.
#[derive(Debug)]
pub struct KeyRing {
    path: PathBuf,
    keys: Mutex<BTreeMap<String, Key>>,
}

impl KeyRing {
    /// A ring without keys, kept in the file at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), keys: Mutex::default() }
    }

    /// The key with this id.
    #[must_use]
    pub fn find(&self, access_key: &str) -> Option<Key> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).get(access_key).cloned()
    }

    /// Adds a key and replaces the file, so that the servers know it before its owner does.
    /// Fails where the file can't be written; then the key must not be handed out.
    pub fn learn(&self, access_key: &str, mut key: Key, now: OffsetDateTime) -> anyhow::Result<()> {
        key.connect_accounts = fixture::connect_accounts(&key.arn);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = (now - KEEP_ENDED).unix_timestamp();
        keys.retain(|_, key| key.expires_at.is_none_or(|end| end > oldest));
        keys.insert(access_key.to_owned(), key);
        let file = KeysFile { keys: keys.clone() };
        replace_file(&self.path, &serde_json::to_vec_pretty(&file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    fn key(arn: &str, expires_at: Option<i64>) -> Key {
        Key {
            secret: "s".into(),
            session_token: None,
            expires_at,
            account: "123456789012".into(),
            arn: arn.into(),
            user_id: "AIDA".into(),
            connect_accounts: vec!["not from the caller".into()],
        }
    }

    #[test]
    fn the_file_holds_each_key_with_the_accounts_it_may_open() {
        let path = std::env::temp_dir().join(format!("keys-{}.json", uuid::Uuid::new_v4()));
        let ring = KeyRing::new(&path);
        let now = datetime!(2026-05-01 12:00 UTC);
        ring.learn("AKIA1", key(fixture::ADMIN_ARN, None), now).unwrap();
        ring.learn("ASIA1", key("arn:aws:iam::123456789012:user/bob", Some(now.unix_timestamp() + 60)), now)
            .unwrap();
        let read = || serde_json::from_slice::<KeysFile>(&std::fs::read(&path).unwrap()).unwrap().keys;
        assert_eq!(read()["AKIA1"].connect_accounts, ["123456789012"]);
        assert!(read()["ASIA1"].connect_accounts.is_empty());
        ring.learn("AKIA2", key("x", None), now + Duration::minutes(30)).unwrap();
        assert!(read().contains_key("ASIA1"), "an ended key is still known");
        ring.learn("AKIA2", key("x", None), now + Duration::hours(2)).unwrap();
        assert!(!read().contains_key("ASIA1"));
        std::fs::remove_file(path).unwrap();
    }
}
