//! Server bytes, cut anywhere, against the slow reading of the protocol.
//!
//! The first byte of an input chooses limits and eagerness, the next four how the rest is cut.

#![no_main]

#[path = "../../tests/reference/mod.rs"]
mod reference;

use keystile_resp::reply::Limits;
use libfuzzer_sys::fuzz_target;

const LIMITS: [Limits; 4] = [
    Limits::DEFAULT,
    Limits { depth: 3, bulk: 40, elements: 6, whole: 24 },
    Limits { depth: 8, bulk: 400, elements: 60, whole: 160 },
    Limits { depth: 8, bulk: 400, elements: 60, whole: 0 },
];

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, ref cuts @ ..], bytes)) = data.split_first_chunk::<5>() else { return };
    let cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut)).collect();
    let limits = LIMITS[usize::from(choice & 3)];
    reference::drive::check_replies(bytes, &[], limits, false);
    reference::drive::check_replies(bytes, &[1], limits, choice & 4 != 0);
    reference::drive::check_replies(bytes, &cuts, limits, choice & 8 != 0);
});
