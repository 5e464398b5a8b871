//! End-to-end tests of Keystile; see `tests/`.
