//! The floor for a proxy of tokio and rustls: TLS on both sides, the client's certificate required and
//! verified, bytes copied both ways and never looked at. No policy, no audit, no limits.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::tls;

/// What one TLS record can hold, in each direction.
const BUFFER_BYTES: usize = 16 * 1024;

/// Where to listen and where to forward to.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// The certificate to show.
    #[arg(long)]
    cert: PathBuf,
    /// Its key.
    #[arg(long)]
    key: PathBuf,
    /// The CA of the clients' certificates.
    #[arg(long)]
    client_ca: PathBuf,
    /// The server, `host:port`; its certificate must be for the host.
    #[arg(long)]
    server: String,
    /// The CA of its certificate.
    #[arg(long)]
    server_ca: PathBuf,
    /// How many threads, each with a runtime and a listening socket of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Everything that a connection needs.
struct Relay {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    server: SocketAddr,
    name: ServerName<'static>,
}

/// Serves until it is ended.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let (host, _) = arguments.server.rsplit_once(':').context("--server is host:port")?;
    let server = tokio::net::lookup_host(&arguments.server).await?.find(SocketAddr::is_ipv4);
    let relay = Arc::new(Relay {
        acceptor: TlsAcceptor::from(Arc::new(tls::server(
            &arguments.cert,
            &arguments.key,
            &arguments.client_ca,
        )?)),
        connector: TlsConnector::from(Arc::new(tls::client(&arguments.server_ca, None, true)?)),
        server: server.with_context(|| format!("{} has no address", arguments.server))?,
        name: ServerName::try_from(host.to_owned())?,
    });
    for _ in 1..arguments.threads {
        let (relay, listener) = (Arc::clone(&relay), listener(arguments.listen)?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(relay.accept(listener)));
    }
    relay.accept(listener(arguments.listen)?).await
}

/// One of several sockets at the same address; the kernel spreads connections over them.
fn listener(address: SocketAddr) -> Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1_024)?;
    Ok(socket.into())
}

impl Relay {
    async fn accept(self: Arc<Self>, listener: StdListener) -> Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let relay = Arc::clone(&self);
            tokio::spawn(async move {
                // A client that goes away ends its own connection and nothing else; the load generator sees it.
                let _: io::Result<()> = relay.serve(client).await;
            });
        }
    }

    async fn serve(&self, client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut client = self.acceptor.accept(client).await?;
        let server = TcpStream::connect(self.server).await?;
        server.set_nodelay(true)?;
        let mut server = self.connector.connect(self.name.clone(), server).await?;
        copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER_BYTES, BUFFER_BYTES).await?;
        Ok(())
    }
}
