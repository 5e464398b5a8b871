//! Transactions and what is watched.

use super::support::run;
use super::support::twin::{Twins, exact, tell};
use super::{ids, same};

#[test]
fn transactions() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "MULTI",
            "SET a 1",
            "GET a",
            "PING",
            "EXEC",
            "MULTI",
            "EXEC",
            "MULTI",
            "MULTI",
            "GET a",
            "EXEC",
            "MULTI",
            "NONSENSE",
            "GET a",
            "EXEC",
            "MULTI",
            "GET",
            "EXEC",
            "MULTI",
            "INCR s",
            "LPUSH a x",
            "EXEC",
            "MULTI",
            "SET a 2",
            "DISCARD",
            "GET a",
            "MULTI",
            "WATCH a",
            "EXEC",
            "MULTI",
            "UNWATCH",
            "EXEC",
            "WATCH a",
            "SET a 3",
            "MULTI",
            "GET a",
            "EXEC",
            "WATCH a",
            "MULTI",
            "GET a",
            "EXEC",
            "WATCH a b c",
            "UNWATCH",
            "SET a 4",
            "MULTI",
            "GET a",
            "EXEC",
            "WATCH a",
            "SET a 5",
            "DISCARD",
            "MULTI",
            "DISCARD x",
            "EXEC x",
            "GET a",
            "EXEC",
            "MULTI x",
            "EXEC",
            "WATCH",
            "MULTI",
            "BLPOP nothing 0",
            "BZPOPMIN nothing 0",
            "XREAD BLOCK 0 STREAMS nothing $",
            "EXEC",
            "MULTI",
            "EVAL \"return 1\" 0",
            "SELECT 1",
            "SET a x",
            "SELECT 0",
            "EXEC",
            "MULTI",
            "CLIENT SETNAME m",
            "CLIENT GETNAME",
            "CONFIG GET maxmemory-policy",
            "EXEC",
            "MULTI",
            "WAIT 0 0",
            "PUBLISH a b",
            "ACL WHOAMI",
            "FLUSHALL",
            "EXEC",
            "MULTI",
            "QUITE",
            "DISCARD",
            "EXEC",
            "MULTI",
            "GET a",
            "PING",
            "ECHO x",
            "EXEC",
        ];
        same(&twins, exact, &script).await;
        let mut resp3 = vec!["HELLO 3"];
        resp3.extend(script);
        same(&twins, ids, &resp3).await;
        // Somebody else touches what is watched.
        let mut others = twins.others().await;
        let mut twin = twins.twin(exact).await;
        twin.send("WATCH w\r\nGET w\r\n").await;
        twin.settle_with(2).await;
        tell(&mut others, "SET w 1").await;
        twin.send("MULTI\r\nSET w 2\r\nEXEC\r\nGET w\r\n").await;
        twin.settle_with(4).await;
        twin.end().await;
    });
}

/// What lets go of watched keys, and what only looks so; and then a subscriber's EXEC, which does.
#[test]
fn watched_keys_are_let_go_of_when_the_server_does() {
    run(async {
        let twins = Twins::start(&[]).await;
        let between = ["EXEC", "DISCARD", "UNWATCH x", "DISCARD x", "EXEC x", "UNWATCH", "WATCH", "PING"];
        let all =
            between.map(|word| (word, "EXEC")).into_iter().chain([("PING", "DISCARD"), ("PING", "UNWATCH")]);
        for (between, subscriber) in all {
            let script = [
                "SET a 1",
                "WATCH a",
                "SET a 2",
                between,
                "SUBSCRIBE c",
                subscriber,
                "UNSUBSCRIBE c",
                "MULTI",
                "GET a",
                "EXEC",
                "GET a",
            ];
            same(&twins, exact, &script).await;
        }
    });
}
