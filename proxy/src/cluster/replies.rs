//! From the nodes to the client: each reply in its turn, as it came.

use std::task::Context;

use keystile_resp::command::CommandId;
use keystile_resp::encode;
use keystile_resp::reply::{Frame, Kind, Step};

use super::again::Piece;
use super::link::{LinkId, MOST_OWN, Own};
use super::order::{Awaiting, Entry, Meaning};
use super::{ClusterSession, Streaming, buffers};
use crate::audit::redact;
use crate::session::End;
use crate::session::expected::Label;

/// Bytes of replies that wait for their turn before only links whose turn it is are read.
const MOST_UNREAD: usize = 1024 * 1024;
/// Pieces of replies from this size on are not copied together with others.
const LARGE: usize = 4 * 1024;

impl ClusterSession {
    /// Reads each link once, and passes what can be passed. True where something moved.
    pub(super) fn pump_replies(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let unread: usize = self.links.iter_mut().map(|(_, link)| link.unread()).sum();
        let mut moved = false;
        for id in self.links.ids() {
            if unread < MOST_UNREAD || self.is_in_turn(id) {
                moved |= self.links.get(id).is_some_and(|link| link.poll_fill(cx));
            }
        }
        let mut out = buffers::take();
        let delivered = self.deliver(&mut out);
        let flushed = self.flush_out(&mut out);
        buffers::give(out);
        moved |= delivered?;
        flushed?;
        Ok(moved)
    }

    /// Whether the client waits for bytes of this link before all others.
    fn is_in_turn(&mut self, id: LinkId) -> bool {
        if let Some(streaming) = &self.streaming {
            return streaming.link == id;
        }
        match self.order.front().map(|entry| &mut entry.awaiting) {
            None => true,
            Some(Awaiting::Link(at)) => *at == id,
            Some(Awaiting::Fan(fan)) => fan.part_of(id).is_some(),
            Some(_) => false,
        }
    }

    fn flush_out(&mut self, out: &mut Vec<u8>) -> Result<(), End> {
        if out.is_empty() {
            return Ok(());
        }
        self.metrics.bytes_out.add(out.len() as u64);
        let written = self.client.write(out);
        out.clear();
        written.map_err(|_| End::ClientFailed)
    }

    /// Passes bytes of a link to the client.
    #[inline]
    fn pass(&mut self, id: LinkId, length: usize, out: &mut Vec<u8>) -> Result<(), End> {
        if length >= LARGE {
            self.flush_out(out)?;
        }
        let Some(link) = self.links.get(id) else { return Ok(()) };
        let bytes = link.bytes(length);
        if length >= LARGE {
            self.metrics.bytes_out.add(length as u64);
            return self.client.write(bytes).map_err(|_| End::ClientFailed);
        }
        out.extend_from_slice(bytes);
        Ok(())
    }

    /// Passes an answer that has waited here.
    fn pass_answer(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), End> {
        if bytes.len() < LARGE {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush_out(out)?;
        self.metrics.bytes_out.add(bytes.len() as u64);
        self.client.write(bytes).map_err(|_| End::ClientFailed)
    }

    fn deliver(&mut self, out: &mut Vec<u8>) -> Result<bool, End> {
        let mut moved = false;
        loop {
            if self.streaming.is_some() {
                if !self.stream_on(out)? {
                    return Ok(moved);
                }
                moved = true;
                continue;
            }
            if !self.pushes.is_empty() {
                out.append(&mut self.pushes);
            }
            let Some(front) = self.order.front() else { break };
            let done = match &front.awaiting {
                Awaiting::Answer(_) => {
                    if let Some(Entry { awaiting: Awaiting::Answer(bytes), muted: false, .. }) = self.pop() {
                        self.pass_answer(&bytes, out)?;
                    }
                    true
                }
                Awaiting::Held => false,
                Awaiting::Link(id) => {
                    let id = *id;
                    self.deliver_from(id, out)?
                }
                Awaiting::Fan(_) => self.deliver_fan(out)?,
            };
            if !done {
                break;
            }
            moved = true;
        }
        Ok(moved | self.skim(out)?)
    }

    /// The command at the front is answered.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.order.pop();
        if let Some(barrier) = self.barrier
            && barrier.number < self.order.first()
        {
            self.barrier = None;
        }
        if self.trouble.is_some() {
            self.ease_trouble();
        }
        entry
    }

