//! Our rules on commands, keys and channels against the ACL of a real server: what a server denies to a
//! selector, we never let pass under the same one; where we are stricter, it is by design.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use keystile_model::command_rules::parse_list;
use keystile_model::decide::{Selector, SessionGrant};
use keystile_model::name::RoleName;
use keystile_model::role::{AuditLevel, LockingMode};
use keystile_proxy::session::gate::Gate;
use keystile_resp::command::{self, CommandId, Named};
use keystile_resp::encode;
use keystile_resp::glob::Glob;
use support::{free_port, valkey_server};

struct Server {
    child: Child,
    stream: BufReader<TcpStream>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let port = free_port();
        let child = valkey_server()
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, stream: BufReader::new(connected(port)) }
    }

    /// Sends all requests and gives one line for each: of a bulk its text, otherwise the line itself.
    fn ask(&mut self, requests: &[Vec<Vec<u8>>]) -> Vec<String> {
        let mut answers = Vec::new();
        for some in requests.chunks(500) {
            let mut bytes = Vec::new();
            for words in some {
                encode::request(&mut bytes, words);
            }
            self.stream.get_mut().write_all(&bytes).unwrap();
            answers.extend(some.iter().map(|_| self.answer()));
        }
        answers
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        let Some(length) = line.strip_prefix('$') else { return line };
        let mut bulk = vec![0; length.parse::<usize>().unwrap() + 2];
        self.stream.read_exact(&mut bulk).unwrap();
        String::from_utf8_lossy(&bulk[..bulk.len() - 2]).into_owned()
    }

    fn set_user(&mut self, rules: &[String]) {
        let mut words =
            ["ACL", "SETUSER", "u", "reset", "on", "nopass"].map(|word| word.as_bytes().to_vec()).to_vec();
        words.extend(rules.iter().map(|rule| rule.as_bytes().to_vec()));
        assert_eq!(self.ask(&[words]), ["+OK"], "{rules:?}");
    }

    /// Whether the user may run each; an error, as of arity, is a no that nobody can get past.
    fn may(&mut self, requests: &[Vec<Vec<u8>>]) -> Vec<Option<bool>> {
        let dry = |words: &Vec<Vec<u8>>| {
            [b"ACL".to_vec(), b"DRYRUN".to_vec(), b"u".to_vec()]
                .into_iter()
                .chain(words.iter().cloned())
                .collect()
        };
        let answers = self.ask(&requests.iter().map(dry).collect::<Vec<_>>());
        answers.iter().map(|line| (!line.starts_with('-')).then(|| line == "+OK" || line == "OK")).collect()
    }
}

fn connected(port: u16) -> TcpStream {
    for _ in 0..1_200 {
        if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("valkey does not listen");
}

/// A small generator of numbers: a failure comes again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % most
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    fn some(&mut self, choices: &[&str], most: usize) -> Vec<String> {
        (0..self.below(most + 1)).map(|_| (*self.of(choices)).to_owned()).collect()
    }
}

const KEYS: &[&str] = &[
    "~a*",
    "~b",
    "%R~a*",
    "%W~a*",
    "%R~*",
    "%W~b*",
    "%RW~ab*",
    "~?",
    "~[ab]*",
    "~cart:*",
    "%R~cart:1",
    "%W~*",
    "%RW~*",
    "~**",
];
const CHANNELS: &[&str] = &["&a*", "&b", "&cart:*", "&__keyspace@*", "&**", "&?"];
const COMMANDS: &[&str] =
    &["+@all", "+@all", "+@all", "+@read", "+@write +@read", "+@all -@dangerous", "+@pubsub +@keyspace"];
const WORDS: &[&str] = &[
    "a",
    "b",
    "ab",
    "abc",
    "cart:1",
    "cart:*",
    "a*",
    "",
    "1",
    "1",
    "2",
    "3",
    "0",
    "-1",
    "STORE",
    "store\0x",
    "STOREDIST",
    "STREAMS",
    "streams\0",
    "GET",
    "get\0a",
    "SET",
    "BY",
    "LIMIT",
    "KEYS",
    "GROUP",
    "ASC",
    "NX",
    "EX",
    "PX",
    "KEEPTTL",
    "MATCH",
    "COUNT",
    "BCAST",
    "PREFIX",
    "ON",
    "OFF",
    "REPLACE",
    "WEIGHTS",
    "u8",
    "OVERFLOW",
    "__keyspace@0__:a",
    "*",
    "nosort",
    "#",
    "IFEQ",
    "RESTORE",
    "BYLEX",
];

