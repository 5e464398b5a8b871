//! Where static databases may be: networks, and addresses that are never dialled.

use std::net::{IpAddr, Ipv6Addr};

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a network as 10.0.0.0/8 or fd00::/8")]
pub(crate) struct NetworkError;

impl Network {
    pub(crate) fn parse(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = text.split_once('/').ok_or(NetworkError)?;
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let prefix: u8 = prefix.parse().map_err(|_| NetworkError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most { Err(NetworkError) } else { Ok(Self { address, prefix }) }
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Why an address is never dialled, if so. Loopback is left to the caller: local worlds live there.
pub(crate) fn never(address: IpAddr) -> Option<&'static str> {
    /// The metadata service's IPv6 address.
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match address.to_canonical() {
        IpAddr::V4(four) if four.is_link_local() => Some("it is a link-local or metadata address"),
        IpAddr::V4(four) if four.is_broadcast() => Some("it is the broadcast address"),
        IpAddr::V6(six) if six.is_unicast_link_local() || six == METADATA => {
            Some("it is a link-local or metadata address")
        }
        any if any.is_unspecified() || matches!(any, IpAddr::V4(four) if four.octets()[0] == 0) => {
            Some("it is no address of a host")
        }
        any if any.is_multicast() => Some("it is a multicast address"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containment() {
        let table = [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "fd00::1", false),
            ("10.1.2.3/32", "10.1.2.3", true),
            ("10.1.2.3/32", "10.1.2.4", false),
            ("fd00:1::/64", "fd00:1::5", true),
            ("fd00:1::/64", "fd00:2::5", false),
            ("::/0", "fd00:2::5", true),
        ];
        for (network, address, inside) in table {
            let network = Network::parse(network).unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network} {address}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/-1"] {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_that_are_never_dialled() {
        for bad in [
            "169.254.169.254",
            "169.254.170.2",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
        ] {
            assert!(never(bad.parse().unwrap()).is_some(), "{bad}");
        }
        assert!(never("10.0.0.1".parse().unwrap()).is_none());
    }
}
