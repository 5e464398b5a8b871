//! What secrets held a moment ago, so that a thousand clients that come at once cost one call.
//!
//! A value is good for a minute. Later it is used only while Secrets Manager is out of reach, and no longer than
//! the shortest rotation lasts: the cache itself judges a password, so an old one lets nobody in who should not
//! be. Reads of one secret wait for each other and share the answer, a failure too.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::{Fault, Secrets, Stage, Version};
use crate::metrics::Metrics;

/// How long a value is good.
pub const LIFE: Duration = Duration::from_secs(60);
/// How long it is used while there is no other: the shortest period of rotation.
const OUTAGE: Duration = Duration::from_secs(15 * 60);
/// Secrets that are remembered; when there are more, those that nobody waits for are forgotten.
const MOST: usize = 4_096;
/// Longest wait for one read.
const PATIENCE: Duration = Duration::from_secs(6);

/// What time it is.
type Now = Box<dyn Fn() -> Instant + Send + Sync>;

/// The values.
pub struct SecretCache {
    now: Now,
    secrets: Arc<dyn Secrets>,
    metrics: Arc<Metrics>,
    slots: Mutex<HashMap<(String, Stage), Arc<Slot>>>,
}

type Slot = tokio::sync::Mutex<Kept>;

#[derive(Debug, Default)]
struct Kept {
    /// The last value, and when its reading began.
    value: Option<(Instant, Arc<Version>)>,
    /// The last failure, and when its reading began.
    fault: Option<(Instant, Fault)>,
}

impl SecretCache {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(secrets: Arc<dyn Secrets>, metrics: Arc<Metrics>) -> Self {
        Self { now: Box::new(Instant::now), secrets, metrics, slots: Mutex::default() }
    }

    /// A version that was read at most a minute ago, or, with `since`, not before that.
    ///
    /// # Errors
    /// [`Fault`] of the reading.
    pub async fn read(
        &self,
        secret: &str,
        stage: Stage,
        since: Option<Instant>,
    ) -> Result<Arc<Version>, Fault> {
        let asked = (self.now)();
        let slot = self.slot(secret, stage, asked);
        let mut kept = slot.lock().await;
        let oldest = since.or_else(|| asked.checked_sub(LIFE));
        if let Some((at, version)) = &kept.value
            && oldest.is_none_or(|oldest| *at >= oldest)
            // A minute is exclusive, a wish is not.
            && (since.is_some() || asked.saturating_duration_since(*at) < LIFE)
        {
            return Ok(Arc::clone(version));
        }
        if let Some((at, fault)) = &kept.fault
            && *at >= asked
        {
            // Somebody read in vain while we waited for our turn.
            return kept.or_fault(fault.clone(), since, asked);
        }
        let began = (self.now)();
        let answer = timeout(PATIENCE, self.secrets.read(secret, stage)).await;
        match answer.unwrap_or_else(|_| Err(Fault::Unavailable(format!("no answer in {PATIENCE:?}")))) {
            Ok(version) => {
                self.metrics.secret_reads.add("ok");
                let version = Arc::new(version);
                *kept = Kept { value: Some((began, Arc::clone(&version))), fault: None };
                Ok(version)
            }
            Err(fault) => {
                self.metrics.secret_reads.add(fault.kind());
                kept.fault = Some((began, fault.clone()));
                if !matches!(fault, Fault::Unavailable(_)) {
                    kept.value = None;
                }
                kept.or_fault(fault, since, asked)
            }
        }
    }

    fn slot(&self, secret: &str, stage: Stage, now: Instant) -> Arc<Slot> {
        let mut slots = self.lock();
        if let Some(slot) = slots.get(&(secret.to_owned(), stage)) {
            return Arc::clone(slot);
        }
        forget_old(&mut slots, now);
        if slots.len() >= MOST {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry((secret.to_owned(), stage)).or_default())
    }

    /// Forgets what is too old for any use. Called now and then, so that a password does not stay in memory for
    /// as long as nobody asks for another.
    pub fn forget_old(&self) {
        forget_old(&mut self.lock(), (self.now)());
    }

