//! From the cache to the client: each reply is counted against what is owed, and passes in the longest run
//! that nothing of ours interrupts.

use std::task::{Context, Poll};

use keystile_resp::command::CommandId;
use keystile_resp::reply::{Frame, Kind, Step, is_subscriber_message};

use super::expected::{Expect, Label, Topic};
use super::requests::place;
use super::subscriber::Rewrite;
use super::{End, Session, Standing, give_back, take_buffer};
use crate::audit::redact;

/// What becomes of a reply.
enum Fate {
    /// It passes; it answers this command, if any.
    Pass(Option<Label>),
    /// Nobody gets it.
    Swallow,
    /// This takes its place.
    Replace(Box<[u8]>),
    /// It passes with the first byte of an array, and answers nothing.
    AsArray,
    /// It passes; so many of its first bytes are replaced by these.
    Front(usize, &'static [u8]),
}

impl Session {
    /// Reads the cache once. True where something moved.
    pub(super) fn pump_replies(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let (mut work, was_held) = take_buffer(&mut self.server_held);
        let filled = self.server.poll_fill(cx, &mut work);
        match filled {
            Poll::Ready(Ok(1..)) => {}
            other => {
                give_back(work, was_held, 0, &mut self.server_held);
                return match other {
                    Poll::Pending => Ok(false),
                    Poll::Ready(_) => Err(self.server_gone()),
                };
            }
        }
        let scanned = self.scan_replies(&mut work);
        give_back(work, was_held, *scanned.as_ref().unwrap_or(&0), &mut self.server_held);
        scanned.map(|_| true)
    }

    /// The server closes after QUIT and after a malformed request: then that is the end.
    fn server_gone(&mut self) -> End {
        match &self.finishing {
            Some(End::Quit) if self.expected.is_empty() => End::Quit,
            _ => End::ServerClosed,
        }
    }

    fn scan_replies(&mut self, buf: &mut [u8]) -> Result<usize, End> {
        let mut at = 0;
        let mut run = 0;
        while at < buf.len() {
            let rest = &buf[at..];
            let step = match self.replies.scan(rest) {
                Ok(step) => step,
                Err(error) => {
                    self.send(&buf[run..at])?;
                    if error.is_limit() {
                        self.metrics.limits.add("reply");
                    }
                    return Err(End::ServerMalformed(error.to_string()));
                }
            };
            match step {
                Step::NeedMore => break,
                Step::Frame(frame) => {
                    let end = at + frame.len;
                    if let Some(label) = self.is_plain(&frame) {
                        self.journal.reply(label, frame.len);
                        self.expected.count_down();
                    } else {
                        match self.settle(&frame, rest)? {
                            Fate::Pass(label) => self.count_bytes(label, frame.len),
                            Fate::Swallow => {
                                self.send(&buf[run..at])?;
                                run = end;
                            }
                            Fate::Replace(bytes) => {
                                self.send(&buf[run..at])?;
                                self.send(&bytes)?;
                                run = end;
                            }
                            Fate::AsArray => {
                                self.count_bytes(None, frame.len);
                                as_array(buf, at);
                            }
                            Fate::Front(skip, front) => {
                                self.send(&buf[run..at])?;
                                self.send(front)?;
                                self.count_bytes(None, frame.len);
                                run = at + skip;
                            }
                        }
                    }
                    at = end;
                    self.send_own(buf, &mut run, at)?;
                }
                Step::Head(frame) => {
                    let end = at + frame.len;
                    self.streaming_reply = match self.settle(&frame, rest)? {
                        Fate::Pass(label) => {
                            self.count_bytes(label, frame.len);
                            Some((label, true))
                        }
                        Fate::AsArray => {
                            self.count_bytes(None, frame.len);
                            as_array(buf, at);
                            Some((None, true))
                        }
                        Fate::Front(skip, front) => {
                            self.send(&buf[run..at])?;
                            self.send(front)?;
                            self.count_bytes(None, frame.len);
                            run = at + skip;
                            Some((None, true))
                        }
                        fate => {
                            self.send(&buf[run..at])?;
                            if let Fate::Replace(bytes) = fate {
                                self.send(&bytes)?;
                            }
                            run = end;
                            Some((None, false))
                        }
                    };
                    at = end;
                }
                Step::Body { len, end } => {
                    let (label, passes) = self.streaming_reply.unwrap_or((None, true));
                    if passes {
                        self.count_bytes(label, len);
                    } else {
                        self.send(&buf[run..at])?;
                        run = at + len;
                    }
                    at += len;
                    if end {
                        self.streaming_reply = None;
                        self.send_own(buf, &mut run, at)?;
                    }
                }
            }
        }
        self.send(&buf[run..at])?;
        Ok(at)
    }

