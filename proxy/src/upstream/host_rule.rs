//! Where credentials may go. Pure: names and resolved addresses in, yes or a reason out.
//!
//! A discovered database is dialled at the host that AWS described, under a suffix of AWS's own; loopback
//! only where the proxy was told that its world is one machine. A static one is dialled inside the networks
//! that an admin listed, judged by the address that its name resolved to.

use std::net::IpAddr;

use keystile_model::database::{Database, DatabaseKind, Endpoint};

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

/// Whether a node that a server of the database's named may be dialled: a server's word sends credentials no
/// further than AWS's.
///
/// # Errors
/// Why not, in words.
pub fn check_node(database: &Database, node: &Endpoint, allow_loopback: bool) -> Result<(), String> {
    let (own, host) = (database.endpoint.host.to_ascii_lowercase(), node.host.to_ascii_lowercase());
    if database.kind == DatabaseKind::Static || own == host {
        return Ok(());
    }
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if allow_loopback && (is_loopback || host == "localhost" || host.ends_with(".localhost")) {
        return Ok(());
    }
    let refuse =
        |why| Err(format!("the cluster names the node {node}, which {why}: no credentials go there"));
    if database.kind == DatabaseKind::ElasticacheServerless {
        return refuse("is not the endpoint of the serverless cache");
    }
    // `clustercfg.orders.abc123.use1.cache.amazonaws.com`: the nodes are under the same name but its first word.
    match own.split_once('.') {
        Some((_, suffix)) if is_of_one_cluster(suffix) && under(&host, suffix) => Ok(()),
        _ => refuse("is not under the name of its endpoint"),
    }
}

/// `name.hash.region.cache` or `name.hash.memorydb.region` under one of AWS's suffixes: fewer words would be
/// those of other customers too.
fn is_of_one_cluster(suffix: &str) -> bool {
    AWS_SUFFIXES.iter().filter_map(|aws| suffix.strip_suffix(aws)).any(|own| own.split('.').count() >= 4)
}

fn under(host: &str, suffix: &str) -> bool {
    host.strip_suffix(suffix).and_then(|front| front.strip_suffix('.')).is_some_and(|front| !front.is_empty())
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
    fn nodes_are_where_their_endpoint_is() {
        let mut orders = database("orders");
        orders.endpoint.host = "clustercfg.orders.abc123.use1.cache.amazonaws.com".to_owned();
        let node = |host: &str| Endpoint { host: host.to_owned(), port: 6379 };
        let may =
            |database: &Database, host: &str, loopback| check_node(database, &node(host), loopback).is_ok();
        assert!(may(&orders, "orders-0001-001.orders.abc123.use1.cache.amazonaws.com", false));
        assert!(may(&orders, "CLUSTERCFG.orders.abc123.use1.cache.amazonaws.com", false));
        for host in [
            "orders-0001-001.other.abc123.use1.cache.amazonaws.com",
            "orders.abc123.use1.cache.amazonaws.com",
            "xorders.abc123.use1.cache.amazonaws.com",
            "evil.example",
            "10.0.0.1",
            "127.0.0.1",
            "localhost",
        ] {
            assert!(!may(&orders, host, false), "{host}");
        }
        assert!(may(&orders, "127.0.0.1", true) && may(&orders, "localhost", true));
        assert!(!may(&orders, "10.0.0.1", true));
        orders.endpoint.host = "orders.cache.amazonaws.com".to_owned();
        assert!(!may(&orders, "evil.cache.amazonaws.com", false), "a suffix that is everybody's");
        orders.kind = DatabaseKind::ElasticacheServerless;
        orders.endpoint.host = "carts-abc.serverless.use1.cache.amazonaws.com".to_owned();
        assert!(may(&orders, "carts-abc.serverless.use1.cache.amazonaws.com", false));
        assert!(!may(&orders, "evil-abc.serverless.use1.cache.amazonaws.com", false));
        orders.kind = DatabaseKind::Static;
        assert!(may(&orders, "10.0.0.1", false), "its addresses are judged");
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
