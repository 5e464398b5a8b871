//! Free memory of the process, given back to the operating system.
//!
//! glibc's allocator gives back what is free at the top of its heaps alone. Where many connections came and went,
//! what they had lies between what others still have, and stays: 12 KiB for each that ever was there at once.

/// Gives back all whole pages that hold nothing. With another C library than glibc it does nothing.
///
/// It walks all heaps and holds each one's lock meanwhile: some milliseconds where a hundred megabytes are free.
/// A thread that asks for memory then waits for it.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::trim();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    use std::ffi::c_int;

    #[allow(unsafe_code, reason = "the C library's functions are")]
    unsafe extern "C" {
        /// `malloc_trim(3)`. `pad` bytes are left at the top of the main heap.
        safe fn malloc_trim(pad: usize) -> c_int;
    }

    pub(super) fn trim() {
        malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    /// Resident memory in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0)
    }

    #[test]
    fn what_lies_between_is_given_back() {
        let pieces: Vec<Vec<u8>> = (0..40_000).map(|_| vec![1; 1_000]).collect();
        let there = resident();
        // Every hundredth one stays, so that no heap is free as a whole.
        let kept: Vec<Vec<u8>> = pieces.into_iter().step_by(100).collect();
        let free = resident();
        super::give_back();
        let after = resident();
        assert!(after + 20_000 < there, "{there} KiB, {free} when most were free, {after} when given back");
        assert_eq!(kept.len(), 400);
    }
}
