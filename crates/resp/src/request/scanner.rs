//! The resumable walk over a client's bytes.
//!
//! ```text
//! Start ──'*'──► Header ◄──────────► Payload(end)      a bulk's bytes are stepped over, never read
//!   │              └─ none left ─► Start
//!   └──other──► Inline(searched) ──'\n'──► Start
//! ```

use super::{Form, Limits, Request, RequestError, Step, inline};
use crate::Span;
use crate::number::{self, Line};

/// Finds the requests in a client's bytes; one for each connection.
///
/// Give [`Scanner::scan`] the bytes that were not consumed yet. It answers with what lies at their
/// start; consume the length that the step names and call again. After [`Step::NeedMore`] call again
/// with the same bytes and more behind them. An error is final: it is returned from then on.
#[derive(Clone, Debug)]
pub struct Scanner {
    limits: Limits,
    phase: Phase,
    /// Next byte to look at, relative to the unconsumed bytes.
    pos: usize,
    /// Bulks of the current array whose end was not reached.
    left: u32,
    current: Request,
    streaming: bool,
    /// Bytes that were consumed by steps so far.
    consumed: u64,
    /// As many were consumed when the streamed request began.
    began: u64,
    failed: Option<RequestError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    /// A bulk's length line begins at `pos`.
    Header,
    /// A bulk's bytes reach to here; CRLF follows.
    Payload(usize),
    /// No line ending was found before here.
    Inline(usize),
}

