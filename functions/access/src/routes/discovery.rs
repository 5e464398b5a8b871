//! Discovery on demand, and the report of the last run.

use keystile_api::DiscoverRequest;
use keystile_model::audit::EventKind;
use keystile_model::feed::Entity;
use keystile_model::matcher::Matcher;
use keystile_model::runtime::{DISCOVER, REPORTS};
use keystile_model::store::RuntimeKey;
use serde_json::{Value, json};

use crate::app::Call;
use crate::documents::{Kind, Reading};
use crate::failure::Failure;

/// Most matchers of one try-out.
const MAX_MATCHERS: usize = 100;

/// `POST /v1/discover/run`.
pub(super) async fn run(call: &Call<'_>) -> Result<Value, Failure> {
    let checked = call.authorize("discovery", "run").and_then(|()| event(call));
    match checked {
        Ok(event) => {
            let answer = call.app.discovery.run(&event).await;
            note(call, &event, answer.as_ref().err());
            answer
        }
        Err(failure) => {
            let user = call.user.name.as_str();
            let details = vec![("kind", json!("discovery"))];
            crate::audit::refused(call.app, call.request, EventKind::PolicyDenied, user, &failure, details);
            Err(failure)
        }
    }
}

/// The audit's line about a run that was asked for: who, and what was allowed. The matchers of a try-out are
/// left out: they change nothing.
fn note(call: &Call<'_>, asked: &Value, failure: Option<&Failure>) {
    let user = call.user.name.as_str();
    let details = ["dry_run", "allow_removals"].map(|key| (key, asked[key].clone()));
    if let Some(failure) = failure {
        let details = details.into();
        return crate::audit::refused(
            call.app,
            call.request,
            EventKind::DiscoveryRun,
            user,
            failure,
            details,
        );
    }
    let mut event = crate::audit::event(call.app, call.request, EventKind::DiscoveryRun, user, true);
    event.details.extend(details.map(|(key, value)| (key.to_owned(), value)));
    call.app.audit.write(&event);
}

fn event(call: &Call<'_>) -> Result<Value, Failure> {
    let wanted: DiscoverRequest =
        if call.request.body.is_empty() { DiscoverRequest::default() } else { call.request.json()? };
    let mut event = json!({
        "dry_run": wanted.dry_run,
        "allow_removals": wanted.allow_removals,
        "asked_by": call.user.name.as_str(),
    });
    let Some(documents) = wanted.matchers else { return Ok(event) };
    if !wanted.dry_run {
        return Err(Failure::bad("other matchers go with a dry run only")
            .next("keystile discover run --dry-run --matchers FILE"));
    }
    if documents.len() > MAX_MATCHERS {
        return Err(Failure::bad(format!("at most {MAX_MATCHERS} matchers can be tried at once")));
    }
    let reading = Reading {
        policy: &call.policy,
        settings: &call.settings,
        config: &call.app.config,
        now: call.now,
        id: (call.app.ids)(),
    };
    let matchers = documents
        .into_iter()
        .map(|document| {
            let name = document.metadata.name.clone();
            let read = reading.document(Kind::Matcher, &name, document)?;
            match read.entity {
                Entity::Matcher(matcher) => Ok(*matcher),
                _ => Err(Failure::bad("only matchers can be tried")),
            }
        })
        .collect::<Result<Vec<Matcher>, Failure>>()?;
    event["matchers"] = crate::handler::json(&matchers)?;
    Ok(event)
}

/// `GET /v1/discover/status`.
pub(super) async fn status(call: &Call<'_>) -> Result<Value, Failure> {
    call.authorize("discovery", "read")?;
    let report = call.app.runtime.read(&RuntimeKey::new(REPORTS, DISCOVER)).await?;
    report
        .map(|item| item.body)
        .ok_or_else(|| Failure::not_found("discovery has not run yet").next("keystile discover run"))
}
