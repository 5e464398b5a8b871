//! Memory that all sessions of a proxy share for replies that must be there whole before the first byte leaves.
//!
//! A reply of one node streams through; one that is made of several cannot. Without a common bound a few clients
//! that ask for the keys of large clusters would take the memory of everybody else; without one for each user they
//! would take what the others need for their replies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::fan::MOST_BYTES;

/// Into how many parts it is divided: one user's sessions may hold one of them, or one reply of the greatest length
/// if that is more.
const PARTS: usize = 4;

/// The bytes that are left.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
    most_of_one: usize,
    /// What the users hold who have a session.
    users: Mutex<HashMap<Box<str>, Held>>,
}

/// What one user holds, and how many sessions it has.
#[derive(Debug, Default)]
struct Held {
    bytes: Arc<AtomicUsize>,
    sessions: usize,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        let most_of_one = (bytes / PARTS).max(MOST_BYTES);
        Arc::new(Self { left: AtomicUsize::new(bytes), most_of_one, users: Mutex::default() })
    }

    /// A session of this user begins.
    pub(super) fn purse(self: &Arc<Self>, user: &str) -> Arc<Purse> {
        let mut users = self.users();
        let held = users.entry(Box::from(user)).or_default();
        held.sessions += 1;
        Arc::new(Purse { budget: Arc::clone(self), user: Box::from(user), held: Arc::clone(&held.bytes) })
    }

    fn users(&self) -> MutexGuard<'_, HashMap<Box<str>, Held>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the sessions of one user may take: one for each session, with one account for all of them.
#[derive(Debug)]
pub(super) struct Purse {
    budget: Arc<Budget>,
    user: Box<str>,
    held: Arc<AtomicUsize>,
}

impl Purse {
    fn take(&self, bytes: usize) -> bool {
        let most = self.budget.most_of_one;
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
        if self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            return false;
        }
        let left = &self.budget.left;
        let taken =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok();
        if !taken {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    fn give(&self, bytes: usize) {
        self.budget.left.fetch_add(bytes, Ordering::Relaxed);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        let mut users = self.budget.users();
        if let Some(held) = users.get_mut(&self.user) {
            held.sessions -= 1;
            if held.sessions == 0 {
                users.remove(&self.user);
            }
        }
    }
}

/// What one command has taken; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    purse: Arc<Purse>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn of(purse: &Arc<Purse>) -> Self {
        Self { purse: Arc::clone(purse), bytes: 0 }
    }

    /// Takes so many bytes more. False where they are not there; nothing is taken then.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let taken = self.purse.take(bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.purse.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(100);
        let (alice, bob) = (budget.purse("alice"), budget.purse("bob"));
        let (mut one, mut other) = (Share::of(&alice), Share::of(&bob));
        assert!(one.grow(60) && !other.grow(41) && other.grow(40) && !one.grow(1));
        drop(one);
        assert!(other.grow(60) && !other.grow(1));
        drop(other);
        assert!(Share::of(&bob).grow(100));
    }

    #[test]
    fn one_user_leaves_something_to_the_others() {
        let budget = Budget::new(8 * MOST_BYTES);
        let sessions = [budget.purse("alice"), budget.purse("alice"), budget.purse("bob")];
        let mut shares: Vec<Share> = sessions.iter().map(Share::of).collect();
        assert!(shares[0].grow(MOST_BYTES) && shares[1].grow(MOST_BYTES));
        assert!(!shares[0].grow(1) && !shares[1].grow(1), "a quarter is all");
        assert!(shares[2].grow(2 * MOST_BYTES) && !shares[2].grow(1));
        shares.remove(0);
        assert!(shares[0].grow(MOST_BYTES) && !shares[0].grow(1), "its own sessions share it");
        // Whatever the budget, the longest reply fits, if nobody else has anything.
        let small = Budget::new(MOST_BYTES + 1);
        let (alice, bob) = (small.purse("alice"), small.purse("bob"));
        assert!(Share::of(&alice).grow(MOST_BYTES));
        let mut one = Share::of(&alice);
        assert!(one.grow(MOST_BYTES) && Share::of(&bob).grow(1) && !Share::of(&bob).grow(2));
        drop((one, alice, bob));
        assert!(small.users().is_empty(), "who has left is forgotten");
    }
}
