//! Matchers: what discovery looks for.

use keystile_model::document::Document;
use keystile_model::feed::Entity;
use keystile_model::labels::is_owned;
use keystile_model::matcher::{Matcher, MatcherSpec};
use keystile_model::name::DocumentName;

use super::{Reading, named, spec};
use crate::failure::Failure;

pub(super) fn read(
    reading: &Reading<'_>,
    document: Document,
    warnings: &mut Vec<String>,
) -> Result<Entity, Failure> {
    let name: String = DocumentName::parse(document.metadata.name).map_err(|e| named(&e))?.into();
    let mut body: MatcherSpec = spec(document.spec)?;
    body.check().map_err(|e| named(&e))?;
    if let Some(key) = body.labels.keys().find(|key| is_owned(key)) {
        return Err(Failure::bad(format!("label {key:?} is set by discovery and cannot be fixed here")));
    }
    if let Some(fault) = keystile_model::labels::tag_fault(&body.labels) {
        return Err(Failure::bad("the labels cannot be kept").why(fault));
    }
    for key in body.import_tags.iter().filter(|key| is_owned(key)) {
        warnings.push(format!("import_tags: {key:?} is set by discovery, a tag of that name is ignored"));
    }
    super::db_auth::may_be_used(&body.auth, reading.config)?;
    warnings.extend(super::db_auth::caution(&body.auth));
    if body.tags.is_empty() {
        warnings.push("tags is empty, so it matches nothing: write '*': '*' for everything".to_owned());
    }
    if let Some(role) = &body.assume_role_arn
        && body.external_id.is_none()
    {
        let known = reading
            .policy
            .matchers()
            .find(|matcher| matcher.name == name && matcher.spec.assume_role_arn.as_ref() == Some(role))
            .and_then(|matcher| matcher.spec.external_id.clone());
        let id = known.unwrap_or_else(|| format!("keystile-{}", reading.id.simple()));
        warnings.push(format!("the trust policy of {role} must ask for the external id {id}"));
        body.external_id = Some(id);
    }
    if let (Some(role), Some(hub)) = (&body.assume_role_arn, &body.through) {
        let hub = &hub.assume_role_arn;
        warnings.push(format!(
            "the trust policy of {role} must let {hub} in, and that of {hub} the roles of discovery, label sync and the proxies"
        ));
    }
    Ok(Entity::Matcher(Box::new(Matcher { name, description: document.metadata.description, spec: body })))
}
