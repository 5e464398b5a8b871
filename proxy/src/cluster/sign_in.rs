//! A fresh sign-in on the live connections: fetch a password, wait until nothing is owed, send AUTH to every node,
//! look at each answer.

use std::task::{Context, Poll};

use keystile_resp::reply::Kind;
use secrecy::SecretString;

use super::ClusterSession;
use super::control::auth;
use super::link::Own;
use crate::session::renewal::{self, KEEP_PASSWORD_MS, Renewal};
use crate::session::{End, Standing};

impl ClusterSession {
    /// One is due; in a hurry nothing more is taken on before it where it could go.
    pub(super) fn sign_in_is_due(&mut self, hurry: bool) {
        if matches!(self.renewal, Renewal::Idle) && matches!(self.standing, Standing::Ours(_)) {
            self.renewal = Renewal::Due;
        }
        self.hurry |= hurry;
    }

    /// Nothing is left to sign in.
    pub(super) fn forget_sign_in(&mut self) {
        self.renewal = Renewal::Idle;
        self.hurry = false;
        self.last_failure = None;
    }

    /// Whether requests wait for it. Inside a transaction or a long request the client has to be read on, or their
    /// end would never come.
    pub(super) fn waits_for_sign_in(&mut self) -> bool {
        match self.renewal {
            Renewal::Idle => false,
            Renewal::Sent => true,
            Renewal::Due | Renewal::Fetching(_) | Renewal::Ready(..) => self.hurry && self.is_boundary(),
        }
    }

    /// Goes as far as it can. True where AUTH was sent.
    pub(super) fn poll_sign_in(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        loop {
            match &mut self.renewal {
                Renewal::Idle => return Ok(false),
                // The links that were asked may be lost by now.
                Renewal::Sent => return Ok(self.look_at_answers()),
                Renewal::Due => match &self.standing {
                    Standing::Ours(sign_in) => self.renewal = Renewal::Fetching(sign_in.password()),
                    _ => self.forget_sign_in(),
                },
                Renewal::Fetching(fetching) => {
                    let Poll::Ready(fetched) = fetching.as_mut().poll(cx) else { return Ok(false) };
                    match fetched {
                        Ok(Some(password)) => self.renewal = Renewal::Ready(password, self.clock.now()),
                        Ok(None) => self.forget_sign_in(),
                        Err(error) => self.sign_in_failed(error),
                    }
                }
                Renewal::Ready(_, since) => {
                    if self.clock.now() - *since > KEEP_PASSWORD_MS {
                        self.renewal = Renewal::Due;
                    } else if self.may_sign_in() {
                        if let Renewal::Ready(password, _) =
                            std::mem::replace(&mut self.renewal, Renewal::Sent)
                        {
                            self.send_auth(&password);
                        }
                        return Ok(true);
                    } else {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// An AUTH goes alone: nothing is owed in front of it on any link, and until its answers are in nothing
    /// follows. Valkey 8.0.1 leaves out the answer to a wrong AUTH that comes behind other commands in one read,
    /// and then every reply behind it would be taken for that of the command before.
    fn may_sign_in(&mut self) -> bool {
        self.is_boundary() && self.order.is_empty() && self.streaming.is_none() && !self.owes_anything()
    }

    /// Whether a node owes an answer, be it to a question of ours.
    pub(super) fn owes_anything(&mut self) -> bool {
        self.links.find(|link| link.is_up() && link.owes()).is_some()
    }

    /// Whether the nodes take an AUTH once everything before is answered: in a transaction it is refused, it would
    /// be answered oddly to a RESP2 subscriber, and its place must be between two requests. What is watched stays
    /// so; it is left in peace as long as there is time.
    fn is_boundary(&mut self) -> bool {
        !self.in_transaction()
            && (!self.is_watching() || self.hurry)
            && self.may_auth_beside_subscriptions()
            && self.streaming_request.is_none()
            && self.finishing.is_none()
    }

    /// To each link; those that are being dialled have a fresh token.
    fn send_auth(&mut self, password: &SecretString) {
        let request = auth(&self.journal.facts().about().db_user, password);
        for (_, link) in self.links.iter_mut() {
            if link.is_up() {
                link.ask(&request, Own::SignIn);
            }
        }
    }

    /// A node's answer to an AUTH of ours.
    pub(super) fn signed_in(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), End> {
        if kind == Kind::Error {
            let text = String::from_utf8_lossy(bytes.get(1..).unwrap_or_default()).trim_end().to_owned();
            self.sign_in_failed(text);
            return Ok(());
        }
        if bytes != b"+OK\r\n" {
            // Of another command: replies and requests no longer fit together.
            return Err(End::ServerMalformed("a node of the cache did not answer an AUTH".to_owned()));
        }
        self.metrics.sign_ins_again.add(1);
        Ok(())
    }

    /// True where the last answer is in.
    fn look_at_answers(&mut self) -> bool {
        if self.links.find(|link| link.is_asked(Own::SignIn)).is_some() {
            return false;
        }
        self.forget_sign_in();
        self.handle.signed_in(self.clock.now());
        true
    }

    /// A live session tries again until its life is over: AWS answers throttling with WRONGPASS too.
    fn sign_in_failed(&mut self, text: String) {
        self.renewal = Renewal::Idle;
        self.metrics.sign_ins_again_failed.add(1);
        renewal::tell_failure(self.journal.facts().sid(), &text);
        self.handle.sign_in_failed(self.clock.now());
        self.last_failure = Some(text.into_boxed_str());
    }

    /// Why an IAM life could not be renewed in time, for the client.
    pub(super) fn why_not_signed_in(&mut self) -> String {
        if self.in_transaction() {
            return "a transaction was open all the while (MULTI without EXEC)".to_owned();
        }
        if self.streaming_request.is_some() {
            return "a request was on its way all the while".to_owned();
        }
        if !self.may_auth_beside_subscriptions() {
            return "a RESP2 subscriber may not sign in: use RESP3".to_owned();
        }
        match &self.last_failure {
            Some(text) => format!("the last try failed ({text})"),
            None if matches!(self.renewal, Renewal::Sent) => "a node of the cache did not answer".to_owned(),
            None if !self.order.is_empty() => "a call that blocks was in front of it".to_owned(),
            None => "there was no time for it".to_owned(),
        }
    }
}
