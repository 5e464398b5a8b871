//! One TLS connection: plaintext in and out, without a task or a buffer of its own.
//!
//! The socket is read in pieces of [`RAW`] bytes into a buffer of the thread and decrypted there, so that an
//! idle connection holds none; a short read tells that the socket is empty, so no second read asks. What was
//! written is encrypted at once and sent with one write by [`Leg::poll_flush`].
//!
//! Towards a server the end of a TLS 1.3 handshake leaves with the first bytes behind it, which saves a packet and a
//! system call. A client is sent its ticket at once: it carries the acknowledgement without which a client that has
//! not switched Nagle's algorithm off would keep its first command for 40 ms.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::outbox::Outbox;
use super::records::{Records, Task};

/// Bytes that one read of the socket may bring: two TLS records.
const RAW: usize = 32 * 1024;
/// Bytes of records that are not whole: one of data, or of a handshake up to this.
const MOST_HELD: usize = 32 * 1024;
/// Plaintext at which a fill stops reading the socket: bounds what one wake-up handles.
const ENOUGH: usize = 32 * 1024;

thread_local! {
    static RAW_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; MOST_HELD + RAW].into_boxed_slice());
}

/// One side of a session.
pub struct Leg {
    tcp: TcpStream,
    tls: Records,
    server_name: Option<Box<str>>,
    /// The beginning of a record.
    held: Vec<u8>,
    /// Plaintext that nobody has asked for.
    early: Vec<u8>,
    /// What waits for the socket.
    out: Outbox,
    ended: bool,
    /// TLS has failed: it must not be asked again.
    broken: bool,
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg").field("ended", &self.ended).finish_non_exhaustive()
    }
}

/// Hears which name a client asks for, which a connection without buffers does not tell.
#[derive(Debug)]
struct Heard {
    resolver: Arc<dyn ResolvesServerCert>,
    name: OnceLock<Box<str>>,
}

impl ResolvesServerCert for Heard {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if let Some(name) = hello.server_name() {
            let _ = self.name.set(name.into());
        }
        self.resolver.resolve(hello)
    }
}

/// A handshake that a client has begun.
pub struct Begun {
    leg: Leg,
    heard: Arc<Heard>,
}

impl Begun {
    /// The connection, after the handshake.
    ///
    /// # Errors
    /// As [`Leg::hear`].
    pub async fn shake_hands(mut self) -> io::Result<Leg> {
        self.leg.shake_hands().await?;
        self.leg.server_name = self.heard.name.get().cloned();
        Ok(self.leg)
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Leg {
    /// A client's connection, after its handshake.
    ///
    /// # Errors
    /// As [`Leg::hear`] and [`Begun::shake_hands`].
    pub async fn accept(tcp: TcpStream, config: &ServerConfig) -> io::Result<Self> {
        Self::hear(tcp, config).await?.shake_hands().await
    }

    /// A client's connection, once its first bytes are there.
    ///
    /// # Errors
    /// Of the socket; `InvalidData` around what rustls says; `UnexpectedEof` where the client leaves.
    pub async fn hear(tcp: TcpStream, config: &ServerConfig) -> io::Result<Begun> {
        let heard = Arc::new(Heard { resolver: Arc::clone(&config.cert_resolver), name: OnceLock::new() });
        let mut config = config.clone();
        config.cert_resolver = Arc::clone(&heard) as _;
        let tls = UnbufferedServerConnection::new(Arc::new(config)).map_err(invalid)?;
        let mut leg = Self::new(tcp, Records::Server(Box::new(tls)));
        leg.receive().await?;
        Ok(Begun { leg, heard })
    }

    /// A connection to a server, after its handshake. With TLS 1.3 the server learns that this is over from the
    /// first bytes that are written, or by [`Leg::finish`].
    ///
    /// # Errors
    /// As [`Leg::accept`].
    pub async fn connect(
        tcp: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tls = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        let mut leg = Self::new(tcp, Records::Client(Box::new(tls)));
        leg.shake_hands().await?;
        Ok(leg)
    }

    fn new(tcp: TcpStream, tls: Records) -> Self {
        let (held, early, out) = Default::default();
        Self { tcp, tls, server_name: None, held, early, out, ended: false, broken: false }
    }

    async fn shake_hands(&mut self) -> io::Result<()> {
        // A client speaks first.
        self.look(None).map_err(invalid)?;
        loop {
            if !self.tls.state().is_handshaking() {
                return self.last_flight().await;
            }
            self.flush().await?;
            if self.ended {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer left the TLS handshake"));
            }
            self.receive().await?;
        }
    }

    /// Reads once, in a handshake.
    async fn receive(&mut self) -> io::Result<()> {
        let mut early = std::mem::take(&mut self.early);
        let received = std::future::poll_fn(|cx| self.poll_receive(cx, &mut early)).await;
        self.early = early;
        if received.is_err() {
            // The alert, if the socket takes it.
            std::future::poll_fn(|cx| Poll::Ready(self.poll_flush(cx).is_ready())).await;
        }
        received
    }

    /// In TLS 1.2 the peer waits for it before it says anything.
    async fn last_flight(&mut self) -> io::Result<()> {
        let is_awaited = self.tls.state().protocol_version() != Some(ProtocolVersion::TLSv1_3);
        if matches!(self.tls, Records::Client(_)) && !is_awaited {
            self.out.defer();
        }
        self.flush().await
    }

    /// Sends the end of the handshake, where nothing may be written for long.
    ///
    /// # Errors
    /// Of the socket.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.out.undefer();
        self.flush().await
    }

    /// The peer's certificates, the leaf first, where it showed some.
    #[must_use]
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.tls.state().peer_certificates()
    }

