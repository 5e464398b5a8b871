//! Whether a node served slots that a walk has just left behind.
//!
//! A page of a `SCAN` does not tell: a node that has given a slot away, or is about to, leaves its keys out and
//! says nothing. What tells is `EXISTS` of a key that nobody has, one for each slot: a number where the node
//! serves the slot and all of its keys, `MOVED` where it does not, `ASK` where keys may be on their way
//! elsewhere. Where many slots are left behind at once (few keys in many slots), `CLUSTER NODES` of that node
//! says the same of all of them, if the db user may ask it.

use std::sync::OnceLock;

use keystile_model::database::Endpoint;
use keystile_resp::encode;
use keystile_resp::slot::{self, SLOTS};

use super::Rights;
use super::nodes::NodesView;
use crate::cluster::slots::Redirect;
use crate::cluster::value::Value;

/// From so many slots on it is `CLUSTER NODES`.
const MANY: u16 = 32;
/// `EXISTS` sent at once, at 60 bytes each.
const AT_ONCE: u16 = 1_024;

/// What a node says of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves it, with all of its keys.
    Served,
    /// Keys may be on their way to this node.
    Asked(Redirect),
    /// This node serves it.
    Moved(Redirect),
    /// The db user may not know.
    Refused,
    /// It does not say: the slot is not done.
    Unknown,
}

/// Reads the reply to a [`probe`].
#[must_use]
pub fn judge(reply: &[u8], asked: Option<&Endpoint>) -> Verdict {
    let text = match Value::read(reply) {
        Some(Value::Integer(_)) => return Verdict::Served,
        Some(Value::Error(text)) => text,
        _ => return Verdict::Unknown,
    };
    match asked.and_then(|asked| Redirect::read(text, asked)) {
        Some(redirect) if redirect.ask => Verdict::Asked(redirect),
        Some(redirect) => Verdict::Moved(redirect),
        None if text.starts_with(b"NOPERM") => Verdict::Refused,
        None => Verdict::Unknown,
    }
}

/// Appends the question for one slot.
pub fn probe(out: &mut Vec<u8>, slot: u16) {
    let tag = tags().get(usize::from(slot)).copied().unwrap_or_default();
    encode::request(out, &["EXISTS", &format!("{{{tag}}}:keystile:scan:no-such-key")]);
}

/// The question about a run of slots, until it is answered for the last or one is not served.
#[derive(Clone, Debug)]
pub struct Chain {
    /// The next slot to ask about.
    at: u16,
    last: u16,
    /// Whether a slot that is on its way here counts as served.
    is_target: bool,
    nodes: Option<NodesView>,
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Nodes,
    /// About the slots up to this one.
    Slots(u16),
}

impl Chain {
    /// Whether all keys of the slots from `first` to `last` are here.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Self {
        Self { at: first, last, is_target: false, nodes: None, asked: Asked::Nothing }
    }

    /// Whether a slot is here, or on its way here.
    #[must_use]
    pub fn of_target(slot: u16) -> Self {
        Self { is_target: true, ..Self::new(slot, slot) }
    }

    /// What to ask, and how many replies will come; `None`: the db user may ask nothing that would tell.
    pub fn ask(&mut self, rights: Rights) -> Option<(Vec<u8>, usize)> {
        let mut out = Vec::new();
        let is_worth_it = self.last - self.at >= MANY || !rights.exists;
        if rights.nodes && self.nodes.is_none() && is_worth_it {
            self.asked = Asked::Nodes;
            encode::request(&mut out, &["CLUSTER", "NODES"]);
            return Some((out, 1));
        }
        if !rights.exists {
            return None;
        }
        if self.is_target {
            self.asked = Asked::Slots(self.at);
            encode::request(&mut out, &["ASKING"]);
            probe(&mut out, self.at);
            return Some((out, 2));
        }
        let to = self.last.min(self.at.saturating_add(AT_ONCE - 1));
        self.asked = Asked::Slots(to);
        (self.at..=to).for_each(|slot| probe(&mut out, slot));
        Some((out, usize::from(to - self.at) + 1))
    }

    /// Takes the replies. `None`: there is more to ask. Else the verdict, and the slot that it is of.
    pub fn take(
        &mut self,
        replies: &[&[u8]],
        node: Option<&Endpoint>,
        rights: &mut Rights,
    ) -> Option<(u16, Verdict)> {
        match self.asked {
            Asked::Nothing => return Some((self.at, Verdict::Unknown)),
            Asked::Nodes => {
                let view = Value::read(replies.first()?).and_then(|reply| reply.text()).map(NodesView::read);
                rights.nodes = view.is_some();
                self.nodes = Some(view.unwrap_or_default());
            }
            Asked::Slots(to) => {
                // The reply to ASKING says nothing.
                for reply in replies.iter().skip(usize::from(self.is_target)) {
                    match judge(reply, node) {
                        Verdict::Served => self.at += 1,
                        Verdict::Refused => {
                            rights.exists = false;
                            return None;
                        }
                        verdict => return Some((self.at, verdict)),
                    }
                }
                if self.at <= to {
                    return Some((self.at, Verdict::Unknown));
                }
            }
        }
        self.skip_told(node);
        if self.at > self.last {
            return Some((self.last, Verdict::Served));
        }
        let view = self.nodes.as_ref().filter(|_| !rights.exists && rights.nodes)?;
        Some((self.at, view.verdict(self.at, self.is_target, node)))
    }

    /// Steps over slots of which `CLUSTER NODES` says enough.
    fn skip_told(&mut self, node: Option<&Endpoint>) {
        let Some(view) = &self.nodes else { return };
        while self.at <= self.last && view.verdict(self.at, self.is_target, node) == Verdict::Served {
            self.at += 1;
        }
    }
}