    /// The common path: a reply, no error, to a command whose replies the client wants.
    #[inline]
    fn is_plain(&mut self, frame: &Frame) -> Option<Label> {
        if frame.kind != Kind::Reply || (frame.marker == b'*' && self.subscribed != [0; 3]) {
            return None;
        }
        match self.expected.front() {
            Some(Expect::Replies { label, muted: false, .. }) => Some(*label),
            _ => None,
        }
    }

    /// Answers of ours whose turn has come.
    #[inline]
    fn send_own(&mut self, buf: &[u8], run: &mut usize, at: usize) -> Result<(), End> {
        while let Some(own) = self.expected.take_local() {
            self.send(&buf[*run..at])?;
            *run = at;
            self.send(&own)?;
        }
        Ok(())
    }

    #[inline]
    fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.metrics.bytes_out.add(bytes.len() as u64);
        self.client.write(bytes).map_err(|_| End::ClientFailed)
    }

    fn count_bytes(&mut self, label: Option<Label>, bytes: usize) {
        match label {
            Some(label) => self.journal.reply(label, bytes),
            None => self.journal.pushed(bytes),
        }
    }

    /// Finds what a reply answers.
    fn settle(&mut self, frame: &Frame, buf: &[u8]) -> Result<Fate, End> {
        let first = frame.text(buf);
        if frame.kind == Kind::Push {
            if let Some(first) = first {
                self.acknowledge(first, frame, buf)?;
            }
            if !self.lift.spoken {
                return Ok(Fate::Pass(None));
            }
            return Ok(fate_of(self.rewrite(first.unwrap_or_default(), frame, buf)));
        }
        // A RESP2 subscriber gets messages between replies; only then is an array of that shape one.
        let word = first.filter(|_| frame.marker == b'*' && !self.resp3);
        if self.subscribed != [0; 3] && word.is_some_and(|word| word.ends_with(b"message")) {
            return Ok(Fate::Pass(None));
        }
        let failed = frame.kind == Kind::Error;
        loop {
            let Some(front) = self.expected.front() else {
                return self.unasked(frame, word);
            };
            match front {
                Expect::Replies { label, muted, .. } => {
                    let (label, muted) = (*label, *muted);
                    // While a RESP2 client subscribes no command is answered like this: it is the server's word.
                    if self.subscribed != [0; 3] && word.is_some_and(is_subscriber_message) {
                        self.acknowledge(word.unwrap_or_default(), frame, buf)?;
                        return Ok(Fate::Pass(None));
                    }
                    self.expected.count_down();
                    if failed {
                        self.note_failure(label, frame, buf);
                    }
                    return Ok(if muted { Fate::Swallow } else { Fate::Pass(Some(label)) });
                }
                Expect::Acks { label, muted, .. } => {
                    let (label, muted) = (*label, *muted);
                    if failed {
                        self.expected.pop();
                        self.note_failure(label, frame, buf);
                        return Ok(if muted { Fate::Swallow } else { Fate::Pass(Some(label)) });
                    }
                    if word.is_some_and(is_subscriber_message) {
                        self.acknowledge(word.unwrap_or_default(), frame, buf)?;
                        return Ok(Fate::Pass(Some(label)));
                    }
                    return Err(count_lost("the cache did not confirm a subscription"));
                }
                Expect::Local(_) => {
                    if let Some(own) = self.expected.take_local() {
                        self.send(&own)?;
                    }
                }
                Expect::Replace(_) => {
                    return Ok(match self.expected.pop() {
                        Some(Expect::Replace(bytes)) => Fate::Replace(bytes),
                        _ => Fate::Swallow,
                    });
                }
                Expect::Reset { label, muted, change, in_multi, watching, admitted } => {
                    let (label, muted) = (*label, *muted);
                    let (change, in_multi, watching, admitted) = (*change, *in_multi, *watching, *admitted);
                    self.expected.pop();
                    if failed {
                        self.not_reset(change, in_multi, watching, admitted);
                        self.note_failure(label, frame, buf);
                    } else {
                        if first != Some(b"RESET") {
                            return Err(count_lost("the cache did not confirm a RESET"));
                        }
                        self.subscribed = [0; 3];
                        self.resp3 = false;
                        self.lift.spoken = false;
                    }
                    return Ok(if muted { Fate::Swallow } else { Fate::Pass(None) });
                }
                Expect::OurAuth { lets_in } => {
                    let lets_in = *lets_in;
                    self.expected.pop();
                    self.our_auth(lets_in, frame, buf)?;
                    return Ok(Fate::Swallow);
                }
                Expect::Lift => {
                    self.expected.pop();
                    self.lifted(frame, failed);
                    return Ok(Fate::Swallow);
                }
                Expect::Multi { label, muted, change } => {
                    let (label, muted, change) = (*label, *muted, *change);
                    self.expected.pop();
                    if failed {
                        // Inside another one it is an error too, and that one goes on.
                        let text = frame.text(buf).unwrap_or_default();
                        let nested = [b"can not be nested".as_slice(), b"not allowed inside a transaction"];
                        if !nested.iter().any(|words| text.ends_with(words)) {
                            self.no_multi(change);
                        }
                        self.note_failure(label, frame, buf);
                    }
                    return Ok(if muted { Fate::Swallow } else { Fate::Pass(Some(label)) });
                }
                Expect::Ping { label, muted } => {
                    let (label, muted) = (*label, *muted);
                    self.expected.pop();
                    if failed {
                        self.note_failure(label, frame, buf);
                    } else if !muted && let Some(rewrite) = self.pong(frame, buf) {
                        return Ok(fate_of(rewrite));
                    }
                    return Ok(if muted { Fate::Swallow } else { Fate::Pass(Some(label)) });
                }
                Expect::ClientAuth { label } => {
                    let label = *label;
                    self.expected.pop();
                    self.let_in(!failed, frame.error_code(buf) == Some(b"WRONGPASS"));
                    if failed {
                        self.note_failure(label, frame, buf);
                    }
                    return Ok(Fate::Pass(Some(label)));
                }
                Expect::Hello { label, muted, lets_in } => {
                    let (label, muted, lets_in) = (*label, *muted, *lets_in);
                    self.expected.pop();
                    if failed {
                        self.note_failure(label, frame, buf);
                    } else {
                        self.resp3 = frame.marker == b'%';
                    }
                    if lets_in {
                        self.let_in(!failed, frame.error_code(buf) == Some(b"WRONGPASS"));
                    }
                    return Ok(if muted { Fate::Swallow } else { Fate::Pass(Some(label)) });
                }
            }
        }
    }

