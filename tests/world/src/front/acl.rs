//! A minimal RESP client that brings users to a cache server, over TLS, as the servers' own admin.
//!
//! It sends `ACL SETUSER` and `ACL DELUSER` and reads one-line answers; it refuses any longer one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::caches::changes::Effect;
use crate::fixture::{self, CacheAuth};

/// How long a server is tried before the change goes on without it.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer to an ACL command is longer.
const LINE_LIMIT: u64 = 4096;

/// Who brings users to servers.
#[derive(Clone)]
pub(crate) struct ServerAdmin {
    tls: TlsConnector,
    password: String,
}

impl std::fmt::Debug for ServerAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerAdmin")
    }
}

impl ServerAdmin {
    /// The admin with its password, who trusts the CA in a PEM file.
    pub(crate) fn new(ca: &Path, password: &str) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in
            CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {}", ca.display()))?
        {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), password: password.into() })
    }

    /// Brings users to one server; tries again for a while where it does not answer.
    pub(crate) async fn apply(&self, host: &str, port: u16, effects: &[Effect]) -> anyhow::Result<()> {
        let start = tokio::time::Instant::now();
        loop {
            let attempt = tokio::time::timeout(Duration::from_secs(5), self.once(host, port, effects)).await;
            match attempt {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if start.elapsed() > PATIENCE => return Err(error),
                Err(_) if start.elapsed() > PATIENCE => bail!("{host}:{port} does not answer"),
                _ => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }

    async fn once(&self, host: &str, port: u16, effects: &[Effect]) -> anyhow::Result<()> {
        let socket = TcpStream::connect((host, port)).await?;
        let stream = self.tls.connect(ServerName::try_from(host.to_owned())?, socket).await?;
        let mut stream = BufReader::new(stream);
        ask(&mut stream, &["AUTH", fixture::TEST_ADMIN, &self.password]).await?;
        for effect in effects {
            let words = command(effect);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            ask(&mut stream, &words).await?;
        }
        // Without an ACL file there is nothing to save, which is no fault.
        let _ = ask(&mut stream, &["ACL", "SAVE"]).await;
        Ok(())
    }
}

fn command(effect: &Effect) -> Vec<String> {
    let words = |verb: &str, name: &String| vec!["ACL".to_owned(), verb.to_owned(), name.clone()];
    match effect {
        Effect::Set { name, auth, access } => {
            let mut words = words("SETUSER", name);
            words.extend(fixture::acl_rules(auth, access));
            words
        }
        // The default user can't be deleted from a server.
        Effect::Remove { name } if name == "default" => {
            let mut words = words("SETUSER", name);
            words.extend(fixture::acl_rules(&CacheAuth::None, "off -@all"));
            words
        }
        Effect::Remove { name } => words("DELUSER", name),
    }
}

async fn ask<S: AsyncBufReadExt + AsyncWriteExt + Unpin>(
    stream: &mut S,
    words: &[&str],
) -> anyhow::Result<()> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = String::new();
    (&mut *stream).take(LINE_LIMIT).read_line(&mut line).await?;
    match line.chars().next() {
        Some('+' | ':') => Ok(()),
        // The answer of a refused command; it repeats no secret but may repeat a rule.
        Some('-') => bail!("{} {}: {}", words[0], words.get(1).unwrap_or(&""), line.trim_end()),
        _ => bail!("an answer that is not a line of RESP"),
    }
}
