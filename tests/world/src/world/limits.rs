//! The number of files a process may open: raised as far as the machine allows, the shortfall said.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit (its children inherit it) to `wanted` files, or as near as it gets.
/// Returns what it is now.
#[must_use]
pub fn raise_open_files(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    if hard < wanted {
        // Only the privileged may; where it is refused the hard limit stays what it is.
        let raised = Rlimit { current: Some(wanted), maximum: Some(wanted) };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            return wanted;
        }
    }
    let most = wanted.min(hard).max(now.current.unwrap_or(u64::MAX));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: now.maximum }) {
        Ok(()) => most,
        Err(_) => now.current.unwrap_or(u64::MAX),
    }
}
