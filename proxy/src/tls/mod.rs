//! TLS with clients: the host certificate, the client certificates that count, and resumption.

mod client_verifier;
mod host_certificate;
mod remembered;
mod tickets;
pub mod watch;

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{CipherSuite, ServerConfig};

pub use client_verifier::ClientVerifier;
pub use host_certificate::{
    HostCertificate, HostCertificateError, HostCertificateSource, Life, Look, PemPair, PemSecrets,
};
pub(crate) use remembered::Remembered;

/// The one crypto provider, with the order of ciphers and key exchanges that we want.
///
/// AES-128 with SHA-256 first: what a cache takes is the first of our offer, and SHA-256 has instructions of
/// its own where SHA-384 has none, which shows in each handshake; 128 bits are no weakness.
///
/// X25519 first: clients and caches all have it, and it is the cheapest. The hybrid with ML-KEM is left
/// out: its share of 1.2 KB makes the hello longer than one packet, and costs more CPU than the rest of a
/// resumed handshake, for connections that stay inside a VPC or behind a tunnel.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    // Stable: the rest stays in the order of the provider.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider.kx_groups =
        vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1, aws_lc_rs::kx_group::SECP384R1];
    Arc::new(provider)
}

/// The configuration for clients: TLS 1.2 and 1.3, a client certificate asked for, no early data, one ticket.
///
/// # Errors
/// When the provider cannot do both versions, or no ticket keys can be made.
pub fn server_config(
    provider: Arc<CryptoProvider>,
    certificate: Arc<HostCertificate>,
    verifier: Arc<ClientVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.ticketer = tickets::ticketer()?;
    // One is enough for a client that comes back; each costs a record with the client's certificate in it.
    config.send_tls13_tickets = 1;
    Ok(config)
}
