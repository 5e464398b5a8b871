//! The module's arguments: pairs of a name and a value. An unknown, repeated or missing one is refused,
//! so that a server never starts with a login that is looser than was meant.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::token::Target;

/// How long AWS lets an IAM connection live before it must authenticate again.
const DEFAULT_LIFE_MS: u64 = 12 * 3600 * 1000;

/// What the module was started with.
#[derive(Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) keys_file: PathBuf,
    pub(crate) users_file: PathBuf,
    pub(crate) life: Duration,
}

impl Settings {
    /// Reads `name value` pairs. The error names the argument and what is wrong with it.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut given = pairs(arguments)?;
        let mut take = |name: &str| given.remove(name).ok_or(format!("argument `{name}` is missing"));
        let target = Target {
            service: one_of("service", take("service")?, &["elasticache", "memorydb"])?,
            name: take("name")?.to_ascii_lowercase(),
            region: take("region")?,
            account: take("account")?,
            serverless: one_of("serverless", take("serverless")?, &["yes", "no"])? == "yes",
        };
        let keys_file = take("keys-file")?.into();
        let users_file = take("users-file")?.into();
        let life_ms = match take("life-ms") {
            Ok(text) => text.parse().map_err(|_| format!("argument `life-ms` is no number: {text:?}"))?,
            Err(_) => DEFAULT_LIFE_MS,
        };
        match given.keys().next() {
            Some(unknown) => Err(format!("unknown argument `{unknown}`")),
            None => Ok(Self { target, keys_file, users_file, life: Duration::from_millis(life_ms) }),
        }
    }
}

fn pairs(arguments: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut given = BTreeMap::new();
    for pair in arguments.chunks(2) {
        let [name, value] = pair else {
            return Err(format!("argument `{}` has no value", pair[0]));
        };
        if given.insert(name.clone(), value.clone()).is_some() {
            return Err(format!("argument `{name}` is given twice"));
        }
    }
    Ok(given)
}

fn one_of(name: &str, value: String, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&value.as_str()) {
        Ok(value)
    } else {
        Err(format!("argument `{name}` is {value:?}, not one of {allowed:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    const GOOD: &str = "service elasticache name Orders region us-east-1 account 123456789012 \
                        serverless no keys-file k users-file u";

    #[test]
    fn the_life_is_twelve_hours_unless_said() {
        let settings = Settings::parse(&words(GOOD)).unwrap();
        assert_eq!(settings.life, Duration::from_secs(43_200));
        assert_eq!(settings.target.name, "orders");
        let settings = Settings::parse(&words(&format!("{GOOD} life-ms 1000"))).unwrap();
        assert_eq!(settings.life, Duration::from_secs(1));
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for (arguments, complaint) in [
            (format!("{GOOD} extra yes"), "unknown argument `extra`"),
            (format!("{GOOD} name other"), "given twice"),
            (format!("{GOOD} life-ms"), "has no value"),
            (format!("{GOOD} life-ms soon"), "is no number"),
            (GOOD.replace("serverless no", "serverless maybe"), "not one of"),
            (GOOD.replace("service elasticache", "service s3"), "not one of"),
            (GOOD.replace("account 123456789012", ""), "`account` is missing"),
        ] {
            let error = Settings::parse(&words(&arguments)).unwrap_err();
            assert!(error.contains(complaint), "{arguments}: {error}");
        }
    }
}
