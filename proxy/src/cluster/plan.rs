//! Where a command goes in a cluster, and what becomes of the replies.
//!
//! By its keys where it has some; else by the tips that servers publish with `COMMAND`; else by the table
//! below, of which docs/CLUSTER-MODE.md gives the meaning to people. A wrong guess (of a module's command, or
//! of a newer server's) costs a `MOVED`, for the server knows better.

use std::sync::OnceLock;

use keystile_resp::command::{
    self, COUNT, Command, CommandId, Flags, RequestPolicy, ResponsePolicy, c_string, key_positions,
};
use keystile_resp::slot::{self, SLOTS};

use super::{clients, pattern};
use crate::session::special::{self, Special};

/// What becomes of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// As it is, to the shard of this slot.
    Slot(u16),
    /// As it is, to the session's home: the node that its first connection leads to.
    Home,
    /// Its keys are of several slots: a part for each of them, and one reply of the parts'.
    Split(Split),
    /// As it is, to each primary, and one reply of theirs.
    AllPrimaries(Merge),
    /// As it is, to each primary and each replica that can be reached, and one reply of theirs.
    AllNodes(Merge),
    /// It sets something of the connection: to each node that the session is connected to, and first of all
    /// to each that it will be connected to. One reply as of [`Merge::AllSucceeded`].
    AllLinks,
    /// To the node that its last argument names: see [`named_node`].
    Named,
    /// It names a client by the id that it has at home: to wherever that client is.
    ById,
    /// It is answered here.
    Local(Local),
    /// `SCAN`.
    Scan,
    /// Its keys are of several slots, and it can't be split.
    CrossSlot,
    /// It never passes, for this reason.
    Refuse(&'static str),
    /// It changes the session itself (`MULTI`, `SUBSCRIBE`, `AUTH` …): the engine knows what to do.
    Session,
}

/// How a command of many keys is taken apart and its reply put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// `MGET`: the elements of the parts' replies, in the order of the keys.
    Values,
    /// `DEL`, `UNLINK`, `EXISTS`, `TOUCH`: the sum.
    Sum,
    /// `MSET`: `OK` if all parts are.
    AllSucceeded,
}

/// How the replies of several nodes become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The first that is no error; if all are, the first.
    OneSucceeded,
    /// The first, unless one is an error.
    AllSucceeded,
    /// Logical and, also place by place.
    And,
    /// Logical or, also place by place.
    Or,
    /// The smallest, also place by place.
    Min,
    /// The largest, also place by place.
    Max,
    /// The sum, also place by place.
    Sum,
    /// Arrays and maps, one behind the other.
    Concat,
    /// The same, without repetitions.
    Distinct,
    /// Names and counts in turn: the counts of each name summed.
    Counts,
    /// `INFO`.
    Info,
    /// `RANDOMKEY`: one that is not null.
    AnyValue,
    /// `FUNCTION STATS`: that of a node on which a function runs, else the first.
    FunctionStats,
    /// `SLOWLOG GET`, `LATENCY HISTORY`, `ACL LOG`: at most so many entries, the newest first.
    Newest(usize),
    /// `LATENCY HISTORY`: by time, the oldest first.
    ByTime,
    /// `LATENCY LATEST`: for each event its latest time and its worst.
    LatencyLatest,
    /// `LATENCY HISTOGRAM`: for each command the sum of calls and of each bucket.
    Histogram,
    /// `MEMORY STATS`: numbers summed, those of databases too.
    MemoryStats,
    /// Texts for people: one behind the other, each with its node's name above.
    Texts,
}

/// What is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// `+OK`: nothing that matters behind a proxy.
    Ok,
    /// `CLUSTER SLOTS`.
    Slots,
    /// `CLUSTER SHARDS`.
    Shards,
    /// `CLUSTER NODES`.
    Nodes,
    /// `CLUSTER MYID`.
    MyId,
    /// `CLUSTER MYSHARDID`.
    MyShardId,
    /// `CLUSTER INFO`.
    Info,
    /// `CLUSTER KEYSLOT`.
    KeySlot,
    /// `CLUSTER LINKS`.
    Links,
    /// `CLUSTER REPLICAS`, `CLUSTER SLAVES`.
    Replicas,
    /// `CLUSTER COUNT-FAILURE-REPORTS`.
    FailureReports,
}

