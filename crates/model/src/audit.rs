//! Audit events: one JSON object a line, in Teleport's field names, so that existing queries keep working.

use serde::{Deserialize, Serialize};

/// The kinds of event, with their codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A session was asked for: allowed, or denied.
    #[serde(rename = "db.session.start")]
    SessionStart,
    /// A session ended.
    #[serde(rename = "db.session.end")]
    SessionEnd,
    /// A command was sent.
    #[serde(rename = "db.session.query")]
    Query,
    /// A command was refused or failed.
    #[serde(rename = "db.session.query.failed")]
    QueryFailed,
    /// Counts by command for a session and an interval.
    #[serde(rename = "keystile.session.summary")]
    SessionSummary,
    /// A person signed in, or was refused.
    #[serde(rename = "user.login")]
    Login,
    /// A certificate was issued.
    #[serde(rename = "cert.create")]
    CertificateIssued,
    /// Policy was changed.
    #[serde(rename = "keystile.policy.change")]
    PolicyChange,
    /// An administrative request was refused.
    #[serde(rename = "keystile.policy.denied")]
    PolicyDenied,
    /// Somebody ran discovery.
    #[serde(rename = "keystile.discovery.run")]
    DiscoveryRun,
    /// Somebody asked something of rotation: a run, a pause or its end, break-glass.
    #[serde(rename = "keystile.rotation.asked")]
    RotationAsked,
    /// A database appeared.
    #[serde(rename = "db.create")]
    DatabaseCreate,
    /// A database changed.
    #[serde(rename = "db.update")]
    DatabaseUpdate,
    /// A database went.
    #[serde(rename = "db.delete")]
    DatabaseDelete,
    /// A client sent what is no RESP.
    #[serde(rename = "db.session.malformed_packet")]
    MalformedPacket,
    /// A managed user's passwords of before are about to end.
    #[serde(rename = "keystile.rotation.takeover")]
    RotationTakeover,
    /// A managed user has a new password; or it could not be given one.
    #[serde(rename = "keystile.rotation.rotate")]
    Rotation,
    /// A tagged user is left alone from now on.
    #[serde(rename = "keystile.rotation.left-alone")]
    RotationLeftAlone,
    /// A user is no longer managed: its password was replaced by one that nobody knows.
    #[serde(rename = "keystile.rotation.withdraw")]
    RotationWithdrawn,
    /// Break-glass: both passwords are being replaced at once.
    #[serde(rename = "keystile.rotation.lock")]
    RotationLocked,
}

impl EventKind {
    /// The event's code: `I` for what went well, `W` for what did not.
    #[must_use]
    pub fn code(self, success: bool) -> &'static str {
        match (self, success) {
            (Self::SessionStart, true) => "TDB00I",
            (Self::SessionStart, false) => "TDB00W",
            (Self::SessionEnd, _) => "TDB01I",
            (Self::Query, _) => "TDB02I",
            (Self::QueryFailed, _) => "TDB02W",
            (Self::DatabaseCreate, _) => "TDB03I",
            (Self::DatabaseUpdate, _) => "TDB04I",
            (Self::DatabaseDelete, _) => "TDB05I",
            (Self::MalformedPacket, _) => "TDB06I",
            (Self::SessionSummary, _) => "KSS01I",
            (Self::Login, true) => "T1000I",
            (Self::Login, false) => "T1000W",
            (Self::CertificateIssued, _) => "TC000I",
            (Self::PolicyChange, _) => "KSP01I",
            (Self::PolicyDenied, _) => "KSP01W",
            (Self::DiscoveryRun, true) => "KSD01I",
            (Self::DiscoveryRun, false) => "KSD01W",
            (Self::RotationAsked, true) => "KSR00I",
            (Self::RotationAsked, false) => "KSR00W",
            (Self::RotationTakeover, _) => "KSR01I",
            (Self::Rotation, true) => "KSR02I",
            (Self::Rotation, false) => "KSR02W",
            (Self::RotationLeftAlone, _) => "KSR03W",
            (Self::RotationWithdrawn, true) => "KSR04I",
            (Self::RotationWithdrawn, false) => "KSR04W",
            (Self::RotationLocked, _) => "KSR05I",
        }
    }
}

