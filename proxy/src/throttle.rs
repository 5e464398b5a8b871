//! Logs that tell and do not drown: the first of a kind at once, then one line for all of an interval.

use std::sync::{Mutex, PoisonError};

/// Lets one through in each interval and counts the others.
#[derive(Debug)]
pub struct Throttle {
    every_ms: i64,
    state: Mutex<(Option<i64>, u64)>,
}

impl Throttle {
    /// One line each `seconds`.
    #[must_use]
    pub fn new(seconds: u32) -> Self {
        Self { every_ms: i64::from(seconds) * 1_000, state: Mutex::new((None, 0)) }
    }

    /// Whether this one is to be told: how many there were since the last that was, itself included. `now` in
    /// Unix milliseconds.
    #[must_use]
    pub fn tell(&self, now: i64) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        if state.0.is_some_and(|at| now.abs_diff(at) < self.every_ms.unsigned_abs()) {
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_and_then_one_for_all() {
        let throttle = Throttle::new(10);
        let told: Vec<_> = (0..25).map(|second| throttle.tell(second * 1_000)).collect();
        assert_eq!((told[0], told[10], told[20]), (Some(1), Some(10), Some(10)));
        assert_eq!(told.iter().flatten().count(), 3);
    }
}
