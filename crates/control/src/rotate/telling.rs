//! What a tick tells of its rows in the report.

use keystile_model::rotation::report::{Failed, Moved, RotationReport};
use keystile_model::rotation::row::{RotationRow, RotationState, UNSCRUBBED};

use super::machine::{Action, TeleportSeen, Wanted, is_due};
use super::scope::ScopeDone;
use super::step::{Done, Outcome, Turn};
use super::wanted;
use super::{left_alone, planned};

/// What a tick would do about a user, for a dry run. `looked` is what a takeover's step would be; `force` is as if
/// every turn were due.
pub(super) fn foretell(
    turn: &Turn,
    looked: Option<Result<(Action, TeleportSeen), String>>,
    force: bool,
    now: i64,
    report: &mut RotationReport,
) {
    let row = &turn.row;
    if turn.wanted != Wanted::Yes {
        return;
    }
    match looked {
        None if row.paused => {}
        None if left_alone(row).is_some() && force => report.take_over.push(planned(row, ends(turn))),
        None if left_alone(row).is_some() => {}
        None if force || is_due(row, now) => report.queued.push(planned(row, "its turn is due")),
        None => {}
        Some(Err(why)) => report.warnings.push(format!("{}: it could not be looked at: {why}", row.arn)),
        Some(Ok((Action::LeaveAlone(why), _))) => report.left_alone.push(planned(row, why.reason())),
        Some(Ok((Action::Wait(_), _))) if left_alone(row).is_some() => {}
        Some(Ok((Action::Wait(why), _))) => report.queued.push(planned(row, why)),
        Some(Ok((_, TeleportSeen::There { name, .. }))) => {
            let kept =
                format!("would be taken over: {name} stays valid until the first rotation, others end");
            report.take_over.push(planned(row, kept));
        }
        Some(Ok(_)) => report.take_over.push(planned(row, ends(turn))),
    }
}

fn ends(turn: &Turn) -> String {
    match turn.user.as_ref().map_or(0, |user| user.passwords) {
        0 => "would be taken over: it gets its first password".to_owned(),
        1 => "would be taken over: its password of now ends".to_owned(),
        n => format!("would be taken over: its {n} passwords of now end"),
    }
}

/// What came of one row, in the scope's report.
pub(super) fn take(before: RotationRow, finished: Done, now: i64, done: &mut ScopeDone) {
    let row = &finished.row;
    let report = &mut done.report;
    if finished.forgotten {
        done.forgotten.push(row.arn.clone());
        return;
    }
    if before.state.as_str() != row.state.as_str() {
        report.moved.push(Moved {
            name: row.name.clone(),
            arn: row.arn.to_string(),
            from: before.state.as_str().to_owned(),
            to: row.state.as_str().to_owned(),
        });
    }
    if row.unscrubbed && !before.unscrubbed {
        report.warnings.push(format!("{}: {UNSCRUBBED}", row.arn));
    }
    match &finished.outcome {
        Outcome::Waited(why) => {
            let resting = matches!(row.state, RotationState::Ready | RotationState::Withdrawn { .. });
            if (!resting || is_due(row, now)) && left_alone(row).is_none() {
                report.queued.push(planned(row, *why));
            }
        }
        Outcome::Moved => {}
        Outcome::Failed(error) => report.failed.push(Failed {
            name: row.name.clone(),
            arn: row.arn.to_string(),
            kind: error.kind().to_owned(),
            text: error.to_string(),
        }),
        Outcome::Stale(why) => report.warnings.push(format!("{}: {why}", row.arn)),
    }
    done.rows.push(finished.row);
}

/// Adds a scope to the tick's report.
pub(crate) fn add(report: &mut RotationReport, done: &ScopeDone, now: i64) {
    let of = &done.report;
    report.take_over.extend(of.take_over.iter().cloned());
    report.queued.extend(of.queued.iter().cloned());
    report.left_alone.extend(of.left_alone.iter().cloned());
    report.moved.extend(of.moved.iter().cloned());
    report.failed.extend(of.failed.iter().cloned());
    report.warnings.extend(of.warnings.iter().cloned());
    report.alarms.extend(of.alarms.iter().cloned());
    report.calls += of.calls;
    report.complete &= of.failed.iter().all(|failed| !failed.arn.is_empty());
    for row in &done.rows {
        *report.users.entry(row.state.as_str().to_owned()).or_default() += 1;
        if let Some(why) = left_alone(row) {
            report.left_alone.push(planned(row, why.reason()));
        }
        if !row.widened.is_empty() {
            report.widened.push(planned(row, row.widened.clone()));
        }
        if !row.taken && !report.dry_run && left_alone(row).is_none() && !wanted::is_leaving(row) {
            report.take_over.push(planned(row, format!("is being taken over ({})", row.state.as_str())));
        }
        if let Some(at) = row.rotated_at.filter(|_| row.taken) {
            let age = (now - at).max(0);
            report.oldest_password_s = report.oldest_password_s.max(age);
            let period = i64::try_from(row.period_s).unwrap_or(i64::MAX);
            if age > period.saturating_mul(2) && left_alone(row).is_none() && !row.paused {
                report.overdue += 1;
            }
        }
    }
}
