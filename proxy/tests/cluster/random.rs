//! A differential fuzzer: the same random pipelines straight to a single server, and through the proxy to a cluster
//! that has to look like one.
//!
//! Set and led by the same variables as the one for a single server (`proxy/tests/fidelity/random.rs`).

use super::run;
use super::support::random::{Model, rounds};
use super::support::twin::{Frame, Twins, without_numbers_after};

/// What a client is told of the server it speaks to.
fn servers(frame: &mut Frame) {
    if frame.windows(12).any(|here| here == b"$6\r\nserver\r\n") {
        *frame = frame.first().copied().into_iter().collect();
    }
    without_numbers_after(frame, &[b"id="]);
}

#[test]
fn a_cluster_answers_random_pipelines_as_a_single_server() {
    run(async {
        let twins = Twins::before_a_cluster(3).await;
        rounds(&twins, servers, Model::clustered).await;
    });
}
