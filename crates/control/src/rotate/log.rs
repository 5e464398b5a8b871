//! What rotation tells the audit log. Never a password, never a version's value.

use std::sync::Arc;

use keystile_model::audit::{AuditEvent, EventKind};
use keystile_model::rotation::row::{LeftAlone, RotationRow, UNSCRUBBED};
use keystile_model::store::Clock;

use crate::audit::AuditLog;

/// The name that rotation writes under.
pub const AUTHOR: &str = "rotate";

/// Takes what happened to a user.
pub(crate) trait Log: Send + Sync {
    /// Its passwords of before are about to end.
    fn takes_over(&self, row: &RotationRow);
    /// It has a new password.
    fn rotated(&self, row: &RotationRow);
    /// It is left alone from now on.
    fn left_alone(&self, row: &RotationRow, why: LeftAlone);
    /// Its secret is deleted, with a recovery window.
    fn withdrawn(&self, row: &RotationRow);
    /// A step failed for the third time.
    fn fails(&self, row: &RotationRow);
    /// It is to be taken over again.
    fn started_over(&self, row: &RotationRow, why: &str);
}

/// Writes audit events.
#[derive(Clone)]
pub(crate) struct Events {
    pub(crate) audit: Arc<dyn AuditLog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) deployment: String,
}

impl Events {
    pub(crate) fn write(&self, kind: EventKind, row: &RotationRow, by: &str, success: bool, message: &str) {
        let uid = uuid::Uuid::new_v4();
        let mut event = AuditEvent::new(kind, success, self.clock.now(), uid, &self.deployment, by);
        event.server_id = AUTHOR.to_owned();
        event.db_user.clone_from(&row.name);
        event.message = message.to_owned();
        if let Some(failure) = row.failure.as_ref().filter(|_| !success) {
            event.error.clone_from(&failure.kind);
        }
        let details = &mut event.details;
        details.insert("arn".to_owned(), row.arn.as_str().into());
        details.insert("generation".to_owned(), row.generation.into());
        if let Some(secret) = &row.secret {
            details.insert("secret".to_owned(), secret.name.as_str().into());
        }
        if let Some(proof) = row.proof.as_ref().filter(|_| kind == EventKind::Rotation && success) {
            details.insert("proof".to_owned(), serde_json::json!(proof));
        }
        self.audit.write(&event);
    }
}

/// Who writes it where nobody asked for it.
const BY_ITSELF: &str = "keystile-rotate";

impl Log for Events {
    fn takes_over(&self, row: &RotationRow) {
        tracing::info!(arn = %row.arn, "takes over the password of {}", row.name);
        let message = match &row.teleport_secret {
            Some(secret) => {
                format!("its passwords end, but for the one in {secret} until the first rotation")
            }
            None => "its passwords end; only the one in its secret is valid from now on".to_owned(),
        };
        self.write(EventKind::RotationTakeover, row, BY_ITSELF, true, &message);
    }

    fn rotated(&self, row: &RotationRow) {
        tracing::info!(arn = %row.arn, "rotated the password of {}", row.name);
        self.write(
            EventKind::Rotation,
            row,
            BY_ITSELF,
            true,
            "its secret's current version is a new password",
        );
    }

    fn left_alone(&self, row: &RotationRow, why: LeftAlone) {
        tracing::warn!(arn = %row.arn, "leaves {} alone: {}", row.name, why.reason());
        self.write(EventKind::RotationLeftAlone, row, BY_ITSELF, true, why.reason());
    }

    fn withdrawn(&self, row: &RotationRow) {
        let message = if row.unscrubbed { UNSCRUBBED } else { "its secret can be restored for a while" };
        tracing::info!(arn = %row.arn, "gave up the password of {}: {message}", row.name);
        self.write(EventKind::RotationWithdrawn, row, BY_ITSELF, !row.unscrubbed, message);
    }

    fn fails(&self, row: &RotationRow) {
        let text = row.failure.as_ref().map_or("", |failure| failure.text.as_str());
        tracing::warn!(arn = %row.arn, "the rotation of {} fails: {text}", row.name);
        self.write(EventKind::Rotation, row, BY_ITSELF, false, text);
    }

    fn started_over(&self, row: &RotationRow, why: &str) {
        tracing::warn!(arn = %row.arn, "begins anew with {}: {why}", row.name);
    }
}
