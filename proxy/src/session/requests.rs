//! From the client to the cache: each request is named, judged, and passes in the longest run there is.

use std::borrow::Cow;
use std::task::{Context, Poll};

use keystile_resp::command::CommandId;
use keystile_resp::encode;
use keystile_resp::request::{Request, RequestError, Scanner, Step};

use super::address;
use super::expected::{Expect, Topic, UNKNOWN};
use super::judge::{Circumstances, Judgement, Refused, judge, label_of, named};
use super::special::{Special, c_string, special};
use super::subscriber::Entry;
use super::{End, Hold, Session, WHOLE_REQUEST, give_back, take_buffer};
use crate::audit::redact;

/// A command that no server knows. In a transaction it is sent in place of a refused command: the server
/// rejects it and so aborts the EXEC itself, which no bookkeeping of ours could do as surely. Elsewhere its
/// answer shows where one of ours belongs among what the server pushes. Its error is swallowed and our answer
/// takes its place.
const POISON: &[u8] = b"*1\r\n$16\r\nkeystile-refused\r\n";

/// What becomes of a request's bytes.
enum Fate {
    /// They pass.
    Pass,
    /// They do not.
    Skip,
    /// Not yet.
    Wait,
}

/// What becomes of a request.
pub(super) enum Verdict {
    /// Its bytes pass as they are.
    Pass,
    /// Its bytes do not pass; what had to be done is done.
    Drop,
    /// Its bytes do not pass; these do.
    Send(Vec<u8>),
}

