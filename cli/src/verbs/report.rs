//! Discovery's report as a person reads it: what each scope gave, what changed, what is left out and why.

use keystile_model::report::{DiscoveryReport, Planned, ScopeReport};

use crate::failure::printable;
use crate::table;

/// Renders the report. Scopes that are whole and empty are only counted.
pub(crate) fn render(report: &DiscoveryReport, bold: bool) -> String {
    let (shown, empty): (Vec<_>, Vec<_>) =
        report.scopes.iter().partition(|scope| scope.seen > 0 || !scope.complete || scope.removed > 0);
    let header =
        ["ACCOUNT", "REGION", "TYPE", "SEEN", "ADDED", "CHANGED", "REMOVED", "SKIPPED", "CALLS", "COMPLETE"];
    let rows: Vec<_> = shown.into_iter().map(row).collect();
    let mut text = table::render(&header, &rows, bold);
    if !empty.is_empty() {
        text.push_str(&format!("{} scopes without anything\n", empty.len()));
    }
    let (add, change, remove) = if report.dry_run {
        ("would add", "would change", "would remove")
    } else {
        ("added", "changed", "removed")
    };
    section(&mut text, add, report.add.iter().map(planned));
    section(&mut text, change, report.change.iter().map(planned));
    section(&mut text, remove, report.remove.iter().map(planned));
    section(
        &mut text,
        "skipped",
        report.skip.iter().map(|skipped| {
            format!(
                "{}  {}  ({} {} {})",
                skipped.name, skipped.reason, skipped.account, skipped.region, skipped.kind
            )
        }),
    );
    section(
        &mut text,
        "name-conflict",
        report.name_conflicts.iter().map(|conflict| {
            format!(
                "{} asks for {:?}, which {} holds; it is called {}",
                conflict.arn, conflict.name, conflict.holder, conflict.given
            )
        }),
    );
    section(&mut text, "warning", report.warnings.iter().cloned());
    section(&mut text, "ALARM", report.alarms.iter().cloned());
    let totals = &report.totals;
    text.push_str(&format!(
        "{} databases, {} db users; {} calls in {} ms, finished {}{}{}\n",
        totals.databases,
        totals.db_users,
        totals.calls,
        report.duration_ms,
        report.finished,
        if report.complete { "" } else { "; not complete" },
        if report.dry_run { "; nothing was written" } else { "" },
    ));
    if let Some(person) = &report.asked_by {
        let allowed = match report.allowed_removals.words() {
            words if words.is_empty() => String::new(),
            words => format!("; removals allowed: {}", words.join(", ")),
        };
        section(&mut text, "asked by", std::iter::once(format!("{person}{allowed}")));
    }
    text
}

fn row(scope: &ScopeReport) -> Vec<String> {
    let complete = match (&scope.complete, &scope.reason) {
        (true, _) => "yes".to_owned(),
        (false, Some(reason)) => format!("no: {reason}"),
        (false, None) => "no".to_owned(),
    };
    let counts = [scope.seen, scope.added, scope.changed, scope.removed, scope.skipped.len()];
    let mut cells = vec![scope.scope.account.clone(), scope.scope.region.clone(), scope.scope.kind.clone()];
    cells.extend(counts.map(|count| count.to_string()));
    cells.extend([scope.calls.to_string(), complete]);
    cells
}

fn planned(planned: &Planned) -> String {
    if planned.reason.is_empty() {
        planned.name.clone()
    } else {
        format!("{}  {}", planned.name, planned.reason)
    }
}

/// One line for each entry, each naming what it is, so that `grep` finds it.
fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    for line in lines {
        text.push_str(&format!("{title}  {}\n", printable(&line)));
    }
}

#[cfg(test)]
mod tests {
    use keystile_model::removals::Removals;
    use keystile_model::report::{ScopeId, Skipped};

    use super::*;

    #[test]
    fn each_thing_that_happened_has_a_line() {
        let scope = |kind: &str, seen, reason: Option<&str>| ScopeReport {
            scope: ScopeId { account: "1".to_owned(), region: "r".to_owned(), kind: kind.to_owned() },
            seen,
            complete: reason.is_none(),
            reason: reason.map(str::to_owned),
            ..ScopeReport::default()
        };
        let report = DiscoveryReport {
            scopes: vec![
                scope("elasticache", 2, None),
                scope("memorydb", 0, None),
                scope("x", 0, Some("throttled")),
            ],
            add: vec![Planned { name: "orders".to_owned(), ..Planned::default() }],
            skip: vec![Skipped {
                name: "plain".to_owned(),
                reason: "tls disabled".to_owned(),
                ..Skipped::default()
            }],
            alarms: vec!["removal stopped\u{1b}[2J".to_owned()],
            dry_run: true,
            asked_by: Some("alice".to_owned()),
            allowed_removals: Removals::All,
            ..DiscoveryReport::default()
        };
        let text = render(&report, false);
        for line in [
            "would add  orders\n",
            "skipped  plain  tls disabled",
            "1 scopes without anything",
            "no: throttled",
            "nothing was written",
            "asked by  alice; removals allowed: all\n",
        ] {
            assert!(text.contains(line), "{line}:\n{text}");
        }
        assert!(text.contains("ALARM  removal stopped") && !text.contains('\u{1b}'), "{text}");
    }
}
