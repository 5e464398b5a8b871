//! A proxy in this process, a policy in memory, CAs of its own, and a real Valkey with TLS behind it.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part")]

pub mod certificates;
pub mod client;
pub mod cluster;
pub mod policy;
pub mod random;
pub mod server;
pub mod stand_ins;
pub mod twin;
pub mod world;

use std::time::{Duration, Instant};

pub use certificates::{Pair, foreign_certificate};
pub use client::Client;
pub use policy::{role, user};
pub use server::{Valkey, engine_major, free_port, start_valkey_with, valkey_server};
pub use stand_ins::cache_tls;
pub use world::World;

pub const TOKEN: &str = "the-only-token-that-logs-in";
pub const DOMAIN: &str = "ks.test";
/// How long anything may take that takes a moment; much, for machines with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test on two threads.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "it never came to be that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A command as an array.
pub fn encoded(words: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    keystile_resp::encode::request(&mut out, words);
    out
}
