//! Adapters for AWS: credentials, IAM tokens, the discovery port over ElastiCache, MemoryDB, tags and regions.
//! The only crate besides the DynamoDB half of `state` that names an AWS SDK.

pub mod config;
pub mod credentials;
pub mod iam_token;
