//! Passwords and tokens that are kept in Secrets Manager: the port that reads them, and what is remembered of
//! them for a moment. Nothing here shows, logs or writes a value.

pub mod aws;
pub mod cache;
pub mod prove;

use async_trait::async_trait;
use secrecy::SecretString;

/// Which version of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// `AWSCURRENT`.
    Current,
    /// `AWSPENDING`.
    Pending,
}

/// One version of a secret.
#[derive(Debug)]
pub struct Version {
    /// Its id.
    pub id: String,
    /// Its value.
    pub value: SecretString,
}

/// Why a secret cannot be read. The text is fit for a client: it shows nothing of the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Throttled, timed out, or out of reach: worth trying again.
    #[error("Secrets Manager is out of reach ({0}): try again in a moment")]
    Unavailable(String),
    /// There is no such secret, or no version of that stage.
    #[error("there is no such secret, or it has no such version")]
    Missing,
    /// The right to read it is missing, or it is marked for deletion, or its key refuses; with AWS's code.
    #[error("Secrets Manager refused ({0})")]
    Refused(String),
}

impl Fault {
    /// The word for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Missing => "missing",
            Self::Refused(_) => "refused",
        }
    }
}

/// Reads secrets.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The version of a secret, by name or ARN, that has a stage now.
    async fn read(&self, secret: &str, stage: Stage) -> Result<Version, Fault>;
}
