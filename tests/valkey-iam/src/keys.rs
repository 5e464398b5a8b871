//! The two files that others write: who holds which access key, and which users log in by IAM.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

/// Access keys by id, long-lived ones and those of AssumeRole.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Keys {
    pub(crate) keys: HashMap<String, Key>,
}

/// One access key and what its holder may connect to.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Key {
    pub(crate) secret: String,
    /// Present for temporary keys alone; the token must carry exactly this one.
    pub(crate) session_token: Option<String>,
    /// Unix seconds; `None` for a key that does not expire.
    pub(crate) expires_at: Option<f64>,
    pub(crate) arn: String,
    /// The accounts whose caches this caller may Connect to.
    #[serde(default)]
    pub(crate) connect_accounts: Vec<String>,
}

/// The users of the cache's groups, by name.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Users {
    users: BTreeMap<String, User>,
}

#[derive(Debug, Deserialize)]
struct User {
    auth: String,
}

impl Users {
    /// Whether this user's password is an IAM token.
    pub(crate) fn is_iam(&self, name: &str) -> bool {
        self.users.get(name).is_some_and(|user| user.auth == "iam")
    }
}
