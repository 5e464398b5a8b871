//! Two admins at once: each writes on what it saw, and what is no longer true is planned again.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use keystile_model::feed::{Change, Entity, EntityKey, EntityKind, Feed, Head, LogEntry};
use keystile_model::store::{CommitError, Consistency, PolicyStore, StoreError};
use keystile_state::memory::MemoryStore;
use serde_json::json;

use super::world::*;

/// Lets a rival's change land right before the next commit.
struct Raced {
    inner: Arc<MemoryStore>,
    rival: Mutex<Vec<Change>>,
    /// Commits take effect and then their answer is lost.
    lose_answers: Mutex<bool>,
    /// What eventually consistent reads still say of the access feed.
    stale: Mutex<Option<Head>>,
}

#[async_trait]
impl PolicyStore for Raced {
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError> {
        self.inner.set_up(feed).await
    }
    async fn head(&self, feed: Feed, consistency: Consistency) -> Result<Head, StoreError> {
        let stale = self.stale.lock().unwrap().clone();
        match stale {
            Some(head) if feed == Feed::Access && consistency == Consistency::Eventual => Ok(head),
            _ => self.inner.head(feed, consistency).await,
        }
    }
    async fn entities(&self, feed: Feed) -> Result<Vec<Entity>, StoreError> {
        self.inner.entities(feed).await
    }
    async fn log_after(&self, feed: Feed, after: u64) -> Result<Vec<LogEntry>, StoreError> {
        self.inner.log_after(feed, after).await
    }
    async fn commit(
        &self,
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError> {
        let rival: Vec<Change> = std::mem::take(&mut *self.rival.lock().unwrap());
        if !rival.is_empty() {
            let head = self.inner.head(feed, Consistency::Strong).await?;
            self.inner.commit(feed, &head, "rival", at, &rival).await?;
        }
        let written = self.inner.commit(feed, expected, author, at, changes).await;
        if *self.lose_answers.lock().unwrap() {
            return Err(CommitError::Store(StoreError::Unavailable("lost".to_owned())));
        }
        written
    }
}

async fn raced() -> (World, Arc<Raced>) {
    let memory = Arc::new(MemoryStore::new());
    let store = Arc::new(Raced {
        inner: memory.clone(),
        rival: Mutex::new(Vec::new()),
        lose_answers: Mutex::new(false),
        stale: Mutex::new(None),
    });
    let world = empty_over(&[], memory, store.clone());
    people(&world).await;
    (world, store)
}

fn delete(kind: EntityKind, id: &str) -> Change {
    Change::Delete(EntityKey { kind, id: id.to_owned() })
}

#[tokio::test]
async fn both_changes_are_kept() {
    let (world, store) = raced().await;
    *store.rival.lock().unwrap() = vec![delete(EntityKind::Role, "dev")];
    world.put(ALICE, "role", "new", json!({})).await;
    world.ok(ALICE, "GET", "/v1/documents/role/new", None).await;
    world.refused(404, ALICE, "GET", "/v1/documents/role/dev", None).await;
}

#[tokio::test]
async fn a_right_that_was_lost_meanwhile_does_not_count() {
    let (world, store) = raced().await;
    *store.rival.lock().unwrap() = vec![delete(EntityKind::User, "alice")];
    let body = Some(document("role", "new", json!({})));
    world.refused(403, ALICE, "PUT", "/v1/documents/role/new", body).await;
    world.refused(404, ADMIN, "GET", "/v1/documents/role/new", None).await;
}

#[tokio::test]
async fn two_editors_cannot_remove_each_other() {
    let (world, store) = raced().await;
    // While alice removes the bootstrap admin, it takes alice's rule away.
    *store.rival.lock().unwrap() = vec![delete(EntityKind::ArnRule, ALICE)];
    let error = world.refused(409, ALICE, "DELETE", "/v1/documents/user/bootstrap-admin", None).await;
    assert_eq!(error["message"], "the last editor cannot be removed");
    world.ok(ADMIN, "GET", "/v1/documents/user/bootstrap-admin", None).await;
}

#[tokio::test]
async fn two_set_ups_at_once_make_one_deployment() {
    let memory = Arc::new(MemoryStore::new());
    let first = empty_over(&[], memory.clone(), memory.clone());
    let second = empty_over(&[], memory.clone(), memory.clone());
    let (a, b) =
        tokio::join!(first.ok(ADMIN, "GET", "/v1/ca", None), second.ok(ADMIN, "GET", "/v1/ca", None));
    assert_eq!(a, b);
    assert_eq!(memory.head(Feed::Access, Consistency::Strong).await.unwrap().revision, 1);
}

#[tokio::test]
async fn a_set_up_that_lost_the_race_takes_what_is_there() {
    let memory = Arc::new(MemoryStore::new());
    let rival = empty_over(&[], memory.clone(), memory.clone());
    rival.ok(ADMIN, "GET", "/v1/status", None).await;
    let made = memory.entities(Feed::Access).await.unwrap();
    let fresh = Arc::new(MemoryStore::new());
    let store = Arc::new(Raced {
        inner: fresh.clone(),
        rival: Mutex::new(made.into_iter().map(Change::Put).collect()),
        lose_answers: Mutex::new(false),
        stale: Mutex::new(None),
    });
    let world = empty_over(&[], fresh.clone(), store);
    let ours = world.ok(ADMIN, "GET", "/v1/ca", None).await;
    assert_eq!(ours, rival.ok(ADMIN, "GET", "/v1/ca", None).await);
}

#[tokio::test]
async fn a_lost_answer_is_said_and_can_be_repeated() {
    let (world, store) = raced().await;
    *store.lose_answers.lock().unwrap() = true;
    let body = document("role", "new", json!({}));
    let error = world.refused(503, ALICE, "PUT", "/v1/documents/role/new", Some(body.clone())).await;
    assert!(error["next"].to_string().contains("look whether it was written"), "{error}");
    *store.lose_answers.lock().unwrap() = false;
    let again = world.ok(ALICE, "PUT", "/v1/documents/role/new", Some(body)).await;
    assert_eq!(again["outcome"], "unchanged");
}

#[tokio::test]
async fn who_writes_reads_it_back_at_once() {
    let (world, store) = raced().await;
    world.ok(ALICE, "GET", "/v1/status", None).await;
    let before = world.memory.head(Feed::Access, Consistency::Strong).await.unwrap();
    *store.stale.lock().unwrap() = Some(before);
    for name in ["one", "two", "three"] {
        world.put(ALICE, "role", name, json!({})).await;
        world.ok(ALICE, "GET", &format!("/v1/documents/role/{name}"), None).await;
    }
}
