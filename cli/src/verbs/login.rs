//! `login`, `logout` and `status`.

use keystile_api::{LoginAnswer, LoginRequest, StatusAnswer};
use serde_json::json;
use time::OffsetDateTime;

use crate::access::Access;
use crate::args::Login;
use crate::context::{Context, wait};
use crate::failure::{Failure, exit};
use crate::keys::Pair;
use crate::output::say;
use crate::session::{self, Session, Standing};
use crate::table;

/// Signs in and remembers where.
pub(crate) fn login(context: &Context, args: &Login) -> Result<(), Failure> {
    let pair = Pair::generate()?;
    let (url, answer) = wait(async {
        let access = match &args.url {
            Some(url) => Access::at(context, url, args.region.as_deref()).await?,
            None => {
                match context.environment.var("KEYSTILE_ACCESS_URL").or(context.config.access_url.as_deref())
                {
                    Some(url) => Access::at(context, url, args.region.as_deref()).await?,
                    None => Access::open(context).await?,
                }
            }
        };
        let request =
            LoginRequest { public_key: pair.public.clone(), ttl_s: args.ttl.map(|ttl| ttl.seconds) };
        let answer: LoginAnswer = access.post("/v1/login", &request).await?;
        Ok((access.url().to_owned(), answer))
    })?;
    session::keep(&context.home, &url, &pair, &answer)?;
    remember(context, args, &url)?;
    let status = with_proxy(context, &answer.status);
    context.output.emit(&document(&status, &url, true), || {
        let roles = if status.roles.is_empty() {
            "no roles".to_owned()
        } else {
            format!("roles: {}", status.roles.join(", "))
        };
        let until = session::moment(&status.valid_until);
        let left =
            until.map(|until| format!(" ({})", session::left(until, context.now()))).unwrap_or_default();
        format!("Signed in as {} ({roles}), valid until {}{left}\n", status.user, status.valid_until)
    })
}

fn remember(context: &Context, args: &Login, url: &str) -> Result<(), Failure> {
    let mut config = context.config.clone();
    if args.url.is_some() || config.access_url.is_none() {
        config.access_url = Some(url.to_owned());
    }
    if args.region.is_some() {
        config.region.clone_from(&args.region);
    }
    if config == context.config { Ok(()) } else { context.home.write_config(&config) }
}

/// Removes everything that a login left, route credentials included.
pub(crate) fn logout(context: &Context) -> Result<(), Failure> {
    let was = session::forget(&context.home)?;
    say(if was { "Signed out." } else { "Nobody was signed in." });
    Ok(())
}

/// Shows who is signed in: as the deployment sees it now, or, if that is out of reach, as it was at login.
pub(crate) fn status(context: &Context) -> Result<(), Failure> {
    let now = context.now();
    match session::standing(&context.home, now) {
        Standing::Nobody => {
            let url = context.config.access_url.clone().unwrap_or_default();
            context.output.emit(&json!({ "signed_in": false, "access_url": url }), || {
                table::facts(&[("access", url.clone())])
            })?;
            session::required(context).map(|_| ())
        }
        Standing::Expired(kept) => {
            show(context, &kept, now, false)?;
            session::required(context).map(|_| ())
        }
        Standing::Live(kept) => show(context, &refreshed(context, *kept)?, now, true),
    }
}

fn refreshed(context: &Context, kept: Session) -> Result<Session, Failure> {
    let asked = wait(async {
        let access = Access::open(context).await?;
        access.get::<StatusAnswer>("/v1/status").await
    });
    match asked {
        Ok(status) => {
            let valid_until = kept.status.valid_until;
            Ok(Session { status: StatusAnswer { valid_until, ..status }, ..kept })
        }
        Err(failure) if failure.exit == exit::UNREACHABLE || failure.exit == exit::SIGN_IN => {
            say(&format!("note: {}; this is what the last login said", failure.message));
            Ok(kept)
        }
        Err(failure) => Err(failure),
    }
}

fn show(context: &Context, kept: &Session, now: OffsetDateTime, live: bool) -> Result<(), Failure> {
    let status = with_proxy(context, &kept.status);
    context.output.emit(&document(&status, &kept.access_url, live), || lines(&status, &kept.access_url, now))
}

fn with_proxy(context: &Context, status: &StatusAnswer) -> StatusAnswer {
    StatusAnswer { proxy_address: context.proxy_address(&status.proxy_address), ..status.clone() }
}

fn document(status: &StatusAnswer, url: &str, live: bool) -> serde_json::Value {
    json!({
        "signed_in": live,
        "user": status.user,
        "roles": status.roles,
        "valid_until": status.valid_until,
        "deployment": status.deployment,
        "version": status.version,
        "proxy_address": status.proxy_address,
        "domain": status.domain,
        "ca_pins": status.ca_pins,
        "access_url": url,
    })
}

fn lines(status: &StatusAnswer, url: &str, now: OffsetDateTime) -> String {
    let until = match session::moment(&status.valid_until) {
        Some(end) if end > now => format!("{} ({} left)", status.valid_until, session::left(end, now)),
        _ => format!("{} (ended)", status.valid_until),
    };
    let roles = if status.roles.is_empty() { "none".to_owned() } else { status.roles.join(", ") };
    table::facts(&[
        ("user", status.user.clone()),
        ("roles", roles),
        ("valid until", until),
        ("proxy", status.proxy_address.clone()),
        ("domain", status.domain.clone()),
        ("deployment", status.deployment.clone()),
        ("version", status.version.clone()),
        ("access", url.to_owned()),
        ("CA pins", status.ca_pins.join(" ")),
    ])
}
