//! Key pairs made on this machine. The private half goes into a file of its owner's and nowhere else.

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use secrecy::SecretString;

use crate::failure::Failure;

/// A P-256 key pair.
#[derive(Debug)]
pub(crate) struct Pair {
    /// SubjectPublicKeyInfo, PEM.
    pub(crate) public: String,
    /// PKCS#8, PEM.
    pub(crate) private: SecretString,
}

impl Pair {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, Failure> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(|pair| Self::of(&pair))
            .map_err(|error| Failure::failed("no key pair could be made").why(error.to_string()))
    }

    /// One that was made before; none if the text is no key.
    pub(crate) fn read(private: &str) -> Option<Self> {
        KeyPair::from_pem(private).ok().map(|pair| Self::of(&pair))
    }

    fn of(pair: &KeyPair) -> Self {
        Self { public: pair.public_key_pem(), private: SecretString::from(pair.serialize_pem()) }
    }
}
