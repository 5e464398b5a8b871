//! What the session does beside passing commands: the map, signing in, and what changes how it speaks.

use std::borrow::Cow;

use keystile_resp::encode::{self, Protocol};
use keystile_resp::reply::Kind;
use secrecy::{ExposeSecret, SecretString};

use super::ClusterSession;
use super::answers::OneNode;
use super::link::{LinkId, Own, Purpose};
use super::order::{Meaning, NO_SLOT};
use super::plan::Local;
use super::requests::{Incoming, Taken};
use super::settings::Setting;
use super::slots::SlotMap;
use crate::session::auth_local::check_user;
use crate::session::auth_request;
use crate::session::special::c_string;
use crate::session::{End, Replying, Standing};

/// The map.
impl ClusterSession {
    /// The session begins: what the map says, if nobody has asked a node yet, it asks itself.
    pub(super) fn ask_for_map_at_start(&mut self) {
        if !self.is_admitted() {
            return;
        }
        if !self.shared_map.is_told() {
            self.waits_for_map = self.ask_for_map();
        } else {
            self.ask_for_map_on_schedule();
        }
    }

    /// Of all sessions one asks when it is time.
    pub(super) fn ask_for_map_on_schedule(&mut self) {
        if self.may_ask_slots && self.shared_map.is_stale() && self.is_admitted() && self.shared_map.claim() {
            self.ask_for_map();
        }
    }

    fn ask_for_map(&mut self) -> bool {
        let home = self.home.filter(|home| self.links.get(*home).is_some_and(|link| link.is_up()));
        let up = home.or_else(|| self.links.find(|link| link.is_up()));
        up.is_some_and(|id| self.ask_slots_on(id))
    }

    fn ask_slots_on(&mut self, id: LinkId) -> bool {
        if self.pins(id) {
            // Inside a transaction it would be queued.
            return false;
        }
        let Some(link) = self.links.get(id) else { return false };
        if !link.is_asked(Own::Slots) {
            let mut question = Vec::new();
            encode::request(&mut question, &["CLUSTER", "SLOTS"]);
            link.ask(&question, Own::Slots);
        }
        true
    }

    /// While a node is out of reach another one is asked, again and again.
    pub(super) fn ask_for_map_in_trouble(&mut self) {
        self.turn = self.turn.wrapping_add(1);
        if !self.may_ask_slots || !self.shared_map.claim() || self.ask_for_map() {
            return;
        }
        let nodes = self.map.nodes().count();
        let node = match self.turn.checked_rem(nodes + 1) {
            Some(place) if place < nodes => self.map.nodes().nth(place).cloned(),
            _ => None,
        };
        let node = node.unwrap_or_else(|| self.database.endpoint.clone());
        if let Some(id) = self.link_of(&node, Purpose::Main) {
            self.ask_slots_on(id);
        }
    }

    /// A node has answered.
    pub(super) fn map_came(&mut self, id: LinkId, kind: Kind, bytes: &[u8]) {
        self.waits_for_map = false;
        if kind == Kind::Error {
            // The db user may not ask, or the server is no cluster: what others learned has to do.
            self.may_ask_slots = bytes.starts_with(b"-LOADING") || bytes.starts_with(b"-CLUSTERDOWN");
            return;
        }
        let Some(link) = self.links.get(id) else { return };
        match SlotMap::from_cluster_slots(bytes, &link.node) {
            Some(map) => {
                #[expect(clippy::cast_precision_loss, reason = "a number below 256")]
                let jitter = (self.turn % 256) as f64 / 255.0;
                self.shared_map.learn(map, jitter);
                self.follow_map();
            }
            None => tracing::debug!("a node of a cluster gave a slot map that says nothing"),
        }
    }
}

/// New links.
impl ClusterSession {
    /// A new link did not take what the session has set: it is no use.
    pub(super) fn unwilling(&mut self, id: LinkId, bytes: &[u8]) -> Result<(), End> {
        let text = String::from_utf8_lossy(bytes.get(1..).unwrap_or_default()).trim_end().to_owned();
        tracing::debug!(text, "a node of a cluster refused to be set up");
        self.lose(id)
    }
}

/// What changes how the session speaks.
impl ClusterSession {
    pub(super) fn client_auth(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let checked = auth_request::auth(args)
            .map_err(|text| error("ERR", &text))
            .and_then(|credentials| check_user(self.journal.facts(), &credentials));
        let checked = checked.and_then(|()| self.may_try(true));
        let (Standing::PassThrough { .. }, Ok(()), Some(password)) = (&self.standing, &checked, args.last())
        else {
            self.note(incoming);
            let muted = self.take_muted();
            self.answer(incoming.label(), checked.err().unwrap_or_else(|| b"+OK\r\n".to_vec()), muted);
            return Ok(Taken::Yes);
        };
        // It goes alone, here and to the other links, like every AUTH.
        if !self.order.is_empty() || self.owes_anything() {
            return Ok(Taken::No);
        }
        let password = secret(password);
        let db_user = &self.journal.facts().about().db_user;
        let mut request = auth(db_user, &password);
        if let ([name, bare], "default") = (args, db_user.as_str()) {
            // Servers before version 6 know no other form.
            request.clear();
            encode::request(&mut request, &[name, bare]);
        }
        self.ask_for_the_client(incoming, &request, Meaning::ClientAuth);
        self.offered = (Some(password), None);
        Ok(Taken::Yes)
    }

