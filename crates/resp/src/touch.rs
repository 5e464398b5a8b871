//! What a request touches: keys with what it does to them, channels, or more than its arguments tell.
//!
//! Key specs say most of it. Where they stop, the options are read as the server reads them; what is left in
//! doubt is [`Touch::Unseen`], which only a rule without limits lets pass. A command that is none of those
//! that are known to touch nothing touches everything.

use std::sync::OnceLock;

use crate::command::{self, Arguments, COUNT, CommandId, Flags, KeyFlags, c_string, key_positions};

/// What is done to keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Neither: that a key is there, what kind and how long it is.
    pub const NONE: Self = Self(0);
    /// Its value is read.
    pub const READ: Self = Self(1);
    /// It is written, changed or removed.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// Whether it has all of `other`.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the two share something.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// As the servers' ACLs read the flags of a key spec.
    #[must_use]
    pub fn of(flags: KeyFlags) -> Self {
        let read = if flags.contains(KeyFlags::ACCESS) { Self::READ } else { Self::NONE };
        let writes = [KeyFlags::INSERT, KeyFlags::DELETE, KeyFlags::UPDATE];
        let write = if writes.iter().any(|flag| flags.contains(*flag)) { Self::WRITE } else { Self::NONE };
        read.and(write)
    }
}

