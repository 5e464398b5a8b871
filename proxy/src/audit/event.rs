//! One event of a connection as a line: what it shares with its siblings was made into JSON before.

use std::io::Write as _;

use keystile_model::audit::{CommandCount, EventKind};
use serde::ser::{Serialize, SerializeMap, Serializer};
use uuid::Uuid;

use super::About;

/// Bytes of an event, so that its line need not grow while it is written.
const USUAL: usize = 1_024;

/// What an event says beside what all of its connection say. What is empty is left out.
#[derive(Debug, Default, serde::Serialize)]
pub struct Particulars<'a> {
    /// What went wrong, for machines.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub error: &'a str,
    /// What went wrong, for people.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub message: &'a str,
    /// The rule that decided.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub rule: &'a str,
    /// The command.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub db_query: &'a str,
    /// How long it took, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// Bytes from the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes to the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How often the same happened since the last such event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    /// When a session began, RFC 3339.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub session_start: &'a str,
    /// When a session ended, RFC 3339.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub session_stop: &'a str,
    /// Counts by command.
    #[serde(skip_serializing_if = "Counts::is_empty")]
    pub commands: Counts<'a>,
}

/// Counts by command, as an object with a field for each.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts<'a>(pub &'a [(String, CommandCount)]);

impl Counts<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Counts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, count) in self.0 {
            map.serialize_entry(name, count)?;
        }
        map.end()
    }
}

/// What all events of a connection say, as they say it.
#[derive(serde::Serialize)]
struct Common<'a> {
    cluster_name: &'a str,
    user: &'a str,
    sid: Uuid,
    #[serde(skip_serializing_if = "str::is_empty")]
    server_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    db_service: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    db_protocol: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    db_uri: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    db_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    db_user: &'a str,
    #[serde(rename = "addr.remote", skip_serializing_if = "str::is_empty")]
    addr_remote: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    roles: &'a [String],
}

/// The fields that all events of the connection `sid` have, each with a comma in front.
pub(super) fn common(sid: Uuid, about: &About) -> Vec<u8> {
    let uri = about.database.as_ref().map(|database| database.endpoint.to_string()).unwrap_or_default();
    let known = about.database.as_deref();
    let common = Common {
        cluster_name: &about.deployment,
        user: &about.user,
        sid,
        server_id: &about.server_id,
        db_service: known.map_or(about.asked.as_str(), |database| database.name.as_str()),
        db_protocol: known.map_or("", |database| database.engine.as_str()),
        db_uri: &uri,
        db_type: known.map_or("", |database| database.kind.as_str()),
        db_user: &about.db_user,
        addr_remote: &about.remote,
        roles: &about.roles,
    };
    let mut fields = Vec::with_capacity(USUAL);
    append(&mut fields, &common);
    fields
}

/// Appends the fields of something that is an object in JSON, each with a comma in front.
fn append(line: &mut Vec<u8>, fields: &impl Serialize) {
    let start = line.len();
    // Into a Vec nothing fails.
    let _ = serde_json::to_writer(&mut *line, fields);
    // The braces: the line is one object.
    line.pop();
    if line.len() == start + 1 {
        line.pop();
    } else if let Some(brace) = line.get_mut(start) {
        *brace = b',';
    }
}

/// What no two events of a connection share.
pub(super) struct Head<'a> {
    pub(super) kind: EventKind,
    pub(super) success: bool,
    /// RFC 3339.
    pub(super) time: &'a str,
    pub(super) uid: Uuid,
    pub(super) index: u64,
}

