//! A second, slow reading of the protocol, written from its description and not from the scanners:
//! it looks at whole inputs only, recurses, copies everything, and is what the scanners must agree with.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

pub mod drive;

use keystile_resp::reply::{self, Kind, ReplyError};
use keystile_resp::request::{self, RequestError};

/// Why reading stopped.
pub enum Stop<E> {
    /// The bytes end in the middle.
    More,
    /// They can never become right.
    Wrong(E),
}

/// A request, or (without arguments) something that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub len: usize,
    pub args: Vec<Vec<u8>>,
}

/// A top-level frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub len: usize,
    pub kind: Kind,
    pub marker: u8,
    pub text: Option<Vec<u8>>,
}

/// All requests of `bytes`, and the error that ends them.
pub fn requests(bytes: &[u8], limits: &request::Limits) -> (Vec<Asked>, Option<RequestError>) {
    let mut all = Vec::new();
    let mut at = 0;
    loop {
        match one_request(&bytes[at..], limits, at as u64) {
            Ok(asked) => {
                at += asked.len;
                all.push(asked);
            }
            Err(Stop::More) => return (all, None),
            Err(Stop::Wrong(error)) => return (all, Some(error)),
        }
    }
}

fn one_request(bytes: &[u8], limits: &request::Limits, before: u64) -> Result<Asked, Stop<RequestError>> {
    use RequestError as E;
    let early = limits.before_auth_total.is_some();
    let admit = |end: u64| match limits.before_auth_total {
        Some(most) if before + end > most => Err(Stop::Wrong(E::TooMuchBeforeAuth)),
        _ => Ok(()),
    };
    if bytes.is_empty() {
        return Err(Stop::More);
    }
    if bytes[0] != b'*' {
        return one_line(bytes, limits, admit);
    }
    let (count, mut at) = number(bytes, 1, E::InvalidMultibulkLength, E::MultibulkCountTooLong)?;
    admit(at as u64)?;
    if count > i64::from(limits.args) {
        return Err(Stop::Wrong(if early {
            E::UnauthenticatedMultibulkLength
        } else {
            E::InvalidMultibulkLength
        }));
    }
    let mut args = Vec::new();
    for index in 0..count {
        match bytes.get(at) {
            None => return Err(Stop::More),
            Some(b'$') => {}
            Some(other) => return Err(Stop::Wrong(E::ExpectedBulk(*other))),
        }
        let (length, start) = number(bytes, at + 1, E::InvalidBulkLength, E::BulkCountTooLong)?;
        if length < 0 {
            return Err(Stop::Wrong(E::InvalidBulkLength));
        }
        if length as u64 > limits.bulk {
            return Err(Stop::Wrong(if early { E::UnauthenticatedBulkLength } else { E::InvalidBulkLength }));
        }
        let end = start + length as usize;
        admit(end as u64 + 2)?;
        if end as u64 + 2 > limits.total {
            return Err(Stop::Wrong(E::RequestTooLong));
        }
        crlf(bytes, end, E::MissingCrlf)?;
        let value = bytes[start..end].to_vec();
        // A name that has no room to be shown is not looked at.
        if index == 0 && end + 2 <= limits.whole && speaks_http(&value) {
            return Err(Stop::Wrong(E::Http));
        }
        args.push(value);
        at = end + 2;
    }
    Ok(Asked { len: at, args })
}

fn one_line(
    bytes: &[u8],
    limits: &request::Limits,
    admit: impl Fn(u64) -> Result<(), Stop<RequestError>>,
) -> Result<Asked, Stop<RequestError>> {
    use RequestError as E;
    let end = bytes.iter().position(|&byte| byte == b'\n');
    let reach = end.map_or(bytes.len(), |end| end + 1);
    admit(reach.min(limits.inline + 1) as u64)?;
    if reach > limits.inline + usize::from(end.is_some()) {
        return Err(Stop::Wrong(E::InlineTooLong));
    }
    let Some(end) = end else { return Err(Stop::More) };
    let line = &bytes[..end];
    if line.contains(&0) {
        return Err(Stop::Wrong(E::NulInInline));
    }
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches([' ', '\t', '\r', '\x0c', '\n']);
    if text.ends_with("HTTP/1.0") || text.ends_with("HTTP/1.1") {
        return Err(Stop::Wrong(E::Http));
    }
    let args = words(line).ok_or(Stop::Wrong(E::UnbalancedQuotes))?;
    if args.first().is_some_and(|name| speaks_http(name)) {
        return Err(Stop::Wrong(E::Http));
    }
    Ok(Asked { len: end + 1, args })
}

fn speaks_http(name: &[u8]) -> bool {
    ["post", "host:"].iter().any(|word| word.as_bytes() == name.to_ascii_lowercase())
}