    /// The next reply of the link whose turn it is. False where it is not there yet.
    #[inline]
    fn deliver_from(&mut self, id: LinkId, out: &mut Vec<u8>) -> Result<bool, End> {
        let subscriber = self.is_subscriber2();
        let (Some(front), Some(link)) = (self.order.front(), self.links.get(id)) else { return Ok(false) };
        if matches!(front.meaning, Meaning::Plain)
            && !front.muted
            && link.owes_client()
            && let Ok(Step::Frame(frame)) = link.peek()
            && frame.kind == Kind::Reply
            && !(frame.marker == b'*' && (subscriber || link.is_doubtful()))
        {
            let label = front.label;
            self.journal.reply(label, frame.len);
            self.pass(id, frame.len, out)?;
            if let Some(link) = self.links.get(id) {
                link.take(frame.len);
                link.settle();
            }
            self.pop();
            return Ok(true);
        }
        match self.head(id, out)? {
            Some(Step::Frame(frame)) => self.settle_reply(id, &frame, false, out).map(|()| true),
            Some(Step::Head(frame)) => self.settle_reply(id, &frame, true, out).map(|()| true),
            _ => Ok(self.streaming.is_some() || self.links.get(id).is_none()),
        }
    }

    /// Looks at the other links: answers to questions of ours, and what answers nothing.
    fn skim(&mut self, out: &mut Vec<u8>) -> Result<bool, End> {
        let mut moved = false;
        for id in self.links.ids() {
            if self.streaming.is_some() {
                return Ok(true);
            }
            let Some(link) = self.links.get(id) else { continue };
            let before = link.unread();
            if before == 0 && !link.has_ended() {
                continue;
            }
            self.head(id, out)?;
            moved |= self.links.get(id).is_none_or(|link| link.unread() != before);
        }
        Ok(moved)
    }

    /// What the next reply to a command of the client's on this link is; all before it is dealt with.
    pub(super) fn head(&mut self, id: LinkId, out: &mut Vec<u8>) -> Result<Option<Step>, End> {
        loop {
            let Some(link) = self.links.get(id) else { return Ok(None) };
            let step = link.peek().map_err(|error| End::ServerMalformed(error.to_string()))?;
            let (frame, is_long) = match step {
                Step::NeedMore => {
                    if link.has_ended() {
                        self.lose(id)?;
                    }
                    return Ok(None);
                }
                Step::Body { len, end } => {
                    let Some(mut collected) = link.collected.take() else { return Ok(None) };
                    collected.extend_from_slice(link.bytes(len));
                    link.take(len);
                    if collected.len() > MOST_OWN {
                        return Err(End::ServerMalformed(
                            "the answer to a question of the proxy is too long".to_owned(),
                        ));
                    }
                    if end {
                        self.own_reply(id, Kind::Reply, &collected)?;
                    } else {
                        link.collected = Some(collected);
                    }
                    continue;
                }
                Step::Frame(frame) => (frame, false),
                Step::Head(frame) => (frame, true),
            };
            if frame.kind == Kind::Push || self.is_message(id, &frame) {
                if is_long {
                    let passes = self.begin_long_push(id, &frame, out);
                    self.streaming = Some(Streaming { link: id, label: None, passes, answers: false });
                    if let Some(link) = self.links.get(id) {
                        link.take(frame.len);
                    }
                    return Ok(None);
                }
                self.message(id, &frame, out)?;
                if let Some(link) = self.links.get(id) {
                    link.take(frame.len);
                }
                continue;
            }
            let Some(link) = self.links.get(id) else { return Ok(None) };
            if link.is_doubtful()
                && matches!(frame.error_code(link.bytes(frame.len)), Some(b"MOVED" | b"ASK" | b"CLUSTERDOWN"))
            {
                return Err(End::ServerMalformed(
                    "the slot of a channel moved while it was unsubscribed from: what this error answers is unknown"
                        .to_owned(),
                ));
            }
            if link.owes_whisper().is_some() {
                if frame.kind != Kind::Error || is_long {
                    return Err(End::ServerMalformed("a node did not confirm a subscription".to_owned()));
                }
                let bytes = link.bytes(frame.len).to_vec();
                link.take(frame.len);
                self.whisper_refused(id, bytes.get(1..).unwrap_or_default().trim_ascii_end())?;
                continue;
            }
            if link.owes_own().is_some() {
                let bytes = link.bytes(frame.len).to_vec();
                link.take(frame.len);
                if is_long {
                    link.collected = Some(bytes);
                } else {
                    self.own_reply(id, frame.kind, &bytes)?;
                }
                continue;
            }
            if link.owes_client() {
                return Ok(Some(step));
            }
            if frame.kind != Kind::Error {
                return Err(End::ServerMalformed("a node sent a reply that nobody asked for".to_owned()));
            }
            // Its parting words, such as "max number of clients reached".
            let bytes = link.bytes(frame.len).to_vec();
            link.take(frame.len);
            let text = String::from_utf8_lossy(bytes.get(1..).unwrap_or_default().trim_ascii_end());
            tracing::debug!(%text, "a node of a cluster ends a connection");
        }
    }

