//! The proxy's own certificate: from two files that are read again when they change, or from a secret that is
//! read again every ten minutes. One that cannot be used never takes the place of one that can.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use keystile_identity::Certificate;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret, SecretString};

/// How often a secret is read.
const SECRET_EVERY: Duration = Duration::from_secs(600);
/// How long a secret may take to answer.
const SECRET_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the host certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostCertificateSource {
    /// In two PEM files.
    Files {
        /// The certificate and its chain, the leaf first.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// In a secret of this name or ARN: JSON with `certificate` and `key`, both PEM.
    Secret(String),
}

/// A certificate chain and its key, both PEM.
#[derive(Debug)]
pub struct PemPair {
    /// Certificates, the leaf first.
    pub certificate: String,
    /// The private key.
    pub key: SecretString,
}

/// Reads secrets.
#[async_trait]
pub trait PemSecrets: Send + Sync {
    /// The certificate and key in a secret. The error is text for a log, and shows nothing of the secret.
    async fn pem_pair(&self, secret: &str) -> Result<PemPair, String>;
}

/// Why a host certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostCertificateError {
    /// A file is missing or holds no PEM of its kind.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A secret cannot be read or holds no PEM.
    #[error("secret {name}: {reason}")]
    Secret {
        /// The secret.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The key does not fit the certificate, or is of an unknown kind.
    #[error("the host certificate cannot be used: {0}")]
    Unusable(String),
}

impl From<rustls::Error> for HostCertificateError {
    fn from(error: rustls::Error) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// The certificate in use.
pub struct HostCertificate {
    provider: Arc<CryptoProvider>,
    source: HostCertificateSource,
    secrets: Arc<dyn PemSecrets>,
    current: ArcSwap<CertifiedKey>,
    life: ArcSwap<Life>,
    /// What the source looked like when it was last read with success.
    stamp: ArcSwap<Stamp>,
    /// When the source was last asked, in Unix seconds.
    asked_at: AtomicI64,
    /// The last refusal, so that it is told once.
    fault: ArcSwapOption<HostCertificateError>,
}

impl std::fmt::Debug for HostCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostCertificate").field("source", &self.source).finish_non_exhaustive()
    }
}

/// When a certificate counts, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// First moment.
    pub not_before: i64,
    /// Last moment.
    pub not_after: i64,
}

impl Life {
    /// Seconds at which the end begins to be warned of: a third of the life, at most 14 days.
    #[must_use]
    pub fn warn_below_s(self) -> i64 {
        ((self.not_after - self.not_before) / 3).min(14 * 86_400)
    }
}

/// What tells one state of the source from another.
type Stamp = [Option<SystemTime>; 2];

/// What a look at the source brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Same,
    /// A new certificate is in use.
    New,
    /// It cannot be used, for a reason that was not told yet; the old one stays in use.
    Kept(HostCertificateError),
}

impl HostCertificate {
    /// Reads the certificate for the first time; `now` in Unix seconds.
    ///
    /// # Errors
    /// [`HostCertificateError`].
    pub async fn load(
        provider: Arc<CryptoProvider>,
        source: HostCertificateSource,
        secrets: Arc<dyn PemSecrets>,
        now: i64,
    ) -> Result<Self, HostCertificateError> {
        let stamp = stamp(&source);
        let (current, life) = read(&provider, &source, &*secrets).await?;
        Ok(Self {
            provider,
            source,
            secrets,
            current: ArcSwap::from_pointee(current),
            life: ArcSwap::from_pointee(life),
            stamp: ArcSwap::from_pointee(stamp),
            asked_at: now.into(),
            fault: ArcSwapOption::empty(),
        })
    }

    /// Looks whether there is a new one: files that changed, or a secret whose ten minutes are over; `now` in
    /// Unix seconds.
    pub async fn refresh(&self, now: i64) -> Look {
        let seen = stamp(&self.source);
        if !self.is_due(seen, now) {
            return Look::Same;
        }
        self.asked_at.store(now, Ordering::Relaxed);
        match read(&self.provider, &self.source, &*self.secrets).await {
            Ok((current, life)) => {
                self.stamp.store(Arc::new(seen));
                self.fault.store(None);
                if current.cert == self.current.load().cert {
                    return Look::Same;
                }
                self.current.store(Arc::new(current));
                self.life.store(Arc::new(life));
                Look::New
            }
            Err(fault) if self.fault.load().as_deref() == Some(&fault) => Look::Same,
            Err(fault) => {
                self.fault.store(Some(Arc::new(fault.clone())));
                Look::Kept(fault)
            }
        }
    }

    /// When the certificate in use counts.
    #[must_use]
    pub fn life(&self) -> Life {
        **self.life.load()
    }

    fn is_due(&self, seen: Stamp, now: i64) -> bool {
        match self.source {
            HostCertificateSource::Files { .. } => seen != **self.stamp.load(),
            HostCertificateSource::Secret(_) => {
                now.abs_diff(self.asked_at.load(Ordering::Relaxed)) >= SECRET_EVERY.as_secs()
            }
        }
    }
}

impl ResolvesServerCert for HostCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn stamp(source: &HostCertificateSource) -> Stamp {
    match source {
        HostCertificateSource::Files { certificate, key } => [changed_at(certificate), changed_at(key)],
        HostCertificateSource::Secret(_) => [None, None],
    }
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}

async fn read(
    provider: &CryptoProvider,
    source: &HostCertificateSource,
    secrets: &dyn PemSecrets,
) -> Result<(CertifiedKey, Life), HostCertificateError> {
    let (chain, key) = match source {
        HostCertificateSource::Files { certificate, key } => read_files(certificate, key)?,
        HostCertificateSource::Secret(name) => {
            let fault = |reason: String| HostCertificateError::Secret { name: name.clone(), reason };
            let pair = tokio::time::timeout(SECRET_TIMEOUT, secrets.pem_pair(name))
                .await
                .map_err(|_| fault(format!("no answer within {} s", SECRET_TIMEOUT.as_secs())))?
                .map_err(fault)?;
            let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| fault(format!("certificate: {error}")))?;
            // What the parser says of a key is not shown: it may quote it.
            let key = PrivateKeyDer::from_pem_slice(pair.key.expose_secret().as_bytes())
                .map_err(|_| fault("key: no PEM of a private key".to_owned()))?;
            (chain, key)
        }
    };
    let unusable = |why: &str| HostCertificateError::Unusable(why.to_owned());
    let leaf = chain.first().ok_or_else(|| unusable("there is no certificate in it"))?;
    let seen = Certificate::from_der(leaf).map_err(|error| unusable(&error.to_string()))?;
    let life = Life { not_before: seen.not_before, not_after: seen.not_after };
    Ok((CertifiedKey::from_der(chain, key, provider)?, life))
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read_files(certificate: &Path, key: &Path) -> Result<ChainAndKey, HostCertificateError> {
    let fault = |path: &Path, reason: String| HostCertificateError::File { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fault(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(fault(certificate, "no certificate in it".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, error.to_string()))?;
    Ok((chain, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_warned_of_in_the_last_third_and_no_earlier_than_two_weeks_before() {
        let days = |days: i64| Life { not_before: 0, not_after: days * 86_400 };
        assert_eq!(days(3).warn_below_s(), 86_400);
        assert_eq!(days(365).warn_below_s(), 14 * 86_400);
    }
}
