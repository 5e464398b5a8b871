//! Whether a client certificate is signed by a user CA of the policy of this moment.
//!
//! A bad certificate is a TLS error, never "none". One whose life is over (or has not begun) passes here if
//! its signature is good: the client is then told so in words, which a TLS alert cannot. For the same reason
//! any passes while there is no policy yet; whoever lets a client in must then ask [`ClientVerifier::verify`].
//!
//! That a CA of this moment signed a certificate is remembered while the certificate lives, so that a client
//! that comes back costs no other check of a signature. What is remembered goes with the set of CAs that it
//! was found by: when a CA comes or goes, all is forgotten.

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

use super::Remembered;

/// A set of CAs, and what they were found to have signed.
#[derive(Debug)]
struct Trust {
    pems: Vec<String>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// By certificate: its first and last moment, in Unix seconds.
    signed: Remembered<(i64, i64)>,
}

impl Trust {
    /// Whether this certificate was found to be signed, and lives.
    fn knows(&self, end: &[u8], at: i64) -> bool {
        self.signed.get(end).is_some_and(|(first, last)| (first..=last).contains(&at))
    }
}

/// Verifies client certificates against the current policy.
#[derive(Debug)]
pub struct ClientVerifier {
    provider: Arc<CryptoProvider>,
    policy: watch::Receiver<PolicySnapshot>,
    built: Mutex<Option<Arc<Trust>>>,
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
        let trust = self.trust()?;
        let at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        // An intermediate has a life of its own, so only what a CA signed itself is remembered.
        if intermediates.is_empty() && trust.knows(end, at) {
            return Ok(());
        }
        let seen = Certificate::from_der(end)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let within = at.min(seen.not_after).max(seen.not_before);
        let moment = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(within).unwrap_or(0)));
        trust.verifier.verify_client_cert(end, intermediates, moment)?;
        if intermediates.is_empty() && within == at {
            trust.signed.put(end, (seen.not_before, seen.not_after));
        }
        Ok(())
    }

    /// The CAs of the policy of this moment.
    fn trust(&self) -> Result<Arc<Trust>, Error> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let pems: Vec<String> = {
            let snapshot = self.policy.borrow();
            if let Some(trust) = &*built
                && user_cas(snapshot.policy.as_deref()).eq(trust.pems.iter().map(String::as_str))
            {
                return Ok(Arc::clone(trust));
            }
            user_cas(snapshot.policy.as_deref()).map(str::to_owned).collect()
        };
        let mut roots = RootCertStore::empty();
        for pem in &pems {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()).flatten() {
                if let Err(error) = roots.add(certificate) {
                    tracing::warn!(%error, "a certificate of the user CA cannot be used");
                }
            }
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
                .build()
                .map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let trust = Arc::new(Trust { pems, verifier, signed: Remembered::default() });
        *built = Some(Arc::clone(&trust));
        Ok(trust)
    }
}

fn user_cas(policy: Option<&Policy>) -> impl Iterator<Item = &str> {
    policy
        .into_iter()
        .flat_map(|policy| policy.ca_certificates(CaKind::User))
        .map(|certificate| certificate.pem.as_str())
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

#[cfg(test)]
mod tests {
    use keystile_model::feed::Entity;
    use keystile_model::policy::CaCertificate;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use time::{Duration as Span, OffsetDateTime};

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca(name: &str) -> Ca {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(ca: &Ca, now: OffsetDateTime) -> CertificateDer<'static> {
        let mut params = CertificateParams::new([]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (now, now + Span::HOUR);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, ca).unwrap().der().clone()
    }

    fn policy(cas: &[&Ca], now: OffsetDateTime) -> PolicySnapshot {
        let certificates = (1..).zip(cas).map(|(generation, ca)| {
            Entity::CaCertificate(CaCertificate {
                ca: CaKind::User,
                generation,
                pem: ca.pem(),
                key: "file".to_owned(),
                signing: true,
            })
        });
        PolicySnapshot::of(Policy::new(certificates), now)
    }

    fn unix(at: OffsetDateTime) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(at.unix_timestamp().try_into().unwrap()))
    }

    #[test]
    fn what_is_remembered_goes_with_the_ca_and_with_the_certificate_s_life() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let (old, new) = (ca("old"), ca("new"));
        let (tell, policies) = watch::channel(policy(&[&old], now));
        let verifier = ClientVerifier::new(super::super::provider(), policies);
        let remembered = || verifier.trust().unwrap().signed.len();
        let certificate = [leaf(&old, now)];

        // Out of its life it passes as signed, and is not remembered.
        assert_eq!(verifier.verify(&certificate, unix(now + Span::HOUR * 2)), Ok(()));
        assert_eq!(remembered(), 0);
        for _ in 0..2 {
            assert_eq!(verifier.verify(&certificate, unix(now)), Ok(()));
            assert_eq!(remembered(), 1);
        }
        let trust = verifier.trust().unwrap();
        assert!(trust.knows(&certificate[0], now.unix_timestamp() + 3_600));
        assert!(!trust.knows(&certificate[0], now.unix_timestamp() + 3_601));
        assert!(!trust.knows(&certificate[0], now.unix_timestamp() - 1));

        tell.send(policy(&[&old, &new], now)).unwrap();
        assert_eq!(verifier.verify(&[leaf(&new, now)], unix(now)), Ok(()));
        assert_eq!(verifier.verify(&certificate, unix(now)), Ok(()));
        tell.send(policy(&[&new], now)).unwrap();
        assert!(verifier.verify(&certificate, unix(now)).is_err());
        assert_eq!(remembered(), 0);
        tell.send(policy(&[], now)).unwrap();
        assert!(verifier.verify(&certificate, unix(now)).is_err());
    }

    #[test]
    fn what_failed_is_not_remembered() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let (own, foreign) = (ca("own"), ca("foreign"));
        let (_tell, policies) = watch::channel(policy(&[&own], now));
        let verifier = ClientVerifier::new(super::super::provider(), policies);
        let trust = verifier.trust().unwrap();
        assert!(verifier.verify(&[leaf(&foreign, now)], unix(now)).is_err());
        assert_eq!(trust.signed.len(), 0);
    }
}
