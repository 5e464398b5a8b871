//! From the client to the nodes: each request is named, judged, planned, and sent where its slot is served.

use std::borrow::Cow;
use std::task::{Context, Poll};

use keystile_resp::command::CommandId;
use keystile_resp::encode;
use keystile_resp::request::{Request, RequestError, Step};

use super::order::{Awaiting, Entry};
use super::{ClusterSession, StreamedRequest, fast};
use crate::audit::redact;
use crate::session::ahead::may_block;
use crate::session::expected::{Label, UNKNOWN};
use crate::session::judge::{Circumstances, Judgement, Refused, judge, label_of, named};
use crate::session::special::Special;
use crate::session::{End, LOCAL_BACKLOG, Standing, give_back, take_buffer};

/// Bytes that are read from the client while its next request cannot be taken on: so its end is noticed.
const READ_AHEAD: usize = 64 * 1024;
/// The words of a server for a slot that nobody serves.
pub(super) const NOBODY: &[u8] = b"-CLUSTERDOWN Hash slot not served\r\n";

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is on its way, or answered.
    Yes,
    /// Not now.
    No,
}

/// A request that is being taken on.
pub(super) struct Incoming<'a> {
    pub(super) id: Option<CommandId>,
    pub(super) request: &'a Request,
    /// Begins with it.
    pub(super) buf: &'a [u8],
    /// Whether only its first arguments are there.
    pub(super) streamed: bool,
}

impl Incoming<'_> {
    pub(super) fn label(&self) -> Label {
        label_of(self.id)
    }

    /// Its bytes, so far.
    pub(super) fn bytes(&self) -> &[u8] {
        self.buf.get(..self.request.len).unwrap_or_default()
    }

    pub(super) fn args(&self) -> Vec<Cow<'_, [u8]>> {
        self.request.args(self.buf).collect()
    }
}

impl ClusterSession {
    pub(super) fn may_read_client(&self) -> bool {
        !self.client_is_behind()
    }

    /// A client that does not read its replies is read no further.
    fn client_is_behind(&self) -> bool {
        !self.client.is_flushed() && self.order.is_empty()
    }

    /// Whether a request may be taken on at all.
    fn takes_on(&mut self) -> bool {
        !self.hold
            && !self.waits_for_sign_in()
            && self.finishing.is_none()
            && self.order.has_room(LOCAL_BACKLOG)
    }

