//! The account API: which regions an account has.

use serde_json::{Value, json};

use super::caches::paging::page;
use super::wire::{ApiError, Request, Response, answer};

/// Regions and whether they are enabled; the world lives in those that are.
const REGIONS: &[(&str, &str)] = &[
    ("af-south-1", "DISABLED"),
    ("ap-east-1", "DISABLED"),
    ("eu-west-1", "ENABLED_BY_DEFAULT"),
    ("us-east-1", "ENABLED_BY_DEFAULT"),
];

/// Whether an account can be asked about caches in this region.
pub(crate) fn enabled(region: &str) -> bool {
    REGIONS.iter().any(|(name, status)| *name == region && *status != "DISABLED")
}

/// Answers one call.
pub(crate) fn handle(operation: &str, request: &Request, size: usize) -> Result<Response, ApiError> {
    let input: Value = serde_json::from_slice(if request.body.is_empty() { b"{}" } else { &request.body })
        .map_err(|error| ApiError::new(400, "ValidationException", error.to_string()))?;
    let output = match operation {
        "ListRegions" => list(&input, size)?,
        "GetRegionOptStatus" => status(&input)?,
        other => {
            return Err(ApiError::new(
                404,
                "ResourceNotFoundException",
                format!("The local stand-in of the account API does not know {other}."),
            ));
        }
    };
    Ok(answer(200, "application/json", output.to_string()))
}

fn list(input: &Value, size: usize) -> Result<Value, ApiError> {
    let wanted: Vec<&str> = input
        .get("RegionOptStatusContains")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let asked =
        input.get("MaxResults").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(50);
    let found = REGIONS.iter().filter(|(_, status)| wanted.is_empty() || wanted.contains(status));
    let token = input.get("NextToken").and_then(Value::as_str);
    let found = page(found, |(name, _)| (*name).to_owned(), "ListRegions", token, asked.min(size))
        .map_err(|why| ApiError::new(400, "ValidationException", why))?;
    let regions: Vec<Value> = found
        .items
        .iter()
        .map(|(name, status)| json!({"RegionName": name, "RegionOptStatus": status}))
        .collect();
    let mut output = json!({ "Regions": regions });
    if let Some(next) = found.next {
        output["NextToken"] = next.into();
    }
    Ok(output)
}

fn status(input: &Value) -> Result<Value, ApiError> {
    let name = input.get("RegionName").and_then(Value::as_str).unwrap_or_default();
    let found = REGIONS.iter().find(|(region, _)| *region == name);
    let (name, status) = found
        .ok_or_else(|| ApiError::new(400, "ValidationException", format!("There is no region '{name}'.")))?;
    Ok(json!({"RegionName": name, "RegionOptStatus": status}))
}
