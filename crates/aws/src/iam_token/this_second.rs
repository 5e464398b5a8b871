//! The tokens of one second. A signature's time has whole seconds, so that two tokens for the same target, signed
//! with the same credentials within one second, are the same bytes: when many clients come at once, all but the
//! first are given what was signed for it. What was signed is forgotten with the first token of another second.

use std::sync::{Mutex, PoisonError};

use aws_credential_types::Credentials;
use time::OffsetDateTime;

use super::{Target, Token};

/// Targets of a second that are remembered; for those beyond it, each token is signed anew.
const MOST: usize = 64;

/// What was signed in the second of the last call. Shows none of it.
#[derive(Default)]
pub(super) struct ThisSecond(Mutex<Signed>);

#[derive(Default)]
struct Signed {
    /// In Unix seconds.
    second: i64,
    tokens: Vec<(Credentials, Target, Token)>,
}

impl std::fmt::Debug for ThisSecond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThisSecond").finish_non_exhaustive()
    }
}

impl ThisSecond {
    /// The token that was signed in this second, or the one that `sign` makes now.
    ///
    /// # Errors
    /// Those of `sign`; nothing is remembered then.
    pub(super) fn token<E>(
        &self,
        credentials: &Credentials,
        target: &Target,
        now: OffsetDateTime,
        sign: impl FnOnce() -> Result<Token, E>,
    ) -> Result<Token, E> {
        let second = now.unix_timestamp();
        let mut signed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if signed.second != second {
            *signed = Signed { second, tokens: Vec::new() };
        }
        let same =
            |(by, of, _): &&(Credentials, Target, Token)| of == target && are_the_same(by, credentials);
        if let Some((_, _, token)) = signed.tokens.iter().find(same) {
            return Ok(token.clone());
        }
        let token = sign()?;
        if signed.tokens.len() < MOST {
            signed.tokens.push((credentials.clone(), target.clone(), token.clone()));
        }
        Ok(token)
    }
}

/// Whether two credentials sign the same and live as long.
fn are_the_same(one: &Credentials, other: &Credentials) -> bool {
    one.access_key_id() == other.access_key_id()
        && one.secret_access_key() == other.secret_access_key()
        && one.session_token() == other.session_token()
        && one.expiry() == other.expiry()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use secrecy::ExposeSecret;

    use super::super::{MintError, sign};
    use super::*;

    fn credentials(key: &str, secret: &str, session: Option<&str>) -> Credentials {
        Credentials::new(key, secret, session.map(str::to_owned), None, "test")
    }

    fn target(user: &str) -> Target {
        Target {
            service: "elasticache",
            cache: "orders".to_owned(),
            user: user.to_owned(),
            region: "us-east-1".to_owned(),
            serverless: false,
        }
    }

    fn at(seconds: f64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs_f64(1_800_000_000.0 + seconds)
    }

    #[test]
    fn what_it_gives_is_always_what_signing_gives() {
        let (kept, signed) = (ThisSecond::default(), Cell::new(0));
        let mut other_service = target("a");
        other_service.service = "memorydb";
        let mut serverless = target("a");
        serverless.serverless = true;
        let targets = [target("a"), target("b"), other_service, serverless];
        let all = [
            credentials("A", "one", None),
            credentials("A", "two", None),
            credentials("B", "one", None),
            credentials("A", "one", Some("session")),
        ];
        for moment in [0.0, 0.9, 0.1, 1.0, 1.999, 2.0, 0.5] {
            for (credentials, target) in all.iter().flat_map(|by| targets.iter().map(move |of| (by, of))) {
                let now = at(moment);
                let given = kept.token(credentials, target, now, || {
                    signed.set(signed.get() + 1);
                    sign(credentials, target, now)
                });
                let fresh = sign(credentials, target, now).unwrap();
                assert_eq!(given.unwrap().secret.expose_secret(), fresh.secret.expose_secret());
            }
        }
        assert_eq!(signed.get(), 4 * 16, "once for each of the seconds 0, 1, 2 and 0 again");
    }

    #[test]
    fn an_end_of_credentials_is_heeded_and_errors_are_not_kept() {
        let kept = ThisSecond::default();
        let lasting = credentials("A", "one", None);
        let ending =
            Credentials::new("A", "one", None, Some((at(0.0) + Duration::from_secs(60)).into()), "test");
        for by in [&lasting, &ending] {
            let token = kept.token(by, &target("a"), at(0.0), || sign(by, &target("a"), at(0.0))).unwrap();
            assert_eq!(token.expires_at == at(60.0), by.expiry().is_some());
        }
        let error = || Err::<Token, _>(MintError::Other("no".to_owned()));
        assert!(kept.token(&lasting, &target("b"), at(0.0), error).is_err());
        let sign = || sign(&lasting, &target("b"), at(0.0));
        assert!(kept.token(&lasting, &target("b"), at(0.0), sign).is_ok());
    }

    #[test]
    fn it_remembers_no_more_than_so_many_and_shows_nothing() {
        let kept = ThisSecond::default();
        let by = credentials("A", "one", None);
        for number in 0..2 * MOST {
            let target = target(&format!("user-{number}"));
            kept.token(&by, &target, at(0.0), || sign(&by, &target, at(0.0))).unwrap();
        }
        assert_eq!(kept.0.lock().unwrap().tokens.len(), MOST);
        assert!(!format!("{kept:?}").contains("user"));
        kept.token(&by, &target("a"), at(1.0), || sign(&by, &target("a"), at(1.0))).unwrap();
        assert_eq!(kept.0.lock().unwrap().tokens.len(), 1);
    }
}
