//! The Resource Groups Tagging API, in JSON 1.1, over the tags of both services.
//!
//! It keeps that API's manners: what never had a tag is left out, pages are short, one in the
//! middle is empty and still carries a token, and members repeat the tags of their group.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::paging::{page, read, token_of};
use super::{Clouds, World};
use crate::fixture::Kind;
use crate::front::wire::{ApiError, Response, json_answer};

const LIST: &str = "GetResources";
/// The second call of a listing gets nothing but a token.
const EMPTY: &str = "GetResources:empty";

/// Answers one call of an account in a region.
pub(crate) fn handle(
    clouds: &Arc<Clouds>,
    account: &str,
    region: &str,
    operation: &str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let input: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))?;
    clouds
        .with(account, region, |world| match operation {
            "GetResources" => resources(clouds, world, &input),
            "TagResources" => tag(world, &input),
            "UntagResources" => untag(world, &input),
            other => Err(ApiError::new(
                400,
                "UnknownOperationException",
                format!("The local stand-in of the tagging API does not know {other}."),
            )),
        })
        .map(|value| json_answer(&value))
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "InvalidParameterException", message)
}

fn texts(input: &Map<String, Value>, name: &str) -> Vec<String> {
    let list = input.get(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// All tagged resources, the members of replication groups with their group's tags among them.
fn tagged(world: &World) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all = world.tags.clone();
    for cache in world.caches_of(Kind::ReplicationGroup) {
        let arn = cache.resource.arn();
        if let Some(tags) = world.tags.get(&arn) {
            let group = format!("replicationgroup:{}", cache.resource.id);
            all.extend(
                cache
                    .nodes
                    .iter()
                    .map(|node| (arn.replace(&group, &format!("cluster:{}", node.id)), tags.clone())),
            );
        }
    }
    all
}

fn resources(clouds: &Clouds, world: &World, input: &Map<String, Value>) -> Result<Value, ApiError> {
    let arns = texts(input, "ResourceARNList");
    let filters = filters(input)?;
    let types = texts(input, "ResourceTypeFilters");
    let token = input.get("PaginationToken").and_then(Value::as_str).filter(|token| !token.is_empty());
    let size = input.get("ResourcesPerPage").and_then(Value::as_u64);
    if input.contains_key("ResourceARNList") {
        if arns.is_empty() || arns.len() > 100 {
            return Err(invalid("ResourceARNList takes 1 to 100 ARNs."));
        }
        if !filters.is_empty() || !types.is_empty() || token.is_some() || size.is_some() {
            return Err(invalid(
                "ResourceARNList can't be used with TagFilters, ResourceTypeFilters or paging.",
            ));
        }
        let all = tagged(world);
        let found = arns.iter().filter_map(|arn| all.get_key_value(arn)).map(render);
        return Ok(json!({"ResourceTagMappingList": found.collect::<Vec<_>>(), "PaginationToken": ""}));
    }
    if size.is_some_and(|size| !(1..=100).contains(&size)) {
        return Err(invalid("ResourcesPerPage must be 1 to 100."));
    }
    if let Some(last) = token.and_then(|token| read(token, EMPTY).ok()) {
        return Ok(json!({"ResourceTagMappingList": [], "PaginationToken": token_of(LIST, &last)}));
    }
    let asked = usize::try_from(size.unwrap_or(50)).unwrap_or(50).min(clouds.settings.page);
    let all = tagged(world);
    let fits = |(arn, tags): &(&String, &BTreeMap<String, String>)| {
        of_types(arn, &types) && filters.iter().all(|filter| filter.fits(tags))
    };
    let found =
        page(all.iter().filter(fits), |(arn, _)| (*arn).clone(), LIST, token, asked).map_err(|_| {
            ApiError::new(400, "PaginationTokenExpiredException", "Start again from the first page.")
        })?;
    let next = match (&found.next, found.items.last()) {
        (Some(_), Some((last, _))) if token.is_none() => token_of(EMPTY, last),
        (next, _) => next.clone().unwrap_or_default(),
    };
    Ok(
        json!({"ResourceTagMappingList": found.items.into_iter().map(render).collect::<Vec<_>>(), "PaginationToken": next}),
    )
}

fn render((arn, tags): (&String, &BTreeMap<String, String>)) -> Value {
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect();
    json!({"ResourceARN": arn, "Tags": tags})
}

/// `elasticache:user` or a bare service; the resource begins after the fifth colon.
fn of_types(arn: &str, types: &[String]) -> bool {
    let mut parts = arn.splitn(6, ':');
    let service = parts.nth(2).unwrap_or_default();
    let kind = parts.nth(2).and_then(|rest| rest.split([':', '/']).next()).unwrap_or_default();
    types.is_empty() || types.iter().any(|t| t == service || *t == format!("{service}:{kind}"))
}

struct Filter {
    key: String,
    values: Vec<String>,
}

impl Filter {
    fn fits(&self, tags: &BTreeMap<String, String>) -> bool {
        tags.get(&self.key).is_some_and(|value| self.values.is_empty() || self.values.contains(value))
    }
}

fn filters(input: &Map<String, Value>) -> Result<Vec<Filter>, ApiError> {
    let list = input.get("TagFilters").and_then(Value::as_array).cloned().unwrap_or_default();
    let filters: Vec<Filter> = list
        .iter()
        .filter_map(Value::as_object)
        .map(|filter| Filter {
            key: filter.get("Key").and_then(Value::as_str).unwrap_or_default().to_owned(),
            values: texts(filter, "Values"),
        })
        .collect();
    if filters.len() > 50 || filters.iter().any(|filter| filter.values.len() > 20) {
        return Err(invalid("At most 50 tag filters, each of at most 20 values."));
    }
    Ok(filters)
}

/// Whether an ARN names a resource that is there.
fn exists(world: &World, arn: &str) -> bool {
    let caches = world.caches.values().any(|cache| cache.resource.arn() == arn);
    let users = world.users.keys().any(|(family, id)| world.arn(*family, "user", id) == arn);
    caches || users || world.tags.contains_key(arn)
}

fn each(
    world: &mut World,
    input: &Map<String, Value>,
    act: impl Fn(&mut BTreeMap<String, String>),
) -> Result<Value, ApiError> {
    let arns = texts(input, "ResourceARNList");
    if arns.is_empty() || arns.len() > 20 {
        return Err(invalid("ResourceARNList takes 1 to 20 ARNs."));
    }
    let mut failed = Map::new();
    for arn in arns {
        if exists(world, &arn) {
            act(world.tags.entry(arn).or_default());
        } else {
            failed.insert(arn, json!({"StatusCode": 400, "ErrorCode": "InvalidParameterException", "ErrorMessage": "no such resource"}));
        }
    }
    Ok(json!({"FailedResourcesMap": failed}))
}

fn tag(world: &mut World, input: &Map<String, Value>) -> Result<Value, ApiError> {
    let tags = input.get("Tags").and_then(Value::as_object).cloned().unwrap_or_default();
    each(world, input, |have| {
        have.extend(
            tags.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())),
        );
    })
}

fn untag(world: &mut World, input: &Map<String, Value>) -> Result<Value, ApiError> {
    let keys = texts(input, "TagKeys");
    each(world, input, |have| keys.iter().for_each(|key| drop(have.remove(key))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_fit_both_forms_of_arns() {
        let user = "arn:aws:memorydb:us-east-1:1:user/app";
        let group = "arn:aws:elasticache:us-east-1:1:replicationgroup:orders";
        assert!(of_types(user, &["memorydb:user".into()]) && of_types(group, &["elasticache".into()]));
        assert!(
            !of_types(user, &["memorydb:cluster".into()]) && !of_types(group, &["elasticache:user".into()])
        );
    }
}
