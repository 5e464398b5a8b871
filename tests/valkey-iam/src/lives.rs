//! How long each IAM connection may go on. Pure: the clock is an argument.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The ends of all live IAM connections, by the server's client id.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    by_client: HashMap<u64, Instant>,
    by_end: BTreeSet<(Instant, u64)>,
}

impl Lives {
    /// The client has just logged in by IAM: its life begins anew.
    pub(crate) fn begin(&mut self, client: u64, now: Instant, life: Duration) {
        self.forget(client);
        let end = now + life;
        self.by_client.insert(client, end);
        self.by_end.insert((end, client));
    }

    /// The client is gone, or somebody else now.
    pub(crate) fn forget(&mut self, client: u64) {
        if let Some(end) = self.by_client.remove(&client) {
            self.by_end.remove(&(end, client));
        }
    }

    /// Takes out a client whose life is over, if there is one.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Option<u64> {
        let &(end, client) = self.by_end.first()?;
        if end > now {
            return None;
        }
        self.forget(client);
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    #[test]
    fn a_life_ends_unless_it_was_renewed_or_forgotten() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lives = Lives::default();
        for client in 1..=3 {
            lives.begin(client, at(0), LIFE);
        }
        lives.begin(2, at(5), LIFE);
        lives.forget(3);
        assert_eq!(lives.take_ended(at(9)), None);
        assert_eq!(lives.take_ended(at(10)), Some(1));
        assert_eq!(lives.take_ended(at(10)), None);
        assert_eq!(lives.take_ended(at(15)), Some(2));
        assert!(lives.by_client.is_empty() && lives.by_end.is_empty());
    }
}
