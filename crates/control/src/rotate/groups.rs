//! Whose turn it is to be changed: AWS takes one change a user group at a time, and refuses others while a
//! group is being modified. Pure.

use std::collections::{BTreeMap, BTreeSet};

use keystile_model::db_user::DbUserService;
use keystile_model::rotation::row::{RotationRow, RotationState};

/// A change that began so close to a look that it may end just after: it is asked, not waited for.
const NEARLY_S: i64 = 2;

/// One listed user.
#[derive(Debug, Clone)]
pub(crate) struct Member<'a> {
    pub(crate) arn: &'a str,
    pub(crate) service: DbUserService,
    pub(crate) groups: &'a BTreeSet<String>,
    pub(crate) active: bool,
    /// Its row, if it is ours.
    pub(crate) row: Option<&'a RotationRow>,
}

/// What a user may do in this tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grant {
    /// It may be changed.
    pub(crate) free: bool,
    /// Its group is listed as busy, but should be done by now.
    pub(crate) probe: bool,
    /// When AWS last took a change of another user of its groups from us, if that is under way: why it may be
    /// listed as being modified, and a proof that its own change of before is through.
    pub(crate) explained: Option<i64>,
}

/// Deals out turns: break-glass first, then whoever is due longest. `update_s` is how long a change takes at
/// least. A user that is in no group waits for nobody.
pub(crate) fn grants(members: &[Member<'_>], update_s: u32, now: i64) -> BTreeMap<String, Grant> {
    let mut busy = settling(members, update_s, now);
    for member in members.iter().filter(|member| !member.active) {
        let itself = member.row.map(|row| &row.state);
        let in_flight = matches!(itself, Some(RotationState::Setting { sent: true, .. }));
        if matches!(itself, Some(RotationState::Settling { .. })) {
            continue;
        }
        for group in member.groups {
            // A change of ours in the group may show on all of its users: it says when that ends.
            let entry = busy.entry((member.service, group.as_str())).or_insert(Busy::Yes);
            if in_flight {
                *entry = Busy::Yes;
            }
        }
    }
    let explained = explained(members);
    let mut wanting: Vec<(&Member<'_>, &RotationRow)> =
        members.iter().filter_map(|m| m.row.filter(|row| wants(row, now)).map(|row| (m, row))).collect();
    wanting.sort_by_key(|(member, row)| (!row.lock, row.due_at, member.arn));
    let mut grants: BTreeMap<String, Grant> = members
        .iter()
        .filter(|member| member.row.is_some())
        .map(|member| {
            let others = member.groups.iter().flat_map(|group| {
                explained.iter().filter(move |(of, ..)| *of == (member.service, group.as_str()))
            });
            let explained = others.filter(|(_, by, _)| *by != member.arn).map(|(.., sent_at)| *sent_at).max();
            (member.arn.to_owned(), Grant { explained, ..Grant::default() })
        })
        .collect();
    for (member, _) in wanting {
        let state = |group: &String| busy.get(&(member.service, group.as_str())).copied().unwrap_or(Busy::No);
        let worst = member.groups.iter().map(state).max().unwrap_or(Busy::No);
        let itself = matches!(worst, Busy::No) && !member.active;
        if worst == Busy::Yes || itself {
            continue;
        }
        if let Some(grant) = grants.get_mut(member.arn) {
            grant.free = true;
            grant.probe = worst == Busy::Nearly;
        }
        for group in member.groups {
            busy.insert((member.service, group.as_str()), Busy::Yes);
        }
    }
    grants
}

/// Whether a group is being modified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Busy {
    No,
    /// By a change of ours that should be over by now.
    Nearly,
    Yes,
}

/// Groups in which a change of ours is being applied, and whether that should be over.
fn settling<'a>(members: &[Member<'a>], update_s: u32, now: i64) -> BTreeMap<(DbUserService, &'a str), Busy> {
    let mut busy = BTreeMap::new();
    for member in members.iter().filter(|member| !member.active) {
        let Some(RotationState::Settling { sent_at, .. }) = member.row.map(|row| &row.state) else {
            continue;
        };
        let over = now - sent_at >= i64::from(update_s) - NEARLY_S && now >= *sent_at;
        let state = if over { Busy::Nearly } else { Busy::Yes };
        for group in member.groups {
            let entry = busy.entry((member.service, group.as_str())).or_insert(state);
            *entry = (*entry).max(state);
        }
    }
    busy
}

