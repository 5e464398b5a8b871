//! The commands that the servers know: who they are, what they touch, and where their keys stand.
//!
//! The table is generated from the `COMMAND` answer of Valkey 8.0 and Redis 7.0 (see
//! `scripts/commands.py`). Names are found in constant time and without allocation by a perfect hash.

mod keys;
#[rustfmt::skip]
mod table;
#[cfg(test)]
mod tests;

pub use keys::{Arguments, Key, KeysUnknown, c_string, key_positions};

/// The number of one command or subcommand. It stays the same from build to build, and is below [`COUNT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub(crate) u16);

/// How many commands and subcommands the table holds.
pub const COUNT: usize = table::COMMANDS.len();

/// What the table says of one command.
#[derive(Debug)]
pub struct Command {
    /// Its name in lower case; of a subcommand only its own (`info` of `CLIENT INFO`).
    pub name: &'static str,
    /// The command that it is a subcommand of.
    pub container: Option<CommandId>,
    /// Whether its first argument names a subcommand.
    pub has_subcommands: bool,
    /// Arguments with the name; negative: at least as many.
    pub arity: i16,
    /// What the server flags it as.
    pub flags: Flags,
    /// The ACL categories that it is in.
    pub categories: Categories,
    /// Position of the first key, 0 where there is none.
    pub first_key: i16,
    /// Position of the last key; negative counts from the end.
    pub last_key: i16,
    /// Arguments from one key to the next.
    pub key_step: i16,
    /// Where its keys stand, in full.
    pub keys: &'static [KeySpec],
    /// On which nodes of a cluster it is to run; `None` goes by its keys.
    pub request_policy: Option<RequestPolicy>,
    /// How the nodes' replies become one.
    pub response_policy: Option<ResponsePolicy>,
    /// The server version that brought it.
    pub since: &'static str,
}

/// One group of keys of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeySpec {
    /// What the command does to them.
    pub flags: KeyFlags,
    /// Where they begin.
    pub begin: Begin,
    /// How they go on.
    pub find: Find,
}

/// Where a group of keys begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// At this argument.
    Index(i16),
    /// Behind this word, searched from this argument on (negative: from the end, backwards).
    Keyword {
        /// In upper case; compared without regard to case.
        word: &'static str,
        /// Where the search begins.
        from: i16,
    },
    /// The table cannot tell.
    Unknown,
}

/// How a group of keys goes on from where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// Up to `last` behind the first (negative: from the end), each `step`-th; `limit` parts the rest.
    Range {
        /// The last key, relative to the first one or (negative) to the end.
        last: i16,
        /// Arguments from one key to the next.
        step: i16,
        /// Keys are in the first `1/limit` of what follows, where above 1.
        limit: i16,
    },
    /// As many as the argument `at` says.
    KeyNum {
        /// The argument that holds the number, relative to the beginning.
        at: i16,
        /// The first key, relative to the beginning.
        first: i16,
        /// Arguments from one key to the next.
        step: i16,
    },
    /// The table cannot tell.
    Unknown,
}

/// On which nodes of a cluster a command is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestPolicy {
    /// On each node.
    AllNodes,
    /// On each primary.
    AllShards,
    /// On the shards of its keys, split by them.
    MultiShard,
    /// In a way of its own.
    Special,
}

/// How the replies of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponsePolicy {
    /// The first that is no error.
    OneSucceeded,
    /// One error makes an error.
    AllSucceeded,
    /// Logical and of integers.
    AggLogicalAnd,
    /// Logical or of integers.
    AggLogicalOr,
    /// The smallest.
    AggMin,
    /// The largest.
    AggMax,
    /// The sum.
    AggSum,
    /// In a way of its own.
    Special,
}

macro_rules! bitset {
    ($(#[$doc:meta])* $name:ident($of:ty) { $($bit:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name($of);

        impl $name {
            bitset!(@bits $name 0; $($bit = $text),*);

            /// All names in the order of their bits.
            pub const NAMES: &'static [&'static str] = &[$($text),*];

            /// Whether it has all of `other`.
            #[must_use]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// Whether it has some of `other`.
            #[must_use]
            pub const fn intersects(self, other: Self) -> bool {
                self.0 & other.0 != 0
            }

            /// The one of this name, in any case.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                let bit = Self::NAMES.iter().position(|known| known.eq_ignore_ascii_case(name))?;
                Some(Self(1 << bit))
            }

            /// The names of those it has.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().enumerate().filter(move |(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| *name)
            }
        }
    };
    (@bits $name:ident $at:expr; $bit:ident = $text:literal $(, $($rest:tt)*)?) => {
        #[doc = concat!("`", $text, "`")]
        pub const $bit: Self = Self(1 << ($at));
        $(bitset!(@bits $name $at + 1; $($rest)*);)?
    };
    (@bits $name:ident $at:expr;) => {};
}

bitset! {
    /// ACL categories.
    Categories(u32) {
        KEYSPACE = "keyspace", READ = "read", WRITE = "write", SET = "set", SORTED_SET = "sortedset",
        LIST = "list", HASH = "hash", STRING = "string", BITMAP = "bitmap", HYPERLOGLOG = "hyperloglog",
        GEO = "geo", STREAM = "stream", PUBSUB = "pubsub", ADMIN = "admin", FAST = "fast", SLOW = "slow",
        BLOCKING = "blocking", DANGEROUS = "dangerous", CONNECTION = "connection",
        TRANSACTION = "transaction", SCRIPTING = "scripting",
    }
}