    pub(super) fn client_hello(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let hello = auth_request::hello_in_session(args).map_err(|text| error("ERR", &text));
        let checked = hello.and_then(|hello| match hello.credentials() {
            Some(credentials) => {
                check_user(self.journal.facts(), &credentials)?;
                self.may_try(hello.auth.is_some()).map(|()| hello)
            }
            None => Ok(hello),
        });
        let hello = match checked {
            Ok(hello) => hello,
            Err(bytes) => {
                self.note(incoming);
                let muted = self.take_muted();
                self.answer(incoming.label(), bytes, muted);
                return Ok(Taken::Yes);
            }
        };
        if !self.order.is_empty() || (hello.auth.is_some() && self.owes_anything()) {
            return Ok(Taken::No);
        }
        let passes_through = matches!(self.standing, Standing::PassThrough { .. });
        let lets_in = passes_through && hello.auth.is_some();
        let db_user = self.journal.facts().about().db_user.clone();
        let request = match &hello.auth {
            Some((_, password)) if lets_in => hello.request(Some((&db_user, password))),
            _ => hello.request(None),
        };
        self.ask_for_the_client(incoming, &request, Meaning::Hello { lets_in });
        let password = hello.auth.filter(|_| lets_in).map(|(_, password)| secret(&password));
        self.offered = (password, hello.name);
        Ok(Taken::Yes)
    }

    /// Whether another password of the client's own may be tried.
    fn may_try(&self, has_password: bool) -> Result<(), Vec<u8>> {
        match &self.standing {
            Standing::PassThrough { tries, .. } if has_password => {
                tries.may_try().map_err(|text| error("ERR keystile:", &text))
            }
            _ => Ok(()),
        }
    }

    /// Asks the home node in place of the client; nothing else is taken on before it has answered.
    pub(super) fn ask_for_the_client(&mut self, incoming: &Incoming<'_>, request: &[u8], meaning: Meaning) {
        self.note(incoming);
        let Some(id) = self.home_link() else {
            let muted = self.take_muted();
            self.answer(incoming.label(), super::requests::NOBODY.to_vec(), muted);
            return;
        };
        let mut entry = super::order::Entry::new(super::order::Awaiting::Link(id), incoming.label(), false);
        entry.muted = self.take_muted();
        entry.meaning = meaning;
        entry.slot = NO_SLOT;
        let number = self.order.next();
        if let Some(link) = self.links.get(id) {
            link.send(request, number, 0);
        }
        self.order.push(entry, &[]);
        self.hold = true;
    }

    /// HELLO was answered: with a map (`%`), an array, or an error.
    pub(super) fn hello_answered(&mut self, id: LinkId, marker: Option<u8>, lets_in: bool, wrong: bool) {
        let (password, name) = std::mem::take(&mut self.offered);
        self.hold = false;
        if let Some(marker) = marker {
            if lets_in {
                self.settings.password = password;
            }
            let resp3 = marker == b'%';
            let mut others = Vec::new();
            if resp3 != self.settings.resp3 {
                encode::request(&mut others, &["HELLO", if resp3 { "3" } else { "2" }]);
                self.mirror(id, &others);
            }
            self.settings.resp3 = resp3;
            if let Some(name) = name {
                let setting = Setting::name(&name);
                self.mirror(id, setting.request());
                self.settings.keep(setting);
            }
        }
        if lets_in {
            self.admit(marker.is_some(), wrong);
        }
    }

    /// The cache's answer to the client's own AUTH.
    pub(super) fn let_in(&mut self, id: LinkId, ok: bool, wrong: bool) {
        let (password, _) = std::mem::take(&mut self.offered);
        self.hold = false;
        if let (true, Some(password)) = (ok, password) {
            let request = auth(&self.journal.facts().about().db_user, &password);
            self.mirror(id, &request);
            self.settings.password = Some(password);
        }
        self.admit(ok, wrong);
    }

    fn admit(&mut self, ok: bool, wrong: bool) {
        let Standing::PassThrough { admitted, tries } = &mut self.standing else { return };
        if wrong {
            tries.wrong();
        }
        let first = ok && !*admitted;
        *admitted |= ok;
        if first {
            self.ask_for_map_at_start();
        }
    }

    /// Sends the same to every other link that is up.
    pub(super) fn mirror(&mut self, but: LinkId, request: &[u8]) {
        for (id, link) in self.links.iter_mut() {
            if id != but && link.is_usable() {
                link.ask(request, Own::Needed);
            }
        }
    }

