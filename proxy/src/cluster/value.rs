//! Reading one whole reply: enough of RESP2 and RESP3 to merge replies and to put parts of them elsewhere.
//!
//! Everything is borrowed from the caller's bytes. Children are handed out as the bytes that they are, so
//! that what is not understood can still be passed on. Nothing recurses, so no nesting is too deep; nothing
//! is trusted, so a frame that is cut short or announces too much is `None`, never a panic. Streamed strings
//! and aggregates, which no server sends, are not read.

/// A value, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `+text`.
    Simple(&'a [u8]),
    /// `-CODE text` or its bulk form, without the marker.
    Error(&'a [u8]),
    /// `:number`.
    Integer(i64),
    /// A bulk string, or a verbatim string's text without its format.
    Text(&'a [u8]),
    /// A null of any kind.
    Null,
    /// `#t` or `#f`.
    Bool(bool),
    /// `,number` or `(number`, as it is written.
    Number(&'a [u8]),
    /// An array, a set or a push.
    List(Items<'a>),
    /// A map; its items are keys and values in turn.
    Map(Items<'a>),
}

impl<'a> Value<'a> {
    /// Reads a frame that holds one value and nothing behind it; attributes before it are stepped over.
    #[must_use]
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let (value, end) = Self::read_first(frame)?;
        (end == frame.len()).then_some(value)
    }

    /// Reads the value at the start of `bytes`, and tells where it ends.
    #[must_use]
    pub fn read_first(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let start = behind_attributes(bytes)?;
        let rest = bytes.get(start..)?;
        let end = start + end_of(rest)?;
        let (&marker, _) = rest.split_first()?;
        let (line, body) = line(rest)?;
        let value = match marker {
            b'+' => Self::Simple(line),
            b'-' => Self::Error(line),
            b':' => Self::Integer(number(line)?),
            b'_' => Self::Null,
            b'#' => Self::Bool(line == b"t"),
            b',' | b'(' => Self::Number(line),
            b'$' | b'=' | b'!' => match number(line)? {
                -1 => Self::Null,
                length => {
                    let text = rest.get(body..body + usize::try_from(length).ok()?)?;
                    match marker {
                        b'!' => Self::Error(text),
                        b'=' => Self::Text(text.get(4..)?),
                        _ => Self::Text(text),
                    }
                }
            },
            b'*' | b'~' | b'>' | b'%' => match number(line)? {
                -1 => Self::Null,
                count => {
                    let count = usize::try_from(count).ok()?;
                    let bytes = rest.get(body..end - start)?;
                    match marker {
                        b'%' => Self::Map(Items { count: count.checked_mul(2)?, bytes }),
                        _ => Self::List(Items { count, bytes }),
                    }
                }
            },
            _ => return None,
        };
        Some((value, end))
    }

    /// The integer, also where it is written as text (as `CONFIG` and `INFO` like to).
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(text) | Self::Simple(text) => number(text),
            _ => None,
        }
    }

    /// The text of a string of any kind.
    #[must_use]
    pub fn text(&self) -> Option<&'a [u8]> {
        match self {
            Self::Simple(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The children of an array, set, push or map.
    #[must_use]
    pub fn items(&self) -> Option<Items<'a>> {
        match self {
            Self::List(items) | Self::Map(items) => Some(*items),
            _ => None,
        }
    }
}

/// The children of an aggregate, as the bytes that they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Items<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Items<'a> {
    /// How many are left; a map's pair counts as two.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all that are left.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next one, read.
    pub fn next_value(&mut self) -> Option<Value<'a>> {
        Value::read(self.next()?)
    }

    /// The next two, read: a pair of a map, or of an array that stands for one.
    pub fn next_pair(&mut self) -> Option<(Value<'a>, Value<'a>)> {
        Some((self.next_value()?, self.next_value()?))
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.count = self.count.checked_sub(1)?;
        let start = behind_attributes(self.bytes)?;
        let end = start + end_of(self.bytes.get(start..)?)?;
        let (item, rest) = self.bytes.split_at_checked(end)?;
        self.bytes = rest;
        Some(item)
    }
}

/// Where the value at the start of `bytes` ends.
fn end_of(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut left) = (0_usize, 1_u64);
    while left > 0 {
        let rest = bytes.get(at..)?;
        let (&marker, _) = rest.split_first()?;
        let (line, body) = line(rest)?;
        left -= 1;
        at += body;
        match marker {
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            b'$' | b'=' | b'!' => {
                if let Ok(length) = usize::try_from(number(line)?) {
                    at = at.checked_add(length)?.checked_add(2)?;
                    (bytes.get(at - 2..at)? == b"\r\n").then_some(())?;
                }
            }
            // An attribute inside is followed by the value that it describes.
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                let count = u64::try_from(number(line)?).unwrap_or(0);
                let each = if matches!(marker, b'%' | b'|') { 2 } else { 1 };
                let more = count.checked_mul(each)?.checked_add(u64::from(marker == b'|'))?;
                left = left.checked_add(more)?;
                // Each value takes three bytes at least: what announces more than there is is not walked.
                (left <= bytes.len() as u64).then_some(())?;
            }
            _ => return None,
        }
    }
    Some(at)
}

