//! The settings, read once from the environment; nothing else in the proxy reads it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use keystile_resp::{reply, request};

use crate::audit::Target;
use crate::tls::HostCertificateSource;

/// A setting that is missing or means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It must be given.
    #[error("{0} is not set: {1}")]
    Missing(&'static str, &'static str),
    /// Its value cannot be used.
    #[error("{name}={value:?} cannot be used: {expected}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// All settings of the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `KEYSTILE_LISTEN`: where clients come, default `0.0.0.0:6379`.
    pub listen: SocketAddr,
    /// `KEYSTILE_METRICS_LISTEN`: `/metrics`, `/livez`, `/readyz`, default `127.0.0.1:9090`.
    pub metrics_listen: SocketAddr,
    /// `KEYSTILE_POLICY_TABLE`: the DynamoDB table of the feeds; required.
    pub policy_table: String,
    /// `KEYSTILE_RUNTIME_TABLE`: the table of heartbeats; required.
    pub runtime_table: String,
    /// `KEYSTILE_DEPLOYMENT`: the deployment whose certificates count; required.
    pub deployment: String,
    /// `KEYSTILE_GROUP`: this proxy's group, default `default`.
    pub group: String,
    /// `KEYSTILE_HOST_CERT_FILE` and `KEYSTILE_HOST_KEY_FILE`: PEM of the host certificate with its chain and
    /// of its key, read again when they change; or `KEYSTILE_HOST_CERT_SECRET`: name or ARN of a secret with
    /// both (JSON with `certificate` and `key`), read again every 10 minutes. One of the two ways is required.
    pub host_certificate: HostCertificateSource,
    /// `KEYSTILE_CACHE_CA_FILE`: PEM of the CAs of the caches, in place of the public roots.
    pub cache_ca_file: Option<PathBuf>,
    /// `KEYSTILE_ALLOW_LOOPBACK`: `on` lets databases be at loopback addresses, for a world on one machine.
    pub allow_loopback: bool,
    /// `KEYSTILE_AUDIT_FILE`: audit lines are appended there; to standard output otherwise.
    pub audit: Target,
    /// `KEYSTILE_ADVERTISE_ADDR`: where clients reach this proxy, `host:port`; default the listen address.
    pub advertise: String,
    /// `KEYSTILE_IAM_LIFE_S`: how long a cache lets an IAM connection live, default 43,200 s (12 hours), at
    /// least 5.
    pub iam_life: Duration,
    /// `KEYSTILE_DRAIN_S`: how long sessions may go on after SIGTERM, default 110 s (ECS kills after 120), at
    /// most 3,600.
    pub drain: Duration,
    /// `KEYSTILE_HANDSHAKE_TIMEOUT_S`: for the TLS handshake of a client, default 10 s, 1 to 120.
    pub handshake_timeout: Duration,
    /// `KEYSTILE_FIRST_BYTE_TIMEOUT_S`: from a connection's accept to its first byte, default 5 s, 1 to 120.
    pub first_byte_timeout: Duration,
    /// `KEYSTILE_AUTH_TIMEOUT_S`: until a client has said which database it wants, default 30 s, 1 to 600.
    pub auth_timeout: Duration,
    /// `KEYSTILE_DIAL_TIMEOUT_S`: for each of DNS, connect, TLS and AUTH towards a cache, default 5 s, 1 to 60.
    pub dial_timeout: Duration,
    /// `KEYSTILE_WORKERS`: threads that serve clients, default one for each core, 1 to 256.
    pub workers: usize,
    /// `KEYSTILE_MAX_CONNECTIONS`: connections of clients at a time, default 20,000, 1 to 1,000,000.
    pub max_connections: usize,
    /// `KEYSTILE_MAX_CONNECTIONS_PER_USER`: sessions of one user at a time, default 10,000, 1 to 1,000,000. Roles
    /// may allow less (`max_connections`).
    pub max_connections_per_user: usize,
    /// `KEYSTILE_MAX_CONNECTIONS_PER_DATABASE`: sessions to one database at a time, default 10,000, 1 to
    /// 1,000,000. A cache takes 65,000 from everybody.
    pub max_connections_per_database: usize,
    /// `KEYSTILE_FAILED_SIGN_INS_PER_MINUTE`: failed sign-ins of one address (a /64 with IPv6) that are heard out
    /// and audited, default 60, 1 to 100,000. Those beyond are told to wait and only counted.
    pub failed_sign_ins_per_minute: u32,
    /// `KEYSTILE_MAX_ARGUMENTS`: arguments of one command, its name included, default 1,048,576, 16 to 2,147,483,647.
    pub max_arguments: u32,
    /// `KEYSTILE_MAX_ARGUMENT_BYTES`: length of one argument, default 536,870,912 (the server's own), at least
    /// 16,384, at most 1 TiB.
    pub max_argument_bytes: u64,
    /// `KEYSTILE_MAX_REQUEST_BYTES`: length of one command, default 1,073,741,824 (what a server buffers), at least
    /// 1,048,576, at most 1 TiB.
    pub max_request_bytes: u64,
    /// `KEYSTILE_MAX_REPLY_NESTING`: how deep a reply's arrays, maps and sets may be in each other, default 8,192
    /// (a script's reply may be 7,996 deep, which is where Lua's stack ends), 8 to 65,536. A level takes 16 bytes while
    /// the reply lasts.
    pub max_reply_nesting: usize,
    /// `KEYSTILE_MERGED_REPLY_BYTES`: what all sessions together may hold of replies that several nodes of a cluster
    /// give, default 268,435,456, 1 MiB to 1 TiB.
    pub merged_reply_bytes: usize,
    /// `KEYSTILE_SLOW_CLIENT_S`: how long a client may take nothing of what waits for it, default 900 s; 0 is for
    /// ever.
    pub slow_client: Duration,
    /// `KEYSTILE_SUMMARY_S`: how often a session's counts are written to the audit, default 60 s, 1 to 3,600.
    pub summary_interval: Duration,
    /// `KEYSTILE_HEALTH_INTERVAL_S`: how often a database is probed, default 30 s, 1 to 3,600; 0 switches
    /// probes off.
    pub health_interval: Duration,
    /// `KEYSTILE_PROXY_PROTOCOL`: networks (CIDR, with commas between) whose connections begin with a PROXY
    /// protocol v2 header; none by default.
    pub proxy_protocol: Vec<String>,
}

