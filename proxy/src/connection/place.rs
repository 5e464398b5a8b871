//! A place among the live sessions, if there is one.

use std::sync::Arc;

use keystile_identity::client::ClientIdentity;

use crate::admission::Admission;
use crate::app::Shared;
use crate::audit::Facts;
use crate::refusal::Refusal;
use crate::session::handle::Handle;
use crate::sessions::{Live, Most, NoPlace};

/// Takes a place among the live sessions before the dial, so that limits hold and cuts reach it.
pub(super) fn reserve(
    shared: &Shared,
    facts: &Facts,
    admission: &Admission,
    identity: &Arc<ClientIdentity>,
    handle: &Arc<Handle>,
) -> Result<(), Refusal> {
    let live = Live {
        handle: Arc::clone(handle),
        identity: Arc::clone(identity),
        database: Arc::clone(&admission.database),
        db_user: admission.db_user.clone(),
        plan: admission.plan.clone(),
        grant: Arc::new(admission.grant.clone()),
        gate: Arc::clone(&admission.gate),
    };
    let most = Most {
        per_user: shared.config.max_connections_per_user,
        per_database: shared.config.max_connections_per_database,
    };
    shared.sessions.add(facts.sid(), live, most).map_err(|no_place| {
        let user = &identity.user;
        let (limit, text) = match no_place {
            NoPlace::Roles(has) => (
                "user",
                format!(
                    "{user} has {has} connections on this proxy, the most that its roles allow \
                     (max_connections): close one"
                ),
            ),
            NoPlace::User(has) => (
                "user",
                format!(
                    "{user} has {has} connections on this proxy, the most that it takes of one user \
                     (KEYSTILE_MAX_CONNECTIONS_PER_USER): close one"
                ),
            ),
            NoPlace::Database(has) => (
                "database",
                format!(
                    "{} has {has} connections through this proxy, the most that it opens to one database \
                     (KEYSTILE_MAX_CONNECTIONS_PER_DATABASE): close one, or try again in a moment",
                    admission.database.name
                ),
            ),
        };
        Refusal::Limit { limit, text }
    })
}
