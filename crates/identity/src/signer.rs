//! Who holds a CA's private key: a port, with the file key of tests and local worlds.

use async_trait::async_trait;
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use secrecy::{ExposeSecret, SecretString};

/// Why a CA's key did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key's holder is out of reach, or throttles: try again.
    #[error("the CA's key is out of reach: {0}")]
    Unavailable(String),
    /// The key's holder says no: missing right, disabled key, wrong kind of key.
    #[error("the CA's key cannot be used: {0}")]
    Refused(String),
}

/// Holds a CA's key: ECDSA on P-256 with SHA-256.
#[async_trait]
pub trait CaSigner: Send + Sync {
    /// Its public key: SubjectPublicKeyInfo, DER.
    async fn public_key(&self) -> Result<Vec<u8>, SignError>;

    /// Signs the message (SHA-256 inside): a DER `ECDSA-Sig-Value`, as X.509 wants it.
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// The key's name as CA certificates record it: a KMS key's ARN, or `file`.
    fn key(&self) -> &str;
}

/// A key in memory, from a PEM file.
pub struct FileSigner {
    key: KeyPair,
}

impl std::fmt::Debug for FileSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileSigner")
    }
}

impl FileSigner {
    /// Takes a PKCS#8 PEM of a P-256 key.
    ///
    /// # Errors
    /// [`SignError::Refused`] when it is none.
    pub fn from_pem(pem: &SecretString) -> Result<Self, SignError> {
        let key = KeyPair::from_pem(pem.expose_secret())
            .map_err(|_| SignError::Refused("the file holds no PKCS#8 PEM of a private key".to_owned()))?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(SignError::Refused("the file's key is not on the curve P-256".to_owned()));
        }
        Ok(Self { key })
    }
}

#[async_trait]
impl CaSigner for FileSigner {
    async fn public_key(&self) -> Result<Vec<u8>, SignError> {
        Ok(self.key.subject_public_key_info())
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key.sign(message).map_err(|error| SignError::Refused(error.to_string()))
    }

    fn key(&self) -> &str {
        "file"
    }
}