/// What a plan depends on beside the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Whether an `MSET` of several slots may be split, although it is not atomic then.
    pub split_mset: bool,
}

/// The words of a server for keys of several slots, with marker and line end.
pub const CROSS_SLOT: &[u8] = b"-CROSSSLOT Keys in request don't hash to the same slot\r\n";

/// Plans the request `args` (the name first), which names `id` (`None`: a command or subcommand that the
/// table does not know).
#[must_use]
pub fn plan<A: AsRef<[u8]>>(id: Option<CommandId>, args: &[A], context: Context) -> Plan {
    let Some(id) = id else { return of_unknown(args) };
    match kinds().get(id.index()) {
        Some(Kind::Keys) | None => by_keys(id, args),
        // Wrong in number: the server has the words for it.
        Some(_) if !arity_fits(id, args.len()) => Plan::Home,
        Some(Kind::Fixed(plan)) => *plan,
        Some(Kind::Split(split)) => split_or_slot(id, args, *split, context),
        Some(Kind::Own(own)) => {
            let args: Vec<&[u8]> = args.iter().map(AsRef::as_ref).collect();
            own(&args)
        }
    }
}

/// Whether commands that the client sends behind this one wait for its reply, if they go to other nodes.
///
/// So it is for what blocks, what waits, scripts, and what goes to all: whoever sees the reply to a later
/// command must not have overtaken these.
#[must_use]
pub fn is_barrier<A: AsRef<[u8]>>(id: Option<CommandId>, args: &[A], plan: Plan) -> bool {
    match plan {
        Plan::AllPrimaries(_) | Plan::AllNodes(_) | Plan::AllLinks | Plan::Scan | Plan::Session => true,
        Plan::Local(_) | Plan::CrossSlot | Plan::Refuse(_) => false,
        Plan::Slot(_) | Plan::Home | Plan::Named | Plan::ById | Plan::Split(_) => {
            id.is_some_and(|id| barriers().get(id.index()) == Some(&true) && blocks(id, args))
        }
    }
}

/// Whether a command may be kept waiting by a server, so that `CLIENT UNBLOCK` would end it.
#[must_use]
pub fn may_block<A: AsRef<[u8]>>(id: CommandId, args: &[A]) -> bool {
    id.command().flags.contains(Flags::BLOCKING) && blocks(id, args)
}

/// Whether a command only reads, so that a replica may answer it to a `READONLY` session.
#[must_use]
pub fn only_reads(id: CommandId) -> bool {
    id.command().flags.contains(Flags::READONLY)
}

/// The request of [`Plan::Named`] without the argument that names the node, and that name: `host:port`.
#[must_use]
pub fn named_node<A: AsRef<[u8]>>(args: &[A]) -> Option<(&str, Vec<u8>)> {
    let (last, rest) = args.split_last()?;
    let node = std::str::from_utf8(last.as_ref().strip_prefix(b"@")?).ok()?;
    let mut request = Vec::new();
    keystile_resp::encode::request(&mut request, rest);
    Some((node, request))
}

/// What the table says of a command.
#[derive(Clone, Copy)]
enum Kind {
    /// By its keys.
    Keys,
    /// Always the same.
    Fixed(Plan),
    /// By its keys, and in parts where they are of several slots.
    Split(Split),
    /// By what its arguments say.
    Own(fn(&[&[u8]]) -> Plan),
}

fn kinds() -> &'static [Kind; COUNT] {
    static KINDS: OnceLock<Box<[Kind; COUNT]>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let mut kinds = Box::new([Kind::Keys; COUNT]);
        for (kind, id) in kinds.iter_mut().zip(command::all()) {
            *kind = kind_of(id);
        }
        kinds
    })
}

fn barriers() -> &'static [bool; COUNT] {
    static BARRIERS: OnceLock<Box<[bool; COUNT]>> = OnceLock::new();
    BARRIERS.get_or_init(|| {
        let mut barriers = Box::new([false; COUNT]);
        for (barrier, id) in barriers.iter_mut().zip(command::all()) {
            let command = id.command();
            let is_script =
                matches!(command.name, "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro");
            *barrier = is_script || command.name == "watch" || command.flags.contains(Flags::BLOCKING);
        }
        barriers
    })
}

