//! `valkey-cli` and `redis-cli`: whether one is installed that can do TLS with a server name, and how it is
//! started. No secret is on its command line: the certificate's files say who we are.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::failure::Failure;
use crate::route::Settings;

/// The first redis-cli that sends a TLS server name and a certificate as we need it.
const OLDEST: (u32, u32) = (6, 2);

/// Which client to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Ours.
    BuiltIn,
    /// `valkey-cli`.
    Valkey,
    /// `redis-cli`.
    Redis,
}

/// A client that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    program: &'static str,
    version: (u32, u32),
}

impl Choice {
    /// What `KEYSTILE_CLIENT` says.
    pub(crate) fn named(name: Option<&str>) -> Result<Option<Self>, Failure> {
        match name {
            None => Ok(None),
            Some("builtin") => Ok(Some(Self::BuiltIn)),
            Some("valkey-cli") => Ok(Some(Self::Valkey)),
            Some("redis-cli") => Ok(Some(Self::Redis)),
            Some(other) => Err(Failure::usage(format!("KEYSTILE_CLIENT={other} is no client"))
                .why("it may be builtin, valkey-cli or redis-cli")),
        }
    }

    fn program(self) -> Option<&'static str> {
        match self {
            Self::BuiltIn => None,
            Self::Valkey => Some("valkey-cli"),
            Self::Redis => Some("redis-cli"),
        }
    }
}

/// The client to start, none for the built-in one. The engine's own comes first.
pub(crate) fn find(forced: Option<Choice>, engine: &str) -> Result<Option<Found>, Failure> {
    if let Some(choice) = forced {
        let Some(program) = choice.program() else { return Ok(None) };
        return installed(program).map(Some).ok_or_else(|| {
            Failure::failed(format!("{program} 6.2 or newer is not installed"))
                .why("KEYSTILE_CLIENT asks for it")
                .next("KEYSTILE_CLIENT=builtin keystile db connect …")
        });
    }
    let order = if engine == "redis" { ["redis-cli", "valkey-cli"] } else { ["valkey-cli", "redis-cli"] };
    Ok(order.into_iter().find_map(installed))
}

fn installed(program: &'static str) -> Option<Found> {
    let output =
        Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let version = version(&String::from_utf8_lossy(&output.stdout))?;
    (version >= OLDEST).then_some(Found { program, version })
}

/// `redis-cli 7.0.15`, `valkey-cli 8.1.1 (git:…)`.
fn version(text: &str) -> Option<(u32, u32)> {
    let word = text.split_whitespace().nth(1)?;
    let mut parts = word.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Becomes the client. Comes back only if it could not start.
pub(crate) fn replace(found: &Found, settings: &Settings, command: &[String]) -> Failure {
    let mut client = Command::new(found.program);
    client.args(arguments(found, settings, command));
    // A password that is meant for another server must not go to this one.
    client.env_remove("REDISCLI_AUTH").env_remove("VALKEYCLI_AUTH");
    Failure::failed(format!("{} could not start", found.program)).why(client.exec().to_string())
}

fn arguments(found: &Found, settings: &Settings, command: &[String]) -> Vec<String> {
    let path = |path: &std::path::Path| path.display().to_string();
    let mut arguments: Vec<String> = ["--tls", "-h"].map(str::to_owned).into();
    arguments.push(settings.host.clone());
    arguments.extend(["-p".to_owned(), settings.port.to_string()]);
    arguments.extend(["--sni".to_owned(), settings.server_name.clone()]);
    arguments.extend(["--cacert".to_owned(), path(&settings.ca)]);
    arguments.extend(["--cert".to_owned(), path(&settings.cert)]);
    arguments.extend(["--key".to_owned(), path(&settings.key)]);
    // Since 7.0 it can say by its exit code that a command failed.
    if !command.is_empty() && found.version >= (7, 0) {
        arguments.push("-e".to_owned());
    }
    arguments.extend(command.iter().cloned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("redis-cli 7.0.15"), Some((7, 0)));
        assert_eq!(version("valkey-cli 8.1.1 (git:000)\n"), Some((8, 1)));
        assert_eq!(version("bash: redis-cli: not found"), None);
        assert!(version("redis-cli 6.0.16") < Some(OLDEST));
    }

    #[test]
    fn no_argument_is_a_secret() {
        let settings = Settings {
            host: "127.0.0.1".to_owned(),
            port: 1,
            ca: "/h/ca.pem".into(),
            cert: "/h/cert.pem".into(),
            key: "/h/key.pem".into(),
            server_name: "orders.ks".to_owned(),
            database: "orders".to_owned(),
            db_user: "iam-ro".to_owned(),
            valid_until: String::new(),
        };
        let seven = Found { program: "redis-cli", version: (7, 2) };
        let line = arguments(&seven, &settings, &["GET".to_owned(), "k".to_owned()]).join(" ");
        assert_eq!(
            line,
            "--tls -h 127.0.0.1 -p 1 --sni orders.ks --cacert /h/ca.pem --cert /h/cert.pem --key /h/key.pem -e GET k"
        );
    }

    #[test]
    fn only_known_clients_can_be_forced() {
        assert_eq!(Choice::named(Some("builtin")).unwrap(), Some(Choice::BuiltIn));
        assert_eq!(Choice::named(Some("nc")).unwrap_err().exit, 2);
        assert_eq!(find(Some(Choice::BuiltIn), "valkey").unwrap(), None);
    }
}
