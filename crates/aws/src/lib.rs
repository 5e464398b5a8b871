//! Adapters for AWS: credentials, IAM tokens, the discovery port over ElastiCache, MemoryDB, tags and regions.
//! The only crate besides the DynamoDB half of `state` that names an AWS SDK.

pub mod callers;
pub mod config;
pub mod credentials;
pub mod discovery;
mod elasticache;
pub mod iam_token;
pub mod kms;
pub mod lambda;
mod memorydb;
mod places;
mod regions;
pub mod rotation;
pub mod secrets;
mod tags;
