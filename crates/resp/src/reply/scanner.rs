//! The resumable walk over a server's bytes.
//!
//! ```text
//! Value ──'$' '=' '!'──► Payload(end) ──┐        bytes are stepped over, never read
//!   │ ───'+' '-' ':' …─► Line(searched) ┤
//!   │ ───'*' '%' '~' …─► one level down ┤ or done when empty
//!   └◄───────── value done: parents too ┘ ─► none left: the frame ends
//! ```
//! The levels above the innermost live in a vector that is empty, and not allocated, while replies
//! are flat. It is given back behind a reply that was unusually deep.

use super::{Frame, Kind, Limits, ReplyError, SHOWN_TEXT, Step};
use crate::Span;
use crate::number::{self, Line};

/// Finds the frames in a server's bytes; one for each connection.
///
/// It is used as [`crate::request::Scanner`] is: scan what was not consumed, consume what the step
/// names, and call again. An error is final.
#[derive(Clone, Debug)]
pub struct ReplyScanner {
    limits: Limits,
    phase: Phase,
    /// Next byte to look at, relative to the unconsumed bytes.
    pos: usize,
    /// The aggregate whose elements are being walked.
    level: Level,
    outer: Vec<Level>,
    frame: Frame,
    /// Whether `frame` was set by the value itself, not by an attribute before it.
    begun: bool,
    /// Whether the next value is the first element of the top-level aggregate.
    first: bool,
    streaming: bool,
    failed: Option<ReplyError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A value begins at `pos`.
    Value,
    /// A bulk's bytes reach to here; CRLF follows.
    Payload(usize),
    /// A line began at `pos`, with no CR before `searched`; `show` if it is the frame's text.
    Line { searched: usize, show: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Level {
    /// Elements that have not ended; in a streamed aggregate, how many have.
    count: u64,
    of: Of,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// Not in an aggregate.
    Top,
    /// As many elements as were announced.
    Counted,
    /// Elements until `.`.
    Streamed { pairs: bool },
    /// Pairs that annotate the value behind them.
    Attribute,
    /// The same, until `.`.
    StreamedAttribute,
    /// Chunks of a string, until an empty one.
    Chunks,
}

/// As many levels keep their place for the next nested reply; replies seldom have more than five.
const LEVELS_KEPT: usize = 64;

const TOP: Level = Level { count: 0, of: Of::Top };

/// What became of one look at the bytes.
enum Progress {
    /// Something was read; the value goes on.
    Further,
    /// A value ended at `pos`.
    ValueDone,
    /// Bytes are missing; those before this place surely belong to the frame.
    Stuck(usize),
}

impl ReplyScanner {
    /// A scanner at the start of a connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Value,
            pos: 0,
            level: TOP,
            outer: Vec::new(),
            frame: Frame::new(0),
            begun: false,
            first: false,
            streaming: false,
            failed: None,
        }
    }

