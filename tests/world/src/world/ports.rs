//! Free ports of the loopback interface.
//!
//! Without a base they are looked for below the range from which the kernel takes the ports of outgoing
//! connections, so that none is lost between the look and the use. With a base they are fixed: the front
//! takes the base itself, then the load balancer, its control port, both proxies with their metrics,
//! ministack, the access function's URL, the front's control port, and from base + 10 on the cache servers.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The ports of the world's own services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePorts {
    /// The stand-in of AWS.
    pub front: u16,
    /// The load balancer's stand-in, and its control port.
    pub load_balancer: (u16, u16),
    /// Each proxy's port, and that of its metrics.
    pub proxies: [(u16, u16); 2],
    /// ministack, behind the front.
    pub ministack: u16,
    /// The access function's URL.
    pub access: u16,
    /// The front's control port: faults, calls, credentials of roles.
    pub control: u16,
}

/// Hands out ports, each once.
#[derive(Debug)]
pub struct Ports {
    base: Option<u16>,
    next: u16,
}

impl Ports {
    /// Ports from a base, or free ones from a place that `seed` picks.
    #[must_use]
    pub fn new(base: Option<u16>, seed: u32) -> Self {
        let spread = u32::from(RANGE.end - RANGE.start);
        let offset = u16::try_from(seed % spread).unwrap_or(0);
        Self { base, next: base.unwrap_or(RANGE.start + offset) }
    }

    /// The ports of the world's services, first.
    ///
    /// # Errors
    /// When a fixed port is taken, or no free one is left.
    pub fn services(&mut self) -> Result<ServicePorts> {
        let ports = ServicePorts {
            front: self.take()?,
            load_balancer: (self.take()?, self.take()?),
            proxies: [(self.take()?, self.take()?), (self.take()?, self.take()?)],
            ministack: self.take()?,
            access: self.take()?,
            control: self.take()?,
        };
        if let Some(base) = self.base {
            self.next = base.saturating_add(10);
        }
        Ok(ports)
    }

    /// The next port that nothing listens on.
    ///
    /// # Errors
    /// When a fixed port is taken, or no free one is left.
    pub fn take(&mut self) -> Result<u16> {
        for _ in RANGE {
            let port = self.next;
            self.next = self.next.saturating_add(1);
            if self.base.is_none() && self.next >= RANGE.end {
                self.next = RANGE.start;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(port);
            }
            if self.base.is_some() {
                bail!("port {port} is taken; set KEYSTILE_PORT_BASE to another one, or unset it");
            }
        }
        bail!("no port between {} and {} is free", RANGE.start, RANGE.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over_and_none_is_given_twice() {
        let mut ports = Ports::new(None, 4_242);
        let first = ports.take().unwrap();
        let _busy = TcpListener::bind((Ipv4Addr::LOCALHOST, first + 1)).ok();
        let second = ports.take().unwrap();
        assert_ne!(second, first);
        assert_ne!(second, first + 1);
    }

    #[test]
    fn a_base_fixes_them() {
        let base = Ports::new(None, 99).take().unwrap();
        let mut ports = Ports::new(Some(base), 0);
        let Ok(services) = ports.services() else { return };
        assert_eq!(services.front, base);
        assert_eq!((services.ministack, services.control), (base + 7, base + 9));
        assert_eq!(ports.next, base + 10);
    }

    #[test]
    fn a_taken_fixed_port_is_an_error_that_names_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Ports::new(Some(port), 0).take().unwrap_err().to_string();
        assert!(error.contains(&port.to_string()), "{error}");
    }
}
