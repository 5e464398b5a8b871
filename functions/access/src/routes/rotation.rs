//! Rotation on demand, and how managed db users stand. The rows are rotate's: this function reads them and asks
//! rotate for every change.

use keystile_api::{ErrorCode, RotateRequest, RotationList, RotationTarget};
use keystile_model::audit::EventKind;
use serde_json::{Value, json};

use crate::app::Call;
use crate::failure::{Failure, internal};

/// `GET /v1/rotation/status`.
pub(super) async fn status(call: &Call<'_>) -> Result<Value, Failure> {
    call.authorize("rotation", "read")?;
    let users = keystile_control::rotate::status(&*call.app.runtime, &call.policy).await?;
    crate::handler::json(&RotationList { users })
}

/// `POST /v1/rotation/run`, `…/pause`, `…/resume`, `…/lock`.
pub(super) async fn operate(call: &Call<'_>, verb: &str) -> Result<Value, Failure> {
    let right = match verb {
        "pause" | "resume" => "update",
        other => other,
    };
    let outcome = match call.authorize("rotation", right).and_then(|()| event(call, verb)) {
        Ok(event) => ask(call, verb, event).await,
        Err(failure) => Err(failure),
    };
    note(call, verb, outcome.as_ref().err());
    outcome
}

/// The event for rotate.
fn event(call: &Call<'_>, verb: &str) -> Result<Value, Failure> {
    let empty = call.request.body.is_empty();
    let mut event = if verb == "run" {
        let wanted: RotateRequest = if empty { RotateRequest::default() } else { call.request.json()? };
        crate::handler::json(&wanted)?
    } else {
        let wanted: RotationTarget = if empty { RotationTarget::default() } else { call.request.json()? };
        crate::handler::json(&wanted)?
    };
    event["operation"] = verb.into();
    event["by"] = call.user.name.as_str().into();
    Ok(event)
}

async fn ask(call: &Call<'_>, verb: &str, mut event: Value) -> Result<Value, Failure> {
    let mut unseen = None;
    if verb == "run" {
        let dry_run = event["dry_run"].as_bool().unwrap_or_default();
        let look = json!({"only": "users", "dry_run": dry_run, "asked_by": call.user.name.as_str()});
        // A tick is of use without a look, too.
        match call.app.discovery.run(&look).await {
            // A dry look writes nothing: rotate is told who it found.
            Ok(found) if dry_run => event["found"] = found["users"]["managed"].clone(),
            Ok(_) => {}
            Err(failure) => unseen = Some(failure),
        }
    }
    let mut answer = call.app.rotation.run(&event).await?;
    if let Some(refused) = answer.get("refused") {
        let message = refused["message"].as_str().unwrap_or_default();
        return Err(match refused["code"].as_str() {
            Some("not-found") => Failure::not_found(message).next("keystile rotate status"),
            Some("bad-request") => Failure::bad(message).next("keystile rotate status"),
            _ => internal("the rotation function refused without a reason"),
        });
    }
    if let Some(failure) = unseen {
        let detail = failure.detail();
        let warning = format!("db users were not looked at: {} {}", detail.message, detail.why);
        if let Some(warnings) = answer.get_mut("warnings").and_then(Value::as_array_mut) {
            warnings.push(warning.trim_end().into());
        }
        answer["complete"] = false.into();
    }
    Ok(answer)
}

/// The audit's line about what was asked of rotation, and by whom.
fn note(call: &Call<'_>, verb: &str, failure: Option<&Failure>) {
    let user = call.user.name.as_str();
    let body: Value = serde_json::from_slice(&call.request.body).unwrap_or_default();
    let flag = |name: &str| body[name].as_bool().unwrap_or_default();
    let db_user: String =
        body["db_user"].as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).take(256).collect();
    let details = vec![
        ("kind", json!("rotation")),
        ("operation", json!(verb)),
        ("db_user", json!(db_user)),
        ("force", json!(flag("force"))),
        ("dry_run", json!(flag("dry_run"))),
    ];
    if let Some(failure) = failure {
        let kind = if failure.code() == ErrorCode::Denied {
            EventKind::PolicyDenied
        } else {
            EventKind::RotationAsked
        };
        return crate::audit::refused(call.app, call.request, kind, user, failure, details);
    }
    let mut event = crate::audit::event(call.app, call.request, EventKind::RotationAsked, user, true);
    event.details.extend(details.into_iter().map(|(key, value)| (key.to_owned(), value)));
    call.app.audit.write(&event);
}
