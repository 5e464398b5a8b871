//! Event to job to answer.

use keystile_control::rotate::{Ask, Operation, OperationError, Rotate};
use keystile_model::feed::{Change, Entity};
use keystile_model::policy::Policy;
use keystile_model::rotation::report::RotationReport;
use keystile_model::rotation::row::RotationStatus;
use keystile_state::snapshot::Snapshot;
use serde_json::{Value, json};

use crate::event::{Run, Wish, wish};
use crate::metrics;

/// Everything that lives as long as the process.
pub(crate) struct App {
    pub(crate) job: Rotate,
    pub(crate) snapshot: Snapshot,
    /// Takes the metrics of a tick, one JSON object.
    pub(crate) metrics: fn(&Value),
}

/// Does what the event asks. A tick answers its report, an operation the users as they stand then; what a
/// person asked wrongly is an answer too (`refused`), since it is no failure of the function.
pub(crate) async fn handle(app: &App, event: Value, time_left_ms: Option<u64>) -> anyhow::Result<Value> {
    let wish = wish(event)?;
    if wish != Wish::Tick {
        // Discovery has just looked at users, perhaps.
        app.snapshot.forget_both().await;
    }
    let (policy, _) = app.snapshot.current().await?;
    match wish {
        Wish::Tick => Ok(serde_json::to_value(tick(app, &policy, time_left_ms).await?)?),
        Wish::Run(wanted) => for_a_person(app, &policy, wanted, time_left_ms).await,
        Wish::Operate { operation, db_user, by } => {
            let users = match app.job.operate(&policy, operation, db_user.as_deref(), &by).await {
                Ok(users) => users,
                Err(error) => return refused(error),
            };
            if operation == Operation::Lock {
                // It does not wait for the next minute.
                tick(app, &policy, time_left_ms).await?;
            }
            answer(&users)
        }
    }
}

/// A tick that somebody asked for.
async fn for_a_person(
    app: &App,
    policy: &Policy,
    wanted: Run,
    time_left_ms: Option<u64>,
) -> anyhow::Result<Value> {
    let Run { db_user, force, dry_run, allow_removals, by, found } = wanted;
    let mut policy = policy.clone();
    for user in found {
        policy.apply(Change::Put(Entity::DbUser(Box::new(user))));
    }
    let mut chosen = false;
    if force && !dry_run {
        match app.job.operate(&policy, Operation::Force, db_user.as_deref(), &by).await {
            // One that no tick has seen yet: its turn is now anyway.
            Err(
                OperationError::Unknown(name) | OperationError::NotManaged(name) | OperationError::Iam(name),
            ) if is_managed(&policy, &name) => {}
            Err(error) => return refused(error),
            Ok(_) => chosen = true,
        }
    }
    if let Some(name) = db_user.as_deref().filter(|name| !chosen && !is_managed(&policy, name)) {
        return refused(OperationError::nobody(&policy, name));
    }
    let mut report = run(app, &policy, &Ask { dry_run, force, allow_removals, time_left_ms }).await?;
    if let Some(name) = db_user.as_deref() {
        only(&mut report, &policy, name);
    }
    Ok(serde_json::to_value(report)?)
}

async fn tick(app: &App, policy: &Policy, time_left_ms: Option<u64>) -> anyhow::Result<RotationReport> {
    run(app, policy, &Ask { time_left_ms, ..Ask::default() }).await
}

async fn run(app: &App, policy: &Policy, ask: &Ask) -> anyhow::Result<RotationReport> {
    let report = app.job.tick(policy, ask).await?;
    if !ask.dry_run {
        (app.metrics)(&metrics::emf(&app.job.settings.deployment, &report, app.job.ports.clock.now()));
    }
    tracing::info!(
        moved = report.moved.len(),
        queued = report.queued.len(),
        failed = report.failed.len(),
        calls = report.calls,
        complete = report.complete,
        dry_run = report.dry_run,
        "rotated"
    );
    Ok(report)
}

fn answer(users: &[RotationStatus]) -> anyhow::Result<Value> {
    Ok(json!({ "users": users }))
}

/// What the person who asked has to change.
fn refused(error: OperationError) -> anyhow::Result<Value> {
    let code = match &error {
        OperationError::Unknown(_) | OperationError::NotManaged(_) | OperationError::Iam(_) => "not-found",
        OperationError::Ambiguous(..) | OperationError::NeedsUser => "bad-request",
        OperationError::Store(_) => return Err(error.into()),
    };
    Ok(json!({"refused": {"code": code, "message": error.to_string()}}))
}

/// Whether a managed user goes by this name, id or ARN.
fn is_managed(policy: &Policy, name: &str) -> bool {
    policy.db_users().any(|user| {
        user.managed && (user.name.as_str() == name || user.id == name || user.arn.as_str() == name)
    })
}

/// Leaves in the report what is about one user.
fn only(report: &mut RotationReport, policy: &Policy, name: &str) {
    let arns: Vec<&str> = policy
        .db_users()
        .filter(|user| user.name.as_str() == name || user.id == name || user.arn.as_str() == name)
        .map(|user| user.arn.as_str())
        .collect();
    for list in [&mut report.take_over, &mut report.queued, &mut report.left_alone, &mut report.widened] {
        list.retain(|line| arns.contains(&line.arn.as_str()));
    }
    report.moved.retain(|line| arns.contains(&line.arn.as_str()));
    report.failed.retain(|line| arns.contains(&line.arn.as_str()));
}