impl Session {
    /// Reads the client once. True where something moved.
    pub(super) fn pump_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let (mut work, was_held) = take_buffer(&mut self.client_held);
        let before = work.len();
        let filled = if std::mem::take(&mut self.rescan) {
            Poll::Ready(Ok(1))
        } else {
            self.client.poll_fill(cx, &mut work)
        };
        match filled {
            Poll::Ready(Ok(1..)) => {}
            other => {
                give_back(work, was_held, 0, &mut self.client_held);
                return match other {
                    Poll::Pending => Ok(false),
                    Poll::Ready(Ok(_)) => Err(End::ClientClosed),
                    Poll::Ready(Err(_)) => Err(End::ClientFailed),
                };
            }
        }
        self.metrics.bytes_in.add((work.len() - before) as u64);
        self.handle.active(self.clock.now());
        let scanned = self.scan_requests(&work);
        self.journal.hand_on();
        give_back(work, was_held, *scanned.as_ref().unwrap_or(&0), &mut self.client_held);
        scanned.map(|_| true)
    }

    fn scan_requests(&mut self, buf: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        // Where the bytes begin that are to pass and were not written yet.
        let mut run = 0;
        while at < buf.len() && self.hold == Hold::No && self.finishing.is_none() {
            let rest = &buf[at..];
            match self.next_step(rest) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Empty { len }) => at += len,
                Ok(Step::Request(request)) => {
                    let end = at + request.len;
                    if !self.passes(&request, rest) {
                        self.forward(&buf[run..at])?;
                        run = at;
                        match self.judged(&request, rest, false)? {
                            Fate::Pass => {}
                            Fate::Skip => run = end,
                            Fate::Wait => {
                                self.wait_for_answers();
                                return Ok(at);
                            }
                        }
                    }
                    at = end;
                }
                Ok(Step::Head(request)) => {
                    let end = at + request.len;
                    let label = label_of(named(&request, rest));
                    let passed = if self.passes(&request, rest) {
                        true
                    } else {
                        self.forward(&buf[run..at])?;
                        run = at;
                        match self.judged(&request, rest, true)? {
                            Fate::Pass => true,
                            Fate::Skip => {
                                run = end;
                                false
                            }
                            Fate::Wait => {
                                self.wait_for_answers();
                                return Ok(at);
                            }
                        }
                    };
                    self.streaming_request = Some((label, passed));
                    at = end;
                }
                Ok(Step::Body { len, end }) => {
                    let (label, passes) = self.streaming_request.unwrap_or((UNKNOWN, true));
                    if passes {
                        self.journal.request_bytes(label, len);
                    } else {
                        self.forward(&buf[run..at])?;
                        run = at + len;
                    }
                    at += len;
                    if end {
                        self.streaming_request = None;
                        self.hold_for_sign_in();
                    }
                }
                Err(error) => {
                    self.malformed(error, &buf[run..at])?;
                    run = at;
                    break;
                }
            }
        }
        if run < at {
            self.forward(&buf[run..at])?;
        }
        Ok(at)
    }

    #[inline]
    fn next_step(&mut self, rest: &[u8]) -> Result<Step, RequestError> {
        let step = self.requests.scan(rest)?;
        if step == Step::NeedMore && self.gate.is_scoped() && rest.len() > WHOLE_REQUEST {
            return Ok(self.begin_early(rest).map_or(step, Step::Head));
        }
        Ok(step)
    }

    /// Under limits on keys a long request waits until its keys were seen, and then no longer.
    fn begin_early(&mut self, rest: &[u8]) -> Option<Request> {
        let pending = self.requests.pending()?;
        let id = named(pending, rest)?;
        let passes = self.gate.passes(id) || self.gate.passes_looked_at(id, pending, rest);
        if passes { self.requests.stream() } else { None }
    }

    /// The common path: a command that the rules allow and that is nothing special.
    #[inline]
    fn passes(&mut self, request: &Request, buf: &[u8]) -> bool {
        let Some(id) = named(request, buf) else { return false };
        if !(self.gate.passes(id) || self.gate.passes_looked_at(id, request, buf)) || !self.open {
            return false;
        }
        let label = label_of(Some(id));
        let muted = self.take_muted();
        self.expected.reply(label, muted);
        self.journal.request(label, request.len);
        if self.journal.wants_each() {
            self.write_down(Some(id), request, buf);
        }
        true
    }

    /// Looks closer.
    fn judged(&mut self, request: &Request, buf: &[u8], streamed: bool) -> Result<Fate, End> {
        let id = named(request, buf);
        let entry = self.enter(id, request, buf, streamed)?;
        if matches!(entry, Entry::Wait) {
            return Ok(Fate::Wait);
        }
        self.journal.request(label_of(id), request.len);
        if self.journal.wants_each() {
            self.write_down(id, request, buf);
        }
        let verdict = match entry {
            Entry::Done(verdict) => verdict,
            _ => self.judge(id, request, buf, streamed)?,
        };
        match verdict {
            Verdict::Pass => Ok(Fate::Pass),
            Verdict::Drop => Ok(Fate::Skip),
            Verdict::Send(bytes) => {
                self.forward(&bytes)?;
                Ok(Fate::Skip)
            }
        }
    }

    /// Leaves a request for later, when everything before it is answered.
    fn wait_for_answers(&mut self) {
        // It lies there from its beginning on, and will be scanned again.
        self.requests = Scanner::new(*self.requests.limits());
        self.hold = Hold::UntilAnswered;
    }

    /// What the rules say of a request.
    pub(super) fn judgement(
        &self,
        id: Option<CommandId>,
        request: &Request,
        buf: &[u8],
        streamed: bool,
    ) -> Judgement {
        let circumstances = Circumstances {
            gate: &self.gate,
            admitted: self.is_admitted(),
            in_multi: self.in_multi,
            // How many channels there are is all that has to be known of a long list of them.
            streamed: streamed && !id.is_some_and(is_subscription),
        };
        judge(id, request, buf, circumstances)
    }

    fn judge(
        &mut self,
        id: Option<CommandId>,
        request: &Request,
        buf: &[u8],
        streamed: bool,
    ) -> Result<Verdict, End> {
        if let Some(told) = address::told(id, request, buf) {
            let muted = self.take_muted();
            return self.answered(told.err().unwrap_or_else(|| b"+OK\r\n".to_vec()), muted);
        }
        let kind = match self.judgement(id, request, buf, streamed) {
            Judgement::Refused(refused) => return self.refuse(&refused),
            Judgement::May(kind) => kind,
        };
        let label = label_of(id);
        let alone = request.argc == 1;
        match kind {
            Special::Plain if self.lift.asked && id.is_some_and(|id| id.command().name == "ping") => {
                let muted = self.take_muted();
                self.expected.push(Expect::Ping { label, muted });
                return Ok(Verdict::Pass);
            }
            Special::Plain | Special::Never(_) | Special::ConfigSet => {}
            Special::Topology if self.hide_topology => {
                let text = "this cache is served as a single endpoint: connect without cluster mode";
                return self.refuse(&Refused::new(id, "ERR", "topology", text));
            }
            Special::Topology => {}
            Special::Auth => return self.client_auth(label, &all(request, buf)),
            Special::Hello => return self.client_hello(label, &all(request, buf)),
            Special::ClientReply => return self.client_reply(label, &all(request, buf)),
            Special::Quit => self.finishing = Some(End::Quit),
            Special::Reset if alone => return self.reset(label),
            // With arguments it is an error, and changes nothing.
            Special::Reset => {}
            Special::Multi if alone => {
                let muted = self.take_muted();
                self.change_multi(true);
                self.expected.push(Expect::Multi { label, muted, change: self.changes });
                return Ok(Verdict::Pass);
            }
            // Also an EXEC that the server refuses ends the transaction; a DISCARD does not. Where there is none, what
            // is watched stays so, unless the server refuses an EXEC.
            Special::EndMulti if alone || is_exec(id) => {
                self.watching &= alone && !self.in_multi;
                self.change_multi(false);
                self.hold_for_sign_in();
            }
            // With arguments it is an error, and changes nothing.
            Special::Multi | Special::EndMulti => {}
            Special::Watch => self.watching |= !self.in_multi,
            Special::Tracking => self.tracking = true,
            Special::Capabilities => {
                let muted = self.take_muted();
                self.expected.reply(label, muted);
                return Ok(without_redirect(&all(request, buf)).map_or(Verdict::Pass, Verdict::Send));
            }
            Special::Unwatch if alone => {
                self.watching &= self.in_multi;
                self.hold_for_sign_in();
            }
            Special::Unwatch => {}
            Special::Subscribe(topic) => {
                if !alone {
                    self.lift()?;
                }
                let channels = request.argc.saturating_sub(1);
                let muted = self.take_muted();
                // Without a channel there is one reply, an error.
                self.expected.push(Expect::Acks { label, topic, left: Some(channels.max(1)), muted });
                return Ok(Verdict::Pass);
            }
            Special::Unsubscribe(topic) => {
                let left = (!alone).then_some(request.argc.saturating_sub(1));
                let muted = self.take_muted();
                self.expected.push(Expect::Acks { label, topic, left, muted });
                return Ok(Verdict::Pass);
            }
        }
        let muted = self.take_muted();
        self.expected.reply(label, muted);
        Ok(Verdict::Pass)
    }

    /// Refuses a command: an answer in its place, and in a transaction a server that knows of it.
    fn refuse(&mut self, refused: &Refused) -> Result<Verdict, End> {
        self.journal.refused(label_of(refused.id), refused.code, &refused.record());
        let answer = refused.answer();
        let muted = self.take_muted();
        if self.in_multi {
            if refused.id.is_some_and(|id| special(id) == Special::EndMulti) {
                // A refused EXEC or DISCARD ends the transaction, as one that the server refuses does.
                self.change_multi(false);
                self.watching = false;
                self.hold_for_sign_in();
                self.replace(answer, muted);
                let mut discard = Vec::new();
                encode::request(&mut discard, &["DISCARD"]);
                return Ok(Verdict::Send(discard));
            }
            self.replace(answer, muted);
            return Ok(Verdict::Send(POISON.to_vec()));
        }
        self.answered(answer, muted)
    }

    /// Answers the client in the order of its requests, unless it wants no answer. Where the cache may push what
    /// the commands before have caused, only its next reply tells that all of it is there: then it is asked for one.
    pub(super) fn answered(&mut self, answer: Vec<u8>, muted: bool) -> Result<Verdict, End> {
        if muted {
            return Ok(Verdict::Drop);
        }
        // In a transaction an unknown command would abort it, and commands push nothing before its EXEC.
        if self.may_be_pushed() && !self.in_multi {
            self.replace(answer, false);
            return Ok(Verdict::Send(POISON.to_vec()));
        }
        self.answer(answer)?;
        Ok(Verdict::Drop)
    }

    /// Whether a command of the client's own may cause a push to it. A RESP2 subscriber has none that may.
    fn may_be_pushed(&self) -> bool {
        (self.resp3 || self.expected.hellos() > 0) && (self.tracking || self.may_subscribe())
    }

    pub(super) fn replace(&mut self, answer: Vec<u8>, muted: bool) {
        let answer = if muted { Vec::new() } else { answer };
        self.expected.push(Expect::Replace(answer.into_boxed_slice()));
    }

    /// What is malformed is answered, and then is the end; `before` is what still has to pass before it.
    fn malformed(&mut self, error: RequestError, before: &[u8]) -> Result<(), End> {
        if error == RequestError::Http {
            return Err(End::Malformed(error));
        }
        self.forward(before)?;
        let mut answer = Vec::new();
        encode::error(&mut answer, "ERR", &error.to_string());
        if matches!(self.streaming_request.take(), Some((_, true))) {
            // The server has a part of it and will not answer.
            self.expected.retract();
            self.answer(answer)?;
        } else if let Verdict::Send(bytes) = self.answered(answer, false)? {
            self.forward(&bytes)?;
        }
        self.finishing = Some(End::Malformed(error));
        Ok(())
    }

    #[inline]
    pub(super) fn forward(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.server.write(bytes).map_err(|_| End::ServerClosed)
    }

    fn write_down(&mut self, id: Option<CommandId>, request: &Request, buf: &[u8]) {
        if self.journal.wants_arguments() {
            self.journal.query(&redact::full(id, request.args(buf)));
        } else {
            self.journal.query_named(label_of(id));
        }
    }
}