    /// The server may say why it closes; anything else that nobody asked for means that the count is lost,
    /// and then nothing more may pass.
    fn unasked(&mut self, frame: &Frame, word: Option<&[u8]>) -> Result<Fate, End> {
        if frame.kind == Kind::Error {
            self.finishing = Some(End::ServerClosed);
            return Ok(Fate::Pass(None));
        }
        if word.is_some_and(is_subscriber_message) {
            return Ok(Fate::Pass(None));
        }
        Err(count_lost("the cache sent a reply that nobody asked for"))
    }

    /// What the cache said to the client's own AUTH.
    fn let_in(&mut self, ok: bool, wrong: bool) {
        if let Standing::PassThrough { admitted, tries } = &mut self.standing {
            *admitted |= ok;
            if wrong {
                tries.wrong();
            }
        }
        self.refresh_open();
        self.release();
    }

    fn note_failure(&mut self, label: Label, frame: &Frame, buf: &[u8]) {
        let code = String::from_utf8_lossy(frame.error_code(buf).unwrap_or(b"ERR"));
        let text = String::from_utf8_lossy(frame.text(buf).unwrap_or_default());
        self.journal.failed(label, &code, &redact::error(CommandId::new(label), &text));
    }

    /// Counts a confirmation of a subscription: whether it changed anything shows in the total behind it.
    fn acknowledge(&mut self, word: &[u8], frame: &Frame, buf: &[u8]) -> Result<(), End> {
        let (topic, adds) = match word {
            b"subscribe" => (Topic::Channel, true),
            b"unsubscribe" => (Topic::Channel, false),
            b"psubscribe" => (Topic::Pattern, true),
            b"punsubscribe" => (Topic::Pattern, false),
            b"ssubscribe" => (Topic::Shard, true),
            b"sunsubscribe" => (Topic::Shard, false),
            _ => return Ok(()),
        };
        let [channels, patterns, shards] = self.subscribed;
        let before = if topic == Topic::Shard { shards } else { channels.saturating_add(patterns) };
        let after = last_integer(buf.get(..frame.len).unwrap_or_default())
            .ok_or_else(|| count_lost("the cache confirmed a subscription without a total"))?;
        if let Some(count) = self.subscribed.get_mut(place(topic)) {
            match (adds, after == before) {
                (_, true) => {}
                (true, false) => *count = count.saturating_add(1),
                (false, false) => *count = count.saturating_sub(1),
            }
        }
        let left_of_topic = self.subscribed.get(place(topic)).copied().unwrap_or(0);
        if let Some(Expect::Acks { topic: awaited, left, .. }) = self.expected.front()
            && *awaited == topic
        {
            let done = match left {
                Some(left) => {
                    *left = left.saturating_sub(1);
                    *left == 0
                }
                None => left_of_topic == 0,
            };
            if done {
                self.expected.pop();
            }
        }
        Ok(())
    }
}

