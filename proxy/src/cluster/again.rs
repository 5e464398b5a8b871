//! What a reply proves unexecuted is sent again: to where the slot has gone, or a little later.
//!
//! While anything is sent again no new command is taken on, until all that was outstanding is settled: so the
//! commands of a slot keep their order over its migration.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use keystile_model::database::Endpoint;
use keystile_resp::command::CommandId;
use keystile_resp::encode;
use tokio::time::{Duration, Instant, Sleep};

use super::ClusterSession;
use super::fan::Progress;
use super::link::{Link, LinkId, Own, Purpose};
use super::order::{Awaiting, Meaning, NO_SLOT, Way};
use super::slots::Redirect;
use crate::session::End;
use crate::session::expected::Label;

/// How often a command follows a redirection.
pub(super) const MOST_AGAIN: u8 = 16;
/// How long a server's word that it cannot answer now is met with another try.
const NOT_NOW: Duration = Duration::from_secs(10);
/// How long the node of a slot may be out of reach.
pub(super) const OUT_OF_REACH: Duration = Duration::from_secs(15);
/// The first pause, and the longest one.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Why commands are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A server said that it cannot answer now.
    NotNow,
    /// A node cannot be reached.
    Unreachable,
}

/// Commands are held.
#[derive(Debug)]
pub(super) struct Trouble {
    since: Instant,
    bound: Duration,
    pause: Duration,
    timer: Pin<Box<Sleep>>,
    /// The answer when the time is up.
    words: Vec<u8>,
}

/// What a reply that is an error asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Again {
    /// To go elsewhere.
    Elsewhere(Redirect),
    /// To try later.
    Later,
}

impl Again {
    /// Reads the text of an error, without its marker and line end.
    pub(super) fn read(text: &[u8], asked: &Endpoint) -> Option<Self> {
        match text.split(|byte| *byte == b' ').next()? {
            b"MOVED" | b"ASK" => Redirect::read(text, asked).map(Self::Elsewhere),
            b"TRYAGAIN" | b"LOADING" | b"CLUSTERDOWN" | b"MASTERDOWN" => Some(Self::Later),
            _ => None,
        }
    }
}

/// Who chooses the words of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    /// The server.
    Server,
    /// A module, perhaps.
    Module,
    /// The author of a script, perhaps.
    Script,
}

impl Speaker {
    fn of(label: Label) -> Self {
        match CommandId::new(label).map(|id| id.command().name) {
            Some("eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro") => Self::Script,
            Some(_) => Self::Server,
            None => Self::Module,
        }
    }
}

/// One thing to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The command.
    pub(super) number: u64,
    /// Its part, where it has several.
    pub(super) part: Option<usize>,
}

impl ClusterSession {
    /// An error came for the command at the front: whether it is dealt with here. Its frame was not taken yet.
    pub(super) fn try_again(&mut self, piece: Piece, link: LinkId, frame: &[u8]) -> Result<bool, End> {
        let text = frame.get(1..).unwrap_or_default().trim_ascii_end();
        let Some(asked) = self.links.get(link) else { return Ok(false) };
        let Some(again) = Again::read(text, &asked.node) else { return Ok(false) };
        let (of_replica, asked) = (asked.purpose == Purpose::Replica, asked.node.clone());
        if !self.believes(piece, &again, &asked) {
            return Ok(false);
        }
        if of_replica && matches!(&again, Again::Elsewhere(redirect) if !redirect.ask) {
            // It has another primary now, or none.
            self.shared_map.expire();
        }
        let Some((slot, tries)) = self.count_try(piece) else { return Ok(false) };
        if tries > MOST_AGAIN || (of_replica && self.leave_replica(piece)) {
            return Ok(tries <= MOST_AGAIN);
        }
        if again == Again::Later {
            self.metrics.cluster_redirects.add("later");
        }
        match again {
            Again::Elsewhere(redirect) => {
                self.go_elsewhere(piece, &redirect, None, frame);
                Ok(true)
            }
            Again::Later if slot != NO_SLOT && self.order.is_overtaken(piece.number, slot) => Ok(false),
            Again::Later => {
                self.hold_piece(piece);
                self.begin_trouble(Cause::NotNow, frame.to_vec());
                // Whoever is down may have been replaced.
                self.shared_map.expire();
                Ok(true)
            }
        }
    }

