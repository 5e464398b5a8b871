//! Several nodes' replies become one.
//!
//! Whether they are RESP2 or RESP3 is theirs: the one reply has the form of the first. An error of one node
//! is the reply, unless the policy says otherwise, with the node's name in it where servers leave room: never
//! does a part pass for the whole.

mod info;
mod numbers;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::Write as _;

use keystile_resp::encode;

use super::plan::Merge;
use super::value::{Items, Value};

/// Room for the first line of an aggregate.
const HEADER: usize = 16;

/// A node's reply.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The node, as `host:port`: texts for people name it.
    pub node: &'a str,
    /// One whole frame.
    pub reply: &'a [u8],
}

/// Merges replies, given in the order of the nodes, into one of at most `limit` bytes.
///
/// What is too long, or what nodes disagree about so that it cannot be merged, is an error reply.
#[must_use]
pub fn merge(how: Merge, answers: &[Answer<'_>], limit: usize) -> Vec<u8> {
    match try_merge(how, answers, limit) {
        Ok(reply) if reply.len() <= limit => reply,
        Ok(_) | Err(Failure::TooLong) => too_long(answers.len(), limit),
        Err(Failure::Unlike) => {
            let mut out = Vec::new();
            let text = "the nodes' replies are too unlike to be merged: ask one node, beside the proxy";
            encode::error(&mut out, "ERR keystile:", text);
            out
        }
    }
}

/// The error for replies that are too long together.
#[must_use]
pub fn too_long(nodes: usize, limit: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let text = format!(
        "the replies of {nodes} nodes are longer than {limit} bytes together: ask for less (SCAN instead of KEYS)"
    );
    encode::error(&mut out, "ERR keystile:", &text);
    out
}

/// Why there is no merged reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    TooLong,
    Unlike,
}

type Merged = Result<Vec<u8>, Failure>;

fn try_merge(how: Merge, answers: &[Answer<'_>], limit: usize) -> Merged {
    let Some(first) = answers.first() else { return Err(Failure::Unlike) };
    if how == Merge::OneSucceeded {
        return Ok(answers.iter().find(|answer| !is_error(answer)).unwrap_or(first).reply.to_vec());
    }
    if let Some(error) = answers.iter().find(|answer| is_error(answer)) {
        return Ok(error.reply.to_vec());
    }
    let total: usize = answers.iter().map(|answer| answer.reply.len()).sum();
    match how {
        Merge::OneSucceeded | Merge::AllSucceeded => Ok(first.reply.to_vec()),
        Merge::And => numbers::merge(answers, |a, b| i64::from(a != 0 && b != 0)),
        Merge::Or => numbers::merge(answers, |a, b| i64::from(a != 0 || b != 0)),
        Merge::Min => numbers::merge(answers, i64::min),
        Merge::Max => numbers::merge(answers, i64::max),
        Merge::Sum => numbers::merge(answers, i64::saturating_add),
        Merge::AnyValue => Ok(any_value(answers).to_vec()),
        Merge::FunctionStats => Ok(reports::function_stats(answers).to_vec()),
        // From here on the reply is put together: as long as all of them, at most.
        _ if total > limit => Err(Failure::TooLong),
        Merge::Concat => concat(answers),
        Merge::Distinct => distinct(answers),
        Merge::Counts => numbers::counts(answers),
        Merge::Info => info::merge(answers),
        Merge::Newest(most) => reports::newest(answers, most),
        Merge::ByTime => reports::by_time(answers),
        Merge::LatencyLatest => reports::latency_latest(answers),
        Merge::Histogram => reports::histogram(answers),
        Merge::MemoryStats => numbers::memory_stats(answers),
        Merge::Texts => reports::texts(answers),
    }
}

fn is_error(answer: &Answer<'_>) -> bool {
    matches!(Value::read(answer.reply), Some(Value::Error(_)))
}

/// One that is not null. Which one follows from what they are, so that no node is always the one.
fn any_value<'a>(answers: &[Answer<'a>]) -> &'a [u8] {
    let values =
        || answers.iter().map(|answer| answer.reply).filter(|reply| Value::read(reply) != Some(Value::Null));
    // FNV-1a, to spread and not to hide.
    let hash = values().flatten().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let place = usize::try_from(hash >> 33).unwrap_or(0).checked_rem(values().count()).unwrap_or(0);
    values().nth(place).or_else(|| answers.first().map(|answer| answer.reply)).unwrap_or_default()
}

fn concat(answers: &[Answer<'_>]) -> Merged {
    let lists = lists(answers)?;
    // Neither grown nor shrunk: either would be another copy.
    let bytes = lists.iter().map(|items| items.bytes().len()).sum::<usize>();
    let mut out = Vec::with_capacity(bytes + HEADER);
    header_like(&mut out, answers, lists.iter().map(Items::len).sum());
    lists.iter().for_each(|items| out.extend_from_slice(items.bytes()));
    Ok(out)
}

fn distinct(answers: &[Answer<'_>]) -> Merged {
    let mut seen = HashSet::new();
    let items: Vec<&[u8]> = lists(answers)?.into_iter().flatten().filter(|item| seen.insert(*item)).collect();
    Ok(listed(answers, &items))
}

/// The children of each reply; all must be aggregates.
fn lists<'a>(answers: &[Answer<'a>]) -> Result<Vec<Items<'a>>, Failure> {
    let items = |answer: &Answer<'a>| Value::read(answer.reply)?.items();
    answers.iter().map(|answer| items(answer).ok_or(Failure::Unlike)).collect()
}

/// An aggregate of these children, of the kind of the first reply.
fn listed(answers: &[Answer<'_>], items: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.iter().map(|item| item.len()).sum::<usize>() + HEADER);
    header_like(&mut out, answers, items.len());
    items.iter().for_each(|item| out.extend_from_slice(item));
    out
}

/// The first line of an aggregate of `count` children (of a map: keys and values) like the first reply.
fn header_like(out: &mut Vec<u8>, answers: &[Answer<'_>], count: usize) {
    header(out, answers.first().map_or(b"*", |answer| answer.reply), count);
}

/// The first line of an aggregate of `count` children, of the kind of the frame `like`.
fn header(out: &mut Vec<u8>, like: &[u8], count: usize) {
    let marker = marker(like);
    // Writing to a vector cannot fail.
    let _ = write!(out, "{}{}\r\n", char::from(marker), if marker == b'%' { count / 2 } else { count });
}

/// A text of the kind of the frame `like`: verbatim, or bulk.
fn text(like: &[u8], text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 32);
    if marker(like) == b'=' {
        let _ = write!(out, "={}\r\ntxt:", text.len() + 4);
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    } else {
        encode::bulk(&mut out, text);
    }
    out
}

fn marker(frame: &[u8]) -> u8 {
    frame.first().copied().unwrap_or(b'*')
}
