//! A differential fuzzer: the same random pipelines straight to a server and through the proxy.
//!
//! `KEYSTILE_DIFFERENTIAL_S` says for how many seconds (3 by default), `KEYSTILE_DIFFERENTIAL_SEED` with which
//! seed it begins; each round prints its own, so that a difference can be had again.

use super::ids;
use super::support::random::{Model, rounds};
use super::support::run;
use super::support::twin::Twins;

#[test]
fn random_pipelines_get_the_same_answers() {
    run(async {
        let twins = Twins::start(&[]).await;
        rounds(&twins, ids, Model::default).await;
    });
}
