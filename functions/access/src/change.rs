//! Writes to the access feed: planned on a policy, written if the feed still stands there, planned again if
//! not. What must hold in any case is checked on the policy as it would be afterwards.

use keystile_api::ErrorCode;
use keystile_model::arn::Arn;
use keystile_model::decide::{Request as Asked, Subject, decide};
use keystile_model::feed::{Change, Feed};
use keystile_model::policy::Policy;
use keystile_model::store::CommitError;
use keystile_model::user::{ArnRule, Caller, User, identify};

use crate::app::Call;
use crate::failure::{Failure, internal};

/// Attempts while others write.
const ATTEMPTS: usize = 8;

/// A plan: what to write, and what to say of it.
pub(crate) struct Plan<T> {
    pub(crate) changes: Vec<Change>,
    pub(crate) outcome: T,
}

/// Plans and writes until it is written; answers the outcome and the feed's revision.
///
/// `plan` sees the newest policy each time and checks the caller's right by it, so that somebody who lost a
/// right in between cannot finish.
pub(crate) async fn write<T>(
    call: &Call<'_>,
    plan: impl Fn(&Policy) -> Result<Plan<T>, Failure>,
) -> Result<(T, u64), Failure> {
    let app = call.app;
    for _ in 0..ATTEMPTS {
        let (policy, head) = app.snapshot.current().await?;
        let planned = plan(&policy)?;
        if planned.changes.is_empty() {
            return Ok((planned.outcome, head.revision));
        }
        keep_an_editor(&policy, &planned.changes, call.now)?;
        let author = call.user.name.as_str();
        match app.store.commit(Feed::Access, &head, author, call.now, &planned.changes).await {
            Ok(head) => {
                app.snapshot.forget().await;
                return Ok((planned.outcome, head.revision));
            }
            Err(CommitError::Conflict) => app.snapshot.forget().await,
            Err(CommitError::Illegal(why)) => {
                return Err(Failure::new(ErrorCode::TooLarge, "the change is too large").why(why));
            }
            Err(CommitError::Store(error)) => {
                app.snapshot.forget().await;
                tracing::warn!(%error, "a change may or may not have been written");
                let failure = Failure::from(error);
                return Err(failure.next("look whether it was written before you try again"));
            }
        }
    }
    Err(Failure::conflict("others change the policy all the while").next("try again"))
}

/// Refuses a change after which nobody who can sign in may administer.
fn keep_an_editor(policy: &Policy, changes: &[Change], now: i64) -> Result<(), Failure> {
    let mut after = policy.clone();
    changes.iter().cloned().for_each(|change| after.apply(change));
    if has_editor(&after, now) {
        return Ok(());
    }
    Err(Failure::conflict("the last editor cannot be removed")
        .why("after this change nobody who can sign in could change users, roles and ARN rules")
        .next("make another editor first: keystile users add NAME --roles=editor")
        .next("then: keystile users map-arn ARN --user NAME"))
}

/// Whether anybody who can sign in may change users, roles and ARN rules.
pub(crate) fn has_editor(policy: &Policy, now: i64) -> bool {
    let Some(settings) = policy.settings() else {
        return false;
    };
    policy
        .users()
        .into_iter()
        .filter(|user| {
            let subject = Subject { user: user.name.clone(), issued_at: None };
            // Writing a document needs both verbs; a lock in force is judged along.
            let may = |resource, verb| {
                decide(policy, &subject, Asked::Administer { resource, verb }, now).is_allowed()
            };
            ["user", "role", "arn_rule"]
                .iter()
                .all(|resource| may(resource, "create") && may(resource, "update"))
        })
        .any(|user| {
            policy.arn_rules().any(|rule| {
                example_of(rule, user).is_some_and(|caller| {
                    let rules = policy.arn_rules().map(AsRef::as_ref);
                    identify(&caller, &settings.trusted_accounts, rules).ok().as_ref() == Some(&user.name)
                })
            })
        })
}

/// A caller that the rule would take for the user, if there can be one.
fn example_of(rule: &ArnRule, user: &User) -> Option<Caller> {
    let name = user.name.as_str();
    let session = if rule.sso {
        let (before, after) = rule.user.split_once("{{session}}").unwrap_or((&rule.user, ""));
        name.strip_prefix(before)?.strip_suffix(after)?.to_owned()
    } else {
        if rule.user != name {
            return None;
        }
        "session".to_owned()
    };
    let arn = Arn::parse(rule.arn.replace('*', "x")).ok()?;
    let text = match arn.resource().strip_prefix("role/") {
        Some(path) => {
            let role = path.rsplit('/').next().unwrap_or_default();
            let (partition, account) = (arn.partition(), arn.account());
            format!("arn:{partition}:sts::{account}:assumed-role/{role}/{session}")
        }
        None => arn.to_string(),
    };
    let unique_id = rule.unique_id.clone().unwrap_or_default();
    Some(Caller { arn: Arn::parse(text).ok()?, unique_id })
}

/// A document of ours that cannot be turned into JSON: never seen, and not worth a panic.
pub(crate) fn unwritable(error: &serde_json::Error) -> Failure {
    tracing::error!(%error, "a document cannot be written as JSON");
    internal("a document cannot be shown")
}
