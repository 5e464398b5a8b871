//! When an IAM connection signs in anew, and where a sign-in stands. The schedule is pure.
//!
//! ```text
//! 0 ────────── 0.875 ──────── 0.958 ─────── 0.993 ─ 1 (the cache cuts)
//!              │ + jitter      │              │
//!              sign in when    read nothing   the session ends, with the reason
//!              nothing is      more before
//!              owed
//! ```
//! The AUTH goes alone: the server owes nothing before it, and nothing follows before its answer. Inside MULTI it
//! cannot be sent: the cache refuses it there, and a client that is not read on could never send its EXEC.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use secrecy::SecretString;
use uuid::Uuid;

/// Parts of the life at which it is signed in anew, at which that becomes urgent, and at which it ends.
const SIGN_IN_AT: f64 = 0.875;
const HURRY_AT: f64 = 0.958;
const END_AT: f64 = 0.993;
/// The part of the life between two tries: 108 s of 12 hours.
const BETWEEN_TRIES: f64 = 0.0025;
/// How long a fetched password may wait for its boundary. AWS takes a token for 900 s.
pub(crate) const KEEP_PASSWORD_MS: i64 = 600_000;

/// What a connection's age asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// To sign in at the next boundary.
    SignIn,
    /// The same, and to take on nothing before.
    Hurry,
    /// To end before the cache does it without a word.
    End,
}

/// What is due for a connection that has lived for so long since the cache last let it in, whose last try that
/// failed is so long ago. `jitter` keeps connections apart that began together.
#[must_use]
pub fn due(life: Duration, lived: Duration, failed: Option<Duration>, jitter: u8) -> Due {
    let part = |time: Duration| time.as_secs_f64() / life.as_secs_f64();
    let lived = part(lived);
    let jitter = f64::from(jitter) / 255.0 * (HURRY_AT - SIGN_IN_AT) / 2.0;
    if lived >= END_AT {
        Due::End
    } else if lived < SIGN_IN_AT + jitter || failed.is_some_and(|ago| part(ago) < BETWEEN_TRIES) {
        Due::Nothing
    } else if lived < HURRY_AT {
        Due::SignIn
    } else {
        Due::Hurry
    }
}

/// The password on its way.
pub(crate) type Fetching = Pin<Box<dyn Future<Output = Result<Option<SecretString>, String>> + Send>>;

/// Where a fresh sign-in stands.
#[derive(Default)]
pub(crate) enum Renewal {
    /// None is under way.
    #[default]
    Idle,
    /// One is due.
    Due,
    /// A password is on its way.
    Fetching(Fetching),
    /// It is here since this moment (Unix milliseconds), and waits for a boundary.
    Ready(SecretString, i64),
    /// AUTH is on its way to the cache.
    Sent,
}

/// Says that a live session was not let in again, and will try.
pub(crate) fn tell_failure(sid: Uuid, error: &str) {
    tracing::warn!(
        %sid,
        error,
        "a live session could not be signed in to its cache again; it is tried again until its IAM life ends"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(43_200);

    fn at(part: f64) -> Duration {
        LIFE.mul_f64(part)
    }

    #[test]
    fn each_part_of_a_life_has_its_due() {
        for (lived, jitter, expected) in [
            (0.0, 0, Due::Nothing),
            (0.874, 0, Due::Nothing),
            (0.876, 0, Due::SignIn),
            (0.876, 255, Due::Nothing),
            (0.917, 255, Due::SignIn),
            (0.957, 0, Due::SignIn),
            (0.959, 0, Due::Hurry),
            (0.9929, 255, Due::Hurry),
            (0.9931, 0, Due::End),
            (40.0, 0, Due::End),
        ] {
            assert_eq!(due(LIFE, at(lived), None, jitter), expected, "{lived} {jitter}");
        }
        let recent = Some(Duration::from_secs(60));
        assert_eq!(due(LIFE, at(0.9), recent, 0), Due::Nothing);
        assert_eq!(due(LIFE, at(0.9), Some(Duration::from_secs(120)), 0), Due::SignIn);
        assert_eq!(due(LIFE, at(0.995), recent, 0), Due::End);
    }

    /// What keeps a simulated session from signing in.
    #[derive(Debug, Clone, Copy)]
    struct Trouble {
        /// A transaction or a blocking call of so many seconds, one in so many seconds.
        busy: u64,
        every: u64,
        /// Out of 256 tries so many fail.
        failing: u32,
    }

    /// 72 hours, one look a second, as the overseer does. How often it signed in; `Err` at which second it ended.
    fn live(seed: u64, trouble: Trouble) -> Result<u32, u64> {
        let mut dice = seed;
        let mut roll = move || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as u32
        };
        let (mut signed_in_at, mut failed_at, mut done) = (0_u64, None::<u64>, 0);
        let jitter = (roll() % 256) as u8;
        let mut ready = false;
        for now in 0..72 * 3_600_u64 {
            let since = |then: u64| Duration::from_secs(now - then);
            match due(LIFE, since(signed_in_at), failed_at.map(since), jitter) {
                Due::End => return Err(now),
                Due::Nothing => {}
                Due::SignIn | Due::Hurry => ready = true,
            }
            let busy = now % trouble.every < trouble.busy;
            if ready && !busy {
                ready = false;
                if roll() % 256 < trouble.failing {
                    failed_at = Some(now);
                } else {
                    (signed_in_at, failed_at) = (now, None);
                    done += 1;
                }
            }
            // The cache's own clock never runs out first.
            assert!(now - signed_in_at < LIFE.as_secs());
        }
        Ok(done)
    }

    /// Where a boundary comes within half an hour and one try in two works, nobody is cut in three days.
    #[test]
    fn three_days_pass_without_an_end() {
        for seed in 0..48 {
            let trouble = Trouble { busy: seed * 37 % 1_800, every: 3_600, failing: (seed % 128) as u32 };
            let done = live(seed, trouble);
            assert!(matches!(done, Ok(6..=7)), "{seed} {trouble:?}: {done:?}");
        }
    }

    #[test]
    fn what_never_pauses_or_never_works_ends_in_time_and_not_before() {
        for trouble in
            [Trouble { busy: 1, every: 1, failing: 0 }, Trouble { busy: 0, every: 1, failing: 256 }]
        {
            assert_eq!(live(7, trouble), Err(42_898), "0.993 of 12 hours, in the next second");
        }
    }
}
