//! The handler over the in-memory store, file CAs and a clock that stands still.

mod bad_input;
mod certificates;
mod documents;
mod races;
mod rotation;
mod routes;
mod sign_in;
mod world;
