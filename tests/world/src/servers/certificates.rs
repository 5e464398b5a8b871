//! The caches' certificate authority and the one certificate of all nodes, made anew at each start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::world::paths::replace_file;

/// Names that the APIs may give as endpoint hosts; all are this machine.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Paths of PEM files.
#[derive(Debug, Clone)]
pub struct Certificates {
    /// The authority that clients trust.
    pub ca: PathBuf,
    /// The nodes' certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes an authority and a certificate, and writes them into a folder. The authority's key is
    /// not kept.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn make(folder: &Path) -> Result<Self> {
        let files = Self {
            ca: folder.join("ca.pem"),
            certificate: folder.join("node.pem"),
            key: folder.join("node-key.pem"),
        };
        let (ca, certificate, key) = generate().context("cannot make certificates")?;
        replace_file(&files.ca, ca.as_bytes())?;
        replace_file(&files.certificate, certificate.as_bytes())?;
        replace_file(&files.key, key.as_bytes())?;
        Ok(files)
    }
}

fn generate() -> Result<(String, String, String), rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params(Vec::new(), "keystile local caches' CA")?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_certificate = ca.self_signed(&ca_key)?;

    let key = KeyPair::generate()?;
    let mut leaf = params(NAMES.map(str::to_owned).to_vec(), "keystile local cache")?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Replicas and cluster peers dial each other with the same certificate.
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf.use_authority_key_identifier_extension = true;
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok((ca_certificate.pem(), certificate.pem(), key.serialize_pem()))
}

fn params(names: Vec<String>, common_name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2045, 1, 1);
    Ok(params)
}