    /// An answer to a question of ours.
    fn own_reply(&mut self, id: LinkId, kind: Kind, bytes: &[u8]) -> Result<(), End> {
        let Some(link) = self.links.get(id) else { return Ok(()) };
        let own = link.owes_own().unwrap_or(Own::Swallow);
        link.settle();
        match own {
            Own::Proof if kind != Kind::Error && bytes == b"+OK\r\n" => {
                link.proved();
                Ok(())
            }
            Own::Proof => self.unwilling(id, bytes),
            Own::Swallow => Ok(()),
            Own::Multi if kind == Kind::Error => {
                let text = "a node refused the MULTI of a transaction: whether its commands were executed is unknown";
                Err(End::ServerMalformed(text.to_owned()))
            }
            Own::Multi => Ok(()),
            Own::Needed if kind == Kind::Error => self.unwilling(id, bytes),
            Own::Needed => Ok(()),
            Own::Lift => {
                link.lifted &= kind != Kind::Error;
                Ok(())
            }
            Own::Slots => {
                self.map_came(id, kind, bytes);
                Ok(())
            }
            Own::ClientId => {
                self.client_id_came(id, bytes);
                Ok(())
            }
            Own::Whence => {
                self.whence_came(id, bytes);
                Ok(())
            }
            Own::SignIn => self.signed_in(kind, bytes),
        }
    }

    /// The reply to the command at the front is there: whole, or the beginning of a long one.
    fn settle_reply(
        &mut self,
        id: LinkId,
        frame: &Frame,
        is_long: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        let failed = frame.kind == Kind::Error;
        let number = self.order.first();
        let Some(link) = self.links.get(id) else { return Ok(()) };
        let mut replaced = None;
        if failed && !is_long {
            let bytes = link.bytes(frame.len).to_vec();
            if self.try_again(Piece { number, part: None }, id, &bytes)? {
                self.take_settled(id, frame.len);
                self.settle_ahead(id);
                return Ok(());
            }
            replaced = self.moved_in_vain(&bytes);
        }
        let Some(front) = self.order.front() else { return Ok(()) };
        let (label, muted) = (front.label, front.muted);
        let meaning = std::mem::take(&mut front.meaning);
        if matches!(meaning, Meaning::Acks { .. }) && !failed {
            return Err(End::ServerMalformed("a node did not confirm a subscription".to_owned()));
        }
        if failed {
            self.note_failure(label, id, frame);
        }
        let refused_to_subscribe = failed && matches!(meaning, Meaning::Acks { .. });
        let own = self.mind(id, meaning, frame)?.or(replaced);
        let passes = !muted && own.is_none();
        if passes {
            self.journal.reply(label, frame.len);
            self.pass(id, frame.len, out)?;
        }
        if let Some(own) = own.filter(|_| !muted) {
            out.extend_from_slice(&own);
        }
        if is_long {
            if let Some(link) = self.links.get(id) {
                link.take(frame.len);
            }
            self.streaming = Some(Streaming { link: id, label: Some(label), passes, answers: true });
            return Ok(());
        }
        self.take_settled(id, frame.len);
        self.pop();
        if refused_to_subscribe {
            self.lower();
        }
        Ok(())
    }

