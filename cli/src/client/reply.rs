//! Replies as values: read within limits, shown as `redis-cli` shows them, raw, or as JSON.

use std::io::{self, BufRead, ErrorKind, Read};

use serde_json::{Value, json};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 64;
/// Longest bulk string that is read: the servers' own limit.
const MAX_BULK: u64 = 512 * 1024 * 1024;
/// Longest line that is read: an error or a status is never longer.
const MAX_LINE: u64 = 64 * 1024;

/// One reply of RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// `+OK`
    Status(Vec<u8>),
    /// `-ERR …`
    Error(Vec<u8>),
    /// `:1`
    Integer(i64),
    /// A bulk string, also a verbatim one.
    Bulk(Vec<u8>),
    /// Nothing, in any of its spellings.
    Nil,
    /// `#t`
    Boolean(bool),
    /// `,1.5`, as written
    Double(String),
    /// `(123`, as written
    Big(String),
    /// An array, and a push.
    Array(Vec<Reply>),
    /// A set.
    Set(Vec<Reply>),
    /// A map: keys and values in turn.
    Map(Vec<Reply>),
}

/// Reads one reply; attributes before it are skipped.
pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Reply> {
    read_at(from, 0)
}

fn read_at(from: &mut impl BufRead, depth: usize) -> io::Result<Reply> {
    if depth > MAX_DEPTH {
        return Err(invalid("a reply is nested too deeply"));
    }
    let line = read_line(from)?;
    let (&marker, rest) = line.split_first().ok_or_else(|| invalid("an empty line"))?;
    let text = || String::from_utf8_lossy(rest).into_owned();
    match marker {
        b'+' => Ok(Reply::Status(rest.to_vec())),
        b'-' => Ok(Reply::Error(rest.to_vec())),
        b':' => number(rest).map(Reply::Integer),
        b'_' => Ok(Reply::Nil),
        b'#' => Ok(Reply::Boolean(rest == b"t")),
        b',' => Ok(Reply::Double(text())),
        b'(' => Ok(Reply::Big(text())),
        b'$' => bulk(from, rest).map(|bulk| bulk.map_or(Reply::Nil, Reply::Bulk)),
        b'!' => bulk(from, rest).map(|bulk| bulk.map_or(Reply::Nil, Reply::Error)),
        // The first four bytes of a verbatim string are its kind: `txt:`.
        b'=' => bulk(from, rest).map(|bulk| {
            bulk.map_or(Reply::Nil, |bulk| Reply::Bulk(bulk.get(4..).unwrap_or_default().to_vec()))
        }),
        b'*' | b'>' => items(from, rest, 1, depth).map(|items| items.map_or(Reply::Nil, Reply::Array)),
        b'~' => items(from, rest, 1, depth).map(|items| items.map_or(Reply::Nil, Reply::Set)),
        b'%' => items(from, rest, 2, depth).map(|items| items.map_or(Reply::Nil, Reply::Map)),
        b'|' => {
            items(from, rest, 2, depth)?;
            read_at(from, depth + 1)
        }
        other => Err(invalid(&format!("a reply of unknown type '{}'", other.escape_ascii()))),
    }
}

fn read_line(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(line.to_vec()),
        None => Err(invalid("a line without its end")),
    }
}

fn bulk(from: &mut impl BufRead, length: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Ok(length) = u64::try_from(number(length)?) else { return Ok(None) };
    if length > MAX_BULK {
        return Err(invalid("a string of more than 512 MiB"));
    }
    // Grows with what comes, not with what was announced.
    let mut bytes = Vec::new();
    from.by_ref().take(length + 2).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != length + 2 || !bytes.ends_with(b"\r\n") {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(bytes.len() - 2);
    Ok(Some(bytes))
}

fn items(from: &mut impl BufRead, count: &[u8], each: u64, depth: usize) -> io::Result<Option<Vec<Reply>>> {
    let Ok(count) = u64::try_from(number(count)?) else { return Ok(None) };
    let mut items = Vec::new();
    for _ in 0..count.saturating_mul(each) {
        items.push(read_at(from, depth + 1)?);
    }
    Ok(Some(items))
}

fn number(text: &[u8]) -> io::Result<i64> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a length that is no number"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the server sent {what}"))
}

impl Reply {
    /// The text of an error.
    pub(crate) fn error(&self) -> Option<String> {
        match self {
            Self::Error(text) => Some(crate::failure::printable(&String::from_utf8_lossy(text))),
            _ => None,
        }
    }

    /// For people, with a line end.
    pub(crate) fn human(&self) -> String {
        let mut text = String::new();
        self.human_into(&mut text, 0);
        text
    }

    fn human_into(&self, text: &mut String, indent: usize) {
        match self {
            Self::Status(line) => text.push_str(&crate::failure::printable(&String::from_utf8_lossy(line))),
            Self::Error(_) => text.push_str(&format!("(error) {}", self.error().unwrap_or_default())),
            Self::Integer(number) => text.push_str(&format!("(integer) {number}")),
            Self::Bulk(bytes) => text.push_str(&quoted(bytes)),
            Self::Nil => text.push_str("(nil)"),
            Self::Boolean(truth) => text.push_str(if *truth { "(true)" } else { "(false)" }),
            Self::Double(number) => text.push_str(&format!("(double) {}", crate::failure::printable(number))),
            Self::Big(number) => text.push_str(&crate::failure::printable(number)),
            Self::Array(items) => return many(text, items, ")", "(empty array)", indent),
            Self::Set(items) => return many(text, items, "~", "(empty set)", indent),
            Self::Map(items) => return pairs(text, items, indent),
        }
        text.push('\n');
    }

