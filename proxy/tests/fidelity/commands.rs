//! Commands and their answers, by area.

use super::support::twin::{Frame, Twins, USER, exact};
use super::support::{TOKEN, run};
use super::{array, ids, same};

#[test]
fn hello_in_every_form() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "HELLO",
            "HELLO 2",
            "HELLO 3",
            "HELLO",
            "HELLO 3 SETNAME me",
            "CLIENT GETNAME",
            "HELLO 2 SETNAME you",
            "CLIENT GETNAME",
            "HELLO 4",
            "HELLO 1",
            "HELLO 0",
            "HELLO 03",
            "HELLO +3",
            "HELLO -3",
            "HELLO 99999999999999999999",
            "HELLO abc",
            "HELLO \"\"",
            "HELLO 2.0",
            "HELLO 3 SETNAME \"a b\"",
            "HELLO 3 SETNAME",
            "HELLO 3 NONSENSE",
            "HELLO 3 NON\\sense x y",
            "HELLO 3 AUTH",
            "HELLO 3 AUTH x",
            "HELLO 3 SETNAME x AUTH y",
            "HELLO 9 SETNAME x",
            "HELLO 9 NONSENSE",
            "HELLO abc NONSENSE",
            "HELLO 3 SETNAME a SETNAME b",
            "CLIENT GETNAME",
            "hello 2 setname c",
            &format!("HELLO 3 AUTH {USER} {TOKEN}"),
            &format!("HELLO 2 AUTH {USER} {TOKEN} SETNAME d"),
            &format!("HELLO 3 SETNAME e AUTH {USER} {TOKEN}"),
            &format!("HELLO 3 SETNAME \"a b\" AUTH {USER} {TOKEN}"),
            &format!("HELLO 9 AUTH {USER} {TOKEN}"),
            &format!("HELLO 2 AUTH {USER} {TOKEN} NONSENSE"),
            "CLIENT GETNAME",
            "ACL WHOAMI",
            "HELLO 2",
            "GET nothing",
        ];
        same(&twins, ids, &script).await;
    });
}

#[test]
fn auth_of_who_is_authorised_already() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            &format!("AUTH {USER} {TOKEN}"),
            "AUTH",
            "AUTH a b c",
            "AUTH a b c d",
            &format!("auth {USER} {TOKEN}"),
            "ACL WHOAMI",
        ];
        same(&twins, exact, &script).await;
    });
}

