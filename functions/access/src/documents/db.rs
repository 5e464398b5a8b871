//! Static databases: written down by an admin, dialled only inside the allowed networks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use keystile_identity::Certificate;
use keystile_identity::certificate::is_dns_name;
use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint, EndpointType};
use keystile_model::document::{Document, StaticDatabaseSpec};
use keystile_model::feed::Entity;
use keystile_model::labels::{Labels, OWNED_KEYS};
use keystile_model::name::DatabaseName;
use keystile_model::naming::is_alias;
use keystile_model::policy::NAME_KEPT_S;

use super::{Reading, named, spec};
use crate::config::Config;
use crate::failure::Failure;
use crate::network::never;

/// The port when the URI names none.
const PORT: u16 = 6_379;
/// Largest CA bundle, in bytes.
const MAX_CA: usize = 64 * 1024;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name = DatabaseName::parse(document.metadata.name).map_err(|e| named(&e))?;
    free(reading, &name)?;
    let body: StaticDatabaseSpec = spec(document.spec)?;
    let endpoint = endpoint(&body.uri)?;
    reachable(&endpoint.host, reading.config)?;
    if let Some(ca) = &body.ca {
        check_ca(ca)?;
    }
    if body.auth == CacheAuth::Auto {
        warnings.push(
            "auth is missing, so sessions are refused: write pass-through, secret:NAME or none".to_owned(),
        );
    }
    super::db_auth::may_be_used(&body.auth, reading.config)?;
    warnings.extend(super::db_auth::caution(&body.auth));
    if let Some(key) = document.metadata.labels.keys().find(|key| OWNED_KEYS.contains(&key.as_str())) {
        warnings.push(format!("label {key:?} is one that discovery sets on other databases"));
    }
    Ok(Entity::StaticDatabase(Box::new(Database {
        name,
        description: document.metadata.description,
        kind: DatabaseKind::Static,
        engine: body.protocol,
        engine_version: String::new(),
        endpoint_type: EndpointType::Node,
        endpoint,
        arn: None,
        resource_id: String::new(),
        region: String::new(),
        account_id: String::new(),
        labels: document.metadata.labels,
        cluster_mode: false,
        groups: BTreeSet::new(),
        auth: body.auth,
        assume_role: None,
        matcher: String::new(),
        import_tags: BTreeSet::new(),
        fixed_labels: Labels::new(),
        nodes: Vec::new(),
        ca: body.ca,
    })))
}

/// A static database hides a discovered one of its name, so it may not take one.
fn free(reading: &Reading<'_>, name: &DatabaseName) -> Result<(), Failure> {
    let discovered = reading.policy.discovered_databases().any(|database| database.name == *name);
    let claimed = reading.policy.name_claims().any(|claim| {
        claim.name == *name && claim.vanished_at.is_none_or(|at| reading.now - at <= NAME_KEPT_S)
    });
    if discovered || claimed {
        return Err(Failure::conflict(format!("the name {name} belongs to a discovered database"))
            .why("a name stays with its resource while that exists and 30 days after")
            .next("choose another name"));
    }
    if is_alias(name.as_str()) {
        return Err(Failure::bad(format!("{name} has the shape of an alias: choose another name")));
    }
    Ok(())
}

/// `rediss://host:port`, `host:port` or `host`. No user, no path, no plain text.
fn endpoint(uri: &str) -> Result<Endpoint, Failure> {
    let bad = |why: &str| {
        let shown: String = uri.chars().filter(|c| !c.is_control()).take(200).collect();
        Failure::bad(format!("uri {shown:?} cannot be used")).why(why).next("write rediss://host:port")
    };
    if uri.len() > 300 {
        return Err(bad("it is too long"));
    }
    let rest = match uri.split_once("://") {
        None => uri,
        Some(("rediss" | "valkeys", rest)) => rest,
        Some(("redis" | "valkey", _)) => return Err(bad("databases are reached over TLS only")),
        Some(_) => return Err(bad("its scheme is not rediss")),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['@', '/', '?', '#']) {
        return Err(bad("it names more than a host and a port"));
    }
    let (host, port) = if let Some(rest) = rest.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(|| bad("a bracket is not closed"))?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(bad("there is no IPv6 address in the brackets"));
        }
        (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
    } else {
        rest.split_once(':').map_or((rest, Some("")), |(host, port)| (host, Some(port)))
    };
    let port = match port.ok_or_else(|| bad("the port cannot be read"))? {
        "" => PORT,
        text => text.parse().ok().filter(|port| *port > 0).ok_or_else(|| bad("the port cannot be read"))?,
    };
    let host = host.to_ascii_lowercase();
    let name = is_dns_name(&host) && !host.starts_with('*');
    if !name && host.parse::<IpAddr>().is_err() {
        return Err(bad("the host is no DNS name and no address"));
    }
    Ok(Endpoint { host, port })
}

