use super::*;
use crate::command::{find, resolve};
use crate::request::split_inline;

/// What a request touches, in words: `r:key`, `w:key`, `rw:key`, `-:key`, `any:r`, …
fn touched(request: &str) -> String {
    let args = split_inline(request.as_bytes()).unwrap();
    let id = resolve(&args[0], args.get(1).map(Vec::as_slice)).id().unwrap();
    let mut found = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let access = |access: Access| match access {
        Access::READ => "r",
        Access::WRITE => "w",
        Access::BOTH => "rw",
        _ => "-",
    };
    let all = all_touches(id, &args, |touch| {
        found.push(match touch {
            Touch::Key(key, how) => format!("{}:{}", access(how), text(key)),
            Touch::KeysFrom(prefix) => format!("from:{}", text(prefix)),
            Touch::AnyKey(how) => format!("any:{}", access(how)),
            Touch::Listen(channel) => format!("listen:{}", text(channel)),
            Touch::ListenPattern(pattern) => format!("pattern:{}", text(pattern)),
            Touch::Publish(channel) => format!("publish:{}", text(channel)),
            Touch::AnyChannel => "any-channel".to_owned(),
            Touch::Unseen => "unseen".to_owned(),
        });
        true
    });
    if !all {
        found.push("no".to_owned());
    }
    found.join(" ")
}

#[test]
fn what_commands_touch() {
    for (request, touches) in [
        ("GET a", "r:a"),
        ("STRLEN a", "-:a"),
        ("EXISTS a b", "-:a -:b"),
        ("DEL a b", "w:a w:b"),
        ("GETDEL a", "rw:a"),
        ("INCR a", "rw:a"),
        ("SET a GET", "w:a"),
        ("SET a 1 EX 10 NX", "w:a"),
        ("SET a 1 get", "rw:a"),
        ("SET a 1 \"gEt\\x00x\"", "rw:a"),
        ("SET a 1 IFEQ 2", "rw:a"),
        ("MSET a 1 b 2", "w:a w:b"),
        ("COPY a b DB 1 REPLACE", "r:a w:b"),
        ("RENAME a b", "rw:a w:b"),
        ("LMOVE a b LEFT RIGHT", "rw:a w:b"),
        ("BITFIELD a GET u8 0 GET u8 8", "r:a"),
        ("BITFIELD a GET u8 0 SET u8 8 1", "rw:a"),
        ("BITFIELD a OVERFLOW WRAP", "rw:a"),
        ("OBJECT ENCODING a", "-:a"),
        ("MEMORY USAGE a", "-:a"),
        ("XREAD COUNT 1 STREAMS a b 0 0", "r:a r:b"),
        ("XREAD COUNT 1 \"streams\\x00\" a 0", "r:a"),
        ("XREADGROUP GROUP STREAMS c STREAMS a >", "r:a"),
        ("XREAD COUNT 1", "unseen"),
        ("ZUNIONSTORE a 2 b c WEIGHTS 1 2", "w:a r:b r:c"),
        ("ZUNIONSTORE a 9 b c", "w:a unseen"),
        ("LMPOP 1 a LEFT", "rw:a"),
        ("GEORADIUS a 0 0 1 km STORE b STORE c", "r:a w:b w:c"),
        ("GEORADIUS a 0 0 1 km STOREDIST b", "r:a w:b"),
        ("GEORADIUSBYMEMBER a m 1 km \"store\\x00!\" b", "r:a w:b"),
        ("GEORADIUSBYMEMBER_RO a m 1 km", "r:a"),
        ("SORT a", "r:a"),
        ("SORT a LIMIT 0 1 ASC BY nosort STORE b", "r:a w:b"),
        ("SORT a LIMIT GET 1", "r:a"),
        ("SORT a BY w_*", "r:a any:r"),
        ("SORT a \"GET\\x00\" #", "r:a any:r"),
        ("SORT_RO a GET #", "r:a any:r"),
        ("SORT a NONSENSE b", "r:a unseen"),
        ("MIGRATE h 1 a 0 10", "rw:a unseen"),
        ("EVAL s 1 a", "any:rw any-channel"),
        ("FCALL_RO f 0", "any:rw any-channel"),
        ("SCRIPT LOAD s", "any:rw any-channel"),
        ("FUNCTION FLUSH", "any:rw any-channel"),
        ("KEYS *", "any:r"),
        ("SCAN 0 MATCH a*", "any:r"),
        ("DBSIZE", "any:r"),
        ("FLUSHALL", "any:w"),
        ("SWAPDB 0 1", "any:rw"),
        ("SLOWLOG GET", "any:r"),
        ("MONITOR", "any:rw"),
        ("ACL SETUSER x", "any:rw"),
        ("CLUSTER GETKEYSINSLOT 1 1", "any:r"),
        ("CLUSTER KEYSLOT a", ""),
        ("PING", ""),
        ("CLIENT LIST", ""),
        ("OBJECT HELP", ""),
        ("SUBSCRIBE a b", "listen:a listen:b"),
        ("SSUBSCRIBE a", "listen:a"),
        ("PSUBSCRIBE a*", "pattern:a*"),
        ("UNSUBSCRIBE a", ""),
        ("PUBLISH a m", "publish:a"),
        ("SPUBLISH a m", "publish:a"),
        ("PUBSUB CHANNELS", "any-channel"),
        ("PUBSUB NUMSUB a", "listen:a"),
        ("CLIENT TRACKING ON", ""),
        ("CLIENT TRACKING ON OPTIN REDIRECT 5", ""),
        ("CLIENT TRACKING ON BCAST", "any:r"),
        ("CLIENT TRACKING ON BCAST PREFIX a PREFIX b", "from:a from:b"),
        ("CLIENT TRACKING ON \"bcast\\x00\" PREFIX BCAST", "from:BCAST"),
        ("CLIENT TRACKING ON BCAST NEW PREFIX a", "any:r"),
        ("GET", "unseen"),
    ] {
        assert_eq!(touched(request), touches, "{request}");
    }
}

/// A new command of the table has to be looked at: it touches everything until somebody has.
#[test]
fn what_touches_nothing_is_known_by_name() {
    let free = command::all().filter(|id| reach(*id) == (false, false));
    for id in free {
        let own = id.command();
        assert!(own.keys.is_empty() || own.name == "sunsubscribe", "{} has keys", id.display_name());
    }
    assert_eq!(reach(find(b"pfselftest").unwrap()), (true, false));
}

struct Begun<'a>(&'a [&'a [u8]], usize);

impl Arguments for Begun<'_> {
    fn count(&self) -> usize {
        self.1
    }

    fn word(&self, index: usize) -> Option<&[u8]> {
        self.0.get(index).copied()
    }
}

#[test]
fn words_that_did_not_come_yet_are_in_doubt() {
    let permits = |words: &[&[u8]], count| {
        let id = find(words[0]).unwrap();
        all_touches(
            id,
            &Begun(words, count),
            |touch| matches!(touch, Touch::Key(b"a", access) if Access::WRITE.contains(access)),
        )
    };
    assert!(permits(&[b"SET", b"a"], 3));
    assert!(!permits(&[b"SET", b"a"], 4), "it might be a GET");
    assert!(permits(&[b"HSET", b"a", b"f"], 4));
    assert!(!permits(&[b"MSET", b"a"], 3 + 2));
    assert!(permits(&[b"MSET", b"a"], 3));
    assert!(!permits(&[b"XREAD", b"COUNT"], 6));
    assert!(!permits(&[b"SORT", b"a"], 4));
    assert!(!permits(&[b"DEL", b"a"], 3));
}
