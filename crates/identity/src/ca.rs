//! A CA: its certificate, and the one way in which it signs.
//!
//! The signing key may be far away (KMS), and the certificate builder is not asynchronous. So a certificate
//! is built twice: once to learn the bytes to sign, and once with their signature, which is handed out only
//! for exactly those bytes. What comes out is verified with the CA's public key before anybody gets it.

use std::sync::Mutex;

use keystile_model::policy::CaKind;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData, SerialNumber, SigningKey, SubjectPublicKeyInfo,
};
use time::OffsetDateTime;
use uuid::Uuid;
use x509_parser::prelude::FromDer;

use crate::extract::{Certificate, pem_to_der};
use crate::signer::{CaSigner, SignError};

/// Life of a CA's certificate, in seconds: 10 years of 365.25 days.
pub const CA_LIFE_S: i64 = 315_576_000;

/// Why nothing was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The CA's key.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The CA's certificate cannot be read, is no CA's, or belongs to another key.
    #[error("the CA's certificate does not fit: {0}")]
    Ca(&'static str),
    /// Something that was asked for cannot stand in a certificate.
    #[error("{0}")]
    Request(String),
    /// The certificate's life would end before it begins, or after the CA's.
    #[error("the certificate's life does not fit: {0}")]
    Life(&'static str),
}

/// A signed certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER.
    pub der: Vec<u8>,
    /// PEM.
    pub pem: String,
    /// Last moment, in Unix seconds.
    pub not_after: i64,
    /// Serial number, lower-case hex.
    pub serial: String,
}

/// A CA that can sign: its certificate and its key.
pub struct Authority<'a> {
    der: Vec<u8>,
    certificate: Certificate,
    signer: &'a dyn CaSigner,
    public_key: SubjectPublicKeyInfo,
}

impl std::fmt::Debug for Authority<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("key_id", &self.certificate.key_id).finish_non_exhaustive()
    }
}

/// Makes the self-signed certificate of a CA's key: CN `<deployment> <user|host> CA <generation>`, path length
/// 0, certificate signing only, from a minute ago for [`CA_LIFE_S`].
///
/// # Errors
/// [`IssueError`] when the key does not sign.
pub async fn self_sign(
    deployment: &str,
    kind: CaKind,
    generation: u32,
    signer: &dyn CaSigner,
    now: i64,
    serial: Uuid,
) -> Result<Issued, IssueError> {
    let public_key = public_key_of(signer).await?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("{deployment} {} CA {generation}", kind.as_str()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    dates(&mut params, now - crate::certificate::SKEW_S, now + CA_LIFE_S)?;
    params.serial_number = Some(serial_number(serial));
    let build = |key: &TwoPass| params.self_signed(&key).map(|made| made.der().to_vec());
    sign_twice(&public_key, signer, build).await
}

impl<'a> Authority<'a> {
    /// Puts a CA's certificate and its key together.
    ///
    /// # Errors
    /// [`IssueError::Ca`] unless the certificate is a CA's and of this very key.
    pub async fn new(pem: &str, signer: &'a dyn CaSigner) -> Result<Self, IssueError> {
        let der = pem_to_der(pem).map_err(|_| IssueError::Ca("it cannot be read"))?;
        let certificate = Certificate::from_der(&der).map_err(|_| IssueError::Ca("it cannot be read"))?;
        if !certificate.is_ca {
            return Err(IssueError::Ca("it may not sign"));
        }
        let public_key = public_key_of(signer).await?;
        if certificate.public_key != public_key.subject_public_key_info() {
            return Err(IssueError::Ca("it belongs to another key than the configured one"));
        }
        Ok(Self { der, certificate, signer, public_key })
    }

    /// Signs a leaf.
    pub(crate) async fn issue(
        &self,
        mut params: CertificateParams,
        subject: &SubjectPublicKeyInfo,
        life: (i64, i64),
        serial: Uuid,
    ) -> Result<Issued, IssueError> {
        if life.1 > self.certificate.not_after {
            return Err(IssueError::Life("it would outlive its CA"));
        }
        dates(&mut params, life.0, life.1)?;
        params.serial_number = Some(serial_number(serial));
        params.use_authority_key_identifier_extension = true;
        params.is_ca = IsCa::ExplicitNoCa;
        let build = |key: &TwoPass| {
            let issuer = Issuer::from_ca_cert_der(&self.der.as_slice().into(), key)?;
            params.signed_by(subject, &issuer).map(|made| made.der().to_vec())
        };
        sign_twice(&self.public_key, self.signer, build).await
    }
}

pub(crate) fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 ends a common name at 64 characters; who it is stands in the URI, not here.
    name.push(DnType::CommonName, text.chars().take(64).collect::<String>());
    name
}

