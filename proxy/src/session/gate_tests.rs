use keystile_model::command_rules::parse_list;
use keystile_model::decide::{KeyDenial, Selector};
use keystile_model::name::RoleName;
use keystile_model::role::{AuditLevel, LockingMode};

use super::*;

fn grant(selectors: &[&str], denied: &[&str]) -> SessionGrant {
    let role = || RoleName::parse("r").unwrap();
    SessionGrant {
        selectors: selectors
            .iter()
            .map(|rules| Selector {
                role: role(),
                commands: parse_list([*rules]).unwrap(),
                keys: Vec::new(),
                channels: Vec::new(),
            })
            .collect(),
        denied_commands: denied.iter().map(|rules| (role(), parse_list([*rules]).unwrap())).collect(),
        denied_keys: Vec::new(),
        max_session_ttl_s: None,
        client_idle_timeout_s: None,
        max_connections: None,
        locking_mode: LockingMode::BestEffort,
        audit: AuditLevel::Summary,
    }
}

fn allows(gate: &Gate, name: &str) -> bool {
    gate.allows(command::find(name.as_bytes()).unwrap())
}

#[test]
fn any_selector_permits_and_a_denial_wins() {
    let gate = Gate::compile(&grant(&["+@read", "+set"], &["+mget"])).unwrap();
    assert!(allows(&gate, "get") && allows(&gate, "set"));
    assert!(!allows(&gate, "mget") && !allows(&gate, "del"));
    assert!(allows(&gate, "hello") && allows(&gate, "auth"), "signing in needs no right");
    assert!(gate.passes(command::find(b"get").unwrap()) && !gate.passes(command::find(b"auth").unwrap()));
}

#[test]
fn unknown_commands_go_by_name() {
    let open = Gate::compile(&grant(&[""], &[])).unwrap();
    assert!(open.allows_unknown(b"json.get"));
    let named = Gate::compile(&grant(&["+@read +json.get"], &[])).unwrap();
    assert!(named.allows_unknown(b"JSON.GET") && !named.allows_unknown(b"json.set"));
    let sub = Gate::compile(&grant(&["+@read +client|info"], &[])).unwrap();
    assert!(!sub.allows_unknown(b"client"), "an unknown subcommand of CLIENT");
    let less = Gate::compile(&grant(&["+@all -@dangerous"], &[])).unwrap();
    assert!(!less.allows_unknown(b"json.get"));
    let denied = Gate::compile(&grant(&[""], &["+@write"])).unwrap();
    assert!(!denied.allows_unknown(b"json.get"));
}

#[test]
fn a_denial_that_cannot_be_read_refuses() {
    assert!(Gate::compile(&grant(&["+@all -@nonsense"], &[])).is_err());
    assert!(Gate::compile(&grant(&[""], &["+@nonsense"])).is_err());
    assert!(Gate::compile(&grant(&["+@nonsense +get"], &[])).is_ok());
}

/// A grant of roles with keys and channels.
fn scoped(selectors: &[(&str, &str, &str)], denials: &[(&str, &str, &str)]) -> Gate {
    let list = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
    let role = || RoleName::parse("r").unwrap();
    let mut grant = grant(&[], &[]);
    grant.selectors = selectors
        .iter()
        .map(|(commands, keys, channels)| Selector {
            role: role(),
            commands: parse_list([*commands]).unwrap(),
            keys: list(keys),
            channels: list(channels),
        })
        .collect();
    grant.denied_keys = denials
        .iter()
        .map(|(commands, keys, channels)| KeyDenial {
            role: role(),
            commands: parse_list([*commands]).unwrap(),
            keys: list(keys),
            channels: list(channels),
        })
        .collect();
    Gate::compile(&grant).unwrap()
}

fn may(gate: &Gate, request: &str) -> bool {
    let args: Vec<&str> = request.split_whitespace().collect();
    let id = command::resolve(args[0].as_bytes(), args.get(1).map(|arg| arg.as_bytes())).id().unwrap();
    gate.allows(id) && gate.look(id, &args).is_ok()
}

#[test]
fn nothing_merges_across_roles() {
    let gate =
        scoped(&[("+@read", "~a*", ""), ("+@write", "~b*", ""), ("+publish +subscribe", "", "&n*")], &[]);
    for (request, permitted) in [
        ("GET a", true),
        ("GET b", false),
        ("SET b 1", true),
        ("SET a 1", false),
        ("MGET a a", true),
        ("MGET a b", false),
        ("COPY b b2", true),
        ("COPY a b", false),
        ("PUBLISH news x", true),
        ("PUBLISH olds x", false),
        ("SUBSCRIBE news", true),
        ("SUBSCRIBE __keyspace@0__:a", false),
        ("KEYS *", false),
        ("PING", false),
        ("AUTH x y", true),
    ] {
        assert_eq!(may(&gate, request), permitted, "{request}");
    }
    assert!(gate.is_scoped() && !gate.allows_unknown(b"json.get"));
    assert!(!gate.passes(command::find(b"get").unwrap()), "its keys have to be seen");
}

#[test]
fn a_role_without_limits_costs_no_look() {
    let gate = scoped(&[("", "~a*", ""), ("+@read", "", "")], &[]);
    assert!(gate.passes(command::find(b"get").unwrap()) && !gate.passes(command::find(b"set").unwrap()));
    assert!(may(&gate, "GET b") && may(&gate, "SET a 1") && !may(&gate, "SET b 1"));
    assert!(!gate.allows_unknown(b"json.get"), "the role without limits is no role for it");
    let gate = scoped(&[("", "~a*", "")], &[]);
    assert!(gate.passes(command::find(b"ping").unwrap()));
    let open = scoped(&[("", "allkeys", "allchannels")], &[]);
    assert!(!open.is_scoped() && open.allows_unknown(b"json.get"));
    assert!(open.passes(command::find(b"flushall").unwrap()));
}

#[test]
fn denied_keys_win() {
    let gate = scoped(&[("", "", "")], &[("", "~secret:*", "&secret.*"), ("+@write", "%W~frozen:*", "")]);
    for (request, permitted) in [
        ("GET a", true),
        ("GET secret:1", false),
        ("MGET a secret:1", false),
        ("GET frozen:1", true),
        ("SET frozen:1 x", false),
        ("EVAL s 0", false),
        ("KEYS *", false),
        ("PING", true),
        ("PUBLISH secret.a x", false),
        ("PUBLISH a x", true),
        ("PSUBSCRIBE sec*", false),
        ("PSUBSCRIBE a*", true),
    ] {
        assert_eq!(may(&gate, request), permitted, "{request}");
    }
    assert!(!gate.allows_unknown(b"json.get"));
    let narrow = scoped(&[("", "", "")], &[("+set", "~secret:*", "")]);
    assert!(may(&narrow, "KEYS *") && may(&narrow, "GET secret:1") && !may(&narrow, "SET secret:1 x"));
    assert!(narrow.allows_unknown(b"json.get"), "the denial is about SET");
}

#[test]
fn rules_on_keys_that_cannot_be_read_refuse() {
    let mut grant = grant(&[""], &[]);
    grant.selectors[0].keys = vec!["nonsense".to_owned()];
    assert!(Gate::compile(&grant).unwrap_err().to_string().contains("'nonsense' is no rule on keys"));
}
