//! Reports of the control plane's jobs: one JSON document a run, kept in the runtime table and printed by
//! the command.

use serde::{Deserialize, Serialize};

use crate::database::DatabaseKind;
use crate::db_user::DbUser;
use crate::removals::Removals;

/// Largest report that is stored, in bytes of JSON: an item of the runtime table ends at 350 KB.
pub const MAX_STORED_BYTES: usize = 300 * 1024;

/// The types that a scope may have.
const SCOPE_TYPES: [&str; 5] =
    ["elasticache", "elasticache-serverless", "memorydb", "elasticache-users", "memorydb-users"];

/// Whom a scope asks: one account, region and type.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScopeId {
    /// Twelve digits; empty where it could not be told.
    pub account: String,
    /// The region; `*` when the account's regions could not be listed.
    pub region: String,
    /// `elasticache`, `elasticache-serverless`, `memorydb`, and for db users `elasticache-users`,
    /// `memorydb-users`.
    #[serde(rename = "type")]
    pub kind: String,
}

impl std::fmt::Display for ScopeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.account, self.region, self.kind)
    }
}

impl ScopeId {
    /// As one word: `ACCOUNT/REGION/TYPE`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}/{}/{}", self.account, self.region, self.kind)
    }
}

impl std::str::FromStr for ScopeId {
    type Err = String;

    /// Reads [`ScopeId::path`] of one account, region and type.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        let (account, region, kind) = (parts.next(), parts.next(), parts.next());
        let account = account.filter(|a| a.len() == 12 && a.bytes().all(|b| b.is_ascii_digit()));
        let region = region.filter(|region| {
            let mut bytes = region.bytes();
            !region.is_empty() && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        });
        let kind = kind.filter(|kind| SCOPE_TYPES.contains(kind));
        match (account, region, kind, parts.next()) {
            (Some(account), Some(region), Some(kind), None) => {
                Ok(Self { account: account.to_owned(), region: region.to_owned(), kind: kind.to_owned() })
            }
            _ => Err(format!(
                "{text:?} is no scope: use ACCOUNT/REGION/TYPE as in the report, with a type of {}, or all",
                SCOPE_TYPES.join(", ")
            )),
        }
    }
}

/// A resource that gives no database, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The resource's own id.
    pub name: String,
    /// `tls disabled`, `status creating`, `tags unread`, …
    pub reason: String,
    /// Its ARN, where it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arn: String,
    /// Where it is.
    pub account: String,
    /// Where it is.
    pub region: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
}

/// How one scope went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeReport {
    /// Which.
    #[serde(flatten)]
    pub scope: ScopeId,
    /// Resources that AWS listed.
    pub seen: usize,
    /// Databases (or db users) added.
    pub added: usize,
    /// Changed.
    pub changed: usize,
    /// Removed.
    pub removed: usize,
    /// Resources left out, with the reason.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    /// Whether every list was read to its end; only then may anything of the scope be removed.
    pub complete: bool,
    /// Why not, where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// AWS calls made, retries not counted.
    pub calls: u64,
    /// How long they took together.
    pub duration_ms: u64,
}

/// One database that the plan touches.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Planned {
    /// The database's name; of a db user, its ARN.
    pub name: String,
    /// What is about to happen, in words: `new`, `labels: env`, `gone`, `renamed from x`, …
    pub reason: String,
    /// Where it is from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arn: String,
}

/// A resource that did not get the name it asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameConflict {
    /// The name that it asked for.
    pub name: String,
    /// Who asked.
    pub arn: String,
    /// Who holds it.
    pub holder: String,
    /// What it is called instead.
    pub given: String,
}

/// Sums over all scopes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Resources that AWS listed.
    pub seen: usize,
    /// Databases added.
    pub added: usize,
    /// Databases changed.
    pub changed: usize,
    /// Databases removed.
    pub removed: usize,
    /// Resources left out.
    pub skipped: usize,
    /// Databases after the run.
    pub databases: usize,
    /// Db users after the run.
    pub db_users: usize,
    /// AWS calls made.
    pub calls: u64,
    /// Changes written to the policy table.
    pub commits: usize,
}

/// What happened to db users.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsersReport {
    /// Scopes of db users.
    #[serde(default)]
    pub scopes: Vec<ScopeReport>,
    /// New ones, by ARN.
    #[serde(default)]
    pub add: Vec<Planned>,
    /// Changed ones.
    #[serde(default)]
    pub change: Vec<Planned>,
    /// Gone ones.
    #[serde(default)]
    pub remove: Vec<Planned>,
    /// Managed ones as they would be written, where they are new or changed: only of a dry run that looks at
    /// users alone, for rotation's own dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managed: Vec<DbUser>,
}

/// One run of discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveryReport {
    /// RFC 3339.
    pub started: String,
    /// RFC 3339.
    pub finished: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Who asked for it; none for the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
    /// Scopes whose removals that person let pass the brake.
    #[serde(default, skip_serializing_if = "Removals::is_braked")]
    pub allowed_removals: Removals,
    /// Whether every scope was complete and nothing alarmed.
    pub complete: bool,
    /// Account, region and type, one by one.
    #[serde(default)]
    pub scopes: Vec<ScopeReport>,
    /// New databases.
    #[serde(default)]
    pub add: Vec<Planned>,
    /// Changed databases.
    #[serde(default)]
    pub change: Vec<Planned>,
    /// Removed databases.
    #[serde(default)]
    pub remove: Vec<Planned>,
    /// Resources that give no database.
    #[serde(default)]
    pub skip: Vec<Skipped>,
    /// Names that were asked for and taken.
    #[serde(default, rename = "name-conflict")]
    pub name_conflicts: Vec<NameConflict>,
    /// Db users.
    #[serde(default)]
    pub users: UsersReport,
    /// Things that an admin should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Things that somebody must look at now: the removal brake, a run that could not write.
    #[serde(default)]
    pub alarms: Vec<String>,
    /// Sums.
    pub totals: Totals,
    /// List entries that were cut to fit the stored document.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: usize,
}

