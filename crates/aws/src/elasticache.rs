//! ElastiCache's lists as our records. Converts and judges nothing: every member may be absent.

use aws_sdk_elasticache::Client;
use aws_sdk_elasticache::types;
use keystile_model::arn::Arn;
use keystile_model::cloud::{
    CacheRecord, CloudError, GroupRecord, List, MemberRecord, Page, Record, Tags, UserRecord,
};
use keystile_model::database::{DatabaseKind, Endpoint, Node};
use keystile_model::db_user::{DbUserAuth, DbUserService};

use crate::discovery::{page_of, reason};

/// The largest page of the lists that page by marker.
const MAX_RECORDS: i32 = 100;
/// The largest page of the list of serverless caches.
const MAX_SERVERLESS: i32 = 50;

/// One page of an ElastiCache list.
pub(crate) async fn page(client: &Client, list: &List, token: Option<&str>) -> Result<Page, CloudError> {
    let token = token.map(ToOwned::to_owned);
    match list {
        List::CacheClusters => cache_clusters(client, token).await,
        List::ServerlessCaches => serverless_caches(client, token).await,
        List::ElasticacheUsers => users(client, token).await,
        List::ElasticacheUserGroups => user_groups(client, token).await,
        List::ElasticacheSubnetGroups => subnet_groups(client, token).await,
        _ => replication_groups(client, token).await,
    }
}

async fn replication_groups(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_replication_groups().max_records(MAX_RECORDS).set_marker(token).send().await;
    page_of(
        &List::ReplicationGroups,
        answer,
        |answer| (answer.replication_groups, answer.marker),
        |found| Record::Cache(Box::new(group(found))),
    )
}

async fn cache_clusters(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client
        .describe_cache_clusters()
        .max_records(MAX_RECORDS)
        .show_cache_node_info(true)
        .set_marker(token)
        .send()
        .await;
    page_of(
        &List::CacheClusters,
        answer,
        |answer| (answer.cache_clusters, answer.marker),
        |c| Record::Member(member(c)),
    )
}

async fn serverless_caches(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer =
        client.describe_serverless_caches().max_results(MAX_SERVERLESS).set_next_token(token).send().await;
    page_of(
        &List::ServerlessCaches,
        answer,
        |answer| (answer.serverless_caches, answer.next_token),
        |found| Record::Cache(Box::new(serverless(found))),
    )
}

async fn users(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_users().max_records(MAX_RECORDS).set_marker(token).send().await;
    page_of(
        &List::ElasticacheUsers,
        answer,
        |answer| (answer.users, answer.marker),
        |u| Record::User(user(u)),
    )
}

async fn user_groups(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_user_groups().max_records(MAX_RECORDS).set_marker(token).send().await;
    page_of(
        &List::ElasticacheUserGroups,
        answer,
        |answer| (answer.user_groups, answer.marker),
        |group| {
            Record::Group(GroupRecord {
                id: group.user_group_id.unwrap_or_default(),
                users: group.user_ids.unwrap_or_default().into_iter().collect(),
            })
        },
    )
}

async fn subnet_groups(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer =
        client.describe_cache_subnet_groups().max_records(MAX_RECORDS).set_marker(token).send().await;
    page_of(
        &List::ElasticacheSubnetGroups,
        answer,
        |answer| (answer.cache_subnet_groups, answer.marker),
        |group| Record::SubnetGroup {
            name: group.cache_subnet_group_name.unwrap_or_default(),
            vpc_id: group.vpc_id.unwrap_or_default(),
        },
    )
}

/// Tags of one resource.
pub(crate) async fn tags_of(client: &Client, arn: &Arn) -> Result<Tags, CloudError> {
    let answer = client
        .list_tags_for_resource()
        .resource_name(arn.as_str())
        .send()
        .await
        .map_err(|error| reason("elasticache:ListTagsForResource", &error))?;
    let pairs = answer.tag_list.unwrap_or_default().into_iter();
    Ok(pairs.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect())
}

fn group(group: types::ReplicationGroup) -> CacheRecord {
    let cluster_mode = group.cluster_enabled.unwrap_or_default();
    let shards = group.node_groups.unwrap_or_default();
    let first = shards.first();
    let (endpoint, reader) = if cluster_mode {
        (endpoint(group.configuration_endpoint), None)
    } else {
        (
            endpoint(first.and_then(|shard| shard.primary_endpoint.clone())),
            endpoint(first.and_then(|shard| shard.reader_endpoint.clone())),
        )
    };
    CacheRecord {
        kind: DatabaseKind::Elasticache,
        arn: group.arn.unwrap_or_default(),
        id: group.replication_group_id.unwrap_or_default(),
        description: group.description.unwrap_or_default(),
        status: group.status.unwrap_or_default(),
        engine: group.engine.unwrap_or_default(),
        engine_version: String::new(),
        tls: group.transit_encryption_enabled.unwrap_or_default(),
        cluster_mode,
        endpoint,
        reader,
        nodes: shards.into_iter().flat_map(nodes).collect(),
        groups: group.user_group_ids.unwrap_or_default().into_iter().collect(),
        subnet_group: String::new(),
        created_at: group.replication_group_create_time.map(|at| at.secs()),
    }
}