/// `XREAD` and `XREADGROUP` block only where they say so, among their options.
fn blocks<A: AsRef<[u8]>>(id: CommandId, args: &[A]) -> bool {
    if !matches!(id.command().name, "xread" | "xreadgroup") {
        return true;
    }
    let mut at = 1;
    while let Some(word) = args.get(at) {
        at += match c_string(word.as_ref()).to_ascii_lowercase().as_slice() {
            b"block" => return true,
            b"streams" => return false,
            b"group" => 3,
            b"count" => 2,
            _ => 1,
        };
    }
    false
}

fn kind_of(id: CommandId) -> Kind {
    let command = id.command();
    if let Special::Never(why) = special::special(id) {
        return Kind::Fixed(Plan::Refuse(why));
    }
    let own = match command.container {
        Some(container) => of_subcommand(container.command().name, command.name),
        None => of_command(command.name),
    };
    own.or_else(|| by_tips(command)).unwrap_or(if command.keys.is_empty() {
        Kind::Fixed(Plan::Home)
    } else {
        Kind::Keys
    })
}

/// What the tips of the servers say, where they say all.
fn by_tips(command: &Command) -> Option<Kind> {
    let merge = match command.response_policy {
        None => Merge::Concat,
        Some(ResponsePolicy::OneSucceeded) => Merge::OneSucceeded,
        Some(ResponsePolicy::AllSucceeded) => Merge::AllSucceeded,
        Some(ResponsePolicy::AggLogicalAnd) => Merge::And,
        Some(ResponsePolicy::AggLogicalOr) => Merge::Or,
        Some(ResponsePolicy::AggMin) => Merge::Min,
        Some(ResponsePolicy::AggMax) => Merge::Max,
        Some(ResponsePolicy::AggSum) => Merge::Sum,
        Some(ResponsePolicy::Special) => return None,
    };
    Some(match command.request_policy? {
        RequestPolicy::AllNodes => Kind::Fixed(Plan::AllNodes(merge)),
        RequestPolicy::AllShards => Kind::Fixed(Plan::AllPrimaries(merge)),
        RequestPolicy::MultiShard => Kind::Split(match merge {
            Merge::Concat => Split::Values,
            Merge::Sum => Split::Sum,
            _ => Split::AllSucceeded,
        }),
        RequestPolicy::Special => return None,
    })
}

fn of_command(name: &str) -> Option<Kind> {
    Some(match name {
        "auth" | "hello" | "quit" | "reset" | "multi" | "exec" | "discard" | "unwatch" => {
            Kind::Fixed(Plan::Session)
        }
        "subscribe" | "psubscribe" | "ssubscribe" => Kind::Fixed(Plan::Session),
        "unsubscribe" | "punsubscribe" | "sunsubscribe" => Kind::Fixed(Plan::Session),
        "readonly" | "readwrite" => Kind::Fixed(Plan::Session),
        "asking" => Kind::Fixed(Plan::Local(Local::Ok)),
        "select" => Kind::Fixed(Plan::AllLinks),
        // Its cursor names the slot by its hash tag.
        "clusterscan" => Kind::Own(|args| of_key(args.get(1))),
        // The tips would have it in parts; but it sets all keys or none, and says which.
        "msetex" => Kind::Keys,
        "scan" => Kind::Own(scan),
        "keys" => Kind::Own(keys),
        "info" => Kind::Own(info),
        "randomkey" => Kind::Fixed(Plan::AllPrimaries(Merge::AnyValue)),
        "bgsave" | "bgrewriteaof" | "save" | "swapdb" => Kind::Fixed(Plan::AllPrimaries(Merge::AllSucceeded)),
        "lastsave" => Kind::Fixed(Plan::AllPrimaries(Merge::Min)),
        "spublish" => Kind::Own(|args| of_key(args.get(1))),
        "migrate" => Kind::Own(migrate),
        "sort" => Kind::Own(sort),
        "sort_ro" => Kind::Own(|args| of_key(args.get(1))),
        _ => return None,
    })
}

