//! Drives the scanners over an input that is cut into pieces, as a proxy would, and writes down what they saw.

#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use keystile_resp::reply::{self, Kind, ReplyError, ReplyScanner};
use keystile_resp::request::{self, Request, RequestError, Scanner};

/// A request as a scanner told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRequest {
    pub len: usize,
    pub argc: usize,
    /// All arguments, or of a streamed request those that were shown.
    pub args: Vec<Vec<u8>>,
    pub streamed: bool,
}

/// A frame as a scanner told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenReply {
    pub len: usize,
    pub kind: Kind,
    pub marker: u8,
    pub text: Option<Vec<u8>>,
    pub streamed: bool,
}

/// Where the buffer ends at each turn: `cuts` are the lengths of the pieces, used round and round.
struct Feed<'b> {
    bytes: &'b [u8],
    cuts: &'b [usize],
    turn: usize,
    from: usize,
    to: usize,
}

impl<'b> Feed<'b> {
    fn new(bytes: &'b [u8], cuts: &'b [usize]) -> Self {
        Self { bytes, cuts, turn: 0, from: 0, to: 0 }
    }

    fn buffer(&self) -> &'b [u8] {
        &self.bytes[self.from..self.to]
    }

    fn more(&mut self) -> bool {
        if self.to == self.bytes.len() {
            return false;
        }
        let piece = self.cuts.get(self.turn % self.cuts.len().max(1)).copied().unwrap_or(self.bytes.len());
        self.turn += 1;
        self.to = (self.to + piece.max(1)).min(self.bytes.len());
        true
    }
}

/// Scans requests; `eager` streams whatever is pending whenever bytes are missing.
pub fn requests(
    bytes: &[u8],
    cuts: &[usize],
    limits: request::Limits,
    eager: bool,
) -> (Vec<SeenRequest>, Option<RequestError>) {
    let mut scanner = Scanner::new(limits);
    let mut feed = Feed::new(bytes, cuts);
    let mut all = Vec::new();
    let mut open: Option<SeenRequest> = None;
    let begin = |request: &Request, buffer: &[u8]| SeenRequest {
        len: request.len,
        argc: request.argc as usize,
        args: (0..request.known())
            .map(|index| request.arg(buffer, index).expect("well-formed").into_owned())
            .collect(),
        streamed: true,
    };
    loop {
        let buffer = feed.buffer();
        let step = match scanner.scan(buffer) {
            Ok(step) => step,
            Err(error) => {
                assert_eq!(scanner.scan(buffer), Err(error), "an error is final");
                return (all, Some(error));
            }
        };
        let consumed = match step {
            request::Step::NeedMore => {
                if let Some(head) = eager.then(|| scanner.stream()).flatten() {
                    open = Some(begin(&head, buffer));
                    feed.from += head.len;
                    continue;
                }
                if !feed.more() {
                    return (all, None);
                }
                continue;
            }
            request::Step::Empty { len } => {
                all.push(SeenRequest { len, argc: 0, args: Vec::new(), streamed: false });
                len
            }
            request::Step::Request(request) => {
                let mut seen = begin(&request, buffer);
                seen.streamed = false;
                let kept = std::mem::replace(
                    &mut seen.args,
                    request.args(buffer).map(std::borrow::Cow::into_owned).collect(),
                );
                assert_eq!(kept, seen.args[..kept.len()]);
                assert_eq!(kept.len(), seen.args.len().min(request::KEPT_ARGS));
                all.push(seen);
                request.len
            }
            request::Step::Head(request) => {
                assert!(open.is_none());
                open = Some(begin(&request, buffer));
                request.len
            }
            request::Step::Body { len, end } => {
                let mut seen = open.take().expect("a body has a head");
                seen.len += len;
                if end {
                    all.push(seen)
                } else {
                    open = Some(seen)
                }
                len
            }
        };
        assert!(consumed <= buffer.len(), "a step stays within the buffer");
        feed.from += consumed;
        assert_eq!(scanner.consumed(), feed.from as u64);
    }
}