impl Head<'_> {
    /// Begins a line: the brace, the fields of the head and those that are common.
    pub(super) fn begin(&self, line: &mut Vec<u8>, common: &[u8]) {
        let mut uid = Uuid::encode_buffer();
        let uid: &str = self.uid.as_hyphenated().encode_lower(&mut uid);
        line.extend_from_slice(b"{\"event\":");
        // Into a Vec nothing fails.
        let _ = serde_json::to_writer(&mut *line, &self.kind);
        let code = self.kind.code(self.success);
        for piece in [",\"code\":\"", code, "\",\"time\":\"", self.time, "\",\"uid\":\"", uid] {
            line.extend_from_slice(piece.as_bytes());
        }
        let _ = write!(line, "\",\"ei\":{},\"success\":{}", self.index, self.success);
        line.extend_from_slice(common);
    }

    /// The whole line.
    pub(super) fn line(&self, common: &[u8], particulars: &Particulars<'_>) -> Vec<u8> {
        let mut line = Vec::with_capacity(USUAL);
        self.begin(&mut line, common);
        append(&mut line, particulars);
        line.extend_from_slice(b"}\n");
        line
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keystile_model::audit::AuditEvent;
    use serde_json::Value;

    use super::*;

    const AT: &str = "2026-01-02T03:04:05.678Z";

    fn about() -> About {
        About {
            deployment: "ke\"ystile".into(),
            server_id: "p\\1".into(),
            remote: "10.0.0.1:3".to_owned(),
            user: "al\nice\",\"success\":false".to_owned(),
            roles: vec!["access".to_owned(), "\u{1}".to_owned()],
            database: None,
            asked: "orders".to_owned(),
            db_user: "iam-ro".to_owned(),
        }
    }

    fn head(kind: EventKind, success: bool) -> Head<'static> {
        Head { kind, success, time: AT, uid: Uuid::from_u128(7), index: 5 }
    }

    fn expected(sid: Uuid, kind: EventKind, success: bool) -> AuditEvent {
        let about = about();
        let at = time::OffsetDateTime::UNIX_EPOCH;
        let mut event =
            AuditEvent::new(kind, success, at, Uuid::from_u128(7), &about.deployment, &about.user);
        (event.ei, event.time, event.sid) = (5, AT.to_owned(), sid.to_string());
        event.server_id = about.server_id.to_string();
        (event.addr_remote, event.roles) = (about.remote, about.roles);
        (event.db_service, event.db_user) = (about.asked, about.db_user);
        event
    }

    /// The event that a line is, with no field in the line that an event has not.
    fn read(line: &[u8]) -> AuditEvent {
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        let value: Value = serde_json::from_slice(line).unwrap();
        let event: AuditEvent = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&event).unwrap(), value);
        event
    }

    #[test]
    fn a_line_is_the_event_that_it_stands_for() {
        let sid = Uuid::new_v4();
        let common = common(sid, &about());
        let line = head(EventKind::SessionStart, false).line(&common, &Particulars::default());
        assert_eq!(read(&line), expected(sid, EventKind::SessionStart, false));

        let counts = vec![
            ("GET".to_owned(), CommandCount { count: 2, errors: 1, bytes_in: 3, bytes_out: 4 }),
            ("CONFIG GET".to_owned(), CommandCount::default()),
        ];
        let particulars = Particulars {
            error: "client \"closed\"",
            message: "a\nb",
            rule: "r",
            db_query: "GET",
            duration_us: Some(1),
            bytes_in: Some(2),
            bytes_out: Some(0),
            repeated: Some(4),
            session_start: AT,
            session_stop: "later",
            commands: Counts(&counts),
        };
        let line = head(EventKind::SessionEnd, true).line(&common, &particulars);
        let mut event = expected(sid, EventKind::SessionEnd, true);
        (event.error, event.message) = (particulars.error.to_owned(), particulars.message.to_owned());
        (event.rule, event.db_query) = ("r".to_owned(), "GET".to_owned());
        (event.duration_us, event.bytes_in, event.bytes_out) = (Some(1), Some(2), Some(0));
        (event.repeated, event.session_start) = (Some(4), AT.to_owned());
        event.session_stop = "later".to_owned();
        event.commands = BTreeMap::from_iter(counts.clone());
        assert_eq!(read(&line), event);
    }

    #[test]
    fn an_object_without_fields_adds_nothing() {
        let mut line = b"{\"a\":1".to_vec();
        append(&mut line, &Particulars::default());
        assert_eq!(line, b"{\"a\":1");
        append(&mut line, &Particulars { rule: "r", ..Particulars::default() });
        assert_eq!(line, b"{\"a\":1,\"rule\":\"r\"");
    }
}