    /// Forgets everything that nobody waits for.
    pub fn forget_all(&self) {
        self.lock().retain(|_, slot| Arc::strong_count(slot) > 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Stage), Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn forget_old(slots: &mut HashMap<(String, Stage), Arc<Slot>>, now: Instant) {
    slots.retain(|_, slot| {
        // One that is being read is in use.
        slot.try_lock().map_or(true, |kept| {
            kept.value.as_ref().is_some_and(|(at, _)| now.saturating_duration_since(*at) < OUTAGE)
        })
    });
}

impl Kept {
    /// An old value in place of an outage, where any is wanted; else the fault.
    fn or_fault(&self, fault: Fault, since: Option<Instant>, now: Instant) -> Result<Arc<Version>, Fault> {
        match &self.value {
            Some((at, version))
                if since.is_none()
                    && matches!(fault, Fault::Unavailable(_))
                    && now.saturating_duration_since(*at) < OUTAGE =>
            {
                Ok(Arc::clone(version))
            }
            _ => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use secrecy::{ExposeSecret, SecretString};

    use super::*;

    /// Counts its reads; its value is the count.
    #[derive(Default)]
    struct Counted {
        reads: AtomicUsize,
        fault: Mutex<Option<Fault>>,
        slow: bool,
    }

    #[async_trait]
    impl Secrets for Counted {
        async fn read(&self, _: &str, _: Stage) -> Result<Version, Fault> {
            let count = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
            if self.slow {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            match self.fault.lock().unwrap().clone() {
                Some(fault) => Err(fault),
                None => Ok(Version { id: count.to_string(), value: SecretString::from(count.to_string()) }),
            }
        }
    }

    /// A time that is moved by hand.
    #[derive(Clone)]
    struct Moved(Instant, Arc<AtomicU64>);

    impl Moved {
        fn advance(&self, by: Duration) {
            self.1.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::Relaxed);
        }

        fn now(&self) -> Instant {
            self.0 + Duration::from_millis(self.1.load(Ordering::Relaxed))
        }
    }

    fn cache(secrets: &Arc<Counted>) -> (SecretCache, Moved) {
        let time = Moved(Instant::now(), Arc::default());
        let own = time.clone();
        let cache = SecretCache::new(Arc::clone(secrets) as _, Arc::default());
        (SecretCache { now: Box::new(move || own.now()), ..cache }, time)
    }

    async fn value(cache: &SecretCache, since: Option<Instant>) -> Result<String, Fault> {
        cache.read("a", Stage::Current, since).await.map(|version| version.value.expose_secret().to_owned())
    }

    #[tokio::test]
    async fn a_value_is_good_for_a_minute() {
        let secrets = Arc::<Counted>::default();
        let (cache, time) = cache(&secrets);
        assert_eq!(value(&cache, None).await.unwrap(), "1");
        time.advance(LIFE - Duration::from_millis(1));
        assert_eq!(value(&cache, None).await.unwrap(), "1");
        time.advance(Duration::from_millis(1));
        assert_eq!(value(&cache, None).await.unwrap(), "2");
        // Another stage is another value.
        assert_eq!(cache.read("a", Stage::Pending, None).await.unwrap().id, "3");
    }

    #[tokio::test]
    async fn a_fresh_one_is_read_once_for_all_who_wish_it() {
        let secrets = Arc::<Counted>::default();
        let (cache, time) = cache(&secrets);
        assert_eq!(value(&cache, None).await.unwrap(), "1");
        time.advance(Duration::from_secs(1));
        let now = time.now();
        for _ in 0..10 {
            assert_eq!(value(&cache, Some(now)).await.unwrap(), "2");
        }
        assert_eq!(secrets.reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn those_who_come_at_once_share_one_read_and_one_failure() {
        let secrets = Arc::new(Counted { slow: true, ..Counted::default() });
        let (cache, time) = cache(&secrets);
        let (a, b, c) = tokio::join!(value(&cache, None), value(&cache, None), value(&cache, None));
        assert_eq!([a, b, c], [Ok("1".to_owned()), Ok("1".to_owned()), Ok("1".to_owned())]);
        time.advance(OUTAGE);
        let fault = Fault::Refused("AccessDeniedException".to_owned());
        *secrets.fault.lock().unwrap() = Some(fault.clone());
        let (a, b, c) = tokio::join!(value(&cache, None), value(&cache, None), value(&cache, None));
        assert_eq!([a, b, c], [Err(fault.clone()), Err(fault.clone()), Err(fault)]);
        assert_eq!(secrets.reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn an_outage_is_bridged_and_a_refusal_is_not() {
        let secrets = Arc::<Counted>::default();
        let (cache, time) = cache(&secrets);
        assert_eq!(value(&cache, None).await.unwrap(), "1");
        let away = Fault::Unavailable("ThrottlingException".to_owned());
        *secrets.fault.lock().unwrap() = Some(away.clone());
        time.advance(LIFE);
        assert_eq!(value(&cache, None).await.unwrap(), "1");
        // Whoever wishes a fresh one has tried the old one already.
        assert_eq!(value(&cache, Some(time.now())).await, Err(away.clone()));
        time.advance(OUTAGE);
        assert_eq!(value(&cache, None).await, Err(away));
        *secrets.fault.lock().unwrap() = None;
        time.advance(Duration::from_millis(1));
        assert!(value(&cache, None).await.is_ok());
        *secrets.fault.lock().unwrap() = Some(Fault::Missing);
        time.advance(LIFE);
        assert_eq!(value(&cache, None).await, Err(Fault::Missing));
        *secrets.fault.lock().unwrap() = Some(Fault::Unavailable(String::new()));
        assert!(value(&cache, None).await.is_err(), "what was refused is not remembered");
    }

    #[tokio::test]
    async fn there_is_a_bound_and_nothing_stays_for_ever() {
        let (cache, time) = cache(&Arc::default());
        for number in 0..=MOST {
            cache.read(&number.to_string(), Stage::Current, None).await.unwrap();
        }
        assert_eq!(cache.lock().len(), 1);
        time.advance(OUTAGE);
        cache.forget_old();
        assert!(cache.lock().is_empty());
    }
}
