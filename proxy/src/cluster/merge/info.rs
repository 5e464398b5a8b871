//! `INFO` of several nodes as one: what counts is summed, what describes is the first node's.
//!
//! Sections and fields stand in the order in which the first node that has them gives them.

use super::{Answer, Failure, Merged, text};
use crate::cluster::value::Value;

/// How the values of a field become one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Join {
    /// The first node's.
    First,
    /// The sum.
    Sum,
    /// The largest.
    Largest,
    /// The smallest.
    Smallest,
    /// Bytes for people, of the field without `_human`.
    Human,
    /// `name=number` parts: sums; what is a mean is made from them.
    Parts,
}

/// Fields that count although no rule says so.
const SUMMED: [&str; 52] = [
    "connected_clients",
    "cluster_connections",
    "maxclients",
    "blocked_clients",
    "tracking_clients",
    "pubsub_clients",
    "watching_clients",
    "clients_in_timeout_table",
    "maxmemory",
    "number_of_cached_scripts",
    "lazyfree_pending_objects",
    "lazyfreed_objects",
    "rdb_changes_since_last_save",
    "rdb_saves",
    "rdb_last_load_keys_expired",
    "rdb_last_load_keys_loaded",
    "aof_rewrites",
    "aof_current_size",
    "aof_base_size",
    "rejected_connections",
    "sync_full",
    "sync_partial_ok",
    "sync_partial_err",
    "expired_keys",
    "expired_time_cap_reached_count",
    "expire_cycle_cpu_milliseconds",
    "evicted_keys",
    "evicted_clients",
    "evicted_scripts",
    "keyspace_hits",
    "keyspace_misses",
    "migrate_cached_sockets",
    "slave_expires_tracked_keys",
    "tracking_total_keys",
    "tracking_total_items",
    "tracking_total_prefixes",
    "unexpected_error_replies",
    "dump_payload_sanitizations",
    "client_query_buffer_limit_disconnections",
    "client_output_buffer_limit_disconnections",
    "reply_buffer_shrinks",
    "reply_buffer_expands",
    "eventloop_cycles",
    "eventloop_duration_sum",
    "eventloop_duration_cmd_sum",
    "connected_slaves",
    "repl_backlog_size",
    "repl_backlog_histlen",
    "pubsubshard_channels",
    "mem_aof_buffer",
    "mem_not_counted_for_evict",
    "mem_overhead_db_hashtable_rehashing",
];
/// What the names of fields that count begin with. (`used_memory_peak` is the sum of peaks: an upper bound.)
const SUMMED_STARTS: [&str; 14] = [
    "total_",
    "used_memory",
    "used_cpu_",
    "instantaneous_",
    "mem_clients_",
    "mem_cluster_",
    "mem_total_",
    "mem_replication_",
    "active_defrag_",
    "allocator_a",
    "allocator_muzzy",
    "allocator_resident",
    "acl_access_denied_",
    "io_threaded_",
];
const LARGEST: [&str; 10] = [
    "client_recent_max_input_buffer",
    "client_recent_max_output_buffer",
    "loading",
    "async_loading",
    "rdb_bgsave_in_progress",
    "aof_rewrite_in_progress",
    "latest_fork_usec",
    "pubsub_channels",
    // As `PUBSUB NUMPAT`, and every primary has every function.
    "pubsub_patterns",
    "number_of_functions",
];
const SMALLEST: [&str; 3] = ["uptime_in_seconds", "uptime_in_days", "rdb_last_save_time"];

struct Section<'a> {
    title: &'a str,
    fields: Vec<Field<'a>>,
}

struct Field<'a> {
    name: &'a str,
    value: String,
}

pub(super) fn merge(answers: &[Answer<'_>]) -> Merged {
    let mut merged: Vec<Section<'_>> = Vec::new();
    for answer in answers {
        let words = Value::read(answer.reply).and_then(|reply| reply.text()).ok_or(Failure::Unlike)?;
        let words = std::str::from_utf8(words).map_err(|_| Failure::Unlike)?;
        for section in sections(words) {
            match merged.iter_mut().find(|known| known.title == section.title) {
                Some(known) => known.add(section),
                None => merged.push(section),
            }
        }
    }
    merged.iter_mut().for_each(Section::rewrite_human);
    let first = answers.first().map(|answer| answer.reply).unwrap_or_default();
    Ok(text(first, written(&merged).as_bytes()))
}

fn written(sections: &[Section<'_>]) -> String {
    let mut out = String::new();
    for (place, section) in sections.iter().enumerate() {
        if place > 0 {
            out.push_str("\r\n");
        }
        if !section.title.is_empty() {
            out.push_str(section.title);
            out.push_str("\r\n");
        }
        for Field { name, value } in &section.fields {
            out.push_str(name);
            out.push(':');
            out.push_str(value);
            out.push_str("\r\n");
        }
    }
    out
}

fn sections(words: &str) -> Vec<Section<'_>> {
    let mut sections = Vec::new();
    let mut current = Section { title: "", fields: Vec::new() };
    for line in words.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('#') {
            sections.push(std::mem::replace(&mut current, Section { title: line, fields: Vec::new() }));
        } else if let Some((name, value)) = line.split_once(':') {
            current.fields.push(Field { name, value: value.to_owned() });
        }
    }
    sections.push(current);
    sections.retain(|section| !section.title.is_empty() || !section.fields.is_empty());
    sections
}

