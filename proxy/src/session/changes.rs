//! Requests that change how the session speaks, or who it is: `CLIENT REPLY`, `RESET`, `AUTH`, `HELLO`, `MULTI`.

use std::borrow::Cow;

use super::auth_local::Answer;
use super::expected::{Expect, Label};
use super::renewal::Renewal;
use super::requests::Verdict;
use super::special::c_string;
use super::{End, Hold, Replying, Session, Standing};

impl Session {
    /// `CLIENT REPLY` is kept here: the server answers always and what the client does not want is
    /// swallowed, so that no reply is ever counted wrong.
    pub(super) fn client_reply(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        let mode = match args {
            [_, _, mode] => c_string(mode).to_ascii_uppercase(),
            _ => Vec::new(),
        };
        match mode.as_slice() {
            b"ON" => {
                self.replying = Replying::On;
                return self.answered(b"+OK\r\n".to_vec(), false);
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
    pub(super) fn reset(&mut self, label: Label) -> Result<Verdict, End> {
        // After OFF it is answered, after SKIP it is not.
        let muted = self.replying == Replying::Skip;
        let (in_multi, watching, admitted) = (self.in_multi, self.watching, self.is_admitted());
        self.replying = Replying::On;
        self.change_multi(false);
        self.watching = false;
        self.lift.asked = false;
        let change = self.changes;
        self.expected.push(Expect::Reset { label, muted, change, in_multi, watching, admitted });
        match &mut self.standing {
            Standing::Ours(_) => {
                self.hold = Hold::UntilLetIn;
                if matches!(self.renewal, Renewal::Idle | Renewal::Sent) {
                    self.renewal = Renewal::Due;
                }
            }
            Standing::PassThrough { admitted, .. } => *admitted = false,
            Standing::Open => {}
        }
        self.refresh_open();
        Ok(Verdict::Pass)
    }

    /// The server does not know `RESET`, and has changed nothing: nor have we. What was said to the client since
    /// then, where it was not held, stays said.
    pub(super) fn not_reset(&mut self, change: u32, in_multi: bool, watching: bool, admitted: bool) {
        if self.changes == change {
            self.in_multi = in_multi;
            self.watching |= watching;
        }
        self.lift.asked = self.lift.spoken;
        if let Standing::PassThrough { admitted: is, .. } = &mut self.standing {
            *is |= admitted;
        }
        // In pass-through it is a sign-in of the client's own that is waited for.
        if self.hold == Hold::UntilLetIn && matches!(self.standing, Standing::Ours(_)) {
            // It is who it was. A sign-in that was due for its age is due again at the next look.
            self.renewal = Renewal::Idle;
            self.release();
        }
        self.refresh_open();
    }

    pub(super) fn change_multi(&mut self, begins: bool) {
        self.in_multi = begins;
        self.changes = self.changes.wrapping_add(1);
    }

    /// What was sent as this change began no transaction.
    pub(super) fn no_multi(&mut self, change: u32) {
        if self.changes == change {
            self.in_multi = false;
            self.hold_for_sign_in();
        }
    }

    /// Looks whether common commands may pass without a closer look.
    pub(super) fn refresh_open(&mut self) {
        self.open = self.is_admitted() && !self.lift.asked;
    }

    pub(super) fn is_admitted(&self) -> bool {
        !matches!(self.standing, Standing::PassThrough { admitted: false, .. })
    }

    #[inline]
    pub(super) fn take_muted(&mut self) -> bool {
        self.replying.take_muted()
    }

    pub(super) fn client_auth(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        match self.local_auth(args) {
            Answer::Local(bytes) => self.answered(bytes, muted),
            Answer::Forward(bytes) => {
                self.expected.push(Expect::ClientAuth { label });
                self.hold = Hold::UntilLetIn;
                Ok(Verdict::Send(bytes))
            }
        }
    }

    pub(super) fn client_hello(&mut self, label: Label, args: &[Cow<'_, [u8]>]) -> Result<Verdict, End> {
        let muted = self.take_muted();
        match self.local_hello(args) {
            Err(bytes) => self.answered(bytes, muted),
            Ok((bytes, lets_in)) => {
                self.expected.push(Expect::Hello { label, muted, lets_in });
                if lets_in {
                    self.hold = Hold::UntilLetIn;
                }
                Ok(Verdict::Send(bytes))
            }
        }
    }
}
