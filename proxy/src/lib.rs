//! The RESP proxy: clients by certificate on one side, caches by IAM token on the other.
//!
//! A connection's way: [`connection`] shakes hands, finds who it is ([`tls`]) and what it wants ([`route`]),
//! decides ([`admission`]), dials ([`upstream`]) and hands both sides to the engine ([`session`]). [`sessions`]
//! watches over what lives, [`audit`] writes it down.

pub mod accept;
pub mod admin;
pub mod admission;
pub mod app;
pub mod audit;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod credentials;
pub mod failed_sign_ins;
pub mod health;
pub mod host_secret;
pub mod identities;
pub mod logins;
pub mod memory;
pub mod metrics;
pub mod open_files;
pub mod preamble;
pub mod proxy_protocol;
pub mod refusal;
pub mod route;
pub mod session;
pub mod sessions;
#[cfg(test)]
mod testing;
pub mod throttle;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod workers;
