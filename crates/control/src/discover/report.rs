//! The report of a run, from what was seen and what was done.

use std::collections::BTreeMap;

use keystile_model::report::{DiscoveryReport, Planned, ScopeId, ScopeReport, Totals, UsersReport};

use super::plan::{Note, Plan, Verb};
use super::seen::Seen;
use crate::matchers::ReadyMatcher;

/// Puts the report together; its times, calls and commits are the caller's to fill in.
pub(crate) fn report(seen: &Seen, plan: &Plan, notes: &[Note], matchers: &[ReadyMatcher]) -> DiscoveryReport {
    let mut report = DiscoveryReport {
        scopes: database_scopes(seen, plan),
        users: UsersReport { scopes: user_scopes(seen), ..UsersReport::default() },
        skip: plan.skipped.clone(),
        name_conflicts: plan.conflicts.clone(),
        warnings: plan.warnings.clone(),
        alarms: plan.alarms.clone(),
        ..DiscoveryReport::default()
    };
    for (account, why) in &seen.uncertain {
        report.warnings.push(format!("{account}: not all of it could be looked at: {why}"));
        for matcher in matchers.iter().filter(|m| m.account == *account && m.spec.regions.contains("*")) {
            report.scopes.extend(matcher.spec.types.iter().map(|kind| {
                let kind = kind.as_str().to_owned();
                empty_scope(ScopeId { account: account.clone(), region: "*".to_owned(), kind }, why)
            }));
        }
    }
    count(&mut report, notes);
    list(&mut report, notes);
    let users = &report.users;
    report.complete =
        report.alarms.is_empty() && report.scopes.iter().chain(&users.scopes).all(|scope| scope.complete);
    report.totals = Totals {
        seen: report.scopes.iter().map(|scope| scope.seen).sum(),
        added: report.add.len(),
        changed: report.change.len(),
        removed: report.remove.len(),
        skipped: report.skip.len(),
        databases: plan.databases,
        db_users: plan.db_users,
        calls: 0,
        commits: 0,
    };
    report
}

fn database_scopes(seen: &Seen, plan: &Plan) -> Vec<ScopeReport> {
    let scopes = seen.scopes.iter().map(|scope| ScopeReport {
        scope: scope.id.clone(),
        seen: scope.caches.len() + scope.plain.len(),
        added: 0,
        changed: 0,
        removed: 0,
        skipped: plan
            .skipped
            .iter()
            .filter(|s| {
                s.account == scope.id.account && s.region == scope.id.region && s.kind == scope.id.kind
            })
            .cloned()
            .collect(),
        complete: scope.failure.is_none(),
        reason: scope.failure.clone(),
        calls: scope.calls,
        duration_ms: scope.duration_ms,
    });
    scopes.collect()
}

fn user_scopes(seen: &Seen) -> Vec<ScopeReport> {
    let scopes = seen.users.iter().map(|scope| ScopeReport {
        scope: scope.id.clone(),
        seen: scope.users.len(),
        added: 0,
        changed: 0,
        removed: 0,
        skipped: Vec::new(),
        complete: scope.failure.is_none(),
        reason: scope.failure.clone(),
        calls: scope.calls,
        duration_ms: scope.duration_ms,
    });
    scopes.collect()
}

fn empty_scope(scope: ScopeId, why: &str) -> ScopeReport {
    ScopeReport {
        scope,
        seen: 0,
        added: 0,
        changed: 0,
        removed: 0,
        skipped: Vec::new(),
        complete: false,
        reason: Some(why.to_owned()),
        calls: 0,
        duration_ms: 0,
    }
}

fn count(report: &mut DiscoveryReport, notes: &[Note]) {
    let mut counts: BTreeMap<(&ScopeId, Verb), usize> = BTreeMap::new();
    for note in notes {
        *counts.entry((&note.scope, note.verb)).or_default() += 1;
    }
    for scope in report.scopes.iter_mut().chain(&mut report.users.scopes) {
        let of = |verb| counts.get(&(&scope.scope, verb)).copied().unwrap_or_default();
        (scope.added, scope.changed, scope.removed) = (of(Verb::Add), of(Verb::Change), of(Verb::Remove));
    }
}

fn list(report: &mut DiscoveryReport, notes: &[Note]) {
    for note in notes {
        let users = &mut report.users;
        let list: &mut Vec<Planned> = match (note.db_user, note.verb) {
            (false, Verb::Add) => &mut report.add,
            (false, Verb::Change) => &mut report.change,
            (false, Verb::Remove) => &mut report.remove,
            (true, Verb::Add) => &mut users.add,
            (true, Verb::Change) => &mut users.change,
            (true, Verb::Remove) => &mut users.remove,
        };
        list.push(note.planned.clone());
    }
    let users = &mut report.users;
    for list in [
        &mut report.add,
        &mut report.change,
        &mut report.remove,
        &mut users.add,
        &mut users.change,
        &mut users.remove,
    ] {
        list.sort();
    }
}
