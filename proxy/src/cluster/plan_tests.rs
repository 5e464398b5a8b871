use super::*;

fn planned(request: &str, context: Context) -> Plan {
    let args: Vec<&str> = request.split(' ').collect();
    plan(id_of(&args), &args, context)
}

fn id_of(args: &[&str]) -> Option<CommandId> {
    match command::resolve(args[0].as_bytes(), args.get(1).map(|arg| arg.as_bytes())) {
        command::Named::Known(id) => Some(id),
        _ => None,
    }
}

fn slot_of(key: &str) -> Plan {
    Plan::Slot(slot::of_key(key.as_bytes()))
}

/// Each command of the table has a plan that somebody has read: one line of `plans.txt`. After a change of
/// the command table, run with `KEYSTILE_WRITE_PLANS=1` and read the difference.
#[test]
fn the_plan_of_every_command_is_written_down() {
    let mut written = String::new();
    for id in command::all() {
        let plan = match kinds()[id.index()] {
            Kind::Keys => "by its keys".to_owned(),
            Kind::Split(split) => format!("by its keys, or in parts: {split:?}"),
            Kind::Own(_) => "by its arguments".to_owned(),
            Kind::Fixed(Plan::Refuse(_)) => "refused".to_owned(),
            Kind::Fixed(plan) => format!("{plan:?}"),
        };
        written.push_str(&format!("{}: {plan}\n", id.display_name()));
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cluster/plans.txt");
    if std::env::var_os("KEYSTILE_WRITE_PLANS").is_some() {
        std::fs::write(file, &written).unwrap();
    }
    let known = std::fs::read_to_string(file).unwrap();
    for (known, now) in known.lines().zip(written.lines()) {
        assert_eq!(known, now);
    }
    assert_eq!(known.lines().count(), COUNT);
}

#[test]
fn keys_decide() {
    for (request, key) in [
        ("GET k", "k"),
        ("get {a}k", "a"),
        ("SET k v EX 5", "k"),
        ("MGET {a}1 {a}2", "a"),
        ("DEL k", "k"),
        ("MSET {a}1 x {a}2 y", "a"),
        ("EVAL s 2 {a}1 {a}2 other", "a"),
        ("XREADGROUP GROUP g c BLOCK 5 STREAMS {a}1 {a}2 > >", "a"),
        ("OBJECT ENCODING k", "k"),
        ("MEMORY USAGE k", "k"),
        ("SPUBLISH channel m", "channel"),
        ("SORT k BY w_* GET # GET x_*", "k"),
        ("SORT {a}k LIMIT 0 5 STORE {a}d", "a"),
        ("SORT k BY store GET store", "k"),
        // It knows no STORE: the server has the words for that.
        ("SORT_RO k STORE d", "k"),
        ("MIGRATE h 1 k 0 5", "k"),
        ("KEYS {a}*", "a"),
        ("WATCH {a}1 {a}2", "a"),
        ("JSON.SET doc $ 1", "doc"),
        ("BF.ADD filter x", "filter"),
        ("MSETEX 2 {a}1 x {a}2 y EX 5", "a"),
        ("HSETEX k FIELDS 1 f v", "k"),
        ("CLUSTERSCAN 0-{a}-5 COUNT 7", "a"),
        ("CLUSTER COUNTKEYSINSLOT 7", ""),
    ] {
        let expected = if key.is_empty() { Plan::Slot(7) } else { slot_of(key) };
        assert_eq!(planned(request, Context::default()), expected, "{request}");
    }
    // The key of MIGRATE may be empty, and follow.
    let migrate: [&[u8]; 10] = [b"MIGRATE", b"h", b"1", b"", b"0", b"5", b"AUTH", b"keys", b"KEYS", b"k"];
    assert_eq!(plan(id_of(&["MIGRATE"]), &migrate, Context::default()), slot_of("k"));
}

#[test]
fn keys_of_several_slots() {
    let split = Context { split_mset: true };
    for (request, context, expected) in [
        ("MGET a b", Context::default(), Plan::Split(Split::Values)),
        ("DEL a b", Context::default(), Plan::Split(Split::Sum)),
        ("UNLINK a b", Context::default(), Plan::Split(Split::Sum)),
        ("EXISTS a b", Context::default(), Plan::Split(Split::Sum)),
        ("TOUCH a b", Context::default(), Plan::Split(Split::Sum)),
        ("MSET a 1 b 2", Context::default(), Plan::CrossSlot),
        ("MSET a 1 b 2", split, Plan::Split(Split::AllSucceeded)),
        ("MSET a 1 b", split, Plan::Home),
        ("MSETNX a 1 b 2", split, Plan::CrossSlot),
        ("MSETEX 2 a 1 b 2", split, Plan::CrossSlot),
        ("SINTER a b", split, Plan::CrossSlot),
        ("RENAME a b", split, Plan::CrossSlot),
        ("SORT a STORE b", split, Plan::CrossSlot),
        ("WATCH a b", split, Plan::CrossSlot),
    ] {
        assert_eq!(planned(request, context), expected, "{request}");
    }
}

#[test]
fn what_has_no_key() {
    let plan = |request| planned(request, Context::default());
    for (request, expected) in [
        ("PING", Plan::AllPrimaries(Merge::AllSucceeded)),
        ("DBSIZE", Plan::AllPrimaries(Merge::Sum)),
        ("KEYS *", Plan::AllPrimaries(Merge::Concat)),
        ("EVAL s 0 a", Plan::Home),
        ("FCALL f 0", Plan::Home),
        ("PUBLISH c m", Plan::Home),
        ("FT.SEARCH index *", Plan::Home),
        ("HOTKEYS GET", Plan::Home),
        ("COMMANDLOG HELP", Plan::Home),
        ("COMMANDLOG GET 3 slow", Plan::AllNodes(Merge::Newest(3))),
        ("COMMANDLOG LEN slow", Plan::AllNodes(Merge::Sum)),
        ("COMMANDLOG RESET slow", Plan::AllNodes(Merge::AllSucceeded)),
        ("CLIENT IMPORT-SOURCE ON", Plan::AllLinks),
        ("CLIENT NEWTHING k", Plan::Home),
        ("INFO", Plan::AllPrimaries(Merge::Info)),
        ("INFO @10.0.0.1:6379", Plan::Named),
        ("INFO memory @10.0.0.1:6379", Plan::Named),
        ("SLOWLOG GET", Plan::AllNodes(Merge::Newest(10))),
        ("SLOWLOG GET 3", Plan::AllNodes(Merge::Newest(3))),
        ("SLOWLOG GET -1", Plan::AllNodes(Merge::Newest(usize::MAX))),
        ("SCRIPT EXISTS a b", Plan::AllPrimaries(Merge::And)),
        ("SCRIPT KILL", Plan::AllPrimaries(Merge::OneSucceeded)),
        ("CLUSTER SLOTS", Plan::Local(Local::Slots)),
        ("SUBSCRIBE c", Plan::Session),
        ("SCAN 0", Plan::Scan),
        ("CLUSTER COUNTKEYSINSLOT 16384", Plan::Home),
    ] {
        assert_eq!(plan(request), expected, "{request}");
    }
    for request in ["MONITOR", "CLUSTER FAILOVER", "CLUSTER SETSLOT 1 STABLE", "PSYNC ? -1", "SHUTDOWN"] {
        assert!(matches!(plan(request), Plan::Refuse(_)), "{request}");
    }
}

#[test]
fn a_request_that_is_wrong_goes_where_its_error_is_told() {
    for request in
        ["GET", "MGET", "EVAL s 3 a", "EVAL s x a", "DBSIZE x", "PING a b c", "SCAN", "SLOWLOG GET 1 2"]
    {
        let plan = planned(request, Context::default());
        assert!(
            matches!(plan, Plan::Home | Plan::AllPrimaries(_) | Plan::AllNodes(_)),
            "{request}: {plan:?}"
        );
    }
}

#[test]
fn one_node_can_be_asked_for_its_info() {
    let (node, request) = named_node(&["INFO", "memory", "@h:6379"]).unwrap();
    assert_eq!((node, request.as_slice()), ("h:6379", b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n".as_slice()));
    assert_eq!(named_node(&["INFO", "memory"]), None);
}

#[test]
fn what_others_wait_for() {
    let barrier = |request: &str| {
        let args: Vec<&str> = request.split(' ').collect();
        is_barrier(id_of(&args), &args, planned(request, Context::default()))
    };
    for request in [
        "BLPOP k 0",
        "WAIT 1 0",
        "EVAL s 1 k",
        "FCALL f 0",
        "MULTI",
        "WATCH k",
        "KEYS *",
        "FLUSHALL",
        "SUBSCRIBE c",
        "XREAD BLOCK 0 STREAMS k 0",
        "XREAD BLOCK\0x 0 STREAMS k 0",
        "XREADGROUP GROUP g STREAMS BLOCK 0 STREAMS k >",
        "SCAN 0",
        "CLIENT SETNAME x",
        "PING",
    ] {
        assert!(barrier(request), "{request}");
    }
    for request in [
        "GET k",
        "MGET a b",
        "XREAD STREAMS block 0",
        "XREADGROUP GROUP block block COUNT 1 STREAMS k >",
        "PUBLISH c m",
        "CLUSTER SLOTS",
        "MSET a 1 b 2",
        "ECHO x",
    ] {
        assert!(!barrier(request), "{request}");
    }
}