fn dates(params: &mut CertificateParams, from: i64, until: i64) -> Result<(), IssueError> {
    if until <= from {
        return Err(IssueError::Life("it would end before it begins"));
    }
    let date = |at| OffsetDateTime::from_unix_timestamp(at).map_err(|_| IssueError::Life("no such date"));
    params.not_before = date(from)?;
    params.not_after = date(until)?;
    Ok(())
}

/// A positive number of 16 bytes that never begins with a zero byte.
fn serial_number(uuid: Uuid) -> SerialNumber {
    let mut bytes = *uuid.as_bytes();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

async fn public_key_of(signer: &dyn CaSigner) -> Result<SubjectPublicKeyInfo, IssueError> {
    let der = signer.public_key().await?;
    let key = SubjectPublicKeyInfo::from_der(&der).map_err(|_| IssueError::Ca("its key cannot be read"))?;
    if key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 {
        Ok(key)
    } else {
        Err(IssueError::Ca("its key is not on the curve P-256"))
    }
}

/// First pass: `signature` is none and the message is kept. Second pass: the signature, for that message only.
struct TwoPass<'a> {
    public_key: &'a SubjectPublicKeyInfo,
    message: Mutex<Option<Vec<u8>>>,
    signature: Option<Vec<u8>>,
}

impl PublicKeyData for TwoPass<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.public_key.der_bytes()
    }
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public_key.algorithm()
    }
}

impl SigningKey for TwoPass<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let mut kept = self.message.lock().map_err(|_| rcgen::Error::RemoteKeyError)?;
        match &self.signature {
            None => {
                *kept = Some(message.to_vec());
                Ok(vec![0; 70])
            }
            Some(signature) if kept.as_deref() == Some(message) => Ok(signature.clone()),
            Some(_) => Err(rcgen::Error::RemoteKeyError),
        }
    }
}

async fn sign_twice(
    public_key: &SubjectPublicKeyInfo,
    signer: &dyn CaSigner,
    build: impl Fn(&TwoPass<'_>) -> Result<Vec<u8>, rcgen::Error>,
) -> Result<Issued, IssueError> {
    let refuse = |error: rcgen::Error| IssueError::Request(error.to_string());
    let mut key = TwoPass { public_key, message: Mutex::new(None), signature: None };
    build(&key).map_err(refuse)?;
    let message = key.message.lock().ok().and_then(|mut kept| kept.take()).unwrap_or_default();
    key.signature = Some(signer.sign(&message).await?);
    key.message = Mutex::new(Some(message));
    let der = build(&key).map_err(refuse)?;
    verify(&der, public_key)?;
    let made = Certificate::from_der(&der).map_err(|_| IssueError::Ca("what it signed cannot be read"))?;
    Ok(Issued { pem: to_pem(&der), not_after: made.not_after, serial: made.serial, der })
}

fn verify(der: &[u8], public_key: &SubjectPublicKeyInfo) -> Result<(), IssueError> {
    let wrong = |_| IssueError::Ca("its key made a signature that does not verify");
    let spki = public_key.subject_public_key_info();
    let (_, key) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&spki)
        .map_err(|_| IssueError::Ca("its key cannot be read"))?;
    let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
        .map_err(|_| IssueError::Ca("what it signed cannot be read"))?;
    certificate.verify_signature(Some(&key)).map_err(wrong)
}

fn to_pem(der: &[u8]) -> String {
    use std::fmt::Write as _;
    let text = base64(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        let _ = writeln!(pem, "{}", String::from_utf8_lossy(line));
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
