//! Client bytes, cut anywhere, against the slow reading of the protocol.
//!
//! The first byte of an input chooses limits and eagerness, the next four how the rest is cut.

#![no_main]

#[path = "../../tests/reference/mod.rs"]
mod reference;

use keystile_resp::request::Limits;
use libfuzzer_sys::fuzz_target;

const LIMITS: [Limits; 4] = [
    Limits::SIGNED_IN,
    Limits { args: 4, bulk: 40, inline: 30, total: 90, whole: 48, before_auth_total: None },
    Limits { args: 4, bulk: 40, inline: 30, total: 90, whole: 48, before_auth_total: Some(60) },
    Limits { args: 100, bulk: 400, inline: 50, total: 300, whole: 0, before_auth_total: None },
];

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, ref cuts @ ..], bytes)) = data.split_first_chunk::<5>() else { return };
    let cuts: Vec<usize> = cuts.iter().map(|&cut| usize::from(cut)).collect();
    let limits = LIMITS[usize::from(choice & 3)];
    reference::drive::check_requests(bytes, &[], limits, false);
    reference::drive::check_requests(bytes, &[1], limits, choice & 4 != 0);
    reference::drive::check_requests(bytes, &cuts, limits, choice & 8 != 0);
});
