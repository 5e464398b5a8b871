//! The number of files that the process may open: a session takes two sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files for what is not a session: the listeners, the audit file, AWS.
const BESIDE_SESSIONS: u64 = 200;

/// Raises the soft limit to the hard one. Answers how many connections that is enough for.
#[must_use]
pub fn raise() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: now.maximum, maximum: now.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { now.maximum } else { now.current };
    connections(current)
}

/// Connections that a limit has room for; none is no limit.
fn connections(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |files| files.saturating_sub(BESIDE_SESSIONS) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_takes_two_files() {
        assert_eq!(connections(Some(20_200)), 10_000);
        assert_eq!(connections(Some(100)), 0);
        assert_eq!(connections(None), u64::MAX);
        assert!(raise() > 0);
    }
}
