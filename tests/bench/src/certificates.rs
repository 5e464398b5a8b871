//! Certificates for the relay and its clients, of the kind that Keystile's own have: ECDSA P-256, signed by
//! a CA directly, a client's with a URI of a route. Both sides verify as much as before the proxy.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use std::io::Write as _;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};

/// Where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    out: PathBuf,
}

/// Makes them anew.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    std::fs::create_dir_all(&arguments.out)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "keystile bench CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)?;
    write(&arguments.out.join("ca.pem"), &ca.pem())?;

    let mut server = CertificateParams::new(vec!["localhost".to_owned()])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(server, &ca, &arguments.out, "server")?;

    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, "alice");
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.subject_alt_names = ["user/alice", "route/orders/iam-rw"]
        .iter()
        .map(|path| Ok(SanType::URI(format!("keystile://bench/{path}").try_into()?)))
        .collect::<Result<_, rcgen::Error>>()?;
    sign(client, &ca, &arguments.out, "client")
}

fn sign(
    params: CertificateParams,
    ca: &CertifiedIssuer<'_, KeyPair>,
    folder: &Path,
    name: &str,
) -> Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.signed_by(&key, ca)?;
    write(&folder.join(format!("{name}.pem")), &certificate.pem())?;
    write(&folder.join(format!("{name}.key")), &key.serialize_pem())
}

fn write(path: &Path, text: &str) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file.write_all(text.as_bytes())?)
}
