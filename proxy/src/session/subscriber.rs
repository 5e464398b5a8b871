//! A RESP2 client that subscribes: the server takes no AUTH from it, so its server leg speaks RESP3 meanwhile.
//!
//! Before its first subscription the leg is switched to RESP3 with a `HELLO 3` of ours, and back before the
//! first command that follows its last unsubscription. What the server pushes is rewritten to RESP2's form, and
//! RESP2's rule, that a subscriber may do little but (un)subscribe, is kept here in the server's words.

use std::borrow::Cow;

use keystile_resp::command::{self, CommandId, Named};
use keystile_resp::reply::Frame;
use keystile_resp::request::Request;

use super::expected::Expect;
use super::judge::{Judgement, label_of};
use super::requests::Verdict;
use super::special::{Special, c_string, special};
use super::{End, Session, Standing};

/// The beginning of RESP2's answer to a subscriber's PING.
const PONG: &[u8] = b"*2\r\n$4\r\npong\r\n";
/// How a server pushes an invalidation in RESP3, and as what a RESP2 client gets it.
const INVALIDATE: &[u8] = b">2\r\n$10\r\ninvalidate\r\n";
const INVALIDATE_MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n";
/// Longest name and arguments that the server repeats of an unknown command.
const REPEATED: usize = 128;
/// What a refused `EXEC` comes to.
pub(crate) const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

/// What the leg of a RESP2 client speaks.
#[derive(Debug, Default)]
pub(super) struct Lift {
    /// It was asked to speak RESP3: holds for what is sent next.
    pub(super) asked: bool,
    /// It speaks RESP3: holds for what is received next.
    pub(super) spoken: bool,
    /// The server does not know how.
    pub(super) impossible: bool,
}

/// What becomes of a request of somebody who may be a RESP2 subscriber.
pub(super) enum Entry {
    /// It is judged as any other.
    Judge,
    /// Everything before it has to be answered first.
    Wait,
    /// This is what becomes of it.
    Done(Verdict),
}

/// What becomes of a push.
pub(super) enum Rewrite {
    /// Its first byte becomes that of an array.
    Array,
    /// So many of its first bytes are replaced by these.
    Front(usize, &'static [u8]),
    /// All of it is replaced.
    Whole(Vec<u8>),
    /// RESP2 has no such thing.
    Drop,
}

impl Session {
    /// Whether something is subscribed to, or may be once all is answered.
    pub(super) fn may_subscribe(&self) -> bool {
        self.subscribed != [0; 3] || self.expected.acks() > 0
    }

    /// Before the first subscription of a RESP2 client.
    pub(super) fn lift(&mut self) -> Result<(), End> {
        let ours = matches!(self.standing, Standing::Ours(_));
        if !ours || self.resp3 || self.lift.asked || self.lift.impossible || self.may_subscribe() {
            return Ok(());
        }
        self.ask_for(true)
    }

    fn ask_for(&mut self, resp3: bool) -> Result<(), End> {
        self.lift.asked = resp3;
        self.refresh_open();
        self.expected.push(Expect::Lift);
        self.forward(if resp3 {
            b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n"
        } else {
            b"*2\r\n$5\r\nHELLO\r\n$1\r\n2\r\n"
        })
    }

    /// The answer to a HELLO of ours.
    pub(super) fn lifted(&mut self, frame: &Frame, failed: bool) {
        if failed {
            // A server without RESP3: the leg stays what it was, and so do the rules.
            self.lift.impossible |= !self.lift.spoken;
            self.lift.asked = self.lift.spoken;
        } else {
            self.lift.spoken = frame.marker == b'%';
        }
        self.refresh_open();
    }

    /// A look at a request before it is judged, where its client may be a RESP2 subscriber, or where what it is
    /// depends on that.
    pub(super) fn enter(
        &mut self,
        id: Option<CommandId>,
        request: &Request,
        buf: &[u8],
        streamed: bool,
    ) -> Result<Entry, End> {
        let kind = id.map_or(Special::Plain, special);
        let settled = self.expected.is_empty() && self.streaming_reply.is_none();
        if let Special::Subscribe(_) = kind {
            // Which protocol it has must be known by then.
            return Ok(if self.expected.hellos() > 0 && !settled { Entry::Wait } else { Entry::Judge });
        }
        let of_subscribers = matches!(kind, Special::Unsubscribe(_) | Special::Quit | Special::Reset);
        if of_subscribers || self.in_multi {
            return Ok(Entry::Judge);
        }
        let passes_through = matches!(self.standing, Standing::PassThrough { .. });
        if passes_through && !settled && matches!(kind, Special::Auth | Special::Hello) {
            // The answer to a wrong AUTH behind other commands might be left out (see `may_sign_in`).
            return Ok(Entry::Wait);
        }
        let answered_here = matches!(kind, Special::Auth | Special::Hello | Special::ClientReply);
        if self.lift.asked {
            if id.is_some_and(|id| id.command().name == "ping" && id.command().container.is_none()) {
                return Ok(Entry::Judge);
            }
            // Rights come first, as on the server.
            if matches!(self.judgement(id, request, buf, streamed), Judgement::Refused(_)) {
                return Ok(Entry::Judge);
            }
            if !settled {
                return Ok(Entry::Wait);
            }
            if self.subscribed == [0; 3] {
                self.ask_for(false)?;
                return Ok(Entry::Judge);
            }
        } else if !answered_here || !self.may_subscribe() || (self.resp3 && self.expected.hellos() == 0) {
            return Ok(Entry::Judge);
        } else if !settled {
            return Ok(Entry::Wait);
        } else if self.resp3 || self.subscribed == [0; 3] {
            return Ok(Entry::Judge);
        }
        let answer = refusal_for_a_subscriber(id, request, buf);
        self.journal.failed(label_of(id), "ERR", "not while subscribed");
        let muted = self.take_muted();
        if self.watching && id.is_some_and(|id| id.command().name == "exec") {
            // On a server that ends in nothing being watched.
            self.watching = false;
            self.replace(answer, muted);
            return Ok(Entry::Done(Verdict::Send(UNWATCH.to_vec())));
        }
        if !muted {
            self.answer(answer)?;
        }
        Ok(Entry::Done(Verdict::Drop))
    }

