//! The supervisor: what is started in which order, what is written down, and how all of it ends.

pub mod environment;
pub mod front;
pub mod homes;
pub mod limits;
pub mod ministack;
pub mod paths;
pub mod ports;
pub mod process;
pub mod proxies;
pub mod schedules;
pub mod setup;
pub mod up;

pub use paths::Paths;
pub use up::{down, up};