const HOST_CERT_FILE: &str = "KEYSTILE_HOST_CERT_FILE";
const HOST_KEY_FILE: &str = "KEYSTILE_HOST_KEY_FILE";
const HOST_CERT_SECRET: &str = "KEYSTILE_HOST_CERT_SECRET";
const NUMBER: &str = "a whole number within its limits";

impl Config {
    /// What a session may send and be sent.
    #[must_use]
    pub fn session_limits(&self) -> (request::Limits, reply::Limits) {
        let request = request::Limits {
            args: self.max_arguments,
            bulk: self.max_argument_bytes,
            total: self.max_request_bytes,
            ..request::Limits::SIGNED_IN
        };
        (request, reply::Limits { depth: self.max_reply_nesting, ..reply::Limits::DEFAULT })
    }

    /// Reads the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] for the first setting that is missing or cannot be used.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::read(&std::env::vars().collect())
    }

    /// Reads the settings from a map.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn read(vars: &HashMap<String, String>) -> Result<Self, ConfigError> {
        let text = |name: &str| vars.get(name).filter(|value| !value.is_empty()).cloned();
        let required = |name, what| text(name).ok_or(ConfigError::Missing(name, what));
        let address = |name: &'static str, default: &str| {
            let value = text(name).unwrap_or_else(|| default.to_owned());
            value.parse::<SocketAddr>().map_err(|_| ConfigError::Invalid {
                name,
                value,
                expected: "an address and a port, such as 0.0.0.0:6379",
            })
        };
        let number = |name: &'static str, default: u64, least: u64, most: u64| match text(name) {
            None => Ok(default),
            Some(value) => match value.parse::<u64>() {
                Ok(number) if (least..=most).contains(&number) => Ok(number),
                _ => Err(ConfigError::Invalid { name, value, expected: NUMBER }),
            },
        };
        let seconds =
            |name, default, least, most| number(name, default, least, most).map(Duration::from_secs);
        let count = |name, default| {
            number(name, default, 1, 1_000_000).map(|most| usize::try_from(most).unwrap_or(usize::MAX))
        };
        let listen = address("KEYSTILE_LISTEN", "0.0.0.0:6379")?;
        Ok(Self {
            listen,
            metrics_listen: address("KEYSTILE_METRICS_LISTEN", "127.0.0.1:9090")?,
            policy_table: required("KEYSTILE_POLICY_TABLE", "name the DynamoDB table of the policy")?,
            runtime_table: required("KEYSTILE_RUNTIME_TABLE", "name the DynamoDB table of the heartbeats")?,
            deployment: required("KEYSTILE_DEPLOYMENT", "name the deployment")?,
            group: text("KEYSTILE_GROUP").unwrap_or_else(|| "default".to_owned()),
            host_certificate: host_certificate(
                text(HOST_CERT_FILE),
                text(HOST_KEY_FILE),
                text(HOST_CERT_SECRET),
            )?,
            cache_ca_file: text("KEYSTILE_CACHE_CA_FILE").map(PathBuf::from),
            allow_loopback: switch("KEYSTILE_ALLOW_LOOPBACK", text("KEYSTILE_ALLOW_LOOPBACK"))?,
            audit: text("KEYSTILE_AUDIT_FILE").map_or(Target::Stdout, |path| Target::File(path.into())),
            advertise: text("KEYSTILE_ADVERTISE_ADDR").unwrap_or_else(|| listen.to_string()),
            iam_life: seconds("KEYSTILE_IAM_LIFE_S", 43_200, 5, 43_200)?,
            drain: seconds("KEYSTILE_DRAIN_S", 110, 0, 3_600)?,
            handshake_timeout: seconds("KEYSTILE_HANDSHAKE_TIMEOUT_S", 10, 1, 120)?,
            first_byte_timeout: seconds("KEYSTILE_FIRST_BYTE_TIMEOUT_S", 5, 1, 120)?,
            max_arguments: u32::try_from(number("KEYSTILE_MAX_ARGUMENTS", 1 << 20, 16, 0x7fff_ffff)?)
                .unwrap_or(u32::MAX),
            max_argument_bytes: number("KEYSTILE_MAX_ARGUMENT_BYTES", 512 << 20, 16 << 10, 1 << 40)?,
            max_request_bytes: number("KEYSTILE_MAX_REQUEST_BYTES", 1 << 30, 1 << 20, 1 << 40)?,
            max_reply_nesting: usize::try_from(number("KEYSTILE_MAX_REPLY_NESTING", 8_192, 8, 65_536)?)
                .unwrap_or(8_192),
            merged_reply_bytes: usize::try_from(number(
                "KEYSTILE_MERGED_REPLY_BYTES",
                256 << 20,
                1 << 20,
                1 << 40,
            )?)
            .unwrap_or(usize::MAX),
            slow_client: seconds("KEYSTILE_SLOW_CLIENT_S", 900, 0, 86_400)?,
            auth_timeout: seconds("KEYSTILE_AUTH_TIMEOUT_S", 30, 1, 600)?,
            dial_timeout: seconds("KEYSTILE_DIAL_TIMEOUT_S", 5, 1, 60)?,
            workers: usize::try_from(number("KEYSTILE_WORKERS", cores(), 1, 256)?).unwrap_or(1),
            max_connections: count("KEYSTILE_MAX_CONNECTIONS", 20_000)?,
            max_connections_per_user: count("KEYSTILE_MAX_CONNECTIONS_PER_USER", 10_000)?,
            max_connections_per_database: count("KEYSTILE_MAX_CONNECTIONS_PER_DATABASE", 10_000)?,
            failed_sign_ins_per_minute: u32::try_from(number(
                "KEYSTILE_FAILED_SIGN_INS_PER_MINUTE",
                60,
                1,
                100_000,
            )?)
            .unwrap_or(u32::MAX),
            summary_interval: seconds("KEYSTILE_SUMMARY_S", 60, 1, 3_600)?,
            health_interval: seconds("KEYSTILE_HEALTH_INTERVAL_S", 30, 0, 3_600)?,
            proxy_protocol: networks("KEYSTILE_PROXY_PROTOCOL", text("KEYSTILE_PROXY_PROTOCOL"))?,
        })
    }
}

