//! The State port's adapters and the readers of its feeds.
//!
//! [`dynamo`] keeps the two tables in DynamoDB and is the only part that names the AWS SDK; [`memory`] is
//! its twin with the same promises; [`reader`], [`policy_feed`] and [`snapshot`] turn a feed into an
//! up-to-date policy. What the items mean is the model's business.

mod change;
mod codec;
pub mod dynamo;
pub mod memory;
pub mod policy_feed;
pub mod reader;
pub mod snapshot;
