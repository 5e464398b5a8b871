//! Audit events of this function: one JSON object a line, appended to a file or written to stdout.

use std::io::Write;
use std::path::Path;

use keystile_model::audit::{AuditEvent, EventKind};
use keystile_model::document::Document;
use serde_json::{Value, json};

use crate::app::App;
use crate::failure::Failure;
use crate::request::Request;

/// Where events go.
pub(crate) trait AuditSink: Send + Sync {
    /// Writes one event. What cannot be written is logged as an error.
    fn write(&self, event: &AuditEvent);
}

/// Lines on stdout, for CloudWatch Logs.
#[derive(Debug)]
pub(crate) struct Stdout;

impl AuditSink for Stdout {
    fn write(&self, event: &AuditEvent) {
        emit(&mut std::io::stdout().lock(), event);
    }
}

/// Lines appended to a file. Each is one write, so that several processes may share it.
#[derive(Debug)]
pub(crate) struct Appended(std::fs::File);

impl Appended {
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        std::fs::OpenOptions::new().create(true).append(true).open(path).map(Self)
    }
}

impl AuditSink for Appended {
    fn write(&self, event: &AuditEvent) {
        emit(&mut &self.0, event);
    }
}

fn emit(to: &mut impl Write, event: &AuditEvent) {
    let written = serde_json::to_vec(event).map_err(std::io::Error::other).and_then(|mut line| {
        line.push(b'\n');
        to.write_all(&line)?;
        to.flush()
    });
    if let Err(error) = written {
        tracing::error!(%error, event = ?event.event, "an audit event was lost");
    }
}

/// An event with what every event of a call has.
pub(crate) fn event(app: &App, request: &Request, kind: EventKind, user: &str, success: bool) -> AuditEvent {
    let mut event =
        AuditEvent::new(kind, success, app.clock.now(), (app.ids)(), &app.config.deployment, user);
    event.server_id = "access".to_owned();
    event.addr_remote.clone_from(&request.source_ip);
    event.details.insert("arn".to_owned(), json!(request.caller.arn.as_str()));
    event.details.insert("request_id".to_owned(), json!(request.id));
    event
}

/// A refused or failed request of an admin, or of somebody who is nobody here.
pub(crate) fn refused(
    app: &App,
    request: &Request,
    kind: EventKind,
    user: &str,
    failure: &Failure,
    details: Vec<(&str, Value)>,
) {
    let mut event = event(app, request, kind, user, false);
    let detail = failure.detail();
    event.error = serde_json::to_value(detail.code)
        .ok()
        .and_then(|word| word.as_str().map(str::to_owned))
        .unwrap_or_default();
    event.message = if detail.why.is_empty() {
        detail.message.clone()
    } else {
        format!("{}: {}", detail.message, detail.why)
    };
    event.rule.clone_from(&detail.rule);
    event.details.extend(details.into_iter().map(|(key, value)| (key.to_owned(), value)));
    app.audit.write(&event);
}

/// A document that was written or removed.
pub(crate) fn changed(
    app: &App,
    request: &Request,
    user: &str,
    (kind, name): (&str, &str),
    before: Option<&Document>,
    after: Option<&Document>,
) {
    let mut event = event(app, request, EventKind::PolicyChange, user, true);
    for (key, value) in
        [("kind", json!(kind)), ("name", json!(name)), ("before", json!(before)), ("after", json!(after))]
    {
        event.details.insert(key.to_owned(), value);
    }
    app.audit.write(&event);
}
