//! TLS towards caches: which CAs count, and in words what went wrong.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, ClientConfig, RootCertStore};

/// Caches whose TLS sessions are kept for resumption: a handshake costs a cache CPU too.
const RESUMABLE: usize = 4_096;
/// Static databases' own CAs that are kept compiled.
const MOST_CONFIGS: usize = 1_024;

/// Why CAs cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct CaError(String);

/// TLS configurations for caches.
#[derive(Debug)]
pub struct CacheTls {
    provider: Arc<CryptoProvider>,
    common: Arc<ClientConfig>,
    by_ca: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

impl CacheTls {
    /// The public roots, or the CAs in a file.
    ///
    /// # Errors
    /// [`CaError`] when the file cannot be read or holds no certificate.
    pub fn new(provider: Arc<CryptoProvider>, ca_file: Option<&Path>) -> Result<Self, CaError> {
        let roots = match ca_file {
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
            Some(path) => {
                let pem =
                    std::fs::read(path).map_err(|error| CaError(format!("{}: {error}", path.display())))?;
                roots_of(&pem).map_err(|error| CaError(format!("{}: {error}", path.display())))?
            }
        };
        let common = config(&provider, roots)?;
        Ok(Self { provider, common, by_ca: Mutex::default() })
    }

    /// The configuration for a database with this CA of its own, or for any other.
    ///
    /// # Errors
    /// [`CaError`] when the CA is no certificate.
    pub fn for_ca(&self, ca: Option<&str>) -> Result<Arc<ClientConfig>, CaError> {
        let Some(pem) = ca else { return Ok(Arc::clone(&self.common)) };
        let mut by_ca = self.by_ca.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = by_ca.get(pem) {
            return Ok(Arc::clone(config));
        }
        let config = config(&self.provider, roots_of(pem.as_bytes())?)?;
        if by_ca.len() >= MOST_CONFIGS {
            by_ca.clear();
        }
        by_ca.insert(pem.to_owned(), Arc::clone(&config));
        Ok(config)
    }
}

fn roots_of(pem: &[u8]) -> Result<RootCertStore, CaError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| CaError(error.to_string()))?;
        roots.add(certificate).map_err(|error| CaError(error.to_string()))?;
    }
    if roots.is_empty() { Err(CaError("there is no CA certificate in it".to_owned())) } else { Ok(roots) }
}

fn config(provider: &Arc<CryptoProvider>, roots: RootCertStore) -> Result<Arc<ClientConfig>, CaError> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| CaError(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(RESUMABLE);
    Ok(Arc::new(config))
}

/// What went wrong in a handshake, for the client.
#[must_use]
pub fn words(error: &std::io::Error, host: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(fault)) => certificate_words(fault, host),
        Some(rustls::Error::AlertReceived(alert)) => format!("the cache ended it with alert {alert:?}"),
        Some(rustls::Error::InvalidMessage(_)) => {
            "the answer is not TLS: is in-transit encryption enabled on the cache?".to_owned()
        }
        Some(other) => other.to_string(),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the cache closed the connection: is in-transit encryption enabled on it?".to_owned()
        }
        None => error.to_string(),
    }
}

fn certificate_words(fault: &CertificateError, host: &str) -> String {
    let what = match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: check the clocks"
        }
        CertificateError::UnknownIssuer => "is signed by none of the CAs that are trusted for caches",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            return format!("the cache's certificate is not for {host}");
        }
        other => return format!("the cache's certificate cannot be verified: {other:?}"),
    };
    format!("the cache's certificate {what}")
}
