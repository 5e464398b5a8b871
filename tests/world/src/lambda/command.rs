//! `keystile-world invoke NAME`: one scheduled run of a function, as this command's child.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::signal::unix::{SignalKind, signal};

use super::{Deployed, Ending, FunctionSpec, invoke};
use crate::fixture::{HOME_ACCOUNT, HOME_REGION};

/// The function returned an error.
const FAILED: u8 = 1;
/// The run never came to an answer: killed, out of time, or not started.
const NO_ANSWER: u8 = 3;

/// What `keystile-world invoke` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct InvokeArguments {
    /// The front's folder.
    #[arg(long, default_value = "target/local/front")]
    pub front: PathBuf,
    /// The function: discover, sync-labels, rotate.
    pub function: String,
}

/// What this command needs to know of the front.
#[derive(Debug, Deserialize)]
struct FrontFile {
    endpoint_url: String,
    control_url: String,
    control_token: String,
}

/// Runs the function once and prints its answer. Exit code 1 says that the function returned an error.
///
/// # Errors
/// When the world does not run, or the function is not deployed; the caller exits with another code
/// than 1 then: see [`InvokeArguments`].
pub async fn invoke_command(arguments: &InvokeArguments) -> ExitCode {
    let ran = tokio::select! {
        ran = run(arguments) => ran,
        // The child is killed as its worker is dropped.
        code = ended_from_outside() => return ExitCode::from(code),
    };
    match ran {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("keystile-world: {error:#}"));
            ExitCode::from(NO_ANSWER)
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

async fn ended_from_outside() -> u8 {
    let wait = |kind: SignalKind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => 143,
        () = wait(SignalKind::interrupt()) => 130,
        () = wait(SignalKind::hangup()) => 129,
    }
}

async fn run(arguments: &InvokeArguments) -> anyhow::Result<u8> {
    let path = arguments.front.join("front.json");
    let bytes = std::fs::read(&path)
        .with_context(|| format!("cannot read {}: is the world up? (make up)", path.display()))?;
    let front: FrontFile =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", path.display()))?;
    let deployed = Deployed::read(&arguments.front.join("functions.json"))?;
    let Some(spec) = deployed.find(&arguments.function) else {
        let names: Vec<&str> = deployed.functions.iter().map(|spec| spec.name.as_str()).collect();
        bail!("there is no function {}; deployed are: {}", arguments.function, names.join(", "));
    };
    let credentials = credentials(&front, &spec.role).await?;
    let event = scheduler_event(spec, OffsetDateTime::now_utc()).to_string();
    let outcome = invoke(spec, &front.endpoint_url, &credentials, Bytes::from(event)).await?;
    let mut stderr = std::io::stderr().lock();
    stderr.write_all(outcome.log.as_bytes())?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&outcome.payload)?;
    stdout.write_all(b"\n")?;
    Ok(match outcome.ending {
        Ending::Answered => 0,
        Ending::Failed => FAILED,
        Ending::Exited | Ending::TimedOut => NO_ANSWER,
    })
}

/// What EventBridge Scheduler sends where the schedule has no input of its own.
fn scheduler_event(spec: &FunctionSpec, now: OffsetDateTime) -> Value {
    json!({
        "version": "0",
        "id": uuid::Uuid::new_v4().to_string(),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": HOME_ACCOUNT,
        "time": now.replace_nanosecond(0).unwrap_or(now).format(&Rfc3339).unwrap_or_default(),
        "region": HOME_REGION,
        "resources": [format!("arn:aws:scheduler:{HOME_REGION}:{HOME_ACCOUNT}:schedule/default/{}", spec.function_name)],
        "detail": "{}",
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContainerCredentials {
    access_key_id: String,
    secret_access_key: String,
    token: String,
}

async fn credentials(front: &FrontFile, role: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::get(format!("{}/credentials/{role}", front.control_url))
        .header("authorization", &front.control_token)
        .body(Empty::new())?;
    let answer =
        client.request(request).await.context("the front does not answer: is the world up? (make up)")?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        bail!("the front refused credentials of {role}: {}", String::from_utf8_lossy(&body));
    }
    let got: ContainerCredentials = serde_json::from_slice(&body)?;
    Ok(BTreeMap::from([
        ("AWS_ACCESS_KEY_ID".to_owned(), got.access_key_id),
        ("AWS_SECRET_ACCESS_KEY".to_owned(), got.secret_access_key),
        ("AWS_SESSION_TOKEN".to_owned(), got.token),
    ]))
}