/// Turns the push that begins there into an array.
fn as_array(buf: &mut [u8], at: usize) {
    if let Some(marker @ b'>') = buf.get_mut(at) {
        *marker = b'*';
    }
}

fn fate_of(rewrite: Rewrite) -> Fate {
    match rewrite {
        Rewrite::Array => Fate::AsArray,
        Rewrite::Front(skip, front) => Fate::Front(skip, front),
        Rewrite::Whole(bytes) => Fate::Replace(bytes.into_boxed_slice()),
        Rewrite::Drop => Fate::Swallow,
    }
}

/// Requests and replies no longer fit together, so nothing more may pass.
fn count_lost(text: &str) -> End {
    End::ServerMalformed(text.to_owned())
}

/// The `:N` that ends a confirmation.
fn last_integer(frame: &[u8]) -> Option<u32> {
    let line = frame.strip_suffix(b"\r\n")?;
    let at = line.iter().rposition(|byte| *byte == b':')?;
    std::str::from_utf8(line.get(at + 1..)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_total_ends_a_confirmation() {
        assert_eq!(super::last_integer(b"*3\r\n$9\r\nsubscribe\r\n$1\r\n:\r\n:12\r\n"), Some(12));
        assert_eq!(super::last_integer(b"+OK\r\n"), None);
    }
}