#[test]
fn client_subcommands() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "CLIENT GETNAME",
            "CLIENT SETNAME me",
            "CLIENT GETNAME",
            "CLIENT SETNAME \"a b\"",
            "CLIENT SETNAME \"\"",
            "CLIENT GETNAME",
            "CLIENT SETNAME",
            "CLIENT SETINFO LIB-NAME lib",
            "CLIENT SETINFO lib-ver 1.2",
            "CLIENT SETINFO LIB-NAME \"a b\"",
            "CLIENT SETINFO NONSENSE x",
            "CLIENT SETINFO",
            "CLIENT INFO",
            "CLIENT LIST",
            "CLIENT LIST TYPE nonsense",
            "CLIENT LIST TYPE replica",
            "CLIENT LIST ID 999999999",
            "CLIENT LIST ID",
            "CLIENT NO-EVICT ON",
            "CLIENT NO-EVICT OFF",
            "CLIENT NO-EVICT nonsense",
            "CLIENT NO-TOUCH ON",
            "CLIENT NO-TOUCH OFF",
            "CLIENT NO-TOUCH nonsense",
            "CLIENT CAPA",
            "CLIENT CAPA redirect",
            "CLIENT CAPA nonsense REDIRECT",
            "MULTI",
            "CLIENT CAPA redirect",
            "EXEC",
            "CLIENT GETREDIR",
            "CLIENT TRACKINGINFO",
            "CLIENT CACHING YES",
            "CLIENT TRACKING ON",
            "CLIENT TRACKINGINFO",
            "CLIENT TRACKING ON BCAST",
            "CLIENT TRACKING OFF",
            "CLIENT TRACKING ON BCAST PREFIX a PREFIX b NOLOOP",
            "CLIENT TRACKINGINFO",
            "CLIENT TRACKING OFF",
            "CLIENT TRACKING ON OPTIN",
            "CLIENT CACHING YES",
            "CLIENT CACHING NO",
            "CLIENT TRACKING OFF",
            "CLIENT TRACKING ON OPTOUT",
            "CLIENT CACHING NO",
            "CLIENT TRACKING OFF",
            "CLIENT TRACKING ON REDIRECT 999999999",
            "CLIENT TRACKING ON REDIRECT x",
            "CLIENT TRACKING nonsense",
            "CLIENT GETREDIR",
            "CLIENT UNPAUSE",
            "CLIENT UNBLOCK 999999999",
            "CLIENT UNBLOCK x",
            "CLIENT KILL ID 999999999",
            "CLIENT KILL 1.2.3.4:5",
            "CLIENT KILL ADDR 1.2.3.4:5 SKIPME yes",
            "CLIENT KILL USER nobody",
            "CLIENT KILL TYPE nonsense",
            "CLIENT KILL",
            "CLIENT NONSENSE",
            "CLIENT",
            "CLIENT HELP",
            "CLIENT REPLY",
            "CLIENT REPLY nonsense",
            "CLIENT REPLY ON",
            "CLIENT REPLY ON x",
            "CLIENT ID x",
        ];
        same(&twins, ids, &script).await;
        let mut resp3 = vec!["HELLO 3"];
        resp3.extend(script);
        same(&twins, ids, &resp3).await;
        // Its own id, and the end of itself.
        let mut twin = twins.twin(exact).await;
        let id = |frames: &[Frame]| {
            String::from_utf8_lossy(&frames[0]).trim_matches([':', '\r', '\n']).parse::<u64>().unwrap()
        };
        let (direct, proxied) = twin.ask_each("CLIENT ID\r\n").await;
        let (direct, proxied) = (id(&direct), id(&proxied));
        for kill in ["CLIENT LIST ID {}", "CLIENT KILL ID {} SKIPME no"] {
            let line = |id: u64| format!("{}\r\n", kill.replace("{}", &id.to_string())).into_bytes();
            twin.send_each(&line(direct), &line(proxied)).await;
            if kill.contains("KILL") {
                twin.closed().await;
                return;
            }
            let (left, right) = twin.taken(1).await;
            assert!(left[0].starts_with(b"$") && right[0].starts_with(b"$"));
        }
    });
}

