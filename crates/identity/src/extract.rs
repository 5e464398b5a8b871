//! Reads the parts of a certificate that we decide by, once, strictly.

use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::client::IdentityError;

/// Largest certificate that is read, in bytes.
const MAX_DER: usize = 16 * 1024;
/// Most names that are read.
const MAX_NAMES: usize = 200;

/// What a certificate says of itself. Nothing of it is verified here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// First moment, in Unix seconds.
    pub not_before: i64,
    /// Last moment, in Unix seconds.
    pub not_after: i64,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Key identifier of the issuer's key, lower-case hex; empty where it is not said.
    pub issuer_key_id: String,
    /// Key identifier of its own key, lower-case hex; empty where it is not said (a CA says it).
    pub key_id: String,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Its public key: SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
    /// URI names.
    pub(crate) uris: Vec<String>,
    /// DNS names and addresses, as text.
    pub hosts: Vec<String>,
    /// Names of other kinds.
    pub(crate) other_names: usize,
    pub(crate) client_auth: bool,
    pub(crate) server_auth: bool,
    pub(crate) other_usage: bool,
}

impl Certificate {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// [`IdentityError::Malformed`] when it is none, too large, has trailing bytes or an extension twice.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        if der.len() > MAX_DER {
            return Err(IdentityError::Malformed);
        }
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| IdentityError::Malformed)?;
        if !rest.is_empty() || parsed.extensions_map().is_err() {
            return Err(IdentityError::Malformed);
        }
        let mut certificate = Self {
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            serial: hex::encode(parsed.raw_serial()),
            issuer_key_id: String::new(),
            key_id: String::new(),
            is_ca: parsed.is_ca(),
            public_key: parsed.public_key().raw.to_vec(),
            uris: Vec::new(),
            hosts: Vec::new(),
            other_names: 0,
            client_auth: false,
            server_auth: false,
            other_usage: false,
        };
        for extension in parsed.extensions() {
            certificate.take(extension.parsed_extension())?;
        }
        Ok(certificate)
    }

    /// Reads the first certificate of a PEM.
    ///
    /// # Errors
    /// As [`Certificate::from_der`].
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        Self::from_der(&pem_to_der(pem)?)
    }

    /// `sha256:<hex>` of its public key.
    #[must_use]
    pub fn pin(&self) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(&self.public_key)))
    }

    fn take(&mut self, extension: &ParsedExtension<'_>) -> Result<(), IdentityError> {
        match extension {
            ParsedExtension::SubjectAlternativeName(names) => {
                if names.general_names.len() > MAX_NAMES {
                    return Err(IdentityError::Malformed);
                }
                for name in &names.general_names {
                    match name {
                        GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
                        GeneralName::DNSName(host) => self.hosts.push((*host).to_owned()),
                        GeneralName::IPAddress(bytes) => match address(bytes) {
                            Some(address) => self.hosts.push(address.to_string()),
                            None => return Err(IdentityError::Malformed),
                        },
                        _ => self.other_names += 1,
                    }
                }
            }
            ParsedExtension::ExtendedKeyUsage(usage) => {
                self.client_auth = usage.client_auth;
                self.server_auth = usage.server_auth;
                self.other_usage = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
            }
            ParsedExtension::AuthorityKeyIdentifier(authority) => {
                self.issuer_key_id =
                    authority.key_identifier.as_ref().map(|id| hex::encode(id.0)).unwrap_or_default();
            }
            ParsedExtension::SubjectKeyIdentifier(id) => self.key_id = hex::encode(id.0),
            ParsedExtension::ParseError { .. } => return Err(IdentityError::Malformed),
            _ => {}
        }
        Ok(())
    }
}

/// `sha256:<hex>` of a certificate's public key.
///
/// # Errors
/// [`IdentityError::Malformed`] when it is no certificate.
pub fn pin(der: &[u8]) -> Result<String, IdentityError> {
    Certificate::from_der(der).map(|certificate| certificate.pin())
}

/// The DER of the first certificate of a PEM.
pub(crate) fn pem_to_der(pem: &str) -> Result<Vec<u8>, IdentityError> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| IdentityError::Malformed)?;
    if block.label == "CERTIFICATE" { Ok(block.contents) } else { Err(IdentityError::Malformed) }
}

fn address(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(Into::into)
}
