//! What a client of the tunnel must say before its bytes pass: the tunnel's own password, and no HTTP.
//! Bytes in, a verdict out; no I/O, no clock.

use keystile_resp::encode;
use keystile_resp::request::{Limits, Request, RequestError, Scanner, Step};

/// Wrong passwords after which the connection closes.
const TRIES: u32 = 3;

/// What follows from what the client has sent so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More bytes are needed. What is in `reply` goes to the client first.
    Wait {
        /// May be empty.
        reply: Vec<u8>,
    },
    /// The way is open: `reply` goes to the client, `forward` to the proxy.
    Open {
        /// May be empty.
        reply: Vec<u8>,
        /// What of the client's bytes is for the proxy.
        forward: Vec<u8>,
    },
    /// `reply` goes to the client and the connection closes.
    Close {
        /// May be empty: a browser gets no answer.
        reply: Vec<u8>,
    },
}

/// The gate of one connection.
#[derive(Debug)]
pub(crate) struct Gate {
    password: Option<Vec<u8>>,
    scanner: Scanner,
    held: Vec<u8>,
    tries: u32,
}

enum Asked {
    Welcome { forward: Vec<u8>, reply: Vec<u8> },
    Refused(Vec<u8>),
    Leave(Vec<u8>),
}

impl Gate {
    /// A gate with a password, or one that only keeps HTTP out.
    pub(crate) fn new(password: Option<&str>) -> Self {
        let limits = if password.is_some() { Limits::BEFORE_AUTH } else { Limits::SIGNED_IN };
        let password = password.map(|password| password.as_bytes().to_vec());
        Self { password, scanner: Scanner::new(limits), held: Vec::new(), tries: 0 }
    }

    /// Takes what the client sent.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Verdict {
        self.held.extend_from_slice(bytes);
        let mut reply = Vec::new();
        loop {
            let request = match self.scanner.scan(&self.held) {
                Ok(Step::NeedMore) => return Verdict::Wait { reply },
                Ok(Step::Empty { len }) => {
                    self.held.drain(..len);
                    continue;
                }
                Ok(Step::Request(request)) => request,
                Ok(Step::Head(_) | Step::Body { .. }) if self.password.is_none() => return self.open(reply),
                Ok(Step::Head(_) | Step::Body { .. }) => {
                    return refused(RequestError::TooMuchBeforeAuth, reply);
                }
                Err(error) => return refused(error, reply),
            };
            let Some(password) = &self.password else { return self.open(reply) };
            let asked = judge(&request, &self.held, password);
            match asked {
                Asked::Welcome { mut forward, reply: welcome } => {
                    self.held.drain(..request.len);
                    forward.append(&mut self.held);
                    reply.extend(welcome);
                    return Verdict::Open { reply, forward };
                }
                Asked::Leave(answer) => {
                    reply.extend(answer);
                    return Verdict::Close { reply };
                }
                Asked::Refused(answer) => {
                    reply.extend(answer);
                    self.held.drain(..request.len);
                    self.tries += 1;
                    if self.tries >= TRIES {
                        return Verdict::Close { reply };
                    }
                }
            }
        }
    }

    fn open(&mut self, reply: Vec<u8>) -> Verdict {
        Verdict::Open { reply, forward: std::mem::take(&mut self.held) }
    }
}

