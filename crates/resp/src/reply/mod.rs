//! The replies of a server: where each one begins and ends, and of which kind it is.
//!
//! [`ReplyScanner`] counts top-level frames of RESP2 and RESP3 in a server's bytes, so that a proxy
//! can match replies with requests, swallow one, or put one of its own between two. It reads length
//! lines only and steps over payloads; it does not check what a value means.

mod scanner;
#[cfg(test)]
mod tests;

pub use scanner::ReplyScanner;

use thiserror::Error;

use crate::Span;

/// How much of an error line, a simple string or a first element is shown, in bytes.
pub const SHOWN_TEXT: usize = 128;

/// What a server may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Deepest nesting of aggregates.
    pub depth: usize,
    /// Longest bulk, in bytes.
    pub bulk: u64,
    /// Most elements of one aggregate (a map's pair counts as two).
    pub elements: u64,
    /// A frame of up to this many bytes is shown whole; a longer one is streamed.
    pub whole: usize,
}

impl Limits {
    /// Room for whatever a server sends. A script's reply may be 7,996 deep, where Lua's own stack ends.
    pub const DEFAULT: Self = Self { depth: 8_192, bulk: 1 << 40, elements: 1 << 32, whole: 16 * 1024 };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What lies next in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said before more bytes come. What was given stays unconsumed.
    NeedMore,
    /// A whole frame lies in the first [`Frame::len`] bytes.
    Frame(Frame),
    /// A frame of more than [`Limits::whole`] bytes begins; [`Step::Body`] follows.
    Head(Frame),
    /// The next `len` bytes belong to the frame whose head was given last.
    Body {
        /// Bytes to consume.
        len: usize,
        /// Whether the frame ends with them.
        end: bool,
    },
}

/// What a frame is to a proxy that counts replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The reply to a request.
    Reply,
    /// A reply that is an error (`-` or `!`).
    Error,
    /// An out-of-band message of RESP3; it answers no request.
    Push,
}

/// One top-level frame, with the attributes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Bytes of the buffer that belong to it (so far, when it is streamed).
    pub len: usize,
    /// What it is.
    pub kind: Kind,
    /// The type byte of the value itself (`$`, `*`, `>` …), behind any attribute.
    pub marker: u8,
    text: Span,
    shown: bool,
}

impl Frame {
    const fn new(marker: u8) -> Self {
        let kind = match marker {
            b'-' | b'!' => Kind::Error,
            b'>' => Kind::Push,
            _ => Kind::Reply,
        };
        Self { len: 0, kind, marker, text: Span::EMPTY, shown: false }
    }

    /// The text that tells what the frame says; `buf` is the buffer that was scanned.
    ///
    /// Of an error the first line without its marker, of a simple string the string, both cut at
    /// [`SHOWN_TEXT`] bytes; of an array or a push its first element where that is a simple string
    /// or a bulk of at most that length (`message`, `subscribe`, `invalidate` …).
    #[must_use]
    pub fn text<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        if self.shown { self.text.of(buf) } else { None }
    }

    /// The first word of an error's text: `WRONGPASS`, `MOVED`, `NOPERM`, …
    #[must_use]
    pub fn error_code<'b>(&self, buf: &'b [u8]) -> Option<&'b [u8]> {
        if self.kind != Kind::Error {
            return None;
        }
        self.text(buf)?.split(|&byte| byte == b' ').next()
    }

    fn show(&mut self, text: Span) {
        self.text = text.cut(SHOWN_TEXT);
        self.shown = true;
    }
}

/// Whether an array of this first element is a message to a RESP2 subscriber rather than the reply to
/// a command. (`subscribe` and its kin are both: each channel named in the request gets one.)
#[must_use]
pub fn is_subscriber_message(first: &[u8]) -> bool {
    matches!(
        first,
        b"message"
            | b"pmessage"
            | b"smessage"
            | b"subscribe"
            | b"psubscribe"
            | b"ssubscribe"
            | b"unsubscribe"
            | b"punsubscribe"
            | b"sunsubscribe"
    )
}

/// Why a server's bytes can never become a frame. The session cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// No type of RESP2 or RESP3 begins with this byte.
    #[error("the server sent a reply of unknown type '{}'", .0.escape_ascii())]
    UnknownType(u8),
    /// A length is no number, or negative where none may be.
    #[error("the server sent a reply with an invalid length")]
    InvalidLength,
    /// A line or a bulk does not end in CRLF.
    #[error("the server sent a reply that does not end in CRLF")]
    MissingCrlf,
    /// A bulk is longer than the limit.
    #[error("the server sent a value longer than the limit")]
    BulkTooLong,
    /// An aggregate has more elements than the limit.
    #[error("the server sent an aggregate of more elements than the limit")]
    TooManyElements,
    /// Aggregates are nested deeper than the limit.
    #[error("the server sent a reply nested deeper than the limit")]
    TooDeep,
    /// The attributes before a value are longer than [`Limits::whole`].
    #[error("the server sent attributes longer than the limit")]
    AttributeTooLong,
    /// A chunk outside a streamed string, an end outside a streamed aggregate, half a pair, or an
    /// attribute or push where none may be.
    #[error("the server sent a reply part out of place")]
    OutOfPlace,
}

impl ReplyError {
    /// Whether the bytes could be a reply where more is allowed.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        matches!(self, Self::BulkTooLong | Self::TooManyElements | Self::TooDeep | Self::AttributeTooLong)
    }
}
