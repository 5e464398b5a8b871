//! The policy, kept warm between the calls of a function: a call reads the two heads and what is new, not the
//! whole table.

use std::sync::Arc;

use keystile_model::feed::{Feed, Head};
use keystile_model::policy::Policy;
use keystile_model::store::{Clock, PolicyStore, StoreError};
use tokio::sync::Mutex;

use crate::reader::{FeedReader, Step};

/// What is known, and how to know more.
pub struct Snapshot {
    store: Arc<dyn PolicyStore>,
    clock: Arc<dyn Clock>,
    warm: Mutex<Option<Warm>>,
}

struct Warm {
    access: FeedReader<dyn PolicyStore>,
    inventory: FeedReader<dyn PolicyStore>,
    policy: Arc<Policy>,
}

impl Snapshot {
    /// Of this store; reads nothing yet.
    #[must_use]
    pub fn new(store: Arc<dyn PolicyStore>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, warm: Mutex::new(None) }
    }

    /// The policy now, and the head of the access feed that a change on top of it expects.
    ///
    /// # Errors
    /// [`StoreError`]; the next call begins anew.
    pub async fn current(&self) -> Result<(Arc<Policy>, Head), StoreError> {
        let mut guard = self.warm.lock().await;
        // Taken out: an error half-way leaves nothing that is half-read.
        let mut warm = guard.take().unwrap_or_else(|| Warm {
            access: self.reader(Feed::Access),
            inventory: self.reader(Feed::Inventory),
            policy: Arc::new(Policy::new([])),
        });
        for feed in Feed::ALL {
            let reader = match feed {
                Feed::Access => &mut warm.access,
                Feed::Inventory => &mut warm.inventory,
            };
            let step = reader.poll().await?;
            follow(&mut warm.policy, feed, step);
        }
        let head = warm.access.place().cloned().ok_or(StoreError::NotSetUp(Feed::Access.as_str()))?;
        let policy = Arc::clone(&warm.policy);
        *guard = Some(warm);
        Ok((policy, head))
    }

    /// Forgets where the access feed stood: the next look reads it whole and strongly. After a change of our
    /// own, so that whoever made it sees it; after somebody else's that came first, so that we do.
    pub async fn forget(&self) {
        if let Some(warm) = self.warm.lock().await.as_mut() {
            warm.access = self.reader(Feed::Access);
        }
    }

    /// Forgets where both feeds stood: the next look reads them whole and strongly, and so sees what another
    /// function has just written.
    pub async fn forget_both(&self) {
        *self.warm.lock().await = None;
    }

    fn reader(&self, feed: Feed) -> FeedReader<dyn PolicyStore> {
        FeedReader::new(Arc::clone(&self.store), feed, Arc::clone(&self.clock))
    }
}

fn follow(policy: &mut Arc<Policy>, feed: Feed, step: Step) {
    match step {
        Step::Nothing => {}
        Step::Delivered { changes, .. } => {
            let policy = Arc::make_mut(policy);
            changes.into_iter().for_each(|change| policy.apply(change));
        }
        Step::Reloaded { entities, .. } => {
            let policy = Arc::make_mut(policy);
            policy.clear(feed);
            entities.into_iter().for_each(|entity| policy.apply(keystile_model::feed::Change::Put(entity)));
        }
    }
}
