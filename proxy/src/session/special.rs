//! The commands that do not simply pass: what they are to a session, in one table beside the command table.

use std::sync::OnceLock;

pub use keystile_resp::command::c_string;
use keystile_resp::command::{self, COUNT, CommandId};

use super::expected::Topic;

/// What a command is to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// It passes where the rules allow it.
    Plain,
    /// It never passes, for this reason.
    Never(&'static str),
    /// It never passes where one endpoint stands for servers that the client must not see.
    Topology,
    /// `AUTH`.
    Auth,
    /// `HELLO`.
    Hello,
    /// `QUIT`.
    Quit,
    /// `RESET`.
    Reset,
    /// `MULTI`.
    Multi,
    /// `EXEC`, `DISCARD`.
    EndMulti,
    /// `WATCH`.
    Watch,
    /// `UNWATCH`.
    Unwatch,
    /// `CLIENT REPLY`.
    ClientReply,
    /// `CLIENT TRACKING`.
    Tracking,
    /// `CLIENT CAPA`.
    Capabilities,
    /// `CONFIG SET`.
    ConfigSet,
    /// `SUBSCRIBE` and its kin.
    Subscribe(Topic),
    /// `UNSUBSCRIBE` and its kin.
    Unsubscribe(Topic),
}

const REPLICATION: &str = "replication does not pass a proxy";
const SERVER: &str = "it changes the server, not this session: use the AWS API";
const DEBUGGER: &str = "the debugger takes over the connection, and stops the server for everybody";
const CLUSTER: &str = "the cluster is AWS's to change: use the AWS API";

/// They take slots for what other commands have for keys, and no redirection corrects them.
const SLOTS_OF_REDIS_8: [&[u8]; 2] = [b"sflush", b"trimslots"];

/// `CONFIG SET` of these would break the session or open the server.
const CONFIG_KEPT: [&str; 22] = [
    "requirepass",
    "masterauth",
    "masteruser",
    "primaryauth",
    "primaryuser",
    "aclfile",
    "acl-pubsub-default",
    "bind",
    "port",
    "unixsocket",
    "protected-mode",
    "maxclients",
    "timeout",
    "dir",
    "dbfilename",
    "appenddirname",
    "appendfilename",
    "proto-max-bulk-len",
    "client-query-buffer-limit",
    "client-output-buffer-limit",
    "rename-command",
    "loadmodule",
];

/// What a command is.
#[inline]
pub fn special(id: CommandId) -> Special {
    table().get(id.index()).copied().unwrap_or(Special::Plain)
}

/// Whether `CONFIG SET` of this parameter stays away from the server.
pub fn is_kept_config(parameter: &[u8]) -> bool {
    let parameter = c_string(parameter);
    parameter.len() >= 4 && parameter.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"tls-"))
        || CONFIG_KEPT.iter().any(|kept| kept.as_bytes().eq_ignore_ascii_case(parameter))
}

/// Why a subcommand that the table does not know must not pass although unknown commands may.
pub fn unknown_refusal(name: &[u8]) -> Option<&'static str> {
    let closed: [(&[u8], &'static str); 4] =
        [(b"cluster", CLUSTER), (b"module", SERVER), (b"debug", SERVER), (b"config", SERVER)];
    closed
        .iter()
        .find(|(word, _)| word.eq_ignore_ascii_case(name))
        .map(|(_, why)| *why)
        .or_else(|| name.eq_ignore_ascii_case(b"failover").then_some(REPLICATION))
        .or_else(|| SLOTS_OF_REDIS_8.iter().any(|known| name.eq_ignore_ascii_case(known)).then_some(CLUSTER))
}

fn table() -> &'static [Special; COUNT] {
    static TABLE: OnceLock<Box<[Special; COUNT]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Box::new([Special::Plain; COUNT]);
        for id in command::all() {
            let own = id.command();
            let special = match own.container {
                None => of_command(own.name),
                Some(container) => of_subcommand(container.command().name, own.name),
            };
            if let Some(slot) = table.get_mut(id.index()) {
                *slot = special;
            }
        }
        table
    })
}