fn nodes(shard: types::NodeGroup) -> Vec<Node> {
    let slots = slots(shard.slots.as_deref().unwrap_or_default());
    let members = shard.node_group_members.unwrap_or_default().into_iter();
    let node = |member: types::NodeGroupMember| Node {
        id: member.cache_cluster_id.unwrap_or_default(),
        role: member.current_role.unwrap_or_default(),
        endpoint: endpoint(member.read_endpoint),
        slots: slots.clone(),
    };
    members.map(node).collect()
}

fn serverless(cache: types::ServerlessCache) -> CacheRecord {
    CacheRecord {
        kind: DatabaseKind::ElasticacheServerless,
        arn: cache.arn.unwrap_or_default(),
        id: cache.serverless_cache_name.unwrap_or_default(),
        description: cache.description.unwrap_or_default(),
        status: cache.status.unwrap_or_default(),
        engine: cache.engine.unwrap_or_default(),
        engine_version: cache.full_engine_version.or(cache.major_engine_version).unwrap_or_default(),
        // Serverless caches have no such flag: they always encrypt.
        tls: true,
        cluster_mode: true,
        endpoint: endpoint(cache.endpoint),
        reader: endpoint(cache.reader_endpoint),
        nodes: Vec::new(),
        groups: cache.user_group_id.into_iter().collect(),
        subnet_group: String::new(),
        created_at: cache.create_time.map(|at| at.secs()),
    }
}

fn member(cluster: types::CacheCluster) -> MemberRecord {
    let node = cluster.cache_nodes.unwrap_or_default().into_iter().next();
    MemberRecord {
        id: cluster.cache_cluster_id.unwrap_or_default(),
        group: cluster.replication_group_id.unwrap_or_default(),
        arn: cluster.arn.unwrap_or_default(),
        engine: cluster.engine.unwrap_or_default(),
        engine_version: cluster.engine_version.unwrap_or_default(),
        subnet_group: cluster.cache_subnet_group_name.unwrap_or_default(),
        endpoint: node.and_then(|node| endpoint(node.endpoint)),
    }
}

fn user(user: types::User) -> UserRecord {
    let auth = user.authentication.and_then(|auth| auth.r#type).and_then(|kind| match kind {
        types::AuthenticationType::Iam => Some(DbUserAuth::Iam),
        types::AuthenticationType::Password => Some(DbUserAuth::Password),
        types::AuthenticationType::NoPassword => Some(DbUserAuth::None),
        _ => None,
    });
    UserRecord {
        service: DbUserService::Elasticache,
        arn: user.arn.unwrap_or_default(),
        id: user.user_id.unwrap_or_default(),
        name: user.user_name.unwrap_or_default(),
        auth,
        status: user.status.unwrap_or_default(),
        access_string: user.access_string.unwrap_or_default(),
        groups: user.user_group_ids.unwrap_or_default().into_iter().collect(),
    }
}

fn endpoint(described: Option<types::Endpoint>) -> Option<Endpoint> {
    let described = described?;
    let port = u16::try_from(described.port?).ok()?;
    Some(Endpoint { host: described.address.filter(|host| !host.is_empty())?, port })
}

/// `0-5460,5462`: inclusive ranges; a part that is none is left out.
pub(crate) fn slots(text: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        let range = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
        (range.0 <= range.1 && range.1 < 16_384).then_some(range)
    };
    text.split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_ranges() {
        assert_eq!(slots("0-5460"), [(0, 5460)]);
        assert_eq!(slots("0-1,7, 9-10"), [(0, 1), (7, 7), (9, 10)]);
        assert!(slots("").is_empty());
        assert!(slots("5-1,0-16384,x").is_empty());
    }

    #[test]
    fn everything_may_be_absent() {
        let record = group(types::ReplicationGroup::builder().build());
        assert_eq!((record.endpoint, record.reader, record.tls), (None, None, false));
        assert!(serverless(types::ServerlessCache::builder().build()).endpoint.is_none());
        assert!(user(types::User::builder().build()).auth.is_none());
        let port = types::Endpoint::builder().address("a").port(70_000).build();
        assert!(endpoint(Some(port)).is_none());
    }
}
