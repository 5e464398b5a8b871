//! TLS records in and out of buffers that the caller owns, so that a connection at rest holds none: rustls'
//! buffered connection keeps 4 KiB for the next read.
//!
//! No I/O here, and no cryptography of ours: rustls decides, this moves bytes.

use rustls::Error;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

use super::outbox::Outbox;

/// Plaintext of a record, at most.
const RECORD: usize = 16 * 1024;
/// What a record adds to it, at most: header, nonce, type and tag, rounded up.
const OVERHEAD: usize = 64;

/// One side's TLS.
pub(super) enum Records {
    Client(Box<UnbufferedClientConnection>),
    Server(Box<UnbufferedServerConnection>),
}

/// What to send once everything that came before was looked at.
#[derive(Clone, Copy)]
pub(super) enum Task<'a> {
    /// These bytes.
    Write(&'a [u8]),
    /// The alert that ends our direction.
    Close,
}

/// How far a look came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Look {
    /// Bytes of what was sealed that are done with.
    pub(super) taken: usize,
    /// Whether the peer's closing alert was among them.
    pub(super) closed: bool,
    /// Whether the task was carried out.
    pub(super) done: bool,
}

enum Next {
    Again,
    PeerClosed,
    Stop,
    Done,
}

impl Records {
    pub(super) fn state(&self) -> &rustls::CommonState {
        match self {
            Self::Client(tls) => tls,
            Self::Server(tls) => tls,
        }
    }

    /// Takes the whole records at the front of `sealed`. Plaintext is appended to `plain`, what is to be sent to
    /// `out`. What is not taken must stand at the front again at the next call. After an error the alert that
    /// tells the peer is in `out`, and there must be no other call.
    pub(super) fn look(
        &mut self,
        sealed: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Outbox,
        task: Option<Task<'_>>,
    ) -> Result<Look, Error> {
        let mut look = Look { taken: 0, closed: false, done: false };
        loop {
            let rest = sealed.get_mut(look.taken..).unwrap_or_default();
            let (discard, next) = match self {
                Self::Client(tls) => step(tls.process_tls_records(rest), plain, out, task),
                Self::Server(tls) => step(tls.process_tls_records(rest), plain, out, task),
            };
            look.taken += discard;
            let next = next.inspect_err(|_| {
                self.alert(sealed.get_mut(look.taken..).unwrap_or_default(), out);
            })?;
            match next {
                Next::Again => {}
                Next::PeerClosed => {
                    look.closed = true;
                    if task.is_none() {
                        return Ok(look);
                    }
                }
                Next::Stop => return Ok(look),
                Next::Done => {
                    look.done = true;
                    return Ok(look);
                }
            }
        }
    }

    /// The alert that goes with an error waits in front of all else.
    fn alert(&mut self, rest: &mut [u8], out: &mut Outbox) {
        let mut waste = Vec::new();
        let _ = match self {
            Self::Client(tls) => step(tls.process_tls_records(rest), &mut waste, out, None),
            Self::Server(tls) => step(tls.process_tls_records(rest), &mut waste, out, None),
        };
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plain: &mut Vec<u8>,
    out: &mut Outbox,
    task: Option<Task<'_>>,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Next::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, out),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It waits in `out`, which nothing overtakes.
            data.done();
            Ok(Next::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::PeerClosed),
        Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => Ok(Next::Stop),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => match task {
            None => Ok(Next::Stop),
            Some(task) => carry_out(task, &mut traffic, out),
        },
        Ok(_) => Err(Error::General("early data, which is never accepted".to_owned())),
    };
    (discard, next)
}

fn encode<D>(data: &mut EncodeTlsData<'_, D>, out: &mut Outbox) -> Result<Next, Error> {
    let fault = |error: EncodeError| Error::General(error.to_string());
    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else { return Ok(Next::Again) };
    let length = data.encode(out.room(size.required_size)).map_err(fault)?;
    out.put(length);
    Ok(Next::Again)
}

fn carry_out<D>(task: Task<'_>, traffic: &mut WriteTraffic<'_, D>, out: &mut Outbox) -> Result<Next, Error> {
    let bytes = match task {
        Task::Write(bytes) => bytes.len(),
        Task::Close => 0,
    };
    let mut room = bytes + OVERHEAD * (bytes / RECORD + 2);
    loop {
        let space = out.room(room);
        let sealed = match task {
            Task::Write(bytes) => traffic.encrypt(bytes, space),
            Task::Close => traffic.queue_close_notify(space),
        };
        match sealed {
            Ok(length) => {
                out.put(length);
                return Ok(Next::Done);
            }
            // A key update that waited goes out first.
            Err(EncryptError::InsufficientSize(size)) if size.required_size > room => {
                room = size.required_size;
            }
            Err(_) => {
                out.put(0);
                return Err(Error::EncryptError);
            }
        }
    }
}
