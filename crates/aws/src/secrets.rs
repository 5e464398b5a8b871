//! Secrets Manager as the proxy reads it: a certificate with its key (JSON with `certificate` and `key`, both
//! PEM), and passwords by stage.

use aws_config::SdkConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::ProvideErrorMetadata;
use secrecy::SecretString;
use serde::Deserialize;

/// A certificate chain and its private key.
#[derive(Debug, Deserialize)]
pub struct PemPair {
    /// Certificates, PEM, the leaf first.
    pub certificate: String,
    /// The private key, PEM.
    #[serde(deserialize_with = "secret")]
    pub key: SecretString,
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Throttled, timed out, or out of reach: try again.
    #[error("Secrets Manager is out of reach")]
    Unavailable,
    /// Missing, or the right to read it is; with AWS's code.
    #[error("the secret cannot be read: {0}")]
    Refused(String),
    /// It holds something else.
    #[error("the secret is no JSON with certificate and key")]
    Malformed,
}

/// Reads a secret's current version.
///
/// # Errors
/// [`SecretError`], which never shows what the secret holds.
pub async fn read_pem_pair(config: &SdkConfig, secret: &str) -> Result<PemPair, SecretError> {
    let answer =
        Client::new(config).get_secret_value().secret_id(secret).send().await.map_err(|error| match error
            .code()
        {
            None | Some("ThrottlingException" | "InternalServiceError") => SecretError::Unavailable,
            Some(code) => SecretError::Refused(code.to_owned()),
        })?;
    parse(answer.secret_string().unwrap_or_default())
}

/// Why a version of a secret cannot be read; with AWS's code where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Throttled, timed out, or out of reach: try again.
    #[error("Secrets Manager is out of reach ({0})")]
    Unavailable(String),
    /// No such secret, or no version of that stage.
    #[error("there is no such secret or version")]
    Missing,
    /// The right is missing, the key refuses, or it is scheduled for deletion.
    #[error("Secrets Manager refused ({0})")]
    Refused(String),
}

/// Reads versions of secrets. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct SecretReader(Client);

impl SecretReader {
    /// With the account and region of a configuration.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        Self(Client::new(config))
    }

    /// The id and the text of the version with this stage, which is always named: a role may be allowed some
    /// stages only.
    ///
    /// # Errors
    /// [`ReadError`], which never shows what the secret holds.
    pub async fn read(&self, secret: &str, stage: &str) -> Result<(String, SecretString), ReadError> {
        let answer = self
            .0
            .get_secret_value()
            .secret_id(secret)
            .version_stage(stage)
            .send()
            .await
            .map_err(|error| read_error(error.code()))?;
        let id = answer.version_id.unwrap_or_default();
        match answer.secret_string {
            Some(text) => Ok((id, SecretString::from(text))),
            None => Err(ReadError::Refused("it holds bytes, not text".to_owned())),
        }
    }
}

fn read_error(code: Option<&str>) -> ReadError {
    match code {
        None => ReadError::Unavailable("no answer".to_owned()),
        Some("ResourceNotFoundException") => ReadError::Missing,
        Some(code @ ("ThrottlingException" | "InternalServiceError" | "ServiceUnavailable")) => {
            ReadError::Unavailable(code.to_owned())
        }
        Some(code) => ReadError::Refused(code.to_owned()),
    }
}

fn parse(text: &str) -> Result<PemPair, SecretError> {
    serde_json::from_str(text).map_err(|_| SecretError::Malformed)
}

fn secret<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn what_is_worth_another_try() {
        for (code, kind) in [
            (None, ReadError::Unavailable("no answer".to_owned())),
            (Some("ThrottlingException"), ReadError::Unavailable("ThrottlingException".to_owned())),
            (Some("ResourceNotFoundException"), ReadError::Missing),
            (Some("AccessDeniedException"), ReadError::Refused("AccessDeniedException".to_owned())),
            (Some("InvalidRequestException"), ReadError::Refused("InvalidRequestException".to_owned())),
        ] {
            assert_eq!(read_error(code), kind, "{code:?}");
        }
    }

    #[test]
    fn what_a_secret_holds() {
        let pair = parse(r#"{"certificate": "C", "key": "K"}"#).unwrap();
        assert_eq!((pair.certificate.as_str(), pair.key.expose_secret()), ("C", "K"));
        assert!(!format!("{pair:?}").contains("\"K\""));
        for bad in ["", "K", r#"{"certificate": "C"}"#] {
            assert_eq!(parse(bad).unwrap_err(), SecretError::Malformed);
        }
    }
}
