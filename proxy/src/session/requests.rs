//! From the client to the cache: each request is named, judged, and passes in the longest run there is.

use std::borrow::Cow;
use std::task::{Context, Poll};

use keystile_resp::command::{self, CommandId, Named};
use keystile_resp::encode;
use keystile_resp::request::{Request, RequestError, Step};

use super::expected::{Expect, Label, Topic, UNKNOWN};
use super::special::{Special, c_string, is_kept_config, special, unknown_refusal};
use super::{End, Replying, Session, Standing, give_back, take_buffer};
use crate::audit::redact;

/// A command that no server knows. In a transaction it is sent in place of a refused command: the server
/// rejects it and so aborts the EXEC itself, which no bookkeeping of ours could do as surely. Its error is
/// swallowed and the refusal takes its place.
const POISON: &[u8] = b"*1\r\n$16\r\nkeystile-refused\r\n";

/// Longest name of a channel: its confirmation must be seen whole to be counted.
const MOST_CHANNEL: usize = 8 * 1024;

/// What becomes of a request.
pub(super) enum Verdict {
    /// Its bytes pass as they are.
    Pass,
    /// Its bytes do not pass; what had to be done is done.
    Drop,
    /// Its bytes do not pass; these do.
    Send(Vec<u8>),
}

impl Session {
    /// Reads the client once. True where something moved.
    pub(super) fn pump_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let (mut work, was_held) = take_buffer(&mut self.client_held);
        let before = work.len();
        let filled = if std::mem::take(&mut self.rescan) {
            Poll::Ready(Ok(1))
        } else {
            self.client.poll_fill(cx, &mut work)
        };
        match filled {
            Poll::Ready(Ok(1..)) => {}
            other => {
                give_back(work, was_held, 0, &mut self.client_held);
                return match other {
                    Poll::Pending => Ok(false),
                    Poll::Ready(Ok(_)) => Err(End::ClientClosed),
                    Poll::Ready(Err(_)) => Err(End::ClientFailed),
                };
            }
        }
        self.metrics.bytes_in.add((work.len() - before) as u64);
        self.handle.active(self.clock.now());
        let scanned = self.scan_requests(&work);
        give_back(work, was_held, *scanned.as_ref().unwrap_or(&0), &mut self.client_held);
        scanned.map(|_| true)
    }

    fn scan_requests(&mut self, buf: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        // Where the bytes begin that are to pass and were not written yet.
        let mut run = 0;
        while at < buf.len() && !self.hold && self.finishing.is_none() {
            let rest = &buf[at..];
            match self.requests.scan(rest) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Empty { len }) => at += len,
                Ok(Step::Request(request)) => {
                    let end = at + request.len;
                    if !self.passes(&request, rest) {
                        self.forward(&buf[run..at])?;
                        run = self.judged(&request, rest, false)?.unwrap_or(0) + end - request.len;
                    }
                    at = end;
                }
                Ok(Step::Head(request)) => {
                    let end = at + request.len;
                    let label = label_of(named(&request, rest));
                    let passed = if self.passes(&request, rest) {
                        true
                    } else {
                        self.forward(&buf[run..at])?;
                        let skip = self.judged(&request, rest, true)?;
                        run = at + skip.unwrap_or(0);
                        skip.is_none()
                    };
                    self.streaming_request = Some((label, passed));
                    at = end;
                }
                Ok(Step::Body { len, end }) => {
                    let (label, passes) = self.streaming_request.unwrap_or((UNKNOWN, true));
                    if passes {
                        self.journal.request_bytes(label, len);
                    } else {
                        self.forward(&buf[run..at])?;
                        run = at + len;
                    }
                    at += len;
                    if end {
                        self.streaming_request = None;
                    }
                }
                Err(error) => {
                    self.malformed(error)?;
                    break;
                }
            }
        }
        if run < at {
            self.forward(&buf[run..at])?;
        }
        Ok(at)
    }

    /// The common path: a command that the rules allow and that is nothing special.
    #[inline]
    fn passes(&mut self, request: &Request, buf: &[u8]) -> bool {
        let Some(id) = named(request, buf) else { return false };
        if !self.gate.passes(id) || !self.is_admitted() {
            return false;
        }
        let label = label_of(Some(id));
        let muted = self.take_muted();
        self.expected.reply(label, muted);
        self.journal.request(label, request.len);
        if self.journal.wants_each() {
            self.write_down(Some(id), request, buf);
        }
        true
    }

    /// Looks closer. `None`: the bytes pass. Otherwise how many bytes of the request to skip.
    fn judged(&mut self, request: &Request, buf: &[u8], streamed: bool) -> Result<Option<usize>, End> {
        let id = named(request, buf);
        self.journal.request(label_of(id), request.len);
        if self.journal.wants_each() {
            self.write_down(id, request, buf);
        }
        match self.judge(id, request, buf, streamed)? {
            Verdict::Pass => Ok(None),
            Verdict::Drop => Ok(Some(request.len)),
            Verdict::Send(bytes) => {
                self.forward(&bytes)?;
                Ok(Some(request.len))
            }
        }
    }

    fn judge(
        &mut self,
        id: Option<CommandId>,
        request: &Request,
        buf: &[u8],
        streamed: bool,
    ) -> Result<Verdict, End> {
        let Some(id) = id else {
            return self.judge_unknown(request, buf);
        };
        let kind = special(id);
        if !self.is_admitted()
            && !matches!(kind, Special::Auth | Special::Hello | Special::Quit | Special::Reset)
        {
            return self.refuse(
                Some(id),
                "NOAUTH",
                "Authentication required.",
                "sign in with AUTH: this database takes the client's own password",
            );
        }
        if let Special::Never(why) = kind {
            return self.refuse(Some(id), "NOPERM", "never passes", why);
        }
        if !self.gate.allows(id) {
            let text = format!(
                "the db_commands of {} do not allow it on this database: ask an editor for a role that does",
                self.gate.roles()
            );
            return self.refuse(Some(id), "NOPERM", "db_commands", &text);
        }
        if streamed && kind != Special::Plain && kind != Special::Watch {
            return self.refuse(Some(id), "ERR", "too long", "its arguments are too long");
        }
        let args: Vec<Cow<'_, [u8]>> = if streamed { Vec::new() } else { request.args(buf).collect() };
        let label = label_of(Some(id));
        let alone = request.argc == 1;
        match kind {
            Special::Plain | Special::Never(_) => {}
            Special::Topology if self.hide_topology => {
                let text = "this cache is served as a single endpoint: connect without cluster mode";
                return self.refuse(Some(id), "ERR", "topology", text);
            }
            Special::Topology => {}
            Special::ConfigSet => {
                if args.iter().skip(2).step_by(2).any(|parameter| is_kept_config(parameter)) {
                    return self.refuse(
                        Some(id),
                        "NOPERM",
                        "never passes",
                        "the setting belongs to the server",
                    );
                }
            }
            Special::Auth | Special::Hello | Special::ClientReply if self.in_multi => {
                return self.refuse(Some(id), "ERR", "in MULTI", "it is not allowed inside MULTI");
            }
            Special::Subscribe(_) | Special::Unsubscribe(_) if self.in_multi => {
                return self.refuse(
                    Some(id),
                    "ERR",
                    "in MULTI",
                    "subscriptions are not allowed inside MULTI",
                );
            }
            Special::Subscribe(_) | Special::Unsubscribe(_)
                if args.iter().any(|channel| channel.len() > MOST_CHANNEL) =>
            {
                let text = "the name of a channel has at most 8,192 bytes here";
                return self.refuse(Some(id), "ERR", "too long", text);
            }
            Special::Auth => return self.client_auth(label, &args),
            Special::Hello => return self.client_hello(label, &args),
            Special::ClientReply => return self.client_reply(label, &args),
            Special::Quit => self.finishing = Some(End::Quit),
            Special::Reset if alone => return self.reset(),
            // With arguments it is an error, and changes nothing.
            Special::Reset => {}
            Special::Multi => self.in_multi |= alone,
            Special::EndMulti => {
                self.in_multi &= !alone;
                self.watching &= !alone;
            }
            Special::Watch => self.watching |= !self.in_multi,
            Special::Unwatch => self.watching &= self.in_multi,
            Special::Subscribe(topic) => {
                let channels = request.argc.saturating_sub(1);
                self.take_muted();
                // Without a channel there is one reply, an error.
                self.expected.push(Expect::Acks { label, topic, left: Some(channels.max(1)) });
                return Ok(Verdict::Pass);
            }
            Special::Unsubscribe(topic) => {
                let left = (!alone).then_some(request.argc.saturating_sub(1));
                self.take_muted();
                self.expected.push(Expect::Acks { label, topic, left });
                return Ok(Verdict::Pass);
            }
        }
        let muted = self.take_muted();
        self.expected.reply(label, muted);
        Ok(Verdict::Pass)
    }

    fn judge_unknown(&mut self, request: &Request, buf: &[u8]) -> Result<Verdict, End> {
        if !self.is_admitted() {
            return self.refuse(None, "NOAUTH", "Authentication required.", "sign in with AUTH first");
        }
        let Some(name) = plain_name(request, buf) else {
            let text = "its name holds a NUL byte or is too long, and a server could take it for another's";
            return self.refuse(None, "NOPERM", "never passes", text);
        };
        let name: &[u8] = &name;
        if let Some(why) = unknown_refusal(name) {
            return self.refuse(None, "NOPERM", "never passes", why);
        }
        if !self.gate.allows_unknown(name) {
            let text = format!(
                "the db_commands of {} do not allow it on this database, and Keystile does not know it: a role \
                 has to name it",
                self.gate.roles()
            );
            return self.refuse(None, "NOPERM", "db_commands", &text);
        }
        let muted = self.take_muted();
        self.expected.reply(UNKNOWN, muted);
        Ok(Verdict::Pass)
    }

    /// Refuses a command: an answer in its place, and in a transaction a server that knows of it.
    fn refuse(&mut self, id: Option<CommandId>, code: &str, rule: &str, why: &str) -> Result<Verdict, End> {
        let label = label_of(id);
        let text = format!("'{}' was refused: {why}", redact::name(id));
        self.journal.refused(label, code, &format!("{rule}: {why}"));
        let mut answer = Vec::new();
        encode::error(&mut answer, &format!("{code} keystile:"), &text);
        let muted = self.take_muted();
        if self.in_multi {
            if id.is_some_and(|id| special(id) == Special::EndMulti) {
                // A refused EXEC or DISCARD ends the transaction, as one that the server refuses does.
                self.in_multi = false;
                self.watching = false;
                self.replace(answer, muted);
                let mut discard = Vec::new();
                encode::request(&mut discard, &["DISCARD"]);
                return Ok(Verdict::Send(discard));
            }
            self.replace(answer, muted);
            return Ok(Verdict::Send(POISON.to_vec()));
        }
        if !muted {
            self.answer(answer)?;
        }
        Ok(Verdict::Drop)
    }

    fn replace(&mut self, answer: Vec<u8>, muted: bool) {
        let answer = if muted { Vec::new() } else { answer };
        self.expected.push(Expect::Replace(answer.into_boxed_slice()));
    }

    /// `CLIENT REPLY` is kept here: the server answers always and what the client does not want is
    /// swallowed, so that no reply is ever counted wrong.
    fn client_reply(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        let mode = match args {
            [_, _, mode] => c_string(mode).to_ascii_uppercase(),
            _ => Vec::new(),
        };
        match mode.as_slice() {
            b"ON" => {
                self.replying = Replying::On;
                self.answer(b"+OK\r\n".to_vec())?;
            }
            b"OFF" => self.replying = Replying::Off,
            b"SKIP" if self.replying == Replying::On => self.replying = Replying::Skip,
            b"SKIP" => {}
            // The server says what is wrong with it, and changes nothing.
            _ => {
                self.expected.reply(label, muted);
                return Ok(Verdict::Pass);
            }
        }
        Ok(Verdict::Drop)
    }

    /// `RESET` makes the connection the default user's: nothing follows it before we have signed in again.
    fn reset(&mut self) -> Result<Verdict, End> {
        self.replying = Replying::On;
        self.in_multi = false;
        self.watching = false;
        self.expected.push(Expect::Reset);
        match &mut self.standing {
            Standing::Ours(_) => {
                self.hold = true;
                self.sign_in_due = true;
            }
            Standing::PassThrough { admitted } => *admitted = false,
            Standing::Open => {}
        }
        Ok(Verdict::Pass)
    }

    fn malformed(&mut self, error: RequestError) -> Result<(), End> {
        if error == RequestError::Http {
            return Err(End::Malformed(error));
        }
        let mut answer = Vec::new();
        encode::error(&mut answer, "ERR", &error.to_string());
        self.answer(answer)?;
        self.finishing = Some(End::Malformed(error));
        Ok(())
    }

    #[inline]
    fn is_admitted(&self) -> bool {
        !matches!(self.standing, Standing::PassThrough { admitted: false })
    }

    #[inline]
    fn take_muted(&mut self) -> bool {
        match self.replying {
            Replying::On => false,
            Replying::Off => true,
            Replying::Skip => {
                self.replying = Replying::On;
                true
            }
        }
    }

    #[inline]
    fn forward(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.server.write(bytes).map_err(|_| End::ServerClosed)
    }

    fn write_down(&mut self, id: Option<CommandId>, request: &Request, buf: &[u8]) {
        let shown = if self.journal.wants_arguments() {
            redact::full(id, request.args(buf))
        } else {
            redact::name(id)
        };
        self.journal.query(shown);
    }
}