impl<'a> Section<'a> {
    fn add(&mut self, other: Section<'a>) {
        for field in other.fields {
            // The order is the same on nodes of one version, so the place is found at the first look.
            match self.fields.iter_mut().find(|known| known.name == field.name) {
                Some(known) => known.value = join(field.name, &known.value, &field.value),
                None if is_of_a_node(field.name) => {}
                None => self.fields.push(field),
            }
        }
    }

    fn rewrite_human(&mut self) {
        let bytes: Vec<(String, String)> = self
            .fields
            .iter()
            .filter_map(|field| {
                let of = field.name.strip_suffix("_human")?;
                let bytes = self.fields.iter().find(|other| other.name == of)?.value.parse().ok()?;
                Some((field.name.to_owned(), human(bytes)))
            })
            .collect();
        for (name, value) in bytes {
            if let Some(field) = self.fields.iter_mut().find(|field| field.name == name) {
                field.value = value;
            }
        }
    }
}

/// `slave0`, `listener1`: a list of one node's own.
fn is_of_a_node(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    stem.len() < name.len() && matches!(stem, "slave" | "replica" | "listener")
}

fn rule(name: &str) -> Join {
    let is_parted = |name: &str| {
        ["cmdstat_", "errorstat_", "latency_percentiles_"].iter().any(|start| name.starts_with(start))
            || name.strip_prefix("db").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    match name {
        _ if is_parted(name) => Join::Parts,
        _ if name.ends_with("_human") => Join::Human,
        _ if name.ends_with("_perc") || name.ends_with("_ratio") => Join::First,
        _ if LARGEST.contains(&name) => Join::Largest,
        _ if SMALLEST.contains(&name) => Join::Smallest,
        _ if SUMMED.contains(&name) || SUMMED_STARTS.iter().any(|start| name.starts_with(start)) => Join::Sum,
        _ if name.ends_with("_bytes") && !name.starts_with("repl") => Join::Sum,
        _ => Join::First,
    }
}

fn join(name: &str, a: &str, b: &str) -> String {
    match rule(name) {
        Join::First | Join::Human => a.to_owned(),
        Join::Sum => sum(a, b),
        Join::Largest => extreme(a, b, |a, b| a >= b),
        Join::Smallest => extreme(a, b, |a, b| a <= b),
        Join::Parts => join_parts(name, a, b),
    }
}

/// The sum of two numbers, with as many decimals as the first has; what is no number stays.
fn sum(a: &str, b: &str) -> String {
    if let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) {
        return a.saturating_add(b).to_string();
    }
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => {
            format!("{:.*}", a.split_once('.').map_or(0, |(_, decimals)| decimals.len()), x + y)
        }
        _ => a.to_owned(),
    }
}

fn extreme(a: &str, b: &str, keeps: fn(f64, f64) -> bool) -> String {
    let keep = match (a.parse(), b.parse()) {
        (Ok(x), Ok(y)) => keeps(x, y),
        _ => true,
    };
    if keep { a.to_owned() } else { b.to_owned() }
}

/// `keys=3,expires=1,avg_ttl=500` and the like.
fn join_parts(name: &str, a: &str, b: &str) -> String {
    let number = |parts: &str, wanted: &str| {
        let value =
            parts.split(',').filter_map(|part| part.split_once('=')).find(|(name, _)| *name == wanted);
        value.and_then(|(_, value)| value.parse::<f64>().ok()).unwrap_or(0.0)
    };
    let mean = |value: &str, weight: &str| {
        let weights = (number(a, weight), number(b, weight));
        let total = weights.0 + weights.1;
        if total > 0.0 { (number(a, value) * weights.0 + number(b, value) * weights.1) / total } else { 0.0 }
    };
    let joined = a.split(',').filter_map(|part| part.split_once('=')).map(|(part, value)| {
        let other = b.split(',').filter_map(|other| other.split_once('=')).find(|(name, _)| *name == part);
        let other = other.map_or("0", |(_, value)| value);
        let joined = match part {
            _ if name.starts_with("latency_") => extreme(value, other, |a, b| a >= b),
            "avg_ttl" => format!("{:.0}", mean("avg_ttl", "expires")),
            "usec_per_call" => format!("{:.2}", mean("usec_per_call", "calls")),
            _ => sum(value, other),
        };
        format!("{part}={joined}")
    });
    joined.collect::<Vec<_>>().join(",")
}

/// Bytes as servers write them for people: `3.21M`.
#[expect(clippy::cast_precision_loss, reason = "two decimals for people")]
fn human(bytes: u64) -> String {
    let units = ["K", "M", "G", "T", "P"];
    if bytes < 1_024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < units.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.2}{}", units.get(unit).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_every_shard_is_not_counted_once_for_each() {
        for (field, joined) in [
            ("pubsub_patterns", "3"),
            ("number_of_functions", "3"),
            ("pubsub_channels", "3"),
            ("pubsubshard_channels", "5"),
            ("number_of_cached_scripts", "5"),
            ("mem_aof_buffer", "5"),
            ("mem_not_counted_for_evict", "5"),
            ("uptime_in_seconds", "2"),
            ("redis_version", "3"),
        ] {
            assert_eq!(join(field, "3", "2"), joined, "{field}");
        }
    }
}
