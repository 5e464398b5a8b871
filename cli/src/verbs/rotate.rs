//! `rotate …`: the passwords of managed db users.

use http::Method;
use keystile_api::{RotateRequest, RotationList, RotationTarget};
use keystile_model::report::Planned;
use keystile_model::rotation::proof::Proven;
use keystile_model::rotation::report::RotationReport;
use keystile_model::rotation::row::RotationStatus;
use serde_json::Value;

use crate::access::{Access, RUN};
use crate::args::Rotate;
use crate::context::{Context, wait};
use crate::failure::{Failure, printable};
use crate::output::yaml;
use crate::table;

/// Runs `rotate …`.
pub(crate) fn run(context: &Context, verb: Rotate) -> Result<(), Failure> {
    match verb {
        Rotate::Run { db_user, force, dry_run, allow_removals } => {
            tick(context, &RotateRequest { db_user, force, dry_run, allow_removals })
        }
        Rotate::Status { db_user } => {
            let mut list: RotationList =
                wait(async { Access::open(context).await?.get("/v1/rotation/status").await })?;
            if let Some(name) = db_user {
                list = only(list, &name)?;
            }
            emit(context, &list)
        }
        Rotate::Pause { db_user } => operate(context, "pause", db_user),
        Rotate::Resume { db_user } => operate(context, "resume", db_user),
        // `--lock` is the word that sessions may end; there is no other way yet.
        Rotate::Now { db_user, lock: _ } => operate(context, "lock", Some(db_user)),
    }
}

/// The users of this name or ARN.
fn only(mut list: RotationList, name: &str) -> Result<RotationList, Failure> {
    list.users.retain(|user| user.name == name || user.arn.as_str() == name);
    if list.users.is_empty() {
        return Err(Failure::not_found(format!("no rotation is known of db user {}", printable(name)))
            .next("keystile rotate status"));
    }
    Ok(list)
}

fn tick(context: &Context, request: &RotateRequest) -> Result<(), Failure> {
    let answer: Value = wait(async {
        let access = Access::open(context).await?;
        access.call(Method::POST, "/v1/rotation/run", Some(request), RUN).await
    })?;
    // A report of a newer control plane may not fit: its YAML is still readable.
    let text = match serde_json::from_value::<RotationReport>(answer.clone()) {
        Ok(known) => report(&known),
        Err(_) => yaml(&answer)?,
    };
    context.output.emit(&answer, || text)
}

fn operate(context: &Context, verb: &str, db_user: Option<String>) -> Result<(), Failure> {
    let path = format!("/v1/rotation/{verb}");
    let list: RotationList = wait(async {
        let access = Access::open(context).await?;
        access.call(Method::POST, &path, Some(&RotationTarget { db_user }), RUN).await
    })?;
    emit(context, &list)
}

/// Prints users: in JSON a list, in text a table with a line for each reason.
fn emit(context: &Context, list: &RotationList) -> Result<(), Failure> {
    context.output.emit(&list.users, || status(&list.users, context.output.bold))
}

fn status(users: &[RotationStatus], bold: bool) -> String {
    let header = ["NAME", "STATE", "ROTATED", "PROOF", "NEXT", "PERIOD", "DATABASES"];
    let rows: Vec<Vec<String>> = users.iter().map(cells).collect();
    let mut text = table::render(&header, &rows, bold);
    for user in users {
        for (what, reason) in [("reason", &user.reason), ("period widened", &user.widened)] {
            if !reason.is_empty() {
                text.push_str(&format!("{}  {what}: {}\n", printable(&user.name), printable(reason)));
            }
        }
    }
    text
}

fn cells(user: &RotationStatus) -> Vec<String> {
    let none = || "-".to_owned();
    let next = if user.paused { Some("paused".to_owned()) } else { user.due_at.clone() };
    let proof = user.proof.as_ref().map(|proof| match proof.outcome {
        Proven::Everywhere => format!("{} of {} nodes", proof.nodes_ok, proof.nodes),
        _ => format!("unproven, {} of {} nodes", proof.nodes_ok, proof.nodes),
    });
    vec![
        printable(&user.name),
        printable(&user.state),
        user.rotated_at.clone().unwrap_or_else(none),
        proof.unwrap_or_else(none),
        next.unwrap_or_else(none),
        if user.period_s == 0 { none() } else { span(user.period_s) },
        if user.databases.is_empty() { none() } else { printable(&user.databases.join(",")) },
    ]
}

