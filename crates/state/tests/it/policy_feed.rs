//! The background poller: cold starts, outages, ages, and whom it wakes.

use std::sync::Arc;
use std::time::Duration;

use keystile_model::feed::{Feed, READER_VERSION};
use keystile_model::name::UserName;
use keystile_model::store::{Clock, Consistency, PolicyStore, StoreError};
use keystile_state::memory::MemoryStore;
use keystile_state::policy_feed::{Intervals, PolicySnapshot, spawn};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::samples::{NOW, delete, entity, put};

/// Follows tokio's clock, which stands still but for sleeps.
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap() + self.0.elapsed()
    }
}

struct World {
    store: Arc<MemoryStore>,
    clock: Arc<PausedClock>,
}

impl World {
    async fn new() -> Self {
        let feeds = Feed::ALL.map(|feed| entity(feed, "first", 1));
        let store = Arc::new(MemoryStore::with(feeds.into()).await.unwrap());
        Self { store, clock: Arc::new(PausedClock(Instant::now())) }
    }

    fn follow(&self) -> watch::Receiver<PolicySnapshot> {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        spawn(Arc::clone(&self.store), clock, Intervals::default()).0
    }

    async fn write(&self, change: keystile_model::feed::Change) {
        let feed = change.key().kind.feed();
        let head = self.store.head(feed, Consistency::Strong).await.unwrap();
        self.store.commit(feed, &head, "test", NOW, &[change]).await.unwrap();
    }

    fn away(&self, away: bool) {
        self.store.set_outage(away.then(|| StoreError::Unavailable("away".to_owned())));
    }

    fn age(&self, snapshot: &PolicySnapshot) -> Option<Duration> {
        snapshot.age(self.clock.now())
    }
}

fn has(snapshot: &watch::Receiver<PolicySnapshot>, user: &str) -> bool {
    snapshot.borrow().policy.as_ref().unwrap().user(&UserName::parse(user).unwrap()).is_some()
}

async fn seconds(n: f64) {
    tokio::time::sleep(Duration::from_secs_f64(n)).await;
}

#[tokio::test(start_paused = true)]
async fn changes_are_seen_in_time() {
    let world = World::new().await;
    let receiver = world.follow();
    assert!(receiver.borrow().policy.is_none());
    seconds(0.1).await;
    assert!(has(&receiver, "first"));
    world.write(put(Feed::Access, "alice", 2)).await;
    world.write(put(Feed::Inventory, "orders", 2)).await;
    seconds(1.1).await;
    assert!(has(&receiver, "alice"));
    world.write(delete(Feed::Access, "alice")).await;
    seconds(1.1).await;
    assert!(!has(&receiver, "alice"));
    seconds(3.0).await;
    assert_eq!(receiver.borrow().policy.as_ref().unwrap().name_claims().count(), 2);
    assert_eq!(receiver.borrow().access.place.as_ref().unwrap().revision, 3);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_feed_wakes_nobody_and_stays_young() {
    let world = World::new().await;
    let mut receiver = world.follow();
    seconds(0.1).await;
    let old = receiver.borrow_and_update().clone();
    assert!(tokio::time::timeout(Duration::from_secs(600), receiver.changed()).await.is_err());
    assert!(world.age(&old).unwrap() <= Duration::from_secs(5));
    assert!(old.access.age(world.clock.now()).unwrap() <= Duration::from_secs(1));
    // A snapshot that was replaced is not kept young by the polls of the next.
    world.write(put(Feed::Access, "alice", 2)).await;
    receiver.changed().await.unwrap();
    seconds(100.0).await;
    for feed in Feed::ALL {
        assert!(old.feed(feed).age(world.clock.now()).unwrap() >= Duration::from_secs(100));
    }
    let young = receiver.borrow().clone();
    assert!(world.age(&young).unwrap() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn an_outage_ages_what_is_known() {
    let world = World::new().await;
    let mut receiver = world.follow();
    seconds(0.1).await;
    world.away(true);
    receiver.borrow_and_update();
    seconds(60.0).await;
    let snapshot = receiver.borrow_and_update().clone();
    assert!(snapshot.policy.is_some());
    assert!(world.age(&snapshot).unwrap() >= Duration::from_secs(60));
    assert!(matches!(snapshot.last_error(), Some(StoreError::Unavailable(_))));
    // It was told once for each feed, not at each poll.
    assert!(tokio::time::timeout(Duration::from_secs(600), receiver.changed()).await.is_err());
    world.away(false);
    seconds(11.0).await;
    let snapshot = receiver.borrow().clone();
    assert!(snapshot.last_error().is_none());
    assert!(world.age(&snapshot).unwrap() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_waits_for_the_store() {
    let world = World::new().await;
    world.away(true);
    let receiver = world.follow();
    seconds(300.0).await;
    {
        let snapshot = receiver.borrow();
        assert!(snapshot.policy.is_none() && snapshot.last_error().is_some());
        assert_eq!(world.age(&snapshot), None);
    }
    world.away(false);
    seconds(5.5).await;
    assert!(has(&receiver, "first"));
}

#[tokio::test(start_paused = true)]
async fn one_feed_is_not_a_policy() {
    let world = World::new().await;
    world.store.set_min_reader(Feed::Inventory, READER_VERSION + 1);
    let receiver = world.follow();
    seconds(30.0).await;
    assert!(receiver.borrow().policy.is_none());
    assert!(receiver.borrow().inventory.error.as_ref().unwrap().to_string().contains("upgrade"));
    assert!(receiver.borrow().access.error.is_none());
    world.store.set_min_reader(Feed::Inventory, READER_VERSION);
    seconds(6.0).await;
    assert!(has(&receiver, "first"));
}

#[tokio::test(start_paused = true)]
async fn a_restore_forgets_what_was_written_since() {
    let world = World::new().await;
    let backup = world.store.backup();
    let receiver = world.follow();
    world.write(put(Feed::Access, "alice", 2)).await;
    seconds(1.5).await;
    assert!(has(&receiver, "alice"));
    world.store.restore(&backup);
    seconds(1.5).await;
    assert!(has(&receiver, "first") && !has(&receiver, "alice"));
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_nobody_listens() {
    let world = World::new().await;
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let (receiver, task) = spawn(Arc::clone(&world.store), clock, Intervals::default());
    seconds(0.1).await;
    drop(receiver);
    assert!(tokio::time::timeout(Duration::from_secs(1), task).await.is_ok());
}
