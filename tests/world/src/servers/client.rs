//! A small RESP2 client over TLS, for the world's own errands: readiness, clusters, ACLs.
//!
//! One request at a time, answers of at most a few megabytes from servers of our own. It is no part of
//! the product and shares nothing with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long any one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer that is asked for here.
const LIMIT: usize = 16 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+…`
    Status(String),
    /// `-…`
    Error(String),
    /// `:…`
    Integer(i64),
    /// `$…`; `None` is nil.
    Bulk(Option<Vec<u8>>),
    /// `*…`; nil is empty.
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a status, error or bulk.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes.as_deref().unwrap_or_default()).into_owned(),
            Self::Array(_) => String::new(),
        }
    }

    /// The elements of an array.
    #[must_use]
    pub fn elements(&self) -> &[Self] {
        if let Self::Array(elements) = self { elements } else { &[] }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TlsStream<TcpStream>>,
}

impl Client {
    /// Connects to `localhost:port`, trusting the given CA alone.
    ///
    /// # Errors
    /// When the CA cannot be read, or nothing answers with its certificate.
    pub async fn connect(ca_file: &Path, port: u16) -> Result<Self> {
        let connector = TlsConnector::from(trusting(ca_file)?);
        let connect = async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            tcp.set_nodelay(true)?;
            connector.connect(ServerName::try_from("localhost").map_err(std::io::Error::other)?, tcp).await
        };
        let stream = tokio::time::timeout(PATIENCE, connect).await.context("no answer in time")??;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Connects and logs in.
    ///
    /// # Errors
    /// As [`Client::connect`], or when the login is refused.
    pub async fn login(ca_file: &Path, port: u16, user: &str, password: &str) -> Result<Self> {
        let mut client = Self::connect(ca_file, port).await?;
        client.ok(&["AUTH", user, password]).await?;
        Ok(client)
    }

    /// Sends one command and reads its answer, an error of the server's included.
    ///
    /// # Errors
    /// When the connection ends or the answer is malformed.
    pub async fn call(&mut self, command: &[&str]) -> Result<Reply> {
        self.send(&[command]).await?;
        self.receive().await
    }

    /// Sends commands without waiting for an answer.
    ///
    /// # Errors
    /// When the connection ends.
    pub async fn send(&mut self, commands: &[&[&str]]) -> Result<()> {
        let mut bytes = Vec::new();
        for command in commands {
            bytes.extend(format!("*{}\r\n", command.len()).into_bytes());
            for word in *command {
                bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
            }
        }
        self.stream.get_mut().write_all(&bytes).await?;
        self.stream.get_mut().flush().await?;
        Ok(())
    }

    /// Reads one answer.
    ///
    /// # Errors
    /// When the connection ends, nothing comes, or the answer is malformed.
    pub async fn receive(&mut self) -> Result<Reply> {
        tokio::time::timeout(PATIENCE, read(&mut self.stream)).await.context("no answer in time")?
    }

    /// Sends one command that must not be answered with an error.
    ///
    /// # Errors
    /// When the server refuses, with its words.
    pub async fn ok(&mut self, command: &[&str]) -> Result<Reply> {
        match self.call(command).await? {
            // The command's own words may be a password.
            Reply::Error(error) => bail!("{} was refused: {error}", command[0]),
            reply => Ok(reply),
        }
    }
}

async fn read(stream: &mut BufReader<TlsStream<TcpStream>>) -> Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        bail!("the server closed the connection");
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).context("an empty line")?;
    Ok(match kind {
        "+" => Reply::Status(rest.into()),
        "-" => Reply::Error(rest.into()),
        ":" => Reply::Integer(rest.parse()?),
        "$" | "=" => match rest.parse::<i64>()? {
            -1 => Reply::Bulk(None),
            length => {
                let length = usize::try_from(length).ok().filter(|l| *l < LIMIT).context("too long")?;
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Reply::Bulk(Some(bytes))
            }
        },
        "*" => {
            let mut elements = Vec::new();
            for _ in 0..rest.parse::<i64>()? {
                elements.push(Box::pin(read(stream)).await?);
            }
            Reply::Array(elements)
        }
        other => bail!("an answer of unknown kind {other:?}"),
    })
}

fn trusting(ca_file: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).with_context(|| ca_file.display().to_string())?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