fn of_command(name: &str) -> Special {
    match name {
        "auth" => Special::Auth,
        "hello" => Special::Hello,
        "quit" => Special::Quit,
        "reset" => Special::Reset,
        "multi" => Special::Multi,
        "exec" | "discard" => Special::EndMulti,
        "watch" => Special::Watch,
        "unwatch" => Special::Unwatch,
        "subscribe" => Special::Subscribe(Topic::Channel),
        "psubscribe" => Special::Subscribe(Topic::Pattern),
        "ssubscribe" => Special::Subscribe(Topic::Shard),
        "unsubscribe" => Special::Unsubscribe(Topic::Channel),
        "punsubscribe" => Special::Unsubscribe(Topic::Pattern),
        "sunsubscribe" => Special::Unsubscribe(Topic::Shard),
        "monitor" => Special::Never("it would show the commands of every other client"),
        "sync" | "psync" | "replconf" | "replicaof" | "slaveof" | "failover" | "restore-asking" => {
            Special::Never(REPLICATION)
        }
        "shutdown" | "debug" | "pfdebug" | "pfselftest" => Special::Never(SERVER),
        _ => Special::Plain,
    }
}

fn of_subcommand(container: &str, name: &str) -> Special {
    match (container, name) {
        ("client", "reply") => Special::ClientReply,
        ("client", "tracking") => Special::Tracking,
        ("client", "capa") => Special::Capabilities,
        ("script", "debug") => Special::Never(DEBUGGER),
        ("config", "set") => Special::ConfigSet,
        ("config", "rewrite") => Special::Never(SERVER),
        ("module", "load" | "loadex" | "unload") => Special::Never(SERVER),
        ("cluster", "slots" | "shards" | "nodes" | "replicas" | "slaves" | "links") => Special::Topology,
        (
            "cluster",
            "info"
            | "myid"
            | "myshardid"
            | "keyslot"
            | "countkeysinslot"
            | "getkeysinslot"
            | "help"
            | "count-failure-reports"
            | "slot-stats",
        ) => Special::Plain,
        ("cluster", _) => Special::Never(CLUSTER),
        _ => Special::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, sub: Option<&str>) -> Special {
        special(command::resolve(name.as_bytes(), sub.map(str::as_bytes)).id().unwrap())
    }

    #[test]
    fn what_never_passes() {
        for name in
            ["MONITOR", "SYNC", "PSYNC", "REPLCONF", "SHUTDOWN", "FAILOVER", "REPLICAOF", "SLAVEOF", "DEBUG"]
        {
            assert!(matches!(of(name, None), Special::Never(_)), "{name}");
        }
        for (name, sub) in [
            ("MODULE", "LOAD"),
            ("CONFIG", "REWRITE"),
            ("SCRIPT", "DEBUG"),
            ("CLUSTER", "FAILOVER"),
            ("CLUSTER", "RESET"),
            ("CLUSTER", "SETSLOT"),
            ("CLUSTER", "MEET"),
        ] {
            assert!(matches!(of(name, Some(sub)), Special::Never(_)), "{name} {sub}");
        }
        assert_eq!(of("MODULE", Some("LIST")), Special::Plain);
        assert_eq!(of("CLUSTER", Some("KEYSLOT")), Special::Plain);
        assert_eq!(of("CLUSTER", Some("SLOTS")), Special::Topology);
        assert_eq!(of("GET", None), Special::Plain);
    }

    #[test]
    fn some_settings_stay_with_the_server() {
        assert!(is_kept_config(b"RequirePass") && is_kept_config(b"tls-port"));
        assert!(is_kept_config(b"requirepass\0x") && is_kept_config(b"requirepass\0"));
        assert!(!is_kept_config(b"maxmemory-policy"));
        assert!(unknown_refusal(b"SFLUSH").is_some());
        assert!(unknown_refusal(b"Cluster").is_some() && unknown_refusal(b"json.get").is_none());
    }
}
