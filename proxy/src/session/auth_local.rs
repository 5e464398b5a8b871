//! `AUTH` and `HELLO … AUTH` of a client that is already authorized: they never change who the cache sees.
//!
//! With our own sign-in the same user is `+OK` whatever the password, another user is `NOPERM`. Where the
//! database takes the client's own password, AUTH goes through, for the session's db user alone.

use std::borrow::Cow;

use keystile_resp::encode;

use super::auth_request::{self, Credentials};
use super::{Session, Standing};
use crate::audit::Facts;

/// What becomes of an AUTH.
pub(super) enum Answer {
    /// It is answered here.
    Local(Vec<u8>),
    /// The cache is asked with this.
    Forward(Vec<u8>),
}

impl Session {
    pub(super) fn local_auth(&self, args: &[Cow<'_, [u8]>]) -> Answer {
        let credentials = match auth_request::auth(args) {
            Ok(credentials) => credentials,
            Err(text) => return Answer::Local(error("ERR", &text)),
        };
        if let Err(refusal) = self.check_user(&credentials) {
            return Answer::Local(refusal);
        }
        match (&self.standing, args.last()) {
            (Standing::PassThrough { tries, .. }, Some(password)) => {
                if let Err(text) = tries.may_try() {
                    return Answer::Local(error("ERR keystile:", &text));
                }
                let mut request = Vec::new();
                // Servers before version 6 know no other form, and no other user.
                if credentials.user.is_none() && self.db_user() == "default" {
                    encode::request(&mut request, &[b"AUTH".as_slice(), password]);
                } else {
                    encode::request(&mut request, &[b"AUTH", self.db_user().as_bytes(), password]);
                }
                Answer::Forward(request)
            }
            _ => Answer::Local(b"+OK\r\n".to_vec()),
        }
    }

    /// The HELLO to send to the cache, and whether it carries the client's own AUTH; or our answer.
    pub(super) fn local_hello(&self, args: &[Cow<'_, [u8]>]) -> Result<(Vec<u8>, bool), Vec<u8>> {
        let hello = auth_request::hello_in_session(args).map_err(|text| error("ERR", &text))?;
        if let Some(credentials) = hello.credentials() {
            self.check_user(&credentials)?;
        }
        match (&self.standing, &hello.auth) {
            (Standing::PassThrough { tries, .. }, Some((_, password))) => {
                tries.may_try().map_err(|text| error("ERR keystile:", &text))?;
                Ok((hello.request(Some((self.db_user(), password))), true))
            }
            _ => Ok((hello.request(None), false)),
        }
    }

    fn check_user(&self, credentials: &Credentials) -> Result<(), Vec<u8>> {
        check_user(self.journal.facts(), credentials)
    }

    pub(super) fn db_user(&self) -> &str {
        &self.journal.facts().about().db_user
    }
}

/// Whether the user is the session's own, also spelled with its database.
pub(crate) fn check_user(facts: &Facts, credentials: &Credentials) -> Result<(), Vec<u8>> {
    let Some(given) = credentials.user.as_deref() else { return Ok(()) };
    let own = facts.about().db_user.as_str();
    let (user, database) = match given.rsplit_once('@') {
        Some((user, database)) if given != own => (user, Some(database)),
        _ => (given, None),
    };
    let here = facts.about().database.as_ref().is_some_and(|known| {
        database.is_none_or(|name| known.name.as_str() == name || known.alias() == name)
    });
    if user == own && here {
        return Ok(());
    }
    let name = facts.about().database.as_ref().map(|database| database.name.as_str()).unwrap_or_default();
    Err(error(
        "NOPERM keystile:",
        &format!(
            "this connection is {own}@{name} and stays so: connect again to be '{}'",
            given.chars().take(100).collect::<String>()
        ),
    ))
}

fn error(code: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, code, text);
    out
}
