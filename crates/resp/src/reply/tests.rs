use super::*;

fn one(bytes: &[u8]) -> Frame {
    match ReplyScanner::new(Limits::DEFAULT).scan(bytes) {
        Ok(Step::Frame(frame)) => frame,
        other => panic!("{:?} gave {other:?}", bytes.escape_ascii().to_string()),
    }
}

#[test]
fn every_type_is_one_frame() {
    for bytes in [
        &b"+OK\r\n"[..],
        b":-12\r\n",
        b"$0\r\n\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*2\r\n*0\r\n$1\r\na\r\n",
        b"_\r\n",
        b"#f\r\n",
        b",inf\r\n",
        b"(3492890328409238509324850943850943825024385\r\n",
        b"=15\r\ntxt:Some string\r\n",
        b"%1\r\n+a\r\n%1\r\n:1\r\n:2\r\n",
        b"~2\r\n:1\r\n:2\r\n",
        b"|1\r\n+ttl\r\n:1\r\n*1\r\n:1\r\n",
        b"$?\r\n;2\r\nab\r\n;0\r\n",
        b"*?\r\n:1\r\n.\r\n",
        b"%?\r\n:1\r\n:2\r\n.\r\n",
    ] {
        let frame = one(bytes);
        assert_eq!(
            (frame.len, frame.kind),
            (bytes.len(), Kind::Reply),
            "{:?}",
            bytes.escape_ascii().to_string()
        );
    }
}