fn of_subcommand(container: &str, name: &str) -> Option<Kind> {
    Some(Kind::Fixed(match (container, name) {
        ("acl", "load") => Plan::AllNodes(Merge::AllSucceeded),
        ("acl", "log") => return Some(Kind::Own(acl_log)),
        ("client", "caching" | "reply") => Plan::Session,
        ("client", "kill") => return Some(Kind::Own(clients::kill)),
        ("client", "list") => return Some(Kind::Own(clients::list)),
        ("client", "unblock") => return Some(Kind::Own(clients::unblock)),
        (
            "client",
            "capa" | "import-source" | "no-evict" | "no-touch" | "setinfo" | "setname" | "tracking",
        ) => Plan::AllLinks,
        ("client", "pause" | "unpause") => Plan::AllPrimaries(Merge::AllSucceeded),
        ("cluster", "slots") => Plan::Local(Local::Slots),
        ("cluster", "shards") => Plan::Local(Local::Shards),
        ("cluster", "nodes") => Plan::Local(Local::Nodes),
        ("cluster", "myid") => Plan::Local(Local::MyId),
        ("cluster", "myshardid") => Plan::Local(Local::MyShardId),
        ("cluster", "info") => Plan::Local(Local::Info),
        ("cluster", "keyslot") => Plan::Local(Local::KeySlot),
        ("cluster", "links") => Plan::Local(Local::Links),
        ("cluster", "replicas" | "slaves") => Plan::Local(Local::Replicas),
        ("cluster", "count-failure-reports") => Plan::Local(Local::FailureReports),
        ("cluster", "countkeysinslot" | "getkeysinslot") => return Some(Kind::Own(of_slot)),
        ("function", "stats") => Plan::AllPrimaries(Merge::FunctionStats),
        ("latency", "latest") => Plan::AllNodes(Merge::LatencyLatest),
        ("latency", "history") => Plan::AllNodes(Merge::ByTime),
        ("latency", "histogram") => Plan::AllNodes(Merge::Histogram),
        ("latency", "doctor" | "graph") => Plan::AllNodes(Merge::Texts),
        ("memory", "doctor" | "malloc-stats") => Plan::AllPrimaries(Merge::Texts),
        ("memory", "stats") => Plan::AllPrimaries(Merge::MemoryStats),
        ("pubsub", "channels" | "shardchannels") => Plan::AllNodes(Merge::Distinct),
        ("pubsub", "numsub" | "shardnumsub") => Plan::AllNodes(Merge::Counts),
        // A pattern that may match key events is at each primary, and all that sessions subscribe to is at home.
        ("pubsub", "numpat") => Plan::AllNodes(Merge::Max),
        ("script", "show") => Plan::AllPrimaries(Merge::OneSucceeded),
        ("slowlog" | "commandlog", "get") => return Some(Kind::Own(log_get)),
        _ => return None,
    }))
}

fn by_keys<A: AsRef<[u8]>>(id: CommandId, args: &[A]) -> Plan {
    let mut found = Slots::default();
    match key_positions(id, args, |key| found.add(args.get(key.index))) {
        Ok(()) => found.plan(),
        // Its own node would tell what is wrong with it, and so does any.
        Err(_) => Plan::Home,
    }
}

fn split_or_slot<A: AsRef<[u8]>>(id: CommandId, args: &[A], split: Split, context: Context) -> Plan {
    match by_keys(id, args) {
        // A key without a value: the server has the words for it.
        _ if split == Split::AllSucceeded && args.len().is_multiple_of(2) => Plan::Home,
        Plan::CrossSlot if split != Split::AllSucceeded || context.split_mset => Plan::Split(split),
        plan => plan,
    }
}

/// The slots of keys as they are found: none, one, or several.
#[derive(Default)]
struct Slots {
    first: Option<u16>,
    several: bool,
}

impl Slots {
    #[inline]
    fn add<A: AsRef<[u8]>>(&mut self, key: Option<&A>) {
        let Some(key) = key else { return };
        let slot = slot::of_key(key.as_ref());
        self.several |= *self.first.get_or_insert(slot) != slot;
    }

    #[inline]
    fn plan(&self) -> Plan {
        match self.first {
            Some(_) if self.several => Plan::CrossSlot,
            Some(slot) => Plan::Slot(slot),
            None => Plan::Home,
        }
    }
}

