//! Free ports of the loopback interface.
//!
//! Without a base they are any free ones ([`keystile_free_ports`]). With a base they are fixed: the front
//! takes the base itself, then the load balancer, its control port, both proxies with their metrics,
//! ministack, the access function's URL, the front's control port, and from base + 10 on the cache servers.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Result, bail};

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
    /// The first fixed port, and the next.
    fixed: Option<(u16, u16)>,
}

impl Ports {
    /// Ports from a base on, or free ones.
    #[must_use]
    pub fn new(base: Option<u16>) -> Self {
        Self { fixed: base.map(|base| (base, base)) }
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
        if let Some((base, next)) = &mut self.fixed {
            *next = base.saturating_add(10);
        }
        Ok(ports)
    }

    /// The next port that nothing listens on.
    ///
    /// # Errors
    /// When a fixed port is taken, or no free one is left.
    pub fn take(&mut self) -> Result<u16> {
        let Some((_, next)) = &mut self.fixed else { return Ok(keystile_free_ports::take()?) };
        let port = *next;
        *next = port.saturating_add(1);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            bail!("port {port} is taken; set KEYSTILE_PORT_BASE to another one, or unset it");
        }
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_fixes_them() {
        let base = Ports::new(None).take().unwrap();
        let mut ports = Ports::new(Some(base));
        let Ok(services) = ports.services() else { return };
        assert_eq!(services.front, base);
        assert_eq!((services.ministack, services.control), (base + 7, base + 9));
        assert_eq!(ports.fixed, Some((base, base + 10)));
    }

    #[test]
    fn a_taken_fixed_port_is_an_error_that_names_it() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Ports::new(Some(port)).take().unwrap_err().to_string();
        assert!(error.contains(&port.to_string()), "{error}");
    }
}
