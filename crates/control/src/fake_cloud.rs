//! An in-memory cloud.
