//! What the policy says of a user that rotates.

use std::collections::BTreeSet;

use keystile_model::database::AssumeRole;
use keystile_model::db_user::DbUser;
use keystile_model::policy::Policy;
use keystile_model::rotation::proof::endpoints;
use keystile_model::rotation::row::RotationRow;

use super::settings::Settings;
use crate::discover::users::service_of;
use crate::matchers::ReadyMatcher;

/// What the policy says of a user.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// Whether it is tagged.
    pub(crate) managed: bool,
    /// The role to go through; none for our own account.
    pub(crate) role: Option<AssumeRole>,
    /// Whether we can reach its account at all.
    pub(crate) reachable: bool,
    /// The period that was asked for, in seconds.
    pub(crate) asked_s: u64,
    /// Nodes that it must be able to log in to.
    pub(crate) nodes: BTreeSet<String>,
}

/// Looks the policy up.
pub(crate) fn about(
    policy: &Policy,
    row: &RotationRow,
    user: Option<&DbUser>,
    matchers: &[ReadyMatcher],
    settings: &Settings,
) -> About {
    let (account, region) = (row.arn.account(), row.arn.region());
    let covering: Vec<&ReadyMatcher> = matchers
        .iter()
        .filter(|matcher| {
            let of_service = |kind: &&_| service_of(**kind) == Some(row.service);
            matcher.spec.types.iter().filter(of_service).any(|kind| matcher.covers(account, region, *kind))
        })
        .collect();
    let asked =
        covering.iter().filter_map(|matcher| matcher.spec.rotate_every).map(|span| span.seconds).min();
    let role = covering.iter().find_map(|matcher| matcher.role());
    About {
        managed: user.is_some(),
        reachable: role.is_some() || account == settings.home_account,
        role,
        asked_s: asked.unwrap_or(settings.period_s),
        nodes: user.map(|user| nodes(policy, user)).unwrap_or_default(),
    }
}

/// The nodes of every database that a user serves, as proxies name them.
fn nodes(policy: &Policy, user: &DbUser) -> BTreeSet<String> {
    let serving = policy.discovered_databases().filter(|database| user.serves(database));
    serving.flat_map(|database| endpoints(database)).map(ToString::to_string).collect()
}
