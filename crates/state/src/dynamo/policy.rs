//! The policy table: reads that are paged to the end, and a change as one transaction.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem, Update};
use keystile_model::feed::{
    Change, Entity, EntityKind, Feed, Head, LOG_RETENTION_S, LogEntry, READER_VERSION,
};
use keystile_model::store::{CommitError, Consistency, PolicyStore, StoreError};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::DynamoStore;
use super::errors::{Verdict, store_error, verdict};
use super::items::{
    Item, entity_item, entity_key, entity_partition, head_item, head_key, log_item, log_key, log_partition,
    log_sort, number, read_entity, read_head, read_log, read_log_age, text,
};
use crate::change::Checked;
use crate::memory::first_head;
use crate::reader::pause;

/// Attempts at a transaction that meets others: pauses of 20, 40, 80, 160, 320 ms, less jitter.
const CONTENDED_ATTEMPTS: u32 = 6;
/// Attempts at one that gets no answer; each has the SDK's own three inside.
const UNSURE_ATTEMPTS: u32 = 2;
/// The first pause between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How many log items a change looks at to find the oldest that is kept. It adds one, so eight catch up.
const TRIMMED_BY_ONE_CHANGE: i32 = 8;
/// How often a reader waits for the head of an image that it saw.
const HEAD_LOOKS: u32 = 5;

#[async_trait]
impl PolicyStore for DynamoStore {
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError> {
        let head = first_head();
        let put = self
            .client
            .put_item()
            .table_name(&self.policy_table)
            .set_item(Some(head_item(feed, &head)))
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await;
        match put {
            Ok(_) => Ok(head),
            Err(error)
                if error.as_service_error().is_some_and(|e| e.is_conditional_check_failed_exception()) =>
            {
                self.head(feed, Consistency::Strong).await
            }
            Err(error) => Err(store_error(feed.as_str(), &error)),
        }
    }

    async fn head(&self, feed: Feed, consistency: Consistency) -> Result<Head, StoreError> {
        let item = self.policy_item(feed, head_key(feed), consistency).await?;
        read_head(&item.ok_or(StoreError::NotSetUp(feed.as_str()))?)
    }

    async fn entities(&self, feed: Feed) -> Result<Vec<Entity>, StoreError> {
        let mut reads = JoinSet::new();
        for kind in EntityKind::ALL.into_iter().filter(|kind| kind.feed() == feed) {
            let store = self.clone();
            reads.spawn(async move { (kind, store.policy_items(feed, entity_partition(kind), None).await) });
        }
        let mut entities = Vec::new();
        let mut newest = 0;
        while let Some(read) = reads.join_next().await {
            let (kind, items) = read.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            for item in items? {
                let (entity, revision) = read_entity(kind, &item)?;
                newest = newest.max(revision);
                entities.push(entity);
            }
        }
        self.wait_for_head(feed, newest).await?;
        Ok(entities)
    }

    async fn log_after(&self, feed: Feed, after: u64) -> Result<Vec<LogEntry>, StoreError> {
        let items = self.policy_items(feed, log_partition(feed), Some(log_sort(after))).await?;
        items.iter().map(|item| read_log(feed, item)).collect()
    }

