//! Signing in on a fresh connection: an IAM token, or what Secrets Manager holds. Only `+OK` goes on, and never
//! as anybody else than was asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keystile_model::database::Database;
use keystile_model::rotation::proof::LoginOutcome;
use keystile_model::rotation::secret::{DEFAULT_PREFIX, is_bare_token, is_managed_name};
use keystile_resp::encode;
use keystile_resp::reply::Kind;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::{Dialer, ask};
use crate::admission::Plan;
use crate::credentials::{Stage, Version};
use crate::refusal::Refusal;
use crate::session::leg::Leg;

/// The pause before the second try of a refused token: AWS answers throttling with the same error. Jittered
/// up to twice this.
const SECOND_TRY: Duration = Duration::from_millis(750);

impl Dialer {
    /// The password that a live connection is signed in with again; none where nobody signs in.
    ///
    /// # Errors
    /// Text for the client.
    pub async fn password(
        &self,
        database: &Database,
        db_user: &str,
        plan: &Plan,
    ) -> Result<Option<SecretString>, String> {
        match plan {
            Plan::PassThrough | Plan::Open => Ok(None),
            Plan::Iam => self.tokens.mint(database, db_user).await.map(Some),
            Plan::Managed(user) => {
                let password = self.newest_password(database, db_user, user).await;
                password.map(|password| Some(password.value)).map_err(|refusal| refusal.to_string())
            }
            Plan::Shared(secret) => {
                let version = self.shared_token(database, secret, None).await;
                version.map(|version| Some(bare(&version))).map_err(|refusal| refusal.to_string())
            }
        }
    }

    pub(super) async fn by_token(
        &self,
        database: &Database,
        db_user: &str,
        static_networks: &[String],
    ) -> Result<Leg, Refusal> {
        match self.signed_in(database, db_user, static_networks).await? {
            Ok(leg) => Ok(leg),
            Err(first) if first.starts_with("WRONGPASS") => {
                let jitter = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
                tokio::time::sleep(SECOND_TRY.mul_f64(1.0 + jitter)).await;
                self.signed_in(database, db_user, static_networks)
                    .await?
                    .map_err(|again| Refusal::Auth(auth_words(database, db_user, &again)))
            }
            Err(other) => Err(Refusal::Auth(auth_words(database, db_user, &other))),
        }
    }

    /// One try. The inner error is the cache's text.
    async fn signed_in(
        &self,
        database: &Database,
        db_user: &str,
        static_networks: &[String],
    ) -> Result<Result<Leg, String>, Refusal> {
        let token = self.tokens.mint(database, db_user).await.map_err(|why| Refusal::Token {
            database: database.name.to_string(),
            db_user: db_user.to_owned(),
            why,
        })?;
        let mut leg = self.begin(database, static_networks).await?;
        Ok(self.try_on(&mut leg, Some(db_user), &token).await.map(|()| leg))
    }

    /// With a shared token: as it was read within the last minute, and once more when that is refused and there
    /// is a newer one.
    pub(super) async fn by_shared_token(
        &self,
        database: &Database,
        secret: &str,
        static_networks: &[String],
    ) -> Result<Leg, Refusal> {
        let known = self.shared_token(database, secret, None).await?;
        let mut leg = self.begin(database, static_networks).await?;
        let tried = Instant::now();
        let mut answer = self.try_on(&mut leg, None, &bare(&known)).await;
        if answer.as_ref().is_err_and(|text| is_wrong_password(text)) {
            let fresh = self.shared_token(database, secret, Some(tried)).await?;
            if fresh.id != known.id {
                self.metrics.passwords_retried.add("fresh");
                leg = self.begin(database, static_networks).await?;
                answer = self.try_on(&mut leg, None, &bare(&fresh)).await;
            }
        }
        answer.map(|()| leg).map_err(|text| {
            let name = &database.name;
            if !is_wrong_password(&text) {
                return Refusal::Auth(format!("{name} refused to sign us in ({text}): try again, or check the cache"));
            }
            self.metrics.passwords_refused.add("shared");
            Refusal::Auth(format!(
                "{name} refused the shared token of secret {secret} ({text}): put the cache's AUTH token, and \
                 nothing else, into the secret"
            ))
        })
    }

