//! The processes of the world: started in groups of their own, recorded, and ended by their record.
//!
//! A record holds the pid and the moment of its start, so that a pid which the kernel has given to
//! somebody else is never signalled.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::paths::{Paths, replace_file};

/// What to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Its name: of the record and of the log.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Set on top of the supervisor's environment.
    pub environment: BTreeMap<String, String>,
}

impl Spec {
    /// A program without arguments.
    #[must_use]
    pub fn new(name: impl Into<String>, program: PathBuf) -> Self {
        Self { name: name.into(), program, arguments: Vec::new(), environment: BTreeMap::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }
}

/// A process that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Running {
    /// How it was started.
    pub spec: Spec,
    /// Its pid, which is its process group too.
    pub pid: u32,
    /// The kernel's start time of that pid, in clock ticks since boot.
    pub started: u64,
    /// What it prints.
    pub log: PathBuf,
}

impl Running {
    /// Starts a program in a process group of its own, with its output in a log, and records it.
    ///
    /// # Errors
    /// When it cannot be started, or one of this name runs already.
    pub fn start(paths: &Paths, spec: Spec) -> Result<Self> {
        if let Some(other) = Self::find(paths, &spec.name)
            && other.is_alive()
        {
            bail!("{} runs already as pid {}; run `make down` first", spec.name, other.pid);
        }
        let log = paths.log(&spec.name);
        std::fs::create_dir_all(paths.local.join("log"))?;
        let output = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(&spec.program)
            .args(&spec.arguments)
            .envs(&spec.environment)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} does not start: {}", spec.name, spec.program.display()))?;
        let pid = child.id();
        let started = stat(pid).map_or(0, |(_, started)| started);
        let running = Self { spec, pid, started, log };
        replace_file(&running.record(paths), &serde_json::to_vec_pretty(&running)?)?;
        Ok(running)
    }

    /// All recorded processes, by name; some may have ended.
    #[must_use]
    pub fn all(paths: &Paths) -> Vec<Self> {
        let files = std::fs::read_dir(paths.run()).into_iter().flatten().flatten();
        let mut all: Vec<Self> = files.filter_map(|entry| read(&entry.path())).collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }

    /// The recorded process of a name.
    #[must_use]
    pub fn find(paths: &Paths, name: &str) -> Option<Self> {
        read(&paths.run().join(format!("{name}.json")))
    }

    /// Whether this very process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state != 'Z')
    }

    /// Signals its group, if it is still the process that was started.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let (true, Some(pid)) = (self.is_alive(), pid) {
            // It may end between the look and the signal; then there is nothing left to do.
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Removes the record.
    pub fn forget(&self, paths: &Paths) {
        let _ = std::fs::remove_file(self.record(paths));
    }

    /// The last lines of its log, for an error message.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn record(&self, paths: &Paths) -> PathBuf {
        paths.run().join(format!("{}.json", self.spec.name))
    }
}

/// Ends processes: SIGTERM to all, SIGKILL to those that are still there after `grace`.
pub async fn stop(paths: &Paths, processes: &[Running], grace: Duration) {
    for process in processes {
        process.signal(Signal::TERM);
    }
    if !gone_within(processes, grace).await {
        for process in processes {
            process.signal(Signal::KILL);
        }
        gone_within(processes, Duration::from_secs(5)).await;
    }
    for process in processes.iter().filter(|process| !process.is_alive()) {
        process.forget(paths);
    }
}

async fn gone_within(processes: &[Running], limit: Duration) -> bool {
    let end = tokio::time::Instant::now() + limit;
    while processes.iter().any(Running::is_alive) {
        if tokio::time::Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    true
}

fn read(path: &Path) -> Option<Running> {
    if path.extension()? != "json" {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// State and start time of a pid: fields 3 and 22 of `/proc/PID/stat`.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(name: &str) -> Paths {
        let folder = std::env::temp_dir().join(format!("keystile-process-{name}-{}", std::process::id()));
        Paths::of_checkout().beside(folder)
    }

    #[tokio::test]
    async fn a_process_is_recorded_found_and_ended_with_its_children() {
        let paths = world("group");
        let spec = Spec::new("sleeper", "/bin/sh".into()).arg("-c").arg("sleep 61 & echo $!; wait");
        let running = Running::start(&paths, spec.clone()).unwrap();
        assert!(Running::start(&paths, spec).is_err(), "a second one of that name");
        let found = Running::find(&paths, "sleeper").unwrap();
        assert!(found.is_alive());
        let mut child = String::new();
        while child.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            child = std::fs::read_to_string(&running.log).unwrap().trim().to_owned();
        }
        stop(&paths, &[found], Duration::from_secs(5)).await;
        assert!(!running.is_alive());
        assert!(Running::all(&paths).is_empty());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(stat(child.parse().unwrap()).is_none_or(|(state, _)| state == 'Z'), "its child is gone too");
        std::fs::remove_dir_all(&paths.local).unwrap();
    }

    #[tokio::test]
    async fn a_stranger_with_the_same_pid_is_never_signalled() {
        let paths = world("stranger");
        let running = Running::start(&paths, Spec::new("real", "/bin/sleep".into()).arg("61")).unwrap();
        let stale = Running { started: running.started + 1, ..running.clone() };
        assert!(!stale.is_alive());
        stop(&paths, &[stale], Duration::from_millis(50)).await;
        assert!(running.is_alive());
        stop(&paths, &[running], Duration::from_secs(5)).await;
        std::fs::remove_dir_all(&paths.local).unwrap();
    }
}
