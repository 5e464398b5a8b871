//! The State port's promises, kept by every store: one suite, run on memory and on DynamoDB, as they are and
//! through a wrapper that tears reads and loses answers.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this is test code; clippy.toml knows only #[test] functions"
)]

mod bench;
mod dynamo;
mod lossy;
mod machine;
mod memory;
mod ministack;
mod policy_feed;
mod samples;
mod suite;
mod torn;
