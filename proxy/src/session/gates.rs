//! Gates that this thread has compiled before: the sessions of a fleet have few different grants, and compiling one
//! looks at every command that there is.

use std::cell::RefCell;
use std::sync::Arc;

use keystile_model::decide::SessionGrant;

use super::gate::{Gate, GateError};

/// Grants that are remembered on each thread.
const MOST: usize = 64;

thread_local! {
    /// The last ones that were wanted are in front.
    static KNOWN: RefCell<Vec<(SessionGrant, Arc<Gate>)>> = const { RefCell::new(Vec::new()) };
}

/// The gate of a grant, compiled if it is not known.
///
/// # Errors
/// As [`Gate::compile`].
pub fn gate(grant: &SessionGrant) -> Result<Arc<Gate>, GateError> {
    KNOWN.with_borrow_mut(|known| {
        let entry = match known.iter().position(|(of, _)| of == grant) {
            Some(at) => known.remove(at),
            None => (grant.clone(), Arc::new(Gate::compile(grant)?)),
        };
        let gate = Arc::clone(&entry.1);
        known.truncate(MOST - 1);
        known.insert(0, entry);
        Ok(gate)
    })
}

#[cfg(test)]
mod tests {
    use keystile_model::role::{AuditLevel, LockingMode};

    use super::*;

    fn grant(connections: u32) -> SessionGrant {
        SessionGrant {
            selectors: Vec::new(),
            denied_commands: Vec::new(),
            denied_keys: Vec::new(),
            max_session_ttl_s: None,
            client_idle_timeout_s: None,
            max_connections: Some(connections),
            locking_mode: LockingMode::Strict,
            audit: AuditLevel::Summary,
        }
    }

    #[test]
    fn what_is_wanted_again_is_not_compiled_again() {
        let first = gate(&grant(1)).unwrap();
        for other in 2..60 {
            gate(&grant(other)).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &gate(&grant(1)).unwrap()));
        for other in 100..200 {
            gate(&grant(other)).unwrap();
        }
        assert!(!Arc::ptr_eq(&first, &gate(&grant(1)).unwrap()), "old ones are forgotten");
        assert_eq!(KNOWN.with_borrow(Vec::len), MOST);
    }
}
