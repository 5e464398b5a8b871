//! Command rules mean what they mean on a server.

use keystile_resp::command::{self, Categories, CommandId, Named};
use keystile_resp::rules::{CommandSet, RuleError};
use proptest::prelude::*;

fn named(name: &str) -> Named {
    let mut words = name.split(' ');
    let first = words.next().expect("a name");
    command::resolve(first.as_bytes(), words.next().map(str::as_bytes))
}

fn permits(rules: &str, name: &str) -> bool {
    CommandSet::compile(rules).expect("sound rules").permits(named(name))
}

#[test]
fn rules_apply_from_left_to_right() {
    for (rules, name, permitted) in [
        ("", "GET", false),
        ("", "PING", false),
        ("+@read -keys", "GET", true),
        ("+@read -keys", "KEYS", false),
        ("+@read -keys", "SET", false),
        ("-keys +@read", "KEYS", true),
        ("+@all -@dangerous", "GET", true),
        ("+@all -@dangerous", "FLUSHALL", false),
        ("+@all -@dangerous", "CONFIG SET", false),
        ("+@all -@dangerous +config|get", "CONFIG GET", true),
        ("+@all -@dangerous +config|get", "CONFIG SET", false),
        ("+client|info", "CLIENT INFO", true),
        ("+client|info", "CLIENT KILL", false),
        ("+client|info", "CLIENT", false),
        ("+CLIENT -Client|Kill", "CLIENT KILL", false),
        ("+client -client|kill", "CLIENT LIST", true),
        ("+@ALL", "GET", true),
        ("allcommands nocommands", "GET", false),
        ("nocommands +get", "GET", true),
        ("+@all -@all +get", "SET", false),
    ] {
        assert_eq!(permits(rules, name), permitted, "{rules:?} {name}");
    }
}

#[test]
fn unknown_commands_pass_only_where_all_do() {
    for (rules, permitted) in [
        ("+@all", true),
        ("allcommands", true),
        ("+@all -keys", true),
        ("+@all -@dangerous", false),
        ("+@all -@dangerous +@all", true),
        ("+@all -@dangerous +@dangerous", false),
        ("+@read +@write", false),
        ("+@all nocommands", false),
    ] {
        assert_eq!(permits(rules, "JSON.GET"), permitted, "{rules:?}");
    }
}

/// `CONFIG NEWTHING` of a newer server must not slip past `-config`.
#[test]
fn an_unknown_subcommand_needs_its_container_too() {
    assert!(permits("+@all", "CONFIG NEWTHING"));
    assert!(!permits("+@all -config", "CONFIG NEWTHING"));
    assert!(!permits("+config", "CONFIG NEWTHING"));
}

#[test]
fn nonsense_is_an_error_that_names_the_rule() {
    for rule in [
        "get",
        "+",
        "-",
        "~app:*",
        "&x",
        "on",
        ">secret",
        "+@",
        "+nosuch",
        "+@nosuch",
        "+client|nosuch",
        "+select|0",
        "+json.get",
    ] {
        let error = CommandSet::compile(&format!("+get {rule}")).unwrap_err();
        assert!(error.to_string().contains(rule), "{error}");
    }
    assert!(matches!(CommandSet::compile("+@nosuch"), Err(RuleError::UnknownCategory { .. })));
    assert!(matches!(CommandSet::compile("+nosuch"), Err(RuleError::UnknownCommand { .. })));
    assert!(matches!(CommandSet::compile("+client|x"), Err(RuleError::UnknownSubcommand { .. })));
}

#[test]
fn a_failed_rule_changes_nothing() {
    let mut set = CommandSet::compile("+get").unwrap();
    assert!(set.apply("+nosuch").is_err());
    assert_eq!(set, CommandSet::compile("+get").unwrap());
}

/// One rule and, told a second way, what it does to one command.
#[derive(Clone, Debug)]
enum Rule {
    All(bool),
    Category(bool, &'static str),
    Command(bool, CommandId),
}

impl Rule {
    fn text(&self) -> String {
        let sign = |allow: bool| if allow { '+' } else { '-' };
        match self {
            Self::All(true) => "allcommands".to_owned(),
            Self::All(false) => "-@all".to_owned(),
            Self::Category(allow, name) => format!("{}@{name}", sign(*allow)),
            Self::Command(allow, id) => {
                format!("{}{}", sign(*allow), id.display_name().to_lowercase().replace(' ', "|"))
            }
        }
    }

    fn says(&self, id: CommandId) -> Option<bool> {
        match self {
            Self::All(allow) => Some(*allow),
            Self::Category(allow, name) => {
                id.command().categories.names().any(|has| has == *name).then_some(*allow)
            }
            Self::Command(allow, of) => (id == *of || id.command().container == Some(*of)).then_some(*allow),
        }
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let commands: Vec<CommandId> = command::all().collect();
    prop_oneof![
        1 => any::<bool>().prop_map(Rule::All),
        4 => (any::<bool>(), prop::sample::select(Categories::NAMES)).prop_map(|(allow, name)| Rule::Category(allow, name)),
        8 => (any::<bool>(), prop::sample::select(commands)).prop_map(|(allow, id)| Rule::Command(allow, id)),
    ]
}

proptest! {
    #[test]
    fn the_last_rule_that_speaks_of_a_command_decides(rules in prop::collection::vec(rule(), 0..12)) {
        let text: Vec<String> = rules.iter().map(Rule::text).collect();
        let set = CommandSet::compile(&text.join(" ")).unwrap();
        for id in command::all() {
            let expected = rules.iter().rev().find_map(|rule| rule.says(id)).unwrap_or(false);
            prop_assert_eq!(set.allows(id), expected, "{} under {:?}", id.display_name(), text);
        }
        let expected = rules.iter().rev().find_map(|rule| match rule {
            Rule::All(allow) => Some(*allow),
            Rule::Category(false, _) => Some(false),
            _ => None,
        });
        prop_assert_eq!(set.allows_unknown(), expected.unwrap_or(false));
    }

    #[test]
    fn compiling_never_panics(rules in "\\PC{0,60}") {
        let _ = CommandSet::compile(&rules);
    }

    #[test]
    fn looking_up_never_panics(name in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Some(id) = command::find(&name) {
            prop_assert!(id.command().name.as_bytes().eq_ignore_ascii_case(&name));
        }
    }
}