fn grant(commands: &str, keys: &[String], channels: &[String]) -> SessionGrant {
    let selector = Selector {
        role: RoleName::parse("r").unwrap(),
        commands: parse_list([commands]).unwrap(),
        keys: keys.to_vec(),
        channels: channels.to_vec(),
    };
    SessionGrant {
        selectors: vec![selector],
        denied_commands: Vec::new(),
        denied_keys: Vec::new(),
        max_session_ttl_s: None,
        client_idle_timeout_s: None,
        max_connections: None,
        locking_mode: LockingMode::BestEffort,
        audit: AuditLevel::Summary,
    }
}

fn or(list: &[String], all: &str) -> String {
    if list.is_empty() { all.to_owned() } else { list.join(" ") }
}

/// A request of a command: its name, then words, sometimes as many as it wants.
fn request(id: CommandId, dice: &mut Dice) -> Vec<Vec<u8>> {
    let own = id.command();
    let mut words: Vec<Vec<u8>> = Vec::new();
    words.extend(own.container.map(|container| container.command().name.as_bytes().to_vec()));
    words.push(own.name.as_bytes().to_vec());
    let least = usize::from(own.arity.unsigned_abs());
    let wanted = if own.arity < 0 { least + dice.below(7) } else { least };
    while words.len() < wanted {
        words.push(dice.of(WORDS).as_bytes().to_vec());
    }
    words
}

#[test]
fn what_a_server_denies_never_passes() {
    let mut server = Server::start();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut stricter: BTreeMap<String, u64> = BTreeMap::new();
    let (mut agreed, mut allowed) = (0_u64, 0_u64);
    for _ in 0..60 {
        let (commands, keys, channels) = (*dice.of(COMMANDS), dice.some(KEYS, 3), dice.some(CHANNELS, 2));
        let gate = Gate::compile(&grant(commands, &keys, &channels)).unwrap();
        let rules = format!("({commands} {} {})", or(&keys, "allkeys"), or(&channels, "allchannels"));
        server.set_user(std::slice::from_ref(&rules));
        let asked: Vec<(CommandId, Vec<Vec<u8>>)> = command::all()
            .flat_map(|id| [id; 8])
            .filter_map(|id| {
                let words = request(id, &mut dice);
                match command::resolve(&words[0], words.get(1).map(Vec::as_slice)) {
                    Named::Known(id) => Some((id, words)),
                    // Refused under any limit, whatever the server says.
                    Named::UnknownSubcommand(_) | Named::Unknown => None,
                }
            })
            .collect();
        let requests: Vec<_> = asked.iter().map(|(_, words)| words.clone()).collect();
        for ((id, words), theirs) in asked.iter().zip(server.may(&requests)) {
            let Some(theirs) = theirs else { continue };
            let ours = gate.allows(*id) && gate.look(*id, words).is_ok();
            let shown = words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ");
            assert!(theirs || !ours, "we let pass what {rules} denies: {shown:?}");
            if theirs && !ours {
                *stricter.entry(id.display_name()).or_default() += 1;
            } else {
                agreed += 1;
            }
            allowed += u64::from(ours);
        }
    }
    println!("{agreed} agreed, {allowed} allowed; stricter: {stricter:?}");
    assert!(agreed > 50_000 && allowed > 10_000);
    let is_by_design =
        |name: &str| STRICTER.iter().any(|(names, _)| names.split(", ").any(|one| one == name));
    let by_design: Vec<_> = stricter.keys().filter(|name| !is_by_design(name)).collect();
    assert!(by_design.is_empty(), "stricter without a reason: {by_design:?} of {stricter:?}");
}

