//! What happens to real sign-ins to caches, for the health of databases: a probe without AUTH sees no user that
//! is missing and no role that lacks a right.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// The sign-ins to one database since they were last looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many succeeded.
    pub succeeded: u64,
    /// How many failed, each a client that got no session.
    pub failed: u64,
    /// Why the last one failed.
    pub reason: String,
}

/// The tallies by database. Names come from the policy, never from clients, so it is bounded by that.
#[derive(Debug, Default)]
pub struct Logins(Mutex<HashMap<String, Tally>>);

impl Logins {
    /// One that succeeded.
    pub fn succeeded(&self, database: &str) {
        self.note(database, |tally| tally.succeeded += 1);
    }

    /// One that failed.
    pub fn failed(&self, database: &str, reason: &str) {
        self.note(database, |tally| {
            tally.failed += 1;
            reason.clone_into(&mut tally.reason);
        });
    }

    /// Takes all tallies out.
    #[must_use]
    pub fn take(&self) -> HashMap<String, Tally> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, database: &str, note: impl FnOnce(&mut Tally)) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tallies.get_mut(database) {
            return note(tally);
        }
        note(tallies.entry(database.to_owned()).or_default());
    }
}
