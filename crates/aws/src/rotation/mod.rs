//! The ports of rotation over AWS: users of ElastiCache and MemoryDB, secrets of Secrets Manager, and the
//! operating system's randomness.
//!
//! Calls that change something are sent once: tried again by the SDK, a call whose first answer was lost would
//! be told "it is modifying already", and its taking effect would be taken for somebody else's. Reads are
//! tried again as everywhere. No error holds more than the action and AWS's code: a message may repeat what
//! was sent.

mod errors;
mod secrets;
mod users;

use keystile_model::rotation::ports::Entropy;

pub use secrets::AwsSecrets;
pub use users::AwsCacheUsers;

/// The operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    /// # Panics
    /// Never: a system that gives no randomness ends the process.
    fn fill(&self, buffer: &mut [u8]) {
        if let Err(error) = getrandom::fill(buffer) {
            tracing::error!(%error, "the operating system gives no randomness");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn randomness_differs() {
        let (mut a, mut b) = ([0_u8; 32], [0_u8; 32]);
        SystemEntropy.fill(&mut a);
        SystemEntropy.fill(&mut b);
        assert_ne!(a, b);
    }
}
