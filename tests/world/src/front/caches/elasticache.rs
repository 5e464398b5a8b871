//! ElastiCache's operations, in its query protocol.

mod accounts;
mod tags;

use std::sync::Arc;
use std::time::Duration;

use accounts::{
    create_user, create_user_group, delete_user, describe_user_groups, describe_users, modify_user,
    modify_user_group,
};
pub(crate) use tags::set_tags;
use tags::{add_tags, list_tags, remove_tags};

use super::paging::{Page, page};
use super::users::Refusal;
use super::{Cache, Clouds, Family, World, servers};
use crate::fixture::{Kind, Resource};
use crate::front::wire::{ApiError, Form, Response, Xml, answer};
use crate::servers::{Endpoint, Node, Role};

const EC: Family = Family::ElastiCache;
/// The name of the one subnet group of each account.
pub(crate) const SUBNETS: &str = "keystile";

type Answer = Result<Vec<Xml>, ApiError>;

/// Answers one call of an account in a region.
pub(crate) fn handle(
    clouds: &Arc<Clouds>,
    account: &str,
    region: &str,
    form: &Form,
) -> Result<Response, ApiError> {
    let action = form.text("Action").unwrap_or_default();
    let fields = clouds.with(account, region, |world| dispatch(clouds, world, action, form))?;
    let root = format!("{action}Response xmlns=\"http://elasticache.amazonaws.com/doc/2015-02-02/\"");
    let meta = Xml::node("ResponseMetadata", vec![Xml::text("RequestId", uuid::Uuid::new_v4())]);
    let document = Xml::node(&root, vec![Xml::node(&format!("{action}Result"), fields), meta]);
    Ok(answer(200, "text/xml", document.render()))
}

fn dispatch(clouds: &Arc<Clouds>, world: &mut World, action: &str, form: &Form) -> Answer {
    match action {
        "DescribeReplicationGroups" => describe_replication_groups(clouds, world, form),
        "DescribeCacheClusters" => describe_cache_clusters(clouds, world, form),
        "DescribeServerlessCaches" => describe_serverless(clouds, world, form),
        "DescribeCacheSubnetGroups" => describe_subnet_groups(world, form),
        "DescribeUsers" => describe_users(clouds, world, form),
        "DescribeUserGroups" => describe_user_groups(clouds, world, form),
        "CreateUser" => create_user(clouds, world, form),
        "ModifyUser" => modify_user(clouds, world, form),
        "DeleteUser" => delete_user(clouds, world, form),
        "CreateUserGroup" => create_user_group(clouds, world, form),
        "ModifyUserGroup" => modify_user_group(clouds, world, form),
        "CreateReplicationGroup" => create_replication_group(clouds, world, form),
        "ModifyReplicationGroup" => modify_replication_group(world, form),
        "DeleteReplicationGroup" => {
            delete_cache(world, Kind::ReplicationGroup, form.text("ReplicationGroupId"), "ReplicationGroup")
        }
        "DeleteServerlessCache" => {
            delete_cache(world, Kind::Serverless, form.text("ServerlessCacheName"), "ServerlessCache")
        }
        "ListTagsForResource" => list_tags(world, form),
        "AddTagsToResource" => add_tags(world, form),
        "RemoveTagsFromResource" => remove_tags(world, form),
        other => Err(ApiError::new(
            400,
            "InvalidAction",
            format!(
                "Could not find operation {other} for version 2015-02-02: the local stand-in does not know it."
            ),
        )),
    }
}

fn refused(refusal: Refusal) -> ApiError {
    let (status, code) = match refusal {
        Refusal::UserNotFound(_) => (404, "UserNotFound"),
        Refusal::UserState { .. } => (400, "InvalidUserState"),
        Refusal::UserExists(_) => (400, "UserAlreadyExists"),
        Refusal::DuplicateName(..) => (400, "DuplicateUserName"),
        Refusal::GroupNotFound(_) => (404, "UserGroupNotFound"),
        Refusal::GroupState { .. } => (400, "InvalidUserGroupState"),
        Refusal::GroupExists(_) => (400, "UserGroupAlreadyExists"),
        Refusal::Value(_) => (400, "InvalidParameterValue"),
        Refusal::Combination(_) => (400, "InvalidParameterCombination"),
    };
    ApiError::new(status, code, refusal.to_string())
}

