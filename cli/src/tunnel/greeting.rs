//! What the tunnel says first on a connection to the proxy: the address by which its clients came.
//!
//! A proxy that serves a cluster as one node tells cluster-aware clients where that node is, and behind a
//! tunnel that is the tunnel. The answer is the tunnel's own, and not the client's. Pure: bytes in, what to do
//! out.

use keystile_resp::encode;

/// Longest first line that is waited for.
const LONGEST_LINE: usize = 4 * 1024;

/// The request that tells the address.
pub(crate) fn request(host: &str, port: u16) -> Vec<u8> {
    let mut request = Vec::new();
    encode::request(&mut request, &["KEYSTILE", "ADDRESS", host, &port.to_string()]);
    request
}

/// What the proxy's first bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard<'a> {
    /// Its first line is not complete.
    More,
    /// It has answered; these bytes behind the answer are the client's.
    Answered(&'a [u8]),
    /// It refuses the connection: all of it is the client's.
    Refused,
}

/// Reads what has come from the proxy so far.
///
/// A proxy that is too old to know the request has the cache say so, which names it: that is an answer too.
pub(crate) fn read(bytes: &[u8]) -> Heard<'_> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < LONGEST_LINE { Heard::More } else { Heard::Refused };
    };
    let (line, rest) = bytes.split_at(end);
    let rest = rest.get(2..).unwrap_or_default();
    let names_it = line.windows(8).any(|word| word == b"KEYSTILE");
    if line == b"+OK" || names_it { Heard::Answered(rest) } else { Heard::Refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_tunnel_s_and_a_refusal_the_client_s() {
        for (bytes, heard) in [
            ("", Heard::More),
            ("+OK\r", Heard::More),
            ("+OK\r\n", Heard::Answered(b"")),
            ("+OK\r\n+PONG\r\n", Heard::Answered(b"+PONG\r\n")),
            (
                "-ERR unknown command 'KEYSTILE', with args beginning with: 'ADDRESS'\r\n",
                Heard::Answered(b""),
            ),
            ("-NOPERM keystile: access denied: no role (rule: none)\r\n", Heard::Refused),
            ("-ERR keystile: cannot reach orders: connecting failed\r\n", Heard::Refused),
        ] {
            assert_eq!(read(bytes.as_bytes()), heard, "{bytes:?}");
        }
        assert_eq!(read(&[b'x'; LONGEST_LINE]), Heard::Refused);
    }

    #[test]
    fn it_is_a_request_of_four_words() {
        let request = request("127.0.0.1", 6380);
        assert_eq!(request, b"*4\r\n$8\r\nKEYSTILE\r\n$7\r\nADDRESS\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n");
    }
}