#[test]
fn errors_databases_and_introspection() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "NONSENSE",
            "NONSENSE a b c",
            "nonsense \"a\\r\\nb\"",
            "JSON.GET k .",
            "FT.SEARCH idx *",
            "BF.ADD k v",
            "GET",
            "GET a b",
            "SET a",
            "CONFIG",
            "CONFIG GET maxmemory-policy",
            "CONFIG GET maxmemory-p* nothing",
            "CONFIG SET maxmemory-policy nonsense",
            "CONFIG SET maxmemory-policy noeviction",
            "CONFIG SET notify-keyspace-events \"\"",
            "CONFIG SET nonsense x",
            "COMMAND COUNT",
            "COMMAND INFO get set nonsense",
            "COMMAND DOCS get nonsense",
            "COMMAND GETKEYS mset a 1 b 2",
            "COMMAND GETKEYSANDFLAGS set a 1",
            "COMMAND NONSENSE",
            "PING",
            "PING hello",
            "PING a b",
            "ECHO hello",
            "SELECT 1",
            "SET in1 x",
            "DBSIZE",
            "SELECT 0",
            "GET in1",
            "MOVE in1 0",
            "SELECT 16",
            "SELECT x",
            "SWAPDB 0 1",
            "GET in1",
            "SWAPDB 0 1",
            "FLUSHALL ASYNC",
            "ACL WHOAMI",
            "ACL CAT nonsense",
            "ACL GETUSER nobody",
            "ACL DRYRUN iam-ro SET a b",
            "ACL NONSENSE",
            "OBJECT HELP",
            "MEMORY USAGE missing",
            "MEMORY DOCTOR",
            "LATENCY DOCTOR",
            "LATENCY RESET",
            "SLOWLOG LEN x",
            "MODULE LIST",
            "READONLY",
            "READWRITE",
            "ASKING",
            "CLUSTER INFO",
            "CLUSTER SLOTS",
            "CLUSTER SHARDS",
            "CLUSTER KEYSLOT a",
            "CLUSTER MYID",
            "RESET x",
            "ROLE",
            "LOLWUT VERSION 1",
            "OBJECT NONSENSE",
            "XGROUP NONSENSE",
            "XGROUP CREATE missing g 0",
            "EVALSHA ffff 0",
            "EVAL \"return KEYS\" 2 a",
            "SCRIPT NONSENSE",
            "UNWATCH",
            "EXEC",
            "DISCARD",
            "PUBSUB CHANNELS",
            "PUBSUB NUMSUB a",
            "PUBSUB NUMPAT",
            "PUBSUB SHARDNUMSUB a",
            "PUBLISH a b",
            "SPUBLISH a b",
            "UNSUBSCRIBE",
            "UNSUBSCRIBE a",
            "PUNSUBSCRIBE",
            "SUNSUBSCRIBE a b",
            "SUBSCRIBE",
            "CLIENT REPLY x",
        ];
        same(&twins, ids, &script).await;
        let mut resp3 = vec!["HELLO 3"];
        resp3.extend(script);
        same(&twins, ids, &resp3).await;
    });
}

#[test]
fn scripts_and_functions() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "EVAL \"return 1\" 0",
            "EVAL \"return {1,2,{3,'x'}}\" 0",
            // As deep as a server's replies get: 7,996 arrays in each other, with an error in the innermost.
            "EVAL \"local a = {}; local b = {a}; a[1] = b; return a\" 0",
            "EVAL \"return redis.call('get', KEYS[1])\" 1 missing",
            "EVAL \"return redis.status_reply('FINE')\" 0",
            "EVAL \"return redis.error_reply('MY bad')\" 0",
            "EVAL \"return redis.error_reply('bad')\" 0",
            "EVAL \"error('boom')\" 0",
            "EVAL \"nonsense(\" 0",
            "EVAL \"return redis.call('set', 'a')\" 0",
            "EVAL \"return redis.pcall('nonsense')\" 0",
            "EVAL \"redis.setresp(3); return {double=1.5}\" 0",
            "EVAL \"redis.setresp(3); return {big_number='1234567999999999999999999999999999999'}\" 0",
            "EVAL \"redis.setresp(3); return {verbatim_string={format='txt',string='hi'}}\" 0",
            "EVAL \"redis.setresp(3); return {map={a=1}}\" 0",
            "EVAL \"redis.setresp(3); return {set={a=true}}\" 0",
            "EVAL \"redis.setresp(3); return redis.call('hgetall', 'missing')\" 0",
            "EVAL \"return true\" 0",
            "EVAL \"return false\" 0",
            "EVAL \"return nil\" 0",
            "EVAL \"return 3.99\" 0",
            "EVAL \"return redis.call('subscribe', 'x')\" 0",
            "EVAL \"return redis.call('auth', 'x')\" 0",
            "EVAL \"return redis.call('multi')\" 0",
            "EVAL \"#!lua flags=no-writes\\nreturn redis.call('set','a','b')\" 0",
            "EVAL_RO \"return redis.call('set', KEYS[1], 1)\" 1 a",
            "SCRIPT LOAD \"return ARGV[1]\"",
            "EVALSHA 098e0f0d1448c0a81dafe820f66d460eb09263da 0 x",
            "SCRIPT EXISTS 098e0f0d1448c0a81dafe820f66d460eb09263da ffff",
            "SCRIPT FLUSH",
            "SCRIPT KILL",
            "FUNCTION LOAD \"#!lua name=lib\\nredis.register_function('twice', function(k,a) return a[1]*2 end)\"",
            "FUNCTION LOAD \"#!lua name=lib\\nredis.register_function('twice', function(k,a) return a[1]*2 end)\"",
            "FCALL twice 0 21",
            "FCALL nothing 0",
            "FCALL_RO twice 0 21",
            "FUNCTION LIST",
            "FUNCTION LIST WITHCODE LIBRARYNAME lib",
            "FUNCTION STATS",
            "FUNCTION DELETE lib",
            "FUNCTION DELETE lib",
            "FUNCTION NONSENSE",
        ];
        same(&twins, exact, &script).await;
        let mut resp3 = vec!["HELLO 3"];
        resp3.extend(script);
        same(&twins, ids, &resp3).await;
    });
}

