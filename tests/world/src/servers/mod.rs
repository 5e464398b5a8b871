//! The cache servers: real Valkey, one process a node, TLS alone, as the fixture says.
//!
//! It owns their layout, configuration, certificates, clusters and first ACLs. What the APIs change
//! afterwards (users, passwords, access strings) is the front's to apply, on the nodes of the
//! [`Manifest`].

mod certificates;
pub mod client;
mod cluster;
mod configuration;
mod layout;
mod manifest;
mod start;

pub use certificates::Certificates;
pub use layout::{Layout, NodePlan};
pub use manifest::{Cache, Endpoint, Manifest, Node, Role};
pub(crate) use start::world_program;
pub use start::{Options, restart_node, start};
