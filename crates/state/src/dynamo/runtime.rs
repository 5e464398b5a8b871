//! The runtime table: small items with a version, written one at a time.

use async_trait::async_trait;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use keystile_model::feed::READER_VERSION;
use keystile_model::store::{CommitError, RuntimeItem, RuntimeKey, RuntimeStore, StoreError};
use uuid::Uuid;

use super::DynamoStore;
use super::errors::store_error;
use super::items::{Item, key, number, read_runtime, text};
use crate::change::runtime_json;
use crate::codec::unreadable;

/// What the table is called in errors.
const RUNTIME: &str = "runtime";

#[async_trait]
impl RuntimeStore for DynamoStore {
    async fn read(&self, key: &RuntimeKey) -> Result<Option<RuntimeItem>, StoreError> {
        self.runtime_item(key).await?.as_ref().map(read_runtime).transpose()
    }

    async fn list(&self, partition: &str) -> Result<Vec<RuntimeItem>, StoreError> {
        let mut items = Vec::new();
        let mut next = None;
        loop {
            let page = self
                .client
                .query()
                .table_name(&self.runtime_table)
                .key_condition_expression("pk = :p")
                .expression_attribute_values(":p", text(partition))
                .set_limit(self.page_size)
                .set_exclusive_start_key(next.take())
                .send()
                .await
                .map_err(|error| store_error(RUNTIME, &error))?;
            for item in page.items.unwrap_or_default() {
                items.push(read_runtime(&item)?);
            }
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(key) => next = Some(key),
                None => return Ok(items),
            }
        }
    }

    async fn write(
        &self,
        key: &RuntimeKey,
        expected: Option<u64>,
        expires_at: Option<i64>,
        body: serde_json::Value,
    ) -> Result<u64, CommitError> {
        let json = runtime_json(key, &body)?;
        let uid = Uuid::new_v4().simple().to_string();
        let mut update = self
            .client
            .update_item()
            .table_name(&self.runtime_table)
            .set_key(Some(item_key(key)))
            .expression_attribute_names("#body", "body")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_names("#version", "version")
            .expression_attribute_values(":v", number(READER_VERSION))
            .expression_attribute_values(":body", text(json))
            .expression_attribute_values(":uid", text(uid.clone()))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::UpdatedNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        update = match expires_at {
            Some(at) => update
                .update_expression("SET v = :v, #body = :body, uid = :uid, #ttl = :ttl ADD #version :one")
                .expression_attribute_values(":ttl", number(at)),
            None => update
                .update_expression("SET v = :v, #body = :body, uid = :uid REMOVE #ttl ADD #version :one"),
        };
        update = match expected {
            Some(0) => update.condition_expression("attribute_not_exists(#version)"),
            Some(version) => update
                .condition_expression("#version = :expected")
                .expression_attribute_values(":expected", number(version)),
            None => update,
        };
        match update.send().await {
            Ok(done) => Ok(version_of(key, &done.attributes.unwrap_or_default())?),
            Err(error) => self.own_write(key, &uid, &error).await,
        }
    }

    async fn remove(&self, key: &RuntimeKey) -> Result<(), StoreError> {
        let removed = self
            .client
            .delete_item()
            .table_name(&self.runtime_table)
            .set_key(Some(item_key(key)))
            .send()
            .await;
        removed.map(drop).map_err(|error| store_error(RUNTIME, &error))
    }
}

impl DynamoStore {
    async fn runtime_item(&self, key: &RuntimeKey) -> Result<Option<Item>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.runtime_table)
            .set_key(Some(item_key(key)))
            .consistent_read(true)
            .send()
            .await;
        Ok(got.map_err(|error| store_error(RUNTIME, &error))?.item)
    }

    /// After a failed write: it was written after all if the item carries our `uid`, as when an answer was
    /// lost and a later attempt met the condition.
    async fn own_write<R: std::fmt::Debug>(
        &self,
        key: &RuntimeKey,
        uid: &str,
        error: &SdkError<UpdateItemError, R>,
    ) -> Result<u64, CommitError> {
        let failure = match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                if let Some(item) = failed.item() {
                    return own_version(key, uid, item)?.ok_or(CommitError::Conflict);
                }
                CommitError::Conflict
            }
            _ => CommitError::Store(store_error(RUNTIME, error)),
        };
        let worth_a_look =
            matches!(failure, CommitError::Conflict | CommitError::Store(StoreError::Unavailable(_)));
        if !worth_a_look {
            return Err(failure);
        }
        match self.runtime_item(key).await {
            Ok(Some(item)) => own_version(key, uid, &item)?.ok_or(failure),
            Ok(None) => Err(failure),
            Err(error) => Err(error.into()),
        }
    }
}

fn item_key(of: &RuntimeKey) -> Item {
    key(of.partition.clone(), of.sort.clone())
}

fn own_version(key: &RuntimeKey, uid: &str, item: &Item) -> Result<Option<u64>, StoreError> {
    let ours = item.get("uid").and_then(|found| found.as_s().ok()).is_some_and(|found| found == uid);
    if ours { version_of(key, item).map(Some) } else { Ok(None) }
}

fn version_of(key: &RuntimeKey, item: &Item) -> Result<u64, StoreError> {
    item.get("version")
        .and_then(|version| version.as_n().ok())
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| unreadable(format!("{}/{}", key.partition, key.sort), "it has no version"))
}
