//! What servers report of themselves: slow commands, latency, functions, texts for people.

use std::collections::BTreeMap;

use keystile_resp::encode;

use super::{Answer, Failure, Merged, header, header_like, listed, lists, text};
use crate::cluster::value::{Items, Value};

/// `FUNCTION STATS`: the reply of a node on which one runs, else the first.
pub(super) fn function_stats<'a>(answers: &[Answer<'a>]) -> &'a [u8] {
    let runs = |answer: &&Answer<'a>| {
        let running = Value::read(answer.reply).and_then(|reply| reply.items()?.next_pair());
        running.is_some_and(|(_, running)| running != Value::Null)
    };
    let found = answers.iter().find(runs).or(answers.first());
    found.map(|answer| answer.reply).unwrap_or_default()
}

/// Entries with a time, the newest first, at most so many.
pub(super) fn newest(answers: &[Answer<'_>], most: usize) -> Merged {
    let mut entries: Vec<&[u8]> = lists(answers)?.into_iter().flatten().collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(time_of(entry)));
    entries.truncate(most);
    Ok(listed(answers, &entries))
}

/// The time of an entry of `SLOWLOG GET` (its second element) or of `ACL LOG` (by name).
fn time_of(entry: &[u8]) -> i64 {
    let Some(items) = Value::read(entry).and_then(|entry| entry.items()) else { return 0 };
    let mut fields = items;
    while let Some((name, value)) = fields.next_pair() {
        if name.text() == Some(b"timestamp-created") {
            return value.integer().unwrap_or(0);
        }
    }
    second(items).unwrap_or(0)
}

fn second(mut items: Items<'_>) -> Option<i64> {
    items.next();
    items.next_value()?.integer()
}

/// `LATENCY HISTORY`: pairs of time and latency, the oldest first.
pub(super) fn by_time(answers: &[Answer<'_>]) -> Merged {
    let mut entries: Vec<&[u8]> = lists(answers)?.into_iter().flatten().collect();
    entries.sort_by_key(|entry| Value::read(entry).and_then(|entry| entry.items()?.next_value()?.integer()));
    Ok(listed(answers, &entries))
}

/// `LATENCY LATEST`: event, time, latest, worst, and since 8.1 the sum and the count. For each event that of
/// the latest time, with the worst of all, and with the sums.
pub(super) fn latency_latest(answers: &[Answer<'_>]) -> Merged {
    let mut events: BTreeMap<&[u8], Vec<i64>> = BTreeMap::new();
    for entry in lists(answers)?.into_iter().flatten() {
        let mut items = Value::read(entry).and_then(|entry| entry.items()).ok_or(Failure::Unlike)?;
        let event = items.next().ok_or(Failure::Unlike)?;
        let numbers = items.map(|item| Value::read(item)?.integer()).collect::<Option<Vec<_>>>();
        let numbers = numbers.ok_or(Failure::Unlike)?;
        let Some(known) = events.get_mut(event) else {
            events.insert(event, numbers);
            continue;
        };
        let is_later = numbers.first() > known.first();
        for (place, (known, number)) in known.iter_mut().zip(numbers).enumerate() {
            match place {
                0 | 1 if is_later => *known = number,
                0 | 1 => {}
                2 => *known = number.max(*known),
                _ => *known = known.saturating_add(number),
            }
        }
    }
    let mut out = Vec::new();
    header_like(&mut out, answers, events.len());
    for (event, numbers) in events {
        encode::array_header(&mut out, numbers.len() + 1);
        out.extend_from_slice(event);
        numbers.into_iter().for_each(|number| encode::integer(&mut out, number));
    }
    Ok(out)
}

/// What `LATENCY HISTOGRAM` says of one command, of all nodes.
#[derive(Default)]
struct Histogram {
    calls: i64,
    /// Each node's: how many calls took at most so many microseconds.
    nodes: Vec<BTreeMap<i64, i64>>,
}

/// `LATENCY HISTOGRAM`: for each command the calls, and how many of them took at most so long, summed.
pub(super) fn histogram(answers: &[Answer<'_>]) -> Merged {
    let mut commands: BTreeMap<&[u8], Histogram> = BTreeMap::new();
    let mut like: Option<&[u8]> = None;
    for mut items in lists(answers)? {
        while !items.is_empty() {
            let name = items.next_value().and_then(|name| name.text()).ok_or(Failure::Unlike)?;
            let raw = items.next().ok_or(Failure::Unlike)?;
            like.get_or_insert(raw);
            let (calls, buckets) = read_histogram(raw).ok_or(Failure::Unlike)?;
            let known = commands.entry(name).or_default();
            known.calls = known.calls.saturating_add(calls);
            known.nodes.push(buckets);
        }
    }
    let mut out = Vec::new();
    header_like(&mut out, answers, commands.len() * 2);
    for (name, histogram) in commands {
        encode::bulk(&mut out, name);
        histogram.write(&mut out, like.unwrap_or(b"*"));
    }
    Ok(out)
}

impl Histogram {
    fn write(&self, out: &mut Vec<u8>, like: &[u8]) {
        header(out, like, 4);
        encode::bulk(out, b"calls");
        encode::integer(out, self.calls);
        encode::bulk(out, b"histogram_usec");
        let mut bounds: Vec<i64> = self.nodes.iter().flat_map(BTreeMap::keys).copied().collect();
        bounds.sort_unstable();
        bounds.dedup();
        header(out, like, bounds.len() * 2);
        for bound in bounds {
            // Counts grow with the bounds; a bound that a node leaves out has the count of the one below.
            let count =
                |node: &BTreeMap<i64, i64>| node.range(..=bound).next_back().map_or(0, |(_, count)| *count);
            encode::integer(out, bound);
            encode::integer(out, self.nodes.iter().map(count).fold(0, i64::saturating_add));
        }
    }
}

fn read_histogram(raw: &[u8]) -> Option<(i64, BTreeMap<i64, i64>)> {
    let mut fields = Value::read(raw)?.items()?;
    let (_, calls) = fields.next_pair()?;
    let (_, histogram) = fields.next_pair()?;
    let mut items = histogram.items()?;
    let mut buckets = BTreeMap::new();
    while !items.is_empty() {
        let (bound, count) = items.next_pair()?;
        buckets.insert(bound.integer()?, count.integer()?);
    }
    Some((calls.integer()?, buckets))
}

/// Texts for people, each below the name of its node.
pub(super) fn texts(answers: &[Answer<'_>]) -> Merged {
    let mut all = Vec::new();
    for answer in answers {
        let words = Value::read(answer.reply).and_then(|reply| reply.text()).ok_or(Failure::Unlike)?;
        if !all.is_empty() {
            all.push(b'\n');
        }
        all.extend_from_slice(format!("# {}\n", answer.node).as_bytes());
        all.extend_from_slice(words.trim_ascii_end());
        all.push(b'\n');
    }
    Ok(text(answers.first().map(|answer| answer.reply).unwrap_or_default(), &all))
}
