//! The one number format of RESP's length lines: `[-]digits\r\n`, as strict as the servers' own parser.
//!
//! Refuses plus signs, leading zeros, spaces and `-0`, so that proxy and server never read one line
//! as two different lengths.

/// Most digits of a line: more than any 64-bit number has (19), so that one that is merely too large
/// is told from a stream of digits.
const LONGEST: usize = 32;

/// What stands at a place where a length line is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Right so far; more bytes are needed.
    Incomplete,
    /// Longer than any number.
    TooLong,
    /// Can never become a number line.
    Invalid,
    /// A number whose line ends before `next`.
    Value { value: i64, next: usize },
}

/// Reads the number line that begins at `at`.
#[inline]
pub(crate) fn read(buf: &[u8], at: usize) -> Line {
    // One or two digits are nearly every line there is.
    match buf.get(at..) {
        Some([a @ b'0'..=b'9', b'\r', b'\n', ..]) => Line::Value { value: i64::from(a - b'0'), next: at + 3 },
        Some([a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..]) => {
            Line::Value { value: i64::from(a - b'0') * 10 + i64::from(b - b'0'), next: at + 4 }
        }
        Some(rest) => read_long(rest, at),
        None => Line::Incomplete,
    }
}

fn read_long(rest: &[u8], at: usize) -> Line {
    let (negative, digits) = match rest {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // `None` once it does not fit into 64 bits.
    let mut number = Some(0_i64);
    for (index, &byte) in digits.iter().enumerate() {
        match byte {
            b'0' if index == 0 && negative => return Line::Invalid,
            b'0'..=b'9' if index > 0 && number == Some(0) => return Line::Invalid,
            b'0'..=b'9' if index >= LONGEST => return Line::TooLong,
            b'0'..=b'9' => {
                let digit = i64::from(byte - b'0');
                let signed = if negative { -digit } else { digit };
                number = number.and_then(|value| value.checked_mul(10)?.checked_add(signed));
            }
            b'\r' if index > 0 => {
                return match (digits.get(index + 1), number) {
                    (None, _) => Line::Incomplete,
                    (Some(b'\n'), Some(value)) => {
                        Line::Value { value, next: at + usize::from(negative) + index + 2 }
                    }
                    _ => Line::Invalid,
                };
            }
            _ => return Line::Invalid,
        }
    }
    Line::Incomplete
}

/// Whether the two bytes at `at` end a line: `None` while they are not all there.
#[inline]
pub(crate) fn ends_line(buf: &[u8], at: usize) -> Option<bool> {
    match buf.get(at..)? {
        [b'\r', b'\n', ..] => Some(true),
        [] | [b'\r'] => None,
        _ => Some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_server_reads() {
        for (text, value) in [
            ("0\r\n", 0),
            ("7\r\n", 7),
            ("42\r\n", 42),
            ("-1\r\n", -1),
            ("536870912\r\n", 536_870_912),
            ("9223372036854775807\r\n", i64::MAX),
            ("-9223372036854775808\r\n", i64::MIN),
        ] {
            assert_eq!(read(text.as_bytes(), 0), Line::Value { value, next: text.len() }, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_the_server_refuses() {
        for text in [
            "+1\r\n", "01\r\n", "00\r\n", "-0\r\n", "- 1\r\n", " 1\r\n", "1 \r\n", "\r\n", "1\rX", "x",
            "-\r\n",
        ] {
            assert_eq!(read(text.as_bytes(), 0), Line::Invalid, "{text:?}");
        }
        assert_eq!(read(b"9223372036854775808\r\n", 0), Line::Invalid);
        assert_eq!(read(&[b'1'; 32], 0), Line::Incomplete);
        assert_eq!(read(&[b'1'; 33], 0), Line::TooLong);
    }

    #[test]
    fn waits_for_the_rest() {
        for text in ["", "1", "12", "-", "12\r", "1\r", "-12\r"] {
            assert_eq!(read(text.as_bytes(), 0), Line::Incomplete, "{text:?}");
        }
    }
}
