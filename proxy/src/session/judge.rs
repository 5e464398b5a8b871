//! What becomes of a request, for both engines: which command it names, and whether it may pass. Pure.
//!
//! Single endpoints and clusters differ in where a command goes, never in what may pass.

use std::borrow::Cow;

use keystile_resp::command::{self, CommandId, Named};
use keystile_resp::encode;
use keystile_resp::request::Request;

use super::expected::{Label, UNKNOWN};
use super::gate::Gate;
use super::special::{Special, is_kept_config, special, unknown_refusal};
use super::words::Words;
use crate::audit::redact;

/// Longest name of a channel: its confirmation must be seen whole to be counted.
const MOST_CHANNEL: usize = 8 * 1024;

/// What a request is judged by, beside itself.
#[derive(Clone, Copy)]
pub struct Circumstances<'a> {
    /// The rules.
    pub gate: &'a Gate,
    /// Whether the cache has let the session in.
    pub admitted: bool,
    /// Whether a transaction is being queued.
    pub in_multi: bool,
    /// Whether only its first arguments are there, the rest is still on its way.
    pub streamed: bool,
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Judgement {
    /// It may pass; this is what it is to the session.
    May(Special),
    /// It may not.
    Refused(Refused),
}

/// Why a request may not pass.
#[derive(Debug)]
pub struct Refused {
    /// The command, where the table knows it.
    pub id: Option<CommandId>,
    /// The code of the answer: `NOPERM`, `ERR`, …
    pub code: &'static str,
    /// The word for the audit.
    pub rule: &'static str,
    /// The text.
    pub why: Cow<'static, str>,
}

impl Refused {
    /// A refusal.
    pub fn new(
        id: Option<CommandId>,
        code: &'static str,
        rule: &'static str,
        why: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { id, code, rule, why: why.into() }
    }

    /// The answer that the client gets.
    #[must_use]
    pub fn answer(&self) -> Vec<u8> {
        let text = format!("'{}' was refused: {}", redact::name(self.id), self.why);
        let mut answer = Vec::new();
        encode::error(&mut answer, &format!("{} keystile:", self.code), &text);
        answer
    }

    /// What the audit says of it.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{}: {}", self.rule, self.why)
    }
}

/// Judges a request. `buf` begins with it.
#[must_use]
pub fn judge(
    id: Option<CommandId>,
    request: &Request,
    buf: &[u8],
    circumstances: Circumstances<'_>,
) -> Judgement {
    let judged = match id {
        None => unknown(request, buf, circumstances),
        Some(id) => known(id, request, buf, circumstances),
    };
    judged.map_or_else(Judgement::Refused, Judgement::May)
}

fn known(
    id: CommandId,
    request: &Request,
    buf: &[u8],
    circumstances: Circumstances<'_>,
) -> Result<Special, Refused> {
    let refuse = |code, rule, why: &'static str| Err(Refused::new(Some(id), code, rule, Cow::Borrowed(why)));
    let kind = special(id);
    if !circumstances.admitted
        && !matches!(kind, Special::Auth | Special::Hello | Special::Quit | Special::Reset)
    {
        return refuse(
            "NOAUTH",
            "Authentication required.",
            "sign in with AUTH: this database takes the client's own password",
        );
    }
    if let Special::Never(why) = kind {
        return refuse("NOPERM", "never passes", why);
    }
    if !circumstances.gate.allows(id) {
        let text = format!(
            "the db_commands of {} do not allow it on this database: ask an editor for a role that does",
            circumstances.gate.roles()
        );
        return Err(Refused::new(Some(id), "NOPERM", "db_commands", text));
    }
    // Before the rules look at it: a pattern takes room in proportion to its length.
    let names_channels = matches!(kind, Special::Subscribe(_) | Special::Unsubscribe(_));
    if names_channels && request.args(buf).any(|channel| channel.len() > MOST_CHANNEL) {
        return refuse("ERR", "too long", "the name of a channel has at most 8,192 bytes here");
    }
    if let Err(outside) = circumstances.gate.look(id, &Words::of(request, buf)) {
        return Err(Refused::new(Some(id), "NOPERM", outside.rule, outside.why));
    }
    if circumstances.streamed && !matches!(kind, Special::Plain | Special::Watch | Special::Tracking) {
        let text = "it is longer than what is looked at as a whole (16 KiB; 1 MiB where roles limit keys, and in \
                    cluster mode): send less in one command";
        return refuse("ERR", "too long", text);
    }
    match kind {
        Special::ConfigSet
            if request.args(buf).skip(2).step_by(2).any(|parameter| is_kept_config(&parameter)) =>
        {
            refuse("NOPERM", "never passes", "the setting belongs to the server")
        }
        Special::Auth | Special::Hello | Special::ClientReply if circumstances.in_multi => {
            refuse("ERR", "in MULTI", "it is not allowed inside MULTI")
        }
        Special::Subscribe(_) | Special::Unsubscribe(_) if circumstances.in_multi => {
            refuse("ERR", "in MULTI", "subscriptions are not allowed inside MULTI")
        }
        kind => Ok(kind),
    }
}

fn unknown(request: &Request, buf: &[u8], circumstances: Circumstances<'_>) -> Result<Special, Refused> {
    let refuse = |code, rule, why: &'static str| Err(Refused::new(None, code, rule, Cow::Borrowed(why)));
    if !circumstances.admitted {
        return refuse("NOAUTH", "Authentication required.", "sign in with AUTH first");
    }
    let Some(name) = plain_name(request, buf) else {
        return refuse(
            "NOPERM",
            "never passes",
            "its name holds a NUL byte or is too long, and a server could take it for another's",
        );
    };
    if let Some(why) = unknown_refusal(&name) {
        return refuse("NOPERM", "never passes", why);
    }
    if !circumstances.gate.allows_unknown(&name) {
        let text = format!(
            "the db_commands of {} do not allow it on this database, and Keystile does not know it: a role \
             has to name it, and must not limit keys or channels",
            circumstances.gate.roles()
        );
        return Err(Refused::new(None, "NOPERM", "db_commands", text));
    }
    Ok(Special::Plain)
}

/// The command that a request names; `None` where the table does not know it.
#[inline]
pub fn named(request: &Request, buf: &[u8]) -> Option<CommandId> {
    let name = request.name(buf)?;
    let argument = request.arg(buf, 1);
    match command::resolve(&name, argument.as_deref()) {
        // A subcommand that is too long to be seen.
        Named::Known(id) if argument.is_none() && request.argc > 1 && id.command().has_subcommands => None,
        Named::Known(id) => Some(id),
        Named::UnknownSubcommand(_) | Named::Unknown => None,
    }
}

/// The name of a command that the table does not know; `None` where it, or its subcommand, could be another
/// command to the server.
///
/// Servers look names up in a table that hashes all bytes and then compares C strings: `RESET`, a NUL byte and
/// the right few bytes behind it are `RESET` there. So no name with a NUL byte passes, nor one that is too
/// long to be seen.
fn plain_name<'b>(request: &Request, buf: &'b [u8]) -> Option<Cow<'b, [u8]>> {
    let plain = |index| request.arg(buf, index).filter(|word| !word.contains(&0));
    let name = plain(0)?;
    let is_container = command::find(&name).is_some_and(|id| id.command().has_subcommands);
    if request.argc > 1 && is_container {
        plain(1)?;
    }
    Some(name)
}

/// The label under which a command is counted.
#[inline]
pub fn label_of(id: Option<CommandId>) -> Label {
    id.map_or(UNKNOWN, |id| Label::try_from(id.index()).unwrap_or(UNKNOWN))
}
