//! Where credentials may go. Pure: names and resolved addresses in, yes or a reason out.
//!
//! A discovered database is dialled at the host that AWS described, under a suffix of AWS's own; loopback
//! only where the proxy was told that its world is one machine. A static one is dialled inside the networks
//! that an admin listed, judged by the address that its name resolved to.

use std::net::IpAddr;

use keystile_model::database::{Database, DatabaseKind};

/// AWS's own DNS suffixes, by partition.
const AWS_SUFFIXES: [&str; 6] = [
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
];

/// Whether a database's host name may be resolved and dialled at all.
///
/// # Errors
/// Why not, in words.
pub fn check_name(database: &Database, allow_loopback: bool) -> Result<(), String> {
    if database.kind == DatabaseKind::Static {
        return Ok(());
    }
    if database.arn.is_none() {
        return Err("AWS never described it".to_owned());
    }
    let host = database.endpoint.host.to_ascii_lowercase();
    let is_aws = AWS_SUFFIXES.iter().any(|suffix| host.ends_with(suffix) && host.len() > suffix.len());
    let is_local = host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if is_aws || (allow_loopback && is_local) {
        return Ok(());
    }
    Err(format!("its host {host} is not under one of AWS's names, so no credentials go there"))
}

/// Whether an address that the host resolved to may be dialled.
///
/// # Errors
/// Why not, in words.
pub fn check_address(
    database: &Database,
    address: IpAddr,
    static_networks: &[String],
    allow_loopback: bool,
) -> Result<(), String> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return if allow_loopback { Ok(()) } else { Err(format!("{address} is a loopback address")) };
    }
    if address.is_unspecified() || address.is_multicast() || is_link_local(address) {
        return Err(format!("{address} is a link-local, metadata or reserved address"));
    }
    if database.kind != DatabaseKind::Static
        || static_networks.iter().any(|network| contains(network, address))
    {
        return Ok(());
    }
    Err(format!("{address} is in none of the networks that static databases may be in (static_networks)"))
}

/// `169.254.0.0/16` has the instance and task metadata; `fd00:ec2::/32` the former's IPv6 form.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_unicast_link_local() || (v6.segments()[0] == 0xfd00 && v6.segments()[1] == 0x0ec2)
        }
    }
}

/// Whether a CIDR block holds an address. What is no CIDR block holds none.
#[must_use]
pub fn contains(network: &str, address: IpAddr) -> bool {
    let Some((base, length)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(base) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(base) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::database;

    #[test]
    fn discovered_hosts_are_aws_s() {
        let mut orders = database("orders");
        for (host, loopback, fine) in [
            ("master.orders.abc123.use1.cache.amazonaws.com", false, true),
            ("clustercfg.x.abc.memorydb.cn-north-1.amazonaws.com.cn", false, true),
            ("orders.evil.example", true, false),
            ("amazonaws.com.evil.example", true, false),
            ("evilamazonaws.com", true, false),
            (".amazonaws.com", true, false),
            ("localhost", false, false),
            ("localhost", true, true),
            ("127.0.0.1", true, true),
            ("10.0.0.1", true, false),
        ] {
            orders.endpoint.host = host.to_owned();
            assert_eq!(check_name(&orders, loopback).is_ok(), fine, "{host} {loopback}");
        }
    }

    #[test]
    fn addresses() {
        let mut own = database("own");
        let networks = ["10.1.0.0/16".to_owned(), "fd12::/16".to_owned(), "nonsense".to_owned()];
        let check = |database: &Database, address: &str, loopback| {
            check_address(database, address.parse().unwrap(), &networks, loopback).is_ok()
        };
        assert!(check(&own, "10.9.0.1", false) && !check(&own, "127.0.0.1", false));
        assert!(!check(&own, "169.254.169.254", true) && !check(&own, "fd00:ec2::254", true));
        own.kind = DatabaseKind::Static;
        own.arn = None;
        assert!(check(&own, "10.1.2.3", false) && !check(&own, "10.2.0.1", false));
        assert!(check(&own, "fd12::1", false) && !check(&own, "::ffff:169.254.169.254", true));
        assert!(check(&own, "127.0.0.1", true) && !check(&own, "::1", false));
    }
}
