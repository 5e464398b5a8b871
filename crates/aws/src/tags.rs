//! Tags in bulk: the Resource Groups Tagging API.

use std::collections::BTreeSet;

use aws_sdk_resourcegroupstagging::Client;
use aws_sdk_resourcegroupstagging::types::ResourceTagMapping;
use keystile_model::arn::Arn;
use keystile_model::cloud::{CloudError, Page, Record, TaggedType, Tags};

use crate::discovery::reason;

/// The right that it needs.
const ACTION: &str = "tag:GetResources";
/// The largest page.
const PER_PAGE: i32 = 100;

/// One page of everything of these types. A page may be short or empty and still not be the last.
pub(crate) async fn page(
    client: &Client,
    types: &BTreeSet<TaggedType>,
    token: Option<&str>,
) -> Result<Page, CloudError> {
    let answer = client
        .get_resources()
        .resources_per_page(PER_PAGE)
        .set_resource_type_filters(Some(types.iter().map(|kind| kind.as_str().to_owned()).collect()))
        .set_pagination_token(token.map(ToOwned::to_owned))
        .send()
        .await
        .map_err(|error| reason(ACTION, &error))?;
    let records = answer.resource_tag_mapping_list.unwrap_or_default().into_iter().filter_map(pair);
    Ok(Page {
        records: records.map(|(arn, tags)| Record::Tagged { arn, tags }).collect(),
        next: answer.pagination_token.filter(|token| !token.is_empty()),
    })
}

/// Tags of at most 100 resources in one call.
pub(crate) async fn by_arn(client: &Client, arns: &[Arn]) -> Result<Vec<(String, Tags)>, CloudError> {
    let answer = client
        .get_resources()
        // A list of ARNs goes without filters and paging.
        .set_resource_arn_list(Some(arns.iter().map(ToString::to_string).collect()))
        .send()
        .await
        .map_err(|error| reason(ACTION, &error))?;
    Ok(answer.resource_tag_mapping_list.unwrap_or_default().into_iter().filter_map(pair).collect())
}

fn pair(mapping: ResourceTagMapping) -> Option<(String, Tags)> {
    let tags = mapping.tags.unwrap_or_default().into_iter().map(|tag| (tag.key, tag.value)).collect();
    Some((mapping.resource_arn?, tags))
}
