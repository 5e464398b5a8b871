//! Puts the function together: settings, AWS clients, keys, sinks.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use keystile_api::ErrorCode;
use keystile_aws::config::{AwsConfig, SystemClock};
use keystile_aws::kms::KmsSigner;
use keystile_aws::lambda::{InvokeError, Invoker};
use keystile_identity::signer::{CaSigner, FileSigner};
use keystile_model::store::Clock;
use keystile_state::dynamo::{self, DynamoStore};
use keystile_state::snapshot::Snapshot;
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use crate::app::{App, Job};
use crate::audit::{Appended, AuditSink, Stdout};
use crate::config::{CaKey, Config};
use crate::failure::{Failure, internal};

/// The function with AWS behind its ports.
pub(crate) async fn app() -> anyhow::Result<App> {
    let config = Config::from_variables(|name| std::env::var(name).ok())?;
    let aws = AwsConfig::load("keystile-access").await;
    let client = dynamo::client(aws.home(), dynamo::JOB_ATTEMPT);
    let tables = DynamoStore::new(client, &config.policy_table, &config.runtime_table);
    let store = Arc::new(tables.clone());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let audit: Arc<dyn AuditSink> = match &config.audit_file {
        Some(path) => {
            Arc::new(Appended::open(path).with_context(|| format!("audit file {}", path.display()))?)
        }
        None => Arc::new(Stdout),
    };
    Ok(App {
        user_ca: signer(&aws, &config.user_ca)?,
        host_ca: signer(&aws, &config.host_ca)?,
        discovery: Arc::new(JobFunction {
            invoker: Invoker::new(aws.home()),
            name: config.discover_function.clone(),
            job: "discovery",
            look: "keystile discover status",
        }),
        rotation: Arc::new(JobFunction {
            invoker: Invoker::new(aws.home()),
            name: config.rotate_function.clone(),
            job: "rotation",
            look: "keystile rotate status",
        }),
        snapshot: Snapshot::new(store.clone(), Arc::clone(&clock)),
        store,
        runtime: Arc::new(tables),
        audit,
        clock,
        ids: Uuid::new_v4,
        config,
    })
}

fn signer(aws: &AwsConfig, key: &CaKey) -> anyhow::Result<Arc<dyn CaSigner>> {
    Ok(match key {
        CaKey::Kms(arn) => Arc::new(KmsSigner::new(aws.home(), arn)),
        CaKey::File(path) => {
            let pem = std::fs::read_to_string(path).with_context(|| format!("CA key {}", path.display()))?;
            Arc::new(FileSigner::from_pem(&SecretString::from(pem))?)
        }
    })
}

struct JobFunction {
    invoker: Invoker,
    name: String,
    /// What people call it.
    job: &'static str,
    /// Where it can be seen.
    look: &'static str,
}

#[async_trait]
impl Job for JobFunction {
    async fn run(&self, event: &Value) -> Result<Value, Failure> {
        let Self { invoker, name, job, look } = self;
        if name.is_empty() {
            return Err(internal(&format!(
                "the access function was not told the name of the {job} function"
            )));
        }
        invoker.invoke(name, event).await.map_err(|error| match error {
            InvokeError::Unavailable(why) => {
                Failure::new(ErrorCode::Unavailable, format!("the {job} function does not answer"))
                    .why(why)
                    .next(format!("it may still be running: {look}"))
            }
            InvokeError::Refused(inside) => {
                tracing::error!(inside, "the {job} function cannot be invoked");
                internal(&format!("the {job} function cannot be invoked"))
            }
            InvokeError::Failed(inside) => {
                // Its errors are written for the editors who may run it.
                tracing::error!(inside, "the {job} function failed");
                Failure::new(ErrorCode::Internal, format!("the {job} function failed"))
                    .why(inside)
                    .next(*look)
            }
        })
    }
}
