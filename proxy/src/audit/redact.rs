//! What may be shown of a command: its name, its subcommand, and on level `full` those arguments that are no
//! secrets, capped.

use std::borrow::Cow;
use std::fmt::Write as _;

use keystile_resp::command::{self, CommandId, Named};

/// Longest argument that is shown, in bytes.
const MOST_ARGUMENT: usize = 128;
/// Longest text that is shown, in bytes.
const MOST_TEXT: usize = 2_048;

/// How servers begin an error that repeats what they do not know; some in capitals.
const UNKNOWN: [&str; 2] = ["ERR unknown command", "ERR unknown subcommand"];

/// From which argument on (the name is 0) a command's arguments may be secrets; `None` shows all.
fn secret_from(id: Option<CommandId>) -> Option<usize> {
    // An unknown command of a module: nobody knows.
    let Some(id) = id else { return Some(1) };
    let own = id.command();
    match (own.container.map(|container| container.command().name), own.name) {
        (None, "auth" | "hello" | "migrate") | (Some("acl" | "config"), _) => {
            Some(if own.container.is_some() { 2 } else { 1 })
        }
        (None, "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro") => Some(2),
        (Some("script" | "function"), _) => Some(2),
        _ => None,
    }
}

/// The command's name alone.
#[must_use]
pub fn name(id: Option<CommandId>) -> String {
    id.map_or_else(|| "(unknown)".to_owned(), CommandId::display_name)
}

/// What may be shown of a server's error: it repeats arguments, so of a command whose arguments may be secrets,
/// and of one that the server does not know, no more than that.
#[must_use]
pub fn error(id: Option<CommandId>, text: &str) -> String {
    let is_unknown =
        |what: &str| text.get(..what.len()).is_some_and(|start| start.eq_ignore_ascii_case(what));
    if let Some(what) = UNKNOWN.into_iter().find(|what| is_unknown(what)) {
        return what.to_owned();
    }
    match secret_from(id) {
        None => text.to_owned(),
        Some(_) => text.split(' ').next().unwrap_or_default().to_owned(),
    }
}

/// The command with its arguments, quoted, secrets as `***`, capped.
#[must_use]
pub fn full<'a>(id: Option<CommandId>, args: impl Iterator<Item = Cow<'a, [u8]>>) -> String {
    let mut text = name(id);
    let shown_by_name = 1 + usize::from(id.is_some_and(|id| id.command().container.is_some()));
    let secret = secret_from(id).unwrap_or(usize::MAX);
    for (index, arg) in args.enumerate().skip(shown_by_name) {
        if text.len() > MOST_TEXT {
            text.push_str(" …");
            break;
        }
        if index >= secret {
            text.push_str(" ***");
            continue;
        }
        let shown = arg.get(..MOST_ARGUMENT).unwrap_or(&arg);
        let _ = write!(text, " \"{}\"", shown.escape_ascii());
        if arg.len() > MOST_ARGUMENT {
            let _ = write!(text, "…({} bytes)", arg.len());
        }
    }
    text
}

/// As [`full`], of a whole request.
#[must_use]
pub fn request(args: &[Cow<'_, [u8]>]) -> String {
    let named =
        args.first().map(|name| command::resolve(name, args.get(1).map(|argument| argument.as_ref())));
    full(named.and_then(Named::id), args.iter().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> String {
        let args: Vec<Cow<'_, [u8]>> = words.iter().map(|word| Cow::Borrowed(word.as_bytes())).collect();
        request(&args)
    }

    #[test]
    fn errors_repeat_no_secrets() {
        let typo = "ERR unknown command 'AUHT', with args beginning with: 'u' 'hunter2' ";
        assert_eq!(error(None, typo), "ERR unknown command");
        // A server that is older than the command.
        for (name, text) in [
            ("FCALL", "ERR unknown command 'FCALL', with args beginning with: 'f' '1' 'k' 'hunter2' "),
            ("SMISMEMBER", "ERR unknown command `SMISMEMBER`, with args beginning with: `s`, `hunter2`, "),
        ] {
            assert_eq!(error(command::resolve(name.as_bytes(), None).id(), text), "ERR unknown command");
        }
        let object = command::resolve(b"OBJECT", Some(b"ENCODING")).id();
        assert_eq!(
            error(object, "ERR Unknown subcommand or wrong number of arguments for 'x'"),
            "ERR unknown subcommand"
        );
        let acl = command::resolve(b"ACL", Some(b"SETUSER")).id();
        assert_eq!(error(acl, "ERR Error in ACL SETUSER modifier 'hunter2': Syntax error"), "ERR");
        let get = command::resolve(b"GET", None).id();
        let text = "WRONGTYPE Operation against a key holding the wrong kind of value";
        assert_eq!(error(get, text), text);
    }

    #[test]
    fn secrets_are_not_shown() {
        for words in [
            vec!["AUTH", "u", "hunter2"],
            vec!["HELLO", "3", "AUTH", "u", "hunter2"],
            vec!["ACL", "SETUSER", "u", ">hunter2"],
            vec!["CONFIG", "SET", "requirepass", "hunter2"],
            vec!["MIGRATE", "h", "1", "k", "0", "1", "AUTH", "hunter2"],
            vec!["EVAL", "return 1", "0", "hunter2"],
            vec!["FCALL", "f", "1", "k", "hunter2"],
            vec!["MY.MODULE", "hunter2"],
        ] {
            assert!(!shown(&words).contains("hunter2"), "{words:?}: {}", shown(&words));
        }
        assert_eq!(shown(&["set", "k", "a\r\nb"]), "SET \"k\" \"a\\r\\nb\"");
        assert!(shown(&["set", "k", &"x".repeat(10_000)]).len() < 300);
    }
}
