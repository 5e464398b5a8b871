//! The nouns, the ports and the pure decisions of Keystile.
//!
//! Nothing here does I/O or reads a clock: time is an argument, randomness too. Everything else in the
//! workspace points at this crate; it points at nothing.

pub mod arn;
pub mod audit;
pub mod cloud;
pub mod command_rules;
pub mod database;
pub mod db_user;
pub mod decide;
pub mod document;
pub mod feed;
pub mod gained;
pub mod labels;
pub mod matcher;
pub mod name;
pub mod naming;
pub mod policy;
pub mod removals;
pub mod report;
pub mod role;
pub mod rotation;
pub mod runtime;
pub mod store;
pub mod user;