#[test]
fn replies_that_are_switched_off() {
    run(async {
        let twins = Twins::start(&[]).await;
        let script = [
            "CLIENT REPLY OFF",
            "SET a 1",
            "GET a",
            "NONSENSE",
            "CLIENT REPLY OFF",
            "PING",
            "CLIENT REPLY ON",
            "GET a",
            "CLIENT REPLY SKIP",
            "GET a",
            "GET a",
            "CLIENT REPLY SKIP",
            "CLIENT REPLY SKIP",
            "GET a",
            "GET a",
            "CLIENT REPLY SKIP",
            "NONSENSE",
            "GET a",
            "CLIENT REPLY SKIP",
            "CLIENT REPLY ON",
            "GET a",
            "CLIENT REPLY SKIP",
            "CLIENT REPLY OFF",
            "GET a",
            "CLIENT REPLY ON",
            "CLIENT REPLY OFF",
            "CLIENT REPLY SKIP",
            "GET a",
            "GET a",
            "CLIENT REPLY ON",
            "CLIENT REPLY OFF",
            "CLIENT REPLY nonsense",
            "CLIENT REPLY",
            "CLIENT REPLY ON",
            "CLIENT REPLY SKIP",
            "MULTI",
            "GET a",
            "EXEC",
            "CLIENT REPLY OFF",
            "MULTI",
            "SET a 2",
            "EXEC",
            "MULTI",
            "NONSENSE",
            "EXEC",
            "CLIENT REPLY ON",
            "GET a",
            "CLIENT REPLY OFF",
            "HELLO 3",
            "CLIENT REPLY ON",
            "HGETALL nothing",
            "HELLO 2",
            "CLIENT REPLY SKIP",
            "HELLO 3",
            "HGETALL nothing",
            "HELLO 2",
            "CLIENT REPLY SKIP",
            "HELLO 9",
            "PING",
            "CLIENT REPLY OFF",
            "SUBSCRIBE",
            "SUBSCRIBE c",
            "UNSUBSCRIBE c",
            "UNSUBSCRIBE",
            "CLIENT REPLY ON",
            "CLIENT REPLY SKIP",
            "SUBSCRIBE c",
            "UNSUBSCRIBE c",
            "PING",
            "CLIENT REPLY SKIP",
            "SUBSCRIBE",
            "PING",
        ];
        for resp3 in [false, true] {
            let mut twin = twins.twin(ids).await;
            if resp3 {
                twin.send("HELLO 3\r\n").await;
                twin.settle_with(1).await;
            }
            for line in script {
                twin.send(array(line)).await;
                twin.settle().await;
            }
            let all: Vec<u8> = script.iter().flat_map(|line| array(line)).collect();
            twin.send(all).await;
            twin.settle().await;
            twin.end().await;
        }
    });
}