/// What can be told before the name is resolved; the proxy checks the address it dials again.
fn reachable(host: &str, config: &Config) -> Result<(), Failure> {
    let outside = |why: String| {
        let allowed: Vec<String> = config.static_networks.iter().map(ToString::to_string).collect();
        Failure::bad(format!("{host} is never dialled"))
            .why(why)
            .next(format!("allowed networks (template parameter StaticNetworks): [{}]", allowed.join(", ")))
    };
    if let Ok(address) = host.parse::<IpAddr>() {
        if let Some(why) = never(address) {
            return Err(outside(why.to_owned()));
        }
        if address.to_canonical().is_loopback() {
            return if config.allow_loopback {
                Ok(())
            } else {
                Err(outside("it is a loopback address".to_owned()))
            };
        }
        return if config.static_networks.iter().any(|network| network.contains(address)) {
            Ok(())
        } else {
            Err(outside("it is in none of the allowed networks".to_owned()))
        };
    }
    if host == "localhost" || host.ends_with(".localhost") {
        return if config.allow_loopback { Ok(()) } else { Err(outside("it is a loopback name".to_owned())) };
    }
    if config.static_networks.is_empty() && !config.allow_loopback {
        return Err(outside("no network is allowed for static databases".to_owned()));
    }
    Ok(())
}

fn check_ca(pem: &str) -> Result<(), Failure> {
    if pem.len() > MAX_CA {
        return Err(Failure::bad(format!("ca is larger than {MAX_CA} bytes")));
    }
    if pem.contains("PRIVATE KEY") {
        return Err(Failure::bad("ca holds a private key: give the certificate only"));
    }
    const END: &str = "-----END CERTIFICATE-----";
    let blocks: Vec<&str> = pem.split_inclusive(END).filter(|block| block.contains("-----BEGIN")).collect();
    let legal =
        !blocks.is_empty() && blocks.iter().all(|block| Certificate::from_pem(block.trim_start()).is_ok());
    if legal {
        return Ok(());
    }
    Err(Failure::bad("ca is no PEM of certificates")
        .next("give the PEM of the CA that signed the cache's certificate: -----BEGIN CERTIFICATE-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        for (uri, host, port) in [
            ("rediss://cache.acme.example:6380", "cache.acme.example", 6_380),
            ("cache.acme.example:6380", "cache.acme.example", 6_380),
            ("rediss://Cache.acme.example/", "cache.acme.example", 6_379),
            ("10.0.0.5:7000", "10.0.0.5", 7_000),
            ("[fd00:1::5]:7000", "fd00:1::5", 7_000),
            ("rediss://[fd00:1::5]", "fd00:1::5", 6_379),
        ] {
            let read = endpoint(uri).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{uri}");
        }
        for bad in [
            "",
            "redis://h:1",
            "http://h:1",
            "rediss://user:pw@h:1",
            "rediss://h:1/0",
            "rediss://h:1?x",
            "h:0",
            "h:99999",
            "h:x",
            "fd00::1",
            "[fd00::1",
            "[h]:1",
            "*.h.example:1",
            "a b:1",
            "127.1:1",
            "h\u{0}:1",
        ] {
            assert!(endpoint(bad).is_err(), "{bad:?}");
        }
    }
}
