//! How often a source may fail to sign in: a token bucket for each address, in a table of bounded size.
//!
//! It slows down those who fail and never locks out those who can sign in: a certificate cannot be guessed, and
//! many clients may share one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Most sources that are kept apart; those beyond share one bucket.
const MOST_SOURCES: usize = 10_000;
const MINUTE_MS: i64 = 60_000;
/// Minutes for which a source may have failed in advance.
const MOST_OWED: i64 = 10;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Failures that are still allowed, in thousandths.
    left: i64,
    /// When that was so, in Unix milliseconds.
    at: i64,
}

/// The failures of all sources.
#[derive(Debug)]
pub struct FailedSignIns {
    per_minute: u32,
    most_sources: usize,
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
}

impl FailedSignIns {
    /// So many in a row, and so many a minute.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, most_sources: MOST_SOURCES, buckets: Mutex::default() }
    }

    /// Takes a failure in; `now` in Unix milliseconds. `Err` where the source has failed too often: after how
    /// many seconds one more failure is allowed.
    ///
    /// # Errors
    /// Seconds to wait, at least 1.
    pub fn fail(&self, source: IpAddr, now: i64) -> Result<(), u64> {
        let full = i64::from(self.per_minute) * 1_000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = bucket_of(source);
        if !buckets.contains_key(&key) && buckets.len() >= self.most_sources {
            buckets.retain(|_, bucket| self.refilled(*bucket, now) < full);
            if buckets.len() >= self.most_sources {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: full, at: now });
        let left = self.refilled(*bucket, now);
        if left >= 1_000 {
            *bucket = Bucket { left: left - 1_000, at: now };
            return Ok(());
        }
        *bucket = Bucket { left, at: now };
        Err(self.wait_s(left))
    }

    /// Takes in a failure that others have judged: one that was tried while more were allowed, together with many.
    /// What is beyond the limit is owed, so that a source fails no more often in the long run; but it waits for no
    /// more than [`MOST_OWED`] minutes.
    pub fn failed(&self, source: IpAddr, now: i64) {
        if self.fail(source, now).is_ok() {
            return;
        }
        let floor = -MOST_OWED * i64::from(self.per_minute) * 1_000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = bucket_of(source);
        let key = if buckets.contains_key(&key) { key } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        if let Some(bucket) = buckets.get_mut(&key) {
            bucket.left = (bucket.left - 1_000).max(floor);
        }
    }

    /// Whether the source may fail once more, without taking a failure in. For passwords that others judge: a
    /// guess must not reach them.
    ///
    /// # Errors
    /// As [`FailedSignIns::fail`].
    pub fn may_fail(&self, source: IpAddr, now: i64) -> Result<(), u64> {
        let full = i64::from(self.per_minute) * 1_000;
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let own = buckets.get(&bucket_of(source));
        let bucket = own.or_else(|| buckets.get(&shared).filter(|_| buckets.len() >= self.most_sources));
        match bucket.map_or(full, |bucket| self.refilled(*bucket, now)) {
            1_000.. => Ok(()),
            left => Err(self.wait_s(left)),
        }
    }

    /// Seconds until one more failure is allowed.
    fn wait_s(&self, left: i64) -> u64 {
        let full = i64::from(self.per_minute) * 1_000;
        let missing_ms = (1_000 - left) * MINUTE_MS / full.max(1);
        u64::try_from(missing_ms / 1_000).unwrap_or(0) + 1
    }

    fn refilled(&self, bucket: Bucket, now: i64) -> i64 {
        let full = i64::from(self.per_minute) * 1_000;
        let passed = (now - bucket.at).clamp(0, (MOST_OWED + 1) * MINUTE_MS);
        (bucket.left + passed * full / MINUTE_MS).min(full)
    }
}

/// An IPv6 network is one source: whoever has one address of it has all.
fn bucket_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_may_fail_so_often_and_again_with_time() {
        let limit = FailedSignIns::new(3);
        for _ in 0..3 {
            limit.fail(ip("10.0.0.1"), 0).unwrap();
        }
        assert_eq!(limit.fail(ip("10.0.0.1"), 0), Err(21));
        assert_eq!(limit.may_fail(ip("10.0.0.1"), 0), Err(21));
        assert_eq!(limit.may_fail(ip("10.0.0.9"), 0), Ok(()));
        assert_eq!(limit.fail(ip("::ffff:10.0.0.1"), 10_000), Err(11));
        limit.fail(ip("10.0.0.2"), 0).unwrap();
        limit.fail(ip("10.0.0.1"), 20_000).unwrap();
        assert!(limit.fail(ip("10.0.0.1"), 20_001).is_err());
        // A clock that goes back gives nothing.
        assert!(limit.fail(ip("10.0.0.1"), 0).is_err());
        limit.fail(ip("2001:db8::1"), 0).unwrap();
        limit.fail(ip("2001:db8::2"), 0).unwrap();
        limit.fail(ip("2001:db8::3"), 0).unwrap();
        assert!(limit.fail(ip("2001:db8::4"), 0).is_err());
    }

    #[test]
    fn what_failed_at_the_same_moment_is_owed() {
        let limit = FailedSignIns::new(60);
        let source = ip("10.0.0.1");
        // All of them were allowed before the first one failed.
        for _ in 0..150 {
            limit.may_fail(source, 0).unwrap();
        }
        (0..150).for_each(|_| limit.failed(source, 0));
        assert_eq!(limit.may_fail(source, 0), Err(92));
        assert!(limit.may_fail(source, 90_000).is_err());
        assert!(limit.may_fail(source, 91_000).is_ok());
        (0..100_000).for_each(|_| limit.failed(source, 91_000));
        assert!(limit.may_fail(source, 91_000 + 600_000).is_err());
        assert!(limit.may_fail(source, 91_000 + 601_000).is_ok(), "nobody waits for more than ten minutes");
    }

    #[test]
    fn the_table_has_a_bound() {
        let limit = FailedSignIns { most_sources: 2, ..FailedSignIns::new(2) };
        for last in 1..=4 {
            limit.fail(ip(&format!("10.0.0.{last}")), 0).unwrap();
        }
        // The first two are apart, the others share what two may.
        assert!(limit.fail(ip("10.0.0.9"), 0).is_err());
        assert!(limit.may_fail(ip("10.0.0.9"), 0).is_err());
        limit.fail(ip("10.0.0.1"), 0).unwrap();
        // After a minute all of it is forgotten.
        limit.fail(ip("10.0.0.9"), 60_000).unwrap();
        assert_eq!(limit.buckets.lock().unwrap().len(), 1);
    }
}
