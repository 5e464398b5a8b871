//! The regions that an account has enabled, from the account API.

use aws_sdk_account::Client;
use aws_sdk_account::types::RegionOptStatus;
use keystile_model::cloud::{CloudError, List, Page, Record};

use crate::discovery::reason;

/// The largest page.
const MAX_RESULTS: i32 = 50;

/// One page of enabled regions.
pub(crate) async fn page(client: &Client, token: Option<&str>) -> Result<Page, CloudError> {
    let answer = client
        .list_regions()
        .region_opt_status_contains(RegionOptStatus::Enabled)
        .region_opt_status_contains(RegionOptStatus::EnabledByDefault)
        .max_results(MAX_RESULTS)
        .set_next_token(token.map(ToOwned::to_owned))
        .send()
        .await
        .map_err(|error| reason(List::Regions.action(), &error))?;
    let records = answer.regions.unwrap_or_default().into_iter().filter_map(|region| region.region_name);
    Ok(Page { records: records.map(Record::Region).collect(), next: answer.next_token })
}
