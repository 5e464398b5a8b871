//! Every metric of the proxy, by name, here and in docs/METRICS.md. All of them exist at 0 from the start, and
//! labels come from enums: nothing that a client types becomes a label.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counts up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The count.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds; negative to take away.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Sets.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A counter for each of a fixed list of words.
#[derive(Debug)]
pub struct Counters<const N: usize> {
    words: [&'static str; N],
    counts: [Counter; N],
}

impl<const N: usize> Counters<N> {
    fn new(words: [&'static str; N]) -> Self {
        Self { words, counts: std::array::from_fn(|_| Counter::default()) }
    }

    /// Adds one to the counter of a word; words that are not on the list count as the last one.
    pub fn add(&self, word: &str) {
        let at = self.words.iter().position(|known| *known == word).unwrap_or(N - 1);
        if let Some(counter) = self.counts.get(at) {
            counter.add(1);
        }
    }

    /// The count of a word; 0 for one that is not on the list.
    #[must_use]
    pub fn value(&self, word: &str) -> u64 {
        let at = self.words.iter().position(|known| *known == word);
        at.and_then(|at| self.counts.get(at)).map_or(0, Counter::value)
    }
}

/// Upper bounds of the buckets of [`Metrics::dial_seconds`].
const DIAL_BOUNDS: [f64; 8] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Time spent, in buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; DIAL_BOUNDS.len()],
    count: Counter,
    micros: Counter,
}

impl Histogram {
    /// Adds one observation.
    pub fn observe(&self, span: std::time::Duration) {
        let seconds = span.as_secs_f64();
        for (bound, bucket) in DIAL_BOUNDS.iter().zip(&self.buckets) {
            if seconds <= *bound {
                bucket.add(1);
            }
        }
        self.count.add(1);
        self.micros.add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }
}