    /// Reads the client once, and takes on what is there. True where something moved.
    pub(super) fn pump_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let (mut work, was_held) = take_buffer(&mut self.client_held);
        let before = work.len();
        let takes_on = self.takes_on();
        let looks = !self.client_ended && ((takes_on && self.wants_more) || before < READ_AHEAD);
        if looks {
            match self.client.poll_fill(cx, &mut work) {
                Poll::Ready(Ok(1..)) => {
                    self.metrics.bytes_in.add((work.len() - before) as u64);
                    self.handle.active(self.clock.now());
                    self.ask_for_map_on_schedule();
                }
                Poll::Ready(Ok(_)) => self.client_ended = true,
                Poll::Ready(Err(_)) => {
                    give_back(work, was_held, 0, &mut self.client_held);
                    return Err(End::ClientFailed);
                }
                Poll::Pending => {}
            }
        }
        let read = work.len() - before;
        let scanned = if takes_on { self.scan_requests(&work) } else { Ok(0) };
        self.journal.hand_on();
        give_back(work, was_held, *scanned.as_ref().unwrap_or(&0), &mut self.client_held);
        let taken = scanned?;
        if self.client_ended && self.ends_with_its_client() {
            return Err(End::ClientClosed);
        }
        // What was held back may turn out not to be whole: then the client is to be read, too.
        let is_cut = takes_on && self.wants_more && !looks && !self.client_ended;
        Ok(read > 0 || taken > 0 || is_cut)
    }

    /// Whether nothing is left that a client that has gone is owed: no request whose turn will come, unless a call that
    /// blocks is in front of it.
    fn ends_with_its_client(&mut self) -> bool {
        if self.finishing.is_some() {
            return self.order.front().is_some_and(|front| {
                !matches!(front.awaiting, Awaiting::Answer(_)) && may_block(front.label)
            });
        }
        self.parked.is_none() || self.barrier.is_some()
    }

    fn scan_requests(&mut self, buf: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        self.wants_more = false;
        while self.takes_on() {
            let rest = buf.get(at..).unwrap_or_default();
            let step = match self.parked.take() {
                Some(step) => step,
                None => match self.requests.scan(rest) {
                    Ok(step) => step,
                    Err(error) => {
                        self.malformed(error)?;
                        break;
                    }
                },
            };
            let taken = match &step {
                Step::NeedMore => {
                    self.wants_more = true;
                    break;
                }
                Step::Empty { len } => {
                    at += len;
                    continue;
                }
                Step::Body { len, end } => {
                    if !self.pass_body(rest.get(..*len).unwrap_or_default(), *end) {
                        self.parked = Some(step);
                        break;
                    }
                    at += len;
                    continue;
                }
                Step::Request(request) => {
                    let taken = self.take_on(request, rest)?;
                    at += if taken == Taken::Yes { request.len } else { 0 };
                    taken
                }
                Step::Head(request) => {
                    let incoming = Incoming { id: named(request, rest), request, buf: rest, streamed: true };
                    let taken = self.take_on_slowly(&incoming)?;
                    at += if taken == Taken::Yes { request.len } else { 0 };
                    taken
                }
            };
            if taken == Taken::No {
                self.parked = Some(step);
                break;
            }
        }
        Ok(at)
    }

    /// More bytes of a request that streams through. False where its node does not take them yet.
    fn pass_body(&mut self, bytes: &[u8], end: bool) -> bool {
        let Some(streamed) = &self.streaming_request else { return true };
        if let Some(link) = streamed.link.and_then(|id| self.links.get(id)) {
            if (!link.is_up() || link.is_proving()) && !link.has_ended() {
                return false;
            }
            link.send_more(bytes);
        }
        self.journal.request_bytes(streamed.label, bytes.len());
        if end {
            if let Some(link) = streamed.link.and_then(|id| self.links.get(id)) {
                link.end_request();
            }
            self.streaming_request = None;
        }
        true
    }

    /// The common path: a simple command that the rules allow, while nothing out of the ordinary goes on.
    #[inline]
    fn take_on(&mut self, request: &Request, buf: &[u8]) -> Result<Taken, End> {
        let id = named(request, buf);
        if let Some(id) = id
            && self.is_calm()
            && self.gate.passes(id)
            && let Some(slot) = fast::slot_of(id, request, buf)
            && let Some(link) = self.link_of_slot(slot)
        {
            let label = label_of(Some(id));
            let bytes = buf.get(..request.len).unwrap_or_default();
            self.journal.request(label, bytes.len());
            if self.journal.wants_each() {
                self.write_down(Some(id), request, buf);
            }
            let mut entry = Entry::new(Awaiting::Link(link), label, self.take_muted());
            entry.slot = slot;
            self.push_sent(link, entry, bytes, bytes);
            return Ok(Taken::Yes);
        }
        self.take_on_slowly(&Incoming { id, request, buf, streamed: false })
    }

    /// Whether nothing is to be minded but a command's own slot.
    #[inline]
    fn is_calm(&self) -> bool {
        !self.waits_for_map
            && self.barrier.is_none()
            && !self.settling
            && !self.readonly
            && self.caching.is_none()
            && !self.in_transaction()
            && !self.is_subscriber2()
            && self.is_admitted()
    }

    fn take_on_slowly(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        if let Some(taken) = self.told_address(incoming) {
            return taken;
        }
        if self.is_subscribing() {
            return Ok(Taken::No);
        }
        let circumstances = Circumstances {
            gate: &self.gate,
            admitted: self.is_admitted(),
            in_multi: self.in_transaction(),
            streamed: incoming.streamed,
        };
        let kind = match judge(incoming.id, incoming.request, incoming.buf, circumstances) {
            Judgement::Refused(refused) => return self.refuse(incoming, &refused),
            Judgement::May(kind) => kind,
        };
        let of_subscriber =
            matches!(kind, Special::Subscribe(_) | Special::Unsubscribe(_) | Special::Quit | Special::Reset);
        if !of_subscriber && self.is_subscriber2() {
            return self.refuse_subscriber(incoming);
        }
        let args = incoming.args();
        match kind {
            Special::Plain
            | Special::Never(_)
            | Special::Tracking
            | Special::Capabilities
            | Special::ConfigSet
            | Special::Topology => self.take_planned(incoming, &args),
            Special::Auth => self.client_auth(incoming, &args),
            Special::Hello => self.client_hello(incoming, &args),
            Special::ClientReply => self.client_reply(incoming, &args),
            Special::Quit => {
                self.note(incoming);
                let muted = self.take_muted();
                self.answer(incoming.label(), b"+OK\r\n".to_vec(), muted);
                self.finishing = Some(End::Quit);
                Ok(Taken::Yes)
            }
            Special::Reset if incoming.request.argc == 1 => self.reset(incoming),
            Special::Reset => self.send_home(incoming),
            Special::Multi | Special::EndMulti | Special::Watch | Special::Unwatch => {
                self.take_transaction(kind, incoming, &args)
            }
            Special::Subscribe(topic) => self.subscribe(topic, incoming, &args),
            Special::Unsubscribe(topic) => self.unsubscribe(topic, incoming, &args),
        }
    }

    /// An error of ours in a server's words.
    pub(super) fn answer_error(&mut self, incoming: &Incoming<'_>, words: &[u8]) -> Result<Taken, End> {
        self.note(incoming);
        let text = String::from_utf8_lossy(words.get(1..).unwrap_or_default()).trim_end().to_owned();
        let code = text.split(' ').next().unwrap_or("ERR").to_owned();
        self.journal.failed(incoming.label(), &code, &redact::error(incoming.id, &text));
        let muted = self.take_muted();
        self.answer(incoming.label(), words.to_vec(), muted);
        self.skip_body(incoming);
        Ok(Taken::Yes)
    }

    /// The bytes of a request that streams through go nowhere.
    fn skip_body(&mut self, incoming: &Incoming<'_>) {
        if incoming.streamed {
            self.streaming_request = Some(StreamedRequest { label: incoming.label(), link: None });
        }
    }

    /// Refuses a command: an answer in its place, and a transaction that it is in is aborted.
    pub(super) fn refuse(&mut self, incoming: &Incoming<'_>, refused: &Refused) -> Result<Taken, End> {
        self.note(incoming);
        self.journal.refused(incoming.label(), refused.code, &refused.record());
        self.poison(incoming.id);
        let muted = self.take_muted();
        self.answer(incoming.label(), refused.answer(), muted);
        self.skip_body(incoming);
        Ok(Taken::Yes)
    }

    /// Counts a request that is taken on.
    pub(super) fn note(&mut self, incoming: &Incoming<'_>) {
        self.journal.request(incoming.label(), incoming.request.len);
        if self.journal.wants_each() {
            self.write_down(incoming.id, incoming.request, incoming.buf);
        }
    }

    fn write_down(&mut self, id: Option<CommandId>, request: &Request, buf: &[u8]) {
        if self.journal.wants_arguments() {
            self.journal.query(&redact::full(id, request.args(buf)));
        } else {
            self.journal.query_named(label_of(id));
        }
    }

    #[inline]
    pub(super) fn is_admitted(&self) -> bool {
        !matches!(self.standing, Standing::PassThrough { admitted: false, .. })
    }

    #[inline]
    pub(super) fn take_muted(&mut self) -> bool {
        self.replying.take_muted()
    }

    fn malformed(&mut self, error: RequestError) -> Result<(), End> {
        if error == RequestError::Http {
            return Err(End::Malformed(error));
        }
        let mut answer = Vec::new();
        encode::error(&mut answer, "ERR", &error.to_string());
        let link = self.streaming_request.take().and_then(|streamed| streamed.link);
        if link.is_some() {
            // The node has a part of it and will not answer.
            let last = self.order.next().saturating_sub(1);
            self.order.answer(last, answer);
        } else {
            self.answer(UNKNOWN, answer, false);
        }
        self.finishing = Some(End::Malformed(error));
        Ok(())
    }
}
