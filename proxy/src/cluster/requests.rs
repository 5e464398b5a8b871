//! From the client to the nodes: each request is named, judged, planned, and sent where its slot is served.

use std::borrow::Cow;
use std::task::{Context, Poll};

use keystile_resp::command::CommandId;
use keystile_resp::encode;
use keystile_resp::request::{Request, RequestError, Step};

use super::fan::{Fan, Join, Part, Progress};
use super::link::{LinkId, Own, Purpose};
use super::order::{Awaiting, Entry, Meaning, NO_SLOT};
use super::plan::{self, CROSS_SLOT, Plan};
use super::settings::Setting;
use super::{Barrier, ClusterSession, StreamedRequest, fast};
use crate::audit::redact;
use crate::session::expected::Label;
use crate::session::judge::{Circumstances, Judgement, Refused, judge, label_of, named};
use crate::session::special::Special;
use crate::session::{End, LOCAL_BACKLOG, Replying, Standing, give_back, take_buffer};

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
        self.finishing.is_none() && !self.client_is_behind()
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
        if self.client_ended && (self.parked.is_none() || self.barrier.is_some()) {
            return Err(End::ClientClosed);
        }
        // What was held back may turn out not to be whole: then the client is to be read, too.
        let is_cut = takes_on && self.wants_more && !looks && !self.client_ended;
        Ok(read > 0 || taken > 0 || is_cut)
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

    /// The beginning of a request was sent on this link: the rest passes as it comes, and nothing else does.
    pub(super) fn begin_stream(&mut self, label: Label, id: LinkId) {
        if let Some(link) = self.links.get(id) {
            link.begin_request();
        }
        self.streaming_request = Some(StreamedRequest { label, link: Some(id) });
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

    /// Adds a command to the order and its bytes to its link.
    #[inline]
    pub(super) fn push_sent(&mut self, id: LinkId, entry: Entry, kept: &[u8], bytes: &[u8]) {
        let number = self.order.next();
        if let Some(link) = self.links.get(id) {
            link.send(bytes, number, 0);
        }
        self.order.push(entry, kept);
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

    /// A command that goes where its plan says.
    pub(super) fn take_planned(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let context = plan::Context { split_mset: self.split_mset };
        let plan = plan::plan(incoming.id, args, context);
        let is_queued_here = plan == Plan::Home && self.in_transaction();
        if incoming.streamed && (is_queued_here || !matches!(plan, Plan::Slot(_) | Plan::Home)) {
            if plan == Plan::CrossSlot && !self.in_transaction() {
                return self.answer_error(incoming, CROSS_SLOT);
            }
            let text = "it is longer than 1 MiB, and what goes to several nodes, or waits for a transaction's first \
                        key, must fit into that: send it in smaller parts";
            return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "too long", text));
        }
        if self.in_transaction() {
            return self.take_in_transaction(incoming, args, plan);
        }
        let barrier = plan::is_barrier(incoming.id, args, plan);
        match plan {
            Plan::Slot(slot) => self.send_to_slot(incoming, slot, barrier),
            Plan::Home => {
                if self.waits_for_map {
                    return Ok(Taken::No);
                }
                match self.home_link() {
                    Some(link) => self.send_on(incoming, link, NO_SLOT, barrier, Meaning::Plain),
                    None => self.answer_error(incoming, NOBODY),
                }
            }
            Plan::CrossSlot => self.answer_error(incoming, CROSS_SLOT),
            Plan::Refuse(why) => {
                self.refuse(incoming, &Refused::new(incoming.id, "NOPERM", "never passes", why))
            }
            Plan::AllLinks => self.take_setting(incoming, args),
            Plan::Session => self.take_of_session(incoming, args),
            Plan::AllPrimaries(_) | Plan::AllNodes(_) | Plan::Split(_) | Plan::Named | Plan::Scan => {
                self.take_fan(incoming, args, plan)
            }
            Plan::ById => self.take_by_id(incoming, args),
            Plan::Local(local) => self.take_local(incoming, args, local),
        }
    }

    pub(super) fn send_to_slot(
        &mut self,
        incoming: &Incoming<'_>,
        slot: u16,
        barrier: bool,
    ) -> Result<Taken, End> {
        if self.waits_for_map {
            return Ok(Taken::No);
        }
        let of_replica = self.readonly && incoming.id.is_some_and(plan::only_reads);
        let link = if of_replica { self.replica_of_slot(slot) } else { self.link_of_slot(slot) };
        match link {
            Some(link) => self.send_on(incoming, link, slot, barrier, Meaning::Plain),
            None => self.answer_error(incoming, NOBODY),
        }
    }

    pub(super) fn send_home(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        match self.home_link() {
            Some(link) => self.send_on(incoming, link, NO_SLOT, false, Meaning::Plain),
            None => self.answer_error(incoming, NOBODY),
        }
    }

    /// Sends a command as it is on one link, unless it has to wait.
    pub(super) fn send_on(
        &mut self,
        incoming: &Incoming<'_>,
        id: LinkId,
        slot: u16,
        barrier: bool,
        meaning: Meaning,
    ) -> Result<Taken, End> {
        if !self.may_send(Some(id)) {
            return Ok(Taken::No);
        }
        self.note(incoming);
        let mut entry = Entry::new(Awaiting::Link(id), incoming.label(), self.take_muted());
        entry.slot = slot;
        entry.meaning = meaning;
        entry.of_replica = self.links.get(id).is_some_and(|link| link.purpose == Purpose::Replica);
        if barrier {
            self.mind_blocking(incoming);
            self.barrier = Some(Barrier { number: self.order.next(), link: Some(id) });
        }
        if self.is_blocking(self.order.next()) {
            self.ask_ids(id);
        }
        // What it says goes with the command: elsewhere the one would be without the other.
        let caching = self.caching.take();
        if let (Some(caching), Some(link)) = (&caching, self.links.get(id)) {
            link.ask(caching, Own::Swallow);
        }
        let kept = if incoming.streamed || caching.is_some() { &[] } else { incoming.bytes() };
        self.push_sent(id, entry, kept, incoming.bytes());
        if incoming.streamed {
            self.begin_stream(incoming.label(), id);
        }
        Ok(Taken::Yes)
    }

    /// Whether a command may be sent now: `None` stands for several links.
    pub(super) fn may_send(&self, to: Option<LinkId>) -> bool {
        if self.settling {
            return false;
        }
        self.barrier.is_none_or(|barrier| barrier.link.is_some() && barrier.link == to)
    }

    /// The parts of a command begin their way.
    pub(super) fn send_fan(
        &mut self,
        incoming: &Incoming<'_>,
        parts: Vec<Part>,
        join: Join,
        barrier: bool,
    ) -> Result<Taken, End> {
        if !self.may_send(None) {
            return Ok(Taken::No);
        }
        self.note(incoming);
        let number = self.order.next();
        let fan = Fan::new(parts, join, &self.purse);
        let mut entry = Entry::new(Awaiting::Fan(Box::new(fan)), incoming.label(), self.take_muted());
        entry.of_replica = self.readonly && incoming.id.is_some_and(plan::only_reads);
        if barrier {
            self.mind_blocking(incoming);
            self.barrier = Some(Barrier { number, link: None });
        }
        self.order.push(entry, incoming.bytes());
        self.send_parts(number);
        self.caching = None;
        Ok(Taken::Yes)
    }

    /// Sends the parts of a command that were not sent yet.
    pub(super) fn send_parts(&mut self, number: u64) {
        let Some(entry) = self.order.at(number) else { return };
        let of_replica = entry.of_replica;
        let Awaiting::Fan(fan) = &mut entry.awaiting else { return };
        let mut fan = std::mem::replace(fan, Box::new(Fan::new(Vec::new(), Join::Done, &self.purse)));
        let blocking = self.is_blocking(number);
        if let Some(home) = self.home.filter(|_| blocking) {
            self.ask_client_id(home);
        }
        for index in 0..fan.parts().len() {
            let Some(part) = fan.part_mut(index).filter(|part| matches!(part.progress(), Progress::Held))
            else {
                continue;
            };
            let link = match &part.node {
                Some(node) => {
                    let is_primary = self.map.primaries().any(|primary| primary == node);
                    let purpose = if is_primary { Purpose::Main } else { Purpose::Replica };
                    self.link_of(node, purpose)
                }
                None if of_replica => self.replica_of_slot(part.slot),
                None => self.link_of_slot(part.slot),
            };
            if let Some(id) = link.filter(|_| blocking) {
                self.ask_ids(id);
            }
            let request: &[u8] = part.request.as_deref().unwrap_or_else(|| self.order.request(number));
            let progress = match link.and_then(|id| Some((id, self.links.get(id)?))) {
                Some((id, link)) => {
                    if let Some(caching) = &self.caching {
                        link.ask(caching, Own::Swallow);
                        part.again = u8::MAX;
                    }
                    link.send(request, number, index);
                    Progress::Sent(id)
                }
                None => Progress::Done(NOBODY.to_vec()),
            };
            fan.set(index, progress);
        }
        if let Some(entry) = self.order.at(number) {
            entry.awaiting = Awaiting::Fan(fan);
        }
    }

    /// Something that is set of each connection: the home link answers, the others follow when it is well.
    fn take_setting(&mut self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        let Some(id) = incoming.id else { return self.send_home(incoming) };
        if let Some(why) = refused_setting(args) {
            return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "cluster", why));
        }
        let meaning = Meaning::Setting(Box::new(Setting::new(id, args)));
        match self.home_link() {
            Some(link) => self.send_on(incoming, link, NO_SLOT, true, meaning),
            None => self.answer_error(incoming, NOBODY),
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
        match self.replying {
            Replying::On => false,
            Replying::Off => true,
            Replying::Skip => {
                self.replying = Replying::On;
                true
            }
        }
    }

    fn malformed(&mut self, error: RequestError) -> Result<(), End> {
        if error == RequestError::Http {
            return Err(End::Malformed(error));
        }
        let mut answer = Vec::new();
        encode::error(&mut answer, "ERR", &error.to_string());
        self.answer(crate::session::expected::UNKNOWN, answer, false);
        self.finishing = Some(End::Malformed(error));
        Ok(())
    }
}

/// What cannot be set of a connection that stands for many.
fn refused_setting(args: &[Cow<'_, [u8]>]) -> Option<&'static str> {
    let has = |index: usize, word: &[u8]| args.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word));
    let redirects =
        has(1, b"tracking") && args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"redirect"));
    redirects.then_some(
        "REDIRECT names a connection of one node, and this session has one to each: use RESP3 (HELLO 3), in which \
         invalidations come on this connection",
    )
}
