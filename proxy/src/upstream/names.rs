//! What host names resolved to a moment ago: the resolver of the system blocks, so asking it costs a thread of
//! its own and two wake-ups for each dial.
//!
//! It holds addresses and judges none: whoever dials one asks the host rule about it, each time.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long an answer counts. The names of caches live 5 s and more, and a failover moves one within tens of
/// seconds, so this delays nobody who notices.
const LIFE: Duration = Duration::from_secs(3);
/// Names that are remembered; when there are more, all are forgotten.
const MOST_NAMES: usize = 1_024;

/// The answers.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<String, (Instant, Vec<IpAddr>)>>);

impl Names {
    /// What `host` resolved to, unless that is too long ago.
    #[must_use]
    pub fn recent(&self, host: &str, now: Instant) -> Option<Vec<IpAddr>> {
        self.lock()
            .get(host)
            .filter(|(at, _)| now.saturating_duration_since(*at) < LIFE)
            .map(|(_, addresses)| addresses.clone())
    }

    /// Remembers what `host` resolved to; nothing is no answer.
    pub fn remember(&self, host: &str, addresses: &[IpAddr], now: Instant) {
        if addresses.is_empty() {
            return;
        }
        let mut names = self.lock();
        if names.len() >= MOST_NAMES && !names.contains_key(host) {
            names.clear();
        }
        names.insert(host.to_owned(), (now, addresses.to_vec()));
    }

    /// Forgets `host`: none of its addresses answered, so perhaps there are others.
    pub fn forget(&self, host: &str) {
        self.lock().remove(host);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, Vec<IpAddr>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_live_a_moment() {
        let (names, now) = (Names::default(), Instant::now());
        let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(names.recent("orders", now), None);
        names.remember("orders", &addresses, now);
        names.remember("nobody", &[], now);
        assert_eq!(names.recent("orders", now + LIFE / 2), Some(addresses));
        assert_eq!(names.recent("orders", now + LIFE), None);
        assert_eq!(names.recent("nobody", now), None);
        names.forget("orders");
        assert_eq!(names.recent("orders", now), None);
    }

    #[test]
    fn there_is_a_bound() {
        let (names, now) = (Names::default(), Instant::now());
        for number in 0..=MOST_NAMES {
            names.remember(&number.to_string(), &["10.0.0.1".parse().unwrap()], now);
        }
        assert_eq!(names.lock().len(), 1);
    }
}
