//! How the rest of the proxy reaches a live session: orders that it takes at its next wake-up.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

use super::gate::Gate;

/// Why a session is ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The word for metrics and audit: `lock`, `certificate`, `idle`, …
    pub kind: CutKind,
    /// The text for the client, without its code.
    pub text: String,
}

/// The sorts of end from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CutKind {
    /// A lock came into force.
    Lock,
    /// The roles do not allow the route any more, or the user is gone.
    Denied,
    /// The certificate's life is over.
    Certificate,
    /// The database or the db user is gone, or changed its address.
    Database,
    /// Nothing was sent for too long.
    Idle,
    /// What the proxy knows of policy is too old.
    StalePolicy,
    /// The proxy stops.
    Shutdown,
    /// The cache would cut the connection now, and signing in again did not work out.
    IamLife,
    /// The client has not read for too long.
    SlowClient,
}

impl CutKind {
    /// The word for metrics and audit.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Denied => "denied",
            Self::Certificate => "certificate_expired",
            Self::Database => "database_gone",
            Self::Idle => "idle_timeout",
            Self::StalePolicy => "stale_policy",
            Self::Shutdown => "shutdown",
            Self::IamLife => "iam_life",
            Self::SlowClient => "slow_client",
        }
    }
}

/// What a session is told to do.
#[derive(Debug, Default)]
pub struct Orders {
    /// To end.
    pub cut: Option<Cut>,
    /// To go by other rules.
    pub gate: Option<Arc<Gate>>,
    /// To write down its counts.
    pub summary: bool,
    /// To sign in to the cache again.
    pub sign_in: bool,
    /// The same, before anything else: requests wait for it.
    pub hurry: bool,
}

/// A live session, seen from outside.
#[derive(Debug, Default)]
pub struct Handle {
    pending: AtomicBool,
    orders: Mutex<Orders>,
    waker: Mutex<Option<Waker>>,
    active_at: AtomicI64,
    signed_in_at: AtomicI64,
    sign_in_failed_at: AtomicI64,
    stalled_at: AtomicI64,
}

impl Handle {
    /// A session that begins at `now`, in Unix milliseconds.
    #[must_use]
    pub fn new(now: i64) -> Self {
        Self { active_at: now.into(), signed_in_at: now.into(), ..Self::default() }
    }

    /// Gives an order and wakes the session.
    pub fn order(&self, give: impl FnOnce(&mut Orders)) {
        give(&mut self.orders.lock().unwrap_or_else(PoisonError::into_inner));
        self.pending.store(true, Ordering::Release);
        if let Some(waker) = &*self.waker.lock().unwrap_or_else(PoisonError::into_inner) {
            waker.wake_by_ref();
        }
    }

    /// The orders since the last call, if there are any.
    #[inline]
    pub(crate) fn take(&self) -> Option<Orders> {
        if !self.pending.load(Ordering::Acquire) {
            return None;
        }
        self.pending.store(false, Ordering::Release);
        Some(std::mem::take(&mut *self.orders.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn set_waker(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(waker.clone());
    }

    /// When the client last sent something, in Unix milliseconds.
    #[must_use]
    pub fn active_at(&self) -> i64 {
        self.active_at.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn active(&self, now: i64) {
        self.active_at.store(now, Ordering::Relaxed);
    }

    /// Since when the client takes nothing of what waits for it, in Unix milliseconds.
    #[must_use]
    pub fn stalled_at(&self) -> Option<i64> {
        Some(self.stalled_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub(crate) fn stalled(&self, since: i64) {
        self.stalled_at.store(since, Ordering::Relaxed);
    }

    /// When the cache last let us in, in Unix milliseconds.
    #[must_use]
    pub fn signed_in_at(&self) -> i64 {
        self.signed_in_at.load(Ordering::Relaxed)
    }

    pub(crate) fn signed_in(&self, now: i64) {
        self.signed_in_at.store(now, Ordering::Relaxed);
        self.sign_in_failed_at.store(0, Ordering::Relaxed);
    }

    /// When a fresh sign-in failed, in Unix milliseconds, if none has worked since.
    #[must_use]
    pub fn sign_in_failed_at(&self) -> Option<i64> {
        Some(self.sign_in_failed_at.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub(crate) fn sign_in_failed(&self, now: i64) {
        self.sign_in_failed_at.store(now, Ordering::Relaxed);
    }
}
