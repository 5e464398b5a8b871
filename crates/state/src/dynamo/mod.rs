//! The tables in DynamoDB: `policy` with the two feeds, `runtime` with what churns.
//!
//! Keys of the policy table begin with the feed's name, so that IAM can tell the writers apart by
//! `dynamodb:LeadingKeys`:
//!
//! | item | `pk` | `sk` |
//! | --- | --- | --- |
//! | an entity | `<feed>#<kind>` | its id |
//! | a log entry | `<feed>#log` | its revision, 20 digits |
//! | the head | `<feed>#head` | `head` |
//!
//! A change is one transaction. There is no Scan, and nothing is deleted here but what a change deletes:
//! log and runtime items carry a `ttl` and are collected by the table.

mod errors;
mod items;
mod policy;
mod runtime;
mod tables;

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::Builder;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;

pub use tables::create_tables;

/// One attempt of a job's call. A job has time, and a long transaction may need some.
pub const JOB_ATTEMPT: Duration = Duration::from_secs(5);
/// One attempt of a proxy's poll: the next one comes soon.
pub const POLL_ATTEMPT: Duration = Duration::from_secs(2);

/// A client whose attempts end after `attempt`, and whose calls, retries included, after three of that. The
/// SDK itself would only limit the time to connect.
#[must_use]
pub fn client(config: &SdkConfig, attempt: Duration) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(attempt)
        .operation_attempt_timeout(attempt)
        .operation_timeout(attempt * 3)
        .build();
    // Three attempts; the first pause is short, since most failures here are a lost connection.
    let retries =
        RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(50));
    Client::from_conf(Builder::from(config).timeout_config(timeouts).retry_config(retries).build())
}

/// Both ports over DynamoDB. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DynamoStore {
    client: Client,
    policy_table: String,
    runtime_table: String,
    page_size: Option<i32>,
}

impl DynamoStore {
    /// Takes a client (see [`client`]) and the tables' names.
    pub fn new(client: Client, policy_table: impl Into<String>, runtime_table: impl Into<String>) -> Self {
        Self {
            client,
            policy_table: policy_table.into(),
            runtime_table: runtime_table.into(),
            page_size: None,
        }
    }

    /// Reads at most this many items a page instead of DynamoDB's 1 MB.
    #[must_use]
    pub fn with_page_size(mut self, items: i32) -> Self {
        self.page_size = Some(items);
        self
    }
}
