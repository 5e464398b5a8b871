//! The metrics of a tick in CloudWatch's embedded format: one JSON object a line of the log, no call.

use keystile_model::rotation::report::RotationReport;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Each with its unit, and how it is read from the report. Every one is there at every tick, 0 included.
type Metric = (&'static str, &'static str, fn(&RotationReport) -> i64);

const METRICS: [Metric; 12] = [
    ("ManagedUsers", "Count", |report| count(report.users.values().sum())),
    ("UsersReady", "Count", |report| state(report, &["ready"])),
    ("UsersTakingOver", "Count", |report| count(report.take_over.len())),
    ("UsersRotating", "Count", |report| {
        state(report, &["putting", "setting", "settling", "proving", "promoting"])
    }),
    ("UsersLeftAlone", "Count", |report| state(report, &["left-alone"])),
    ("UsersOverdue", "Count", |report| count(report.overdue)),
    ("OldestPassword", "Seconds", |report| report.oldest_password_s),
    ("StepsFailed", "Count", |report| count(report.failed.len())),
    ("FailuresThrottled", "Count", |report| failures(report, &["throttled", "busy"])),
    ("FailuresDenied", "Count", |report| failures(report, &["denied", "key"])),
    ("FailuresQuota", "Count", |report| failures(report, &["quota"])),
    ("Alarms", "Count", |report| count(report.alarms.len())),
];

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn state(report: &RotationReport, words: &[&str]) -> i64 {
    count(words.iter().filter_map(|word| report.users.get(*word)).sum())
}

fn failures(report: &RotationReport, kinds: &[&str]) -> i64 {
    count(report.failed.iter().filter(|failed| kinds.contains(&failed.kind.as_str())).count())
}

/// The line of a tick, in the namespace `Keystile/<deployment>`.
pub(crate) fn emf(deployment: &str, report: &RotationReport, now: OffsetDateTime) -> Value {
    let named: Vec<Value> =
        METRICS.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit})).collect();
    let mut line = json!({
        "_aws": {
            "Timestamp": i64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or_default(),
            "CloudWatchMetrics": [{
                "Namespace": format!("Keystile/{deployment}"),
                "Dimensions": [[]],
                "Metrics": named,
            }],
        },
    });
    for (name, _, read) in METRICS {
        line[name] = read(report).into();
    }
    line
}

/// Writes the line to standard output, which is the function's log.
pub(crate) fn print(line: &Value) {
    use std::io::Write as _;
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        tracing::error!(%error, "the metrics of a tick were lost");
    }
}

#[cfg(test)]
mod tests {
    use keystile_model::rotation::report::Failed;

    use super::*;

    #[test]
    fn every_metric_is_there_and_counted() {
        let failed =
            |kind: &str| Failed { name: "a".into(), arn: "b".into(), kind: kind.into(), text: "c".into() };
        let report = RotationReport {
            users: [("ready".to_owned(), 3), ("proving".to_owned(), 1), ("setting".to_owned(), 1)].into(),
            failed: vec![failed("quota"), failed("denied"), failed("key")],
            overdue: 2,
            oldest_password_s: 900,
            ..RotationReport::default()
        };
        let line = emf("prod", &report, OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap());
        for (name, value) in [
            ("ManagedUsers", 5),
            ("UsersReady", 3),
            ("UsersRotating", 2),
            ("UsersOverdue", 2),
            ("OldestPassword", 900),
            ("StepsFailed", 3),
            ("FailuresDenied", 2),
            ("FailuresQuota", 1),
            ("FailuresThrottled", 0),
            ("Alarms", 0),
        ] {
            assert_eq!(line[name], value, "{name}");
        }
        let described = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(described["Namespace"], "Keystile/prod");
        for metric in described["Metrics"].as_array().unwrap() {
            assert!(line[metric["Name"].as_str().unwrap()].is_i64());
        }
    }
}
