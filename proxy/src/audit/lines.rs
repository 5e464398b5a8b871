//! Events of commands, made into lines where they happen.
//!
//! At level `commands` a session may write hundreds of thousands of events a second, which differ in a handful of
//! fields. So a line is put together from the pieces of one event that was serialized before, and the same command
//! several times in a row, read at once, is one line that says how often.

use std::io::Write as _;

use keystile_model::audit::AuditEvent;
use uuid::Uuid;

/// A serialized event, cut where its lines differ.
#[derive(Debug)]
struct Pieces {
    /// Up to the time.
    start: Vec<u8>,
    /// From there to the unique id.
    to_uid: Vec<u8>,
    /// From there to the index.
    to_index: Vec<u8>,
    /// From there to the command, quotes not included.
    to_query: Vec<u8>,
    /// From there to the count, the name of that field not included.
    to_repeated: Vec<u8>,
    /// From there to the end.
    end: Vec<u8>,
}

const REPEATED: &str = ",\"repeated\":";

impl Pieces {
    /// Those of an event. `None` where it cannot be cut, which never happens.
    fn of(mut event: AuditEvent) -> Option<Self> {
        // Nobody can know these, so no field that somebody chose can hold one of them.
        let [time, uid, query] = [(); 3].map(|()| Uuid::new_v4().to_string());
        (event.ei, event.repeated) = (u64::MAX, Some(u64::MAX - 1));
        event.time.clone_from(&time);
        event.uid.clone_from(&uid);
        event.db_query.clone_from(&query);
        let text = serde_json::to_string(&event).ok()?;
        let (start, rest) = text.split_once(&time)?;
        let (to_uid, rest) = rest.split_once(&uid)?;
        let (to_index, rest) = rest.split_once(&u64::MAX.to_string())?;
        let (to_query, rest) = rest.split_once(&format!("\"{query}\""))?;
        let (to_repeated, end) = rest.split_once(&format!("{REPEATED}{}", u64::MAX - 1))?;
        let [start, to_uid, to_index, to_query, to_repeated, end] =
            [start, to_uid, to_index, to_query, to_repeated, end].map(|piece| piece.as_bytes().to_vec());
        Some(Self { start, to_uid, to_index, to_query, to_repeated, end })
    }
}

/// The lines of one session that are not handed on yet.
#[derive(Debug)]
pub struct Lines {
    pieces: Pieces,
    sid: Uuid,
    bytes: Vec<u8>,
    count: u64,
    /// The last command, as JSON, and how often it came in a row.
    last: Vec<u8>,
    repeated: u64,
}

impl Lines {
    /// For events like this one of the session `sid`.
    #[must_use]
    pub fn like(event: AuditEvent, sid: Uuid) -> Option<Self> {
        let pieces = Pieces::of(event)?;
        Some(Self { pieces, sid, bytes: Vec::new(), count: 0, last: Vec::new(), repeated: 0 })
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
        let (pieces, out) = (&self.pieces, &mut self.bytes);
        out.extend_from_slice(&pieces.start);
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(&pieces.to_uid);
        let mut uid = Uuid::encode_buffer();
        out.extend_from_slice(unique(self.sid, *index).as_hyphenated().encode_lower(&mut uid).as_bytes());
        out.extend_from_slice(&pieces.to_index);
        let _ = write!(out, "{index}");
        out.extend_from_slice(&pieces.to_query);
        out.extend_from_slice(&self.last);
        out.extend_from_slice(&pieces.to_repeated);
        if self.repeated > 1 {
            let _ = write!(out, "{REPEATED}{}", self.repeated);
        }
        out.extend_from_slice(&pieces.end);
        out.push(b'\n');
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

    use keystile_model::audit::EventKind;
    use time::OffsetDateTime;

    use super::*;

    fn event() -> AuditEvent {
        let (kind, at) = (EventKind::Query, OffsetDateTime::UNIX_EPOCH);
        let mut event = AuditEvent::new(kind, true, at, Uuid::nil(), "keystile", "al\"ice,\"repeated\":1");
        event.sid = Uuid::new_v4().to_string();
        event.roles = vec!["access".to_owned(), "\u{1}".to_owned()];
        event.db_service = "orders".to_owned();
        event
    }

    #[test]
    fn lines_are_the_events_that_they_stand_for() {
        let sid = Uuid::new_v4();
        let mut lines = Lines::like(event(), sid).unwrap();
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
            expected.sid.clone_from(&seen[number].sid);
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
