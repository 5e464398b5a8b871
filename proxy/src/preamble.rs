//! What a client sends before it is known which database it wants: at most 16 KiB, one request at a time.

use keystile_resp::command::{self, Named};
use keystile_resp::request::{Limits, RequestError, Scanner, Step};

use crate::session::auth_request::{self, Credentials};
use crate::session::leg::Leg;

/// The request that stands first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// Bytes of it.
    pub len: usize,
    /// Who it says that the client is, if it is an AUTH or a HELLO with AUTH.
    pub credentials: Option<Credentials>,
    /// Whether it is QUIT.
    pub quit: bool,
}

/// Why there is no first request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoRequest {
    /// The client is gone.
    Gone,
    /// What it sent can never be one.
    Malformed(RequestError),
}

/// Reads requests before the session.
#[derive(Debug)]
pub struct Preamble {
    scanner: Scanner,
    held: Vec<u8>,
}

impl Default for Preamble {
    fn default() -> Self {
        Self { scanner: Scanner::new(Limits::BEFORE_AUTH), held: Vec::new() }
    }
}

impl Preamble {
    /// Waits for the next request; it stays until [`Preamble::skip`] takes it away.
    ///
    /// # Errors
    /// [`NoRequest`].
    pub async fn next(&mut self, client: &mut Leg) -> Result<First, NoRequest> {
        loop {
            match self.scanner.scan(&self.held).map_err(NoRequest::Malformed)? {
                Step::Request(request) => {
                    let args: Vec<_> = request.args(&self.held).collect();
                    return Ok(First { len: request.len, ..first(&args) });
                }
                Step::Empty { len } | Step::Body { len, .. } => self.skip(len),
                Step::Head(request) => self.skip(request.len),
                Step::NeedMore => match client.fill(&mut self.held).await {
                    Ok(1..) => {}
                    Ok(_) | Err(_) => return Err(NoRequest::Gone),
                },
            }
        }
    }

    /// Waits until the client has sent anything.
    pub async fn any(&mut self, client: &mut Leg) {
        if self.held.is_empty() {
            let _ = client.fill(&mut self.held).await;
        }
    }

    /// Drops an answered request.
    pub fn skip(&mut self, len: usize) {
        self.held.drain(..len);
    }

    /// What was read and not answered: the session begins with it.
    #[must_use]
    pub fn into_held(self) -> Vec<u8> {
        self.held
    }
}

fn first(args: &[std::borrow::Cow<'_, [u8]>]) -> First {
    let none = First { len: 0, credentials: None, quit: false };
    let Some(Named::Known(id)) = args.first().map(|name| command::resolve(name, None)) else { return none };
    match id.command().name {
        "auth" => First { credentials: auth_request::auth(args).ok(), ..none },
        "hello" => First {
            credentials: auth_request::hello(args).ok().and_then(|hello| hello.credentials()),
            ..none
        },
        "quit" => First { quit: true, ..none },
        _ => none,
    }
}