/// For each slot a word that lies in it: the first number in base 36 that does.
fn tags() -> &'static [&'static str] {
    static TAGS: OnceLock<Vec<&'static str>> = OnceLock::new();
    TAGS.get_or_init(|| {
        let mut tags = vec![""; usize::from(SLOTS)];
        let mut left = tags.len();
        // Half a million is three times as many as it takes.
        for number in 0_u32..500_000 {
            let word = base36(number);
            if let Some(tag) = tags.get_mut(usize::from(slot::of_key(&word))).filter(|tag| tag.is_empty()) {
                // Once in a process, 16,384 words of up to four bytes.
                *tag = String::from_utf8_lossy(&word).into_owned().leak();
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        tags
    })
}

fn base36(mut number: u32) -> Vec<u8> {
    let mut word = Vec::new();
    loop {
        let digit = u8::try_from(number % 36).unwrap_or(0);
        word.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        number /= 36;
        if number == 0 {
            return word;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_word() {
        for (slot, tag) in tags().iter().enumerate() {
            assert_eq!(usize::from(slot::of_key(format!("{{{tag}}}:x").as_bytes())), slot);
        }
    }

    #[test]
    fn many_slots_are_one_question_where_that_is_allowed() {
        let (mut chain, mut rights) = (Chain::new(0, 100), Rights::default());
        let nodes = b"*2\r\n$7\r\nCLUSTER\r\n$5\r\nNODES\r\n".to_vec();
        assert_eq!(chain.ask(rights), Some((nodes.clone(), 1)));
        let line = "bb h:2@3 myself,master - 0 0 1 connected 0-98";
        let reply = format!("${}\r\n{line}\r\n", line.len());
        // The last two are asked one by one.
        assert_eq!(chain.take(&[reply.as_bytes()], None, &mut rights), None);
        assert_eq!(chain.ask(rights).unwrap().1, 2);
        assert_eq!(chain.take(&[b":0\r\n", b":0\r\n"], None, &mut rights), Some((100, Verdict::Served)));

        let mut chain = Chain::new(0, 100);
        chain.ask(rights);
        assert_eq!(chain.take(&[b"-NOPERM no\r\n"], None, &mut rights), None);
        assert_eq!((rights.nodes, chain.ask(rights).unwrap().1), (false, 101));
        assert_eq!(chain.take(&[b"-NOPERM no\r\n"], None, &mut rights), None);
        assert_eq!((rights.exists, chain.ask(rights)), (false, None), "nothing is left to ask");

        // Whose keys are limited is told by CLUSTER NODES alone.
        let (mut chain, mut rights) = (Chain::new(7, 7), Rights { nodes: true, exists: false });
        assert_eq!(chain.ask(rights), Some((nodes, 1)));
        let lines =
            "bb h:2@3 myself,master - 0 0 1 connected 0-98 [7->-cc]\ncc :3@4,name master - 0 0 2 connected";
        let reply = format!("${}\r\n{lines}\r\n", lines.len());
        let to = Endpoint { host: "name".to_owned(), port: 3 };
        let verdict = Verdict::Asked(Redirect { ask: true, slot: 7, to });
        assert_eq!(chain.take(&[reply.as_bytes()], None, &mut rights), Some((7, verdict)));
    }
}
