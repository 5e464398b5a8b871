//! What people ask of rotation: its status, a turn now, a pause, break-glass. Each is a change of rows, which
//! the next tick acts on.

use keystile_model::audit::{EventKind, timestamp};
use keystile_model::db_user::DbUserAuth;
use keystile_model::policy::Policy;
use keystile_model::rotation::row::{ROWS, RotationRow, RotationState, RotationStatus, row_key};
use keystile_model::store::{CommitError, RuntimeStore, StoreError};
use time::OffsetDateTime;

use super::wanted::is_leaving;
use super::{Rotate, Stored};

/// How often a row is read again because a tick wrote it.
const TRIES: usize = 8;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Its turn is due now; a user that is left alone because somebody else changed it is taken over again, and
    /// one that was given up with its password still on it is scrubbed.
    Force,
    /// No new turn is begun; what is under way is finished.
    Pause,
    /// Turns are begun again.
    Resume,
    /// Break-glass: both passwords are replaced at once.
    Lock,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// No managed user of this name.
    #[error("there is no managed db user {0:?}")]
    Unknown(String),
    /// A user that is not managed.
    #[error(
        "db user {0:?} is not managed: where its owner tags it keystile.dev/managed=true, its password of now ends \
         and Keystile takes it over"
    )]
    NotManaged(String),
    /// A user that has no password.
    #[error("db user {0:?} signs in by IAM: it has no password to rotate")]
    Iam(String),
    /// Break-glass is for one user.
    #[error("{0:?} is the name of several managed users: give the ARN, one of {1}")]
    Ambiguous(String, String),
    /// Break-glass without a user.
    #[error("name the db user whose password leaked: --db-user NAME")]
    NeedsUser,
    /// The state could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl OperationError {
    /// Why nobody managed goes by this name, id or ARN.
    #[must_use]
    pub fn nobody(policy: &Policy, name: &str) -> Self {
        let mut meant = policy
            .db_users()
            .filter(|user| user.name.as_str() == name || user.id == name || user.arn.as_str() == name)
            .peekable();
        let name = name.to_owned();
        if meant.peek().is_none() {
            Self::Unknown(name)
        } else if meant.all(|user| user.auth == DbUserAuth::Iam) {
            Self::Iam(name)
        } else {
            Self::NotManaged(name)
        }
    }
}

/// The rotation of every user that was found, by name. `now` is not read: times are as they are stored.
///
/// # Errors
/// [`StoreError`].
pub async fn status(runtime: &dyn RuntimeStore, policy: &Policy) -> Result<Vec<RotationStatus>, StoreError> {
    let mut all: Vec<RotationStatus> =
        rows(runtime).await?.iter().map(|stored| line(policy, &stored.row)).collect();
    all.sort_by(|a, b| (&a.name, &a.arn).cmp(&(&b.name, &b.arn)));
    Ok(all)
}

async fn rows(runtime: &dyn RuntimeStore) -> Result<Vec<Stored>, StoreError> {
    let items = runtime.list(ROWS).await?;
    Ok(items
        .into_iter()
        .filter_map(|item| {
            let row = serde_json::from_value(item.body).ok()?;
            Some(Stored { row, version: item.version })
        })
        .collect())
}

fn line(policy: &Policy, row: &RotationRow) -> RotationStatus {
    let user = policy.db_users().find(|user| user.arn == row.arn);
    let databases = policy
        .discovered_databases()
        .filter(|database| user.is_some_and(|user| user.serves(database)))
        .map(|database| database.name.to_string())
        .collect();
    let at = |seconds: i64| OffsetDateTime::from_unix_timestamp(seconds).ok().map(timestamp);
    let rests = matches!(row.state, RotationState::Ready) && row.taken && !row.paused;
    let failure = || row.failure.as_ref().map(|failure| failure.text.clone()).unwrap_or_default();
    let reason = row.reason();
    RotationStatus {
        name: row.name.clone(),
        arn: row.arn.clone(),
        state: row.state.as_str().to_owned(),
        phase: row.phase(),
        rotated_at: row.rotated_at.and_then(at),
        proof: row.proof.clone(),
        due_at: at(row.due_at).filter(|_| rests),
        period_s: row.period_s,
        widened: row.widened.clone(),
        paused: row.paused,
        generation: row.generation,
        secret: row.secret.as_ref().map(|secret| secret.name.clone()).unwrap_or_default(),
        databases,
        reason: if reason.is_empty() { failure() } else { reason },
    }
}

