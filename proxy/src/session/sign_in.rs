//! A fresh sign-in on a live connection: fetch a password, wait for a boundary, send AUTH, look at its answer.

use std::task::{Context, Poll};

use keystile_resp::encode;
use keystile_resp::reply::{Frame, Kind};
use secrecy::{ExposeSecret as _, SecretString};

use super::expected::Expect;
use super::renewal::{self, KEEP_PASSWORD_MS, Renewal};
use super::{End, Hold, Session, Standing};

impl Session {
    /// Goes as far as it can. True where AUTH was sent.
    pub(super) fn poll_sign_in(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            match &mut self.renewal {
                Renewal::Idle | Renewal::Sent => return Ok(false),
                Renewal::Due => match &self.standing {
                    Standing::Ours(sign_in) => self.renewal = Renewal::Fetching(sign_in.password()),
                    _ => self.renewal = Renewal::Idle,
                },
                Renewal::Fetching(fetching) => {
                    let Poll::Ready(fetched) = fetching.as_mut().poll(cx) else { return Ok(false) };
                    match fetched {
                        Ok(Some(password)) => self.renewal = Renewal::Ready(password, self.clock.now()),
                        Ok(None) => {
                            self.renewal = Renewal::Idle;
                            self.release();
                        }
                        Err(error) => self.sign_in_failed(error)?,
                    }
                }
                Renewal::Ready(_, since) => {
                    if self.clock.now() - *since > KEEP_PASSWORD_MS {
                        self.renewal = Renewal::Due;
                    } else if self.may_sign_in() {
                        if let Renewal::Ready(password, _) =
                            std::mem::replace(&mut self.renewal, Renewal::Sent)
                        {
                            self.send_auth(&password)?;
                        }
                        return Ok(true);
                    } else {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Whether an AUTH may be sent now. It goes alone: nothing is owed in front of it, and until its answer is in
    /// nothing follows. Valkey 8.0.1 leaves out the answer to a wrong AUTH that comes behind other commands in
    /// one read, and then every reply behind it would be taken for that of the command before.
    fn may_sign_in(&self) -> bool {
        self.is_boundary() && self.is_settled()
    }

    /// Whether the cache takes an AUTH once everything before is answered: in a transaction it refuses it, a RESP2
    /// subscriber may not send it, and its place in the stream must be between two requests. What is watched
    /// stays so; it is left in peace as long as there is time.
    fn is_boundary(&self) -> bool {
        let speaks_resp3 = self.lift.asked || (self.resp3 && self.expected.hellos() == 0);
        !self.in_multi
            && (!self.watching || self.hurry)
            && self.streaming_request.is_none()
            && (speaks_resp3 || !self.may_subscribe())
            && self.finishing.is_none()
    }

    /// In a hurry nothing more is taken on where an AUTH could go once all before is answered. Called where a
    /// transaction or a long request has ended, too: that is such a place.
    pub(super) fn hold_for_sign_in(&mut self) {
        if self.hold == Hold::No && self.must_wait_for_sign_in() {
            self.hold = Hold::UntilSent;
        }
    }

    /// Looks whether what was held for is there, or will not come.
    pub(super) fn look_at_hold(&mut self) {
        let over = match self.hold {
            Hold::UntilAnswered => self.is_settled(),
            Hold::UntilSent => !self.must_wait_for_sign_in(),
            Hold::No | Hold::UntilLetIn | Hold::UntilSignedIn => false,
        };
        if over {
            self.release();
        }
        self.hold_for_sign_in();
    }

    /// Inside a transaction or a request the client has to be read on, or their end would never come.
    fn must_wait_for_sign_in(&self) -> bool {
        self.hurry
            && matches!(self.renewal, Renewal::Due | Renewal::Fetching(_) | Renewal::Ready(..))
            && self.is_boundary()
    }

    /// Requests go on.
    pub(super) fn release(&mut self) {
        self.hold = Hold::No;
        self.rescan = !self.client_held.is_empty();
    }

    /// Sends our AUTH, and nothing behind it before it is answered; the answer is swallowed.
    fn send_auth(&mut self, password: &SecretString) -> Result<(), End> {
        let mut request = Vec::new();
        encode::request(
            &mut request,
            &[b"AUTH", self.db_user().as_bytes(), password.expose_secret().as_bytes()],
        );
        let lets_in = self.hold == Hold::UntilLetIn;
        self.expected.push(Expect::OurAuth { lets_in });
        if !lets_in {
            self.hold = Hold::UntilSignedIn;
        }
        self.server.write(&request).map_err(|_| End::ServerClosed)
    }

    /// The cache's answer to an AUTH of ours.
    pub(super) fn our_auth(&mut self, lets_in: bool, frame: &Frame, buf: &[u8]) -> Result<(), End> {
        if frame.kind == Kind::Error {
            let text = String::from_utf8_lossy(frame.text(buf).unwrap_or_default()).into_owned();
            if lets_in {
                return Err(shut_out(&text));
            }
            return self.sign_in_failed(text);
        }
        if frame.marker != b'+' || frame.text(buf) != Some(b"OK") {
            // Of another command: replies and requests no longer fit together.
            return Err(End::ServerMalformed("the cache did not answer an AUTH".to_owned()));
        }
        if matches!(self.renewal, Renewal::Sent) {
            self.renewal = Renewal::Idle;
            self.hurry = false;
        }
        self.last_failure = None;
        self.metrics.sign_ins_again.add(1);
        self.handle.signed_in(self.clock.now());
        self.release();
        Ok(())
    }

    /// A live session tries again until its life is over: AWS answers throttling with WRONGPASS too. One that a
    /// RESET has made the default user's has nothing to go on with.
    fn sign_in_failed(&mut self, text: String) -> Result<(), End> {
        if self.hold == Hold::UntilLetIn {
            return Err(shut_out(&text));
        }
        self.renewal = Renewal::Idle;
        self.metrics.sign_ins_again_failed.add(1);
        renewal::tell_failure(self.journal.facts().sid(), &text);
        self.handle.sign_in_failed(self.clock.now());
        self.last_failure = Some(text.into_boxed_str());
        if matches!(self.hold, Hold::UntilSent | Hold::UntilSignedIn) {
            self.release();
        }
        Ok(())
    }

    /// Why an IAM life could not be renewed in time, for the client.
    pub(super) fn why_not_signed_in(&self) -> String {
        if self.in_multi {
            return "a transaction was open all the while (MULTI without EXEC)".to_owned();
        }
        if self.streaming_request.is_some() {
            return "a request was on its way all the while".to_owned();
        }
        if self.may_subscribe() && !self.resp3 {
            return "a RESP2 subscriber may not sign in: use RESP3".to_owned();
        }
        match &self.last_failure {
            Some(text) => format!("the last try failed ({text})"),
            None if matches!(self.renewal, Renewal::Sent) => "the cache did not answer".to_owned(),
            None if !self.is_settled() => "a call that blocks was in front of it".to_owned(),
            None => "there was no time for it".to_owned(),
        }
    }
}

fn shut_out(text: &str) -> End {
    End::SignIn(format!("the cache did not let this session in again ({text}): connect again"))
}
