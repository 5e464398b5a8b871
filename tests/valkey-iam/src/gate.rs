//! The decision about one AUTH: whose it is, and whether the token holds.

use std::time::{Duration, Instant};

use crate::keys::{Keys, Users};
use crate::lives::Lives;
use crate::settings::Settings;
use crate::token;
use crate::watched::Watched;

/// What is to be done with an AUTH.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Not an IAM user: the server looks at its passwords.
    NotOurs,
    /// The token holds.
    Admit,
    /// It does not; the words are for the server's log.
    Refuse(String),
}

/// The module's state. The server calls it from its one main thread.
#[derive(Debug)]
pub(crate) struct Gate {
    settings: Settings,
    keys: Watched<Keys>,
    users: Watched<Users>,
    pub(crate) lives: Lives,
}

impl Gate {
    pub(crate) fn new(settings: Settings) -> Self {
        let keys = Watched::new(settings.keys_file.clone());
        let users = Watched::new(settings.users_file.clone());
        Self { settings, keys, users, lives: Lives::default() }
    }

    /// Judges one AUTH at `now` (Unix seconds). Complaints about the files are for the log.
    pub(crate) fn judge(&mut self, user: &[u8], password: &[u8], now: i64) -> (Verdict, Vec<String>) {
        let (users, users_complaint) = self.users.current();
        let name = std::str::from_utf8(user).unwrap_or("");
        if !users.is_iam(name) {
            return (Verdict::NotOurs, users_complaint.into_iter().collect());
        }
        let (keys, keys_complaint) = self.keys.current();
        let verdict = match token::check(password, name, &self.settings.target, keys, now) {
            Ok(()) => Verdict::Admit,
            Err(refusal) => Verdict::Refuse(refusal.to_string()),
        };
        (verdict, users_complaint.into_iter().chain(keys_complaint).collect())
    }

    /// The client's life as an IAM connection begins, or begins anew.
    pub(crate) fn admitted(&mut self, client: u64, now: Instant) {
        self.lives.begin(client, now, self.settings.life);
    }

    /// How long after its end a connection may still be seen: a twentieth of the life, 5 ms to 200 ms.
    pub(crate) fn sweep_every(&self) -> Duration {
        (self.settings.life / 20).clamp(Duration::from_millis(5), Duration::from_millis(200))
    }
}
