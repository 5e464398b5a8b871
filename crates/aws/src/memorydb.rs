//! MemoryDB's lists as our records. Converts and judges nothing.

use aws_sdk_memorydb::Client;
use aws_sdk_memorydb::types;
use keystile_model::arn::Arn;
use keystile_model::cloud::{CacheRecord, CloudError, GroupRecord, List, Page, Record, Tags, UserRecord};
use keystile_model::database::{DatabaseKind, Endpoint, Node};
use keystile_model::db_user::{DbUserAuth, DbUserService};

use crate::discovery::{page_of, reason};
use crate::elasticache::slots;

/// The largest page.
const MAX_RESULTS: i32 = 100;

/// One page of a MemoryDB list.
pub(crate) async fn page(client: &Client, list: &List, token: Option<&str>) -> Result<Page, CloudError> {
    let token = token.map(ToOwned::to_owned);
    match list {
        List::MemorydbUsers => users(client, token).await,
        List::MemorydbAcls => acls(client, token).await,
        List::MemorydbSubnetGroups => subnet_groups(client, token).await,
        _ => clusters(client, token).await,
    }
}

async fn clusters(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client
        .describe_clusters()
        .max_results(MAX_RESULTS)
        // Without it no cluster comes with its shards.
        .show_shard_details(true)
        .set_next_token(token)
        .send()
        .await;
    page_of(
        &List::MemorydbClusters,
        answer,
        |answer| (answer.clusters, answer.next_token),
        |found| Record::Cache(Box::new(cluster(found))),
    )
}

async fn users(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_users().max_results(MAX_RESULTS).set_next_token(token).send().await;
    page_of(
        &List::MemorydbUsers,
        answer,
        |answer| (answer.users, answer.next_token),
        |u| Record::User(user(u)),
    )
}

async fn acls(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_acls().max_results(MAX_RESULTS).set_next_token(token).send().await;
    page_of(
        &List::MemorydbAcls,
        answer,
        |answer| (answer.acls, answer.next_token),
        |acl| {
            Record::Group(GroupRecord {
                id: acl.name.unwrap_or_default(),
                users: acl.user_names.unwrap_or_default().into_iter().collect(),
            })
        },
    )
}

async fn subnet_groups(client: &Client, token: Option<String>) -> Result<Page, CloudError> {
    let answer = client.describe_subnet_groups().max_results(MAX_RESULTS).set_next_token(token).send().await;
    page_of(
        &List::MemorydbSubnetGroups,
        answer,
        |answer| (answer.subnet_groups, answer.next_token),
        |group| Record::SubnetGroup {
            name: group.name.unwrap_or_default(),
            vpc_id: group.vpc_id.unwrap_or_default(),
        },
    )
}

/// Tags of one resource.
pub(crate) async fn tags_of(client: &Client, arn: &Arn) -> Result<Tags, CloudError> {
    let answer = client
        .list_tags()
        .resource_arn(arn.as_str())
        .send()
        .await
        .map_err(|error| reason("memorydb:ListTags", &error))?;
    let pairs = answer.tag_list.unwrap_or_default().into_iter();
    Ok(pairs.map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect())
}

fn cluster(cluster: types::Cluster) -> CacheRecord {
    let shards = cluster.shards.unwrap_or_default();
    let made = shards.iter().flat_map(|shard| shard.nodes.iter().flatten());
    let created_at = made.filter_map(|node| node.create_time.as_ref()).map(|at| at.secs()).min();
    CacheRecord {
        kind: DatabaseKind::Memorydb,
        arn: cluster.arn.unwrap_or_default(),
        id: cluster.name.unwrap_or_default(),
        description: cluster.description.unwrap_or_default(),
        status: cluster.status.unwrap_or_default(),
        engine: cluster.engine.unwrap_or_default(),
        engine_version: cluster.engine_version.unwrap_or_default(),
        tls: cluster.tls_enabled.unwrap_or_default(),
        cluster_mode: true,
        endpoint: endpoint(cluster.cluster_endpoint),
        reader: None,
        nodes: shards.into_iter().flat_map(nodes).collect(),
        groups: cluster.acl_name.into_iter().collect(),
        subnet_group: cluster.subnet_group_name.unwrap_or_default(),
        created_at,
    }
}

fn nodes(shard: types::Shard) -> Vec<Node> {
    let slots = slots(shard.slots.as_deref().unwrap_or_default());
    let node = |node: types::Node| Node {
        id: node.name.unwrap_or_default(),
        // AWS does not say which of a shard's nodes is the primary.
        role: String::new(),
        endpoint: endpoint(node.endpoint),
        slots: slots.clone(),
    };
    shard.nodes.unwrap_or_default().into_iter().map(node).collect()
}

fn user(user: types::User) -> UserRecord {
    let auth = user.authentication.and_then(|auth| auth.r#type).and_then(|kind| match kind {
        types::AuthenticationType::Iam => Some(DbUserAuth::Iam),
        types::AuthenticationType::Password => Some(DbUserAuth::Password),
        types::AuthenticationType::NoPassword => Some(DbUserAuth::None),
        _ => None,
    });
    let name = user.name.unwrap_or_default();
    UserRecord {
        service: DbUserService::Memorydb,
        arn: user.arn.unwrap_or_default(),
        id: name.clone(),
        name,
        auth,
        status: user.status.unwrap_or_default(),
        access_string: user.access_string.unwrap_or_default(),
        groups: user.acl_names.unwrap_or_default().into_iter().collect(),
    }
}

fn endpoint(described: Option<types::Endpoint>) -> Option<Endpoint> {
    let described = described?;
    let port = u16::try_from(described.port).ok().filter(|port| *port != 0)?;
    Some(Endpoint { host: described.address.filter(|host| !host.is_empty())?, port })
}
