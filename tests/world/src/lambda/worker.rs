//! One process of a function: its environment, its output, its end.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::runtime_api::{Job, Reply, RuntimeApi};
use super::{Ending, FunctionSpec, InvokeOutcome};
use crate::fixture::{HOME_ACCOUNT, HOME_REGION};

/// So much of a process' output is kept for one invocation.
const LOG_LIMIT: usize = 1 << 20;
/// How long a process may take to finish up after its answer, before it is ended.
const AFTERWORD: Duration = Duration::from_millis(300);
/// Ends a child when its parent dies, however that happens; part of util-linux.
const SETPRIV: &str = "/usr/bin/setpriv";

/// A running process and the API that it is served by.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    group: Option<Pid>,
    api: Arc<RuntimeApi>,
    jobs: mpsc::Sender<Job>,
    server: JoinHandle<()>,
    log: Arc<Mutex<String>>,
    timeout: Duration,
}

impl Worker {
    /// Starts a process in a group of its own.
    pub(super) async fn start(
        spec: &FunctionSpec,
        endpoint_url: &str,
        credentials: &BTreeMap<String, String>,
    ) -> anyhow::Result<Self> {
        ensure!(
            spec.binary.exists(),
            "{} is not built: cargo build --release -p {}",
            spec.binary.display(),
            spec.function_name
        );
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let arn = format!("arn:aws:lambda:{HOME_REGION}:{HOME_ACCOUNT}:function:{}", spec.function_name);
        let (jobs, receiver) = mpsc::channel(1);
        let api = RuntimeApi::new(arn, receiver);
        let server = tokio::spawn(Arc::clone(&api).serve(listener));
        let mut command = command(&spec.binary);
        command
            .env_clear()
            .envs(service_env(spec, &address.to_string(), endpoint_url))
            .envs(credentials)
            .envs(&spec.env);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", spec.binary.display()))?;
        let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let log = Arc::new(Mutex::new(String::new()));
        keep_output(child.stdout.take(), &log, spec.log.as_deref());
        keep_output(child.stderr.take(), &log, spec.log.as_deref());
        Ok(Self { child, group, api, jobs, server, log, timeout: Duration::from_secs(spec.timeout_s.max(1)) })
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// One invocation, until it answers, ends or runs out of time.
    pub(super) async fn invoke(&mut self, event: Bytes) -> InvokeOutcome {
        let (reply, answered) = oneshot::channel();
        let request_id = uuid::Uuid::new_v4().to_string();
        let deadline = OffsetDateTime::now_utc() + self.timeout;
        let deadline_ms = deadline.unix_timestamp() * 1000 + i64::from(deadline.millisecond());
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let job = Job { request_id: request_id.clone(), event, deadline_ms, reply };
        // The channel holds one job and takes one at a time; a dead process shows below.
        let _ = self.jobs.send(job).await;
        let (ending, payload) = tokio::select! {
            biased;
            Ok(reply) = answered => match reply {
                Reply::Answer(body) => (Ending::Answered, body),
                Reply::Error(body) => (Ending::Failed, body),
            },
            status = self.child.wait() => match self.api.init_error() {
                Some(body) => (Ending::Failed, body),
                None => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    (Ending::Exited, error("Runtime.ExitError", &format!("RequestId: {request_id} Error: Runtime exited with error: {status}")))
                }
            },
            () = tokio::time::sleep(self.timeout) => {
                let seconds = self.timeout.as_secs_f64();
                (Ending::TimedOut, error("Sandbox.Timedout", &format!("RequestId: {request_id} Error: Task timed out after {seconds:.2} seconds")))
            }
        };
        if matches!(ending, Ending::Answered | Ending::Failed) {
            // It asks for the next one once it is through with this one.
            let _ = tokio::time::timeout(AFTERWORD, self.api.idle.notified()).await;
        }
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).clone();
        InvokeOutcome { payload, ending, log }
    }

    /// Ends the process and all that it started.
    pub(super) async fn end(mut self) {
        self.kill();
        let _ = self.child.wait().await;
    }

    fn kill(&self) {
        if let Some(group) = self.group {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_alive() {
            self.kill();
        }
        self.server.abort();
    }
}

fn command(binary: &Path) -> Command {
    if !Path::new(SETPRIV).exists() {
        return Command::new(binary);
    }
    let mut command = Command::new(SETPRIV);
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary);
    command
}

/// What the service sets for each function.
fn service_env(spec: &FunctionSpec, runtime_api: &str, endpoint_url: &str) -> BTreeMap<String, String> {
    let name = &spec.function_name;
    let pairs = [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", format!("local/[$LATEST]{}", uuid::Uuid::new_v4().simple())),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023".to_owned()),
        ("AWS_REGION", HOME_REGION.to_owned()),
        ("AWS_DEFAULT_REGION", HOME_REGION.to_owned()),
        ("AWS_ENDPOINT_URL", endpoint_url.to_owned()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ("_HANDLER", "bootstrap".to_owned()),
        ("LAMBDA_TASK_ROOT", "/var/task".to_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("TZ", ":UTC".to_owned()),
        ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn error(kind: &str, message: &str) -> Bytes {
    let value: Value = json!({"errorType": kind, "errorMessage": message});
    value.to_string().into()
}

/// Copies output lines to the invocation's log and to the function's file.
fn keep_output(
    stream: Option<impl AsyncRead + Unpin + Send + 'static>,
    log: &Arc<Mutex<String>>,
    file: Option<&Path>,
) {
    let Some(stream) = stream else { return };
    let log = Arc::clone(log);
    let mut file =
        file.and_then(|path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(file) = &mut file {
                let _ = writeln!(file, "{line}");
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() + line.len() < LOG_LIMIT {
                log.push_str(&line);
                log.push('\n');
            }
        }
    });
}