fn value(message: impl Into<String>) -> ApiError {
    ApiError::new(400, "InvalidParameterValue", message)
}

fn needed<'a>(form: &'a Form, name: &str) -> Result<&'a str, ApiError> {
    form.text(name).ok_or_else(|| {
        ApiError::new(400, "MissingParameter", format!("The request must contain the parameter {name}."))
    })
}

/// Pages by `Marker` and `MaxRecords` (20 to 100), or by `NextToken` and `MaxResults`.
fn paged<T>(
    clouds: &Clouds,
    form: &Form,
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> String,
) -> Result<Page<T>, ApiError> {
    let number = |name: &str| {
        form.text(name)
            .map(|text| text.parse::<usize>().map_err(|_| value(format!("{name} is not a number."))))
            .transpose()
    };
    let asked = match (number("MaxRecords")?, number("MaxResults")?) {
        (Some(records), _) if !(20..=100).contains(&records) => {
            return Err(value("MaxRecords must be between 20 and 100."));
        }
        (Some(records), _) => records,
        (None, Some(results)) if !(1..=100).contains(&results) => {
            return Err(value("MaxResults must be between 1 and 100."));
        }
        (None, results) => results.unwrap_or(100),
    };
    let token = form.text("Marker").or_else(|| form.text("NextToken"));
    let list = form.text("Action").unwrap_or_default();
    page(items, key, list, token, asked.min(clouds.settings.page)).map_err(value)
}

fn list<T>(name: &str, item: &str, page: Page<T>, token: &str, render: impl Fn(T) -> Vec<Xml>) -> Vec<Xml> {
    let items = page.items.into_iter().map(|one| Xml::node(item, render(one))).collect();
    let mut fields = vec![Xml::node(name, items)];
    fields.extend(page.next.map(|next| Xml::text(token, next)));
    fields
}

fn describe_replication_groups(clouds: &Clouds, world: &World, form: &Form) -> Answer {
    let groups = || world.caches_of(Kind::ReplicationGroup);
    if let Some(id) = form.text("ReplicationGroupId") {
        let id = id.to_lowercase();
        if !groups().any(|cache| cache.resource.id == id) {
            return Err(ApiError::new(
                404,
                "ReplicationGroupNotFoundFault",
                format!("ReplicationGroup {id} not found."),
            ));
        }
        let one = Page { items: groups().filter(|cache| cache.resource.id == id).collect(), next: None };
        return Ok(list("ReplicationGroups", "ReplicationGroup", one, "Marker", replication_group));
    }
    let found = paged(clouds, form, groups(), |cache| cache.resource.id.clone())?;
    Ok(list("ReplicationGroups", "ReplicationGroup", found, "Marker", replication_group))
}

fn endpoint(name: &str, endpoint: Option<&Endpoint>) -> Option<Xml> {
    endpoint.map(|at| Xml::node(name, vec![Xml::text("Address", &at.host), Xml::text("Port", at.port)]))
}

