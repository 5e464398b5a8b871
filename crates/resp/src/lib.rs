//! RESP as a proxy needs it: where requests and replies begin and end, which command a request
//! names, which of its arguments are keys, and which slot a key lives in.
//!
//! Bytes in, decisions out. This crate does no I/O, reads no clock, logs nothing and copies no
//! payload: it hands out ranges of the caller's own buffer and remembers where it stopped, so that
//! no byte is looked at twice and a value of any size passes in bounded memory.

#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod command;
pub mod encode;
pub mod glob;
pub mod key_rules;
mod number;
pub mod reply;
pub mod request;
pub mod rules;
pub mod slot;
mod span;
pub mod touch;

pub use span::Span;
