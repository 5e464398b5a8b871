//! The time: the machine's clock, and a coarse one that costs a load.

use std::sync::atomic::{AtomicI64, Ordering};

use keystile_model::store::Clock;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> time::OffsetDateTime {
        time::OffsetDateTime::now_utc()
    }
}

/// Unix milliseconds, set about once a second by whoever looks after the sessions.
#[derive(Debug, Default)]
pub struct CoarseClock(AtomicI64);

impl CoarseClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: i64) -> Self {
        Self(now.into())
    }

    /// The time it was last set to.
    #[inline]
    #[must_use]
    pub fn now(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets it.
    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::Relaxed);
    }
}

/// Unix milliseconds of an instant.
#[must_use]
pub fn unix_ms(at: time::OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