fn replication_group(cache: &Cache) -> Vec<Xml> {
    let r = &cache.resource;
    let mode = if r.cluster { "enabled" } else { "disabled" };
    let node_groups =
        cache.shards().iter().enumerate().map(|(n, nodes)| node_group(cache, n, nodes)).collect();
    let members: Vec<String> = cache.nodes.iter().map(|node| node.id.clone()).collect();
    let mut fields = vec![
        Xml::text("ReplicationGroupId", &r.id),
        Xml::text("Description", format!("{} of the local world", r.id)),
        Xml::text("Status", &r.status),
        Xml::node("PendingModifiedValues", Vec::new()),
        Xml::texts("MemberClusters", "ClusterId", &members),
        Xml::node("NodeGroups", if r.status == "creating" { Vec::new() } else { node_groups }),
        Xml::text("ClusterEnabled", r.cluster),
        Xml::text("ClusterMode", mode),
        Xml::text("CacheNodeType", "cache.t4g.small"),
        Xml::text("AuthTokenEnabled", false),
        Xml::text("TransitEncryptionEnabled", r.tls),
        Xml::text("ARN", r.arn()),
        Xml::text("Engine", &r.engine),
        Xml::text("NetworkType", "ipv4"),
        Xml::text("IpDiscovery", "ipv4"),
    ];
    if r.tls {
        fields.push(Xml::text("TransitEncryptionMode", "required"));
    }
    if let Some(group) = &r.group {
        fields.push(Xml::texts("UserGroupIds", "member", std::slice::from_ref(group)));
    }
    fields.extend(endpoint("ConfigurationEndpoint", cache.endpoint("configuration")));
    fields
}

fn node_group(cache: &Cache, n: usize, nodes: &[&Node]) -> Xml {
    let cluster = cache.resource.cluster;
    let mut fields =
        vec![Xml::text("NodeGroupId", format!("{:04}", n + 1)), Xml::text("Status", "available")];
    if cluster {
        let slots = nodes.first().map(|node| ranges(&node.slots)).unwrap_or_default();
        fields.push(Xml::text("Slots", slots));
    } else {
        fields.extend(endpoint("PrimaryEndpoint", cache.endpoint("primary")));
        // AWS gives a reader endpoint even without a replica, where it leads to the primary.
        fields.extend(endpoint(
            "ReaderEndpoint",
            cache.endpoint("reader").or_else(|| cache.endpoint("primary")),
        ));
    }
    let members = nodes.iter().map(|node| {
        let mut member = vec![
            Xml::text("CacheClusterId", &node.id),
            Xml::text("CacheNodeId", "0001"),
            Xml::text("PreferredAvailabilityZone", format!("{}a", cache.resource.region)),
        ];
        if !cluster {
            let at = Endpoint { host: node.host.clone(), port: node.port };
            member.extend(endpoint("ReadEndpoint", Some(&at)));
            member.push(Xml::text(
                "CurrentRole",
                if node.role == Role::Primary { "primary" } else { "replica" },
            ));
        }
        Xml::node("NodeGroupMember", member)
    });
    fields.push(Xml::node("NodeGroupMembers", members.collect()));
    Xml::node("NodeGroup", fields)
}

/// Slots as the API writes them: `0-5460,8000-8001`.
pub(crate) fn ranges(slots: &[(u16, u16)]) -> String {
    slots.iter().map(|(a, b)| format!("{a}-{b}")).collect::<Vec<_>>().join(",")
}

fn describe_cache_clusters(clouds: &Clouds, world: &World, form: &Form) -> Answer {
    let mut members: Vec<(&Cache, &Node)> = world
        .caches_of(Kind::ReplicationGroup)
        .flat_map(|cache| cache.nodes.iter().map(move |node| (cache, node)))
        .collect();
    members.sort_by(|a, b| a.1.id.cmp(&b.1.id));
    if let Some(id) = form.text("CacheClusterId") {
        members.retain(|(_, node)| node.id == id.to_lowercase());
        if members.is_empty() {
            return Err(ApiError::new(404, "CacheClusterNotFound", format!("CacheCluster {id} not found.")));
        }
    }
    if form.text("ShowCacheClustersNotInReplicationGroups") == Some("true") {
        members.clear();
    }
    let nodes = form.text("ShowCacheNodeInfo") == Some("true");
    let found = paged(clouds, form, members.into_iter(), |(_, node)| node.id.clone())?;
    Ok(list("CacheClusters", "CacheCluster", found, "Marker", |(cache, node)| {
        cache_cluster(cache, node, nodes)
    }))
}

