//! Invokes another function and waits for its answer. Never twice: a run that timed out may still be running.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::config::Builder;
use aws_sdk_lambda::error::ProvideErrorMetadata;
use aws_sdk_lambda::primitives::Blob;

/// Longest wait for an answer: the functions that are invoked end after 300 s.
const WAIT: Duration = Duration::from_secs(310);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// Throttled, timed out, or out of reach; the function may have run.
    #[error("the function does not answer: {0}")]
    Unavailable(String),
    /// Missing, or the right to invoke it is; with AWS's code.
    #[error("the function cannot be invoked: {0}")]
    Refused(String),
    /// It ran and failed.
    #[error("the function failed: {0}")]
    Failed(String),
}

/// Invokes functions.
#[derive(Debug, Clone)]
pub struct Invoker {
    client: Client,
}

impl Invoker {
    /// With this configuration, and time limits of its own.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(WAIT)
            .operation_attempt_timeout(WAIT)
            .operation_timeout(WAIT)
            .build();
        let config = Builder::from(config).timeout_config(timeouts).retry_config(RetryConfig::disabled());
        Self { client: Client::from_conf(config.build()) }
    }

    /// Invokes a function by name or ARN and answers its JSON.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn invoke(
        &self,
        function: &str,
        event: &serde_json::Value,
    ) -> Result<serde_json::Value, InvokeError> {
        let payload = Blob::new(event.to_string());
        let answer =
            self.client.invoke().function_name(function).payload(payload).send().await.map_err(|error| {
                match error.code() {
                    None => InvokeError::Unavailable("no answer in time".to_owned()),
                    Some(
                        code @ ("TooManyRequestsException"
                        | "ServiceException"
                        | "ThrottlingException"
                        | "EC2ThrottledException"),
                    ) => InvokeError::Unavailable(code.to_owned()),
                    Some(code) => InvokeError::Refused(code.to_owned()),
                }
            })?;
        let body = answer.payload().map(AsRef::as_ref).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(body)
            .map_err(|_| InvokeError::Failed("its answer is no JSON".to_owned()))?;
        if answer.function_error().is_some() {
            let message = value.get("errorMessage").and_then(|text| text.as_str()).unwrap_or("unknown");
            return Err(InvokeError::Failed(message.chars().take(500).collect()));
        }
        Ok(value)
    }
}
