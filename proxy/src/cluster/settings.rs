//! What a client set on its connection, so that each new connection to a node is given the same.

use keystile_resp::command::CommandId;
use keystile_resp::encode;
use secrecy::{ExposeSecret, SecretString};

/// What a setting is about: a later one of the same takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Name,
    Library,
    Version,
    Eviction,
    Touch,
    Capabilities,
    Tracking,
    Import,
    Database,
    Other,
}

/// The database of a new connection.
const FIRST_DATABASE: &[u8] = b"0";

/// One command that sets something of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    about: About,
    /// Whether it only takes the earlier one back.
    back: bool,
    request: Box<[u8]>,
}

impl Setting {
    /// A `CLIENT …` or `SELECT` of the client's, its arguments the names included.
    pub(super) fn new<A: AsRef<[u8]>>(id: CommandId, args: &[A]) -> Self {
        let mut request = Vec::new();
        encode::request(&mut request, args);
        let word = |index: usize| args.get(index).map(AsRef::as_ref).unwrap_or_default().to_ascii_lowercase();
        let (about, back) = match id.command().name {
            "setname" => (About::Name, word(2).is_empty()),
            "setinfo" if word(2) == b"lib-name" => (About::Library, word(3).is_empty()),
            "setinfo" => (About::Version, word(3).is_empty()),
            "no-evict" => (About::Eviction, word(2) == b"off"),
            "no-touch" => (About::Touch, word(2) == b"off"),
            "capa" => (About::Capabilities, false),
            "tracking" => (About::Tracking, word(2) == b"off"),
            "import-source" => (About::Import, word(2) == b"off"),
            "select" => (About::Database, word(1) == FIRST_DATABASE),
            _ => (About::Other, true),
        };
        Self { about, back, request: request.into_boxed_slice() }
    }

    /// The name that `HELLO … SETNAME` sets.
    pub(super) fn name(name: &[u8]) -> Self {
        let mut request = Vec::new();
        encode::request(&mut request, &[b"CLIENT".as_slice(), b"SETNAME", name]);
        Self { about: About::Name, back: name.is_empty(), request: request.into_boxed_slice() }
    }

    /// The command.
    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }
}

/// All that is set.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Whether the client speaks RESP3.
    pub(super) resp3: bool,
    list: Vec<Setting>,
    /// The client's own password, where the cache took it.
    pub(super) password: Option<SecretString>,
}

impl Settings {
    /// The cache took a setting.
    pub(super) fn keep(&mut self, setting: Setting) {
        self.list.retain(|known| known.about != setting.about);
        if !setting.back {
            self.list.push(setting);
        }
    }

    /// Whether invalidations are sent to this client.
    pub(super) fn tracks(&self) -> bool {
        self.list.iter().any(|setting| setting.about == About::Tracking)
    }

    /// Whether this is the database that is selected, as the client spelled it.
    pub(super) fn is_in_database(&self, index: &[u8]) -> bool {
        let mut request = Vec::new();
        encode::request(&mut request, &[b"SELECT", index]);
        match self.list.iter().find(|setting| setting.about == About::Database) {
            Some(selected) => request.eq_ignore_ascii_case(&selected.request),
            None => index == FIRST_DATABASE,
        }
    }

    /// Everything is as on a new connection.
    pub(super) fn reset(&mut self) {
        self.resp3 = false;
        self.list.clear();
    }

    /// AUTH with the client's own password, where it has one: the node must take it before anything else is
    /// sent there.
    pub(super) fn proof(&self, db_user: &str) -> Option<Vec<u8>> {
        let password = self.password.as_ref()?;
        let mut out = Vec::new();
        encode::request(&mut out, &[b"AUTH", db_user.as_bytes(), password.expose_secret().as_bytes()]);
        Some(out)
    }

    /// What a new connection is sent before the client's commands, and how many replies that gets.
    pub(super) fn greeting(&self, of_replica: bool) -> (Vec<u8>, usize) {
        let (mut out, mut replies) = (Vec::new(), 0);
        if self.resp3 {
            encode::request(&mut out, &["HELLO", "3"]);
            replies += 1;
        }
        if of_replica {
            encode::request(&mut out, &["READONLY"]);
            replies += 1;
        }
        for setting in &self.list {
            out.extend_from_slice(&setting.request);
            replies += 1;
        }
        (out, replies)
    }
}

#[cfg(test)]
mod tests {
    use keystile_resp::command::resolve;

    use super::*;

    fn set(settings: &mut Settings, words: &[&str]) {
        let id = resolve(words[0].as_bytes(), words.get(1).map(|word| word.as_bytes())).id().unwrap();
        settings.keep(Setting::new(id, words));
    }

    #[test]
    fn the_database_is_one_of_them() {
        let mut settings = Settings::default();
        assert!(settings.is_in_database(b"0") && !settings.is_in_database(b"1"));
        set(&mut settings, &["select", "1"]);
        set(&mut settings, &["SELECT", "15"]);
        assert!(settings.is_in_database(b"15") && !settings.is_in_database(b"1"));
        assert_eq!(settings.greeting(false), (b"*2\r\n$6\r\nSELECT\r\n$2\r\n15\r\n".to_vec(), 1));
        set(&mut settings, &["SELECT", "0"]);
        assert_eq!(settings.greeting(false).1, 0);
        assert!(settings.is_in_database(b"0") && !settings.is_in_database(b"15"));
    }

    #[test]
    fn the_last_of_each_kind_is_replayed() {
        let mut settings = Settings::default();
        assert_eq!(settings.greeting(false), (Vec::new(), 0));
        set(&mut settings, &["CLIENT", "SETNAME", "a"]);
        set(&mut settings, &["CLIENT", "SETNAME", "b"]);
        set(&mut settings, &["client", "setinfo", "LIB-NAME", "x"]);
        set(&mut settings, &["client", "setinfo", "lib-ver", "1"]);
        set(&mut settings, &["CLIENT", "TRACKING", "ON"]);
        assert!(settings.tracks());
        set(&mut settings, &["CLIENT", "TRACKING", "off"]);
        set(&mut settings, &["CLIENT", "NO-EVICT", "on"]);
        assert!(!settings.tracks());
        settings.resp3 = true;
        let (greeting, replies) = settings.greeting(true);
        let text = String::from_utf8(greeting).unwrap();
        assert_eq!(replies, 6);
        assert!(text.starts_with("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*1\r\n$8\r\nREADONLY\r\n"), "{text}");
        assert!(
            text.contains("\r\nb\r\n") && !text.contains("\r\na\r\n") && !text.contains("TRACKING"),
            "{text}"
        );
        settings.reset();
        assert_eq!(settings.greeting(false).1, 0);
    }
}