/// Groups in which a change of ours was taken and is being applied, whose it is, and since when. A call whose
/// answer got lost explains nothing: AWS may have refused it because the group was busy.
fn explained<'a>(members: &[Member<'a>]) -> Vec<((DbUserService, &'a str), &'a str, i64)> {
    let mut by = Vec::new();
    for member in members {
        if let Some(RotationState::Settling { sent_at, .. }) = member.row.map(|row| &row.state) {
            by.extend(
                member.groups.iter().map(|group| ((member.service, group.as_str()), member.arn, *sent_at)),
            );
        }
    }
    by
}

fn wants(row: &RotationRow, now: i64) -> bool {
    row.not_before <= now
        && matches!(row.state, RotationState::Setting { .. } | RotationState::Scrubbing { .. })
}

#[cfg(test)]
mod tests {
    use keystile_model::arn::Arn;
    use keystile_model::rotation::VersionId;

    use super::*;

    fn row(name: &str, state: RotationState, due_at: i64) -> RotationRow {
        let arn = Arn::parse(format!("arn:aws:elasticache:eu-west-1:123456789012:user:{name}")).unwrap();
        let mut row = RotationRow::found(arn, DbUserService::Elasticache, name.into(), name.into(), 0);
        (row.state, row.due_at) = (state, due_at);
        row
    }

    fn setting() -> RotationState {
        RotationState::Setting { version: VersionId::new("v"), sent: false }
    }

    fn settling(sent_at: i64) -> RotationState {
        RotationState::Settling { version: VersionId::new("v"), sent_at }
    }

    fn groups(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn granted(of: &[(RotationRow, BTreeSet<String>, bool)], now: i64) -> Vec<Grant> {
        let members: Vec<Member<'_>> = of
            .iter()
            .map(|(row, groups, active)| Member {
                arn: row.arn.as_str(),
                service: row.service,
                groups,
                active: *active,
                row: Some(row),
            })
            .collect();
        let grants = grants(&members, 240, now);
        of.iter().map(|(row, ..)| grants[row.arn.as_str()]).collect()
    }

    #[test]
    fn one_change_a_group_and_the_longest_due_first() {
        let of = [
            (row("late", setting(), 20), groups(&["g"]), true),
            (row("first", setting(), 10), groups(&["g"]), true),
            (row("both", setting(), 5), groups(&["h", "i"]), true),
            (row("other", setting(), 6), groups(&["i", "j"]), true),
            (row("alone", setting(), 99), groups(&[]), true),
        ];
        let free: Vec<bool> = granted(&of, 100).iter().map(|grant| grant.free).collect();
        assert_eq!(free, [false, true, true, false, true]);
    }

    #[test]
    fn break_glass_goes_first() {
        let mut locked = row("locked", setting(), 99);
        locked.lock = true;
        let of = [(row("due", setting(), 1), groups(&["g"]), true), (locked, groups(&["g"]), true)];
        let free: Vec<bool> = granted(&of, 100).iter().map(|grant| grant.free).collect();
        assert_eq!(free, [false, true]);
    }

    #[test]
    fn a_busy_group_is_asked_when_it_should_be_done() {
        let of = |sent_at| {
            [
                (row("changing", settling(sent_at), 1), groups(&["g"]), false),
                (row("next", setting(), 2), groups(&["g"]), true),
            ]
        };
        let next = |sent_at| granted(&of(sent_at), 1_000)[1];
        assert_eq!((next(800).free, next(800).explained), (false, Some(800)));
        assert_eq!((next(761).free, next(761).probe), (true, true));
        // Somebody else's change tells nothing of its end.
        let foreign = [
            (row("foreign", RotationState::Ready, 1), groups(&["g"]), false),
            (row("next", setting(), 2), groups(&["g"]), true),
        ];
        assert!(!granted(&foreign, 1_000)[1].free);
    }
}
