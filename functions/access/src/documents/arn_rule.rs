//! ARN rules: which user a caller is.

use keystile_api::ArnRuleSpec;
use keystile_model::document::Document;
use keystile_model::feed::Entity;
use keystile_model::name::UserName;
use keystile_model::user::ArnRule;

use super::{Reading, named, spec};
use crate::failure::Failure;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name = document.metadata.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@+=,/*".contains(c);
    let legal = (1..=1_024).contains(&name.len()) && name.chars().all(plain) && !name.contains("..");
    if !legal {
        return Err(Failure::bad(
            "an ARN rule is called by its ARN, or by letters, digits and - _ . : @ + = , / *",
        ));
    }
    let body: ArnRuleSpec = spec(document.spec)?;
    if let Some(id) = &body.unique_id
        && !((16..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric()))
    {
        return Err(Failure::bad(
            "unique_id is the AIDA… or AROA… id of the user or role, without a session",
        ));
    }
    let rule = ArnRule { name, arn: body.arn, user: body.user, sso: body.sso, unique_id: body.unique_id };
    rule.check(&reading.settings.trusted_accounts).map_err(|e| named(&e))?;
    if let Ok(user) = UserName::parse(rule.user.clone())
        && reading.policy.user(&user).is_none()
    {
        warnings
            .push(format!("user {user} does not exist: nobody signs in by this rule until it is created"));
    }
    Ok(Entity::ArnRule(rule))
}
