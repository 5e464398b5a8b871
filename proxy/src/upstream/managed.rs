//! Signing in with a managed password: the current one as it was read within the last minute, then as it is
//! read now, then the one that is on its way; each at most once, and never as another user.
//!
//! Why there can be several: while a password rotates the cache takes two of them, node by node, and what was
//! read a moment ago may be the one before.

use std::time::Instant;

use keystile_model::arn::Arn;
use keystile_model::database::Database;
use keystile_model::rotation::secret::SecretValue;
use keystile_model::rotation::{Rotation, VersionId};
use secrecy::SecretString;

use super::Dialer;
use super::sign_in::is_wrong_password;
use crate::clock::unix_ms;
use crate::credentials::Stage;
use crate::refusal::Refusal;
use crate::session::leg::Leg;

/// A password and the version that it is of.
pub struct Password {
    /// The version.
    pub version: VersionId,
    /// What AUTH is given.
    pub value: SecretString,
}

impl Dialer {
    pub(super) async fn by_managed_password(
        &self,
        database: &Database,
        db_user: &str,
        arn: &Arn,
        static_networks: &[String],
    ) -> Result<Leg, Refusal> {
        let known = self.managed_password(database, db_user, arn, Stage::Current, None).await?;
        let mut leg = self.begin(database, static_networks).await?;
        let refused_at = Instant::now();
        let mut answer = self.try_on(&mut leg, Some(db_user), &known.value).await;
        let mut tried = vec![known.version];
        for (stage, word) in [(Stage::Current, "fresh"), (Stage::Pending, "pending")] {
            if !answer.as_ref().is_err_and(|text| is_wrong_password(text)) {
                break;
            }
            let next = self.managed_password(database, db_user, arn, stage, Some(refused_at)).await;
            let Ok(next) = next else { continue };
            if tried.contains(&next.version) {
                continue;
            }
            self.metrics.passwords_retried.add(word);
            // A server may close after a refusal.
            leg = self.begin(database, static_networks).await?;
            answer = self.try_on(&mut leg, Some(db_user), &next.value).await;
            tried.push(next.version);
        }
        answer.map(|()| leg).map_err(|text| self.no_password_left(database, db_user, arn, &tried, &text))
    }

    /// The current password for a connection that is live and gets one try: not one that rotation has replaced.
    pub(super) async fn newest_password(
        &self,
        database: &Database,
        db_user: &str,
        arn: &Arn,
    ) -> Result<Password, Refusal> {
        let known = self.managed_password(database, db_user, arn, Stage::Current, None).await?;
        let current = self.rotation(arn).and_then(|rotation| rotation.current.clone());
        if current.is_none_or(|current| current == known.version) {
            return Ok(known);
        }
        self.managed_password(database, db_user, arn, Stage::Current, Some(Instant::now())).await
    }

    /// A managed password of a stage, by the rotation of this moment. With `since`, not read before that.
    ///
    /// # Errors
    /// [`Refusal::Secret`] where there is none, or it cannot be had.
    pub async fn managed_password(
        &self,
        database: &Database,
        db_user: &str,
        arn: &Arn,
        stage: Stage,
        since: Option<Instant>,
    ) -> Result<Password, Refusal> {
        let refuse =
            |why: String| Refusal::Secret(format!("cannot sign in to {} as {db_user}: {why}", database.name));
        let rotation = self.rotation(arn);
        let secret = rotation.as_deref().and_then(|rotation| rotation.secret.as_ref());
        let secret = secret.ok_or_else(|| refuse(not_looked_at()))?;
        let read = self.secrets.read(secret.arn.as_str(), stage, since).await;
        let version = read.map_err(|fault| {
            refuse(format!(
                "its managed password cannot be read from {}: {fault}; the secret must carry the tag of the proxy's \
                 group, and the task role the right to read it",
                secret.name
            ))
        })?;
        match SecretValue::parse(&version.value) {
            Ok(SecretValue::Ready { username, password }) if username == db_user => {
                Ok(Password { version: VersionId::new(&version.id), value: password })
            }
            Ok(SecretValue::Ready { .. }) => {
                Err(refuse(format!("secret {} holds the password of another user", secret.name)))
            }
            Ok(SecretValue::Placeholder) => Err(refuse(
                "its password is not ready yet: Keystile is taking the user over; try again in a few minutes, and \
                 see 'keystile rotate status'"
                    .to_owned(),
            )),
            Err(error) => Err(refuse(format!("secret {}: {error}", secret.name))),
        }
    }

    /// The rotation of a db user, as it is known now.
    pub(super) fn rotation(&self, arn: &Arn) -> Option<std::sync::Arc<Rotation>> {
        self.policy.borrow().policy.as_ref().and_then(|policy| policy.rotation(arn).cloned())
    }

    fn no_password_left(
        &self,
        database: &Database,
        db_user: &str,
        arn: &Arn,
        tried: &[VersionId],
        text: &str,
    ) -> Refusal {
        let name = &database.name;
        if !is_wrong_password(text) {
            return Refusal::Auth(format!(
                "{name} refused to sign {db_user} in ({text}): try again, or check the cache"
            ));
        }
        self.metrics.passwords_refused.add("managed");
        let rotation = self.rotation(arn);
        let phase = rotation.as_ref().map_or("unknown", |rotation| rotation.phase.as_str());
        let reason = rotation.as_ref().map(|rotation| rotation.reason.as_str()).unwrap_or_default();
        if let Some(times) = self.alarms.tell(unix_ms(self.clock.now())) {
            let versions = tried.iter().map(VersionId::as_str).collect::<Vec<_>>().join(", ");
            tracing::error!(
                database = %name,
                db_user,
                phase,
                reason,
                versions,
                times,
                "a cache takes none of the passwords that Keystile manages: see docs/RUNBOOK.md"
            );
        }
        let because = if reason.is_empty() { String::new() } else { format!(", because {reason}") };
        Refusal::Auth(format!(
            "{name} took none of the managed passwords of {db_user} ({text}); its rotation is {phase}{because}: see \
             'keystile rotate status', and have 'keystile rotate run --db-user {db_user} --force' set a new one if \
             somebody else changed it"
        ))
    }
}

/// Why there is no password of a user that rotate has not seen.
#[must_use]
pub fn not_looked_at() -> String {
    "its password is not ready yet: rotation has not looked at it; try again in a few minutes, or have an editor run \
     'keystile rotate run'"
        .to_owned()
}
