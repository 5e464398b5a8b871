//! A certificate with its key from Secrets Manager: JSON with `certificate` and `key`, both PEM.

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
    fn what_a_secret_holds() {
        let pair = parse(r#"{"certificate": "C", "key": "K"}"#).unwrap();
        assert_eq!((pair.certificate.as_str(), pair.key.expose_secret()), ("C", "K"));
        assert!(!format!("{pair:?}").contains("\"K\""));
        for bad in ["", "K", r#"{"certificate": "C"}"#] {
            assert_eq!(parse(bad).unwrap_err(), SecretError::Malformed);
        }
    }
}
