//! Commands for several nodes: who gets what, and how the replies become one.

use std::borrow::Cow;

use keystile_model::database::Endpoint;
use keystile_resp::encode;

use super::ClusterSession;
use super::fan::{Fan, Join, MOST_BYTES, Part, Progress, TooMuch};
use super::merge::{self, Answer};
use super::order::Awaiting;
use super::plan::{self, Merge, Plan};
use super::requests::{Incoming, NOBODY, Taken};
use super::scan::{Cursors, Scan, Step};
use super::split;
use crate::session::End;
use crate::session::judge::Refused;

impl ClusterSession {
    /// A command whose plan is several nodes, or one that it names.
    pub(super) fn take_fan(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
        plan: Plan,
    ) -> Result<Taken, End> {
        if self.waits_for_map || !self.may_send(None) {
            return Ok(Taken::No);
        }
        let barrier = plan::is_barrier(incoming.id, args, plan);
        match plan {
            Plan::Split(how) => {
                let mut split = split::split(args, how);
                let parts = split.take_parts().into_iter();
                let parts = parts.map(|part| Part::of_slot(part.slot, part.request)).collect();
                self.send_fan(incoming, parts, Join::Split(Box::new(split)), barrier)
            }
            Plan::AllPrimaries(how) => {
                let mut parts: Vec<Part> =
                    self.map.primaries().cloned().map(|node| Part::of_node(node, None)).collect();
                if how == Merge::AnyValue && !parts.is_empty() {
                    // The first that there is: another shard's each time.
                    self.turn = self.turn.wrapping_add(1);
                    let by = self.turn % parts.len();
                    parts.rotate_left(by);
                }
                self.send_to_all(incoming, parts, how)
            }
            Plan::AllNodes(how) => {
                let parts: Vec<Part> =
                    self.map.nodes().cloned().map(|node| Part::of_node(node, None)).collect();
                self.send_to_all(incoming, parts, how)
            }
            Plan::Named => self.send_to_named(incoming, args),
            Plan::Scan => self.take_scan(incoming, args),
            _ => {
                let text = "it cannot be served in cluster mode";
                self.refuse(incoming, &Refused::new(incoming.id, "ERR", "cluster", text))
            }
        }
    }

    fn send_to_all(&mut self, incoming: &Incoming<'_>, parts: Vec<Part>, how: Merge) -> Result<Taken, End> {
        if parts.is_empty() {
            return self.answer_error(incoming, NOBODY);
        }
        self.send_fan(incoming, parts, Join::Merge(how), true)
    }

    fn send_to_named(&mut self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        let named = plan::named_node(args);
        let known = named.as_ref().and_then(|(name, _)| {
            self.map.nodes().find(|node| node.to_string() == *name || plain(node) == *name).cloned()
        });
        let (Some(node), Some((_, request))) = (known, named) else {
            let nodes: Vec<String> = self.map.nodes().map(plain).collect();
            let text = format!("there is no such node; there are {}", nodes.join(", "));
            return self.refuse(incoming, &Refused::new(incoming.id, "ERR", "cluster", text));
        };
        let part = Part::of_node(node, Some(request.into_boxed_slice()));
        self.send_fan(incoming, vec![part], Join::Merge(Merge::OneSucceeded), true)
    }

