//! Key pairs that are made on a person's machine or for a proxy.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use secrecy::SecretString;

/// A new key pair.
#[derive(Debug)]
pub struct NewKey {
    /// PKCS#8, PEM.
    pub private: SecretString,
    /// SubjectPublicKeyInfo, PEM.
    pub public: String,
    /// SubjectPublicKeyInfo, DER.
    pub public_der: Vec<u8>,
}

/// The system's random numbers failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key could be made: {0}")]
pub struct KeyError(String);

/// Makes a P-256 key pair with the system's random numbers.
///
/// # Errors
/// [`KeyError`] when these fail.
pub fn generate() -> Result<NewKey, KeyError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|error| KeyError(error.to_string()))?;
    Ok(NewKey {
        private: SecretString::from(key.serialize_pem()),
        public: key.public_key_pem(),
        public_der: key.subject_public_key_info(),
    })
}