    /// Sends a piece to where a redirection leads: on the link of what it has to stand behind, if there is such a one.
    /// Where there is no way now, it is held, with these words for the end.
    pub(super) fn go_elsewhere(
        &mut self,
        piece: Piece,
        redirect: &Redirect,
        behind: Option<LinkId>,
        words: &[u8],
    ) {
        self.metrics.cluster_redirects.add(if redirect.ask { "ask" } else { "moved" });
        self.settling = true;
        self.hold_piece(piece);
        let sent = match behind {
            Some(id) => self.send_on_link(piece, id, redirect.ask),
            None => self.send_to(piece, &redirect.to, redirect.ask),
        };
        if !sent {
            let words = self.moved_in_vain(words).map_or_else(|| words.to_vec(), Vec::from);
            self.begin_trouble(Cause::NotNow, words);
        }
    }

    /// Whether an error is what it says. A script may answer with any error: so only what a server would say of
    /// it is followed, nothing is learned from it for others, and it is not carried out again because it failed.
    pub(super) fn believes(&mut self, piece: Piece, again: &Again, asked: &Endpoint) -> bool {
        let Some(entry) = self.order.at(piece.number) else { return false };
        let speaker = Speaker::of(entry.label);
        let slot = match (&entry.awaiting, piece.part) {
            (Awaiting::Fan(fan), Some(part)) => fan.part(part).map_or(NO_SLOT, |part| part.slot),
            _ => entry.slot,
        };
        // Where a module says that it cannot answer now, something of it may have been done.
        let Again::Elsewhere(redirect) = again else { return speaker == Speaker::Server };
        let plausible = redirect.slot == slot
            && redirect.to != *asked
            && self.map.nodes().any(|node| *node == redirect.to);
        let believed = self.dial.may_dial(&redirect.to) && (speaker != Speaker::Script || plausible);
        if believed && speaker == Speaker::Server && redirect.slot == slot {
            self.learn(redirect);
        } else if !redirect.ask {
            self.shared_map.expire();
        }
        believed
    }

    /// A server said where a slot is: from now on every session of this database goes there.
    pub(super) fn learn(&mut self, redirect: &Redirect) {
        if redirect.ask {
            return;
        }
        if self.dial.may_dial(&redirect.to) {
            self.shared_map.moved(redirect.slot, &redirect.to);
        } else {
            self.shared_map.expire();
        }
        self.follow_map();
    }

    /// Counts one more try. The slot, and the tries; `None` where it cannot be sent again.
    pub(super) fn count_try(&mut self, piece: Piece) -> Option<(u16, u8)> {
        let is_last = self.order.next() == piece.number + 1;
        let in_trouble = self.trouble.is_some();
        let entry = self.order.at(piece.number)?;
        // What follows a WATCH was sent to the node that the WATCH was sent to.
        if matches!(entry.meaning, Meaning::Watch) && !is_last {
            return None;
        }
        match (&mut entry.awaiting, piece.part) {
            (Awaiting::Fan(fan), Some(part)) => {
                let part = fan.part_mut(part)?;
                // It was for that node alone.
                if part.node.is_some() {
                    return None;
                }
                part.again = part.again.saturating_add(u8::from(!in_trouble));
                Some((part.slot, part.again))
            }
            // Nothing of a transaction is kept.
            (_, None) if entry.kept > 0 => {
                // In trouble it is time that counts.
                entry.again = entry.again.saturating_add(u8::from(!in_trouble));
                Some((entry.slot, entry.again))
            }
            _ => None,
        }
    }

    /// A replica did not want it: its primary gets it. False where that is no way.
    fn leave_replica(&mut self, piece: Piece) -> bool {
        let Some(entry) = self.order.at(piece.number) else { return false };
        entry.of_replica = false;
        let slot = entry.slot;
        self.settling = true;
        self.hold_piece(piece);
        let node = self.map.primary(slot).cloned();
        if !node.is_some_and(|node| self.send_to(piece, &node, false)) {
            self.begin_trouble(Cause::NotNow, b"-CLUSTERDOWN Hash slot not served\r\n".to_vec());
        }
        true
    }

