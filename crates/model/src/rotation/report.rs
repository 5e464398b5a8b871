//! What a tick of rotation did, and what it left undone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::report::Planned;

/// A user that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The db user's name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
}

/// A user whose step failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The db user's name.
    pub name: String,
    /// Its ARN.
    pub arn: String,
    /// A fixed word: `throttled`, `denied`, `key`, `quota`, …
    pub kind: String,
    /// What happened.
    pub text: String,
}

/// One tick.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationReport {
    /// RFC 3339.
    pub started: String,
    /// RFC 3339.
    pub finished: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether every account and region was looked at and nothing alarmed.
    pub complete: bool,
    /// Users by state.
    #[serde(default)]
    pub users: BTreeMap<String, usize>,
    /// Users that would be, or are being, taken over: their passwords of before end.
    #[serde(default)]
    pub take_over: Vec<Planned>,
    /// Users whose turn has begun or is due, and what they wait for.
    #[serde(default)]
    pub queued: Vec<Planned>,
    /// Users that moved by a step.
    #[serde(default)]
    pub moved: Vec<Moved>,
    /// Users that are left alone, with the reason.
    #[serde(default)]
    pub left_alone: Vec<Planned>,
    /// Users whose period is longer than asked, with the reason.
    #[serde(default)]
    pub widened: Vec<Planned>,
    /// Steps that failed.
    #[serde(default)]
    pub failed: Vec<Failed>,
    /// Things that an admin should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Things that somebody must look at now.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Age of the oldest password that we keep, in seconds.
    #[serde(default)]
    pub oldest_password_s: i64,
    /// Users whose password is older than two of their periods.
    #[serde(default)]
    pub overdue: usize,
    /// AWS calls made (a list counts each of its pages as one where the adapter tells, else one).
    #[serde(default)]
    pub calls: u64,
    /// Changes written to the policy table.
    #[serde(default)]
    pub commits: usize,
}
