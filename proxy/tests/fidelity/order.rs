//! Where pushes stand among answers, also among those that the proxy gives itself.
//!
//! A server is one thread, and writes a push that a command causes behind that command's own answer and before the
//! next one (`pending_push_messages` and `trackingHandlePendingKeyInvalidations` in Valkey): there is one order.

use super::support::twin::{Twins, USER};
use super::support::{TOKEN, run};
use super::{array, ids};

/// How often each pipeline is said.
const TIMES: usize = 500;
/// How many of them go out in one piece; between pieces all is answered.
const AT_ONCE: usize = 20;

fn lines(script: &[&str]) -> Vec<u8> {
    script.iter().flat_map(|line| array(line)).collect()
}

/// Says the first lines one by one, then the others again and again: each time the server has to answer with these
/// frames, and the proxy with the same.
async fn again_and_again(twins: &Twins, first: &[&str], script: &[&str], frames: &[&[u8]]) {
    let mut twin = twins.twin(ids).await;
    for line in first {
        twin.send(array(line)).await;
        twin.settle_with(1).await;
    }
    let (pipeline, expected) = (lines(script).repeat(AT_ONCE), frames.repeat(AT_ONCE));
    for _ in 0..TIMES / AT_ONCE {
        twin.send(&pipeline).await;
        assert_eq!(twin.settle_with(expected.len()).await, expected, "{script:?}");
    }
    twin.end().await;
}

const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n";
const INVALID: &[u8] = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n";
const OK: &[u8] = b"+OK\r\n";

#[test]
fn a_message_to_oneself_stands_before_the_next_answer() {
    run(async {
        let twins = Twins::start(&[]).await;
        let subscribed = ["HELLO 3", "SUBSCRIBE c"];
        let off = ["CLIENT REPLY OFF", "PUBLISH c m", "CLIENT REPLY ON"];
        again_and_again(&twins, &subscribed, &off, &[MESSAGE, OK]).await;
        let skip = ["CLIENT REPLY SKIP", "PUBLISH c m", "CLIENT REPLY ON"];
        again_and_again(&twins, &subscribed, &skip, &[MESSAGE, OK]).await;
        let on = ["PUBLISH c m", "CLIENT REPLY ON", "CLIENT REPLY ON"];
        again_and_again(&twins, &subscribed, &on, &[b":1\r\n", MESSAGE, OK, OK]).await;
        let transaction = ["MULTI", "PUBLISH c m", "PUBLISH c m", "EXEC", "CLIENT REPLY ON"];
        let queued: &[u8] = b"+QUEUED\r\n";
        let frames = [OK, queued, queued, b"*2\r\n:1\r\n:1\r\n", MESSAGE, MESSAGE, OK];
        again_and_again(&twins, &subscribed, &transaction, &frames).await;
        let auth = format!("AUTH {USER} {TOKEN}");
        again_and_again(&twins, &subscribed, &["PUBLISH c m", &auth], &[b":1\r\n", MESSAGE, OK]).await;
        // In one go with what makes it a subscriber.
        let all = [
            "HELLO 3",
            "SUBSCRIBE c",
            "CLIENT REPLY SKIP",
            "PUBLISH c m",
            "CLIENT REPLY ON",
            "UNSUBSCRIBE c",
        ];
        let mut twin = twins.twin(ids).await;
        for _ in 0..AT_ONCE {
            twin.send(lines(&all)).await;
            let seen = twin.settle_with(5).await;
            assert_eq!(seen.get(2..4), Some([MESSAGE.to_vec(), OK.to_vec()].as_slice()));
        }
        twin.end().await;
    });
}

#[test]
fn an_invalidation_of_ones_own_stands_before_the_next_answer() {
    run(async {
        let twins = Twins::start(&[]).await;
        let tracking = ["HELLO 3", "CLIENT TRACKING ON"];
        let off = ["GET k", "CLIENT REPLY OFF", "SET k v", "CLIENT REPLY ON", "DEL k"];
        again_and_again(&twins, &tracking, &off, &[b"_\r\n", INVALID, OK, b":1\r\n"]).await;
        let on = ["GET k", "SET k v", "CLIENT REPLY ON", "DEL k"];
        again_and_again(&twins, &tracking, &on, &[b"_\r\n", OK, INVALID, OK, b":1\r\n"]).await;
    });
}

/// In RESP2 a subscriber may not publish: only confirmations are pushed where replies are off.
#[test]
fn a_resp2_subscriber_without_replies_gets_confirmations() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = ["CLIENT REPLY OFF", "SUBSCRIBE c", "PUBLISH c m", "UNSUBSCRIBE c", "CLIENT REPLY ON"];
        let on: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
        let off: &[u8] = b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n";
        again_and_again(&twins, &[], &script, &[on, off, OK]).await;
    });
}

#[test]
fn a_message_to_oneself_stands_before_the_end_of_what_is_malformed() {
    run(async {
        let twins = Twins::start(&[]).await;
        for _ in 0..AT_ONCE {
            let mut twin = twins.twin(ids).await;
            twin.send(lines(&["HELLO 3", "SUBSCRIBE c"])).await;
            twin.settle_with(2).await;
            twin.send([lines(&["PUBLISH c m"]), b"*1\r\n+\r\n".to_vec()].concat()).await;
            assert_eq!(twin.settle_with(3).await.get(1).map(Vec::as_slice), Some(MESSAGE));
            twin.closed().await;
        }
    });
}

/// Those have no counterpart at the server, but the same place.
#[test]
fn a_refusal_stands_behind_a_message_to_oneself() {
    run(async {
        let twins = Twins::start(&[]).await;
        let mut client = twins.world.routed("alice", "orders", USER).await;
        client.command(&["HELLO", "3"]).await;
        assert_eq!(client.command(&["SUBSCRIBE", "c"]).await, ">[subscribe c :1]");
        for _ in 0..TIMES / AT_ONCE {
            client.send("CLIENT REPLY SKIP\r\nPUBLISH c m\r\nMONITOR\r\n".repeat(AT_ONCE)).await;
            for _ in 0..AT_ONCE {
                assert_eq!(client.reply().await, ">[message c m]");
                let refusal = client.reply().await;
                assert!(refusal.starts_with("-NOPERM keystile: 'MONITOR' was refused"), "{refusal}");
            }
        }
    });
}
