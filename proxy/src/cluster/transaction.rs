//! Transactions: on the shard of one slot.
//!
//! ```text
//! none ─MULTI─► open ──a key──► pinned ─EXEC, DISCARD─► none       (the first MULTI is home's to allow)
//!   └──WATCH key: MULTI is pinned at once      └─its link is lost─► lost ─EXEC, DISCARD─► none
//! ```
//! Until a key decides on the shard nothing is sent: commands without a key are answered `+QUEUED` here. From
//! then on the shard itself keeps the transaction and everything passes. Nothing of a transaction is ever sent
//! again.

use std::borrow::Cow;

use keystile_resp::command::CommandId;
use keystile_resp::encode;

use super::dialect::not_in_a_transaction;
use super::link::{LinkId, Own};
use super::order::{Awaiting, Entry, Meaning, NO_SLOT};
use super::plan::{self, CROSS_SLOT, Local, Plan};
use super::requests::{Incoming, NOBODY, Taken};
use super::{Barrier, ClusterSession};
use crate::session::End;
use crate::session::judge::Refused;
use crate::session::special::{Special, special};
use crate::session::subscriber::UNWATCH;

/// Bytes of commands that wait for the first key of a transaction.
const MOST_QUEUED: usize = 1024 * 1024;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const DISCARD: &[u8] = b"*1\r\n$7\r\nDISCARD\r\n";
const ABORTED: &[u8] = b"-EXECABORT Transaction discarded because of previous errors.\r\n";
const WRONG_EXEC: &[u8] =
    b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n";
const LOST: &[u8] = b"-EXECABORT Transaction discarded because the connection to its node was lost.\r\n";

#[derive(Debug, Default)]
enum Phase {
    #[default]
    None,
    /// MULTI was answered, and nothing sent.
    Open {
        /// Commands without a key, as they are sent.
        queued: Vec<u8>,
        count: usize,
    },
    /// The shard has it.
    Pinned { link: LinkId, slot: u16 },
    /// The shard is gone, and with it the transaction.
    Lost,
}

/// Keys that are watched.
#[derive(Debug, Clone, Copy)]
struct Watch {
    link: LinkId,
    slot: u16,
    /// WATCH commands that were sent and did not fail.
    count: u32,
}

/// The transaction of a session.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    phase: Phase,
    /// A command was refused: EXEC aborts.
    poisoned: bool,
    /// The db user is known to be allowed `MULTI`, as far as a node has said.
    allowed: bool,
    watch: Option<Watch>,
    /// What was watched is not any more: EXEC does nothing.
    watch_lost: bool,
}

impl ClusterSession {
    /// Whether a MULTI is open.
    #[inline]
    pub(super) fn in_transaction(&self) -> bool {
        !matches!(self.transaction.phase, Phase::None)
    }

    /// Whether keys are watched.
    pub(super) fn is_watching(&self) -> bool {
        self.transaction.watch.is_some()
    }

    /// The link that holds what cannot be moved elsewhere, if there is one, and the slot on account of which it does:
    /// a transaction that follows a WATCH runs where that was sent to.
    pub(super) fn pinned(&self) -> Option<(LinkId, u16)> {
        match self.transaction.phase {
            Phase::Pinned { link, slot } => Some((link, slot)),
            _ => self.transaction.watch.map(|watch| (watch.link, watch.slot)),
        }
    }

    /// Whether a link holds what cannot be moved elsewhere.
    pub(super) fn pins(&self, id: LinkId) -> bool {
        self.pinned().is_some_and(|(link, _)| link == id)
    }

    /// `MULTI`, `EXEC`, `DISCARD`, `WATCH`, `UNWATCH`.
    pub(super) fn take_transaction(
        &mut self,
        kind: Special,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let alone = args.len() == 1;
        match kind {
            Special::Multi if alone => self.multi(incoming),
            Special::Watch => self.watch(incoming, args),
            Special::EndMulti if alone => self.end(incoming),
            Special::EndMulti if self.in_transaction() && is_exec(incoming.id) => self.end_wrongly(incoming),
            Special::Unwatch if alone && !self.in_transaction() => self.unwatch(incoming),
            // UNWATCH in a transaction is queued; any with arguments is wrong, and the server has the words.
            _ if self.in_transaction() => self.take_in_transaction(incoming, args, Plan::Home),
            _ => self.send_home(incoming),
        }
    }