    /// What becomes of a push of the server's towards a RESP2 client.
    pub(super) fn rewrite(&self, word: &[u8], frame: &Frame, buf: &[u8]) -> Rewrite {
        let bytes = buf.get(..frame.len).unwrap_or_default();
        match word {
            b"message" | b"pmessage" | b"smessage" | b"subscribe" | b"psubscribe" | b"ssubscribe" => {
                Rewrite::Array
            }
            b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => {
                let front = format!("3\r\n${}\r\n{}\r\n", word.len(), String::from_utf8_lossy(word));
                let behind = bytes.get(1..).and_then(|rest| rest.strip_prefix(front.as_bytes()));
                match behind.and_then(|rest| rest.strip_prefix(b"_\r\n")) {
                    Some(total) => Rewrite::Whole([b"*", front.as_bytes(), b"$-1\r\n", total].concat()),
                    None => Rewrite::Array,
                }
            }
            b"invalidate" if self.subscribed != [0; 3] && bytes.starts_with(INVALIDATE) => {
                match bytes.strip_prefix(INVALIDATE) {
                    Some(b"_\r\n") => Rewrite::Whole([INVALIDATE_MESSAGE, b"*-1\r\n"].concat()),
                    _ => Rewrite::Front(INVALIDATE.len(), INVALIDATE_MESSAGE),
                }
            }
            _ => Rewrite::Drop,
        }
    }

    /// What becomes of the answer to a PING while the leg speaks RESP3: what is put before it, and of how many of
    /// its bytes it takes the place. `None`: it passes.
    pub(super) fn pong(&self, frame: &Frame, buf: &[u8]) -> Option<Rewrite> {
        if !self.lift.spoken || self.subscribed == [0; 3] {
            return None;
        }
        if buf.get(..frame.len) == Some(b"+PONG\r\n") {
            return Some(Rewrite::Whole([PONG, b"$0\r\n\r\n"].concat()));
        }
        Some(Rewrite::Front(0, PONG))
    }
}

/// What a RESP2 client gets of a push of the server's, given its first word and its beginning. `None`: nothing.
pub(crate) fn for_resp2(word: &[u8], bytes: &[u8], is_subscriber: bool) -> Option<Vec<u8>> {
    match word {
        b"message" | b"pmessage" | b"smessage" => Some([b"*", bytes.get(1..).unwrap_or_default()].concat()),
        b"invalidate" if is_subscriber => {
            let keys = bytes.strip_prefix(INVALIDATE)?;
            let keys = if keys == b"_\r\n" { b"*-1\r\n" } else { keys };
            Some([INVALIDATE_MESSAGE, keys].concat())
        }
        _ => None,
    }
}

/// The server's error for what a RESP2 subscriber may not do.
pub(crate) fn refusal_for_a_subscriber(id: Option<CommandId>, request: &Request, buf: &[u8]) -> Vec<u8> {
    let text = words_for_a_subscriber(id, request, buf);
    // The server wraps what it says to a refused EXEC.
    let code = if id.is_some_and(|id| id.command().name == "exec") {
        "EXECABORT Transaction discarded because of:"
    } else {
        "ERR"
    };
    format!("-{code} {}\r\n", text.replace(['\r', '\n'], " ")).into_bytes()
}

/// The server's words for what a RESP2 subscriber may not do. It looks at the name and the number of arguments
/// first.
fn words_for_a_subscriber(id: Option<CommandId>, request: &Request, buf: &[u8]) -> String {
    let text = |word: &[u8], most: usize| {
        let word = c_string(word);
        String::from_utf8_lossy(word.get(..most).unwrap_or(word)).into_owned()
    };
    let name = request.name(buf).unwrap_or(Cow::Borrowed(b"?"));
    let container = match command::resolve(&name, None) {
        Named::Known(id) => id.command().has_subcommands.then_some(id),
        _ => None,
    };
    let Some(id) = id else {
        if let (Some(_), Some(sub)) = (container, request.arg(buf, 1)) {
            let name = text(&name, REPEATED).to_uppercase();
            return format!("unknown subcommand '{}'. Try {name} HELP.", text(&sub, REPEATED));
        }
        let mut repeated = String::new();
        for argument in request.args(buf).skip(1) {
            if repeated.len() >= REPEATED {
                break;
            }
            repeated.push_str(&format!("'{}' ", text(&argument, REPEATED - repeated.len())));
        }
        return format!("unknown command '{}', with args beginning with: {repeated}", text(&name, REPEATED));
    };
    let own = id.command();
    let full = match own.container {
        Some(container) => format!("{}|{}", container.command().name, own.name),
        None => own.name.to_owned(),
    };
    let (count, arity) = (i64::from(request.argc), i64::from(own.arity));
    let bare_container = own.has_subcommands && request.argc == 1;
    if bare_container || (arity >= 0 && count != arity) || (arity < 0 && count < -arity) {
        return format!("wrong number of arguments for '{full}' command");
    }
    format!(
        "Can't execute '{full}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    )
}