/// The verdicts that the modules beside this one make.
impl Session {
    pub(super) fn client_auth(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        match self.local_auth(args) {
            super::auth_local::Answer::Local(bytes) => {
                if !muted {
                    self.answer(bytes)?;
                }
                Ok(Verdict::Drop)
            }
            super::auth_local::Answer::Forward(bytes) => {
                self.expected.push(Expect::ClientAuth { label });
                self.hold = true;
                Ok(Verdict::Send(bytes))
            }
        }
    }

    pub(super) fn client_hello(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        match self.local_hello(args) {
            Err(bytes) => {
                if !muted {
                    self.answer(bytes)?;
                }
                Ok(Verdict::Drop)
            }
            Ok((bytes, lets_in)) => {
                self.expected.push(Expect::Hello { label, muted, lets_in });
                self.hold |= lets_in;
                Ok(Verdict::Send(bytes))
            }
        }
    }
}

#[inline]
fn named(request: &Request, buf: &[u8]) -> Option<CommandId> {
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

#[inline]
fn label_of(id: Option<CommandId>) -> Label {
    id.map_or(UNKNOWN, |id| Label::try_from(id.index()).unwrap_or(UNKNOWN))
}

/// Which of the counts of subscriptions a topic is.
pub(super) fn place(topic: Topic) -> usize {
    match topic {
        Topic::Channel => 0,
        Topic::Pattern => 1,
        Topic::Shard => 2,
    }
}
