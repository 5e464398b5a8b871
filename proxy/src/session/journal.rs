//! What a session writes down: counts by command, each refused or failed command, its end.

use keystile_model::audit::{CommandCount, EventKind};
use keystile_model::role::AuditLevel;
use keystile_resp::command::CommandId;

use super::expected::{Label, UNKNOWN};
use crate::audit::{Counts, Facts, Lines, Particulars, Sink};

/// Different failures that are counted apart between two summaries; the rest is counted together.
const MOST_FAILURES: usize = 32;

#[derive(Debug)]
struct Failure {
    label: Label,
    code: String,
    message: String,
    /// Since it was last written down.
    repeated: u64,
}

/// Bytes of lines that are handed on although more of the same read follows.
const MOST_WAITING: usize = 32 * 1024;

/// The commands of one read, where each is written down.
#[derive(Debug)]
struct Queries {
    lines: Lines,
    /// The last one, where its name says it all.
    last: Option<Label>,
    /// When they were read.
    time: String,
}

/// The books of one session.
#[derive(Debug)]
pub struct Journal {
    queries: Option<Box<Queries>>,
    facts: Facts,
    sink: Sink,
    level: AuditLevel,
    counts: Vec<(Label, CommandCount)>,
    last: usize,
    failures: Vec<Failure>,
    /// Bytes from and to the client since the start.
    bytes: (u64, u64),
    commands: u64,
    refused: u64,
}

impl Journal {
    /// Opens the books.
    #[must_use]
    pub fn new(facts: Facts, sink: Sink, level: AuditLevel) -> Self {
        Self {
            queries: None,
            facts,
            sink,
            level,
            counts: Vec::new(),
            last: 0,
            failures: Vec::new(),
            bytes: (0, 0),
            commands: 0,
            refused: 0,
        }
    }

    /// Whether each command is written down.
    #[must_use]
    pub fn wants_each(&self) -> bool {
        self.level >= AuditLevel::Commands
    }

    /// Whether arguments are written down.
    #[must_use]
    pub fn wants_arguments(&self) -> bool {
        self.level >= AuditLevel::Full
    }

    /// Who and what it is about.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Commands of the client so far, and how many of them were refused here.
    #[must_use]
    pub fn commands(&self) -> (u64, u64) {
        (self.commands, self.refused)
    }

    /// A command of the client's.
    #[inline]
    pub fn request(&mut self, label: Label, bytes: usize) {
        self.commands += 1;
        self.bytes.0 += bytes as u64;
        let count = self.count(label);
        count.count += 1;
        count.bytes_in += bytes as u64;
    }

    /// More bytes of a command.
    #[inline]
    pub fn request_bytes(&mut self, label: Label, bytes: usize) {
        self.bytes.0 += bytes as u64;
        self.count(label).bytes_in += bytes as u64;
    }

    /// Bytes of a reply.
    #[inline]
    pub fn reply(&mut self, label: Label, bytes: usize) {
        self.bytes.1 += bytes as u64;
        self.count(label).bytes_out += bytes as u64;
    }

    /// Bytes that answer no command.
    pub fn pushed(&mut self, bytes: usize) {
        self.bytes.1 += bytes as u64;
    }

    /// Writes a command down by its name.
    #[inline]
    pub fn query_named(&mut self, label: Label) {
        match &mut self.queries {
            Some(queries) if queries.last == Some(label) => queries.lines.again(),
            _ => {
                self.query(&name_of(label));
                if let Some(queries) = &mut self.queries {
                    queries.last = Some(label);
                }
            }
        }
    }

    /// Writes a command down, with what may be shown of it. The same several times in a row is one line.
    pub fn query(&mut self, shown: &str) {
        if self.queries.is_none() {
            let lines = self.facts.lines();
            self.queries = Some(Box::new(Queries { lines, last: None, time: String::new() }));
        }
        let Some(queries) = &mut self.queries else { return };
        queries.last = None;
        if queries.lines.is_again(shown) {
            queries.lines.again();
            return;
        }
        if queries.lines.waiting() > MOST_WAITING {
            self.hand_on();
        }
        let Some(queries) = &mut self.queries else { return };
        if queries.time.is_empty() {
            queries.time = self.facts.time();
        }
        queries.lines.push(shown, self.facts.index(), &queries.time);
    }