impl Rotate {
    /// Does what a person asks, for one managed user (by name, id or ARN; every one of that name, but for
    /// [`Operation::Lock`]) or for all, and answers how they stand. `by` is who asks, for the audit. A user that
    /// no tick has seen yet is unknown.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn operate(
        &self,
        policy: &Policy,
        operation: Operation,
        db_user: Option<&str>,
        by: &str,
    ) -> Result<Vec<RotationStatus>, OperationError> {
        let chosen = self.chosen(policy, operation, db_user).await?;
        let mut after = Vec::new();
        for stored in chosen {
            after.push(self.change(operation, stored, by).await?);
        }
        Ok(after.iter().map(|row| line(policy, row)).collect())
    }

    async fn chosen(
        &self,
        policy: &Policy,
        operation: Operation,
        db_user: Option<&str>,
    ) -> Result<Vec<Stored>, OperationError> {
        let mut rows = rows(&*self.ports.runtime).await?;
        let Some(asked) = db_user else {
            if operation == Operation::Lock {
                return Err(OperationError::NeedsUser);
            }
            rows.retain(|stored| !is_leaving(&stored.row));
            return Ok(rows);
        };
        rows.retain(|Stored { row, .. }| {
            let open = !is_leaving(row) || (operation == Operation::Force && row.unscrubbed);
            open && (row.name == asked || row.id == asked || row.arn.as_str() == asked)
        });
        match rows.len() {
            0 => Err(OperationError::nobody(policy, asked)),
            // A force also scrubs who was given up, which nobody wants of a namesake.
            n if n > 1
                && (operation == Operation::Lock || rows.iter().any(|stored| is_leaving(&stored.row))) =>
            {
                let arns: Vec<&str> = rows.iter().map(|stored| stored.row.arn.as_str()).collect();
                Err(OperationError::Ambiguous(asked.to_owned(), arns.join(", ")))
            }
            _ => Ok(rows),
        }
    }

    async fn change(
        &self,
        operation: Operation,
        mut stored: Stored,
        by: &str,
    ) -> Result<RotationRow, OperationError> {
        let key = row_key(&stored.row.arn);
        for _ in 0..TRIES {
            let now = self.ports.clock.now().unix_timestamp();
            let mut row = stored.row.clone();
            asked(&mut row, operation, now);
            if row == stored.row {
                return Ok(row);
            }
            let body = serde_json::to_value(&row).unwrap_or_default();
            match self.ports.runtime.write(&key, Some(stored.version), None, body).await {
                Ok(_) => {
                    if operation == Operation::Lock {
                        let text = "both passwords are being replaced: sessions end, logins wait";
                        self.events().write(EventKind::RotationLocked, &row, by, true, text);
                    }
                    return Ok(row);
                }
                Err(CommitError::Conflict) => {
                    let Some(item) = self.ports.runtime.read(&key).await? else {
                        return Err(OperationError::Unknown(row.name));
                    };
                    let read = serde_json::from_value(item.body).map_err(|error| StoreError::Unreadable {
                        key: format!("{ROWS}/{}", row.arn),
                        reason: error.to_string(),
                    })?;
                    stored = Stored { row: read, version: item.version };
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(error) => return Err(StoreError::Refused(error.to_string()).into()),
            }
        }
        Err(StoreError::Unavailable("the row keeps changing: try again".to_owned()).into())
    }
}

/// How an operation changes a row. Pure.
pub(crate) fn asked(row: &mut RotationRow, operation: Operation, now: i64) {
    match operation {
        Operation::Force if is_leaving(row) && !row.unscrubbed => {}
        Operation::Force if is_leaving(row) => {
            row.unscrubbed = false;
            row.failure = None;
            row.not_before = 0;
            row.state = RotationState::Scrubbing { sent: false };
        }
        Operation::Force => {
            row.force = true;
            row.not_before = 0;
        }
        Operation::Pause => row.paused = true,
        Operation::Resume => row.paused = false,
        Operation::Lock => {
            row.lock = true;
            row.lock_version = None;
            row.force = true;
            row.not_before = 0;
            row.moved_at = now;
            // A pending password may have leaked as well: another one. One that is being promoted is finished
            // first, since it may be current already.
            let under_way = matches!(
                row.state,
                RotationState::Setting { .. }
                    | RotationState::Settling { .. }
                    | RotationState::Proving { .. }
            );
            row.attempt += 1;
            if under_way {
                row.state = RotationState::Ready;
            }
        }
    }
}
