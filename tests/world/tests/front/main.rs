//! The front, asked by the unmodified SDK.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what a test's ground lacks ends the test")]

mod caches;
mod calls;
mod functions;
mod ground;
mod identity;
mod rotation;
mod secrets;
mod servers;
