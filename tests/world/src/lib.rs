//! The local world: stand-ins of AWS and real Valkey servers, in which the built binaries are tested.

pub mod fixture;
pub mod front;
pub mod lambda;
pub mod load_balancer;
pub mod packages;
pub mod servers;
pub mod sigv4;
pub mod world;
