//! A range of the buffer that was scanned, small enough to be kept by the handful.

/// A range of bytes, relative to the start of the buffer that was given to the scanner.
///
/// Spans are only made for what lies within a scanner's `whole` limit, so 32 bits are enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    pub(crate) const EMPTY: Self = Self { start: 0, end: 0 };

    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start: clamp(start), end: clamp(end) }
    }

    /// The bytes of the span in `buf`, the buffer that was scanned; `None` if `buf` is another, shorter one.
    #[inline]
    #[must_use]
    pub fn of(self, buf: &[u8]) -> Option<&[u8]> {
        buf.get(self.start as usize..self.end as usize)
    }

    /// Where the span begins.
    #[must_use]
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// The first byte behind the span.
    #[must_use]
    pub fn end(self) -> usize {
        self.end as usize
    }

    pub(crate) fn cut(self, most: usize) -> Self {
        Self { start: self.start, end: self.end.min(self.start.saturating_add(clamp(most))) }
    }
}

fn clamp(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