    fn take_scan(&mut self, incoming: &Incoming<'_>, args: &[Cow<'_, [u8]>]) -> Result<Taken, End> {
        let cursors = Cursors::of(&self.database);
        if cursors == Cursors::OfCluster {
            return self.send_home(incoming);
        }
        let mut scan = match Scan::begin(args, cursors) {
            Ok(scan) => scan,
            Err(words) => return self.answer_error(incoming, &words),
        };
        match scan.step(&self.map, self.scan_rights) {
            Step::Done(words) => {
                self.answer_here(incoming, &words);
                Ok(Taken::Yes)
            }
            Step::Ask { node, requests, replies } => {
                let parts = questions(&node, requests, replies);
                self.send_fan(incoming, parts, Join::Scan(Box::new(scan)), true)
            }
        }
    }

    /// The answers to a step of a `SCAN` are there: the reply, or `None` where another step follows.
    fn go_on_scanning(&mut self, number: u64, fan: Fan, mut scan: Box<Scan>) -> Option<Vec<u8>> {
        let replies: Vec<&[u8]> = fan
            .parts()
            .iter()
            .map(|part| match part.progress() {
                Progress::Done(bytes) => bytes.as_slice(),
                _ => &[],
            })
            .collect();
        scan.take(&replies, &mut self.scan_rights);
        if let Some(redirect) = scan.learned() {
            self.learn(&redirect);
        }
        self.next_step(number, scan)
    }

    fn next_step(&mut self, number: u64, mut scan: Box<Scan>) -> Option<Vec<u8>> {
        match scan.step(&self.map, self.scan_rights) {
            Step::Done(reply) => Some(reply),
            Step::Ask { node, requests, replies } => {
                let parts = questions(&node, requests, replies);
                let fan = Fan::new(parts, Join::Scan(scan), &self.purse);
                if let Some(entry) = self.order.at(number) {
                    entry.awaiting = Awaiting::Fan(Box::new(fan));
                }
                self.send_parts(number);
                None
            }
        }
    }

    /// The node of a step of a `SCAN` is out of reach: the step begins again, by the map of this moment. False
    /// where the command is no `SCAN`.
    pub(super) fn scan_again(&mut self, number: u64) -> bool {
        let Some(entry) = self.order.at(number) else { return false };
        let Awaiting::Fan(fan) = &mut entry.awaiting else { return false };
        if !matches!(fan.join, Join::Scan(_)) {
            return false;
        }
        // Its other parts go the same way: one of them is enough.
        if fan.parts().iter().any(|part| !matches!(part.progress(), Progress::Held)) {
            return true;
        }
        if let Join::Scan(scan) = std::mem::replace(&mut fan.join, Join::Done)
            && let Some(reply) = self.next_step(number, scan)
        {
            self.order.answer(number, reply);
        }
        true
    }

    /// One reply of the parts' for command `number`; `None` where more parts follow. A replica that could not be
    /// reached has no reply.
    pub(super) fn join(&mut self, number: u64, mut fan: Fan) -> Option<Vec<u8>> {
        match fan.too_much() {
            Some(TooMuch::Long) => return Some(merge::too_long(fan.parts().len(), MOST_BYTES)),
            Some(TooMuch::Crowded) => {
                self.metrics.limits.add("merging");
                return Some(crowded());
            }
            None => {}
        }
        match std::mem::replace(&mut fan.join, Join::Done) {
            Join::Scan(scan) => return self.go_on_scanning(number, fan, scan),
            join => fan.join = join,
        }
        let reply = joined(&fan);
        self.merged.push(fan.into_share());
        Some(reply)
    }
}

/// The error where replies take all the memory that there is for this.
fn crowded() -> Vec<u8> {
    let mut out = Vec::new();
    let text = "the proxy holds as many replies of several nodes as it may, of all users (KEYSTILE_MERGED_REPLY_BYTES) \
                or of yours (a quarter of that): read what was asked for, then try again, or ask for less (SCAN \
                instead of KEYS)";
    encode::error(&mut out, "ERR keystile:", text);
    out
}

fn joined(fan: &Fan) -> Vec<u8> {
    let replies = fan.parts().iter().filter_map(|part| match part.progress() {
        Progress::Done(bytes) if !bytes.is_empty() => Some((part, bytes.as_slice())),
        _ => None,
    });
    match &fan.join {
        Join::Split(split) => {
            let replies: Vec<&[u8]> = replies.map(|(_, reply)| reply).collect();
            split.join(&replies, MOST_BYTES)
        }
        Join::Merge(how) => {
            let replies: Vec<(String, &[u8])> = replies
                .map(|(part, reply)| (part.node.as_ref().map(plain).unwrap_or_default(), reply))
                .collect();
            let answers: Vec<Answer<'_>> =
                replies.iter().map(|(node, reply)| Answer { node, reply }).collect();
            merge::merge(*how, &answers, MOST_BYTES)
        }
        Join::Scan(_) | Join::Done => NOBODY.to_vec(),
    }
}

/// Requests that are sent together to one node: a part for each reply.
fn questions(node: &Endpoint, requests: Vec<u8>, replies: usize) -> Vec<Part> {
    let mut requests = requests.into_boxed_slice();
    let part = |_| Part::of_node(node.clone(), Some(std::mem::take(&mut requests)));
    (0..replies).map(part).collect()
}

/// `host:port`, also of an IPv6 address.
fn plain(node: &Endpoint) -> String {
    format!("{}:{}", node.host, node.port)
}
