//! What is known of certificates that were seen before: clients come back with the same one for hours.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Certificates that are remembered; when there are more, all are forgotten.
const MOST: usize = 1_024;
/// Bytes of one that is remembered: ours have some 500.
const MOST_BYTES: usize = 4_096;

/// Something of each certificate, by its DER.
#[derive(Debug)]
pub(crate) struct Remembered<T>(Mutex<HashMap<Box<[u8]>, T>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Remembered<T> {
    /// What is remembered of it, if anything.
    pub(crate) fn get(&self, der: &[u8]) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(der).cloned()
    }

    /// Remembers it, unless the certificate is longer than any of ours.
    pub(crate) fn put(&self, der: &[u8], of_it: T) {
        if der.len() > MOST_BYTES {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(der.into(), of_it);
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_so_many_nor_longer_ones() {
        let known = Remembered::default();
        for number in 0..MOST {
            known.put(&number.to_le_bytes(), number);
        }
        assert_eq!((known.len(), known.get(&7_usize.to_le_bytes())), (MOST, Some(7)));
        known.put(&[0; MOST_BYTES + 1], 1);
        assert_eq!((known.len(), known.get(&[0; MOST_BYTES + 1])), (MOST, None));
        known.put(b"one more", 1);
        assert_eq!((known.len(), known.get(b"one more")), (1, Some(1)));
    }
}