    fn multi(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        if let Phase::Pinned { link, slot } = self.transaction.phase {
            // It says that they cannot be nested.
            return self.send_pinned(incoming, link, slot, Meaning::Plain);
        }
        if self.in_transaction() {
            return self.not_here(incoming, true);
        }
        if let Some(Watch { link, slot, .. }) = self.transaction.watch {
            let taken = self.send_pinned(incoming, link, slot, Meaning::Plain)?;
            if taken == Taken::Yes {
                self.transaction.phase = Phase::Pinned { link, slot };
            }
            return Ok(taken);
        }
        if !self.transaction.allowed {
            return self.ask_whether_transactions(incoming);
        }
        self.transaction.phase = Phase::Open { queued: Vec::new(), count: 0 };
        self.answer_here(incoming, b"+OK\r\n");
        Ok(Taken::Yes)
    }

    /// Whether the db user may have transactions is home's to say, once: a `MULTI` that a shard refuses when the first
    /// key comes would have the commands behind it carried out one by one.
    fn ask_whether_transactions(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        if self.waits_for_map || !self.order.is_empty() {
            return Ok(Taken::No);
        }
        self.ask_for_the_client(incoming, MULTI, Meaning::Multi);
        // At once: no question of ours may come between the two.
        if let Some(home) = self.home_link().and_then(|home| self.links.get(home)) {
            home.ask(DISCARD, Own::Swallow);
        }
        Ok(Taken::Yes)
    }

    /// Home has answered the first `MULTI` of the session.
    pub(super) fn multi_answered(&mut self, failed: bool) {
        self.hold = false;
        if !failed {
            self.transaction.allowed = true;
            self.transaction.phase = Phase::Open { queued: Vec::new(), count: 0 };
        }
    }

