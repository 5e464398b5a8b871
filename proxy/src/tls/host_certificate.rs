//! The proxy's own certificate, from two files that are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a host certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostCertificateError {
    /// A file is missing or holds no PEM of its kind.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("the host certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// The certificate in use.
#[derive(Debug)]
pub struct HostCertificate {
    provider: Arc<CryptoProvider>,
    certificate: PathBuf,
    key: PathBuf,
    current: ArcSwap<CertifiedKey>,
    read_at: ArcSwap<[Option<SystemTime>; 2]>,
}

impl HostCertificate {
    /// Reads the files.
    ///
    /// # Errors
    /// [`HostCertificateError`].
    pub fn load(
        provider: Arc<CryptoProvider>,
        certificate: PathBuf,
        key: PathBuf,
    ) -> Result<Self, HostCertificateError> {
        let read_at = [changed_at(&certificate), changed_at(&key)];
        let current = read(&provider, &certificate, &key)?;
        Ok(Self {
            provider,
            certificate,
            key,
            current: ArcSwap::from_pointee(current),
            read_at: ArcSwap::from_pointee(read_at),
        })
    }

    /// Reads the files again if they changed. True where a new certificate is in use.
    ///
    /// # Errors
    /// [`HostCertificateError`]; the old certificate stays in use.
    pub fn refresh(&self) -> Result<bool, HostCertificateError> {
        let seen = [changed_at(&self.certificate), changed_at(&self.key)];
        if seen == **self.read_at.load() {
            return Ok(false);
        }
        let current = read(&self.provider, &self.certificate, &self.key)?;
        self.current.store(Arc::new(current));
        self.read_at.store(Arc::new(seen));
        Ok(true)
    }
}

impl ResolvesServerCert for HostCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

fn read(
    provider: &CryptoProvider,
    certificate: &Path,
    key: &Path,
) -> Result<CertifiedKey, HostCertificateError> {
    let fault = |path: &Path, reason: String| HostCertificateError::File { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fault(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(fault(certificate, "no certificate in it".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, error.to_string()))?;
    Ok(CertifiedKey::from_der(chain, secret, provider)?)
}