impl Scanner {
    /// A scanner at the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Start,
            pos: 0,
            left: 0,
            current: Request::new(Form::Array, 0),
            streaming: false,
            consumed: 0,
            began: 0,
            failed: None,
        }
    }

    /// Puts other limits in force from the next length line on, as signing in does.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Bytes that all steps together have consumed.
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Whether the scanner stands between two requests. Bytes of the caller's that were not consumed
    /// may still hold the beginning of the next one.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.phase == Phase::Start && !self.streaming
    }

    /// Says what lies at the start of `buf`, the bytes not consumed yet.
    ///
    /// # Errors
    /// A [`RequestError`] where the bytes can never become a request. No later call recovers.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let step = match self.phase {
            Phase::Start => match buf.first() {
                None => Ok(Step::NeedMore),
                Some(b'*') => {
                    if let Some(request) = self.short_array(buf) {
                        self.consumed += request.len as u64;
                        return Ok(Step::Request(request));
                    }
                    self.array(buf)
                }
                Some(_) => self.line(buf, 0),
            },
            Phase::Inline(searched) => self.line(buf, searched),
            Phase::Header | Phase::Payload(_) => self.bulks(buf),
        };
        if let Err(error) = step {
            self.failed = Some(error);
        }
        step
    }

    /// The array request whose beginning was seen but whose end was not: what is known of it so far.
    ///
    /// For a caller that got [`Step::NeedMore`] and would rather decide now than wait; see [`Scanner::stream`].
    #[must_use]
    pub fn pending(&self) -> Option<&Request> {
        let array = matches!(self.phase, Phase::Header | Phase::Payload(_));
        (array && !self.streaming && self.current.known > 0).then_some(&self.current)
    }

    /// Turns the pending request into a streamed one, however short it may be: returns its head as
    /// [`Step::Head`] does, and [`Step::Body`] steps follow. `None` where nothing is pending.
    pub fn stream(&mut self) -> Option<Request> {
        self.pending()?;
        Some(self.begin_stream())
    }

    /// The common case at once: a whole request of a few arguments, with nothing to complain about.
    /// Whatever else it may be is left to [`Self::array`], untouched.
    #[inline(always)]
    fn short_array(&self, buf: &[u8]) -> Option<Request> {
        let &[b'*', digit @ b'1'..=b'4', b'\r', b'\n', ..] = buf else { return None };
        let argc = digit - b'0';
        let (name, mut at) = self.short_bulk(buf, 4)?;
        let mut spans = [name, Span::EMPTY, Span::EMPTY, Span::EMPTY];
        if argc > 1 {
            (spans[1], at) = self.short_bulk(buf, at)?;
        }
        if argc > 2 {
            (spans[2], at) = self.short_bulk(buf, at)?;
        }
        if argc > 3 {
            (spans[3], at) = self.short_bulk(buf, at)?;
        }
        let fits = at <= self.limits.whole && u32::from(argc) <= self.limits.args;
        if !fits || self.limits.before_auth_total.is_some() || check_http(name.of(buf)?).is_err() {
            return None;
        }
        Some(Request { len: at, argc: u32::from(argc), form: Form::Array, known: argc, quoted: 0, spans })
    }

    #[inline(always)]
    fn short_bulk(&self, buf: &[u8], at: usize) -> Option<(Span, usize)> {
        if buf.get(at) != Some(&b'$') {
            return None;
        }
        let Line::Value { value, next } = number::read(buf, at + 1) else { return None };
        let end = next.checked_add(usize::try_from(value).ok()?)?;
        let &[b'\r', b'\n'] = buf.get(end..end.checked_add(2)?)? else { return None };
        (value as u64 <= self.limits.bulk).then(|| (Span::new(next, end), end + 2))
    }

    fn array(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        let (count, next) = match number::read(buf, 1) {
            Line::Incomplete => return Ok(Step::NeedMore),
            Line::TooLong => return Err(RequestError::MultibulkCountTooLong),
            Line::Invalid => return Err(RequestError::InvalidMultibulkLength),
            Line::Value { value, next } => (value, next),
        };
        self.admit(next)?;
        if count <= 0 {
            self.consumed += next as u64;
            return Ok(Step::Empty { len: next });
        }
        match u32::try_from(count) {
            Ok(argc) if argc <= self.limits.args => {
                self.current = Request::new(Form::Array, argc);
                self.left = argc;
                self.pos = next;
                self.phase = Phase::Header;
                self.bulks(buf)
            }
            _ if self.limits.before_auth_total.is_some() => Err(RequestError::UnauthenticatedMultibulkLength),
            _ => Err(RequestError::InvalidMultibulkLength),
        }
    }

    /// Walks from bulk to bulk until the array ends, the bytes do, or the request turns out to be a long one.
    fn bulks(&mut self, buf: &[u8]) -> Result<Step, RequestError> {
        loop {
            if let Phase::Payload(end) = self.phase {
                match number::ends_line(buf, end) {
                    None => return Ok(self.out_of_bytes(buf.len().min(end))),
                    Some(false) => return Err(RequestError::MissingCrlf),
                    Some(true) => self.bulk_done(end + 2, buf)?,
                }
            }
            if self.left == 0 {
                return Ok(self.finish());
            }
            match buf.get(self.pos) {
                None => return Ok(self.out_of_bytes(self.pos)),
                Some(b'$') => {}
                Some(&other) => return Err(RequestError::ExpectedBulk(other)),
            }
            let (length, start) = match number::read(buf, self.pos + 1) {
                Line::Incomplete => return Ok(self.out_of_bytes(self.pos)),
                Line::TooLong => return Err(RequestError::BulkCountTooLong),
                Line::Invalid => return Err(RequestError::InvalidBulkLength),
                Line::Value { value, next } => (self.bulk_length(value)?, next),
            };
            let end = start.checked_add(length).ok_or(RequestError::InvalidBulkLength)?;
            self.admit(end.saturating_add(2))?;
            self.phase = Phase::Payload(end);
            if self.streaming {
                self.check_total(self.consumed - self.began, end)?;
            } else {
                if end.saturating_add(2) > self.limits.whole {
                    self.check_total(0, end)?;
                    self.pos = start;
                    return Ok(Step::Head(self.begin_stream()));
                }
                if let Some(span) = self.current.spans.get_mut(usize::from(self.current.known)) {
                    *span = Span::new(start, end);
                }
            }
            self.pos = start;
        }
    }

    #[inline]
    fn bulk_done(&mut self, next: usize, buf: &[u8]) -> Result<(), RequestError> {
        self.left -= 1;
        self.pos = next;
        self.phase = Phase::Header;
        if !self.streaming && usize::from(self.current.known) < self.current.spans.len() {
            self.current.known += 1;
            if self.current.known == 1 {
                return self.current.spans.first().and_then(|name| name.of(buf)).map_or(Ok(()), check_http);
            }
        }
        Ok(())
    }

    fn bulk_length(&self, value: i64) -> Result<usize, RequestError> {
        match (u64::try_from(value), usize::try_from(value)) {
            (Ok(long), Ok(length)) if long <= self.limits.bulk => Ok(length),
            (Ok(_), _) if self.limits.before_auth_total.is_some() => {
                Err(RequestError::UnauthenticatedBulkLength)
            }
            _ => Err(RequestError::InvalidBulkLength),
        }
    }

    /// Refuses a request that reaches to `end` where the client may not send as much yet.
    #[inline]
    fn admit(&self, end: usize) -> Result<(), RequestError> {
        match self.limits.before_auth_total {
            Some(most) if self.consumed.saturating_add(end as u64) > most => {
                Err(RequestError::TooMuchBeforeAuth)
            }
            _ => Ok(()),
        }
    }

    /// Refuses a request that reaches to `end`, behind so many bytes that were handed out.
    fn check_total(&self, before: u64, end: usize) -> Result<(), RequestError> {
        let total = before.saturating_add(end as u64).saturating_add(2);
        if total > self.limits.total { Err(RequestError::RequestTooLong) } else { Ok(()) }
    }

    /// Hands out what surely belongs to a streamed request; a whole one waits in the buffer.
    fn out_of_bytes(&mut self, sure: usize) -> Step {
        if !self.streaming || sure == 0 {
            return Step::NeedMore;
        }
        self.consume(sure);
        Step::Body { len: sure, end: false }
    }

    fn begin_stream(&mut self) -> Request {
        self.streaming = true;
        self.began = self.consumed;
        self.current.len = self.pos;
        self.consume(self.pos);
        self.current
    }

    fn consume(&mut self, len: usize) {
        self.consumed += len as u64;
        self.pos = self.pos.saturating_sub(len);
        if let Phase::Payload(end) = &mut self.phase {
            *end = end.saturating_sub(len);
        }
    }

    fn finish(&mut self) -> Step {
        let len = self.pos;
        self.consumed += len as u64;
        self.pos = 0;
        self.phase = Phase::Start;
        if std::mem::take(&mut self.streaming) {
            return Step::Body { len, end: true };
        }
        self.current.len = len;
        Step::Request(self.current)
    }

    fn line(&mut self, buf: &[u8], searched: usize) -> Result<Step, RequestError> {
        // With its line feed; whichever limit is the smaller one speaks, wherever the bytes were split.
        let longest = self.limits.inline.saturating_add(1);
        let fresh = buf.get(searched..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', fresh) else {
            self.admit(buf.len().min(longest))?;
            if buf.len() >= longest {
                return Err(RequestError::InlineTooLong);
            }
            self.phase = Phase::Inline(buf.len());
            return Ok(Step::NeedMore);
        };
        let end = searched + found;
        let len = end + 1;
        self.admit(len.min(longest))?;
        if len > longest {
            return Err(RequestError::InlineTooLong);
        }
        self.phase = Phase::Start;
        self.consumed += len as u64;
        let request = read_inline(buf.get(..end).unwrap_or_default(), len)?;
        Ok(if request.argc == 0 { Step::Empty { len } } else { Step::Request(request) })
    }
}

fn read_inline(line: &[u8], len: usize) -> Result<Request, RequestError> {
    if memchr::memchr(0, line).is_some() {
        return Err(RequestError::NulInInline);
    }
    let text = line.trim_ascii_end();
    if text.ends_with(b"HTTP/1.0") || text.ends_with(b"HTTP/1.1") {
        return Err(RequestError::Http);
    }
    let mut request = Request::new(Form::Inline, 0);
    request.len = len;
    let mut at = 0;
    while let Some(word) = inline::next_word(line, at).map_err(|_| RequestError::UnbalancedQuotes)? {
        at = word.end;
        request.argc += 1;
        request.keep(Span::new(word.start, word.end), word.quoted);
    }
    match request.name(line) {
        Some(name) => check_http(&name).map(|()| request),
        None => Ok(request),
    }
}

/// `POST` and `Host:` are what the server itself takes for an attack from a browser.
#[inline]
fn check_http(name: &[u8]) -> Result<(), RequestError> {
    match name {
        [_, _, _, _] if name.eq_ignore_ascii_case(b"POST") => Err(RequestError::Http),
        [_, _, _, _, _] if name.eq_ignore_ascii_case(b"Host:") => Err(RequestError::Http),
        _ => Ok(()),
    }
}
