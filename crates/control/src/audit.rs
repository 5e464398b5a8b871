//! Where the jobs' audit events go: one JSON line each, to a file or to standard output. A line that cannot
//! be written is logged as an error and never stops a job that has already changed something.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use keystile_model::audit::AuditEvent;

/// Takes audit events.
pub trait AuditLog: Send + Sync {
    /// Writes one event.
    fn write(&self, event: &AuditEvent);
}

/// JSON lines, appended to a file or written to standard output.
#[derive(Debug)]
pub struct AuditLines {
    file: Option<PathBuf>,
    turn: Mutex<()>,
}

impl AuditLines {
    /// To this file, or to standard output.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, turn: Mutex::new(()) }
    }
}

impl AuditLog for AuditLines {
    fn write(&self, event: &AuditEvent) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match &self.file {
            // One write for a line: several processes append to the same file.
            Some(path) => std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|mut file| file.write_all(&line)),
            None => std::io::stdout().lock().write_all(&line),
        };
        if let Err(error) = written {
            tracing::error!(%error, event = ?event.event, "an audit event could not be written");
        }
    }
}

/// Keeps events in memory, for tests.
#[derive(Debug, Default)]
pub struct AuditMemory(pub Mutex<Vec<AuditEvent>>);

impl AuditLog for AuditMemory {
    fn write(&self, event: &AuditEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}
