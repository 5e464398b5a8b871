use super::*;

fn one(bytes: &[u8]) -> Request {
    match Scanner::new(Limits::SIGNED_IN).scan(bytes) {
        Ok(Step::Request(request)) => request,
        other => panic!("{:?} gave {other:?}", bytes.escape_ascii().to_string()),
    }
}

fn fails(bytes: &[u8], limits: Limits) -> String {
    Scanner::new(limits).scan(bytes).expect_err("a protocol error").to_string()
}

#[test]
fn an_array_and_a_line_say_the_same() {
    let array = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv \r\n";
    let line = b"SET k \"v \"\r\n";
    assert_eq!((one(array).form, one(line).form), (Form::Array, Form::Inline));
    let words = |bytes: &'static [u8]| one(bytes).args(bytes).map(Cow::into_owned).collect::<Vec<_>>();
    assert_eq!(words(array), words(line));
    assert_eq!(words(array), [b"SET".to_vec(), b"k".to_vec(), b"v ".to_vec()]);
    assert_eq!(one(array).argc, 3);
    assert_eq!(one(array).len, array.len());
    assert_eq!(one(line).len, line.len());
}

#[test]
fn only_quoted_words_are_copied() {
    let line = b"GET \"a\" b\r\n";
    let request = one(line);
    assert!(matches!(request.name(line), Some(Cow::Borrowed(b"GET"))));
    assert!(matches!(request.arg(line, 1), Some(Cow::Owned(word)) if word == b"a"));
    assert!(matches!(request.arg(line, 2), Some(Cow::Borrowed(b"b"))));
    assert_eq!(request.arg(line, 3), None);
}

#[test]
fn a_pipeline_is_one_range() {
    let bytes = b"*1\r\n$4\r\nPING\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPI";
    let mut scanner = Scanner::new(Limits::SIGNED_IN);
    let (mut at, mut names) = (0, Vec::new());
    loop {
        let rest = &bytes[at..];
        match scanner.scan(rest).unwrap() {
            Step::NeedMore => break,
            Step::Empty { len } => at += len,
            Step::Request(request) => {
                names.push(request.name(rest).unwrap().into_owned());
                at += request.len;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(names, [b"PING".to_vec(), b"GET".to_vec()]);
    assert_eq!(at, bytes.len() - b"*1\r\n$4\r\nPI".len());
    assert_eq!(scanner.pending(), None, "its name has not all come");
}

/// A value of 512 MB passes through a buffer of 16 KiB, with its name and key known from the start.
#[test]
fn a_huge_value_streams() {
    let size: usize = 512 * 1024 * 1024;
    let head = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${size}\r\n");
    let mut scanner = Scanner::new(Limits::SIGNED_IN);
    let Ok(Step::Head(request)) = scanner.scan(head.as_bytes()) else { panic!("a head") };
    assert_eq!((request.len, request.argc, request.known()), (head.len(), 3, 2));
    assert_eq!(request.arg(head.as_bytes(), 1).unwrap().as_ref(), b"k");
    let piece = [b'x'; 16 * 1024];
    for _ in 0..size / piece.len() {
        assert_eq!(scanner.scan(&piece), Ok(Step::Body { len: piece.len(), end: false }));
    }
    assert_eq!(scanner.scan(b"\r"), Ok(Step::NeedMore));
    assert_eq!(scanner.scan(b"\r\nPING"), Ok(Step::Body { len: 2, end: true }));
    assert_eq!(scanner.scan(b"PING\r\n").map(|step| matches!(step, Step::Request(_))), Ok(true));
}

#[test]
fn a_pending_request_can_be_streamed_early() {
    let bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100\r\nabc";
    let mut scanner = Scanner::new(Limits::SIGNED_IN);
    assert_eq!(scanner.stream(), None);
    assert_eq!(scanner.scan(bytes), Ok(Step::NeedMore));
    assert_eq!(scanner.pending().map(Request::known), Some(2));
    let head = scanner.stream().unwrap();
    assert_eq!(head.len, bytes.len() - 3);
    assert_eq!(scanner.scan(b"abc"), Ok(Step::Body { len: 3, end: false }));
    assert!(!scanner.at_boundary());
    assert_eq!(scanner.stream(), None);
}

#[test]
fn errors_are_in_the_servers_words() {
    let long = vec![b'a'; 70_000];
    for (bytes, text) in [
        (&b"*x\r\n"[..], "Protocol error: invalid multibulk length"),
        (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
        (b"*111111111111111111111111111111111111", "Protocol error: too big mbulk count string"),
        (b"*1\r\nPING\r\n", "Protocol error: expected '$', got 'P'"),
        (b"*1\r\n\n", "Protocol error: expected '$', got '\\n'"),
        (b"*1\r\n$-1\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$536870913\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$111111111111111111111111111111111111", "Protocol error: too big bulk count string"),
        (b"set \"a\r\n", "Protocol error: unbalanced quotes in request"),
        (&long, "Protocol error: too big inline request"),
        (b"*1\r\n$1\r\nab\r\n", "Protocol error: expected CRLF after a bulk string"),
        (b"GET / HTTP/1.1\r\n", "Protocol error: this port does not speak HTTP"),
        (b"*1\r\n$4\r\nPoSt\r\n", "Protocol error: this port does not speak HTTP"),
        (b"host: example\r\n", "Protocol error: this port does not speak HTTP"),
    ] {
        assert_eq!(fails(bytes, Limits::SIGNED_IN), text);
    }
}

#[test]
fn a_stranger_may_send_little() {
    for (bytes, text) in [
        (&b"*11\r\n"[..], "Protocol error: unauthenticated multibulk length"),
        (b"*1\r\n$16385\r\n", "Protocol error: unauthenticated bulk length"),
        (b"*1\r\n$16384\r\n", "Protocol error: too many bytes before authentication"),
    ] {
        assert_eq!(fails(bytes, Limits::BEFORE_AUTH), text);
    }
    let mut scanner = Scanner::new(Limits::BEFORE_AUTH);
    let ping = b"*1\r\n$4\r\nPING\r\n";
    let mut sent = 0;
    while scanner.scan(ping).is_ok() {
        sent += ping.len();
    }
    assert_eq!(sent, 16 * 1024 / ping.len() * ping.len());
}

#[test]
fn signing_in_lifts_the_limits() {
    let mut scanner = Scanner::new(Limits::BEFORE_AUTH);
    assert!(matches!(scanner.scan(b"AUTH me secret\r\n"), Ok(Step::Request(_))));
    scanner.set_limits(Limits::SIGNED_IN);
    assert!(matches!(scanner.scan(b"*2\r\n$4\r\nECHO\r\n$100000\r\n"), Ok(Step::Head(_))));
}

#[test]
fn words_split_as_the_server_splits_them() {
    let words = |line: &str| split_inline(line.as_bytes()).map(|words| words.join(&b'|'));
    assert_eq!(words("  a  b\tc\r\n").unwrap(), b"a|b|c");
    assert_eq!(words(r#""\x41\n\t\q" 'it\'s\n' x"y z""#).unwrap(), b"A\n\tq|it's\\n|xy z");
    assert_eq!(words("\"\" ''").unwrap(), b"|");
    assert_eq!(words(r#""a"b"#), Err(Unbalanced));
    assert_eq!(words("'a"), Err(Unbalanced));
    assert_eq!(words(r#""a\"#), Err(Unbalanced));
}