    /// A command inside a transaction.
    pub(super) fn take_in_transaction(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
        plan: Plan,
    ) -> Result<Taken, End> {
        let slot = match plan {
            Plan::Slot(slot) => slot,
            Plan::CrossSlot | Plan::Split(_) => return self.poisoning(incoming, CROSS_SLOT),
            Plan::Scan | Plan::Named | Plan::ById | Plan::Local(_) | Plan::Session | Plan::AllLinks
                if !self.is_harmless(incoming.id, args, plan) =>
            {
                let text = "it is not allowed inside MULTI in cluster mode";
                return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "in MULTI", text));
            }
            Plan::Refuse(why) => {
                return self.refuse(incoming, &Refused::new(incoming.id, "NOPERM", "never passes", why));
            }
            // A transaction has one shard, and its part must not pass for the whole.
            Plan::AllPrimaries(_) | Plan::AllNodes(_)
                if self.map.primaries().nth(1).is_some() && !is_ping(incoming.id) =>
            {
                let text = "it is for all shards, and a transaction is of one: send it outside of MULTI";
                return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "in MULTI", text));
            }
            _ => NO_SLOT,
        };
        match self.transaction.phase {
            Phase::Pinned { link, slot: pinned } => {
                if slot != NO_SLOT && pinned != NO_SLOT && slot != pinned {
                    return self.poisoning(incoming, CROSS_SLOT);
                }
                let taken = self.send_pinned(incoming, link, slot, Meaning::Plain)?;
                if taken == Taken::Yes && pinned == NO_SLOT {
                    self.transaction.phase = Phase::Pinned { link, slot };
                }
                Ok(taken)
            }
            Phase::Lost => {
                let words = b"-ERR keystile: the connection to the node of this transaction was lost: EXEC \
                              discards it\r\n";
                self.poisoning(incoming, words)
            }
            Phase::Open { .. } | Phase::None if slot != NO_SLOT => self.pin(incoming, slot),
            Phase::Open { .. } | Phase::None => self.queue(incoming, args),
        }
    }

    /// A command without a key, before any with one.
    fn queue(&mut self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        if let Some(id) = incoming.id
            && !plan::arity_fits(id, args.len())
        {
            let name = id.display_name().to_ascii_lowercase().replace(' ', "|");
            let mut words = Vec::new();
            encode::error(&mut words, "ERR", &format!("wrong number of arguments for '{name}' command"));
            return self.poisoning(incoming, &words);
        }
        let Phase::Open { queued, count } = &mut self.transaction.phase else { return Ok(Taken::No) };
        if queued.len() + incoming.bytes().len() > MOST_QUEUED {
            let text = "over 1 MiB of commands without a key before the first key of a transaction: name a key \
                        first, or send fewer";
            return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "too long", text));
        }
        queued.extend_from_slice(incoming.bytes());
        *count += 1;
        self.answer_here(incoming, b"+QUEUED\r\n");
        Ok(Taken::Yes)
    }

    /// The first key decides on the shard: it gets what was queued, and the rest passes.
    fn pin(&mut self, incoming: &Incoming<'_>, slot: u16) -> Result<Taken, End> {
        if self.waits_for_map {
            return Ok(Taken::No);
        }
        let Some(link) = self.link_of_slot(slot) else { return self.poisoning(incoming, NOBODY) };
        if !self.may_send(Some(link)) {
            return Ok(Taken::No);
        }
        self.begin_on(link, slot);
        self.send_pinned(incoming, link, slot, Meaning::Plain)
    }

    /// Sends MULTI and what was queued.
    fn begin_on(&mut self, id: LinkId, slot: u16) {
        let phase = std::mem::replace(&mut self.transaction.phase, Phase::Pinned { link: id, slot });
        let Some(link) = self.links.get(id) else { return };
        link.ask(MULTI, Own::Multi);
        if let Phase::Open { queued, count } = phase
            && count > 0
        {
            link.ask(&queued, Own::Swallow);
            (1..count).for_each(|_| link.ask(&[], Own::Swallow));
        }
    }

    /// Sends a command of a transaction: nothing that goes elsewhere overtakes it, and it is sent once.
    fn send_pinned(
        &mut self,
        incoming: &Incoming<'_>,
        id: LinkId,
        slot: u16,
        meaning: Meaning,
    ) -> Result<Taken, End> {
        if !self.may_send(Some(id)) {
            return Ok(Taken::No);
        }
        self.note(incoming);
        let muted = self.take_muted();
        self.push_pinned(id, slot, incoming, meaning, muted, incoming.bytes());
        if incoming.streamed {
            self.begin_stream(incoming.label(), id);
        }
        Ok(Taken::Yes)
    }

    fn push_pinned(
        &mut self,
        id: LinkId,
        slot: u16,
        incoming: &Incoming<'_>,
        meaning: Meaning,
        muted: bool,
        request: &[u8],
    ) {
        let number = self.order.next();
        let mut entry = Entry::new(Awaiting::Link(id), incoming.label(), muted);
        entry.slot = slot;
        entry.meaning = meaning;
        if let Some(link) = self.links.get(id) {
            link.send(request, number, 0);
        }
        self.barrier = Some(Barrier { number, link: Some(id) });
        self.order.push(entry, &[]);
    }

    /// `EXEC` or `DISCARD`.
    fn end(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        let is_exec = is_exec(incoming.id);
        let pinned = match &self.transaction.phase {
            // The server says that there is no MULTI.
            Phase::None => return self.send_home(incoming),
            Phase::Pinned { link, slot } => Some((*link, *slot)),
            Phase::Open { .. } | Phase::Lost => None,
        };
        let aborted = self.aborted();
        if !is_exec || aborted.is_some() {
            return self.discard(incoming, pinned, if is_exec { aborted } else { None });
        }
        let (link, slot) = match (pinned, &self.transaction.phase) {
            (Some(pinned), _) => pinned,
            (None, Phase::Open { count: 1.., .. }) => {
                let Some(home) = self.home_link() else { return self.answer_error(incoming, NOBODY) };
                if !self.may_send(Some(home)) {
                    return Ok(Taken::No);
                }
                self.begin_on(home, NO_SLOT);
                (home, NO_SLOT)
            }
            _ => {
                self.forget_transaction();
                self.answer_here(incoming, b"*0\r\n");
                return Ok(Taken::Yes);
            }
        };
        let taken = self.send_pinned(incoming, link, slot, Meaning::Plain)?;
        if taken == Taken::Yes {
            self.forget_transaction();
        }
        Ok(taken)
    }

    /// `EXEC` with arguments: the server has the words for it, and the transaction is over.
    fn end_wrongly(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        let Phase::Pinned { link, slot } = self.transaction.phase else {
            self.unwatch_unseen();
            return self.answer_error(incoming, WRONG_EXEC);
        };
        let taken = self.send_pinned(incoming, link, slot, Meaning::Plain)?;
        if taken == Taken::Yes {
            self.forget_transaction();
        }
        Ok(taken)
    }

    /// What is the same on one node as on all, or changes nothing.
    fn is_harmless(&mut self, id: Option<CommandId>, args: &[Cow<'_, [u8]>], plan: Plan) -> bool {
        if matches!(plan, Plan::Local(Local::Ok | Local::KeySlot)) {
            return true;
        }
        let is_select =
            id.is_some_and(|id| id.command().container.is_none() && id.command().name == "select");
        // What it selects is selected on one link alone. Where it is wrong, the server says so.
        let stays = match args {
            [_, database] => self.settings.is_in_database(database) && !self.is_setting(),
            _ => true,
        };
        is_select && stays
    }

    /// Whether a command that sets something of every link is not answered yet.
    fn is_setting(&mut self) -> bool {
        self.order.iter_mut().any(|(_, entry)| matches!(entry.meaning, Meaning::Setting(_)))
    }

    /// What EXEC says where it does nothing.
    fn aborted(&self) -> Option<&'static [u8]> {
        match self.transaction.phase {
            Phase::Lost => Some(LOST),
            _ if self.transaction.poisoned => Some(ABORTED),
            _ if self.transaction.watch_lost => {
                Some(if self.settings.resp3 { b"_\r\n".as_slice() } else { b"*-1\r\n" })
            }
            _ => None,
        }
    }

    /// Ends a transaction without carrying it out. `words` take the place of the answer.
    fn discard(
        &mut self,
        incoming: &Incoming<'_>,
        pinned: Option<(LinkId, u16)>,
        words: Option<&'static [u8]>,
    ) -> Result<Taken, End> {
        let Some((link, slot)) = pinned else {
            self.forget_transaction();
            self.answer_here(incoming, words.unwrap_or(b"+OK\r\n"));
            return Ok(Taken::Yes);
        };
        if !self.may_send(Some(link)) {
            return Ok(Taken::No);
        }
        self.note(incoming);
        let muted = self.take_muted();
        let meaning = words.map_or(Meaning::Plain, |words| Meaning::Replace(Box::from(words)));
        self.push_pinned(link, slot, incoming, meaning, muted, DISCARD);
        self.forget_transaction();
        Ok(Taken::Yes)
    }

    fn watch(&mut self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        match self.transaction.phase {
            // It says that it is not allowed there.
            Phase::Pinned { link, slot } => return self.send_pinned(incoming, link, slot, Meaning::Plain),
            Phase::None => {}
            _ if incoming.request.argc == 1 => {
                return self.poisoning(incoming, b"-ERR wrong number of arguments for 'watch' command\r\n");
            }
            _ => return self.not_here(incoming, false),
        }
        let slot = match plan::plan(incoming.id, args, plan::Context::default()) {
            Plan::Slot(slot) => slot,
            Plan::CrossSlot => return self.answer_error(incoming, CROSS_SLOT),
            _ => return self.send_home(incoming),
        };
        if self.waits_for_map {
            return Ok(Taken::No);
        }
        let link = match self.transaction.watch {
            Some(watch) if watch.slot != slot => return self.answer_error(incoming, CROSS_SLOT),
            Some(watch) => Some(watch.link),
            None => self.link_of_slot(slot),
        };
        let Some(link) = link else { return self.answer_error(incoming, NOBODY) };
        let taken = self.send_on(incoming, link, slot, true, Meaning::Watch)?;
        if taken == Taken::Yes {
            let count = self.transaction.watch.map_or(0, |watch| watch.count) + 1;
            self.transaction.watch = Some(Watch { link, slot, count });
        }
        Ok(taken)
    }

    /// The reply to a WATCH came from this link.
    pub(super) fn watch_answered(&mut self, id: LinkId, failed: bool) {
        let Some(watch) = &mut self.transaction.watch else { return };
        watch.link = id;
        if failed {
            watch.count -= 1;
            if watch.count == 0 {
                self.transaction.watch = None;
            }
        }
    }

    fn unwatch(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        let link = self.transaction.watch.map(|watch| watch.link).or_else(|| self.home_link());
        let Some(link) = link else { return self.answer_error(incoming, NOBODY) };
        let taken = self.send_on(incoming, link, NO_SLOT, true, Meaning::Plain)?;
        if taken == Taken::Yes {
            self.forget_transaction();
        }
        Ok(taken)
    }

    /// On a server an `EXEC` that is refused ends in nothing being watched.
    pub(super) fn unwatch_unseen(&mut self) {
        if let Some(watch) = self.transaction.watch
            && let Some(link) = self.links.get(watch.link)
        {
            link.ask(UNWATCH, Own::Swallow);
        }
        self.forget_transaction();
    }

    /// A `MULTI`, or else a `WATCH`, inside a transaction that is at no node yet.
    fn not_here(&mut self, incoming: &Incoming<'_>, is_multi: bool) -> Result<Taken, End> {
        let (words, poisons) = not_in_a_transaction(&self.database, is_multi);
        self.transaction.poisoned |= poisons;
        self.answer_error(incoming, words)
    }

    /// An error that aborts the transaction, as one of a server does.
    fn poisoning(&mut self, incoming: &Incoming<'_>, words: &[u8]) -> Result<Taken, End> {
        self.transaction.poisoned = true;
        self.answer_error(incoming, words)
    }

    /// A command was refused.
    pub(super) fn poison(&mut self, id: Option<CommandId>) {
        if !self.in_transaction() {
            return;
        }
        self.transaction.poisoned = true;
        if id.is_some_and(|id| special(id) == Special::EndMulti) {
            // A refused EXEC or DISCARD ends the transaction.
            if let Phase::Pinned { link, .. } = self.transaction.phase
                && let Some(link) = self.links.get(link)
            {
                link.ask(DISCARD, Own::Swallow);
            }
            self.forget_transaction();
        }
    }

    /// A link is gone, and all that it held.
    pub(super) fn transaction_lost(&mut self, id: LinkId) {
        if matches!(self.transaction.phase, Phase::Pinned { link, .. } if link == id) {
            self.transaction.phase = Phase::Lost;
        }
        if self.transaction.watch.is_some_and(|watch| watch.link == id) {
            self.transaction.watch = None;
            self.transaction.watch_lost = true;
        }
    }

    /// No transaction is open, nothing is watched.
    pub(super) fn forget_transaction(&mut self) {
        self.transaction = Transaction { allowed: self.transaction.allowed, ..Transaction::default() };
    }

    /// Answers in place of a node.
    pub(super) fn answer_here(&mut self, incoming: &Incoming<'_>, words: &[u8]) {
        self.note(incoming);
        let muted = self.take_muted();
        self.answer(incoming.label(), words.to_vec(), muted);
    }
}

/// Each shard gives the same answer.
fn is_ping(id: Option<CommandId>) -> bool {
    id.is_some_and(|id| id.command().container.is_none() && id.command().name == "ping")
}

fn is_exec(id: Option<CommandId>) -> bool {
    id.is_some_and(|id| id.command().name == "exec")
}