/// Cores that this process may use, as its control group says.
fn cores() -> u64 {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() as u64).min(256))
}

/// Exactly one of the two ways to give the host certificate.
fn host_certificate(
    file: Option<String>,
    key: Option<String>,
    secret: Option<String>,
) -> Result<HostCertificateSource, ConfigError> {
    match (file, key, secret) {
        (Some(certificate), Some(key), None) => {
            Ok(HostCertificateSource::Files { certificate: certificate.into(), key: key.into() })
        }
        (None, None, Some(secret)) => Ok(HostCertificateSource::Secret(secret)),
        (None, None, None) => Err(ConfigError::Missing(
            HOST_CERT_SECRET,
            "name the secret of the host certificate, or its files in KEYSTILE_HOST_CERT_FILE and \
             KEYSTILE_HOST_KEY_FILE",
        )),
        (_, _, Some(value)) => Err(ConfigError::Invalid {
            name: HOST_CERT_SECRET,
            value,
            expected: "KEYSTILE_HOST_CERT_FILE or KEYSTILE_HOST_KEY_FILE is set too; give the files or the \
                           secret, not both",
        }),
        (Some(_), None, None) => {
            Err(ConfigError::Missing(HOST_KEY_FILE, "name the PEM file of the host certificate's key"))
        }
        (None, Some(_), None) => {
            Err(ConfigError::Missing(HOST_CERT_FILE, "name the PEM file of the host certificate"))
        }
    }
}