/// Where the proxy is stricter than a server's ACL, and why.
const STRICTER: &[(&str, &str)] = &[
    (
        "CLUSTERSCAN, DBSIZE, FLUSHALL, FLUSHDB, KEYS, RANDOMKEY, SCAN, SWAPDB, CLUSTER COUNTKEYSINSLOT, CLUSTER GETKEYSINSLOT",
        "the whole keyspace: the servers take them for commands without keys",
    ),
    (
        "EVAL, EVALSHA, EVALSHA_RO, EVAL_RO, FCALL, FCALL_RO, FUNCTION DELETE, FUNCTION FLUSH, FUNCTION LOAD, \
         FUNCTION RESTORE, SCRIPT FLUSH, SCRIPT LOAD",
        "what a script touches is seen by the server alone, which checks it against the db user's ACL, not the role",
    ),
    (
        "SORT, SORT_RO",
        "BY and GET are looked at by the command itself, not by DRYRUN; nonsense is refused here",
    ),
    ("ACL LOG, COMMANDLOG GET, SLOWLOG GET", "they tell the keys of others"),
    ("CLIENT TRACKING", "broadcasts tell the names of keys"),
    ("SUBSCRIBE, SSUBSCRIBE, PSUBSCRIBE", "keyspace notifications tell the names of keys"),
    (
        "PUBSUB CHANNELS, PUBSUB SHARDCHANNELS, PUBSUB NUMPAT, PUBSUB NUMSUB, PUBSUB SHARDNUMSUB",
        "they tell the channels of others",
    ),
    (
        "BLMPOP, BZMPOP, GEORADIUS, LMPOP, MIGRATE, MSETEX, SINTERCARD, XREAD, XREADGROUP, ZDIFF, ZDIFFSTORE, ZINTER, ZINTERCARD, \
         ZINTERSTORE, ZMPOP, ZUNION, ZUNIONSTORE, PFMERGE",
        "malformed, so that no keys are found: the server lets it through to its own error",
    ),
    ("SET", "options that are not known might read"),
    (
        "ACL DELUSER, ACL LOAD, ACL SAVE, ACL SETUSER, CLUSTER ADDSLOTS, CLUSTER ADDSLOTSRANGE, CLUSTER BUMPEPOCH, \
         CLUSTER CANCELSLOTMIGRATIONS, CLUSTER DELSLOTS, CLUSTER DELSLOTSRANGE, CLUSTER FAILOVER, \
         CLUSTER FLUSHSLOT, CLUSTER FLUSHSLOTS, CLUSTER FORGET, CLUSTER GETSLOTMIGRATIONS, CLUSTER MIGRATESLOTS, \
         CLUSTER MEET, CLUSTER REPLICATE, CLUSTER RESET, CLUSTER SAVECONFIG, CLUSTER SET-CONFIG-EPOCH, \
         CLUSTER SETSLOT, CLUSTER SYNCSLOTS, DEBUG, FAILOVER, MONITOR, PFSELFTEST, PSYNC, REPLCONF, REPLICAOF, SCRIPT DEBUG, \
         SHUTDOWN, SLAVEOF, SYNC",
        "they reach past keys altogether, and mostly never pass a proxy",
    ),
];

#[test]
fn patterns_match_as_on_a_server() {
    const ALPHABET: &[u8] = b"aab*?[]^-\\\x80";
    const TEXT: &[u8] = b"aab-]^\\*\x80";
    let mut server = Server::start();
    let mut dice = Dice(42);
    let (mut matched, mut all) = (0, 0);
    for _ in 0..1_500 {
        let mut draw = |alphabet: &[u8], most: usize| -> Vec<u8> {
            (0..dice.below(most)).map(|_| *dice.of(alphabet)).collect()
        };
        let pattern = draw(ALPHABET, 9);
        if pattern.is_empty() || pattern == b"*" {
            continue;
        }
        let keys: Vec<Vec<u8>> = (0..40).map(|_| draw(TEXT, 6)).collect();
        let mut words =
            ["ACL", "SETUSER", "u", "reset", "on", "+@all"].map(|word| word.as_bytes().to_vec()).to_vec();
        words.push([b"~", pattern.as_slice()].concat());
        assert_eq!(server.ask(&[words]), ["+OK"], "{pattern:?}");
        let requests: Vec<_> = keys.iter().map(|key| vec![b"GET".to_vec(), key.clone()]).collect();
        let glob = Glob::new(&pattern);
        for (key, theirs) in keys.iter().zip(server.may(&requests)) {
            // A range between an ASCII and another byte is the machine's.
            let odd = pattern.contains(&b'-') && pattern.contains(&0x80);
            assert!(odd || Some(glob.matches(key)) == theirs, "{pattern:?} {key:?}");
            matched += u64::from(glob.matches(key));
            all += 1;
        }
    }
    assert!(matched > 500, "{matched} of {all}");
}
