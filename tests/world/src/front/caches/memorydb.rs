//! MemoryDB's operations, in JSON 1.1.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::elasticache::{SUBNETS, ranges, set_tags, vpc_of};
use super::paging::page;
use super::users::{self, AskedAuth, Refusal};
use super::{Cache, Clouds, Family, Group, User, World};
use crate::fixture::{CacheAuth, Kind};
use crate::front::wire::{ApiError, Response, json_answer};

const MDB: Family = Family::MemoryDb;
/// A fixed time of birth for nodes: 2026-01-01.
const BORN: i64 = 1_767_225_600;

type Answer = Result<Value, ApiError>;

/// Answers one call of an account in a region.
pub(crate) fn handle(
    clouds: &Arc<Clouds>,
    account: &str,
    region: &str,
    operation: &str,
    body: &[u8],
) -> Result<Response, ApiError> {
    let input: Map<String, Value> = serde_json::from_slice(if body.is_empty() { b"{}" } else { body })
        .map_err(|error| ApiError::new(400, "SerializationException", error.to_string()))?;
    clouds
        .with(account, region, |world| dispatch(clouds, world, operation, &input))
        .map(|value| json_answer(&value))
}

fn dispatch(clouds: &Arc<Clouds>, world: &mut World, operation: &str, input: &Map<String, Value>) -> Answer {
    match operation {
        "DescribeClusters" => describe_clusters(clouds, world, input),
        "DescribeUsers" => describe_users(clouds, world, input),
        "DescribeACLs" => describe_acls(clouds, world, input),
        "DescribeSubnetGroups" => describe_subnet_groups(world, input),
        "CreateUser" => create_user(clouds, world, input),
        "UpdateUser" => update_user(clouds, world, input),
        "DeleteUser" => delete_user(clouds, world, input),
        "UpdateACL" => update_acl(clouds, world, input),
        "DeleteCluster" => delete_cluster(world, input),
        "ListTags" => list_tags(world, input),
        "TagResource" => tag(world, input),
        "UntagResource" => untag(world, input),
        other => Err(ApiError::new(
            400,
            "UnknownOperationException",
            format!("The local stand-in of MemoryDB does not know {other}."),
        )),
    }
}

fn refused(refusal: Refusal) -> ApiError {
    let code = match refusal {
        Refusal::UserNotFound(_) => "UserNotFoundFault",
        Refusal::UserState { .. } => "InvalidUserStateFault",
        Refusal::UserExists(_) => "UserAlreadyExistsFault",
        Refusal::DuplicateName(..) => "DuplicateUserNameFault",
        Refusal::GroupNotFound(_) => "ACLNotFoundFault",
        Refusal::GroupState { .. } => "InvalidACLStateFault",
        Refusal::GroupExists(_) => "ACLAlreadyExistsFault",
        Refusal::Value(_) => "InvalidParameterValueException",
        Refusal::Combination(_) => "InvalidParameterCombinationException",
    };
    ApiError::new(400, code, refusal.to_string())
}

fn text<'a>(input: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    input.get(name).and_then(Value::as_str)
}

fn needed<'a>(input: &'a Map<String, Value>, name: &str) -> Result<&'a str, ApiError> {
    text(input, name).ok_or_else(|| refused(Refusal::Value(format!("{name} is required."))))
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn tags(input: &Map<String, Value>) -> Vec<(String, String)> {
    let list = input.get("Tags").and_then(Value::as_array);
    let field =
        |tag: &Value, name: &str| tag.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    list.into_iter().flatten().map(|tag| (field(tag, "Key"), field(tag, "Value"))).collect()
}

fn paged<T>(
    clouds: &Clouds,
    input: &Map<String, Value>,
    name: &str,
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    render: impl Fn(&T) -> Value,
) -> Answer {
    let asked = input.get("MaxResults").and_then(Value::as_u64).unwrap_or(100);
    let size = usize::try_from(asked).unwrap_or(100).min(clouds.settings.page);
    let found = page(items.into_iter(), key, name, text(input, "NextToken"), size)
        .map_err(|why| refused(Refusal::Value(why)))?;
    let mut answer = json!({ name: found.items.iter().map(render).collect::<Vec<_>>() });
    if let Some(next) = found.next {
        answer["NextToken"] = next.into();
    }
    Ok(answer)
}

fn describe_clusters(clouds: &Clouds, world: &World, input: &Map<String, Value>) -> Answer {
    let mut found: Vec<&Cache> = world.caches_of(Kind::MemoryDb).collect();
    if let Some(name) = text(input, "ClusterName") {
        found.retain(|cache| cache.resource.id == name.to_lowercase());
        if found.is_empty() {
            return Err(ApiError::new(400, "ClusterNotFoundFault", format!("Cluster {name} not found.")));
        }
    }
    let shards = input.get("ShowShardDetails").and_then(Value::as_bool).unwrap_or(false);
    paged(clouds, input, "Clusters", found, |cache| cache.resource.id.clone(), |cache| cluster(cache, shards))
}