/// A network counts if it holds its own base address.
fn networks(name: &'static str, value: Option<String>) -> Result<Vec<String>, ConfigError> {
    let value = value.unwrap_or_default();
    let list: Vec<String> =
        value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let is_network = |network: &String| {
        let base = network.split_once('/').and_then(|(base, _)| base.parse().ok());
        base.is_some_and(|base| crate::upstream::host_rule::contains(network, base))
    };
    if list.iter().all(is_network) {
        return Ok(list);
    }
    Err(ConfigError::Invalid { name, value, expected: "networks such as 10.0.0.0/8, with commas between" })
}

fn switch(name: &'static str, value: Option<String>) -> Result<bool, ConfigError> {
    match value.as_deref() {
        None | Some("off") => Ok(false),
        Some("on") => Ok(true),
        Some(other) => Err(ConfigError::Invalid { name, value: other.to_owned(), expected: "on or off" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(extra: &[(&str, &str)]) -> HashMap<String, String> {
        let base = [
            ("KEYSTILE_POLICY_TABLE", "p"),
            ("KEYSTILE_RUNTIME_TABLE", "r"),
            ("KEYSTILE_DEPLOYMENT", "local"),
            ("KEYSTILE_HOST_CERT_FILE", "c"),
            ("KEYSTILE_HOST_KEY_FILE", "k"),
        ];
        base.iter().chain(extra).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn defaults_and_refusals() {
        let config = Config::read(&vars(&[])).unwrap();
        assert_eq!((config.drain.as_secs(), config.iam_life.as_secs()), (110, 43_200));
        assert!(!config.allow_loopback && config.audit == Target::Stdout);
        assert!(matches!(Config::read(&HashMap::new()), Err(ConfigError::Missing(..))));
        for (name, value) in [
            ("KEYSTILE_LISTEN", "nowhere"),
            ("KEYSTILE_ALLOW_LOOPBACK", "yes"),
            ("KEYSTILE_DRAIN_S", "-1"),
            ("KEYSTILE_MAX_CONNECTIONS_PER_USER", "0"),
            ("KEYSTILE_FAILED_SIGN_INS_PER_MINUTE", "many"),
            ("KEYSTILE_IAM_LIFE_S", "1"),
            ("KEYSTILE_MAX_REQUEST_BYTES", "1000"),
            ("KEYSTILE_MAX_ARGUMENTS", "0"),
            ("KEYSTILE_FIRST_BYTE_TIMEOUT_S", "0"),
            ("KEYSTILE_PROXY_PROTOCOL", "10.0.0.1"),
        ] {
            let error = Config::read(&vars(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn the_host_certificate_comes_one_way() {
        let read = |file: &str, key: &str, secret: &str| {
            let given = [(HOST_CERT_FILE, file), (HOST_KEY_FILE, key), (HOST_CERT_SECRET, secret)];
            Config::read(&vars(&given))
                .map(|config| config.host_certificate)
                .map_err(|error| error.to_string())
        };
        assert!(matches!(read("c", "k", "").unwrap(), HostCertificateSource::Files { .. }));
        assert_eq!(read("", "", "s").unwrap(), HostCertificateSource::Secret("s".to_owned()));
        for (file, key, secret, words) in [
            ("c", "k", "s", "not both"),
            ("c", "", "s", "not both"),
            ("", "k", "s", "not both"),
            ("c", "", "", "KEYSTILE_HOST_KEY_FILE is not set"),
            ("", "k", "", "KEYSTILE_HOST_CERT_FILE is not set"),
            ("", "", "", "KEYSTILE_HOST_CERT_SECRET is not set"),
        ] {
            let error = read(file, key, secret).unwrap_err();
            assert!(error.contains(words), "{file} {key} {secret}: {error}");
        }
    }
}
