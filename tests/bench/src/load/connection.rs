//! One client connection: TLS, AUTH where it is needed, and replies that must be exactly what was expected.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::data::command;
use crate::tls;

/// What is read at once. A larger reply arrives in several.
const READ_BYTES: usize = 64 * 1024;
/// So much of a wrong reply is shown.
const SHOWN_BYTES: usize = 200;
/// Where the password is given, since command lines can be seen by everybody.
const PASSWORD: &str = "BENCH_PASSWORD";

/// Who is asked, and as whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Its address.
    #[arg(long)]
    addr: SocketAddr,
    /// The name in its certificate.
    #[arg(long)]
    server_name: String,
    /// The CA of its certificate.
    #[arg(long)]
    ca: PathBuf,
    /// The client certificate.
    #[arg(long, requires = "key")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cert")]
    key: Option<PathBuf>,
    /// Sends AUTH with this user and the password in `BENCH_PASSWORD`.
    #[arg(long)]
    user: Option<String>,
}

/// A target with its TLS made ready.
pub(super) struct Dialer {
    addr: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    auth: Option<Vec<u8>>,
}

impl Target {
    /// Connections of one dialer share their TLS sessions, if they may resume at all.
    pub(super) fn dialer(&self, resume: bool) -> Result<Dialer> {
        let identity = self.cert.as_deref().zip(self.key.as_deref());
        let config: ClientConfig = tls::client(&self.ca, identity, resume)?;
        let auth = match &self.user {
            Some(user) => {
                let password = std::env::var(PASSWORD).with_context(|| format!("{PASSWORD} is not set"))?;
                Some(command(&[b"AUTH", user.as_bytes(), password.as_bytes()]))
            }
            None => None,
        };
        let name = ServerName::try_from(self.server_name.clone())?;
        Ok(Dialer { addr: self.addr, name, connector: TlsConnector::from(Arc::new(config)), auth })
    }
}

impl Dialer {
    /// A connection that is signed in.
    pub(super) async fn connect(&self) -> Result<Connection> {
        let tcp = TcpStream::connect(self.addr).await?;
        tcp.set_nodelay(true)?;
        let stream = self.connector.connect(self.name.clone(), tcp).await.context("TLS")?;
        let mut connection = Connection { stream, inbox: vec![0; READ_BYTES].into_boxed_slice() };
        if let Some(auth) = &self.auth {
            connection.ask(auth, b"+OK\r\n").await.context("AUTH")?;
        }
        Ok(connection)
    }
}

/// An open connection.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    inbox: Box<[u8]>,
}

impl Connection {
    /// Sends requests, and reads until `expected` has come, byte for byte.
    pub(super) async fn ask(&mut self, requests: &[u8], expected: &[u8]) -> Result<()> {
        self.stream.write_all(requests).await?;
        self.stream.flush().await?;
        let mut rest = expected;
        while !rest.is_empty() {
            let count = self.stream.read(&mut self.inbox).await?;
            ensure!(count > 0, "the connection was closed in the middle of the replies");
            let came = &self.inbox[..count];
            match rest.strip_prefix(came) {
                Some(left) => rest = left,
                None => bail!(difference(came, rest)),
            }
        }
        Ok(())
    }

    /// Asks whether it is still there.
    pub(super) async fn ping(&mut self) -> Result<()> {
        self.ask(b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n").await
    }

    /// Whether TLS resumed an earlier session.
    pub(super) fn resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Says goodbye as a well-behaved client does, with `close_notify`.
    pub(super) async fn close(mut self) -> Result<()> {
        Ok(self.stream.shutdown().await?)
    }
}

/// In words, where what came leaves what was expected.
fn difference(came: &[u8], expected: &[u8]) -> String {
    let at = came.iter().zip(expected).take_while(|(one, other)| one == other).count();
    let Some(first) = came.get(at) else { return "an empty reply".to_owned() };
    if at >= expected.len() {
        return format!("{} bytes nobody asked for", came.len() - at);
    }
    let shown = &came[at..came.len().min(at + SHOWN_BYTES)];
    let line = shown.split(|byte| *byte == b'\r').next().unwrap_or(shown);
    let kind = if *first == b'-' { "an error" } else { "a wrong byte" };
    format!("{kind} in the replies: {}", String::from_utf8_lossy(line).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_in_words() {
        assert_eq!(
            difference(b"$2\r\nab\r\n-NOPERM no\r\n", b"$2\r\nab\r\n$2\r\n"),
            "an error in the replies: -NOPERM no"
        );
        assert_eq!(difference(b"$2\r\naX\r\n", b"$2\r\nab\r\n"), "a wrong byte in the replies: X");
        assert_eq!(difference(b"+OK\r\n+OK\r\n", b"+OK\r\n"), "5 bytes nobody asked for");
    }
}