    /// What a reply changes of the session; what the client gets in its place, if not itself.
    fn mind(&mut self, id: LinkId, meaning: Meaning, frame: &Frame) -> Result<Option<Box<[u8]>>, End> {
        let failed = frame.kind == Kind::Error;
        match meaning {
            Meaning::Plain | Meaning::Acks { .. } => {}
            Meaning::Replace(bytes) => return Ok(Some(bytes)),
            Meaning::Hello { lets_in } => {
                let wrong = self.is_wrong_password(id, frame);
                self.hello_answered(id, (!failed).then_some(frame.marker), lets_in, wrong);
            }
            Meaning::ClientAuth => {
                let wrong = self.is_wrong_password(id, frame);
                self.let_in(id, !failed, wrong);
            }
            Meaning::Setting(setting) => {
                if !failed {
                    self.mirror(id, setting.request());
                    self.settings.keep(*setting);
                }
            }
            Meaning::Multi => self.multi_answered(failed),
            Meaning::Watch => self.watch_answered(id, failed),
            Meaning::Kill(number) => {
                let nobody =
                    failed || self.links.get(id).is_some_and(|link| link.bytes(frame.len) == b":0\r\n");
                if nobody {
                    self.shared_map.killed.withdraw(number);
                }
            }
        }
        Ok(None)
    }

    fn is_wrong_password(&mut self, id: LinkId, frame: &Frame) -> bool {
        self.links.get(id).is_some_and(|link| frame.error_code(link.bytes(frame.len)) == Some(b"WRONGPASS"))
    }

    pub(super) fn take_settled(&mut self, id: LinkId, length: usize) {
        if let Some(link) = self.links.get(id) {
            link.take(length);
            link.settle();
        }
    }

    /// A redirection that could not be followed: the client gets words that make sense to it.
    pub(super) fn moved_in_vain(&mut self, frame: &[u8]) -> Option<Box<[u8]>> {
        let is_redirect = frame.starts_with(b"-MOVED ") || frame.starts_with(b"-ASK ");
        is_redirect.then(|| {
            let mut words = Vec::new();
            let text = "keystile: the slot has just moved to another node, and this could not be sent again: try \
                        again";
            encode::error(&mut words, "TRYAGAIN", text);
            words.into_boxed_slice()
        })
    }

    /// More of a reply that streams. False where no more is there.
    fn stream_on(&mut self, out: &mut Vec<u8>) -> Result<bool, End> {
        let Some(Streaming { link: id, label, passes, answers }) = self.streaming else { return Ok(false) };
        let Some(link) = self.links.get(id) else { return Err(End::ServerClosed) };
        let step = link.peek().map_err(|error| End::ServerMalformed(error.to_string()))?;
        let Step::Body { len, end } = step else {
            return if link.has_ended() { Err(End::ServerClosed) } else { Ok(false) };
        };
        if passes {
            match label {
                Some(label) => self.journal.reply(label, len),
                None => self.journal.pushed(len),
            }
            self.pass(id, len, out)?;
        }
        if let Some(link) = self.links.get(id) {
            link.take(len);
            if end && answers {
                link.settle();
            }
        }
        if end {
            self.streaming = None;
            if answers {
                self.pop();
            }
        }
        Ok(true)
    }

    fn note_failure(&mut self, label: Label, id: LinkId, frame: &Frame) {
        let Some(link) = self.links.get(id) else { return };
        let bytes = link.bytes(frame.len);
        let code = String::from_utf8_lossy(frame.error_code(bytes).unwrap_or(b"ERR")).into_owned();
        let text = String::from_utf8_lossy(frame.text(bytes).unwrap_or_default()).into_owned();
        self.journal.failed(label, &code, &redact::error(CommandId::new(label), &text));
    }
}
