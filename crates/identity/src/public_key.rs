//! The public keys that get a certificate: P-256, Ed25519, and RSA of 2,048 to 4,096 bits. No others.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// Largest PEM that is read, in bytes: an RSA key of 4,096 bits takes 800.
pub const MAX_PEM: usize = 4 * 1024;
const LABEL: &str = "-----BEGIN PUBLIC KEY-----";

/// A public key that may get a certificate.
#[derive(Debug, Clone)]
pub struct SubjectKey {
    pub(crate) spki: SubjectPublicKeyInfo,
}

/// Why a public key gets no certificate. The text is fit for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// Over the limit.
    #[error("the public key is larger than {MAX_PEM} bytes")]
    TooLarge,
    /// No PEM of a SubjectPublicKeyInfo.
    #[error("the public key is no PEM of a SubjectPublicKeyInfo ({LABEL})")]
    Malformed,
    /// Another algorithm, curve or size.
    #[error(
        "keys on P-256, Ed25519 keys and RSA keys of 2,048 to 4,096 bits get certificates, others do not"
    )]
    Kind,
}

impl SubjectKey {
    /// Reads a SubjectPublicKeyInfo, PEM.
    ///
    /// # Errors
    /// [`PublicKeyError`] when it is too large, malformed, or of a kind that gets no certificate.
    pub fn from_pem(pem: &str) -> Result<Self, PublicKeyError> {
        if pem.len() > MAX_PEM {
            return Err(PublicKeyError::TooLarge);
        }
        if !pem.trim_start().starts_with(LABEL) || pem.matches("-----BEGIN").count() != 1 {
            return Err(PublicKeyError::Malformed);
        }
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| PublicKeyError::Malformed)?;
        Self::from_der(&block.contents)
    }

    /// Reads a SubjectPublicKeyInfo, DER.
    ///
    /// # Errors
    /// As [`SubjectKey::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        if der.len() > MAX_PEM {
            return Err(PublicKeyError::TooLarge);
        }
        let (rest, parsed) =
            x509_parser::x509::SubjectPublicKeyInfo::from_der(der).map_err(|_| PublicKeyError::Malformed)?;
        if !rest.is_empty() {
            return Err(PublicKeyError::Malformed);
        }
        let spki = SubjectPublicKeyInfo::from_der(der).map_err(|_| PublicKeyError::Kind)?;
        let algorithm = rcgen::PublicKeyData::algorithm(&spki);
        let length = parsed.subject_public_key.data.len();
        let legal = if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            // An uncompressed point: 04, x, y.
            length == 65 && parsed.subject_public_key.data.first() == Some(&4)
        } else if algorithm == &rcgen::PKCS_ED25519 {
            length == 32
        } else {
            match parsed.parsed() {
                Ok(PublicKey::RSA(rsa)) => {
                    (2_048..=4_096).contains(&rsa.key_size())
                        && rsa.try_exponent().is_ok_and(|e| e >= 65_537 && e % 2 == 1)
                }
                _ => false,
            }
        };
        if legal { Ok(Self { spki }) } else { Err(PublicKeyError::Kind) }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    #[test]
    fn the_kinds_that_are_taken() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            SubjectKey::from_pem(&key.public_key_pem()).unwrap();
        }
        let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        SubjectKey::from_pem(&rsa.public_key_pem()).unwrap();
    }

    #[test]
    fn what_is_refused() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(SubjectKey::from_pem(&p384.public_key_pem()).unwrap_err(), PublicKeyError::Kind);
        let good = KeyPair::generate().unwrap();
        assert_eq!(SubjectKey::from_pem(&good.serialize_pem()).unwrap_err(), PublicKeyError::Malformed);
        let twice = good.public_key_pem().repeat(2);
        assert_eq!(SubjectKey::from_pem(&twice).unwrap_err(), PublicKeyError::Malformed);
        assert_eq!(SubjectKey::from_pem("").unwrap_err(), PublicKeyError::Malformed);
        let cut = good.public_key_pem().replace("MFkw", "MFk");
        assert_eq!(SubjectKey::from_pem(&cut).unwrap_err(), PublicKeyError::Malformed);
        assert_eq!(SubjectKey::from_pem(&"x".repeat(5_000)).unwrap_err(), PublicKeyError::TooLarge);
        let mut trailing = rcgen::PublicKeyData::subject_public_key_info(&good);
        trailing.push(0);
        assert_eq!(SubjectKey::from_der(&trailing).unwrap_err(), PublicKeyError::Malformed);
    }
}