fn judge(request: &Request, held: &[u8], password: &[u8]) -> Asked {
    let args: Vec<Vec<u8>> = request.args(held).map(|arg| arg.into_owned()).collect();
    let is = |index: usize, word: &str| {
        args.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    if is(0, "QUIT") {
        return Asked::Leave(b"+OK\r\n".to_vec());
    }
    if is(0, "AUTH") {
        // AUTH password, or AUTH user password: the user means nothing here, the route has its own.
        return match args.as_slice() {
            [_, given] | [_, _, given] if same(given, password) => {
                Asked::Welcome { forward: Vec::new(), reply: b"+OK\r\n".to_vec() }
            }
            [_, _] | [_, _, _] => Asked::Refused(wrong()),
            _ => Asked::Refused(error("ERR", "wrong number of arguments for 'auth' command")),
        };
    }
    if is(0, "HELLO") {
        let at = (1..args.len()).find(|&index| is(index, "AUTH"));
        let Some((at, given)) = at.and_then(|at| Some((at, args.get(at + 2)?))) else {
            let text = "HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                        <user> <pass> option can be used; this tunnel printed its password";
            return Asked::Refused(error("NOAUTH", text));
        };
        if !same(given, password) {
            return Asked::Refused(wrong());
        }
        let rest: Vec<&Vec<u8>> = args
            .iter()
            .enumerate()
            .filter(|(index, _)| !(at..at + 3).contains(index))
            .map(|(_, arg)| arg)
            .collect();
        let mut forward = Vec::new();
        encode::request(&mut forward, &rest);
        return Asked::Welcome { forward, reply: Vec::new() };
    }
    Asked::Refused(error("NOAUTH", "Authentication required: this tunnel printed its password"))
}

fn wrong() -> Vec<u8> {
    error("WRONGPASS", "keystile: that is not the password of this tunnel")
}

fn refused(error: RequestError, mut reply: Vec<u8>) -> Verdict {
    if error != RequestError::Http {
        encode::error(&mut reply, "ERR", &error.to_string());
    }
    Verdict::Close { reply }
}

fn error(code: &str, text: &str) -> Vec<u8> {
    let mut reply = Vec::new();
    encode::error(&mut reply, code, text);
    reply
}

/// Compares in a time that does not tell how much was right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len()
        && given.iter().zip(wanted).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode::request(&mut bytes, words);
        bytes
    }

    fn gate() -> Gate {
        Gate::new(Some("s3cret"))
    }

    fn opened(forward: &[u8], reply: &[u8]) -> Verdict {
        Verdict::Open { reply: reply.to_vec(), forward: forward.to_vec() }
    }

    #[test]
    fn auth_in_each_form_opens_and_what_follows_passes() {
        for words in [&["AUTH", "s3cret"][..], &["auth", "anyone", "s3cret"]] {
            let bytes = [request(words), request(&["GET", "k"])].concat();
            assert_eq!(gate().take(&bytes), opened(&request(&["GET", "k"]), b"+OK\r\n"));
        }
        assert_eq!(gate().take(b"AUTH s3cret\r\n"), opened(b"", b"+OK\r\n"));
    }

    #[test]
    fn hello_is_passed_on_without_the_password() {
        let hello = request(&["HELLO", "3", "AUTH", "default", "s3cret", "SETNAME", "app"]);
        assert_eq!(gate().take(&hello), opened(&request(&["HELLO", "3", "SETNAME", "app"]), b""));
    }

    #[test]
    fn split_at_every_byte_it_says_the_same() {
        let bytes = [
            request(&["PING"]),
            request(&["HELLO", "3", "AUTH", "x", "s3cret"]),
            request(&["SET", "k", "v"]),
        ]
        .concat();
        for at in 0..bytes.len() {
            let mut gate = gate();
            let (mut replies, mut forwarded) = (Vec::new(), Vec::new());
            let mut is_open = false;
            for part in [&bytes[..at], &bytes[at..]] {
                if is_open {
                    forwarded.extend_from_slice(part);
                    continue;
                }
                match gate.take(part) {
                    Verdict::Wait { reply } => replies.extend(reply),
                    Verdict::Open { reply, forward } => {
                        replies.extend(reply);
                        forwarded.extend(forward);
                        is_open = true;
                    }
                    Verdict::Close { .. } => panic!("closed at {at}"),
                }
            }
            assert!(replies.starts_with(b"-NOAUTH "), "{at}");
            assert_eq!(forwarded, [request(&["HELLO", "3"]), request(&["SET", "k", "v"])].concat(), "{at}");
        }
    }

    #[test]
    fn wrong_passwords_run_out() {
        let mut gate = gate();
        let wrong = request(&["AUTH", "guess"]);
        assert!(matches!(gate.take(&wrong), Verdict::Wait { reply } if reply.starts_with(b"-WRONGPASS")));
        assert!(
            matches!(gate.take(&request(&["HELLO", "3"])), Verdict::Wait { reply } if reply.starts_with(b"-NOAUTH HELLO"))
        );
        assert!(matches!(gate.take(&wrong), Verdict::Close { reply } if reply.starts_with(b"-WRONGPASS")));
    }

    #[test]
    fn http_gets_no_answer_with_or_without_a_password() {
        for page in ["POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "Host: x\r\n"] {
            for password in [Some("s3cret"), None] {
                assert_eq!(
                    Gate::new(password).take(page.as_bytes()),
                    Verdict::Close { reply: Vec::new() },
                    "{page}"
                );
            }
        }
    }

    #[test]
    fn without_a_password_the_first_request_opens() {
        let bytes = request(&["GET", "k"]);
        assert_eq!(Gate::new(None).take(&bytes), opened(&bytes, b""));
        let big = request(&["SET", "k", &"x".repeat(200_000)]);
        assert_eq!(Gate::new(None).take(&big), opened(&big, b""));
    }

    #[test]
    fn too_much_before_the_password_closes() {
        let big = request(&["AUTH", &"x".repeat(20_000)]);
        assert!(
            matches!(gate().take(&big), Verdict::Close { reply } if reply.starts_with(b"-ERR Protocol error"))
        );
        assert_eq!(gate().take(&request(&["QUIT"])), Verdict::Close { reply: b"+OK\r\n".to_vec() });
    }
}
