//! Audit: one JSON object a line, through a bounded queue and a thread of its own.

mod event;
mod lines;
mod queue;
pub mod redact;
mod writer;

use std::sync::Arc;

use keystile_model::audit::{EventKind, timestamp};
use keystile_model::database::Database;
use keystile_model::store::Clock;
use time::OffsetDateTime;
use uuid::Uuid;

pub use event::{Counts, Particulars};
pub use lines::Lines;
pub use writer::{Sink, Target, Writer};

use event::Head;

/// What a connection's events say about it.
#[derive(Debug, Clone)]
pub struct About {
    /// The deployment.
    pub deployment: Arc<str>,
    /// The proxy.
    pub server_id: Arc<str>,
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

/// A connection, as the audit sees it.
#[derive(Clone)]
pub struct Facts {
    clock: Arc<dyn Clock>,
    sid: Uuid,
    started: OffsetDateTime,
    next: u64,
    about: About,
    /// That as JSON, from the first event on that needs it.
    common: Option<Arc<[u8]>>,
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("sid", &self.sid).field("about", &self.about).finish_non_exhaustive()
    }
}

impl Facts {
    /// The facts of a connection that begins now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, deployment: Arc<str>, server_id: Arc<str>, remote: String) -> Self {
        Self {
            started: clock.now(),
            clock,
            sid: Uuid::new_v4(),
            next: 0,
            about: About {
                deployment,
                server_id,
                remote,
                user: String::new(),
                roles: Vec::new(),
                database: None,
                asked: String::new(),
                db_user: String::new(),
            },
            common: None,
        }
    }

    /// What is known of it.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.about
    }

    /// More becomes known.
    pub fn about_mut(&mut self) -> &mut About {
        self.common = None;
        &mut self.about
    }

    /// The session's id.
    #[must_use]
    pub fn sid(&self) -> Uuid {
        self.sid
    }

    /// When it began, RFC 3339.
    #[must_use]
    pub fn started(&self) -> String {
        timestamp(self.started)
    }

    /// How long ago that is, in microseconds.
    #[must_use]
    pub fn age_us(&self) -> Option<u64> {
        u64::try_from((self.clock.now() - self.started).whole_microseconds()).ok()
    }

    /// What makes lines of the commands of this session.
    #[must_use]
    pub fn lines(&mut self) -> Lines {
        Lines::new(self.sid, self.common())
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

    /// The next event, of now, as a whole line of JSON.
    #[must_use]
    pub fn event(&mut self, kind: EventKind, success: bool, particulars: &Particulars<'_>) -> Vec<u8> {
        let time = self.time();
        self.event_at(&time, kind, success, particulars)
    }

    /// The next event, of the time that is given as RFC 3339, as a whole line of JSON.
    #[must_use]
    pub fn event_at(
        &mut self,
        time: &str,
        kind: EventKind,
        success: bool,
        particulars: &Particulars<'_>,
    ) -> Vec<u8> {
        let common = self.common();
        let index = self.next;
        self.next += 1;
        let head = Head { kind, success, time, uid: lines::unique(self.sid, index), index };
        head.line(&common, particulars)
    }

    fn common(&mut self) -> Arc<[u8]> {
        let (sid, about) = (self.sid, &self.about);
        Arc::clone(self.common.get_or_insert_with(|| event::common(sid, about).into()))
    }
}
