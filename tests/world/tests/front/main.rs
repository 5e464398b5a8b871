//! The front, asked by the unmodified SDK.

mod caches;
mod calls;
mod functions;
mod ground;
mod identity;
