//! Free ports of the loopback interface, for servers that are told their port when they are started.
//!
//! A port that the kernel picks (`bind` to port 0) is lost again between the look and the use: the same
//! range serves outgoing connections, and a test with thousands of them soon takes it. These ports lie
//! below that range (32,768 and up on Linux), and no process hands one out twice before it has gone
//! through all.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

const RANGE: Range<u16> = 20_000..32_000;

/// How far this process has come in the range.
static TAKEN: AtomicU32 = AtomicU32::new(0);

/// The next port of 127.0.0.1 and ::1 that nothing listens on.
///
/// Two processes begin at different places, so that they do not meet where both start many servers.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when no port of the range is free.
pub fn take() -> io::Result<u16> {
    let ports = u32::from(RANGE.end - RANGE.start);
    // 509 is prime to the number of ports: neighbouring process ids begin that far apart.
    let first = std::process::id().wrapping_mul(509) % ports;
    for _ in RANGE {
        let step = TAKEN.fetch_add(1, Ordering::Relaxed);
        let offset = u16::try_from((first + step % ports) % ports).unwrap_or(0);
        let port = RANGE.start + offset;
        if is_free(port) {
            return Ok(port);
        }
    }
    let text = format!("no port between {} and {} is free", RANGE.start, RANGE.end);
    Err(io::Error::new(io::ErrorKind::AddrInUse, text))
}

/// Whether a server could listen at the port; a machine without IPv6 has nobody there.
fn is_free(port: u16) -> bool {
    let taken = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && !TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err_and(taken)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_all_different_and_in_the_range() {
        let threads: Vec<_> =
            (0..8).map(|_| std::thread::spawn(|| (0..50).map(|_| take().unwrap()).collect())).collect();
        let ports: Vec<u16> =
            threads.into_iter().flat_map(|thread| -> Vec<u16> { thread.join().unwrap() }).collect();
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 400);
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }

    #[test]
    fn a_taken_port_is_not_free() {
        for address in ["127.0.0.1", "::1"] {
            let port = take().unwrap();
            let Ok(_busy) = TcpListener::bind((address, port)) else { continue };
            assert!(!is_free(port), "{address}");
        }
    }
}
