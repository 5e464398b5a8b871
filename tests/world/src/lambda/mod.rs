//! The Lambda service of the local world: the functions' own binaries under the runtime API.
//!
//! Owns which functions there are, their processes and what comes back. A fresh process serves one
//! invocation and is ended; a function that is marked warm keeps its process for the next one, as
//! Lambda does. It refuses to guess a binary: what is not built is an error that names the file.

mod command;
mod runtime_api;
mod worker;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use command::{InvokeArguments, invoke_command};
use worker::Worker;

/// A warm process is ended after this long, well before its credentials are.
const WARM_LIFE: Duration = Duration::from_secs(1800);
/// So many warm processes wait at most.
const WARM_IDLE: usize = 4;

/// One function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// The short name, as `discover`.
    pub name: String,
    /// The name in its ARN, as `keystile-discover`.
    pub function_name: String,
    /// The binary.
    pub binary: PathBuf,
    /// The role of the home account that it runs as.
    pub role: String,
    /// Its own environment, without what the service sets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Seconds until it is ended.
    #[serde(default = "a_minute")]
    pub timeout_s: u64,
    /// Whether its process serves more than one invocation.
    #[serde(default)]
    pub warm: bool,
    /// Where its output is appended.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

fn a_minute() -> u64 {
    60
}

/// `functions.json`: what is deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployed {
    /// The functions.
    pub functions: Vec<FunctionSpec>,
}

impl Deployed {
    /// Reads the file; without one nothing is deployed.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// A function by its short name, its name or its ARN, perhaps with a version.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&FunctionSpec> {
        let name = name.split_once(":function:").map_or(name, |(_, rest)| rest);
        let name = name.split(':').next().unwrap_or(name);
        self.functions.iter().find(|spec| spec.name == name || spec.function_name == name)
    }
}

/// How an invocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The function answered.
    Answered,
    /// The function returned an error.
    Failed,
    /// The process ended before it answered.
    Exited,
    /// It ran out of time.
    TimedOut,
}

/// What came of an invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvokeOutcome {
    /// The answer, or the error as Lambda words it.
    pub payload: Bytes,
    /// How it ended.
    pub ending: Ending,
    /// What the process printed meanwhile.
    pub log: String,
}

impl InvokeOutcome {
    /// Whether Lambda would call it a function error.
    #[must_use]
    pub fn error(&self) -> bool {
        self.ending != Ending::Answered
    }
}

/// Runs a function once in a fresh process: `env` holds its role's credentials.
///
/// # Errors
/// When the process can't be started; an error of the function is an [`InvokeOutcome`].
pub async fn invoke(
    spec: &FunctionSpec,
    endpoint_url: &str,
    env: &BTreeMap<String, String>,
    event: Bytes,
) -> anyhow::Result<InvokeOutcome> {
    let mut worker = Worker::start(spec, endpoint_url, env).await?;
    let outcome = worker.invoke(event).await;
    worker.end().await;
    Ok(outcome)
}

/// The deployed functions and their warm processes.
#[derive(Debug)]
pub struct Functions {
    path: PathBuf,
    endpoint_url: String,
    warm: Mutex<Vec<(FunctionSpec, Worker, Instant)>>,
}

impl Functions {
    /// The functions that a file names; it is read again at each call.
    #[must_use]
    pub fn new(path: PathBuf, endpoint_url: &str) -> Self {
        Self { path, endpoint_url: endpoint_url.into(), warm: Mutex::default() }
    }

    /// A deployed function.
    pub fn find(&self, name: &str) -> anyhow::Result<Option<FunctionSpec>> {
        Ok(Deployed::read(&self.path)?.find(name).cloned())
    }

    /// Runs a function; `credentials` are asked for only where a process is started.
    pub async fn run(
        &self,
        spec: &FunctionSpec,
        event: Bytes,
        credentials: impl Future<Output = anyhow::Result<BTreeMap<String, String>>>,
    ) -> anyhow::Result<InvokeOutcome> {
        if !spec.warm {
            return invoke(spec, &self.endpoint_url, &credentials.await?, event).await;
        }
        let (mut worker, born) = match self.take(spec) {
            Some(found) => found,
            None => (Worker::start(spec, &self.endpoint_url, &credentials.await?).await?, Instant::now()),
        };
        let outcome = worker.invoke(event).await;
        match outcome.ending {
            Ending::Answered | Ending::Failed => self.keep(spec, worker, born),
            Ending::Exited | Ending::TimedOut => worker.end().await,
        }
        Ok(outcome)
    }

    /// A waiting process of the function as it is deployed now.
    fn take(&self, spec: &FunctionSpec) -> Option<(Worker, Instant)> {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.retain_mut(|(_, worker, born)| born.elapsed() < WARM_LIFE && worker.is_alive());
        let at = warm.iter().position(|(have, _, _)| have == spec)?;
        let (_, worker, born) = warm.swap_remove(at);
        Some((worker, born))
    }

    fn keep(&self, spec: &FunctionSpec, worker: Worker, born: Instant) {
        let mut warm = self.warm.lock().unwrap_or_else(PoisonError::into_inner);
        warm.push((spec.clone(), worker, born));
        if warm.len() > WARM_IDLE {
            // A dropped process is killed with its group.
            warm.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_found_by_each_of_its_names() {
        let spec = FunctionSpec {
            name: "discover".into(),
            function_name: "keystile-discover".into(),
            binary: "/bin/true".into(),
            role: "keystile-discover".into(),
            env: BTreeMap::new(),
            timeout_s: 1,
            warm: false,
            log: None,
        };
        let deployed = Deployed { functions: vec![spec] };
        for name in [
            "discover",
            "keystile-discover",
            "keystile-discover:$LATEST",
            "arn:aws:lambda:us-east-1:123456789012:function:keystile-discover",
        ] {
            assert!(deployed.find(name).is_some(), "{name}");
        }
        assert!(deployed.find("rotate").is_none());
    }
}