impl DiscoveryReport {
    /// The report of a run that looked at db users only, with what an earlier run said of databases, so that
    /// the stored report goes on telling why something is left out.
    #[must_use]
    pub fn with_databases_of(mut self, earlier: Self) -> Self {
        self.complete &= earlier.scopes.iter().all(|scope| scope.complete) && earlier.alarms.is_empty();
        self.totals = Totals {
            databases: earlier.totals.databases,
            db_users: self.totals.db_users,
            calls: self.totals.calls,
            commits: self.totals.commits,
            ..earlier.totals
        };
        self.scopes = earlier.scopes;
        (self.add, self.change, self.remove) = (earlier.add, earlier.change, earlier.remove);
        (self.skip, self.name_conflicts) = (earlier.skip, earlier.name_conflicts);
        self.cut = earlier.cut;
        for (lines, earlier) in [(&mut self.warnings, earlier.warnings), (&mut self.alarms, earlier.alarms)] {
            let news: Vec<String> = earlier.into_iter().filter(|line| !lines.contains(line)).collect();
            lines.extend(news);
        }
        self
    }

    /// The report cut to what can be stored: the longest lists lose their ends first. The sums stay whole.
    #[must_use]
    pub fn fit(mut self, max_bytes: usize) -> Self {
        let mut limit = 2_000;
        while json_len(&self) > max_bytes && limit > 0 {
            limit /= 2;
            let mut cut = 0;
            let users = &mut self.users;
            for list in [
                &mut self.add,
                &mut self.change,
                &mut self.remove,
                &mut users.add,
                &mut users.change,
                &mut users.remove,
            ] {
                cut += truncate(list, limit);
            }
            cut += truncate(&mut self.skip, limit);
            cut += truncate(&mut self.name_conflicts, limit);
            cut += truncate(&mut self.warnings, limit);
            for scope in self.scopes.iter_mut().chain(&mut users.scopes) {
                cut += truncate(&mut scope.skipped, limit / 4);
            }
            self.cut += cut;
        }
        self
    }
}

/// One database's labels that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelChange {
    /// The database.
    pub database: String,
    /// Key, before (none: it was not there), after (none: it is gone).
    pub labels: Vec<(String, Option<String>, Option<String>)>,
    /// Roles that reach it now and did not before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles_gained: Vec<String>,
}

/// One run of label sync.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// RFC 3339.
    pub started: String,
    /// RFC 3339.
    pub finished: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Whether every tag was read.
    pub complete: bool,
    /// Databases looked at.
    pub databases: usize,
    /// What changed.
    #[serde(default)]
    pub changed: Vec<LabelChange>,
    /// Resources whose tags could not be read; their databases keep their last labels.
    #[serde(default)]
    pub unread: Vec<Skipped>,
    /// Things that an admin should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// AWS calls made.
    pub calls: u64,
    /// Changes written to the policy table.
    pub commits: usize,
    /// List entries that were cut to fit the stored document.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: usize,
}

impl SyncReport {
    /// The report cut to what can be stored.
    #[must_use]
    pub fn fit(mut self, max_bytes: usize) -> Self {
        let mut limit = 2_000;
        while json_len(&self) > max_bytes && limit > 0 {
            limit /= 2;
            self.cut += truncate(&mut self.changed, limit)
                + truncate(&mut self.unread, limit)
                + truncate(&mut self.warnings, limit);
        }
        self
    }
}

/// The word for a scope of databases.
#[must_use]
pub fn database_scope(account: &str, region: &str, kind: DatabaseKind) -> ScopeId {
    ScopeId { account: account.to_owned(), region: region.to_owned(), kind: kind.as_str().to_owned() }
}

fn truncate<T>(list: &mut Vec<T>, limit: usize) -> usize {
    let cut = list.len().saturating_sub(limit);
    list.truncate(limit);
    cut
}

fn json_len(report: &impl Serialize) -> usize {
    serde_json::to_vec(report).map_or(usize::MAX, |bytes| bytes.len())
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_huge_report_is_cut_and_says_so() {
        let planned =
            |i: usize| Planned { name: format!("db-{i}"), reason: "new".into(), arn: "x".repeat(80) };
        let report = DiscoveryReport {
            add: (0..10_000).map(planned).collect(),
            totals: Totals { added: 10_000, ..Totals::default() },
            ..DiscoveryReport::default()
        };
        let fitted = report.fit(MAX_STORED_BYTES);
        assert!(json_len(&fitted) <= MAX_STORED_BYTES);
        assert_eq!(fitted.add.len() + fitted.cut, 10_000);
        assert_eq!(fitted.totals.added, 10_000);
        let json = serde_json::to_value(&fitted).unwrap();
        assert_eq!(serde_json::from_value::<DiscoveryReport>(json).unwrap(), fitted);
    }
}