fn cluster(cache: &Cache, with_shards: bool) -> Value {
    let r = &cache.resource;
    let mut value = json!({
        "Name": r.id, "Status": r.status, "ARN": r.arn(), "TLSEnabled": r.tls, "Engine": r.engine,
        "EngineVersion": r.engine_version, "EnginePatchVersion": r.engine_version,
        "NumberOfShards": r.shards, "NodeType": "db.t4g.small", "SubnetGroupName": SUBNETS,
        "NetworkType": "ipv4", "IpDiscovery": "ipv4",
    });
    if let Some(group) = &r.group {
        value["ACLName"] = group.clone().into();
    }
    if let Some(at) = cache.endpoint("cluster") {
        value["ClusterEndpoint"] = json!({"Address": at.host, "Port": at.port});
    }
    if with_shards {
        value["Shards"] = cache.shards().iter().enumerate().map(|(n, nodes)| {
            let members: Vec<Value> = nodes.iter().map(|node| json!({
                "Name": node.id, "Status": "available", "CreateTime": BORN,
                "AvailabilityZone": format!("{}a", r.region),
                "Endpoint": {"Address": node.host, "Port": node.port},
            })).collect();
            let slots = nodes.first().map(|node| ranges(&node.slots)).unwrap_or_default();
            json!({"Name": format!("{:04}", n + 1), "Status": "available", "Slots": slots, "NumberOfNodes": members.len(), "Nodes": members})
        }).collect();
    }
    value
}

fn describe_users(clouds: &Clouds, world: &World, input: &Map<String, Value>) -> Answer {
    let mut found: Vec<&User> = world.users_of(MDB).collect();
    if let Some(name) = text(input, "UserName") {
        found.retain(|user| user.id == name.to_lowercase());
        if found.is_empty() {
            return Err(refused(Refusal::UserNotFound(name.into())));
        }
    }
    paged(clouds, input, "Users", found, |user| user.id.clone(), |user| render_user(world, user))
}

fn render_user(world: &World, user: &User) -> Value {
    let authentication = match &user.auth {
        CacheAuth::Iam => json!({"Type": "iam"}),
        CacheAuth::Passwords(list) => json!({"Type": "password", "PasswordCount": list.len()}),
        CacheAuth::None => json!({"Type": "no-password"}),
    };
    json!({
        "Name": user.name, "Status": user.status(), "AccessString": user.access,
        "ACLNames": world.groups_with(MDB, &user.id), "MinimumEngineVersion": "7.0",
        "Authentication": authentication, "ARN": world.arn(MDB, "user", &user.id),
    })
}

fn describe_acls(clouds: &Clouds, world: &World, input: &Map<String, Value>) -> Answer {
    let mut found: Vec<&Group> = world.groups_of(MDB).collect();
    if let Some(name) = text(input, "ACLName") {
        found.retain(|group| group.id == name.to_lowercase());
        if found.is_empty() {
            return Err(refused(Refusal::GroupNotFound(name.into())));
        }
    }
    paged(clouds, input, "ACLs", found, |group| group.id.clone(), |group| render_acl(world, group))
}

fn render_acl(world: &World, group: &Group) -> Value {
    let clusters: Vec<&String> = world.caches_with(MDB, &group.id).map(|cache| &cache.resource.id).collect();
    let mut value = json!({
        "Name": group.id, "Status": group.status(), "UserNames": group.users, "MinimumEngineVersion": "7.0",
        "Clusters": clusters, "ARN": world.arn(MDB, "acl", &group.id),
    });
    if !group.to_add.is_empty() || !group.to_remove.is_empty() {
        value["PendingChanges"] =
            json!({"UserNamesToAdd": group.to_add, "UserNamesToRemove": group.to_remove});
    }
    value
}

fn describe_subnet_groups(world: &World, input: &Map<String, Value>) -> Answer {
    if let Some(name) = text(input, "SubnetGroupName").filter(|name| *name != SUBNETS) {
        return Err(ApiError::new(
            400,
            "SubnetGroupNotFoundFault",
            format!("Subnet group {name} not found."),
        ));
    }
    Ok(json!({"SubnetGroups": [{
        "Name": SUBNETS, "Description": "the clusters' subnets", "VpcId": vpc_of(&world.account),
        "Subnets": [], "ARN": world.arn(MDB, "subnetgroup", SUBNETS),
    }]}))
}

fn asked_auth(input: &Map<String, Value>) -> Result<Option<CacheAuth>, ApiError> {
    let Some(mode) = input.get("AuthenticationMode") else { return Ok(None) };
    let kind = mode.get("Type").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "password" | "iam") {
        return Err(refused(Refusal::Value(format!(
            "Unknown authentication type '{kind}': password or iam."
        ))));
    }
    let asked = AskedAuth {
        mode: Some(kind.into()),
        mode_passwords: texts(mode.get("Passwords")),
        ..AskedAuth::default()
    };
    asked.read().map_err(refused)
}

