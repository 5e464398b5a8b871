//! The tables as the local world and the tests make them; in an account the template does.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, TableStatus,
    TimeToLiveSpecification,
};
use keystile_model::store::StoreError;

use super::errors::store_error;

/// How long a new table may take to become active: 60 looks of half a second.
const LOOKS: u32 = 60;

/// Makes both tables, on demand, with `pk` and `sk` and expiry by `ttl`. One that is there is left alone.
///
/// # Errors
/// [`StoreError`] if a table could not be made or did not become active within 30 s.
pub async fn create_tables(client: &Client, policy: &str, runtime: &str) -> Result<(), StoreError> {
    for table in [policy, runtime] {
        create_table(client, table).await?;
    }
    Ok(())
}

async fn create_table(client: &Client, table: &str) -> Result<(), StoreError> {
    let created = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("pk")?)
        .attribute_definitions(attribute("sk")?)
        .key_schema(key("pk", KeyType::Hash)?)
        .key_schema(key("sk", KeyType::Range)?)
        .send()
        .await;
    match created {
        Ok(_) => {}
        Err(error) if error.as_service_error().is_some_and(|e| e.is_resource_in_use_exception()) => {
            return Ok(());
        }
        Err(error) => return Err(store_error("policy", &error)),
    }
    wait_until_active(client, table).await?;
    let expiry = TimeToLiveSpecification::builder().enabled(true).attribute_name("ttl").build();
    client
        .update_time_to_live()
        .table_name(table)
        .time_to_live_specification(expiry.map_err(not_built)?)
        .send()
        .await
        .map(drop)
        .map_err(|error| store_error("policy", &error))
}

async fn wait_until_active(client: &Client, table: &str) -> Result<(), StoreError> {
    for _ in 0..LOOKS {
        let described = client.describe_table().table_name(table).send().await;
        let described = described.map_err(|error| store_error("policy", &error))?;
        if described.table.and_then(|table| table.table_status) == Some(TableStatus::Active) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err(StoreError::Unavailable(format!("table {table} did not become active")))
}

fn attribute(name: &str) -> Result<AttributeDefinition, StoreError> {
    AttributeDefinition::builder()
        .attribute_name(name)
        .attribute_type(ScalarAttributeType::S)
        .build()
        .map_err(not_built)
}

fn key(name: &str, kind: KeyType) -> Result<KeySchemaElement, StoreError> {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(not_built)
}

fn not_built(error: aws_sdk_dynamodb::error::BuildError) -> StoreError {
    StoreError::Refused(error.to_string())
}
