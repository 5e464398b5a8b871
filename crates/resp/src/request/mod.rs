//! The requests of a client: where each one begins and ends, and what it names.
//!
//! [`Scanner`] walks over the bytes that a client sent and tells the proxy, one [`Step`] at a time,
//! what lies next in the buffer. It copies nothing and keeps no bytes: a [`Request`] is a length and
//! a few ranges of the caller's buffer. It follows the server's own parser (arrays of bulk strings,
//! inline commands with their quoting, no-ops) and is stricter in two places where the server is
//! lax, so that no byte sequence has two readings: every line ends in CRLF, and an inline command
//! holds no NUL.

mod error;
mod inline;
mod scanner;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

pub use error::RequestError;
pub use inline::Unbalanced;
pub use scanner::Scanner;

use crate::Span;
use crate::number::{self, Line};

/// How many leading arguments (the name included) a [`Request`] keeps as ranges.
pub const KEPT_ARGS: usize = 4;

/// What a client may send, and what it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most arguments of one request, its name included.
    pub args: u32,
    /// Longest bulk string, in bytes (the server's `proto-max-bulk-len`).
    pub bulk: u64,
    /// Longest request of any form, in bytes. Looked at where a request is streamed, so it is at least
    /// [`Limits::whole`].
    pub total: u64,
    /// Longest inline request, in bytes.
    pub inline: usize,
    /// A request of up to this many bytes is shown whole; a longer one is streamed.
    pub whole: usize,
    /// Most bytes that a client may send before it has signed in; `None` once it has.
    pub before_auth_total: Option<u64>,
}

impl Limits {
    /// The server's own limits for a client that has signed in.
    pub const SIGNED_IN: Self = Self {
        args: 1024 * 1024,
        bulk: 512 * 1024 * 1024,
        // The server's `client-query-buffer-limit`.
        total: 1024 * 1024 * 1024,
        inline: 64 * 1024,
        whole: 64 * 1024,
        before_auth_total: None,
    };

    /// The server's limits for a client that has not: 10 arguments, bulks of 16 KiB, 16 KiB in all.
    pub const BEFORE_AUTH: Self = Self {
        args: 10,
        bulk: 16 * 1024,
        total: 64 * 1024,
        inline: 16 * 1024,
        whole: 64 * 1024,
        before_auth_total: Some(16 * 1024),
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::SIGNED_IN
    }
}

/// What lies next in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said before more bytes come. What was given stays unconsumed.
    NeedMore,
    /// The first `len` bytes are no request and get no reply (`*0`, `*-1`, an empty line).
    Empty {
        /// Bytes to consume.
        len: usize,
    },
    /// A whole request lies in the first [`Request::len`] bytes.
    Request(Request),
    /// A request of more than [`Limits::whole`] bytes begins; [`Step::Body`] follows. `len` is what
    /// of it comes before the first argument that is not shown.
    Head(Request),
    /// The next `len` bytes belong to the request whose head was given last.
    Body {
        /// Bytes to consume.
        len: usize,
        /// Whether the request ends with them.
        end: bool,
    },
}

/// How a request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `*N` and bulk strings.
    Array,
    /// One line of words.
    Inline,
}

/// One request, as ranges of the buffer that was scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes of the buffer that belong to it (so far, when it is streamed).
    pub len: usize,
    /// Its arguments, the name included. Exact for arrays also while it is streamed.
    pub argc: u32,
    /// How it was written.
    pub form: Form,
    known: u8,
    quoted: u8,
    spans: [Span; KEPT_ARGS],
}

impl Request {
    const fn new(form: Form, argc: u32) -> Self {
        Self { len: 0, argc, form, known: 0, quoted: 0, spans: [EMPTY; KEPT_ARGS] }
    }

    /// How many leading arguments can be read with [`Request::arg`].
    #[must_use]
    pub fn known(&self) -> usize {
        usize::from(self.known)
    }

    /// The command's name as sent; `None` only where a streamed request's name is itself too long to show.
    #[inline]
    #[must_use]
    pub fn name<'b>(&self, buf: &'b [u8]) -> Option<Cow<'b, [u8]>> {
        self.arg(buf, 0)
    }

    /// Argument `index` (0 is the name) where it is among the [`Request::known`] ones.
    ///
    /// `buf` is the buffer that was scanned. Only a quoted inline word is copied.
    #[inline]
    #[must_use]
    pub fn arg<'b>(&self, buf: &'b [u8], index: usize) -> Option<Cow<'b, [u8]>> {
        if index >= self.known() {
            return None;
        }
        let raw = self.spans.get(index)?.of(buf)?;
        if self.quoted & (1 << index) != 0 {
            return Some(Cow::Owned(inline::unquote(raw)));
        }
        Some(Cow::Borrowed(raw))
    }

    /// All arguments of a request that lies whole in `buf`, the name first. Allocates nothing but
    /// for quoted inline words. On a streamed request it ends with the arguments before the cut.
    #[must_use]
    pub fn args<'b>(&self, buf: &'b [u8]) -> Args<'b> {
        let bytes = buf.get(..self.len).unwrap_or(buf);
        let at = match self.form {
            Form::Inline => 0,
            Form::Array => match number::read(bytes, 1) {
                Line::Value { next, .. } => next,
                _ => bytes.len(),
            },
        };
        Args { bytes, at, form: self.form }
    }

    fn keep(&mut self, span: Span, quoted: bool) {
        if let Some(slot) = self.spans.get_mut(usize::from(self.known)) {
            *slot = span;
            self.quoted |= u8::from(quoted) << self.known;
            self.known += 1;
        }
    }
}

/// Iterates over all arguments of a request; made by [`Request::args`].
#[derive(Clone, Debug)]
pub struct Args<'b> {
    bytes: &'b [u8],
    at: usize,
    form: Form,
}

impl<'b> Iterator for Args<'b> {
    type Item = Cow<'b, [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.form {
            Form::Array => {
                let Line::Value { value, next } = number::read(self.bytes, self.at + 1) else { return None };
                let end = next.checked_add(usize::try_from(value).ok()?)?;
                let bulk = self.bytes.get(next..end)?;
                self.at = end + 2;
                Some(Cow::Borrowed(bulk))
            }
            Form::Inline => {
                let word = inline::next_word(self.bytes, self.at).ok()??;
                self.at = word.end;
                let raw = self.bytes.get(word.start..word.end)?;
                Some(if word.quoted { Cow::Owned(inline::unquote(raw)) } else { Cow::Borrowed(raw) })
            }
        }
    }
}

const EMPTY: Span = Span::EMPTY;

/// Splits one inline command (without or with its line ending) into its words, as the server does.
///
/// # Errors
/// [`Unbalanced`] where a quote is not closed, or is closed within a word.
pub fn split_inline(line: &[u8]) -> Result<Vec<Vec<u8>>, Unbalanced> {
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(word) = inline::next_word(line, at)? {
        at = word.end;
        words.push(inline::unquote(line.get(word.start..word.end).unwrap_or_default()));
    }
    Ok(words)
}