#[test]
fn errors_and_pushes_are_told_apart() {
    for (bytes, kind, text) in [
        (&b"-WRONGPASS no\r\n"[..], Kind::Error, &b"WRONGPASS no"[..]),
        (b"!9\r\nNOPERM no\r\n", Kind::Error, b"NOPERM no"),
        (b"|1\r\n+a\r\n+b\r\n-ERR x\r\n", Kind::Error, b"ERR x"),
        (b">2\r\n$10\r\ninvalidate\r\n*0\r\n", Kind::Push, b"invalidate"),
        (b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", Kind::Reply, b"message"),
        (b"*2\r\n|1\r\n+a\r\n+b\r\n+pong\r\n+\r\n", Kind::Reply, b"pong"),
        (b"+QUEUED\r\n", Kind::Reply, b"QUEUED"),
    ] {
        let frame = one(bytes);
        assert_eq!((frame.kind, frame.text(bytes)), (kind, Some(text)));
    }
    let moved = b"-MOVED 1 10.0.0.1:6379\r\n";
    assert_eq!(one(moved).error_code(moved), Some(&b"MOVED"[..]));
    assert_eq!(one(b"*1\r\n:1\r\n").text(b"*1\r\n:1\r\n"), None);
    assert!(is_subscriber_message(b"smessage") && !is_subscriber_message(b"pong"));
}

#[test]
fn a_huge_value_streams() {
    let size: usize = 512 * 1024 * 1024;
    let head = format!("*2\r\n$7\r\nmessage\r\n${size}\r\n");
    let mut scanner = ReplyScanner::new(Limits::DEFAULT);
    let Ok(Step::Head(frame)) = scanner.scan(head.as_bytes()) else { panic!("a head") };
    assert_eq!((frame.len, frame.text(head.as_bytes())), (head.len(), Some(&b"message"[..])));
    let piece = [b'x'; 16 * 1024];
    for _ in 0..size / piece.len() {
        assert_eq!(scanner.scan(&piece), Ok(Step::Body { len: piece.len(), end: false }));
    }
    assert_eq!(scanner.scan(b"\r\n"), Ok(Step::Body { len: 2, end: true }));
    assert!(scanner.at_boundary());
}

#[test]
fn a_pending_frame_can_be_streamed_early() {
    let mut scanner = ReplyScanner::new(Limits::DEFAULT);
    assert_eq!(scanner.scan(b"*3\r\n$7\r\nmess"), Ok(Step::NeedMore));
    assert_eq!(scanner.stream(b"*3\r\n$7\r\nmess"), None, "its first element has not all come");
    let bytes = b"*3\r\n$7\r\nmessage\r\n$1\r\n";
    assert_eq!(scanner.scan(bytes), Ok(Step::NeedMore));
    let frame = scanner.stream(bytes).unwrap();
    assert_eq!((frame.len, frame.text(bytes)), (bytes.len(), Some(&b"message"[..])));
    assert_eq!(scanner.scan(b"c\r\n$1\r\nx\r\n+OK\r\n"), Ok(Step::Body { len: 10, end: true }));
}

#[test]
fn limits_hold() {
    let limits = Limits { depth: 3, bulk: 100, elements: 10, whole: 64 };
    let scan = |bytes: &[u8]| ReplyScanner::new(limits).scan(bytes);
    assert_eq!(scan(b"*1\r\n*1\r\n*1\r\n"), Ok(Step::NeedMore));
    assert_eq!(scan(b"*1\r\n*1\r\n*1\r\n*1\r\n"), Err(ReplyError::TooDeep));
    assert_eq!(scan(b"$101\r\n"), Err(ReplyError::BulkTooLong));
    assert_eq!(scan(b"%6\r\n"), Err(ReplyError::TooManyElements));
    assert_eq!(scan(b"*11\r\n"), Err(ReplyError::TooManyElements));
    assert_eq!(scan(format!("|1\r\n+{}", "a".repeat(70)).as_bytes()), Err(ReplyError::AttributeTooLong));
}

/// Depth is counted, not recursed into, and its memory is not kept.
#[test]
fn nesting_is_not_recursion() {
    let limits = Limits { whole: 1 << 20, ..Limits::DEFAULT };
    let deep = |levels: usize| [b"*1\r\n".repeat(levels), b":1\r\n".to_vec()].concat();
    let (bytes, mut scanner) = (deep(8_192), ReplyScanner::new(limits));
    assert!(matches!(scanner.scan(&bytes), Ok(Step::Frame(frame)) if frame.len == bytes.len()));
    assert!(scanner.levels_held() <= 64, "{} levels are held", scanner.levels_held());
    assert_eq!(ReplyScanner::new(limits).scan(&deep(8_193)), Err(ReplyError::TooDeep));
}

/// Found by fuzzing: a long line in an attribute before the first element was never left.
#[test]
fn a_long_attribute_before_a_first_element_ends() {
    let limits = Limits { whole: 24, ..Limits::DEFAULT };
    let bytes = b"*2\r\n|1\r\n+0123456789012345678901234567890\r\n+b\r\n+c\r\n+d\r\n";
    assert_eq!(ReplyScanner::new(limits).scan(bytes), Err(ReplyError::AttributeTooLong));
}

/// Found by fuzzing: where nothing is shown whole, an empty error lost its text.
#[test]
fn an_empty_error_has_a_text() {
    let bytes = b"-\r\n";
    let Ok(Step::Head(frame)) = ReplyScanner::new(Limits { whole: 0, ..Limits::DEFAULT }).scan(bytes) else {
        panic!("a head")
    };
    assert_eq!(frame.text(bytes), Some(&b""[..]));
}

/// Found by fuzzing: an array in an attribute before the first element hid that element.
#[test]
fn an_attribute_with_an_array_does_not_hide_the_first_element() {
    let bytes = b"*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n$7\r\nmessage\r\n:2\r\n";
    assert_eq!(one(bytes).text(bytes), Some(&b"message"[..]));
}

/// Found by fuzzing: the glance at short integers took a CR for the digit, and read what the walk refuses.
#[test]
fn a_carriage_return_is_no_digit() {
    let whole = ReplyScanner::new(Limits::DEFAULT).scan(b":\r\r\n");
    assert_eq!(whole, Err(ReplyError::MissingCrlf));
    let mut cut = ReplyScanner::new(Limits::DEFAULT);
    assert_eq!(cut.scan(b":"), Ok(Step::NeedMore));
    assert_eq!(cut.scan(b":\r\r\n"), whole);
}