fn create_user(clouds: &Arc<Clouds>, world: &mut World, input: &Map<String, Value>) -> Answer {
    let name = needed(input, "UserName")?.to_lowercase();
    let user = User {
        id: name.clone(),
        name,
        engine: "valkey".into(),
        access: users::access(needed(input, "AccessString")?).map_err(refused)?,
        auth: asked_auth(input)?
            .ok_or_else(|| refused(Refusal::Value("AuthenticationMode is required.".into())))?,
        busy: 0,
        deleting: false,
    };
    let (user, change) = users::create(world, MDB, user).map_err(refused)?;
    set_tags(world, world.arn(MDB, "user", &user.id), tags(input));
    clouds.run(change);
    Ok(json!({"User": render_user(world, &user)}))
}

fn update_user(clouds: &Arc<Clouds>, world: &mut World, input: &Map<String, Value>) -> Answer {
    let name = needed(input, "UserName")?.to_lowercase();
    let access = text(input, "AccessString").map(users::access).transpose().map_err(refused)?;
    let (user, change) = users::modify(world, MDB, &name, asked_auth(input)?, access).map_err(refused)?;
    clouds.run(change);
    Ok(json!({"User": render_user(world, &user)}))
}

fn delete_user(clouds: &Arc<Clouds>, world: &mut World, input: &Map<String, Value>) -> Answer {
    let name = needed(input, "UserName")?.to_lowercase();
    let (user, change) = users::delete(world, MDB, &name).map_err(refused)?;
    clouds.run(change);
    Ok(json!({"User": render_user(world, &user)}))
}

fn update_acl(clouds: &Arc<Clouds>, world: &mut World, input: &Map<String, Value>) -> Answer {
    let name = needed(input, "ACLName")?.to_lowercase();
    let (add, remove) = (texts(input.get("UserNamesToAdd")), texts(input.get("UserNamesToRemove")));
    let (group, change) = users::modify_group(world, MDB, &name, add, remove).map_err(refused)?;
    clouds.run(change);
    Ok(json!({"ACL": render_acl(world, &group)}))
}

fn delete_cluster(world: &mut World, input: &Map<String, Value>) -> Answer {
    let name = needed(input, "ClusterName")?.to_lowercase();
    let cache = world.caches.remove(&(Kind::MemoryDb, name.clone()));
    let mut cache = cache
        .ok_or_else(|| ApiError::new(400, "ClusterNotFoundFault", format!("Cluster {name} not found.")))?;
    cache.resource.status = "deleting".into();
    world.tags.remove(&cache.resource.arn());
    Ok(json!({"Cluster": cluster(&cache, false)}))
}

/// The ARN of the request, where it names something that is there.
fn tagged(world: &World, input: &Map<String, Value>) -> Result<String, ApiError> {
    let arn = needed(input, "ResourceArn")?.to_owned();
    let own = format!("arn:aws:memorydb:{}:{}:", world.region, world.account);
    let wrong =
        || ApiError::new(400, "InvalidARNFault", format!("{arn} is not an ARN of this account and region."));
    let (kind, id) = arn.strip_prefix(&own).and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let key = (MDB, id.to_owned());
    match kind {
        "cluster" => match world.caches.get(&(Kind::MemoryDb, id.to_owned())) {
            None => {
                return Err(ApiError::new(400, "ClusterNotFoundFault", format!("Cluster {id} not found.")));
            }
            Some(cache) if cache.resource.status != "available" => {
                return Err(ApiError::new(
                    400,
                    "InvalidClusterStateFault",
                    format!("Cluster {id} is {}.", cache.resource.status),
                ));
            }
            Some(_) => {}
        },
        "user" if !world.users.contains_key(&key) => return Err(refused(Refusal::UserNotFound(id.into()))),
        "acl" if !world.groups.contains_key(&key) => return Err(refused(Refusal::GroupNotFound(id.into()))),
        "user" | "acl" | "subnetgroup" => {}
        _ => return Err(wrong()),
    }
    Ok(arn)
}

fn render_tags(world: &World, arn: &str) -> Value {
    let tags = world.tags.get(arn).into_iter().flatten();
    json!({"TagList": tags.map(|(key, value)| json!({"Key": key, "Value": value})).collect::<Vec<_>>()})
}

fn list_tags(world: &World, input: &Map<String, Value>) -> Answer {
    Ok(render_tags(world, &tagged(world, input)?))
}

fn tag(world: &mut World, input: &Map<String, Value>) -> Answer {
    let arn = tagged(world, input)?;
    set_tags(world, arn.clone(), tags(input));
    Ok(render_tags(world, &arn))
}

fn untag(world: &mut World, input: &Map<String, Value>) -> Answer {
    let arn = tagged(world, input)?;
    if let Some(tags) = world.tags.get_mut(&arn) {
        texts(input.get("TagKeys")).iter().for_each(|key| drop(tags.remove(key)));
    }
    Ok(render_tags(world, &arn))
}
