//! What a client gets through the proxy is, byte for byte, what the server says to it straight.
//!
//! docs/FIDELITY.md lists what differs, with the reasons.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod commands;
mod kinds;
mod leaving;
mod limits;
mod lives;
mod order;
mod random;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod transactions;
mod values;

use keystile_resp::encode;
use keystile_resp::request::split_inline;
use support::twin::{Frame, Rules, Twins, without_numbers_after};

/// One after the other as inline lines, as arrays, and all arrays in one go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Inline,
    Array,
    Pipeline,
}

const FORMS: [Form; 3] = [Form::Inline, Form::Array, Form::Pipeline];

fn array(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::request(&mut bytes, &split_inline(line.as_bytes()).unwrap());
    bytes
}

/// Ids of connections, and what only one server can say of its clients.
fn ids(frame: &mut Frame) {
    without_numbers_after(frame, &[b"$2\r\nid\r\n:"]);
    if frame.windows(6).any(|window| window == b" addr=") {
        *frame = vec![frame[0]];
    }
}

/// Says these lines to both in each form, each on a new connection, and compares.
async fn same(twins: &Twins, rules: Rules, script: &[&str]) {
    for form in FORMS {
        let mut twin = twins.twin(rules).await;
        let mut pipeline = Vec::new();
        for line in script {
            match form {
                Form::Inline => twin.send(format!("{line}\r\n")).await,
                Form::Array => twin.send(array(line)).await,
                Form::Pipeline => {
                    pipeline.extend(array(line));
                    continue;
                }
            }
            twin.settle_with(1).await;
        }
        if form == Form::Pipeline {
            twin.send(pipeline).await;
            twin.settle_with(script.len()).await;
        }
        twin.end().await;
    }
}