/// Seconds as people write them: `15m`, `36h`, `90d`.
fn span(seconds: u64) -> String {
    match seconds {
        s if s % 86_400 == 0 => format!("{}d", s / 86_400),
        s if s % 3_600 == 0 => format!("{}h", s / 3_600),
        s if s % 60 == 0 => format!("{}m", s / 60),
        s => format!("{s}s"),
    }
}

/// One line for each thing that happened or will, each naming what it is, so that `grep` finds it.
fn report(report: &RotationReport) -> String {
    let mut text = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        for line in lines {
            text.push_str(&format!("{title}  {}\n", printable(&line)));
        }
    };
    let planned = |list: &[Planned]| -> Vec<String> {
        list.iter().map(|line| format!("{}  {}  ({})", line.name, line.reason, line.arn)).collect()
    };
    let takes = if report.dry_run { "would take over" } else { "takes over" };
    section(takes, planned(&report.take_over));
    section("queued", planned(&report.queued));
    section(
        "moved",
        report.moved.iter().map(|m| format!("{}  {} -> {}  ({})", m.name, m.from, m.to, m.arn)).collect(),
    );
    section("left alone", planned(&report.left_alone));
    section("widened", planned(&report.widened));
    section(
        "failed",
        report.failed.iter().map(|f| format!("{}  {}: {}  ({})", f.name, f.kind, f.text, f.arn)).collect(),
    );
    section("warning", report.warnings.clone());
    section("ALARM", report.alarms.clone());
    let users: usize = report.users.values().sum();
    let states: Vec<String> = report.users.iter().map(|(state, count)| format!("{count} {state}")).collect();
    text.push_str(&format!(
        "{users} managed db user{}{}{}; {} call{}{}{}\n",
        if users == 1 { "" } else { "s" },
        if states.is_empty() { "" } else { ": " },
        states.join(", "),
        report.calls,
        if report.calls == 1 { "" } else { "s" },
        if report.complete { "" } else { "; not complete" },
        if report.dry_run { "; nothing was changed" } else { "" },
    ));
    text
}

#[cfg(test)]
mod tests {
    use keystile_model::arn::Arn;
    use keystile_model::rotation::RotationPhase;
    use keystile_model::rotation::report::Failed;

    use super::*;

    #[test]
    fn a_report_names_each_user_once_a_line() {
        let line = |name: &str, reason: &str| Planned {
            name: name.into(),
            reason: reason.into(),
            arn: "arn".into(),
        };
        let told = RotationReport {
            take_over: vec![line("managed-app", "its passwords end")],
            queued: vec![line("legacy-app", "its group changes")],
            failed: vec![Failed {
                name: "x".into(),
                arn: "arn".into(),
                kind: "quota".into(),
                text: "later\u{1b}[2J".into(),
            }],
            users: [("found".to_owned(), 2)].into(),
            dry_run: true,
            ..RotationReport::default()
        };
        let text = report(&told);
        for line in [
            "would take over  managed-app  its passwords end",
            "queued  legacy-app",
            "failed  x  quota: later",
            "2 managed db users: 2 found",
            "nothing was changed",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn a_status_says_what_is_unproven_and_what_waits() {
        let arn = Arn::parse("arn:aws:elasticache:us-east-1:123456789012:user:app").unwrap();
        let user = RotationStatus {
            name: "app".into(),
            arn,
            state: "ready".into(),
            phase: RotationPhase::Ready,
            rotated_at: Some("2026-01-01T00:00:00.000Z".into()),
            proof: None,
            due_at: None,
            period_s: 5_400,
            widened: "the group is large".into(),
            paused: true,
            generation: 1,
            secret: String::new(),
            databases: vec!["orders".into(), "carts".into()],
            reason: String::new(),
        };
        let text = status(&[user], false);
        assert!(text.contains("paused") && text.contains("90m") && text.contains("orders,carts"), "{text}");
        assert!(text.contains("app  period widened: the group is large"));
        assert_eq!(
            (span(900).as_str(), span(7_200).as_str(), span(7_776_000).as_str(), span(61).as_str()),
            ("15m", "2h", "90d", "61s")
        );
    }
}
