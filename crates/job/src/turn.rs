//! One run of a job at a time: each waits for its turn, and gives the lease back.

use std::time::Duration;

use keystile_control::lease;
use keystile_model::store::{Clock, RuntimeStore};
use tokio::time::Instant;

/// How long a run keeps others away, in seconds. Short: a killed run holds its lease to the end, and two runs
/// at once are harmless, since every write is conditional.
const LEASE_S: i64 = 30;
/// How long a run waits for another one's lease, and at most half of its time.
const WAIT: Duration = Duration::from_secs(35);
/// Between two looks at a lease that is held.
const PAUSE: Duration = Duration::from_millis(500);

/// Whose turn is taken.
pub struct Turn<'a> {
    /// Where leases are.
    pub store: &'a dyn RuntimeStore,
    /// The time.
    pub clock: &'a dyn Clock,
    /// The lease's name.
    pub job: &'a str,
    /// What people call a run of it.
    pub called: &'a str,
}

impl Turn<'_> {
    /// Runs once, unless another run does not end in time. `run` is told what is left of `time_left_ms`
    /// after the wait.
    ///
    /// # Errors
    /// Another run is under way, the lease could not be taken, or what `run` failed with.
    pub async fn take<T, E: Into<anyhow::Error>>(
        self,
        time_left_ms: Option<u64>,
        run: impl AsyncFnOnce(Option<u64>) -> Result<T, E>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        let held = self.wait(begun, time_left_ms).await?;
        let waited = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = run(time_left_ms.map(|left| left.saturating_sub(waited))).await;
        if let Err(error) = lease::release(self.store, held).await {
            tracing::warn!(%error, "the lease was not given back; it ends by itself");
        }
        outcome.map_err(Into::into)
    }

    async fn wait(&self, begun: Instant, time_left_ms: Option<u64>) -> anyhow::Result<lease::HeldLease> {
        let owner = uuid::Uuid::new_v4().to_string();
        let wait = time_left_ms.map_or(WAIT, |left| WAIT.min(Duration::from_millis(left / 2)));
        loop {
            let now = self.clock.now().unix_timestamp();
            if let Some(held) = lease::acquire(self.store, self.job, &owner, now, LEASE_S).await? {
                return Ok(held);
            }
            anyhow::ensure!(
                begun.elapsed() < wait,
                "another run of {} is under way: try again in a minute",
                self.called
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use keystile_state::memory::MemoryStore;

    use super::*;

    /// Follows tokio's paused clock.
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> time::OffsetDateTime {
            time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap() + self.0.elapsed()
        }
    }

    fn turn<'a>(store: &'a MemoryStore, clock: &'a Paused) -> Turn<'a> {
        Turn { store, clock, job: "discover", called: "discovery" }
    }

    async fn lend(store: &MemoryStore, clock: &Paused, seconds: i64) {
        let now = clock.now().unix_timestamp();
        let _held = lease::acquire(store, "discover", "another", now, seconds).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_gives_its_lease_back_whatever_comes_of_it() {
        let (store, clock) = (MemoryStore::default(), Paused(Instant::now()));
        let failed =
            turn(&store, &clock).take(Some(60_000), async |_| Err::<(), _>(anyhow::anyhow!("broken")));
        assert_eq!(failed.await.unwrap_err().to_string(), "broken");
        let ran = turn(&store, &clock).take(Some(60_000), async |left| anyhow::Ok(left)).await.unwrap();
        assert_eq!(ran, Some(60_000), "it waited for nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_waits_for_the_one_before_it_and_has_less_time() {
        let (store, clock) = (MemoryStore::default(), Paused(Instant::now()));
        lend(&store, &clock, 20).await;
        let left = turn(&store, &clock).take(Some(60_000), async |left| anyhow::Ok(left)).await.unwrap();
        assert!(left.is_some_and(|left| (39_000..=41_000).contains(&left)), "{left:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_waits_too_long_says_so() {
        let (store, clock) = (MemoryStore::default(), Paused(Instant::now()));
        lend(&store, &clock, 60).await;
        let ran = turn(&store, &clock).take(Some(20_000), async |left| anyhow::Ok(left)).await;
        let text = "another run of discovery is under way: try again in a minute";
        assert_eq!(ran.unwrap_err().to_string(), text);
        assert!(clock.0.elapsed() < Duration::from_secs(11), "half of its time, and no more");
    }
}
