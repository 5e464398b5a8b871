//! To the nodes: each request goes where its plan says, as it is or in parts, unless it has to wait.

use std::borrow::Cow;

use super::fan::{Fan, Join, Part, Progress};
use super::link::{LinkId, Own, Purpose};
use super::order::{Awaiting, Entry, Meaning, NO_SLOT};
use super::plan::{self, CROSS_SLOT, Plan};
use super::requests::{Incoming, NOBODY, Taken};
use super::settings::Setting;
use super::{Barrier, ClusterSession, StreamedRequest};
use crate::session::End;
use crate::session::expected::Label;
use crate::session::judge::Refused;
use crate::session::special::c_string;

impl ClusterSession {
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
        self.send_home_as(incoming, Meaning::Plain)
    }

    /// The same, where the reply means something to the session.
    pub(super) fn send_home_as(&mut self, incoming: &Incoming<'_>, meaning: Meaning) -> Result<Taken, End> {
        match self.home_link() {
            Some(link) => self.send_on(incoming, link, NO_SLOT, false, meaning),
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

    /// Adds a command to the order and its bytes to its link.
    #[inline]
    pub(super) fn push_sent(&mut self, id: LinkId, entry: Entry, kept: &[u8], bytes: &[u8]) {
        let number = self.order.next();
        if let Some(link) = self.links.get(id) {
            link.send(bytes, number, 0);
        }
        self.order.push(entry, kept);
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

    /// The beginning of a request was sent on this link: the rest passes as it comes, and nothing else does.
    pub(super) fn begin_stream(&mut self, label: Label, id: LinkId) {
        if let Some(link) = self.links.get(id) {
            link.begin_request();
        }
        self.streaming_request = Some(StreamedRequest { label, link: Some(id) });
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
}

/// What cannot be set of a connection that stands for many.
fn refused_setting(args: &[Cow<'_, [u8]>]) -> Option<&'static str> {
    let is = |arg: &Cow<'_, [u8]>, word: &[u8]| c_string(arg).eq_ignore_ascii_case(word);
    let has = |index: usize, word: &[u8]| args.get(index).is_some_and(|arg| is(arg, word));
    let redirects = has(1, b"tracking") && args.iter().skip(3).any(|arg| is(arg, b"redirect"));
    redirects.then_some(
        "REDIRECT names a connection of one node, and this session has one to each: use RESP3 (HELLO 3), in which \
         invalidations come on this connection",
    )
}