    /// `CLIENT REPLY` is kept here: the nodes answer always and what the client does not want is swallowed.
    pub(super) fn client_reply(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let mode = match args {
            [_, _, mode] => c_string(mode).to_ascii_uppercase(),
            _ => Vec::new(),
        };
        if !self.may_send(None) {
            return Ok(Taken::No);
        }
        match mode.as_slice() {
            b"ON" => {
                self.replying = Replying::On;
                self.answer(incoming.label(), b"+OK\r\n".to_vec(), false);
            }
            b"OFF" => self.replying = Replying::Off,
            b"SKIP" => {
                self.take_muted();
                if self.replying == Replying::On {
                    self.replying = Replying::Skip;
                }
            }
            // A server says what is wrong with it, and changes nothing.
            _ => return self.send_home(incoming),
        }
        self.note(incoming);
        Ok(Taken::Yes)
    }

    /// `RESET` makes a connection the default user's. So no node is told: once all is answered it is answered
    /// here and every link is closed. A new one is signed in before anything is sent on it.
    pub(super) fn reset(&mut self, incoming: &Incoming<'_>) -> Result<Taken, End> {
        if !self.order.is_empty() || self.streaming.is_some() {
            return Ok(Taken::No);
        }
        for id in self.links.ids() {
            self.links.remove(id);
        }
        self.home = None;
        self.by_place.clear();
        // What they were asked is answered by nobody.
        self.waits_for_map = false;
        self.whence = super::killed::Whence::default();
        self.barrier = None;
        self.forget_transaction();
        self.forget_subscriptions();
        // After OFF it is answered, after SKIP it is not.
        let muted = self.replying == Replying::Skip;
        self.replying = Replying::On;
        self.readonly = false;
        self.settings.reset();
        self.settings.password = None;
        self.caching = None;
        match &mut self.standing {
            Standing::Ours(_) => {
                self.forget_sign_in();
                self.handle.signed_in(self.clock.now());
            }
            Standing::PassThrough { admitted, .. } => *admitted = false,
            Standing::Open => {}
        }
        self.note(incoming);
        self.answer(incoming.label(), b"+RESET\r\n".to_vec(), muted);
        Ok(Taken::Yes)
    }

    /// `READONLY`, `READWRITE` and what else is the session's own.
    pub(super) fn take_of_session(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
    ) -> Result<Taken, End> {
        let name = incoming.id.map_or("", |id| id.command().name);
        match name {
            "readonly" | "readwrite" if args.len() == 1 => {
                if !self.may_send(None) {
                    return Ok(Taken::No);
                }
                self.readonly = name == "readonly";
                self.note(incoming);
                let muted = self.take_muted();
                self.answer(incoming.label(), b"+OK\r\n".to_vec(), muted);
                Ok(Taken::Yes)
            }
            "caching" if self.settings.tracks() && args.len() == 3 && is_yes_or_no(args) => {
                if !self.may_send(None) {
                    return Ok(Taken::No);
                }
                self.caching = Some(Box::from(incoming.bytes()));
                self.answer_here(incoming, b"+OK\r\n");
                Ok(Taken::Yes)
            }
            _ => self.send_home(incoming),
        }
    }

    /// What is answered here.
    pub(super) fn take_local(
        &mut self,
        incoming: &Incoming<'_>,
        args: &[Cow<'_, [u8]>],
        local: Local,
    ) -> Result<Taken, End> {
        let protocol = if self.settings.resp3 { Protocol::Resp3 } else { Protocol::Resp2 };
        let words = self.node.answer(local, args, protocol);
        self.answer_here(incoming, &words);
        Ok(Taken::Yes)
    }

    /// `KEYSTILE ADDRESS host port`: where the client believes that it is connected to, from the tunnel that it
    /// uses.
    pub(super) fn told_address(&mut self, incoming: &Incoming<'_>) -> Option<Result<Taken, End>> {
        let told = crate::session::address::told(incoming.id, incoming.request, incoming.buf)?;
        match told {
            Ok(address) => {
                self.node = OneNode::new(&self.deployment, self.database.name.as_str(), address);
                self.answer_here(incoming, b"+OK\r\n");
            }
            Err(words) => self.answer_here(incoming, &words),
        }
        Some(Ok(Taken::Yes))
    }
}

fn is_yes_or_no(args: &[Cow<'_, [u8]>]) -> bool {
    args.get(2).is_some_and(|word| word.eq_ignore_ascii_case(b"yes") || word.eq_ignore_ascii_case(b"no"))
}

pub(super) fn auth(db_user: &str, password: &SecretString) -> Vec<u8> {
    let mut request = Vec::new();
    encode::request(&mut request, &[b"AUTH", db_user.as_bytes(), password.expose_secret().as_bytes()]);
    request
}

fn secret(password: &[u8]) -> SecretString {
    // A password that is no text is none that a cache takes.
    SecretString::from(String::from_utf8_lossy(password).into_owned())
}

pub(super) fn error(code: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, code, text);
    out
}