    /// Whether the handshake resumed an earlier session.
    #[must_use]
    pub fn resumed(&self) -> bool {
        self.tls.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Our own address of the connection.
    ///
    /// # Errors
    /// Of the socket.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.local_addr()
    }

    /// The TLS server name that a client asked for.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// Appends decrypted bytes to `out`. `Ready(Ok(0))` is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let before = out.len();
        out.append(&mut std::mem::take(&mut self.early));
        while !self.ended && out.len() - before < ENOUGH {
            match self.poll_receive(cx, out) {
                Poll::Ready(done) => done?,
                Poll::Pending if out.len() == before => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(out.len() - before))
    }

    /// Encrypts `bytes`; they leave with the next flush.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() || self.look(Some(Task::Write(bytes))).map_err(invalid)? {
            return Ok(());
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }

    /// Whether everything that was written has left.
    pub fn is_flushed(&self) -> bool {
        self.out.is_empty()
    }

    /// Bytes that wait for the socket.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.out.rest().len()
    }

    /// Sends what waits. `Pending` while the peer does not take it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            match ready!(Pin::new(&mut self.tcp).poll_write(cx, self.out.rest()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.out.took(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Reads once; 0 is the end of the stream.
    pub async fn fill(&mut self, out: &mut Vec<u8>) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, out)).await
    }

    /// Ends our direction: what waits, the closing alert, the end of the TCP stream.
    pub async fn shut(&mut self) -> io::Result<()> {
        self.look(Some(Task::Close)).map_err(invalid)?;
        self.flush().await?;
        std::future::poll_fn(|cx| Pin::new(&mut self.tcp).poll_shutdown(cx)).await
    }

    /// Throws away what the peer still sends, up to its end: closing a socket with unread bytes in it would
    /// reset the connection and take the last answer with it.
    pub async fn discard(&mut self) {
        let mut waste = Vec::new();
        while matches!(self.fill(&mut waste).await, Ok(1..)) {
            waste.clear();
        }
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, plain: &mut Vec<u8>) -> Poll<io::Result<()>> {
        RAW_BUFFER.with_borrow_mut(|raw| {
            let held = self.held.len();
            let Some((front, space)) = raw.split_at_mut_checked(held).filter(|_| held <= MOST_HELD) else {
                return Poll::Ready(Err(invalid(rustls::Error::General(
                    "a handshake message is too long".to_owned(),
                ))));
            };
            let mut buffer = ReadBuf::new(space.get_mut(..RAW).unwrap_or_default());
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
            let length = buffer.filled().len();
            if length == 0 {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            front.copy_from_slice(&self.held);
            let sealed = raw.get_mut(..held + length).unwrap_or_default();
            let look = match self.tls.look(sealed, plain, &mut self.out, None) {
                Ok(look) => look,
                Err(error) => {
                    (self.ended, self.broken) = (true, true);
                    return Poll::Ready(Err(invalid(error)));
                }
            };
            // Nothing counts behind the peer's closing alert.
            self.ended |= look.closed;
            self.held = sealed.get(look.taken..).unwrap_or_default().to_vec();
            Poll::Ready(Ok(()))
        })
    }

    /// Looks at what is held, and carries a task out: false where the connection does not allow it any more.
    fn look(&mut self, task: Option<Task<'_>>) -> Result<bool, rustls::Error> {
        if self.broken {
            return Ok(false);
        }
        let look = self
            .tls
            .look(&mut self.held, &mut self.early, &mut self.out, task)
            .inspect_err(|_| (self.ended, self.broken) = (true, true))?;
        self.ended |= look.closed;
        self.held.drain(..look.taken);
        Ok(look.done)
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

    use super::*;

    /// A server's and a client's settings; handshake messages are split over records of so many bytes.
    fn settings(fragment: Option<usize>) -> (ServerConfig, Arc<ClientConfig>) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let provider = crate::tls::provider();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (server.max_fragment_size, client.max_fragment_size) = (fragment, fragment);
        (server, Arc::new(client))
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn dribble(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, piece: usize) {
        let mut bytes = vec![0; piece];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            if to.write_all(&bytes[..length]).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Two sockets with a wire between them that passes so many bytes at a time.
    async fn wire(piece: usize) -> (TcpStream, TcpStream) {
        let ((near, left), (right, far)) = (pair().await, pair().await);
        let ((left_in, left_out), (right_in, right_out)) = (left.into_split(), right.into_split());
        tokio::spawn(dribble(left_in, right_out, piece));
        tokio::spawn(dribble(right_in, left_out, piece));
        (near, far)
    }

    async fn connected(fragment: Option<usize>, piece: usize) -> (Leg, Leg) {
        let (server, client) = settings(fragment);
        let (near, far) = wire(piece).await;
        let name = ServerName::try_from("localhost").unwrap();
        let connect = async {
            let mut leg = Leg::connect(near, client, name).await?;
            leg.finish().await.map(|()| leg)
        };
        let (client, server) = tokio::join!(connect, Leg::accept(far, &server));
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn records_and_handshakes_come_in_any_pieces() {
        for (fragment, piece) in [(None, 1), (Some(64), 1), (Some(64), 7), (None, 4_096), (Some(64), 4_096)] {
            let (mut client, mut server) = connected(fragment, piece).await;
            assert_eq!((server.server_name(), server.resumed()), (Some("localhost"), false));
            let sent: Vec<u8> = (0..40_000_u32).map(|number| number.to_le_bytes()[0]).collect();
            for (from, to) in [(0, 1), (1, 0)] {
                let legs = [&mut client, &mut server];
                legs[from].write(&sent).unwrap();
                legs[from].flush().await.unwrap();
                let mut received = Vec::new();
                while received.len() < sent.len() {
                    assert_ne!(legs[to].fill(&mut received).await.unwrap(), 0, "{fragment:?} {piece}");
                }
                assert!(received == sent, "{fragment:?} {piece}");
            }
            client.shut().await.unwrap();
            assert_eq!(server.fill(&mut Vec::new()).await.unwrap(), 0);
            // Its own direction is open still.
            server.write(b"bye").unwrap();
            server.shut().await.unwrap();
            assert!(server.write(b"more").is_err());
            let mut last = Vec::new();
            assert_eq!((client.fill(&mut last).await.unwrap(), last.as_slice()), (3, b"bye".as_slice()));
        }
    }

    #[tokio::test]
    async fn at_rest_a_leg_holds_nothing() {
        let (mut client, mut server) = connected(None, 4_096).await;
        client.write(b"PING").unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.fill(&mut Vec::new()).await.unwrap(), 4);
        for leg in [&client, &server] {
            assert_eq!((leg.held.capacity(), leg.early.capacity(), leg.out.capacity()), (0, 0, 0));
        }
    }

    #[tokio::test]
    async fn the_end_of_a_handshake_goes_with_the_first_bytes() {
        let (server, client) = settings(None);
        let (near, far) = pair().await;
        let name = ServerName::try_from("localhost").unwrap();
        let connect = async {
            let mut leg = Leg::connect(near, client, name).await.unwrap();
            assert!(leg.is_flushed() && leg.unsent() == 0, "nothing is owed to the socket");
            leg.write(b"AUTH").unwrap();
            let unsent = leg.unsent();
            leg.flush().await.unwrap();
            (leg, unsent)
        };
        let accept = async {
            let mut leg = Leg::accept(far, &server).await.unwrap();
            leg.write(b"+OK").unwrap();
            let unsent = leg.unsent();
            leg.flush().await.unwrap();
            (leg, unsent)
        };
        let ((mut client, finished), (mut server, answer)) = tokio::join!(connect, accept);
        assert!(finished > 4 + 60, "a Finished in front: {finished}");
        assert!(answer < 3 + 60, "the ticket has left: {answer}");
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        while server.fill(&mut asked).await.unwrap() > 0 && asked.len() < 4 {}
        while client.fill(&mut answered).await.unwrap() > 0 && answered.len() < 3 {}
        assert_eq!((asked.as_slice(), answered.as_slice()), (b"AUTH".as_slice(), b"+OK".as_slice()));
    }

    #[tokio::test]
    async fn nonsense_is_an_error_wherever_it_comes() {
        // The first bytes of a hello whose message is 512 bytes long, in a record of 16.
        let begun = [&[22, 3, 1, 0, 16, 1, 0, 2, 0, 3, 3][..], &[7; 10]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            [22, 3, 1, 0, 4, 1, 0, 0, 0].to_vec(),
            [begun.clone(), vec![23, 3, 3, 0, 1, 0]].concat(),
            [begun.clone(), vec![255; 64]].concat(),
            [begun.clone(), vec![22, 3, 1, 255, 255]].concat(),
            begun,
        ] {
            let (server, _) = settings(None);
            let (mut near, far) = wire(3).await;
            near.write_all(&bytes).await.unwrap();
            near.shutdown().await.unwrap();
            assert!(Leg::accept(far, &server).await.is_err());
        }
        let (mut client, mut server) = connected(None, 4_096).await;
        client.tcp.write_all(&[23, 3, 3, 0, 32]).await.unwrap();
        client.tcp.write_all(&[0; 40]).await.unwrap();
        assert!(server.fill(&mut Vec::new()).await.is_err());
        assert!(server.write(b"no").is_err());
    }
}
