//! Both feeds as one policy that keeps itself up to date.
//!
//! [`spawn`] polls in the background and publishes [`PolicySnapshot`]s. It never ends by itself but when
//! nobody listens any more: an error is logged once, told in the snapshot, and tried again. How old a
//! snapshot may be is the caller's decision; its age can be asked at any time, also while no poll ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use keystile_model::feed::{Feed, Head};
use keystile_model::policy::Policy;
use keystile_model::store::{Clock, PolicyStore, StoreError};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::reader::{FeedReader, Step, jittered};

/// How often each feed is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intervals {
    /// The access feed: who may do what.
    pub access: Duration,
    /// The inventory feed: what there is.
    pub inventory: Duration,
    /// The longest pause after errors.
    pub after_errors: Duration,
}

impl Default for Intervals {
    fn default() -> Self {
        Self {
            access: Duration::from_secs(1),
            inventory: Duration::from_secs(5),
            after_errors: Duration::from_secs(5),
        }
    }
}

/// No time: the feed was never current.
const NEVER: i64 = i64::MIN;

/// How one feed of a snapshot stands.
#[derive(Debug, Clone)]
pub struct FeedStatus {
    /// Where the feed stands in this snapshot; none before its first load.
    pub place: Option<Head>,
    /// The error of the last poll, if it failed.
    pub error: Option<StoreError>,
    /// Unix milliseconds. Shared with the poller until the next policy is published, so a quiet feed grows no
    /// older without waking anybody, and a snapshot that was replaced does grow older.
    current_at: Arc<AtomicI64>,
}

impl FeedStatus {
    fn new() -> Self {
        Self { place: None, error: None, current_at: Arc::new(AtomicI64::new(NEVER)) }
    }

    /// The last instant at which this was all there was; none before the first load.
    #[must_use]
    pub fn current_at(&self) -> Option<OffsetDateTime> {
        match self.current_at.load(Ordering::Acquire) {
            NEVER => None,
            ms => OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok(),
        }
    }

    /// How long ago that was; none before the first load. A clock that was set back makes it look as old as
    /// it was set back, not younger.
    #[must_use]
    pub fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        self.current_at().map(|at| (now - at).unsigned_abs())
    }

    fn set_current_at(&self, at: Option<OffsetDateTime>) {
        if let Some(ms) = at.and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()) {
            self.current_at.store(ms, Ordering::Release);
        }
    }

    /// The same, no longer shared with those who hold the old one.
    fn detached(&self) -> Self {
        let at = self.current_at.load(Ordering::Acquire);
        Self { current_at: Arc::new(AtomicI64::new(at)), ..self.clone() }
    }
}

/// What is known of the policy. Take a fresh one from the channel for each decision.
#[derive(Debug, Clone)]
pub struct PolicySnapshot {
    /// The compiled policy; none until both feeds were loaded once.
    pub policy: Option<Arc<Policy>>,
    /// The access feed.
    pub access: FeedStatus,
    /// The inventory feed.
    pub inventory: FeedStatus,
}

impl PolicySnapshot {
    fn nothing() -> Self {
        Self { policy: None, access: FeedStatus::new(), inventory: FeedStatus::new() }
    }

    /// A snapshot of a policy that was current at this instant, for tests and for one-shot users.
    #[must_use]
    pub fn of(policy: Policy, at: OffsetDateTime) -> Self {
        let snapshot = Self { policy: Some(Arc::new(policy)), ..Self::nothing() };
        snapshot.access.set_current_at(Some(at));
        snapshot.inventory.set_current_at(Some(at));
        snapshot
    }

    /// One of the feeds.
    #[must_use]
    pub fn feed(&self, feed: Feed) -> &FeedStatus {
        match feed {
            Feed::Access => &self.access,
            Feed::Inventory => &self.inventory,
        }
    }

    fn feed_mut(&mut self, feed: Feed) -> &mut FeedStatus {
        match feed {
            Feed::Access => &mut self.access,
            Feed::Inventory => &mut self.inventory,
        }
    }

    /// How old the older of the two feeds is; none until both were loaded.
    #[must_use]
    pub fn age(&self, now: OffsetDateTime) -> Option<Duration> {
        Some(self.access.age(now)?.max(self.inventory.age(now)?))
    }

    /// The error of the last poll that failed and was not followed by a good one, access first.
    #[must_use]
    pub fn last_error(&self) -> Option<&StoreError> {
        self.access.error.as_ref().or(self.inventory.error.as_ref())
    }
}

/// Keeps a policy and what is published of it, poll by poll. Does no I/O.
struct PolicyFeed {
    policy: Policy,
    published: watch::Sender<PolicySnapshot>,
}

