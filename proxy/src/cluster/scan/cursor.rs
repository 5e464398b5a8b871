//! The cursor: where a walk over the cluster stands, in 63 bits.
//!
//! ```text
//!        bit 62       52                34            17     16      14        0
//! small   0 │ 0 … │ 1 │ fingerprint (18) │ inner (17) │ 0 │ walk (2) │ slot (14)
//! large   1 │ fingerprint (10) │ inner (35)           │ 1 │ walk (2) │ slot (14)
//! ```
//! A small one is below 2^53, for clients that keep numbers in doubles; a slot of more than 131,072 buckets, or
//! a node whose cursors are of all its keys, needs a large one. The topmost bit that is set tells ours from
//! others, and from 0, which ends a walk.

use keystile_model::database::Endpoint;
use keystile_resp::slot::SLOTS;

const SMALL_INNER: u32 = 17;
const SMALL_MARK: u64 = 1 << 52;
const LARGE_INNER: u32 = 35;
const LARGE_MARK: u64 = 1 << 62;
const LARGE: u64 = 1 << 16;
/// Where `inner` begins.
const INNER: u32 = 17;

/// Which node of a slot is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// The one that serves it.
    Owner,
    /// The one that it is on its way to; the owner was walked before.
    Target,
}

/// Where a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// All slots below are done.
    pub slot: u16,
    /// Which node is walked.
    pub walk: Walk,
    /// The node's own cursor; 0: from the start.
    pub inner: u64,
    /// What `inner` hangs on. Of a decoded cursor it may have fewer bits: compare by [`Cursor::fits`].
    pub fingerprint: u64,
}

impl Cursor {
    /// At the start of a slot.
    #[must_use]
    pub fn at(slot: u16) -> Self {
        Self { slot, walk: Walk::Owner, inner: 0, fingerprint: 0 }
    }

    /// At the start of a slot, on the node that it is on its way to.
    #[must_use]
    pub fn target(slot: u16) -> Self {
        Self { walk: Walk::Target, ..Self::at(slot) }
    }

    /// Whether `inner` hangs on this, as far as its bits tell.
    #[must_use]
    pub fn fits(&self, fingerprint: u64) -> bool {
        self.fingerprint == fingerprint & mask(fingerprint_bits(self.inner))
    }

    /// As a number, never 0; `None` where `inner` is too large.
    #[must_use]
    pub fn encode(self) -> Option<u64> {
        let walk = u64::from(self.walk == Walk::Target);
        let low = u64::from(self.slot) | walk << 14;
        let bits = fingerprint_bits(self.inner);
        let fingerprint = self.fingerprint & mask(bits);
        if self.inner <= mask(SMALL_INNER) {
            return Some(SMALL_MARK | fingerprint << (INNER + SMALL_INNER) | self.inner << INNER | low);
        }
        (self.inner <= mask(LARGE_INNER))
            .then_some(LARGE_MARK | fingerprint << (INNER + LARGE_INNER) | self.inner << INNER | LARGE | low)
    }

    /// From a number; `None` where it is none of ours.
    #[must_use]
    pub fn decode(number: u64) -> Option<Self> {
        let is_large = number & LARGE != 0;
        let (mark, inner_bits) = if is_large { (LARGE_MARK, LARGE_INNER) } else { (SMALL_MARK, SMALL_INNER) };
        let inner = number >> INNER & mask(inner_bits);
        let walk = match number >> 14 & 3 {
            0 => Walk::Owner,
            1 => Walk::Target,
            _ => return None,
        };
        let is_ours = number / mark == 1 && is_large == (inner > mask(SMALL_INNER));
        is_ours.then(|| Self {
            slot: (number & u64::from(SLOTS - 1)) as u16,
            walk,
            inner,
            fingerprint: number >> (INNER + inner_bits) & mask(fingerprint_bits(inner)),
        })
    }
}

/// A hash of the node's address and of the last slot that the walk counts for, where that matters: FNV-1a, to
/// tell apart and not to hide.
#[must_use]
pub fn fingerprint(node: &Endpoint, run_end: Option<u16>) -> u64 {
    let host = node.host.bytes().map(|byte| byte.to_ascii_lowercase());
    let slots = run_end.map_or([0xff; 2], u16::to_be_bytes);
    let hash =
        host.chain(node.port.to_be_bytes()).chain(slots).fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    hash ^ hash >> 32
}

fn fingerprint_bits(inner: u64) -> u32 {
    if inner <= mask(SMALL_INNER) { 18 } else { 10 }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn others_cursors_are_not_ours() {
        for number in [0, 1, 16_433, 5_255_462, 1 << 52 | 1 << 16, 1 << 53, u64::MAX, 1 << 62, 3 << 62] {
            assert_eq!(Cursor::decode(number), None, "{number}");
        }
        assert_eq!(Cursor { inner: 1 << 35, ..Cursor::at(0) }.encode(), None);
    }

    #[test]
    fn a_fingerprint_tells_nodes_and_slots_apart() {
        let node = |host: &str, port| Endpoint { host: host.to_owned(), port };
        let one = fingerprint(&node("a.example", 6379), None);
        assert_eq!(one, fingerprint(&node("A.example", 6379), None));
        for other in [
            fingerprint(&node("b.example", 6379), None),
            fingerprint(&node("a.example", 6380), None),
            fingerprint(&node("a.example", 6379), Some(7)),
        ] {
            assert_ne!(one & mask(18), other & mask(18));
            assert_ne!(one & mask(10), other & mask(10));
        }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back(
            slot in 0_u16..16_384, target: bool, inner in prop_oneof![0_u64..1 << 17, 0_u64..1 << 35], fingerprint: u64
        ) {
            let walk = if target { Walk::Target } else { Walk::Owner };
            let cursor = Cursor { slot, walk, inner, fingerprint };
            let number = cursor.encode().unwrap();
            prop_assert!(number > 0 && i64::try_from(number).is_ok());
            prop_assert!(inner >= 1 << 17 || number < 1 << 53);
            let back = Cursor::decode(number).unwrap();
            prop_assert_eq!((back.slot, back.walk, back.inner), (slot, walk, inner));
            prop_assert!(back.fits(fingerprint) && !back.fits(!fingerprint));
            prop_assert_eq!(back.encode(), Some(number));
        }
    }
}