    /// What was read at once is written down.
    #[inline]
    pub fn hand_on(&mut self) {
        let Some(queries) = &mut self.queries else { return };
        let (lines, count) = queries.lines.take(self.facts.index(), &queries.time);
        queries.time.clear();
        queries.last = None;
        if count > 0 {
            self.sink.send_lines(&lines, count);
        }
    }

    /// Behind the commands that were before it.
    fn send(&mut self, kind: EventKind, success: bool, particulars: &Particulars<'_>) {
        let now = self.facts.time();
        self.send_at(&now, kind, success, particulars);
    }

    fn send_at(&mut self, time: &str, kind: EventKind, success: bool, particulars: &Particulars<'_>) {
        self.hand_on();
        self.sink.send(&self.facts.event_at(time, kind, success, particulars));
    }

    fn send_failure(&mut self, failure: &Failure, repeated: Option<u64>) {
        let particulars = Particulars {
            db_query: &name_of(failure.label),
            error: &failure.code,
            message: &failure.message,
            repeated,
            ..Particulars::default()
        };
        self.send(EventKind::QueryFailed, false, &particulars);
    }

    /// A command that we refused.
    pub fn refused(&mut self, label: Label, rule: &str, text: &str) {
        self.refused += 1;
        self.failed(label, rule, text);
    }

    /// A command that failed: the first of its kind is written at once, the others are counted.
    pub fn failed(&mut self, label: Label, code: &str, text: &str) {
        self.count(label).errors += 1;
        let same = self.failures.iter_mut().find(|failure| failure.label == label && failure.code == code);
        if let Some(failure) = same {
            failure.repeated += 1;
            return;
        }
        if self.failures.len() >= MOST_FAILURES {
            if let Some(last) = self.failures.last_mut() {
                last.repeated += 1;
            }
            return;
        }
        let failure = Failure { label, code: code.to_owned(), message: text.to_owned(), repeated: 0 };
        self.send_failure(&failure, None);
        self.failures.push(failure);
    }

    /// Writes down what was counted since the last time.
    pub fn summarise(&mut self) {
        for failure in std::mem::take(&mut self.failures) {
            if failure.repeated > 0 {
                self.send_failure(&failure, Some(failure.repeated));
            }
        }
        self.last = 0;
        let counts = std::mem::take(&mut self.counts);
        if counts.is_empty() || self.level < AuditLevel::Summary {
            return;
        }
        let commands: Vec<_> = counts.into_iter().map(|(label, count)| (name_of(label), count)).collect();
        let particulars = Particulars { commands: Counts(&commands), ..Particulars::default() };
        self.send(EventKind::SessionSummary, true, &particulars);
    }

    /// Closes the books. `error` is empty where the client just left.
    pub fn close(&mut self, error: &str, message: &str) {
        self.summarise();
        let now = self.facts.time();
        let particulars = Particulars {
            error,
            message,
            bytes_in: Some(self.bytes.0),
            bytes_out: Some(self.bytes.1),
            session_start: &self.facts.started(),
            session_stop: &now,
            duration_us: self.facts.age_us(),
            ..Particulars::default()
        };
        self.send_at(&now, EventKind::SessionEnd, true, &particulars);
    }

    /// Says that the client sent what is no RESP.
    pub fn malformed(&mut self, text: &str) {
        let particulars = Particulars { error: "malformed", message: text, ..Particulars::default() };
        self.send(EventKind::MalformedPacket, false, &particulars);
    }

    #[inline]
    fn count(&mut self, label: Label) -> &mut CommandCount {
        let at = match self.counts.get(self.last) {
            Some((last, _)) if *last == label => self.last,
            _ => match self.counts.binary_search_by_key(&label, |(label, _)| *label) {
                Ok(at) => at,
                Err(at) => {
                    self.counts.insert(at, (label, CommandCount::default()));
                    at
                }
            },
        };
        self.last = at;
        &mut self.counts[at].1
    }
}

/// A command's name for people; commands that the table does not know go together.
#[must_use]
pub fn name_of(label: Label) -> String {
    if label == UNKNOWN {
        return "(unknown)".to_owned();
    }
    CommandId::new(label).map_or_else(String::new, CommandId::display_name)
}