macro_rules! metrics {
    ($( $(#[$doc:meta])* $field:ident: $type:ty = $make:expr, $name:literal, $kind:literal, $label:literal; )*) => {
        /// The proxy's metrics.
        #[derive(Debug)]
        pub struct Metrics { $( $(#[$doc])* pub $field: $type, )* }

        impl Default for Metrics {
            fn default() -> Self { Self { $( $field: $make, )* } }
        }

        impl Metrics {
            /// All names, with their kinds.
            pub const NAMES: &'static [(&'static str, &'static str)] = &[$(($name, $kind)),*];

            /// The text form of Prometheus.
            #[must_use]
            pub fn render(&self) -> String {
                let mut out = String::new();
                $( let _ = writeln!(out, "# TYPE {} {}", $name, $kind);
                   self.$field.render(&mut out, $name, $label); )*
                out
            }
        }
    };
}

trait Render {
    fn render(&self, out: &mut String, name: &str, label: &str);
}

impl Render for Counter {
    fn render(&self, out: &mut String, name: &str, _: &str) {
        let _ = writeln!(out, "{name} {}", self.value());
    }
}

impl Render for Gauge {
    fn render(&self, out: &mut String, name: &str, _: &str) {
        let _ = writeln!(out, "{name} {}", self.value());
    }
}

impl<const N: usize> Render for Counters<N> {
    fn render(&self, out: &mut String, name: &str, label: &str) {
        for (word, count) in self.words.iter().zip(&self.counts) {
            let _ = writeln!(out, "{name}{{{label}=\"{word}\"}} {}", count.value());
        }
    }
}

impl Render for Histogram {
    fn render(&self, out: &mut String, name: &str, _: &str) {
        for (bound, bucket) in DIAL_BOUNDS.iter().zip(&self.buckets) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {}", bucket.value());
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.count.value());
        #[expect(clippy::cast_precision_loss, reason = "a sum of seconds for a graph")]
        let _ = writeln!(out, "{name}_sum {}", self.micros.value() as f64 / 1e6);
        let _ = writeln!(out, "{name}_count {}", self.count.value());
    }
}

metrics! {
    /// TCP connections accepted.
    connections: Counter = Counter::default(), "keystile_connections_total", "counter", "";
    /// TCP connections that are open now.
    connections_open: Gauge = Gauge::default(), "keystile_connections_open", "gauge", "";
    /// TLS handshakes with clients, by outcome.
    handshakes: Counters<5> = Counters::new(["full", "resumed", "timeout", "failed", "other"]),
        "keystile_handshakes_total", "counter", "outcome";
    /// Sessions that began.
    sessions: Counter = Counter::default(), "keystile_sessions_total", "counter", "";
    /// Sessions that are live now.
    sessions_open: Gauge = Gauge::default(), "keystile_sessions_open", "gauge", "";
    /// Connections that were refused, by kind.
    refusals: Counters<21> = Counters::new([
        "not_signed_in", "certificate", "not_ready", "stale_policy", "route", "unknown_database", "db_user",
        "denied", "locked", "unknown_user", "limit", "unsupported", "dns", "connect", "tls", "auth",
        "secret", "token", "host_rule", "protocol", "other",
    ]), "keystile_refusals_total", "counter", "kind";
    /// Connections that a limit turned away or ended, by limit.
    limits: Counters<13> = Counters::new([
        "proxy", "user", "database", "failed_sign_ins", "first_byte", "handshake", "auth", "before_auth",
        "request", "reply", "slow_client", "merging", "other",
    ]),
        "keystile_limit_refusals_total", "counter", "limit";
    /// Sessions that ended, by reason.
    session_ends: Counters<17> = Counters::new([
        "client_closed", "client_failed", "quit", "malformed", "server_closed", "server_malformed", "lock",
        "denied", "certificate_expired", "database_gone", "idle_timeout", "stale_policy", "shutdown",
        "iam_life", "slow_client", "sign_in", "other",
    ]), "keystile_session_ends_total", "counter", "reason";
    /// Commands of clients.
    commands: Counter = Counter::default(), "keystile_commands_total", "counter", "";
    /// Commands that were refused by rule or by nature.
    commands_refused: Counter = Counter::default(), "keystile_commands_refused_total", "counter", "";
    /// Bytes from clients, after decryption.
    bytes_in: Counter = Counter::default(), "keystile_client_received_bytes_total", "counter", "";
    /// Bytes to clients, before encryption.
    bytes_out: Counter = Counter::default(), "keystile_client_sent_bytes_total", "counter", "";
    /// Time from the decision to `+OK` of the cache.
    dial_seconds: Histogram = Histogram::default(), "keystile_dial_seconds", "histogram", "";
    /// Sign-ins to caches on live connections.
    sign_ins_again: Counter = Counter::default(), "keystile_reauthentications_total", "counter", "";
    /// Reads of secrets, by outcome.
    secret_reads: Counters<5> = Counters::new(["ok", "unavailable", "missing", "refused", "other"]),
        "keystile_secret_reads_total", "counter", "outcome";
    /// Sign-ins that were tried again with another password after the cache had refused one.
    passwords_retried: Counters<3> = Counters::new(["fresh", "pending", "other"]),
        "keystile_passwords_retried_total", "counter", "with";
    /// Sign-ins for which no password was left: the cache takes none that Secrets Manager has.
    passwords_refused: Counters<3> = Counters::new(["managed", "shared", "other"]),
        "keystile_passwords_refused_total", "counter", "kind";
    /// Logins at nodes that rotation asked for, by outcome of the password on its way.
    proofs: Counters<4> = Counters::new(["ok", "refused", "unreachable", "other"]),
        "keystile_proofs_total", "counter", "outcome";
    /// Connections to nodes of clusters that sessions began to make, beside their first one.
    cluster_links: Counter = Counter::default(), "keystile_cluster_links_total", "counter", "";
    /// Connections to nodes of clusters that could not be made.
    cluster_links_failed: Counter = Counter::default(), "keystile_cluster_links_failed_total", "counter", "";
    /// Connections to nodes of clusters that were lost.
    cluster_links_lost: Counter = Counter::default(), "keystile_cluster_links_lost_total", "counter", "";
    /// Commands that a node of a cluster sent elsewhere or put off, and that were sent again, by its word.
    cluster_redirects: Counters<4> = Counters::new(["moved", "ask", "later", "other"]),
        "keystile_cluster_redirects_total", "counter", "word";
    /// Sign-ins to caches on live connections that failed; they are tried again.
    sign_ins_again_failed: Counter = Counter::default(),
        "keystile_reauthentications_failed_total", "counter", "";
    /// Age of the access feed, in milliseconds; -1 before the first load.
    access_age_ms: Gauge = Gauge::default(), "keystile_policy_access_age_milliseconds", "gauge", "";
    /// Age of the inventory feed, in milliseconds; -1 before the first load.
    inventory_age_ms: Gauge = Gauge::default(), "keystile_policy_inventory_age_milliseconds", "gauge", "";
    /// Databases known.
    databases: Gauge = Gauge::default(), "keystile_databases", "gauge", "";
    /// Audit events queued.
    audit_events: Counter = Counter::default(), "keystile_audit_events_total", "counter", "";
    /// Audit events lost: the queue was full or the file could not be written.
    audit_dropped: Counter = Counter::default(), "keystile_audit_dropped_total", "counter", "";
    /// Probes of databases, by outcome.
    probes: Counters<2> = Counters::new(["ok", "unreachable"]),
        "keystile_probes_total", "counter", "outcome";
    /// Heartbeats that could not be written.
    heartbeats_failed: Counter = Counter::default(), "keystile_heartbeats_failed_total", "counter", "";
    /// Times that the host certificate was read anew.
    certificate_reloads: Counter = Counter::default(), "keystile_host_certificate_reloads_total", "counter", "";
    /// Times that a new host certificate could not be used, each fault once.
    certificate_reloads_failed: Counter = Counter::default(),
        "keystile_host_certificate_reloads_failed_total", "counter", "";
    /// Seconds until the host certificate ends; negative once it has.
    certificate_left_s: Gauge = Gauge::default(), "keystile_host_certificate_seconds_left", "gauge", "";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_exists_at_zero_and_is_documented() {
        let text = Metrics::default().render();
        let documented = include_str!("../../docs/METRICS.md");
        for (name, kind) in Metrics::NAMES {
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
            assert!(documented.contains(&format!("`{name}`")), "{name} is missing in docs/METRICS.md");
        }
        assert!(text.contains("keystile_refusals_total{kind=\"denied\"} 0\n"));
        // And nothing is documented that is not there, nor under another kind.
        for line in documented.lines().filter(|line| line.starts_with("| `keystile_")) {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let name = cells.next().unwrap().trim_matches('`');
            let kind = cells.next().unwrap();
            assert!(Metrics::NAMES.contains(&(name, kind)), "docs/METRICS.md: {name} {kind}");
        }
    }

    #[test]
    fn words_of_the_session_and_of_limits_have_a_series() {
        let metrics = Metrics::default();
        for word in [
            "proxy",
            "user",
            "database",
            "failed_sign_ins",
            "first_byte",
            "handshake",
            "auth",
            "before_auth",
            "request",
            "reply",
            "slow_client",
            "merging",
        ] {
            metrics.limits.add(word);
            assert_eq!(metrics.limits.value(word), 1);
        }
        assert_eq!(metrics.limits.value("other"), 0);
    }
}