fn is_subscription(id: CommandId) -> bool {
    matches!(special(id), Special::Subscribe(_) | Special::Unsubscribe(_))
}

/// `CLIENT CAPA` without the word by which a client says that it follows a server's `REDIRECT`: that names a server
/// behind the proxy. `None` where it does not say so.
fn without_redirect(args: &[Cow<'_, [u8]>]) -> Option<Vec<u8>> {
    let (names, words) = args.split_at_checked(2)?;
    let follows = |word: &&Cow<'_, [u8]>| c_string(word).eq_ignore_ascii_case(b"redirect");
    if !words.iter().any(|word| follows(&word)) {
        return None;
    }
    let mut kept: Vec<&[u8]> =
        names.iter().chain(words.iter().filter(|word| !follows(word))).map(AsRef::as_ref).collect();
    if kept.len() == names.len() {
        // It wants one; what servers do not know they take.
        kept.push(b"none");
    }
    let mut request = Vec::new();
    encode::request(&mut request, &kept);
    Some(request)
}

fn is_exec(id: Option<CommandId>) -> bool {
    id.is_some_and(|id| id.command().name == "exec")
}

/// All arguments of a request that lies whole in `buf`.
fn all<'b>(request: &Request, buf: &'b [u8]) -> Vec<Cow<'b, [u8]>> {
    request.args(buf).collect()
}

/// Which of the counts of subscriptions a topic is.
pub(super) fn place(topic: Topic) -> usize {
    match topic {
        Topic::Channel => 0,
        Topic::Pattern => 1,
        Topic::Shard => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_client_is_told_of_servers_behind_the_proxy() {
        for (words, sent) in [
            ("CLIENT CAPA redirect", Some("CLIENT CAPA none")),
            ("client capa x REDIRECT\0y z", Some("client capa x z")),
            ("CLIENT CAPA x", None),
            ("CLIENT CAPA", None),
        ] {
            let args: Vec<Cow<'_, [u8]>> = words.split(' ').map(|word| word.as_bytes().into()).collect();
            let expected = sent.map(|words| {
                let mut request = Vec::new();
                encode::request(&mut request, &words.split(' ').collect::<Vec<_>>());
                request
            });
            assert_eq!(without_redirect(&args), expected, "{words}");
        }
    }
}