    /// Whether the scanner stands between two frames. Bytes of the caller's that were not consumed
    /// may still hold the beginning of the next one.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.phase == Phase::Value && self.pos == 0 && self.level.of == Of::Top && !self.streaming
    }

    /// Says what lies at the start of `buf`, the bytes not consumed yet.
    ///
    /// # Errors
    /// A [`ReplyError`] where the bytes can never become a frame. No later call recovers.
    #[inline]
    pub fn scan(&mut self, buf: &[u8]) -> Result<Step, ReplyError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.at_boundary()
            && let Some(frame) = self.short_value(buf)
        {
            return Ok(Step::Frame(frame));
        }
        let step = self.walk(buf);
        if let Err(error) = step {
            self.failed = Some(error);
        }
        step
    }

    #[cfg(test)]
    pub(super) fn levels_held(&self) -> usize {
        self.outer.capacity()
    }

    /// The frame whose beginning was seen but whose end was not: what is known of it so far.
    #[must_use]
    pub fn pending(&self) -> Option<&Frame> {
        (self.begun && !self.streaming).then_some(&self.frame)
    }

    /// Turns the pending frame into a streamed one, however short it may be: returns its head as
    /// [`Step::Head`] does, and [`Step::Body`] steps follow. `buf` is what was scanned last. `None`
    /// where nothing is pending, or where [`Frame::text`] is still on its way.
    pub fn stream(&mut self, buf: &[u8]) -> Option<Frame> {
        self.pending()?;
        self.text_is_settled(buf).then(|| self.begin_stream())
    }

    /// The common case at once: a whole bulk, status or integer. Whatever else it may be is left to
    /// [`Self::walk`], untouched.
    #[inline(always)]
    fn short_value(&self, buf: &[u8]) -> Option<Frame> {
        let (&marker, rest) = buf.split_first()?;
        let end = match (marker, rest) {
            (b'$', _) => {
                let Line::Value { value, next } = number::read(buf, 1) else { return None };
                if value as u64 > self.limits.bulk {
                    return None;
                }
                next.checked_add(usize::try_from(value).ok()?)?
            }
            (b'+', [b'O', b'K', ..]) => 3,
            (b':', [digit, b'\r', ..]) if *digit != b'\r' => 2,
            _ => return None,
        };
        let &[b'\r', b'\n'] = buf.get(end..end.checked_add(2)?)? else { return None };
        let len = end + 2;
        if len > self.limits.whole {
            return None;
        }
        let shown = marker == b'+';
        let text = if shown { Span::new(1, end) } else { Span::EMPTY };
        Some(Frame { len, kind: Kind::Reply, marker, text, shown })
    }

    fn walk(&mut self, buf: &[u8]) -> Result<Step, ReplyError> {
        loop {
            let progress = match self.phase {
                Phase::Value => self.value(buf)?,
                Phase::Payload(end) => match number::ends_line(buf, end) {
                    Some(true) => self.value_ends(end + 2),
                    Some(false) => return Err(ReplyError::MissingCrlf),
                    None => Progress::Stuck(buf.len().min(end)),
                },
                Phase::Line { searched, show } => self.line(buf, searched, show)?,
            };
            if matches!(progress, Progress::ValueDone) && self.unwind() {
                return Ok(self.finish());
            }
            if !self.streaming && self.extent() > self.limits.whole {
                // Neither the kind nor the text is known before such attributes end.
                if !self.begun || (self.first && !self.outer.is_empty()) {
                    return Err(ReplyError::AttributeTooLong);
                }
                if self.text_is_settled(buf) {
                    return Ok(Step::Head(self.begin_stream()));
                }
            }
            if let Progress::Stuck(sure) = progress {
                return Ok(self.out_of_bytes(sure));
            }
        }
    }

    /// How far the frame surely reaches.
    #[inline]
    fn extent(&self) -> usize {
        match self.phase {
            Phase::Value => self.pos,
            Phase::Line { searched: end, .. } | Phase::Payload(end) => end.saturating_add(2),
        }
    }

    #[inline]
    fn text_is_settled(&self, buf: &[u8]) -> bool {
        let on_its_way = self.first || matches!(self.phase, Phase::Line { show: true, .. });
        !on_its_way && (!self.frame.shown || self.frame.text.end() <= buf.len())
    }

    /// Reads the first line of the value at `pos`.
    #[inline]
    fn value(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        let Some(&marker) = buf.get(self.pos) else { return Ok(Progress::Stuck(self.pos)) };
        if self.level.of == Of::Chunks {
            return self.chunk(buf, marker);
        }
        let top = self.level.of == Of::Top;
        // An attribute before the first element opens a level of its own: its parts are not the first.
        let outset =
            Outset { top, first: self.first && self.outer.is_empty() && self.level.of == Of::Counted };
        let progress = match marker {
            b'$' | b'=' | b'!' => self.bulk(buf, marker, outset)?,
            b'*' | b'%' | b'~' | b'>' | b'|' => self.aggregate(buf, marker, outset)?,
            b'+' | b'-' => self.enter_line(marker, top || (outset.first && marker == b'+'), outset),
            b':' | b'_' | b',' | b'#' | b'(' => self.enter_line(marker, false, outset),
            b'.' => self.end_of_stream(buf)?,
            other => return Err(ReplyError::UnknownType(other)),
        };
        Ok(progress)
    }

    /// Notes that the value's first line was read, and so what the frame is.
    #[inline]
    fn begin_value(&mut self, marker: u8, outset: Outset) {
        self.first &= !outset.first;
        if outset.top {
            self.frame = Frame::new(marker);
            self.begun = true;
        }
    }

    fn enter_line(&mut self, marker: u8, show: bool, outset: Outset) -> Progress {
        self.begin_value(marker, outset);
        self.pos += 1;
        self.phase = Phase::Line { searched: self.pos, show };
        Progress::Further
    }

    fn line(&mut self, buf: &[u8], searched: usize, show: bool) -> Result<Progress, ReplyError> {
        let found = memchr::memchr(b'\r', buf.get(searched..).unwrap_or_default());
        let end = found.map_or(buf.len(), |at| searched + at);
        self.phase = Phase::Line { searched: end, show };
        let long = !self.streaming && self.extent() > self.limits.whole;
        let ends = match found {
            Some(_) => number::ends_line(buf, end),
            None => None,
        };
        if ends == Some(false) {
            return Err(ReplyError::MissingCrlf);
        }
        if show && !self.streaming && (ends.is_some() || (long && end - self.pos >= SHOWN_TEXT)) {
            self.frame.show(Span::new(self.pos, end));
            self.phase = Phase::Line { searched: end, show: false };
        }
        Ok(match ends {
            // A long line becomes a streamed one, also where all of it is here already.
            Some(_) if long => Progress::Further,
            Some(_) => self.value_ends(end + 2),
            None => Progress::Stuck(end),
        })
    }

    #[inline]
    fn bulk(&mut self, buf: &[u8], marker: u8, outset: Outset) -> Result<Progress, ReplyError> {
        let (value, next) = match number::read(buf, self.pos + 1) {
            Line::Value { value, next } => (value, next),
            Line::Incomplete => return Ok(Progress::Stuck(self.pos)),
            Line::Invalid if marker == b'$' => {
                return self.enter_streamed(buf, marker, Of::Chunks, outset);
            }
            Line::Invalid | Line::TooLong => return Err(ReplyError::InvalidLength),
        };
        if value == -1 && marker == b'$' {
            self.begin_value(marker, outset);
            return Ok(self.value_ends(next));
        }
        let length = u64::try_from(value).map_err(|_| ReplyError::InvalidLength)?;
        if length > self.limits.bulk {
            return Err(ReplyError::BulkTooLong);
        }
        let end = usize::try_from(length).ok().and_then(|length| next.checked_add(length));
        let end = end.ok_or(ReplyError::BulkTooLong)?;
        self.begin_value(marker, outset);
        if (outset.first && marker == b'$' && end - next <= SHOWN_TEXT) || (outset.top && marker == b'!') {
            self.frame.show(Span::new(next, end));
        }
        self.pos = next;
        self.phase = Phase::Payload(end);
        Ok(Progress::Further)
    }

    fn chunk(&mut self, buf: &[u8], marker: u8) -> Result<Progress, ReplyError> {
        if marker != b';' {
            return Err(ReplyError::OutOfPlace);
        }
        let (value, next) = match number::read(buf, self.pos + 1) {
            Line::Value { value, next } => (value, next),
            Line::Incomplete => return Ok(Progress::Stuck(self.pos)),
            Line::Invalid | Line::TooLong => return Err(ReplyError::InvalidLength),
        };
        if value == 0 {
            self.leave();
            return Ok(self.value_ends(next));
        }
        let length = u64::try_from(value).map_err(|_| ReplyError::InvalidLength)?;
        if length > self.limits.bulk {
            return Err(ReplyError::BulkTooLong);
        }
        let end = usize::try_from(length).ok().and_then(|length| next.checked_add(length));
        self.pos = next;
        self.phase = Phase::Payload(end.ok_or(ReplyError::BulkTooLong)?);
        Ok(Progress::Further)
    }

    fn aggregate(&mut self, buf: &[u8], marker: u8, outset: Outset) -> Result<Progress, ReplyError> {
        if marker == b'>' && !outset.top {
            return Err(ReplyError::OutOfPlace);
        }
        let (value, next) = match number::read(buf, self.pos + 1) {
            Line::Value { value, next } => (value, next),
            Line::Incomplete => return Ok(Progress::Stuck(self.pos)),
            Line::Invalid => {
                let of = match marker {
                    b'*' | b'~' => Of::Streamed { pairs: false },
                    b'%' => Of::Streamed { pairs: true },
                    b'|' => Of::StreamedAttribute,
                    _ => return Err(ReplyError::InvalidLength),
                };
                return self.enter_streamed(buf, marker, of, outset);
            }
            Line::TooLong => return Err(ReplyError::InvalidLength),
        };
        let attribute = marker == b'|';
        if value == -1 && marker == b'*' {
            self.begin_value(marker, outset);
            return Ok(self.value_ends(next));
        }
        let announced = u64::try_from(value).map_err(|_| ReplyError::InvalidLength)?;
        let each = if matches!(marker, b'%' | b'|') { 2 } else { 1 };
        let count = announced.checked_mul(each).filter(|&count| count <= self.limits.elements);
        let count = count.ok_or(ReplyError::TooManyElements)?;
        if !attribute {
            self.begin_value(marker, outset);
        }
        match (count, attribute) {
            (0, true) => {
                self.pos = next;
                return Ok(Progress::Further);
            }
            (0, false) => return Ok(self.value_ends(next)),
            (_, true) => self.enter(count, Of::Attribute)?,
            (_, false) => {
                // An array in an attribute before the first element leaves that one still to come.
                self.first |= outset.top && matches!(marker, b'*' | b'>');
                self.enter(count, Of::Counted)?;
            }
        }
        self.pos = next;
        Ok(Progress::Further)
    }

    /// `$?`, `*?` and their kin: what follows has no announced end.
    fn enter_streamed(
        &mut self,
        buf: &[u8],
        marker: u8,
        of: Of,
        outset: Outset,
    ) -> Result<Progress, ReplyError> {
        if buf.get(self.pos + 1) != Some(&b'?') {
            return Err(ReplyError::InvalidLength);
        }
        match number::ends_line(buf, self.pos + 2) {
            None => return Ok(Progress::Stuck(self.pos)),
            Some(false) => return Err(ReplyError::InvalidLength),
            Some(true) => {}
        }
        if of != Of::StreamedAttribute {
            self.begin_value(marker, outset);
        }
        self.enter(0, of)?;
        self.pos += 4;
        Ok(Progress::Further)
    }

    fn end_of_stream(&mut self, buf: &[u8]) -> Result<Progress, ReplyError> {
        let even = self.level.count.is_multiple_of(2);
        let attribute = match self.level.of {
            Of::Streamed { pairs } if even || !pairs => false,
            Of::StreamedAttribute if even => true,
            _ => return Err(ReplyError::OutOfPlace),
        };
        match number::ends_line(buf, self.pos + 1) {
            None => return Ok(Progress::Stuck(self.pos)),
            Some(false) => return Err(ReplyError::MissingCrlf),
            Some(true) => self.leave(),
        }
        if attribute {
            self.pos += 3;
            return Ok(Progress::Further);
        }
        Ok(self.value_ends(self.pos + 3))
    }

    #[inline]
    fn value_ends(&mut self, at: usize) -> Progress {
        self.pos = at;
        self.phase = Phase::Value;
        Progress::ValueDone
    }

    /// Counts a finished value in its aggregate, and that in its own, … True when the frame is over.
    #[inline]
    fn unwind(&mut self) -> bool {
        loop {
            match self.level.of {
                Of::Top => return true,
                Of::Streamed { .. } | Of::StreamedAttribute => {
                    self.level.count = self.level.count.wrapping_add(1)
                }
                Of::Chunks => {}
                Of::Counted | Of::Attribute => {
                    self.level.count -= 1;
                    if self.level.count == 0 {
                        let attribute = self.level.of == Of::Attribute;
                        self.leave();
                        if attribute {
                            return false;
                        }
                        continue;
                    }
                }
            }
            return false;
        }
    }

    fn enter(&mut self, count: u64, of: Of) -> Result<(), ReplyError> {
        let here = std::mem::replace(&mut self.level, Level { count, of });
        if here.of != Of::Top {
            self.outer.push(here);
        }
        if self.outer.len() >= self.limits.depth { Err(ReplyError::TooDeep) } else { Ok(()) }
    }

    fn leave(&mut self) {
        self.level = self.outer.pop().unwrap_or(TOP);
        if self.level.of == Of::Top && self.outer.capacity() > LEVELS_KEPT {
            self.outer = Vec::new();
        }
    }

    /// Hands out what surely belongs to a streamed frame; a whole one waits in the buffer.
    fn out_of_bytes(&mut self, sure: usize) -> Step {
        if !self.streaming || sure == 0 {
            return Step::NeedMore;
        }
        self.consume(sure);
        Step::Body { len: sure, end: false }
    }

    fn begin_stream(&mut self) -> Frame {
        self.streaming = true;
        self.frame.len = self.pos;
        self.consume(self.pos);
        self.frame
    }

    fn consume(&mut self, len: usize) {
        self.pos = self.pos.saturating_sub(len);
        if let Phase::Payload(end) | Phase::Line { searched: end, .. } = &mut self.phase {
            *end = end.saturating_sub(len);
        }
    }

    #[inline]
    fn finish(&mut self) -> Step {
        let len = std::mem::take(&mut self.pos);
        self.begun = false;
        if std::mem::take(&mut self.streaming) {
            return Step::Body { len, end: true };
        }
        self.frame.len = len;
        Step::Frame(self.frame)
    }
}

/// Where a value stands in its frame.
#[derive(Clone, Copy)]
struct Outset {
    /// It is the frame.
    top: bool,
    /// It is the first element of the frame.
    first: bool,
}
