//! The threads that serve clients: each has a runtime and a listening socket of its own, and a connection
//! stays with the one that accepted it.
//!
//! A runtime that steals work moves sessions between cores and wakes sleeping threads for each request; at
//! one command at a time that is the larger part of what a proxy of ours would cost beside the kernel.

use std::net::TcpListener as StdListener;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, MissedTickBehavior, interval};

use crate::accept::{Places, accept_all};
use crate::app::Shared;

/// The pause between two beats of a worker: shorter than every time-out of a connection's beginning and end.
const BEAT: Duration = Duration::from_millis(500);

/// How far the proxy is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No more connections.
    Draining,
    /// No more sessions.
    Ended,
}

/// The running threads.
#[derive(Debug)]
pub struct Workers {
    phase: watch::Sender<Phase>,
    /// Each is dropped by its thread at its end.
    threads: Vec<oneshot::Receiver<()>>,
}

impl Workers {
    /// Starts one for each listener.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn start(
        shared: &Arc<Shared>,
        places: &Places,
        listeners: Vec<StdListener>,
    ) -> std::io::Result<Self> {
        let (phase, _) = watch::channel(Phase::Serving);
        let mut threads = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (shared, places, phase) = (Arc::clone(shared), places.clone(), phase.subscribe());
            let (ended, thread) = oneshot::channel();
            threads.push(thread);
            std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Err(error) = runtime.block_on(work(&shared, &places, listener, phase)) {
                    tracing::error!(%error, "a worker cannot listen");
                }
                // What sessions still wait for, such as names being resolved, is not waited for.
                runtime.shutdown_background();
                drop(ended);
            })?;
        }
        Ok(Self { phase, threads })
    }

    /// Closes the listening sockets; sessions go on.
    pub fn stop_accepting(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Ends the threads, and with them the sessions that are left.
    pub async fn end(self) {
        self.phase.send_replace(Phase::Ended);
        for thread in self.threads {
            // Nothing is ever sent: the other half goes with the thread.
            let _ = thread.await;
        }
    }
}

async fn work(
    shared: &Arc<Shared>,
    places: &Places,
    listener: StdListener,
    mut phase: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    tokio::select! {
        () = accept_all(shared, places, &listener) => {}
        () = beat() => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Draining) => {}
    }
    drop(listener);
    // A sender that is gone means that the proxy is.
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
    Ok(())
}

/// Beats for ever, so that a timer ends soon, whatever else waits.
///
/// A runtime whose new timer ends before all others is told so by a system call, and looks at its sockets once more
/// for nothing. Each connection has several timers that hardly ever end; behind the next beat they cost neither.
async fn beat() {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
    }
}
