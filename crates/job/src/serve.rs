//! Logs, and the Lambda runtime's loop around a job that was put together once.

use std::sync::Arc;

use keystile_model::store::Clock;
use lambda_runtime::{LambdaEvent, service_fn};
use serde::Serialize;
use serde_json::Value;

/// The SDK and its HTTP client show requests from `debug` on, and some of ours hold passwords: whatever the
/// environment asks for, they stay quiet.
const QUIET: [&str; 7] = [
    "aws_smithy_runtime=info",
    "aws_smithy_runtime_api=info",
    "aws_smithy_http_client=info",
    "aws_sdk_elasticache=info",
    "aws_sdk_memorydb=info",
    "aws_sdk_secretsmanager=info",
    "hyper=info",
];

/// JSON lines on standard error, at `RUST_LOG` or `info`.
pub fn log() {
    let asked = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let quiet = QUIET.iter().filter_map(|directive| directive.parse().ok());
    let filter = quiet.fold(asked, tracing_subscriber::EnvFilter::add_directive);
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_env_filter(filter).init();
}

/// Serves invocations one after the other until the platform ends the process. `run` gets the job, the event,
/// and the milliseconds until the platform ends the run, where it says so.
///
/// # Errors
/// Why the job could not be put together, or the runtime's own trouble; both end the process.
pub async fn serve<J, R, F>(
    job: anyhow::Result<J>,
    clock: impl Clock,
    run: impl Fn(Arc<J>, Value, Option<u64>) -> F,
) -> Result<(), lambda_runtime::Error>
where
    R: Serialize,
    F: Future<Output = anyhow::Result<R>>,
{
    let job = Arc::new(job.inspect_err(|error| tracing::error!("cannot start: {error:#}"))?);
    lambda_runtime::run(service_fn(|event: LambdaEvent<Value>| {
        let left = time_left_ms(event.context.deadline, &clock);
        let running = run(Arc::clone(&job), event.payload, left);
        async move {
            running.await.map_err(|error| {
                tracing::error!("the run failed: {error:#}");
                lambda_runtime::Error::from(error)
            })
        }
    }))
    .await
}

/// Milliseconds from now to the platform's deadline, given in Unix milliseconds; none where it gives none.
fn time_left_ms(deadline: u64, clock: &dyn Clock) -> Option<u64> {
    let now = u64::try_from(clock.now().unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    (deadline > 0).then(|| deadline.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Second(i64);

    impl Clock for Second {
        fn now(&self) -> time::OffsetDateTime {
            time::OffsetDateTime::from_unix_timestamp(self.0).unwrap()
        }
    }

    #[test]
    fn time_that_is_left() {
        for (deadline, left) in [(0, None), (12_500, Some(2_500)), (10_000, Some(0)), (9_000, Some(0))] {
            assert_eq!(time_left_ms(deadline, &Second(10)), left);
        }
    }
}