/// The words of an inline command, by the book: one automaton over the characters.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    enum In {
        Gap,
        Word,
        Double,
        Single,
        Closed,
    }
    let blank = |byte: u8| b" \t\n\x0b\x0c\r".contains(&byte);
    let ends = |byte: u8| b" \t\n\r".contains(&byte);
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut state = In::Gap;
    let mut at = 0;
    while at < line.len() {
        let byte = line[at];
        let next = line.get(at + 1).copied();
        let current = all.len().wrapping_sub(1);
        at += 1;
        state = match state {
            In::Gap | In::Closed if blank(byte) => In::Gap,
            In::Closed => return None,
            In::Gap => {
                all.push(Vec::new());
                at -= 1;
                In::Word
            }
            In::Word if ends(byte) => In::Gap,
            In::Word if byte == b'"' => In::Double,
            In::Word if byte == b'\'' => In::Single,
            In::Word => {
                all[current].push(byte);
                In::Word
            }
            In::Double if byte == b'"' => In::Closed,
            In::Double if byte == b'\\' && next.is_some() => {
                let digits = line.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
                let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                match (next, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
                    (Some(b'x'), Some(value)) => {
                        all[current].push(value);
                        at += 3;
                    }
                    (Some(escaped), _) => {
                        let plain = b"nrtba".iter().position(|&known| known == escaped);
                        all[current].push(plain.map_or(escaped, |index| b"\n\r\t\x08\x07"[index]));
                        at += 1;
                    }
                    (None, _) => {}
                }
                In::Double
            }
            In::Single if byte == b'\'' => In::Closed,
            In::Single if byte == b'\\' && next == Some(b'\'') => {
                all[current].push(b'\'');
                at += 1;
                In::Single
            }
            inside => {
                all[current].push(byte);
                inside
            }
        };
    }
    if matches!(state, In::Double | In::Single) { None } else { Some(all) }
}

/// All frames of `bytes`, and the error that ends them.
pub fn replies(bytes: &[u8], limits: &reply::Limits) -> (Vec<Answered>, Option<ReplyError>) {
    let mut all = Vec::new();
    let mut at = 0;
    loop {
        match one_reply(&bytes[at..], limits) {
            Ok(answered) => {
                at += answered.len;
                all.push(answered);
            }
            Err(Stop::More) => return (all, None),
            Err(Stop::Wrong(error)) => return (all, Some(error)),
        }
    }
}

fn one_reply(bytes: &[u8], limits: &reply::Limits) -> Result<Answered, Stop<ReplyError>> {
    let mut at = 0;
    while bytes.get(at) == Some(&b'|') {
        at = value(bytes, at, 0, limits)?;
    }
    let marker = *bytes.get(at).ok_or(Stop::More)?;
    let len = value(bytes, at, 0, limits)?;
    let kind = match marker {
        b'-' | b'!' => Kind::Error,
        b'>' => Kind::Push,
        _ => Kind::Reply,
    };
    Ok(Answered { len, kind, marker, text: text(bytes, at, marker) })
}

fn text(bytes: &[u8], at: usize, marker: u8) -> Option<Vec<u8>> {
    let line = |at: usize| {
        let end = at + bytes[at..].windows(2).position(|pair| pair == b"\r\n").expect("well-formed");
        (bytes[at + 1..end].to_vec(), end + 2)
    };
    let (mut text, next) = line(at);
    match marker {
        b'+' | b'-' => {}
        b'!' => {
            text = bytes[next..next
                + String::from_utf8(text).expect("well-formed").parse::<usize>().expect("well-formed")]
                .to_vec()
        }
        b'*' | b'>' if text != b"?" && text != b"0" && text != b"-1" => {
            let mut at = next;
            while bytes[at] == b'|' {
                let limits =
                    reply::Limits { depth: usize::MAX, elements: u64::MAX, ..reply::Limits::DEFAULT };
                at = value(bytes, at, 0, &limits).ok()?;
            }
            let (head, next) = line(at);
            match bytes[at] {
                b'+' => text = head,
                b'$' => {
                    let length: usize = String::from_utf8(head).expect("well-formed").parse().ok()?;
                    if length > reply::SHOWN_TEXT {
                        return None;
                    }
                    text = bytes[next..next + length].to_vec();
                }
                _ => return None,
            }
        }
        _ => return None,
    }
    text.truncate(reply::SHOWN_TEXT);
    Some(text)
}

