//! One TLS connection after its handshake: plaintext in and out, without a task or a buffer of its own.
//!
//! The socket is read in pieces of [`RAW`] bytes into a buffer of the thread, so that an idle connection
//! holds none; a short read tells that the socket is empty, so no second read asks. What was written is
//! encrypted at once and sent with one vectored write by [`Leg::poll_flush`].

use std::cell::RefCell;
use std::io::{self, BufRead as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that one read of the socket may bring: two TLS records.
const RAW: usize = 32 * 1024;
/// Plaintext at which a fill stops reading the socket: bounds what one wake-up handles.
const ENOUGH: usize = 32 * 1024;

thread_local! {
    static RAW_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; RAW].into_boxed_slice());
}

/// One side of a session.
pub struct Leg {
    tcp: TcpStream,
    tls: Connection,
    ended: bool,
}

impl std::fmt::Debug for Leg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leg").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Leg {
    /// Takes a connection whose handshake is done.
    pub fn new(tcp: TcpStream, tls: impl Into<Connection>) -> Self {
        let mut tls = tls.into();
        // The caller bounds what it writes: it reads nothing for a leg that has output waiting.
        tls.set_buffer_limit(None);
        Self { tcp, tls, ended: false }
    }

    /// Appends decrypted bytes to `out`. `Ready(Ok(0))` is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<usize>> {
        let before = out.len();
        self.drain(out)?;
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
        self.tls.writer().write_all(bytes)
    }

    /// Whether everything that was written has left.
    pub fn is_flushed(&self) -> bool {
        !self.tls.wants_write()
    }

    /// Sends what waits. `Pending` while the peer does not take it.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Outgoing { tcp: &mut self.tcp, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
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
        self.tls.send_close_notify();
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

    /// The connection's state, such as its certificates.
    pub fn tls(&self) -> &Connection {
        &self.tls
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<()>> {
        RAW_BUFFER.with_borrow_mut(|raw| {
            let mut buffer = ReadBuf::new(raw);
            ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(self.decrypt(buffer.filled(), out))
        })
    }

    fn decrypt(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        while !sealed.is_empty() {
            if self.tls.read_tls(&mut sealed)? == 0 {
                // Nothing counts behind the peer's closing alert.
                self.ended = true;
                break;
            }
            self.tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.drain(out)?;
        }
        Ok(())
    }

    fn drain(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        loop {
            let mut reader = self.tls.reader();
            let length = match reader.fill_buf() {
                Ok([]) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(chunk) => {
                    out.extend_from_slice(chunk);
                    chunk.len()
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            reader.consume(length);
        }
    }
}

/// The socket as rustls writes to it: what would wait is `WouldBlock`, with the waker registered.
struct Outgoing<'a, 'b> {
    tcp: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

impl Outgoing<'_, '_> {
    fn now<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
        match poll {
            Poll::Ready(done) => done,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl io::Write for Outgoing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.tcp).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Self::now(Pin::new(&mut *self.tcp).poll_write_vectored(self.cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
