//! Writing requests and replies. Everything appends to a caller's buffer.

use std::io::Write as _;

/// The protocol version that a client chose with `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, in which a connection starts.
    #[default]
    Resp2,
    /// RESP3.
    Resp3,
}

/// Appends a request as an array of bulk strings.
pub fn request<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg.as_ref());
    }
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Appends `+text`; line endings become spaces.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    out.push(b'+');
    folded(out, text);
}

/// Appends `-CODE text`; line endings become spaces, so that no text can end the reply early.
pub fn error(out: &mut Vec<u8>, code: &str, text: &str) {
    out.push(b'-');
    out.extend(code.bytes().map(fold));
    out.push(b' ');
    folded(out, text);
}

/// Appends `:number`.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    // Writing to a vector cannot fail.
    let _ = write!(out, ":{number}\r\n");
}

/// Appends the null of `protocol`.
pub fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n".as_slice(),
        Protocol::Resp3 => b"_\r\n".as_slice(),
    });
}

/// Appends the first line of an array of `len` elements, which the caller appends next.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    header(out, b'*', len);
}

/// Appends the first line of a map of `pairs`: a map in RESP3, a flat array in RESP2.
pub fn map_header(out: &mut Vec<u8>, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => header(out, b'*', pairs.saturating_mul(2)),
        Protocol::Resp3 => header(out, b'%', pairs),
    }
}

/// What a server says of itself in the answer to `HELLO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// `redis` or `valkey`.
    pub server: &'a str,
    /// The server's version.
    pub version: &'a str,
    /// The connection's id.
    pub id: i64,
    /// `standalone` or `cluster`.
    pub mode: &'a str,
    /// `master` or `replica`.
    pub role: &'a str,
}

/// Appends the answer to `HELLO`, in the protocol that it chose.
pub fn hello(out: &mut Vec<u8>, protocol: Protocol, hello: &Hello<'_>) {
    map_header(out, protocol, 7);
    for (field, value) in [("server", hello.server), ("version", hello.version)] {
        bulk(out, field.as_bytes());
        bulk(out, value.as_bytes());
    }
    bulk(out, b"proto");
    integer(out, if protocol == Protocol::Resp3 { 3 } else { 2 });
    bulk(out, b"id");
    integer(out, hello.id);
    for (field, value) in [("mode", hello.mode), ("role", hello.role)] {
        bulk(out, field.as_bytes());
        bulk(out, value.as_bytes());
    }
    bulk(out, b"modules");
    array_header(out, 0);
}

fn header(out: &mut Vec<u8>, marker: u8, len: usize) {
    out.push(marker);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{len}\r\n");
}

fn folded(out: &mut Vec<u8>, text: &str) {
    out.extend(text.trim_end().bytes().map(fold));
    out.extend_from_slice(b"\r\n");
}

fn fold(byte: u8) -> u8 {
    if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_requests() {
        assert_eq!(written(|out| request(out, &["GET", "k"])), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
        assert_eq!(written(|out| request::<&str>(out, &[])), "*0\r\n");
    }

    #[test]
    fn an_error_is_one_line_whatever_its_text() {
        assert_eq!(written(|out| error(out, "ERR", "a\r\n+OK\nb\r\n")), "-ERR a  +OK b\r\n");
        assert_eq!(written(|out| simple(out, "x\ny")), "+x y\r\n");
    }

    #[test]
    fn hello_is_a_map_only_in_resp3() {
        let told = Hello { server: "valkey", version: "8.0.1", id: 7, mode: "standalone", role: "master" };
        let two = written(|out| hello(out, Protocol::Resp2, &told));
        let three = written(|out| hello(out, Protocol::Resp3, &told));
        assert!(two.starts_with("*14\r\n$6\r\nserver\r\n$6\r\nvalkey\r\n"), "{two:?}");
        assert!(three.starts_with("%7\r\n") && three.contains("$5\r\nproto\r\n:3\r\n"), "{three:?}");
        assert_eq!(
            two.split_once("\r\n").unwrap().1.replace(":2\r\n", ":3\r\n"),
            three.split_once("\r\n").unwrap().1
        );
    }

    #[test]
    fn nulls_differ() {
        assert_eq!(written(|out| null(out, Protocol::Resp2)), "$-1\r\n");
        assert_eq!(written(|out| null(out, Protocol::Resp3)), "_\r\n");
    }
}
