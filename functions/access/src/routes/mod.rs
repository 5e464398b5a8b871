//! The table of routes. One file for each group; each takes a [`Call`] and answers JSON.

mod ca;
mod databases;
mod discovery;
mod documents;
mod rotation;
mod session;

use serde_json::Value;

use crate::app::Call;
use crate::failure::Failure;
use crate::request::decoded;

/// Answers a request of somebody we know.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Value, Failure> {
    let unknown = || Failure::not_found(format!("there is no {:?} here", shown(&call.request.path)));
    let path = call.request.path.strip_prefix("v1/").ok_or_else(unknown)?;
    let (group, rest) = path.split_once('/').map_or((path, None), |(group, rest)| (group, Some(rest)));
    match (group, rest) {
        ("login", None) => {
            takes(call, &["POST"])?;
            session::login(call).await
        }
        ("status", None) => {
            takes(call, &["GET"])?;
            session::status(call)
        }
        ("route", None) => {
            takes(call, &["POST"])?;
            session::route(call).await
        }
        ("databases", None) => {
            takes(call, &["GET"])?;
            databases::list(call).await
        }
        ("databases", Some(name)) => {
            takes(call, &["GET"])?;
            databases::show(call, &decoded(name)?).await
        }
        ("documents", Some(rest)) => {
            let (kind, name) = match rest.split_once('/') {
                Some((kind, name)) => (kind, Some(decoded(name)?)),
                None => (rest, None),
            };
            takes(call, if name.is_some() { &["GET", "PUT", "DELETE"] } else { &["GET"] })?;
            documents::answer(call, &decoded(kind)?, name.as_deref()).await
        }
        ("discover", Some("run")) => {
            takes(call, &["POST"])?;
            discovery::run(call).await
        }
        ("discover", Some("status")) => {
            takes(call, &["GET"])?;
            discovery::status(call).await
        }
        ("rotation", Some("status")) => {
            takes(call, &["GET"])?;
            rotation::status(call).await
        }
        ("rotation", Some(verb @ ("run" | "pause" | "resume" | "lock"))) => {
            takes(call, &["POST"])?;
            rotation::operate(call, verb).await
        }
        ("ca", None) => {
            takes(call, &["GET"])?;
            ca::status(call)
        }
        ("ca", Some("host-cert")) => {
            takes(call, &["POST"])?;
            ca::host_certificate(call).await
        }
        _ => Err(unknown()),
    }
}

fn takes(call: &Call<'_>, methods: &[&str]) -> Result<(), Failure> {
    if methods.contains(&call.request.method.as_str()) {
        return Ok(());
    }
    Err(Failure::bad(format!(
        "{} does not take {:?}",
        shown(&call.request.path),
        shown(&call.request.method)
    ))
    .why(format!("it takes {}", methods.join(", "))))
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// RFC 3339, whole seconds.
fn rfc3339(at: i64) -> String {
    time::OffsetDateTime::from_unix_timestamp(at)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