    fn hold_piece(&mut self, piece: Piece) {
        self.order.note_held(piece.number);
        let Some(entry) = self.order.at(piece.number) else { return };
        match (&mut entry.awaiting, piece.part) {
            (Awaiting::Fan(fan), Some(part)) => fan.set(part, Progress::Held),
            (awaiting, _) => *awaiting = Awaiting::Held,
        }
    }

    /// Sends a held piece to a node. False where there is no way to it now.
    pub(super) fn send_to(&mut self, piece: Piece, node: &Endpoint, asking: bool) -> bool {
        let Some(entry) = self.order.at(piece.number) else { return false };
        let of_replica = entry.of_replica;
        let link = self.link_for_again(node, piece, of_replica);
        link.is_some_and(|id| self.send_on_link(piece, id, asking))
    }

    /// Sends a held piece on a link.
    fn send_on_link(&mut self, piece: Piece, id: LinkId, asking: bool) -> bool {
        let Some(entry) = self.order.at(piece.number) else { return false };
        let own = match (&entry.awaiting, piece.part) {
            (Awaiting::Fan(fan), Some(part)) => fan.part(part).and_then(|part| part.request.clone()),
            _ => None,
        };
        let request = own.unwrap_or_else(|| Box::from(self.order.request(piece.number)));
        if request.is_empty() {
            return false;
        }
        if self.is_blocking(piece.number) {
            self.ask_ids(id);
        }
        let Some(link) = self.links.get(id) else { return false };
        if asking {
            let mut question = Vec::new();
            encode::request(&mut question, &["ASKING"]);
            link.ask(&question, Own::Swallow);
        }
        link.send(&request, piece.number, piece.part.unwrap_or(0));
        if let Some(entry) = self.order.at(piece.number) {
            match (&mut entry.awaiting, piece.part) {
                (Awaiting::Fan(fan), Some(part)) => fan.set(part, Progress::Sent(id)),
                (awaiting, _) => *awaiting = Awaiting::Link(id),
            }
        }
        true
    }

    /// From now on held commands are tried again, until they were answered or the time is up.
    pub(super) fn begin_trouble(&mut self, cause: Cause, words: Vec<u8>) {
        self.settling = true;
        self.order.note_held(self.order.first());
        let bound = match cause {
            Cause::NotNow => NOT_NOW,
            Cause::Unreachable => OUT_OF_REACH,
        };
        match &mut self.trouble {
            Some(trouble) => (trouble.words, trouble.bound) = (words, bound.max(trouble.bound)),
            None => {
                let now = Instant::now();
                self.trouble = Some(Box::new(Trouble {
                    since: now,
                    bound,
                    pause: FIRST_PAUSE,
                    timer: Box::pin(tokio::time::sleep_until(now + FIRST_PAUSE)),
                    words,
                }));
            }
        }
    }

    /// A command was answered: if none is held, the trouble is over, else its time begins anew.
    pub(super) fn ease_trouble(&mut self) {
        if !self.order.has_held() {
            self.trouble = None;
        } else if let Some(trouble) = &mut self.trouble {
            trouble.since = Instant::now();
        }
    }

    /// What is held, in order.
    fn held(&mut self) -> Vec<Piece> {
        let mut held = Vec::new();
        for (number, entry) in self.order.iter_mut() {
            match &entry.awaiting {
                Awaiting::Held => held.push(Piece { number, part: None }),
                Awaiting::Fan(fan) => {
                    let parts = fan.parts().iter().enumerate();
                    let parts = parts.filter(|(_, part)| matches!(part.progress(), Progress::Held));
                    held.extend(parts.map(|(part, _)| Piece { number, part: Some(part) }));
                }
                _ => {}
            }
        }
        held
    }

    /// Tries again when it is time. True where something happened.
    pub(super) fn poll_trouble(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(trouble) = &mut self.trouble else { return false };
        if trouble.timer.as_mut().poll(cx) == Poll::Pending {
            return false;
        }
        let now = Instant::now();
        trouble.pause = (trouble.pause * 2).min(LONGEST_PAUSE);
        trouble.timer.as_mut().reset(now + trouble.pause);
        if now.saturating_duration_since(trouble.since) >= trouble.bound {
            self.give_up();
            return true;
        }
        self.ask_for_map_in_trouble();
        self.follow_map();
        self.send_held();
        true
    }

