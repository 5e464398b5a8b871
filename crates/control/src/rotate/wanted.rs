//! Whether discovery still wants a user managed. A tag that goes away counts after two complete listings, and
//! never for many users of a place at once. Pure.

use keystile_model::report::DiscoveryReport;
use keystile_model::rotation::row::{RotationRow, RotationState};

use super::machine::Wanted;
use crate::discover::users::user_scope;

/// Withdrawals that are always allowed in one account, region and service; above, a fifth is the limit.
const ALWAYS: usize = 3;

/// What discovery's last report says of a listing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listings<'a>(pub(crate) Option<&'a DiscoveryReport>);

impl Listings<'_> {
    /// The run (its `started`) that listed the row's users whole, if the last one did.
    fn whole(&self, row: &RotationRow) -> Option<&str> {
        let report = self.0?;
        let scope = user_scope(row.arn.account(), row.arn.region(), row.service);
        let listed = report.users.scopes.iter().any(|found| found.scope == scope && found.complete);
        listed.then_some(report.started.as_str())
    }
}

/// Judges a row; notes in it the first complete listing without the tag.
pub(crate) fn judge(row: &mut RotationRow, managed: bool, listings: Listings<'_>) -> Wanted {
    if managed {
        row.unwanted_since = None;
        return Wanted::Yes;
    }
    if is_leaving(row) {
        return Wanted::No;
    }
    match (listings.whole(row), &row.unwanted_since) {
        (Some(run), None) => {
            row.unwanted_since = Some(run.to_owned());
            Wanted::Unsure
        }
        (Some(run), Some(first)) if run > first.as_str() => Wanted::No,
        _ => Wanted::Unsure,
    }
}

/// Whether a row is on its way out already: the brake does not count it again.
pub(crate) fn is_leaving(row: &RotationRow) -> bool {
    matches!(
        row.state,
        RotationState::Scrubbing { .. } | RotationState::Deleting | RotationState::Withdrawn { .. }
    )
}

/// Whether so many withdrawals out of all managed users of a place look like a mistake.
pub(crate) fn too_many(leaving: usize, all: usize) -> bool {
    leaving > ALWAYS && leaving * 5 > all
}

#[cfg(test)]
mod tests {
    use keystile_model::arn::Arn;
    use keystile_model::db_user::DbUserService;
    use keystile_model::report::{ScopeReport, UsersReport};

    use super::*;

    fn report(started: &str, complete: bool) -> DiscoveryReport {
        let scope = user_scope("123456789012", "eu-west-1", DbUserService::Elasticache);
        let scopes = vec![ScopeReport { scope, complete, ..ScopeReport::default() }];
        let users = UsersReport { scopes, ..UsersReport::default() };
        DiscoveryReport { started: started.to_owned(), users, ..DiscoveryReport::default() }
    }

    #[test]
    fn a_tag_is_gone_after_two_complete_listings() {
        let arn = Arn::parse("arn:aws:elasticache:eu-west-1:123456789012:user:app").unwrap();
        let mut row = RotationRow::found(arn, DbUserService::Elasticache, "app".into(), "app".into(), 0);
        let mut look = |managed, started: &str, complete| {
            judge(&mut row, managed, Listings(Some(&report(started, complete))))
        };
        assert_eq!(look(true, "2026-01-01T00:00:00.000Z", true), Wanted::Yes);
        assert_eq!(look(false, "2026-01-01T00:05:00.000Z", false), Wanted::Unsure);
        assert_eq!(look(false, "2026-01-01T00:10:00.000Z", true), Wanted::Unsure);
        assert_eq!(look(false, "2026-01-01T00:10:00.000Z", true), Wanted::Unsure);
        assert_eq!(look(false, "2026-01-01T00:15:00.000Z", false), Wanted::Unsure);
        // The tag was back for one listing: counted from the beginning.
        assert_eq!(look(true, "2026-01-01T00:20:00.000Z", true), Wanted::Yes);
        assert_eq!(look(false, "2026-01-01T00:25:00.000Z", true), Wanted::Unsure);
        assert_eq!(look(false, "2026-01-01T00:30:00.000Z", true), Wanted::No);
        assert_eq!(judge(&mut row, false, Listings(None)), Wanted::Unsure);
    }

    #[test]
    fn the_brake() {
        assert!(!too_many(3, 3));
        assert!(too_many(4, 19));
        assert!(!too_many(4, 20));
    }
}
