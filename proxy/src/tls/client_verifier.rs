//! Whether a client certificate is signed by a user CA of the policy of this moment.
//!
//! A bad certificate is a TLS error, never "none". One whose life is over (or has not begun) passes here if
//! its signature is good: the client is then told so in words, which a TLS alert cannot. For the same reason
//! any passes while there is no policy yet; whoever lets a client in must then ask [`ClientVerifier::verify`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keystile_identity::Certificate;
use keystile_model::policy::{CaKind, Policy};
use keystile_state::policy_feed::PolicySnapshot;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use tokio::sync::watch;

type Verifier = Arc<dyn ClientCertVerifier>;

/// Verifies client certificates against the current policy.
#[derive(Debug)]
pub struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    policy: watch::Receiver<PolicySnapshot>,
    built: Mutex<Option<(Vec<String>, Verifier)>>,
}

impl ClientVerifier {
    /// A verifier that follows this policy.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>, policy: watch::Receiver<PolicySnapshot>) -> Self {
        Self { provider, policy, built: Mutex::new(None) }
    }

    /// Verifies a chain again, as after a resumed handshake, which verifies nothing.
    ///
    /// # Errors
    /// As rustls says it.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        let Some((end, intermediates)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        self.judge(end, intermediates, now)
    }

    fn judge(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let seen = Certificate::from_der(end)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let within = at.min(seen.not_after).max(seen.not_before);
        let within = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(within).unwrap_or(0)));
        self.current()?.verify_client_cert(end, intermediates, within).map(drop)
    }

    fn current(&self) -> Result<Verifier, Error> {
        let pems = self.policy.borrow().policy.as_deref().map(user_cas).unwrap_or_default();
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, verifier)) = &*built
            && *of == pems
        {
            return Ok(Arc::clone(verifier));
        }
        let mut roots = RootCertStore::empty();
        for pem in &pems {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
                if let Err(error) = roots.add(certificate) {
                    tracing::warn!(%error, "a certificate of the user CA cannot be used");
                }
            }
        }
        let verifier: Verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        *built = Some((pems, Arc::clone(&verifier)));
        Ok(verifier)
    }
}

fn user_cas(policy: &Policy) -> Vec<String> {
    policy.ca_certificates(CaKind::User).map(|certificate| certificate.pem.clone()).collect()
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Clients have one certificate for us; hints would only choose among several.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        // Without one the client is told in words.
        false
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.policy.borrow().policy.is_some() {
            self.judge(end, intermediates, now)?;
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
