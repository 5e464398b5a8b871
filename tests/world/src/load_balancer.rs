//! A stand-in of the network load balancer: TCP in front of some targets, round robin.
//!
//! It can do to a connection what the real one does: forget it silently after an idle time (whoever
//! sends next gets a reset, nobody is told before), tell the target the client's address (proxy protocol
//! v2), leave a target out of new connections, and end a target as ECS does: SIGTERM, and SIGKILL after
//! 120 s. It also stands for endpoints that are no node's own: the serverless
//! cache's reader, and the configuration endpoint of a cluster, which leads to any node that lives.
//!
//! The control port speaks HTTP: `GET /` shows the settings and live connections, `PUT /` with
//! [`Settings`] replaces them (for connections from then on), `POST /stop/<n>?kill-after=<seconds>` ends
//! target `n` (from 0).

mod control;
mod flow;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::world::Paths;

/// What can be told to the load balancer while it runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Seconds without a byte after which a connection is forgotten; `null` for never.
    pub idle_s: Option<f64>,
    /// Whether each target is told the client's address.
    pub proxy_protocol: bool,
    /// Targets (their numbers) that get no new connection.
    pub drained: Vec<usize>,
}

/// A target and the recorded process behind it, if it has one that can be stopped.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of its record.
    pub process: Option<String>,
}

/// The load balancer's state.
#[derive(Debug)]
pub struct Balancer {
    paths: Paths,
    targets: Vec<Target>,
    settings: Mutex<Settings>,
    next: AtomicUsize,
    live: AtomicUsize,
}

impl Balancer {
    /// A load balancer before these targets.
    #[must_use]
    pub fn new(paths: Paths, targets: Vec<Target>) -> Arc<Self> {
        let settings = Mutex::default();
        Arc::new(Self { paths, targets, settings, next: AtomicUsize::new(0), live: AtomicUsize::new(0) })
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves a port, and a control port if there is one, until the process ends.
    ///
    /// # Errors
    /// When a port is taken.
    pub async fn serve(self: Arc<Self>, port: u16, control: Option<u16>) -> Result<()> {
        let listener = listen(port).await?;
        if let Some(control) = control {
            tokio::spawn(control::serve(Arc::clone(&self), listen(control).await?));
        }
        loop {
            match listener.accept().await {
                Ok((client, from)) => {
                    let balancer = Arc::clone(&self);
                    tokio::spawn(async move { balancer.carry(client, from).await });
                }
                // Out of files: the next connection may fare better.
                Err(error) => {
                    tracing::warn!(%error, "could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn carry(&self, client: TcpStream, from: SocketAddr) {
        let settings = self.settings().clone();
        let Some(target) = self.connect(&settings).await else {
            // No target left: the real one resets as well.
            reset(&client);
            return;
        };
        self.live.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = flow::carry(client, from, target, &settings).await {
            tracing::debug!(%error, %from, "a connection ended");
        }
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection to the next target that takes one.
    async fn connect(&self, settings: &Settings) -> Option<TcpStream> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for turn in 0..self.targets.len() {
            let number = (first.wrapping_add(turn)) % self.targets.len();
            if settings.drained.contains(&number) {
                continue;
            }
            if let Ok(stream) = TcpStream::connect(self.targets[number].address).await {
                return Some(stream);
            }
        }
        None
    }
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.with_context(|| format!("port {port} is taken"))
}

/// Makes the stream end in a reset when it is dropped.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests;
