use super::*;

fn id(name: &str) -> CommandId {
    match name.split_once(' ') {
        Some((name, sub)) => find_subcommand(find(name.as_bytes()).unwrap(), sub.as_bytes()).unwrap(),
        None => find(name.as_bytes()).unwrap(),
    }
}

#[test]
fn every_command_is_found_by_its_name_in_any_case() {
    const { assert!(COUNT > 350) };
    for id in all() {
        let command = id.command();
        for name in [command.name.to_owned(), command.name.to_ascii_uppercase()] {
            let found = match command.container {
                None => find(name.as_bytes()),
                Some(container) => find_subcommand(container, name.as_bytes()),
            };
            assert_eq!(found, Some(id), "{name}");
        }
    }
}

#[test]
fn strangers_are_not_found() {
    for name in [
        "",
        "ge",
        "gett",
        "get\0",
        "g\u{5}t",
        "info\r",
        "client|info",
        "json.get",
        "a-name-longer-than-any-command",
    ] {
        assert_eq!(find(name.as_bytes()), None, "{name}");
    }
    assert_eq!(find_subcommand(id("client"), b"set"), None);
    assert_eq!(find(b"setname"), None, "a subcommand is no command");
}

#[test]
fn names_resolve_with_their_subcommand() {
    assert_eq!(resolve(b"Client", Some(b"info")), Named::Known(id("client info")));
    assert_eq!(resolve(b"client", Some(b"nonsense")), Named::UnknownSubcommand(id("client")));
    assert_eq!(resolve(b"client", None), Named::Known(id("client")));
    assert_eq!(resolve(b"get", Some(b"info")), Named::Known(id("get")));
    assert_eq!(resolve(b"json.get", Some(b"k")), Named::Unknown);
    assert_eq!(id("config set").display_name(), "CONFIG SET");
}

#[test]
fn the_table_says_what_the_server_says() {
    let get = id("get").command();
    assert_eq!((get.arity, get.first_key, get.last_key, get.key_step), (2, 1, 1, 1));
    assert!(get.flags.contains(Flags::READONLY) && get.flags.contains(Flags::FAST));
    assert_eq!(get.categories.names().collect::<Vec<_>>(), ["read", "string", "fast"]);
    assert!(id("flushall").command().categories.contains(Categories::DANGEROUS));
    assert!(id("auth").command().flags.contains(Flags::NO_AUTH));
    assert_eq!(id("dbsize").command().request_policy, Some(RequestPolicy::AllShards));
    assert_eq!(id("dbsize").command().response_policy, Some(ResponsePolicy::AggSum));
    assert_eq!(id("mget").command().request_policy, Some(RequestPolicy::MultiShard));
    assert_eq!(id("ping").command().request_policy, Some(RequestPolicy::AllShards));
    assert_eq!(id("hello").command().since, "6.0.0");
}

fn keys(request: &str) -> Result<Vec<usize>, KeysUnknown> {
    let args: Vec<&str> = request.split(' ').collect();
    let named = resolve(args[0].as_bytes(), args.get(1).map(|arg| arg.as_bytes()));
    let mut found = Vec::new();
    key_positions(named.id().unwrap(), &args, |key| found.push(key.index))?;
    Ok(found)
}

#[test]
fn keys_are_where_the_specs_say() {
    for (request, positions) in [
        ("GET k", vec![1]),
        ("PING", vec![]),
        ("MGET a b c", vec![1, 2, 3]),
        ("MSET a 1 b 2", vec![1, 3]),
        ("BLPOP a b 0", vec![1, 2]),
        ("EVAL script 2 a b c", vec![3, 4]),
        ("EVAL script 0 a", vec![]),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", vec![1, 3, 4]),
        ("XREAD COUNT 1 STREAMS a b 0 0", vec![4, 5]),
        ("XREADGROUP GROUP g c STREAMS a b > >", vec![5, 6]),
        ("GEORADIUS k 1 2 3 km STORE d", vec![1, 7]),
        ("OBJECT ENCODING k", vec![2]),
        ("MEMORY USAGE k", vec![2]),
        ("SSUBSCRIBE c", vec![]),
        ("LMPOP 2 a b LEFT", vec![2, 3]),
        ("COPY a b", vec![1, 2]),
    ] {
        assert_eq!(keys(request), Ok(positions), "{request}");
    }
}

#[test]
fn keys_that_cannot_be_located_are_an_error() {
    for request in
        ["GET", "EVAL s 3 a", "EVAL s x a", "EVAL s -1 a", "SORT k BY w_*", "MIGRATE h 1 k 0 5 KEYS a"]
    {
        assert_eq!(keys(request), Err(KeysUnknown), "{request}");
    }
}