    async fn shared_token(
        &self,
        database: &Database,
        secret: &str,
        since: Option<Instant>,
    ) -> Result<Arc<Version>, Refusal> {
        let name = &database.name;
        let not_one = |why: &str| {
            Refusal::Secret(format!(
                "cannot sign in to {name}: its secret {secret} {why}: put the shared token, and nothing else, into a \
                 secret of its own, and name that with 'keystile db set {name} --auth secret:NAME'"
            ))
        };
        // It would be sent wherever whoever wrote the database said.
        if is_managed_name(&self.secret_prefix(), secret) {
            return Err(not_one("is kept for the passwords of managed users"));
        }
        let version = self.secrets.read(secret, Stage::Current, since).await.map_err(|fault| {
            Refusal::Secret(format!(
                "cannot sign in to {name}: its secret {secret} cannot be read: {fault}; it must be in the proxy's \
                 region and account, and tagged keystile.dev/group/<proxy group>=true"
            ))
        })?;
        if !is_bare_token(&version.value) {
            return Err(not_one("is no bare token"));
        }
        Ok(version)
    }

    /// How the names of managed users' secrets begin, as it is known now.
    fn secret_prefix(&self) -> String {
        let policy = &self.policy.borrow().policy;
        let settings = policy.as_ref().and_then(|policy| policy.settings());
        settings.map_or_else(|| DEFAULT_PREFIX.to_owned(), |settings| settings.secret_prefix.clone())
    }

    /// One AUTH on a connection that is open, and how it ended: for proofs, where a refusal is an answer.
    pub async fn log_in_on(&self, leg: &mut Leg, db_user: &str, password: &SecretString) -> LoginOutcome {
        match self.try_on(leg, Some(db_user), password).await {
            Ok(()) => LoginOutcome::Ok,
            Err(text) if is_wrong_password(&text) => LoginOutcome::Refused,
            Err(_) => LoginOutcome::Unreachable,
        }
    }

    /// One AUTH. The error is the cache's text.
    pub(super) async fn try_on(
        &self,
        leg: &mut Leg,
        db_user: Option<&str>,
        password: &SecretString,
    ) -> Result<(), String> {
        match timeout(self.step, authenticate(leg, db_user, password)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer to AUTH within {} s", self.step.as_secs())),
        }
    }
}

/// A token as a cache takes it: files end in a line break, tokens never do.
fn bare(version: &Version) -> SecretString {
    SecretString::from(version.value.expose_secret().trim_end_matches(['\r', '\n']))
}

/// Servers before version 6 have another text.
pub(super) fn is_wrong_password(text: &str) -> bool {
    text.starts_with("WRONGPASS") || text.starts_with("ERR invalid password")
}

/// `AUTH user password`, or `AUTH password`; `+OK` is the proof of who we are.
async fn authenticate(leg: &mut Leg, db_user: Option<&str>, password: &SecretString) -> Result<(), String> {
    let mut request = Vec::new();
    let mut words: Vec<&[u8]> = vec![b"AUTH"];
    words.extend(db_user.map(str::as_bytes));
    words.push(password.expose_secret().as_bytes());
    encode::request(&mut request, &words);
    match ask(leg, &request).await? {
        (Kind::Reply, text) if text == "OK" => Ok(()),
        (_, text) => Err(text),
    }
}

/// The cache has one error for every cause: the likely ones, in order.
fn auth_words(database: &Database, db_user: &str, text: &str) -> String {
    let name = &database.name;
    if !text.starts_with("WRONGPASS") {
        return format!("{name} refused to sign {db_user} in ({text}): try again, or check the cache");
    }
    let service = database.kind.signing_service().unwrap_or("elasticache");
    format!(
        "{name} refused the IAM token of {db_user}, twice ({text}). Likely reasons, in order: {db_user} is not in \
         the cache's user group or ACL; its user id and user name differ; the engine is older than 7.0; the \
         proxy's role{} lacks {service}:Connect on the cache and the user; the clocks differ by over 5 minutes",
        database.assume_role.as_ref().map(|role| format!(" {}", role.arn)).unwrap_or_default()
    )
}
