//! What a running session may ask for when it signs in again, or lets its client try.

use std::net::IpAddr;
use std::sync::Arc;

use keystile_model::database::Database;
use secrecy::SecretString;

use super::farewell::note_limit;
use crate::admission::Plan;
use crate::app::Shared;
use crate::clock::unix_ms;
use crate::session::{SignIn, Tries};

/// Signs a session in again, as it was signed in.
pub(super) struct Again {
    pub(super) shared: Arc<Shared>,
    pub(super) database: Arc<Database>,
    pub(super) db_user: String,
    pub(super) plan: Plan,
}

impl SignIn for Again {
    fn password(
        &self,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Option<SecretString>, String>> + Send>> {
        let (shared, database, db_user, plan) =
            (Arc::clone(&self.shared), Arc::clone(&self.database), self.db_user.clone(), self.plan.clone());
        Box::pin(async move { shared.dialer.password(&database, &db_user, &plan).await })
    }
}

/// The passwords that a client tries at a cache that judges them itself: they count as failed sign-ins of its
/// address, and those beyond the limit do not reach the cache.
pub(super) struct OwnPasswords {
    pub(super) shared: Arc<Shared>,
    pub(super) source: IpAddr,
}

impl Tries for OwnPasswords {
    fn may_try(&self) -> Result<(), String> {
        let now = unix_ms(self.shared.clock.now());
        self.shared.failed_sign_ins.may_fail(self.source, now).map_err(|wait_s| {
            note_limit(&self.shared, "failed_sign_ins", &self.source.to_string());
            format!(
                "too many failed sign-ins from {} (more than {} a minute): wait {wait_s} s",
                self.source, self.shared.config.failed_sign_ins_per_minute
            )
        })
    }

    fn wrong(&self) {
        self.shared.failed_sign_ins.failed(self.source, unix_ms(self.shared.clock.now()));
    }
}