fn cache_cluster(cache: &Cache, node: &Node, with_nodes: bool) -> Vec<Xml> {
    let r = &cache.resource;
    let mut fields = vec![
        Xml::text("CacheClusterId", &node.id),
        Xml::text("CacheNodeType", "cache.t4g.small"),
        Xml::text("Engine", &r.engine),
        Xml::text("EngineVersion", &r.engine_version),
        Xml::text("CacheClusterStatus", &r.status),
        Xml::text("NumCacheNodes", 1),
        Xml::text("CacheSubnetGroupName", SUBNETS),
        Xml::text("ReplicationGroupId", &r.id),
        Xml::text("TransitEncryptionEnabled", r.tls),
        Xml::text(
            "ARN",
            r.arn().replace(&format!("replicationgroup:{}", r.id), &format!("cluster:{}", node.id)),
        ),
    ];
    if with_nodes && r.status != "creating" {
        let at = Endpoint { host: node.host.clone(), port: node.port };
        let mut one = vec![Xml::text("CacheNodeId", "0001"), Xml::text("CacheNodeStatus", "available")];
        one.extend(endpoint("Endpoint", Some(&at)));
        fields.push(Xml::node("CacheNodes", vec![Xml::node("CacheNode", one)]));
    }
    fields
}

fn describe_serverless(clouds: &Clouds, world: &World, form: &Form) -> Answer {
    let mut caches: Vec<&Cache> = world.caches_of(Kind::Serverless).collect();
    if let Some(name) = form.text("ServerlessCacheName") {
        caches.retain(|cache| cache.resource.id == name.to_lowercase());
        if caches.is_empty() {
            return Err(ApiError::new(
                404,
                "ServerlessCacheNotFoundFault",
                format!("ServerlessCache {name} not found."),
            ));
        }
    }
    let found = paged(clouds, form, caches.into_iter(), |cache| cache.resource.id.clone())?;
    Ok(list("ServerlessCaches", "member", found, "NextToken", serverless))
}

fn serverless(cache: &Cache) -> Vec<Xml> {
    let r = &cache.resource;
    let major = r.engine_version.split('.').next().unwrap_or_default();
    let mut fields = vec![
        Xml::text("ServerlessCacheName", &r.id),
        Xml::text("Description", format!("{} of the local world", r.id)),
        Xml::text("Status", &r.status),
        Xml::text("Engine", &r.engine),
        Xml::text("MajorEngineVersion", major),
        Xml::text("FullEngineVersion", &r.engine_version),
        Xml::text("ARN", r.arn()),
        Xml::texts("SubnetIds", "member", &["subnet-0a1b2c3d4e5f60001".to_owned()]),
    ];
    fields.extend(r.group.as_ref().map(|group| Xml::text("UserGroupId", group)));
    fields.extend(endpoint("Endpoint", cache.endpoint("serverless")));
    fields.extend(endpoint("ReaderEndpoint", cache.endpoint("serverless-reader")));
    fields
}

/// The VPC of an account's caches.
pub(crate) fn vpc_of(account: &str) -> String {
    format!("vpc-0{account}abcd")
}

fn describe_subnet_groups(world: &World, form: &Form) -> Answer {
    if let Some(name) = form.text("CacheSubnetGroupName").filter(|name| *name != SUBNETS) {
        return Err(ApiError::new(
            400,
            "CacheSubnetGroupNotFoundFault",
            format!("CacheSubnetGroup {name} not found."),
        ));
    }
    let group = Xml::node(
        "CacheSubnetGroup",
        vec![
            Xml::text("CacheSubnetGroupName", SUBNETS),
            Xml::text("CacheSubnetGroupDescription", "the caches' subnets"),
            Xml::text("VpcId", vpc_of(&world.account)),
            Xml::text("ARN", world.arn(EC, "subnetgroup", SUBNETS)),
        ],
    );
    Ok(vec![Xml::node("CacheSubnetGroups", vec![group])])
}

