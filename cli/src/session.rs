//! Who is signed in on this machine: the certificate, its key, and what the deployment said of itself.

use keystile_api::{LoginAnswer, StatusAnswer};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::context::Context;
use crate::failure::Failure;
use crate::home::{self, Home};
use crate::keys::Pair;

const SESSION: &str = "session.json";
const CERTIFICATE: &str = "cert.pem";
const KEY: &str = "key.pem";
const HOST_CA: &str = "ca.pem";
/// Longest session file, in bytes: a status and a few CA certificates.
const MAX_SESSION: u64 = 1024 * 1024;

/// What was kept of the last login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// What the access function said.
    pub(crate) status: StatusAnswer,
    /// Where it said so.
    pub(crate) access_url: String,
}

/// Whether somebody is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody.
    Nobody,
    /// Somebody was.
    Expired(Box<Session>),
    /// Somebody is.
    Live(Box<Session>),
}

/// Reads what is kept and judges it by `now`. What cannot be read counts as nobody.
pub(crate) fn standing(home: &Home, now: OffsetDateTime) -> Standing {
    let kept = home::read_text(&home.state_file(SESSION), MAX_SESSION).ok().flatten();
    let Some(session) = kept.and_then(|text| serde_json::from_str::<Session>(&text).ok()) else {
        return Standing::Nobody;
    };
    if !home.state_file(CERTIFICATE).is_file() || !home.state_file(KEY).is_file() {
        return Standing::Nobody;
    }
    match moment(&session.status.valid_until) {
        Some(end) if end > now => Standing::Live(Box::new(session)),
        _ => Standing::Expired(Box::new(session)),
    }
}

/// The live session, or exit 4.
pub(crate) fn required(context: &Context) -> Result<Box<Session>, Failure> {
    let refused = |message: String| Err(Failure::sign_in(message).next("keystile login"));
    match standing(&context.home, context.now()) {
        Standing::Live(session) => Ok(session),
        Standing::Nobody => refused("nobody is signed in here".to_owned()),
        Standing::Expired(session) => refused(format!(
            "the certificate of {} ended at {}",
            session.status.user, session.status.valid_until
        )),
    }
}

/// Keeps a login. The session comes last, so that a half-written login is none.
pub(crate) fn keep(home: &Home, url: &str, pair: &Pair, answer: &LoginAnswer) -> Result<(), Failure> {
    home::remove(&home.state_file(SESSION))?;
    home::write_private(&home.state_file(KEY), pair.private.expose_secret().as_bytes())?;
    home::write_private(&home.state_file(CERTIFICATE), answer.certificate.as_bytes())?;
    home::write_private(&home.state_file(HOST_CA), answer.status.host_ca.as_bytes())?;
    let session = Session { status: answer.status.clone(), access_url: url.to_owned() };
    let text = serde_json::to_string_pretty(&session)
        .map_err(|error| Failure::failed("the session cannot be kept").why(error.to_string()))?;
    home::write_private(&home.state_file(SESSION), text.as_bytes())
}

/// Removes a login and the credentials of all routes. Says whether there was one.
pub(crate) fn forget(home: &Home) -> Result<bool, Failure> {
    let mut found = false;
    for name in [SESSION, KEY, CERTIFICATE, HOST_CA] {
        found |= home::remove(&home.state_file(name))?;
    }
    found |= home::remove(&home.routes())?;
    Ok(found)
}

/// A moment as the API writes it.
pub(crate) fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// `7h 59m`, `12m`, `40s`; `0s` for what is over.
pub(crate) fn left(until: OffsetDateTime, now: OffsetDateTime) -> String {
    let seconds = (until - now).whole_seconds().max(0);
    match (seconds / 3_600, seconds / 60 % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m"),
        (hours, minutes) => format!("{hours}h {minutes}m"),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::environment::Environment;

    fn answer() -> LoginAnswer {
        LoginAnswer {
            certificate: "CERT".to_owned(),
            status: StatusAnswer {
                user: "alice".to_owned(),
                roles: vec!["access".to_owned()],
                valid_until: "2026-01-01T20:00:00Z".to_owned(),
                deployment: "test".to_owned(),
                version: "0.1.0".to_owned(),
                proxy_address: "127.0.0.1:1".to_owned(),
                domain: "ks.test".to_owned(),
                host_ca: "CA".to_owned(),
                ca_pins: Vec::new(),
            },
        }
    }

    #[test]
    fn a_session_lives_until_its_end_and_is_forgotten_whole() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().to_str().unwrap();
        let home = Home::locate(&Environment::of(&[("KEYSTILE_HOME", own)])).unwrap();
        let now = datetime!(2026-01-01 12:00 UTC);
        assert_eq!(standing(&home, now), Standing::Nobody);
        keep(&home, "http://127.0.0.1:1", &Pair::generate().unwrap(), &answer()).unwrap();
        assert!(matches!(standing(&home, now), Standing::Live(session) if session.status == answer().status));
        assert!(matches!(standing(&home, datetime!(2026-01-01 20:00 UTC)), Standing::Expired(_)));
        std::fs::remove_file(home.state_file(KEY)).unwrap();
        assert_eq!(standing(&home, now), Standing::Nobody);
        assert!(forget(&home).unwrap());
        assert!(!forget(&home).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn says_how_much_is_left() {
        let now = datetime!(2026-01-01 12:00 UTC);
        assert_eq!(left(datetime!(2026-01-01 20:00 UTC), now), "8h 0m");
        assert_eq!(left(datetime!(2026-01-01 12:03:30 UTC), now), "3m");
        assert_eq!(left(datetime!(2026-01-01 12:00:09 UTC), now), "9s");
        assert_eq!(left(datetime!(2025-01-01 12:00 UTC), now), "0s");
    }
}