    /// For pipes: bytes as they are, one item a line.
    pub(crate) fn raw(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.raw_into(&mut out);
        out
    }

    fn raw_into(&self, out: &mut Vec<u8>) {
        match self {
            Self::Status(bytes) | Self::Error(bytes) | Self::Bulk(bytes) => out.extend_from_slice(bytes),
            Self::Integer(number) => out.extend_from_slice(number.to_string().as_bytes()),
            Self::Nil => {}
            Self::Boolean(truth) => out.extend_from_slice(if *truth { b"true" } else { b"false" }),
            Self::Double(number) | Self::Big(number) => out.extend_from_slice(number.as_bytes()),
            Self::Array(items) | Self::Set(items) | Self::Map(items) => {
                for item in items {
                    item.raw_into(out);
                }
                return;
            }
        }
        out.push(b'\n');
    }

    /// For scripts. Bytes that are not UTF-8 are replaced.
    pub(crate) fn json(&self) -> Value {
        let text = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
        match self {
            Self::Status(bytes) | Self::Bulk(bytes) => text(bytes),
            Self::Error(bytes) => json!({ "error": text(bytes) }),
            Self::Integer(number) => json!(number),
            Self::Nil => Value::Null,
            Self::Boolean(truth) => json!(truth),
            Self::Double(number) => {
                number.parse::<f64>().map_or_else(|_| json!(number), |number| json!(number))
            }
            Self::Big(number) => json!(number),
            Self::Array(items) | Self::Set(items) => items.iter().map(Self::json).collect(),
            Self::Map(items) => {
                let pairs = items.chunks(2).filter_map(|pair| match pair {
                    [key, value] => Some((key.key(), value.json())),
                    _ => None,
                });
                Value::Object(pairs.collect())
            }
        }
    }

    fn key(&self) -> String {
        match self.json() {
            Value::String(text) => text,
            other => other.to_string(),
        }
    }
}

fn many(text: &mut String, items: &[Reply], mark: &str, empty: &str, indent: usize) {
    if items.is_empty() {
        text.push_str(&format!("{empty}\n"));
    }
    let width = items.len().to_string().len();
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            text.extend(std::iter::repeat_n(' ', indent));
        }
        text.push_str(&format!("{:width$}{mark} ", index + 1));
        item.human_into(text, indent + width + 2);
    }
}

fn pairs(text: &mut String, items: &[Reply], indent: usize) {
    if items.is_empty() {
        text.push_str("(empty hash)\n");
    }
    let width = (items.len() / 2).to_string().len();
    for (index, pair) in items.chunks(2).enumerate() {
        let [key, value] = pair else { return };
        if index > 0 {
            text.extend(std::iter::repeat_n(' ', indent));
        }
        let head = format!("{:width$}# {} => ", index + 1, key.human().trim_end());
        text.push_str(&head);
        value.human_into(text, indent + width + 2);
    }
}

/// In quotes, with everything that is not printable ASCII escaped.
fn quoted(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            0x20..=0x7e => text.push(char::from(byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Reply {
        read(&mut io::Cursor::new(bytes)).unwrap()
    }

    #[test]
    fn shows_what_redis_cli_shows() {
        let table: &[(&[u8], &str)] = &[
            (b"+OK\r\n", "OK\n"),
            (b"-ERR no\r\n", "(error) ERR no\n"),
            (b":7\r\n", "(integer) 7\n"),
            (b"$-1\r\n", "(nil)\n"),
            (b"_\r\n", "(nil)\n"),
            (b"$4\r\na\"\x01\n\r\n", "\"a\\\"\\x01\\n\"\n"),
            (b"*0\r\n", "(empty array)\n"),
            (b"*2\r\n$1\r\na\r\n*2\r\n:1\r\n:2\r\n", "1) \"a\"\n2) 1) (integer) 1\n   2) (integer) 2\n"),
            (b"%1\r\n+k\r\n#t\r\n", "1# k => (true)\n"),
            (b"=7\r\ntxt:abc\r\n", "\"abc\"\n"),
            (b"|1\r\n+a\r\n+b\r\n,1.5\r\n", "(double) 1.5\n"),
        ];
        for (bytes, shown) in table {
            assert_eq!(parsed(bytes).human(), *shown, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn raw_and_json() {
        let reply = parsed(b"*3\r\n$2\r\n\xff\n\r\n:1\r\n*-1\r\n");
        assert_eq!(reply.raw(), b"\xff\n\n1\n\n");
        assert_eq!(parsed(b"*-1\r\n").raw(), b"\n");
        assert_eq!(parsed(b"%1\r\n+k\r\n*1\r\n_\r\n").json(), json!({"k": [null]}));
        assert_eq!(parsed(b"-NOPERM x\r\n").json(), json!({"error": "NOPERM x"}));
    }

    #[test]
    fn refuses_what_is_no_reply() {
        let deep = b"*1\r\n".repeat(100);
        for bad in [
            &b""[..],
            b"?\r\n",
            b"$5\r\nab\r\n",
            b"$99999999999\r\n",
            b":x\r\n",
            b"+OK",
            b"*9999999\r\n",
            &deep,
        ] {
            assert!(read(&mut io::Cursor::new(bad)).is_err(), "{}", bad.escape_ascii());
        }
    }
}
