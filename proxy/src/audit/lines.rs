//! Events of commands, made into lines where they happen.
//!
//! At level `commands` a session may write hundreds of thousands of events a second, which differ in a handful of
//! fields. So a line is put together from what was made into JSON before, and the same command several times in a
//! row, read at once, is one line that says how often.

use std::io::Write as _;
use std::sync::Arc;

use keystile_model::audit::EventKind;
use uuid::Uuid;

use super::event::Head;

/// The lines of one session that are not handed on yet.
#[derive(Debug)]
pub struct Lines {
    sid: Uuid,
    /// The fields that all events of the session have, each with a comma in front.
    common: Arc<[u8]>,
    bytes: Vec<u8>,
    count: u64,
    /// The last command, as JSON, and how often it came in a row.
    last: Vec<u8>,
    repeated: u64,
}

impl Lines {
    /// For the session `sid`, whose events have these fields, each with a comma in front.
    #[must_use]
    pub(super) fn new(sid: Uuid, common: Arc<[u8]>) -> Self {
        Self { sid, common, bytes: Vec::new(), count: 0, last: Vec::new(), repeated: 0 }
    }

    /// Whether the next command is this one again.
    #[must_use]
    pub fn is_again(&self, query: &str) -> bool {
        self.repeated > 0
            && self.last.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""))
                == Some(query.as_bytes())
    }

    /// The last command came again.
    pub fn again(&mut self) {
        self.repeated += 1;
    }

    /// Another command. `index` counts the events of the session; `time` is RFC 3339.
    pub fn push(&mut self, query: &str, index: &mut u64, time: &str) {
        self.settle(index, time);
        self.last.clear();
        // Into a Vec nothing fails.
        let _ = serde_json::to_writer(&mut self.last, query);
        self.repeated = 1;
    }

    /// The last command becomes a line.
    fn settle(&mut self, index: &mut u64, time: &str) {
        if self.repeated == 0 {
            return;
        }
        let uid = unique(self.sid, *index);
        let head = Head { kind: EventKind::Query, success: true, time, uid, index: *index };
        let out = &mut self.bytes;
        head.begin(out, &self.common);
        out.extend_from_slice(b",\"db_query\":");
        out.extend_from_slice(&self.last);
        if self.repeated > 1 {
            // Into a Vec nothing fails.
            let _ = write!(out, ",\"repeated\":{}", self.repeated);
        }
        out.extend_from_slice(b"}\n");
        *index += 1;
        self.count += 1;
        self.repeated = 0;
    }

    /// All whole lines, and how many. Empty where there are none.
    #[must_use]
    pub fn take(&mut self, index: &mut u64, time: &str) -> (Vec<u8>, u64) {
        self.settle(index, time);
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.count))
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.bytes.len()
    }
}

/// An id that no other event has: of the random one of its session and its own index. UUID version 8, which leaves
/// the content to its maker (RFC 9562).
pub(super) fn unique(sid: Uuid, index: u64) -> Uuid {
    let (high, low) = sid.as_u64_pair();
    // The two top bits of the lower half are the variant's; an index never reaches them.
    Uuid::from_u64_pair((high & !0xf000) | 0x8000, low ^ (index & (u64::MAX >> 2)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use keystile_model::audit::AuditEvent;
    use time::OffsetDateTime;

    use super::*;

    const COMMON: &str = r#","cluster_name":"keystile","user":"al\"ice","roles":["access","\u0001"]"#;

    fn event() -> AuditEvent {
        let (kind, at) = (EventKind::Query, OffsetDateTime::UNIX_EPOCH);
        let mut event = AuditEvent::new(kind, true, at, Uuid::nil(), "keystile", "al\"ice");
        event.roles = vec!["access".to_owned(), "\u{1}".to_owned()];
        event
    }

    #[test]
    fn lines_are_the_events_that_they_stand_for() {
        let sid = Uuid::new_v4();
        let mut lines = Lines::new(sid, COMMON.as_bytes().into());
        let mut index = 5;
        for query in ["GET", "GET", "GET", "SET \"a\\\" \n", "GET"] {
            if lines.is_again(query) {
                lines.again();
            } else {
                lines.push(query, &mut index, "2026-01-02T03:04:05.678Z");
            }
        }
        let (bytes, count) = lines.take(&mut index, "2026-01-02T03:04:06.000Z");
        let seen: Vec<AuditEvent> = bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!((seen.len(), count, index), (3, 3, 8));
        for (number, (query, repeated)) in
            [("GET", Some(3)), ("SET \"a\\\" \n", None), ("GET", None)].into_iter().enumerate()
        {
            let mut expected = event();
            expected.uid.clone_from(&seen[number].uid);
            expected.time.clone_from(&seen[number].time);
            expected.ei = 5 + number as u64;
            expected.db_query = query.to_owned();
            expected.repeated = repeated;
            assert_eq!(seen[number], expected);
        }
        assert_eq!(seen[2].time, "2026-01-02T03:04:06.000Z");
        let ids: HashSet<_> = seen.iter().map(|event| event.uid.clone()).collect();
        assert_eq!(ids.len(), 3);
        assert_eq!(lines.take(&mut index, ""), (Vec::new(), 0));
    }

    #[test]
    fn ids_differ() {
        let sid = Uuid::new_v4();
        let ids: HashSet<Uuid> = (0..10_000).map(|index| unique(sid, index)).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 8));
    }
}
