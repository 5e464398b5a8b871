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
    /// To read nothing more from the client until it has signed in again.
    pub hold: bool,
}

/// A live session, seen from outside.
#[derive(Debug, Default)]
pub struct Handle {
    pending: AtomicBool,
    orders: Mutex<Orders>,
    waker: Mutex<Option<Waker>>,
    active_at: AtomicI64,
    signed_in_at: AtomicI64,
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

    /// When the cache last let us in, in Unix milliseconds.
    #[must_use]
    pub fn signed_in_at(&self) -> i64 {
        self.signed_in_at.load(Ordering::Relaxed)
    }

    pub(crate) fn signed_in(&self, now: i64) {
        self.signed_in_at.store(now, Ordering::Relaxed);
    }
}
