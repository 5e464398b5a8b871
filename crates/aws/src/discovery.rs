//! The discovery port over AWS: one client a service, role and region, made when first asked for; errors as
//! reasons that a report can show.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_sts::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use keystile_model::arn::Arn;
use keystile_model::cloud::{Cloud, CloudError, List, Page, Place, Record, Tags};

use crate::config::AwsConfig;
use crate::credentials::{CredentialProblem, problem_within};
use crate::places::Places;
use crate::{elasticache, memorydb, regions, tags};

/// Clients of one place.
#[derive(Debug)]
struct Clients {
    elasticache: aws_sdk_elasticache::Client,
    memorydb: aws_sdk_memorydb::Client,
    tagging: aws_sdk_resourcegroupstagging::Client,
    account: aws_sdk_account::Client,
}

/// AWS as discovery and label sync see it.
#[derive(Debug)]
pub struct AwsCloud(Places<Clients>);

impl AwsCloud {
    /// On this configuration; asks nobody yet.
    #[must_use]
    pub fn new(config: AwsConfig) -> Self {
        Self(Places::new(config))
    }

    fn clients(&self, place: &Place) -> Arc<Clients> {
        self.0.clients(place, |config| Clients {
            elasticache: aws_sdk_elasticache::Client::new(config),
            memorydb: aws_sdk_memorydb::Client::new(config),
            tagging: aws_sdk_resourcegroupstagging::Client::new(config),
            account: aws_sdk_account::Client::new(config),
        })
    }
}

#[async_trait]
impl Cloud for AwsCloud {
    async fn home_account(&self) -> Result<String, CloudError> {
        let answer = aws_sdk_sts::Client::new(self.0.home())
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| reason("sts:GetCallerIdentity", &error))?;
        answer.account.ok_or_else(|| CloudError::Failed("STS named no account".to_owned()))
    }

    async fn page(&self, place: &Place, list: &List, token: Option<&str>) -> Result<Page, CloudError> {
        let clients = self.clients(place);
        match list {
            List::Regions => regions::page(&clients.account, token).await,
            List::Tags(types) => tags::page(&clients.tagging, types, token).await,
            List::MemorydbClusters
            | List::MemorydbUsers
            | List::MemorydbAcls
            | List::MemorydbSubnetGroups => memorydb::page(&clients.memorydb, list, token).await,
            _ => elasticache::page(&clients.elasticache, list, token).await,
        }
    }

    async fn tags_by_arn(&self, place: &Place, arns: &[Arn]) -> Result<Vec<(String, Tags)>, CloudError> {
        tags::by_arn(&self.clients(place).tagging, arns).await
    }

    async fn tags_of(&self, place: &Place, arn: &Arn) -> Result<Tags, CloudError> {
        let clients = self.clients(place);
        if arn.service() == "memorydb" {
            memorydb::tags_of(&clients.memorydb, arn).await
        } else {
            elasticache::tags_of(&clients.elasticache, arn).await
        }
    }
}

/// One page out of the answer to a list: its items as records, and where the next page begins.
pub(crate) fn page_of<A, T, E, R>(
    list: &List,
    answer: Result<A, SdkError<E, R>>,
    parts: impl FnOnce(A) -> (Option<Vec<T>>, Option<String>),
    record: impl FnMut(T) -> Record,
) -> Result<Page, CloudError>
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug + 'static,
{
    let (items, next) = parts(answer.map_err(|error| reason(list.action(), &error))?);
    Ok(Page { records: items.unwrap_or_default().into_iter().map(record).collect(), next })
}

/// The reason of a failed call: permission errors name the action.
pub(crate) fn reason<E, R>(action: &str, error: &SdkError<E, R>) -> CloudError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
    R: std::fmt::Debug + 'static,
{
    match problem_within(error) {
        Some(CredentialProblem::Refused { role, through, .. }) => {
            let through = through.map(|hub| format!(" through {hub}")).unwrap_or_default();
            return CloudError::RoleRefused(format!("{role}{through}"));
        }
        Some(CredentialProblem::None(why)) => return CloudError::NoCredentials(why),
        Some(CredentialProblem::Unavailable(why)) => return CloudError::Failed(why),
        None => {}
    }
    match error {
        SdkError::TimeoutError(_) => CloudError::TimedOut(action.to_owned()),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => CloudError::TimedOut(action.to_owned()),
        SdkError::DispatchFailure(failure) if failure.is_io() => CloudError::Unreachable(action.to_owned()),
        SdkError::ServiceError(context) => service_reason(action, context.err().code().unwrap_or_default()),
        _ => CloudError::Failed(format!("{action}: {}", DisplayErrorContext(error))),
    }
}

/// The reason that a service's own code stands for.
fn service_reason(action: &str, code: &str) -> CloudError {
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "AuthorizationError" => {
            CloudError::Forbidden(action.to_owned())
        }
        "OptInRequired" | "RegionDisabledException" => CloudError::RegionDisabled,
        "InvalidClientTokenId" | "UnrecognizedClientException" | "AuthFailure" => {
            CloudError::NoCredentials(format!("{action}: {code}, or the region is not enabled"))
        }
        "ExpiredToken" | "ExpiredTokenException" | "SignatureDoesNotMatch" | "InvalidSignatureException" => {
            CloudError::NoCredentials(format!("{action}: {code}"))
        }
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "SlowDown" => CloudError::Throttled(action.to_owned()),
        "PaginationTokenExpiredException" => CloudError::TokenExpired(action.to_owned()),
        "" => CloudError::Failed(format!("{action}: an answer without a code")),
        code => CloudError::Failed(format!("{action}: {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_the_action() {
        let action = "elasticache:DescribeServerlessCaches";
        assert_eq!(
            service_reason(action, "AccessDenied").to_string(),
            "no permission: elasticache:DescribeServerlessCaches"
        );
        assert_eq!(service_reason(action, "OptInRequired"), CloudError::RegionDisabled);
        assert!(matches!(service_reason(action, "ThrottledException"), CloudError::Throttled(_)));
        assert!(matches!(service_reason(action, "Odd"), CloudError::Failed(_)));
    }
}