/// Makes a replication group without servers, `creating` for a while.
fn create_replication_group(clouds: &Arc<Clouds>, world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "ReplicationGroupId")?.to_lowercase();
    let key = (Kind::ReplicationGroup, id.clone());
    if world.caches.contains_key(&key) {
        return Err(ApiError::new(
            400,
            "ReplicationGroupAlreadyExists",
            format!("ReplicationGroup {id} already exists."),
        ));
    }
    let shards = form.text("NumNodeGroups").and_then(|text| text.parse().ok()).unwrap_or(1);
    let resource = Resource {
        account: world.account.clone(),
        region: world.region.clone(),
        kind: Kind::ReplicationGroup,
        id: id.clone(),
        engine: form.text("Engine").unwrap_or("valkey").to_owned(),
        engine_version: form.text("EngineVersion").unwrap_or("8.0.1").to_owned(),
        tls: form.text("TransitEncryptionEnabled") == Some("true"),
        cluster: shards > 1 || form.text("ClusterMode") == Some("enabled"),
        shards,
        replicas: form.text("ReplicasPerNodeGroup").and_then(|text| text.parse().ok()).unwrap_or(0),
        status: "creating".into(),
        tags: Vec::new(),
        group: form.list("UserGroupIds").first().cloned(),
        servers: false,
    };
    set_tags(world, resource.arn(), form.tags());
    let cache = servers::place(resource, None, 0);
    let answer = replication_group(&cache);
    world.caches.insert(key.clone(), cache);
    let (later, account, region) = (Arc::clone(clouds), world.account.clone(), world.region.clone());
    let delay = clouds.settings.update_delay.max(Duration::from_millis(1));
    tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        later.with(&account, &region, |world| {
            if let Some(cache) = world.caches.get_mut(&key) {
                cache.resource.status = "available".into();
            }
        });
    });
    Ok(vec![Xml::node("ReplicationGroup", answer)])
}

/// Changes what tests need to move: the user group, the engine's version, transit encryption.
fn modify_replication_group(world: &mut World, form: &Form) -> Answer {
    let id = needed(form, "ReplicationGroupId")?.to_lowercase();
    let Some(cache) = world.caches.get_mut(&(Kind::ReplicationGroup, id.clone())) else {
        return Err(ApiError::new(
            404,
            "ReplicationGroupNotFoundFault",
            format!("ReplicationGroup {id} not found."),
        ));
    };
    if let Some(group) = form.list("UserGroupIdsToAdd").first() {
        cache.resource.group = Some(group.clone());
    }
    let removed = form.list("UserGroupIdsToRemove");
    if cache.resource.group.as_ref().is_some_and(|group| removed.contains(group)) {
        cache.resource.group = None;
    }
    if let Some(version) = form.text("EngineVersion") {
        cache.resource.engine_version = version.into();
    }
    if let Some(tls) = form.text("TransitEncryptionEnabled") {
        cache.resource.tls = tls == "true";
    }
    Ok(vec![Xml::node("ReplicationGroup", replication_group(cache))])
}

fn delete_cache(world: &mut World, kind: Kind, id: Option<&str>, word: &str) -> Answer {
    let id = id.unwrap_or_default().to_lowercase();
    let Some(mut cache) = world.caches.remove(&(kind, id.clone())) else {
        return Err(ApiError::new(404, &format!("{word}NotFoundFault"), format!("{word} {id} not found.")));
    };
    cache.resource.status = "deleting".into();
    world.tags.remove(&cache.resource.arn());
    let fields = if kind == Kind::Serverless { serverless(&cache) } else { replication_group(&cache) };
    Ok(vec![Xml::node(word, fields)])
}

fn available(world: &World, kind: Kind, id: &str, missing: &str, state: &str) -> Result<(), ApiError> {
    match world.caches.get(&(kind, id.to_owned())) {
        None => Err(ApiError::new(404, missing, format!("{id} not found."))),
        Some(cache) if cache.resource.status != "available" => Err(ApiError::new(
            400,
            state,
            format!("{id} is not in the available state, it is {}.", cache.resource.status),
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_written_as_ranges() {
        assert_eq!(ranges(&[(0, 5460), (7000, 7000)]), "0-5460,7000-7000");
    }
}
