//! Cluster mode: many servers that look like one.
//!
//! Here are the decisions, free of I/O: which shard a command belongs to ([`slots`], [`plan`]), how one that
//! belongs to several is taken apart ([`split`]) and the replies become one ([`merge`]). docs/CLUSTER-MODE.md
//! says what each command means.

pub mod answers;
pub mod merge;
pub mod pattern;
pub mod plan;
pub mod scan;
pub mod slots;
pub mod split;
pub mod value;
