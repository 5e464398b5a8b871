//! The words of an inline command: blanks between them, `"…"` with escapes, `'…'` without.
//!
//! The rules are those of the server's `sdssplitargs`, to the letter: what it would refuse is refused.

use thiserror::Error;

/// A quote that is not closed, or that closes in the middle of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unbalanced quotes in request")]
pub struct Unbalanced;

/// Where one word lies in its line, quotes included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Whether it needs [`unquote`].
    pub(super) quoted: bool,
}

/// The first word at or behind `at`; `None` at the end of the line.
pub(super) fn next_word(line: &[u8], at: usize) -> Result<Option<Word>, Unbalanced> {
    let tail = line.get(at..).unwrap_or_default();
    let Some(blanks) = tail.iter().position(|&byte| !is_blank(byte)) else { return Ok(None) };
    let start = at + blanks;
    let mut at = start;
    loop {
        match line.get(at) {
            None | Some(b' ' | b'\n' | b'\r' | b'\t') => {
                return Ok(Some(Word { start, end: at, quoted: false }));
            }
            Some(&quote @ (b'"' | b'\'')) => {
                let end = closing_quote(line, at + 1, quote)?;
                return Ok(Some(Word { start, end, quoted: true }));
            }
            Some(_) => at += 1,
        }
    }
}

/// The place behind the quote that closes the one before `at`: a blank or the end must follow it.
fn closing_quote(line: &[u8], mut at: usize, quote: u8) -> Result<usize, Unbalanced> {
    loop {
        match (line.get(at), line.get(at + 1)) {
            (None, _) => return Err(Unbalanced),
            (Some(b'\\'), Some(_)) if quote == b'"' => at += 2,
            (Some(b'\\'), Some(b'\'')) if quote == b'\'' => at += 2,
            (Some(&byte), next) if byte == quote => {
                return if next.is_none_or(|&next| is_blank(next)) { Ok(at + 1) } else { Err(Unbalanced) };
            }
            _ => at += 1,
        }
    }
}

/// What a word means once its quotes are taken off. Words come from [`next_word`].
pub(super) fn unquote(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut rest = raw;
    let mut quote = None;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match (quote, byte, tail) {
            (None, b'"' | b'\'', _) => quote = Some(*byte),
            (Some(open), byte, _) if *byte == open => quote = None,
            (Some(b'"'), b'\\', [b'x', high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                value.push(hex(*high) << 4 | hex(*low));
                rest = after;
            }
            (Some(b'"'), b'\\', [escaped, after @ ..]) => {
                value.push(unescape(*escaped));
                rest = after;
            }
            (Some(b'\''), b'\\', [b'\'', after @ ..]) => {
                value.push(b'\'');
                rest = after;
            }
            _ => value.push(*byte),
        }
    }
    value
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// C's `isspace`.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}