impl PolicyFeed {
    /// Takes in the outcome of a poll of `feed`.
    fn take(
        &mut self,
        feed: Feed,
        step: Result<Step, StoreError>,
        place: Option<&Head>,
        current_at: Option<OffsetDateTime>,
    ) {
        let step = match step {
            Ok(step) => step,
            Err(error) => return self.failed(feed, error),
        };
        self.recovered(feed);
        match step {
            Step::Nothing => self.published.borrow().feed(feed).set_current_at(current_at),
            Step::Delivered { changes, .. } => {
                changes.into_iter().for_each(|change| self.policy.apply(change));
                self.publish(feed, place, current_at);
            }
            Step::Reloaded { entities, revision } => {
                tracing::info!(feed = feed.as_str(), revision, entities = entities.len(), "loaded a feed");
                self.policy.clear(feed);
                entities.into_iter().for_each(|entity| {
                    self.policy.apply(keystile_model::feed::Change::Put(entity));
                });
                self.publish(feed, place, current_at);
            }
        }
    }

    fn publish(&self, feed: Feed, place: Option<&Head>, current_at: Option<OffsetDateTime>) {
        let policy = Arc::new(self.policy.clone());
        self.published.send_modify(|snapshot| {
            snapshot.access = snapshot.access.detached();
            snapshot.inventory = snapshot.inventory.detached();
            let status = snapshot.feed_mut(feed);
            status.place = place.cloned();
            status.set_current_at(current_at);
            let loaded = Feed::ALL.into_iter().all(|feed| snapshot.feed(feed).place.is_some());
            snapshot.policy = loaded.then_some(policy);
        });
    }

    /// Logged once for each kind of failure in a row.
    fn failed(&self, feed: Feed, error: StoreError) {
        let news = self
            .published
            .borrow()
            .feed(feed)
            .error
            .as_ref()
            .is_none_or(|before| std::mem::discriminant(before) != std::mem::discriminant(&error));
        if news {
            tracing::warn!(feed = feed.as_str(), %error, "cannot read a feed: going on with what is known");
            self.published.send_modify(|snapshot| snapshot.feed_mut(feed).error = Some(error));
        }
    }

    fn recovered(&self, feed: Feed) {
        if self.published.borrow().feed(feed).error.is_some() {
            tracing::info!(feed = feed.as_str(), "the feed can be read again");
            self.published.send_modify(|snapshot| snapshot.feed_mut(feed).error = None);
        }
    }
}

/// Polls both feeds in the background for as long as somebody holds a receiver.
///
/// The receiver wakes when the policy or an error changes, not at each poll. A store that is away at the
/// start leaves the snapshot without a policy, with the error, until it is back.
pub fn spawn<S: PolicyStore + ?Sized + 'static>(
    store: Arc<S>,
    clock: Arc<dyn Clock>,
    intervals: Intervals,
) -> (watch::Receiver<PolicySnapshot>, JoinHandle<()>) {
    let (published, receiver) = watch::channel(PolicySnapshot::nothing());
    let feed = PolicyFeed { policy: Policy::new([]), published };
    let task = tokio::spawn(async move {
        let closed = feed.published.clone();
        let shared = tokio::sync::Mutex::new(feed);
        let access = FeedReader::new(Arc::clone(&store), Feed::Access, Arc::clone(&clock));
        let inventory = FeedReader::new(store, Feed::Inventory, clock);
        tokio::select! {
            () = closed.closed() => {}
            () = follow(access, &shared, intervals.access, intervals.after_errors) => {}
            () = follow(inventory, &shared, intervals.inventory, intervals.after_errors) => {}
        }
    });
    (receiver, task)
}

/// Polls one feed for ever.
async fn follow<S: PolicyStore + ?Sized>(
    mut reader: FeedReader<S>,
    shared: &tokio::sync::Mutex<PolicyFeed>,
    interval: Duration,
    after_errors: Duration,
) {
    let mut failures = 0;
    loop {
        let step = reader.poll().await;
        failures = if step.is_err() { failures + 1 } else { 0 };
        shared.lock().await.take(reader.feed(), step, reader.place(), reader.current_at());
        tokio::time::sleep(next_poll(interval, after_errors, failures)).await;
    }
}

/// The pause before the next poll: the interval, or after errors a part of a second that doubles up to
/// `after_errors`.
fn next_poll(interval: Duration, after_errors: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return interval;
    }
    let first = interval.min(Duration::from_millis(500));
    jittered((first * 2_u32.saturating_pow((failures - 1).min(10))).min(after_errors.max(first)))
}