/// Counts of one command in a summary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandCount {
    /// Requests.
    pub count: u64,
    /// Replies that were errors, refusals included.
    pub errors: u64,
    /// Bytes of the requests.
    pub bytes_in: u64,
    /// Bytes of the replies.
    pub bytes_out: u64,
}

/// One event. Fields that do not apply are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// What happened.
    pub event: EventKind,
    /// Its code.
    pub code: String,
    /// RFC 3339, UTC, milliseconds.
    pub time: String,
    /// Unique, a UUID.
    pub uid: String,
    /// Index within the session.
    pub ei: u64,
    /// The deployment.
    pub cluster_name: String,
    /// Who.
    pub user: String,
    /// Whether it went well.
    pub success: bool,
    /// The session, a UUID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sid: String,
    /// The proxy or function that wrote it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub server_id: String,
    /// What went wrong, for machines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// What went wrong, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// The database.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_service: String,
    /// `redis` or `valkey`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_protocol: String,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_uri: String,
    /// Its kind.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_type: String,
    /// The db user.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_user: String,
    /// The command: its name, and with level `full` its arguments.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub db_query: String,
    /// The client's address.
    #[serde(default, rename = "addr.remote", skip_serializing_if = "String::is_empty")]
    pub addr_remote: String,
    /// Roles of the user.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// How long it took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_us: Option<u64>,
    /// Bytes from the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes to the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How often the same happened since the last such event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeated: Option<u64>,
    /// When a session began, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_start: String,
    /// When a session ended, RFC 3339.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session_stop: String,
    /// Counts by command.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub commands: std::collections::BTreeMap<String, CommandCount>,
    /// Anything else that belongs to the kind.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl AuditEvent {
    /// An event with what every event has; the rest is empty and filled in by the caller.
    #[must_use]
    pub fn new(
        event: EventKind,
        success: bool,
        at: time::OffsetDateTime,
        uid: uuid::Uuid,
        deployment: &str,
        user: &str,
    ) -> Self {
        Self {
            event,
            code: event.code(success).to_owned(),
            time: timestamp(at),
            uid: uid.to_string(),
            ei: 0,
            cluster_name: deployment.to_owned(),
            user: user.to_owned(),
            success,
            sid: String::new(),
            server_id: String::new(),
            error: String::new(),
            message: String::new(),
            rule: String::new(),
            db_service: String::new(),
            db_protocol: String::new(),
            db_uri: String::new(),
            db_type: String::new(),
            db_user: String::new(),
            db_query: String::new(),
            addr_remote: String::new(),
            roles: Vec::new(),
            duration_us: None,
            bytes_in: None,
            bytes_out: None,
            repeated: None,
            session_start: String::new(),
            session_stop: String::new(),
            commands: std::collections::BTreeMap::new(),
            details: serde_json::Map::new(),
        }
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-01-02T03:04:05.678Z`. A proxy makes several for each connection, so the
/// digits are put in place without the formatting machinery; years beyond 9999 do not happen.
#[must_use]
pub fn timestamp(at: time::OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let mut text = String::with_capacity("2026-01-02T03:04:05.678Z".len());
    for (number, digits, after) in [
        (at.year().unsigned_abs(), 4, '-'),
        (u32::from(u8::from(at.month())), 2, '-'),
        (u32::from(at.day()), 2, 'T'),
        (u32::from(at.hour()), 2, ':'),
        (u32::from(at.minute()), 2, ':'),
        (u32::from(at.second()), 2, '.'),
        (u32::from(at.millisecond()), 3, 'Z'),
    ] {
        for place in (0..digits).rev() {
            let digit = number / 10_u32.pow(place) % 10;
            text.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
        text.push(after);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        for (nanoseconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_323_045_678_999_999, "2026-01-02T03:04:05.678Z"),
            (253_402_300_799_999_000_000, "9999-12-31T23:59:59.999Z"),
        ] {
            let at = time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
            assert_eq!(timestamp(at), text);
            let east = at.checked_to_offset(time::UtcOffset::from_hms(2, 0, 0).unwrap());
            assert_eq!(east.map_or_else(|| text.to_owned(), timestamp), text);
        }
    }
}
