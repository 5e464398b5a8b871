//! Audit: one JSON object a line, through a bounded queue and a thread of its own.

mod lines;
pub mod redact;
mod writer;

use std::sync::Arc;

use keystile_model::audit::{AuditEvent, EventKind, timestamp};
use keystile_model::database::Database;
use keystile_model::store::Clock;
use time::OffsetDateTime;
use uuid::Uuid;

pub use lines::Lines;
pub use writer::{Sink, Target, Writer};

/// What all events of a connection have in common.
#[derive(Clone)]
pub struct Facts {
    clock: Arc<dyn Clock>,
    deployment: Arc<str>,
    server_id: Arc<str>,
    sid: Uuid,
    started: OffsetDateTime,
    next: u64,
    /// The client's address.
    pub remote: String,
    /// Who; empty until it is known.
    pub user: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// The database, once it is known.
    pub database: Option<Arc<Database>>,
    /// The name that was asked for, where there is no such database.
    pub asked: String,
    /// The db user, once it is known.
    pub db_user: String,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("sid", &self.sid).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Facts {
    /// The facts of a connection that begins now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, deployment: Arc<str>, server_id: Arc<str>, remote: String) -> Self {
        Self {
            started: clock.now(),
            clock,
            deployment,
            server_id,
            sid: Uuid::new_v4(),
            next: 0,
            remote,
            user: String::new(),
            roles: Vec::new(),
            database: None,
            asked: String::new(),
            db_user: String::new(),
        }
    }

    /// The session's id.
    #[must_use]
    pub fn sid(&self) -> Uuid {
        self.sid
    }

    /// When it began.
    #[must_use]
    pub fn started(&self) -> OffsetDateTime {
        self.started
    }

    /// How long ago that is, in microseconds.
    #[must_use]
    pub fn age_us(&self) -> Option<u64> {
        u64::try_from((self.clock.now() - self.started).whole_microseconds()).ok()
    }

    /// What makes lines of the commands of this session. `None` never happens.
    #[must_use]
    pub fn lines(&mut self) -> Option<Lines> {
        let next = self.next;
        let event = self.event(EventKind::Query, true);
        self.next = next;
        Lines::like(event, self.sid)
    }

    /// The index of the next event.
    pub fn index(&mut self) -> &mut u64 {
        &mut self.next
    }

    /// The time, as events have it.
    #[must_use]
    pub fn time(&self) -> String {
        timestamp(self.clock.now())
    }

    /// The next event.
    pub fn event(&mut self, kind: EventKind, success: bool) -> AuditEvent {
        let mut event = AuditEvent::new(
            kind,
            success,
            self.clock.now(),
            lines::unique(self.sid, self.next),
            &self.deployment,
            &self.user,
        );
        event.ei = self.next;
        self.next += 1;
        event.sid = self.sid.to_string();
        event.server_id = self.server_id.to_string();
        event.addr_remote.clone_from(&self.remote);
        event.roles.clone_from(&self.roles);
        event.db_user.clone_from(&self.db_user);
        match &self.database {
            Some(database) => {
                event.db_service = database.name.to_string();
                event.db_protocol = database.engine.as_str().to_owned();
                event.db_uri = database.endpoint.to_string();
                event.db_type = database.kind.as_str().to_owned();
            }
            None => event.db_service.clone_from(&self.asked),
        }
        event
    }
}
