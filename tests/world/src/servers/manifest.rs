//! `target/local/servers.json`: which caches have servers, where, and under which files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::fixture::Kind;
use crate::world::paths::replace_file;

/// All caches that have servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The certificate authority of all servers, PEM.
    pub ca_file: PathBuf,
    /// What the servers report, such as `8.0.1`.
    pub version: String,
    /// The caches.
    pub resources: Vec<Cache>,
}

/// One cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The account it belongs to.
    pub account: String,
    /// Its region.
    pub region: String,
    /// What it is.
    pub kind: Kind,
    /// Its id or name.
    pub id: String,
    /// By name: `primary`, `reader`, `configuration`, `cluster`, `serverless`, `serverless-reader`.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Its server processes, primaries first.
    pub nodes: Vec<Node>,
    /// Which of its users log in by IAM: `{"users": {"NAME": {"auth": "iam"}}}`. The module reads it
    /// again when it was replaced; caches of one user group share one file.
    pub users_file: PathBuf,
}

/// Where a client connects to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The host, which the servers' certificates name.
    pub host: String,
    /// The TLS port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// The role that a node was started in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It takes writes.
    Primary,
    /// It follows a primary.
    Replica,
}

/// One server process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// As AWS names members: `orders-001`, in cluster mode `sessions-0001-001`. Unique in its cache.
    pub id: String,
    /// The name of its process record and log.
    pub process: String,
    /// The role it was started in.
    pub role: Role,
    /// The host.
    pub host: String,
    /// The TLS port.
    pub port: u16,
    /// The slots that it served at the start, first and last of each range; none without cluster mode.
    pub slots: Vec<(u16, u16)>,
    /// Its shard, from 1.
    pub shard: u16,
}

impl Manifest {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing or broken: the servers do not run then.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("no servers: {} is missing", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is broken", path.display()))
    }

    /// Replaces the file at once.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, &serde_json::to_vec_pretty(self)?)
    }

    /// The cache of an account with this kind and id.
    #[must_use]
    pub fn cache(&self, account: &str, kind: Kind, id: &str) -> Option<&Cache> {
        self.resources.iter().find(|c| c.account == account && c.kind == kind && c.id == id)
    }
}
