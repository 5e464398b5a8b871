//! Tags.

use std::collections::BTreeMap;

use super::super::World;
use super::super::users::Refusal;
use super::{Answer, EC, SUBNETS, available, needed, refused};
use crate::fixture::Kind;
use crate::front::wire::{ApiError, Form, Xml};

/// The key of the resource that an ARN names, or the error of its type.
pub(super) fn tagged(world: &World, form: &Form) -> Result<String, ApiError> {
    let arn = needed(form, "ResourceName")?.to_owned();
    let own = format!("arn:aws:elasticache:{}:{}:", world.region, world.account);
    let wrong =
        || ApiError::new(400, "InvalidARN", format!("{arn} is not an ARN of this account and region."));
    let (kind, id) = arn.strip_prefix(&own).and_then(|rest| rest.split_once(':')).ok_or_else(wrong)?;
    let id = id.to_owned();
    match kind {
        "replicationgroup" => available(
            world,
            Kind::ReplicationGroup,
            &id,
            "ReplicationGroupNotFoundFault",
            "InvalidReplicationGroupState",
        )?,
        "serverlesscache" => available(
            world,
            Kind::Serverless,
            &id,
            "ServerlessCacheNotFoundFault",
            "InvalidServerlessCacheStateFault",
        )?,
        "user" if !world.users.contains_key(&(EC, id.clone())) => {
            return Err(refused(Refusal::UserNotFound(id)));
        }
        "usergroup" if !world.groups.contains_key(&(EC, id.clone())) => {
            return Err(refused(Refusal::GroupNotFound(id)));
        }
        "subnetgroup" if id != SUBNETS => {
            return Err(ApiError::new(
                400,
                "CacheSubnetGroupNotFoundFault",
                format!("CacheSubnetGroup {id} not found."),
            ));
        }
        "cluster" => {
            let group = world
                .caches_of(Kind::ReplicationGroup)
                .find(|cache| cache.nodes.iter().any(|node| node.id == id));
            let group = group.ok_or_else(|| {
                ApiError::new(404, "CacheClusterNotFound", format!("CacheCluster {id} not found."))
            })?;
            return Ok(group.resource.arn());
        }
        "user" | "usergroup" | "subnetgroup" => {}
        _ => return Err(wrong()),
    }
    Ok(arn)
}

pub(super) fn render_tags(world: &World, arn: &str) -> Vec<Xml> {
    let none = BTreeMap::new();
    let tags = world.tags.get(arn).unwrap_or(&none);
    let tags = tags
        .iter()
        .map(|(key, value)| Xml::node("Tag", vec![Xml::text("Key", key), Xml::text("Value", value)]));
    vec![Xml::node("TagList", tags.collect())]
}

/// Adds tags; nothing is noted where there are none, so that an untagged resource stays one.
pub(crate) fn set_tags(world: &mut World, arn: String, tags: Vec<(String, String)>) {
    if !tags.is_empty() {
        world.tags.entry(arn).or_default().extend(tags);
    }
}

pub(super) fn list_tags(world: &World, form: &Form) -> Answer {
    Ok(render_tags(world, &tagged(world, form)?))
}

pub(super) fn add_tags(world: &mut World, form: &Form) -> Answer {
    let arn = tagged(world, form)?;
    let known = world.tags.get(&arn).map_or(0, BTreeMap::len);
    if known + form.tags().len() > 50 {
        return Err(ApiError::new(400, "TagQuotaPerResourceExceeded", "A resource has at most 50 tags."));
    }
    set_tags(world, arn.clone(), form.tags());
    Ok(render_tags(world, &arn))
}

pub(super) fn remove_tags(world: &mut World, form: &Form) -> Answer {
    let arn = tagged(world, form)?;
    if let Some(tags) = world.tags.get_mut(&arn) {
        form.list("TagKeys").iter().for_each(|key| drop(tags.remove(key)));
    }
    Ok(render_tags(world, &arn))
}