/// Where the value at `at` ends, its `open` aggregates counted.
fn value(bytes: &[u8], at: usize, open: usize, limits: &reply::Limits) -> Result<usize, Stop<ReplyError>> {
    use ReplyError as E;
    let marker = *bytes.get(at).ok_or(Stop::More)?;
    if b"+-:_,#(".contains(&marker) {
        let Some(end) = bytes[at + 1..].iter().position(|&byte| byte == b'\r') else {
            return Err(Stop::More);
        };
        return crlf(bytes, at + 1 + end, E::MissingCrlf);
    }
    if !b"$=!*%~>|.".contains(&marker) {
        return Err(Stop::Wrong(E::UnknownType(marker)));
    }
    if marker == b'.' || (marker == b'>' && open > 0) {
        return Err(Stop::Wrong(E::OutOfPlace));
    }
    let deeper = |_: ()| if open >= limits.depth { Err(Stop::Wrong(E::TooDeep)) } else { Ok(open + 1) };
    if b"$*%~|".contains(&marker) && bytes.get(at + 1) == Some(&b'?') {
        let next = crlf(bytes, at + 2, E::InvalidLength)?;
        let open = deeper(())?;
        return if marker == b'$' {
            chunks(bytes, next, limits)
        } else {
            parts(bytes, next, open, marker, limits)
        };
    }
    let (count, mut next) = number(bytes, at + 1, E::InvalidLength, E::InvalidLength)?;
    if count == -1 && (marker == b'$' || marker == b'*') {
        return Ok(next);
    }
    let count = u64::try_from(count).map_err(|_| Stop::Wrong(E::InvalidLength))?;
    if b"$=!".contains(&marker) {
        if count > limits.bulk {
            return Err(Stop::Wrong(E::BulkTooLong));
        }
        return crlf(bytes, next + count as usize, E::MissingCrlf);
    }
    let each = if marker == b'%' || marker == b'|' { 2 } else { 1 };
    let count = count.checked_mul(each).filter(|&count| count <= limits.elements);
    let count = count.ok_or(Stop::Wrong(E::TooManyElements))?;
    if count == 0 {
        return Ok(next);
    }
    let open = deeper(())?;
    for _ in 0..count {
        next = element(bytes, next, open, limits)?;
    }
    Ok(next)
}

/// One element with the attributes before it.
fn element(
    bytes: &[u8],
    mut at: usize,
    open: usize,
    limits: &reply::Limits,
) -> Result<usize, Stop<ReplyError>> {
    while bytes.get(at) == Some(&b'|') {
        at = value(bytes, at, open, limits)?;
    }
    value(bytes, at, open, limits)
}

fn parts(
    bytes: &[u8],
    mut at: usize,
    open: usize,
    marker: u8,
    limits: &reply::Limits,
) -> Result<usize, Stop<ReplyError>> {
    let mut count = 0;
    loop {
        while bytes.get(at) == Some(&b'|') {
            at = value(bytes, at, open, limits)?;
        }
        if bytes.get(at) == Some(&b'.') {
            if b"%|".contains(&marker) && count % 2 == 1 {
                return Err(Stop::Wrong(ReplyError::OutOfPlace));
            }
            return crlf(bytes, at + 1, ReplyError::MissingCrlf);
        }
        at = value(bytes, at, open, limits)?;
        count += 1;
    }
}

fn chunks(bytes: &[u8], mut at: usize, limits: &reply::Limits) -> Result<usize, Stop<ReplyError>> {
    use ReplyError as E;
    loop {
        match bytes.get(at) {
            None => return Err(Stop::More),
            Some(b';') => {}
            Some(_) => return Err(Stop::Wrong(E::OutOfPlace)),
        }
        let (length, next) = number(bytes, at + 1, E::InvalidLength, E::InvalidLength)?;
        if length == 0 {
            return Ok(next);
        }
        let length = u64::try_from(length).map_err(|_| Stop::Wrong(E::InvalidLength))?;
        if length > limits.bulk {
            return Err(Stop::Wrong(E::BulkTooLong));
        }
        at = crlf(bytes, next + length as usize, E::MissingCrlf)?;
    }
}

/// A number is canonical text; a line that stops early must be the beginning of one.
fn number<E: Copy>(bytes: &[u8], at: usize, invalid: E, too_long: E) -> Result<(i64, usize), Stop<E>> {
    let rest = bytes.get(at..).unwrap_or_default();
    let cr = rest.iter().position(|&byte| byte == b'\r');
    let shown = &rest[..cr.unwrap_or(rest.len())];
    let (sign, digits) = if shown.first() == Some(&b'-') { shown.split_at(1) } else { shown.split_at(0) };
    let zeros = digits.len() > 1 && digits[0] == b'0' || !sign.is_empty() && digits.first() == Some(&b'0');
    let wrong = digits.iter().position(|byte| !byte.is_ascii_digit());
    if zeros || wrong.is_some_and(|wrong| wrong <= 32) {
        return Err(Stop::Wrong(invalid));
    }
    if digits.len() > 32 {
        return Err(Stop::Wrong(too_long));
    }
    match cr {
        None => Err(Stop::More),
        Some(_) if digits.is_empty() => Err(Stop::Wrong(invalid)),
        Some(cr) => {
            let next = crlf(bytes, at + cr, invalid)?;
            let text = String::from_utf8(shown.to_vec()).map_err(|_| Stop::Wrong(invalid))?;
            Ok((text.parse().map_err(|_| Stop::Wrong(invalid))?, next))
        }
    }
}

fn crlf<E>(bytes: &[u8], at: usize, missing: E) -> Result<usize, Stop<E>> {
    match (bytes.get(at), bytes.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(at + 2),
        (None, _) | (Some(b'\r'), None) => Err(Stop::More),
        _ => Err(Stop::Wrong(missing)),
    }
}
