//! The control port: ordered faults and recorded calls for tests, and credentials of the world's
//! own processes, in the form in which Fargate gives them to a container.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use secrecy::ExposeSecret;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::faults::Order;
use super::wire::{Request, Response, answer as respond};
use super::{Credentials, Front, principals};
use crate::lambda::{FunctionSpec, InvokeOutcome};

/// How long credentials last that a container or a function is given: as on Fargate, about 6 hours.
const LIFE_SECONDS: u32 = 6 * 3600;

/// Answers one request.
pub(crate) async fn answer(front: Arc<Front>, request: Request) -> Option<Response> {
    Some(match (request.path.strip_prefix("/credentials/"), request.path.as_str()) {
        (Some(role), _) if request.method == Method::GET => credentials(&front, &request, role).await,
        (_, "/faults" | "/") => faults(&front, &request),
        _ => refuse(404, "the control port knows /faults and /credentials/ROLE"),
    })
}

fn refuse(status: u16, message: &str) -> Response {
    respond(status, "application/json", json!({ "error": message }).to_string())
}

fn faults(front: &Front, request: &Request) -> Response {
    let done = || respond(200, "application/json", "{}");
    match request.method {
        Method::GET => {
            let mut calls = front.faults.calls();
            calls.sort_by(|a, b| a.time.cmp(&b.time));
            respond(200, "application/json", json!({ "calls": calls }).to_string())
        }
        Method::DELETE if request.query.split('&').any(|part| part.split('=').next() == Some("calls")) => {
            front.faults.forget_calls();
            done()
        }
        Method::DELETE => {
            front.faults.clear();
            done()
        }
        Method::POST => {
            let order = serde_json::from_slice::<Order>(&request.body).map_err(|error| error.to_string());
            match order.and_then(|order| front.faults.order(order)) {
                Ok(()) => done(),
                Err(why) => refuse(400, &why),
            }
        }
        _ => refuse(
            405,
            "GET reads the calls, POST orders a fault, DELETE clears faults, DELETE ?calls forgets calls",
        ),
    }
}

async fn credentials(front: &Front, request: &Request, role: &str) -> Response {
    let token = front.control_token.expose_secret();
    if request.flat.get("authorization").map(String::as_str) != Some(token) {
        return refuse(403, "the Authorization header is not this world's token");
    }
    match front.credentials(role, role, OffsetDateTime::now_utc()).await {
        Ok(credentials) => {
            let env = credentials.env();
            let expiration = credentials.expires_at.and_then(|at| at.format(&Rfc3339).ok());
            let body = json!({
                "AccessKeyId": env.get("AWS_ACCESS_KEY_ID"),
                "SecretAccessKey": env.get("AWS_SECRET_ACCESS_KEY"),
                "Token": env.get("AWS_SESSION_TOKEN"),
                "Expiration": expiration,
            });
            respond(200, "application/json", body.to_string())
        }
        Err(error) => refuse(400, &format!("{error:#}")),
    }
}

impl Front {
    /// New credentials of a role of the home account.
    pub(crate) async fn credentials(
        &self,
        role: &str,
        session: &str,
        now: OffsetDateTime,
    ) -> anyhow::Result<Credentials> {
        principals::assume(&self.upstream, &self.ring, role, session, LIFE_SECONDS, now).await
    }

    /// Runs a function once, as its role, in a fresh process or a warm one as the function says.
    pub(crate) async fn run(
        &self,
        spec: &FunctionSpec,
        event: Bytes,
        now: OffsetDateTime,
    ) -> anyhow::Result<InvokeOutcome> {
        let credentials = async { Ok(self.credentials(&spec.role, &spec.function_name, now).await?.env()) };
        self.functions.run(spec, event, credentials).await
    }
}