    async fn commit(
        &self,
        feed: Feed,
        expected: &Head,
        author: &str,
        at: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError> {
        let checked = Checked::new(feed, expected, author, at, changes)?;
        let next = Head {
            revision: checked.entry.revision,
            min_log_revision: self.oldest_log(feed, expected, at).await,
            ..expected.clone()
        };
        let uid = Uuid::new_v4().to_string();
        let items = self.transaction(feed, expected, &next, checked, &uid)?;
        self.write_once(feed, next.revision, &uid, items).await?;
        Ok(next)
    }
}

impl DynamoStore {
    async fn policy_item(
        &self,
        feed: Feed,
        key: Item,
        consistency: Consistency,
    ) -> Result<Option<Item>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.policy_table)
            .set_key(Some(key))
            .consistent_read(consistency == Consistency::Strong)
            .send()
            .await;
        Ok(got.map_err(|error| store_error(feed.as_str(), &error))?.item)
    }

    /// All items of a partition, above a sort key if one is given, read strongly. A page may be empty and
    /// still not be the last.
    async fn policy_items(
        &self,
        feed: Feed,
        partition: String,
        above: Option<String>,
    ) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::new();
        let mut next = None;
        loop {
            let query = self.client.query().table_name(&self.policy_table);
            let query = match &above {
                Some(above) => query
                    .key_condition_expression("pk = :p AND sk > :s")
                    .expression_attribute_values(":s", text(above.clone())),
                None => query.key_condition_expression("pk = :p"),
            };
            let page = query
                .expression_attribute_values(":p", text(partition.clone()))
                .consistent_read(true)
                .set_limit(self.page_size)
                .set_exclusive_start_key(next.take())
                .send()
                .await
                .map_err(|error| store_error(feed.as_str(), &error))?;
            items.extend(page.items.unwrap_or_default());
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(key) => next = Some(key),
                None => return Ok(items),
            }
        }
    }

    /// A query may show an image of a change whose head is not yet visible. A caller reads the head next and
    /// must find it there, so wait for it; a table that was put together by hand may never get there.
    async fn wait_for_head(&self, feed: Feed, newest: u64) -> Result<(), StoreError> {
        for look in 0..HEAD_LOOKS {
            if newest <= self.head(feed, Consistency::Strong).await?.revision {
                return Ok(());
            }
            pause(FIRST_PAUSE, look).await;
        }
        tracing::warn!(feed = feed.as_str(), newest, "the table has an image that is newer than its head");
        Ok(())
    }

    /// The oldest change that the log still has after a change at `at`. Readers that are told too small a
    /// number find a gap and read everything again, so a failure here is no reason not to write.
    async fn oldest_log(&self, feed: Feed, expected: &Head, at: i64) -> u64 {
        let first = expected.min_log_revision;
        let page = self
            .client
            .query()
            .table_name(&self.policy_table)
            .key_condition_expression("pk = :p AND sk >= :s")
            .expression_attribute_values(":p", text(log_partition(feed)))
            .expression_attribute_values(":s", text(log_sort(first)))
            .projection_expression("pk, sk, generation, #at")
            .expression_attribute_names("#at", "at")
            .limit(TRIMMED_BY_ONE_CHANGE)
            .send()
            .await;
        let items = match page {
            Ok(page) => page.items.unwrap_or_default(),
            Err(error) => {
                let error = store_error(feed.as_str(), &error);
                tracing::debug!(feed = feed.as_str(), %error, "could not look for the oldest log item");
                return first;
            }
        };
        let mut oldest = first;
        for age in items.iter().filter_map(|item| read_log_age(item).ok()) {
            let kept = age.generation == expected.generation && age.at >= at - LOG_RETENTION_S;
            if kept {
                return oldest.max(age.revision);
            }
            oldest = oldest.max(age.revision + 1);
        }
        oldest.min(expected.revision + 1)
    }

    /// The images, the log entry, and the head under the only condition. One action for each item.
    fn transaction(
        &self,
        feed: Feed,
        expected: &Head,
        next: &Head,
        checked: Checked,
        uid: &str,
    ) -> Result<Vec<TransactWriteItem>, CommitError> {
        let Checked { entry, json } = checked;
        let mut actions = Vec::with_capacity(entry.changes.len() + 2);
        for change in &entry.changes {
            actions.push(match change {
                Change::Put(entity) => self.put(entity_item(entity, next.revision)?)?,
                Change::Delete(key) => self.delete(entity_key(key))?,
            });
        }
        actions.push(self.put(log_item(feed, &entry, json, uid))?);
        actions.push(self.move_head(feed, expected, next)?);
        Ok(actions)
    }

    fn put(&self, item: Item) -> Result<TransactWriteItem, CommitError> {
        let put = Put::builder().table_name(&self.policy_table).set_item(Some(item)).build();
        Ok(TransactWriteItem::builder().put(put.map_err(not_built)?).build())
    }

    fn delete(&self, key: Item) -> Result<TransactWriteItem, CommitError> {
        let delete = Delete::builder().table_name(&self.policy_table).set_key(Some(key)).build();
        Ok(TransactWriteItem::builder().delete(delete.map_err(not_built)?).build())
    }

    fn move_head(&self, feed: Feed, expected: &Head, next: &Head) -> Result<TransactWriteItem, CommitError> {
        let update = Update::builder()
            .table_name(&self.policy_table)
            .set_key(Some(head_key(feed)))
            .update_expression("SET revision = :next, min_log_revision = :oldest")
            .condition_expression(
                "generation = :generation AND revision = :revision AND min_reader = :reader AND v <= :v",
            )
            .expression_attribute_values(":next", number(next.revision))
            .expression_attribute_values(":oldest", number(next.min_log_revision))
            .expression_attribute_values(":generation", text(expected.generation.clone()))
            .expression_attribute_values(":revision", number(expected.revision))
            .expression_attribute_values(":reader", number(expected.min_reader))
            .expression_attribute_values(":v", number(READER_VERSION))
            .build();
        Ok(TransactWriteItem::builder().update(update.map_err(not_built)?).build())
    }

    /// Writes the transaction, trying again as long as that can help. All attempts carry one token, so
    /// DynamoDB writes it once (it remembers tokens for 10 minutes); `uid` in the log item tells whether it
    /// did when the answer was lost.
    async fn write_once(
        &self,
        feed: Feed,
        revision: u64,
        uid: &str,
        items: Vec<TransactWriteItem>,
    ) -> Result<(), CommitError> {
        let (mut contended, mut unsure) = (0, 0);
        loop {
            let sent = self
                .client
                .transact_write_items()
                .client_request_token(uid)
                .set_transact_items(Some(items.clone()))
                .send()
                .await;
            let Err(error) = sent else { return Ok(()) };
            let failure = match verdict(feed.as_str(), &error) {
                Verdict::Beaten => return self.settle(feed, revision, uid, CommitError::Conflict).await,
                Verdict::Never(error) if unsure == 0 => return Err(error),
                Verdict::Never(error) => return self.settle(feed, revision, uid, error).await,
                Verdict::Contended(error) => {
                    contended += 1;
                    error
                }
                Verdict::Unsure(error) => {
                    unsure += 1;
                    error
                }
            };
            if contended >= CONTENDED_ATTEMPTS || unsure >= UNSURE_ATTEMPTS {
                return self.settle(feed, revision, uid, failure.into()).await;
            }
            pause(FIRST_PAUSE, contended + unsure - 1).await;
        }
    }

    /// Whose change got the revision? Ours: it was written. Another's: conflict. Nobody's, or it cannot be
    /// known: `otherwise`.
    async fn settle(
        &self,
        feed: Feed,
        revision: u64,
        uid: &str,
        otherwise: CommitError,
    ) -> Result<(), CommitError> {
        let item = match self.policy_item(feed, log_key(feed, revision), Consistency::Strong).await {
            Ok(item) => item,
            // It was beaten, perhaps by itself: without the log entry that is not known.
            Err(error) if matches!(otherwise, CommitError::Conflict) => return Err(error.into()),
            Err(_) => return Err(otherwise),
        };
        match item.as_ref().and_then(|item| item.get("uid")).and_then(|uid| uid.as_s().ok()) {
            Some(found) if found == uid => Ok(()),
            Some(_) => Err(CommitError::Conflict),
            None => Err(otherwise),
        }
    }
}

fn not_built(error: aws_sdk_dynamodb::error::BuildError) -> CommitError {
    CommitError::Illegal(error.to_string())
}
