//! The control plane's jobs over ports: discovery, label sync and rotation. What to do is decided by pure plans; the
//! jobs read, plan, write and report. Names no AWS SDK and no store.

pub mod audit;
pub mod commit;
pub mod discover;
#[cfg(test)]
mod fake_cloud;
pub mod lease;
pub mod matchers;
pub mod reading;
pub mod rotate;
pub mod sync_labels;