/// Whether a command may have so many arguments, its name included.
pub(super) fn arity_fits(id: CommandId, count: usize) -> bool {
    let arity = id.command().arity;
    let least = usize::from(arity.unsigned_abs());
    if arity < 0 { count >= least } else { count == least }
}

/// A command of a module or of a newer server: nearly all have their key first. `FT.*` asks an index, which
/// no slot owns; `HOTKEYS` of Redis 8.6, and subcommands that are not known, are of the server, not of a key.
fn of_unknown<A: AsRef<[u8]>>(args: &[A]) -> Plan {
    let name = args.first().map(AsRef::as_ref).unwrap_or_default();
    let of_index = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"ft."));
    if of_index || name.eq_ignore_ascii_case(b"hotkeys") || command::find(name).is_some() {
        return Plan::Home;
    }
    let mut found = Slots::default();
    found.add(args.get(1));
    found.plan()
}

fn of_key(key: Option<&&[u8]>) -> Plan {
    let mut found = Slots::default();
    found.add(key);
    found.plan()
}

/// `CLUSTER COUNTKEYSINSLOT slot`.
fn of_slot(args: &[&[u8]]) -> Plan {
    number(args.get(2)).filter(|slot| *slot < SLOTS).map_or(Plan::Home, Plan::Slot)
}

fn scan(_: &[&[u8]]) -> Plan {
    Plan::Scan
}

fn keys(args: &[&[u8]]) -> Plan {
    let slot = args.get(1).and_then(|pattern| pattern::slot_of(pattern));
    slot.map_or(Plan::AllPrimaries(Merge::Concat), Plan::Slot)
}

fn info(args: &[&[u8]]) -> Plan {
    let names_node = args.len() > 1 && named_node(args).is_some();
    if names_node { Plan::Named } else { Plan::AllPrimaries(Merge::Info) }
}

/// `SLOWLOG GET [count]`, `COMMANDLOG GET count type`: ten entries where the request does not say, and all at -1.
fn log_get(args: &[&[u8]]) -> Plan {
    newest(args, 10)
}

fn acl_log(args: &[&[u8]]) -> Plan {
    if args.get(2).is_some_and(|word| word.eq_ignore_ascii_case(b"reset")) {
        return Plan::AllNodes(Merge::AllSucceeded);
    }
    newest(args, 10)
}

fn newest(args: &[&[u8]], usual: usize) -> Plan {
    let most = match args.get(2) {
        None => usual,
        // What is no number is an error of each node's.
        given => number::<i64>(given).map_or(usual, |most| usize::try_from(most).unwrap_or(usize::MAX)),
    };
    Plan::AllNodes(Merge::Newest(most))
}

/// `SORT key … [STORE destination]` (which `SORT_RO` does not know); of the patterns of `BY` and `GET` the server judges.
fn sort(args: &[&[u8]]) -> Plan {
    let mut found = Slots::default();
    found.add(args.get(1));
    let mut at = 2;
    while let Some(word) = args.get(at) {
        at += match word.to_ascii_lowercase().as_slice() {
            b"store" => {
                found.add(args.get(at + 1));
                2
            }
            b"limit" => 3,
            b"by" | b"get" => 2,
            _ => 1,
        };
    }
    found.plan()
}

/// `MIGRATE host port key|"" db timeout [COPY] [REPLACE] [AUTH …] [AUTH2 … …] [KEYS key …]`.
fn migrate(args: &[&[u8]]) -> Plan {
    let mut found = Slots::default();
    match args.get(3) {
        Some(key) if !key.is_empty() => found.add(Some(key)),
        _ => {
            let mut at = 6;
            while let Some(word) = args.get(at) {
                at += match word.to_ascii_lowercase().as_slice() {
                    b"keys" => {
                        args.iter().skip(at + 1).for_each(|key| found.add(Some(key)));
                        args.len()
                    }
                    b"auth" => 2,
                    b"auth2" => 3,
                    _ => 1,
                };
            }
        }
    }
    found.plan()
}

fn number<N: std::str::FromStr>(arg: Option<&&[u8]>) -> Option<N> {
    std::str::from_utf8(arg?).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
