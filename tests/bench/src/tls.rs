//! TLS for the relay and the clients: TLS 1.3, one cipher suite and one key exchange, so that no target can
//! be measured with a cheaper negotiation than another.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// TLS sessions that a client keeps. A TLS 1.3 ticket is used once, so a generator that resumes needs as
/// many as it has connections under way; rustls keeps 8 for a name.
const KEPT_SESSIONS: usize = 256;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// A client that trusts the CAs in a file, shows a certificate if it has one, and resumes if it may.
pub(crate) fn client(ca: &Path, identity: Option<(&Path, &Path)>, resume: bool) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(ca)?);
    let mut config = match identity {
        Some((cert, key)) => builder.with_client_auth_cert(certificates(cert)?, private_key(key)?)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption =
        if resume { Resumption::in_memory_sessions(KEPT_SESSIONS) } else { Resumption::disabled() };
    Ok(config)
}

/// A server that requires a client certificate of a CA and resumes by tickets.
pub(crate) fn server(cert: &Path, key: &Path, client_ca: &Path) -> Result<ServerConfig> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(client_ca)?), provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(cert)?, private_key(key)?)?;
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates = read.with_context(|| format!("cannot read certificates from {}", path.display()))?;
    ensure!(!certificates.is_empty(), "there is no certificate in {}", path.display());
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("cannot read the key in {}", path.display()))
}