bitset! {
    /// The server's flags of a command.
    Flags(u32) {
        WRITE = "write", READONLY = "readonly", DENYOOM = "denyoom", ADMIN = "admin", PUBSUB = "pubsub",
        NOSCRIPT = "noscript", BLOCKING = "blocking", LOADING = "loading", STALE = "stale",
        SKIP_MONITOR = "skip_monitor", SKIP_SLOWLOG = "skip_slowlog", ASKING = "asking", FAST = "fast",
        NO_AUTH = "no_auth", MAY_REPLICATE = "may_replicate", NO_ASYNC_LOADING = "no_async_loading",
        NO_MULTI = "no_multi", MOVABLE_KEYS = "movablekeys", NO_MANDATORY_KEYS = "no_mandatory_keys",
        ALLOW_BUSY = "allow_busy",
    }
}

bitset! {
    /// What a command does to the keys of one group.
    KeyFlags(u16) {
        RO = "RO", RW = "RW", OW = "OW", RM = "RM", ACCESS = "access", UPDATE = "update",
        INSERT = "insert", DELETE = "delete", NOT_KEY = "not_key", INCOMPLETE = "incomplete",
        VARIABLE_FLAGS = "variable_flags",
    }
}

impl CommandId {
    /// The command of this number.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (usize::from(number) < COUNT).then_some(Self(number))
    }

    /// Its number, below [`COUNT`].
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// What the table says of it.
    #[inline]
    #[must_use]
    pub fn command(self) -> &'static Command {
        // An id is only made below COUNT.
        table::COMMANDS.get(self.index()).unwrap_or(&NOTHING)
    }

    /// Its name for people, in upper case: `GET`, `CLIENT INFO`.
    #[must_use]
    pub fn display_name(self) -> String {
        let own = self.command().name.to_ascii_uppercase();
        match self.command().container {
            Some(container) => format!("{} {own}", container.display_name()),
            None => own,
        }
    }
}

static NOTHING: Command = Command {
    name: "",
    container: None,
    has_subcommands: false,
    arity: 0,
    flags: Flags(0),
    categories: Categories(0),
    first_key: 0,
    last_key: 0,
    key_step: 0,
    keys: &[],
    request_policy: None,
    response_policy: None,
    since: "",
};

/// All commands and subcommands.
pub fn all() -> impl Iterator<Item = CommandId> {
    (0..u16::try_from(COUNT).unwrap_or(u16::MAX)).map(CommandId)
}

/// The subcommands of a command.
pub fn subcommands(container: CommandId) -> impl Iterator<Item = CommandId> {
    all().filter(move |id| id.command().container == Some(container))
}

/// The command of this name, in any case; not a subcommand.
#[inline]
#[must_use]
pub fn find(name: &[u8]) -> Option<CommandId> {
    look_up(table::SEED, None, name)
}

/// The subcommand of this name, in any case.
#[inline]
#[must_use]
pub fn find_subcommand(container: CommandId, name: &[u8]) -> Option<CommandId> {
    let start = (table::SEED ^ (u64::from(container.0) + 1)).wrapping_mul(table::MULTIPLIER);
    look_up(start, Some(container), name)
}

/// What a request's first two arguments name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// A command or subcommand of the table. Of a container that stands alone, the container: the
    /// server answers it with an arity error, or (`COMMAND`) runs it.
    Known(CommandId),
    /// A subcommand that the table does not know, of this container.
    UnknownSubcommand(CommandId),
    /// A command that the table does not know: of a module, of a newer server, or misspelt.
    Unknown,
}

impl Named {
    /// The command, or the container of an unknown subcommand.
    #[must_use]
    pub fn id(self) -> Option<CommandId> {
        match self {
            Self::Known(id) | Self::UnknownSubcommand(id) => Some(id),
            Self::Unknown => None,
        }
    }
}

/// The command that a request names with its first two arguments.
#[inline]
#[must_use]
pub fn resolve(name: &[u8], first_argument: Option<&[u8]>) -> Named {
    let Some(id) = find(name) else { return Named::Unknown };
    match first_argument {
        Some(sub) if id.command().has_subcommands => {
            find_subcommand(id, sub).map_or(Named::UnknownSubcommand(id), Named::Known)
        }
        _ => Named::Known(id),
    }
}

#[inline]
fn look_up(start: u64, container: Option<CommandId>, name: &[u8]) -> Option<CommandId> {
    if name.len() > table::LONGEST_NAME {
        return None;
    }
    let hash = hash_name(start, name);
    let displacement = u64::from(*table::DISPLACEMENTS.get((hash >> 56) as usize)?);
    let slot = (hash >> 46).wrapping_add(displacement.wrapping_mul(hash >> 24 | 1)) & (SLOT_COUNT - 1);
    let id = CommandId(*table::SLOTS.get(slot as usize)?);
    let command = table::COMMANDS.get(id.index())?;
    (command.container == container && command.name.as_bytes().eq_ignore_ascii_case(name)).then_some(id)
}

const SLOT_COUNT: u64 = table::SLOTS.len() as u64;
const _: () = assert!(table::DISPLACEMENTS.len() == 256 && SLOT_COUNT.is_power_of_two());

/// As `hash_name` in `scripts/commands.py`: eight bytes at a time, with the bit set that tells cases apart.
#[inline]
fn hash_name(start: u64, name: &[u8]) -> u64 {
    if name.len() <= 8 {
        return mix(start, name);
    }
    name.chunks(8).fold(start, mix)
}

#[inline]
fn mix(state: u64, chunk: &[u8]) -> u64 {
    if chunk.is_empty() {
        return state;
    }
    let word = chunk.iter().fold(0, |word, &byte| word << 8 | u64::from(byte | 0x20));
    let mixed = (state ^ word).wrapping_mul(table::MULTIPLIER);
    mixed ^ mixed >> 29
}