/// Where the value itself begins.
fn behind_attributes(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while bytes.get(at) == Some(&b'|') {
        let rest = bytes.get(at..)?;
        let (line, body) = line(rest)?;
        let count = number(line).filter(|count| *count >= 0)?;
        at += body;
        for _ in 0..count.checked_mul(2)? {
            at += end_of(bytes.get(at..)?)?;
        }
    }
    Some(at)
}

/// The line behind the marker, and where the next one begins.
fn line(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((bytes.get(1..end)?, end + 2))
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_each_kind() {
        for (frame, value) in [
            ("+OK\r\n", Value::Simple(b"OK")),
            ("-ERR no\r\n", Value::Error(b"ERR no")),
            ("!6\r\nERR no\r\n", Value::Error(b"ERR no")),
            (":-7\r\n", Value::Integer(-7)),
            ("$3\r\na\rb\r\n", Value::Text(b"a\rb")),
            ("=7\r\ntxt:abc\r\n", Value::Text(b"abc")),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            ("_\r\n", Value::Null),
            ("#t\r\n", Value::Bool(true)),
            (",1.5\r\n", Value::Number(b"1.5")),
            ("|1\r\n+ttl\r\n:9\r\n:1\r\n", Value::Integer(1)),
        ] {
            assert_eq!(Value::read(frame.as_bytes()), Some(value), "{frame:?}");
        }
    }

    #[test]
    fn hands_out_children_as_bytes() {
        let Some(Value::List(items)) = Value::read(b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n|1\r\n+k\r\n:1\r\n+v\r\n")
        else {
            panic!("an array")
        };
        let children: Vec<_> = items.collect();
        assert_eq!(
            children,
            [b"$1\r\na\r\n".as_slice(), b"*1\r\n:1\r\n".as_slice(), b"|1\r\n+k\r\n:1\r\n+v\r\n".as_slice()]
        );
        let Some(Value::Map(mut pairs)) = Value::read(b"%1\r\n+a\r\n:2\r\n") else { panic!("a map") };
        assert_eq!((pairs.len(), pairs.next_pair()), (2, Some((Value::Simple(b"a"), Value::Integer(2)))));
        assert_eq!(pairs.next_pair(), None);
    }

    #[test]
    fn what_is_cut_or_lies_is_nothing() {
        for frame in [
            "",
            "*2\r\n:1\r\n",
            "$5\r\nabc\r\n",
            "*999999999999\r\n",
            ":1\r\n:2\r\n",
            "?\r\n",
            "$3\r\nabcd\r\n",
        ] {
            assert_eq!(Value::read(frame.as_bytes()), None, "{frame:?}");
        }
        let deep = "*1\r\n".repeat(100_000) + ":1\r\n";
        assert!(Value::read(deep.as_bytes()).is_some(), "nesting costs no stack");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(prop::sample::select(b"*%~>|$=!+-:_#,(0129\r\nab".to_vec()), 0..60)) {
            if let Some((value, end)) = Value::read_first(&bytes) {
                prop_assert!(end <= bytes.len());
                for item in value.items().into_iter().flatten() {
                    let _ = Value::read(item);
                }
            }
        }
    }
}