/// One thing that a request touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch<'a> {
    /// A key.
    Key(&'a [u8], Access),
    /// The names of all keys that begin with this.
    KeysFrom(&'a [u8]),
    /// Any key, or the whole keyspace.
    AnyKey(Access),
    /// It listens to a channel, or asks for it.
    Listen(&'a [u8]),
    /// It listens to all channels of a pattern.
    ListenPattern(&'a [u8]),
    /// It sends to a channel.
    Publish(&'a [u8]),
    /// Any channel, or the names of all.
    AnyChannel,
    /// Keys that cannot be located.
    Unseen,
}

/// What commands touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Nothing,
    Keys,
    Set,
    Bitfield,
    Geo,
    Sort,
    Streams,
    Whole(Access),
    Script,
    Listen,
    ListenPattern,
    Publish,
    Channels,
    ChannelNames,
    Tracking,
    /// Nothing where it stands alone.
    Alone,
}

/// Whether a command touches keys, and whether channels, whatever its arguments.
#[must_use]
pub fn reach(id: CommandId) -> (bool, bool) {
    match class(id) {
        Class::Nothing => (false, false),
        Class::Keys | Class::Set | Class::Bitfield | Class::Geo | Class::Sort | Class::Streams => {
            (true, false)
        }
        Class::Whole(_) | Class::Tracking | Class::Alone => (true, false),
        // The channels of keyspace notifications tell keys.
        Class::Listen | Class::ListenPattern | Class::Script => (true, true),
        Class::Publish | Class::Channels | Class::ChannelNames => (false, true),
    }
}

/// Calls `touch` for all that the request `args` touches, until it answers false. Whether it never did.
#[must_use]
pub fn all_touches<A: Arguments + ?Sized>(
    id: CommandId,
    args: &A,
    mut touch: impl FnMut(Touch<'_>) -> bool,
) -> bool {
    match class(id) {
        Class::Nothing => true,
        Class::Keys => keys(id, args, Access::of, &mut touch),
        Class::Set => {
            let access = if set_reads(args) { Access::BOTH } else { Access::WRITE };
            keys(id, args, |_| access, &mut touch)
        }
        Class::Bitfield => {
            let access = if bitfield_writes(args) { Access::BOTH } else { Access::READ };
            keys(id, args, |_| access, &mut touch)
        }
        Class::Geo => geo(args, &mut touch),
        Class::Sort => sort_keys(args, &mut touch),
        Class::Streams => streams(id, args, &mut touch),
        Class::Whole(access) => touch(Touch::AnyKey(access)),
        Class::Script => touch(Touch::AnyKey(Access::BOTH)) && touch(Touch::AnyChannel),
        Class::Listen => words(args, 1, |channel| touch(Touch::Listen(channel))),
        Class::ListenPattern => words(args, 1, |pattern| touch(Touch::ListenPattern(pattern))),
        Class::Publish => args.word(1).is_some_and(|channel| touch(Touch::Publish(channel))),
        Class::Channels => words(args, 2, |channel| touch(Touch::Listen(channel))),
        Class::ChannelNames => touch(Touch::AnyChannel),
        Class::Tracking => tracking(args, &mut touch),
        Class::Alone => args.count() == 1 || touch(Touch::Unseen),
    }
}

/// All words from `first` on; false also where one did not come.
fn words<A: Arguments + ?Sized>(args: &A, first: usize, mut each: impl FnMut(&[u8]) -> bool) -> bool {
    (first..args.count()).all(|index| args.word(index).is_some_and(&mut each))
}

fn keys<A: Arguments + ?Sized>(
    id: CommandId,
    args: &A,
    access: impl Fn(KeyFlags) -> Access,
    touch: &mut impl FnMut(Touch<'_>) -> bool,
) -> bool {
    let (mut all, mut seen) = (true, false);
    let located = key_positions(id, args, |key| {
        seen = true;
        let word = args.word(key.index);
        all = all && touch(word.map_or(Touch::Unseen, |word| Touch::Key(word, access(key.flags))));
    });
    all && match located {
        // No server runs it, but what is no key to us must not be one to a newer server.
        Ok(()) if !seen && !id.command().flags.contains(Flags::NO_MANDATORY_KEYS) => touch(Touch::Unseen),
        Ok(()) => true,
        Err(_) => touch(Touch::Unseen),
    }
}

fn is(word: Option<&[u8]>, options: &[&str]) -> bool {
    let word = word.map(c_string);
    word.is_some_and(|word| options.iter().any(|option| option.as_bytes().eq_ignore_ascii_case(word)))
}

/// `SET` reads too with `GET` and with conditions on the value: so with whatever else is not known.
fn set_reads<A: Arguments + ?Sized>(args: &A) -> bool {
    (3..args.count()).any(|index| {
        let word = args.word(index);
        let number = word.is_some_and(|word| !word.is_empty() && word.iter().all(u8::is_ascii_digit));
        !number && !is(word, &["NX", "XX", "KEEPTTL", "EX", "PX", "EXAT", "PXAT"])
    })
}

fn bitfield_writes<A: Arguments + ?Sized>(args: &A) -> bool {
    let mut at = 2;
    while at < args.count() {
        if !is(args.word(at), &["GET"]) || at + 2 >= args.count() {
            return true;
        }
        at += 3;
    }
    false
}

/// The specs find the first `STORE`, the server takes the last: each one counts here.
fn geo<A: Arguments + ?Sized>(args: &A, touch: &mut impl FnMut(Touch<'_>) -> bool) -> bool {
    // Of `GEORADIUSBYMEMBER`; of `GEORADIUS` the unit stands there, and none is called so.
    let first_option = 5;
    let Some(key) = args.word(1) else { return touch(Touch::Unseen) };
    touch(Touch::Key(key, Access::READ))
        && (first_option..args.count()).all(|at| match args.word(at) {
            None => touch(Touch::Unseen),
            word if is(word, &["STORE", "STOREDIST"]) => match args.word(at + 1) {
                Some(key) => touch(Touch::Key(key, Access::WRITE)),
                // The last word stores nothing.
                None => at + 1 == args.count() || touch(Touch::Unseen),
            },
            _ => true,
        })
}

/// `BY` with a `*` and `GET` read keys that are made from values.
fn sort_keys<A: Arguments + ?Sized>(args: &A, touch: &mut impl FnMut(Touch<'_>) -> bool) -> bool {
    let Some(key) = args.word(1) else { return touch(Touch::Unseen) };
    if !touch(Touch::Key(key, Access::READ)) {
        return false;
    }
    let mut at = 2;
    while at < args.count() {
        let (word, next) = (args.word(at), args.word(at + 1));
        let passes = if is(word, &["ASC", "DESC", "ALPHA"]) {
            true
        } else if is(word, &["LIMIT"]) && args.word(at + 2).is_some() {
            at += 2;
            true
        } else if let Some(next) = next {
            at += 1;
            if is(word, &["STORE"]) {
                touch(Touch::Key(next, Access::WRITE))
            } else if is(word, &["BY"]) {
                !next.contains(&b'*') || touch(Touch::AnyKey(Access::READ))
            } else if is(word, &["GET"]) {
                touch(Touch::AnyKey(Access::READ))
            } else {
                touch(Touch::Unseen)
            }
        } else {
            touch(Touch::Unseen)
        };
        if !passes {
            return false;
        }
        at += 1;
    }
    true
}

/// The specs find the first `STREAMS`, which may be the name of a group or a consumer; the server steps over those.
fn streams<A: Arguments + ?Sized>(
    id: CommandId,
    args: &A,
    touch: &mut impl FnMut(Touch<'_>) -> bool,
) -> bool {
    let of_group = id.command().name == "xreadgroup";
    let mut at = 1;
    let first = loop {
        at += match args.word(at) {
            word if is(word, &["STREAMS"]) => break at + 1,
            word if is(word, &["BLOCK", "COUNT"]) => 2,
            word if of_group && is(word, &["GROUP"]) => 3,
            word if of_group && is(word, &["NOACK"]) => 1,
            // Not there, or of a newer server.
            _ => return touch(Touch::Unseen),
        };
    };
    let rest = args.count().saturating_sub(first);
    if rest == 0 || !rest.is_multiple_of(2) {
        return touch(Touch::Unseen);
    }
    (first..first + rest / 2)
        .all(|at| touch(args.word(at).map_or(Touch::Unseen, |key| Touch::Key(key, Access::READ))))
}

/// In broadcast mode the client hears the names of all keys that begin with one of its prefixes; otherwise
/// those of keys that it has read itself.
fn tracking<A: Arguments + ?Sized>(args: &A, touch: &mut impl FnMut(Touch<'_>) -> bool) -> bool {
    if (2..args.count()).any(|index| args.word(index).is_none()) {
        return touch(Touch::Unseen);
    }
    if !(3..args.count()).any(|index| is(args.word(index), &["BCAST"])) {
        return true;
    }
    let (mut at, mut prefixes) = (3, 0);
    while at < args.count() {
        match (args.word(at), args.word(at + 1)) {
            (word, Some(prefix)) if is(word, &["PREFIX"]) => {
                prefixes += 1;
                at += 1;
                if !touch(Touch::KeysFrom(prefix)) {
                    return false;
                }
            }
            (word, Some(_)) if is(word, &["REDIRECT"]) => at += 1,
            (word, _) if is(word, &["BCAST", "OPTIN", "OPTOUT", "NOLOOP"]) => {}
            _ => return touch(Touch::AnyKey(Access::READ)),
        }
        at += 1;
    }
    prefixes > 0 || touch(Touch::AnyKey(Access::READ))
}

fn class(id: CommandId) -> Class {
    static TABLE: OnceLock<Box<[Class; COUNT]>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut table = Box::new([Class::Whole(Access::BOTH); COUNT]);
        for (id, slot) in command::all().zip(table.iter_mut()) {
            *slot = class_of(id);
        }
        table
    });
    table.get(id.index()).copied().unwrap_or(Class::Whole(Access::BOTH))
}

fn class_of(id: CommandId) -> Class {
    let own = id.command();
    let special = match own.container {
        None => of_command(own.name),
        Some(container) => of_subcommand(container.command().name, own.name),
    };
    let has_keys = own.keys.iter().any(|spec| !spec.flags.contains(KeyFlags::NOT_KEY));
    match special {
        Some(class) => class,
        None if has_keys => Class::Keys,
        // Alone it is an error.
        None if own.has_subcommands => Class::Nothing,
        None => Class::Whole(Access::BOTH),
    }
}

fn of_command(name: &str) -> Option<Class> {
    Some(match name {
        "set" => Class::Set,
        "bitfield" => Class::Bitfield,
        "georadius" | "georadiusbymember" => Class::Geo,
        "sort" | "sort_ro" => Class::Sort,
        "xread" | "xreadgroup" => Class::Streams,
        "eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro" => Class::Script,
        "keys" | "scan" | "randomkey" | "dbsize" => Class::Whole(Access::READ),
        "flushall" | "flushdb" => Class::Whole(Access::WRITE),
        "subscribe" | "ssubscribe" => Class::Listen,
        "psubscribe" => Class::ListenPattern,
        "publish" | "spublish" => Class::Publish,
        // Leaving a channel tells and changes nothing, and the servers allow it to everybody.
        "unsubscribe" | "punsubscribe" | "sunsubscribe" => Class::Nothing,
        // Servers to come take conditions on keys (`EXEC IFEQ key value`).
        "exec" => Class::Alone,
        // A part of a walk over all keys.
        "clusterscan" => Class::Whole(Access::READ),
        "asking" | "auth" | "command" | "discard" | "echo" | "hello" | "multi" | "ping" | "quit"
        | "readonly" | "readwrite" | "reset" | "select" | "time" | "unwatch" | "wait" | "waitaof"
        | "info" | "lastsave" | "lolwut" | "role" | "bgrewriteaof" | "bgsave" | "save" => Class::Nothing,
        _ => return None,
    })
}

fn of_subcommand(container: &str, name: &str) -> Option<Class> {
    Some(match (container, name) {
        (_, "help") => Class::Nothing,
        ("client", "tracking") => Class::Tracking,
        ("client" | "command" | "config" | "latency" | "module", _) => Class::Nothing,
        // They tell what others asked for, keys and values with it.
        ("slowlog" | "commandlog", "get") | ("acl", "log") => Class::Whole(Access::READ),
        ("slowlog" | "commandlog", "len" | "reset") => Class::Nothing,
        ("acl", "cat" | "dryrun" | "genpass" | "getuser" | "list" | "users" | "whoami") => Class::Nothing,
        ("cluster", "getkeysinslot" | "countkeysinslot") => Class::Whole(Access::READ),
        (
            "cluster",
            "info"
            | "keyslot"
            | "links"
            | "myid"
            | "myshardid"
            | "nodes"
            | "replicas"
            | "shards"
            | "slaves"
            | "slots"
            | "slot-stats"
            | "count-failure-reports",
        ) => Class::Nothing,
        ("memory", "doctor" | "malloc-stats" | "purge" | "stats") => Class::Nothing,
        ("function" | "script", "delete" | "flush" | "load" | "restore") => Class::Script,
        ("function" | "script", "dump" | "exists" | "kill" | "list" | "show" | "stats") => Class::Nothing,
        ("pubsub", "channels" | "shardchannels" | "numpat") => Class::ChannelNames,
        ("pubsub", "numsub" | "shardnumsub") => Class::Channels,
        _ => return None,
    })
}

#[cfg(test)]
#[path = "touch_tests.rs"]
mod tests;