/// Scans replies; `eager` streams whatever is pending whenever bytes are missing.
pub fn replies(
    bytes: &[u8],
    cuts: &[usize],
    limits: reply::Limits,
    eager: bool,
) -> (Vec<SeenReply>, Option<ReplyError>) {
    let mut scanner = ReplyScanner::new(limits);
    let mut feed = Feed::new(bytes, cuts);
    let mut all = Vec::new();
    let mut open: Option<SeenReply> = None;
    let begin = |frame: &reply::Frame, buffer: &[u8], streamed| SeenReply {
        len: frame.len,
        kind: frame.kind,
        marker: frame.marker,
        text: frame.text(buffer).map(<[u8]>::to_vec),
        streamed,
    };
    loop {
        let buffer = feed.buffer();
        let step = match scanner.scan(buffer) {
            Ok(step) => step,
            Err(error) => return (all, Some(error)),
        };
        let consumed = match step {
            reply::Step::NeedMore => {
                if let Some(head) = eager.then(|| scanner.stream(buffer)).flatten() {
                    open = Some(begin(&head, buffer, true));
                    feed.from += head.len;
                    continue;
                }
                if !feed.more() {
                    return (all, None);
                }
                continue;
            }
            reply::Step::Frame(frame) => {
                all.push(begin(&frame, buffer, false));
                frame.len
            }
            reply::Step::Head(frame) => {
                assert!(open.is_none());
                open = Some(begin(&frame, buffer, true));
                frame.len
            }
            reply::Step::Body { len, end } => {
                let mut seen = open.take().expect("a body has a head");
                seen.len += len;
                if end {
                    all.push(seen)
                } else {
                    open = Some(seen)
                }
                len
            }
        };
        assert!(consumed <= buffer.len(), "a step stays within the buffer");
        feed.from += consumed;
    }
}

/// The whole property: however the bytes are cut, the scanners see what the slow reading sees.
pub fn check_requests(bytes: &[u8], cuts: &[usize], limits: request::Limits, eager: bool) {
    let (expected, expected_error) = super::requests(bytes, &limits);
    let (seen, error) = requests(bytes, cuts, limits, eager);
    assert_eq!(error, expected_error, "{:?} cut {cuts:?}", bytes.escape_ascii().to_string());
    assert_eq!(seen.len(), expected.len(), "{:?} cut {cuts:?}", bytes.escape_ascii().to_string());
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!((seen.len, seen.argc), (expected.len, expected.args.len()));
        assert_eq!(seen.args, expected.args[..seen.args.len()]);
        assert!(seen.streamed || seen.args.len() == expected.args.len());
        assert!(seen.streamed || seen.argc == 0 || seen.len <= limits.whole.max(limits.inline + 1));
    }
}

/// The same for replies.
pub fn check_replies(bytes: &[u8], cuts: &[usize], limits: reply::Limits, eager: bool) {
    let (expected, expected_error) = super::replies(bytes, &limits);
    let (seen, error) = replies(bytes, cuts, limits, eager);
    if error == Some(ReplyError::AttributeTooLong) {
        // The slow reading has no such limit: what came before must agree.
        assert!(seen.len() <= expected.len());
    } else {
        assert_eq!(error, expected_error, "{:?} cut {cuts:?}", bytes.escape_ascii().to_string());
        assert_eq!(seen.len(), expected.len(), "{:?} cut {cuts:?}", bytes.escape_ascii().to_string());
    }
    for (seen, expected) in seen.iter().zip(&expected) {
        let told = |kind, marker, len| (kind, marker as char, len);
        assert_eq!(
            told(seen.kind, seen.marker, seen.len),
            told(expected.kind, expected.marker, expected.len)
        );
        assert_eq!(seen.text, expected.text, "{:?} cut {cuts:?}", bytes.escape_ascii().to_string());
    }
}