    /// Sends what is held, in order, as far as there is a way. Only what stands before a piece decides on its way: what
    /// stands behind it is answered later, so to wait for that would be for ever.
    pub(super) fn send_held(&mut self) {
        let mut ways = HashMap::new();
        let mut seen = self.order.first();
        for piece in self.held() {
            self.order.add_ways(&mut ways, seen..piece.number);
            seen = seen.max(piece.number);
            if self.scan_again(piece.number) {
                continue;
            }
            let Some(entry) = self.order.at(piece.number) else { continue };
            let (slot, node) = match (&entry.awaiting, piece.part) {
                (Awaiting::Fan(fan), Some(part)) => match fan.part(part) {
                    Some(part) => (part.slot, part.node.clone()),
                    None => continue,
                },
                _ => (entry.slot, None),
            };
            if let Some(node) = node {
                self.send_to(piece, &node, false);
                continue;
            }
            let Some(node) = self.node_in_trouble(slot) else { continue };
            let sent = match ways.get(&slot) {
                None => self.send_to(piece, &node, false),
                Some(Way::Behind(id)) => {
                    let id = *id;
                    let place = (piece.number, piece.part.unwrap_or(0));
                    let leads =
                        |link: &mut Link| link.is_usable() && link.node == node && link.comes_last(place);
                    self.links.get(id).is_some_and(leads) && self.send_on_link(piece, id, false)
                }
                Some(Way::None) => false,
            };
            let way = if sent { self.order.way_of(piece) } else { Way::None };
            ways.insert(slot, way);
        }
    }

    /// Where the commands of a slot are tried: at its primary. Where nobody tells this session the map, every
    /// other time at one of its replicas: one that was promoted takes them, and any other tells who was.
    pub(super) fn node_in_trouble(&self, slot: u16) -> Option<Endpoint> {
        let shard = if slot == NO_SLOT { self.map.home_shard() } else { self.map.shard(slot) }?;
        let blind = !self.may_ask_slots && self.turn % 2 == 1;
        let replica = self.turn / 2 % shard.replicas.len().max(1);
        Some(shard.replicas.get(replica).filter(|_| blind).unwrap_or(&shard.primary).clone())
    }

    /// The time is up: what is held gets the error.
    fn give_up(&mut self) {
        let Some(trouble) = self.trouble.take() else { return };
        for piece in self.held() {
            let Some(entry) = self.order.at(piece.number) else { continue };
            let label = entry.label;
            match (&mut entry.awaiting, piece.part) {
                (Awaiting::Fan(fan), Some(part)) => fan.set(part, Progress::Done(trouble.words.clone())),
                _ => {
                    self.order.answer(piece.number, trouble.words.clone());
                    self.journal.failed(label, "CLUSTERDOWN", "the slot was not served in time");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_words_an_error_has() {
        let label = |name: &str| {
            let id = keystile_resp::command::find(name.as_bytes()).unwrap();
            u16::try_from(id.index()).unwrap()
        };
        for name in ["EVAL", "evalsha", "EVAL_RO", "EVALSHA_RO", "FCALL", "FCALL_RO"] {
            assert_eq!(Speaker::of(label(name)), Speaker::Script, "{name}");
        }
        for name in ["GET", "MGET", "EXEC", "SSUBSCRIBE"] {
            assert_eq!(Speaker::of(label(name)), Speaker::Server, "{name}");
        }
        assert_eq!(Speaker::of(crate::session::expected::UNKNOWN), Speaker::Module);
    }

    #[test]
    fn what_is_sent_again() {
        let asked = Endpoint { host: "here".to_owned(), port: 1 };
        let read = |text: &str| Again::read(text.as_bytes(), &asked);
        assert!(matches!(
            read("MOVED 7 there:2"),
            Some(Again::Elsewhere(Redirect { ask: false, slot: 7, .. }))
        ));
        assert!(matches!(read("ASK 7 there:2"), Some(Again::Elsewhere(Redirect { ask: true, .. }))));
        for text in
            ["TRYAGAIN Multiple keys", "LOADING x", "CLUSTERDOWN Hash slot not served", "MASTERDOWN x"]
        {
            assert_eq!(read(text), Some(Again::Later), "{text}");
        }
        for text in ["ERR MOVED 7 there:2", "MOVEDX", "MOVED 7", "", "NOPERM x", "CROSSSLOT x"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
