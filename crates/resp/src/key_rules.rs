//! Rules on keys and channels in the grammar of the servers' ACLs: `~app:*`, `%R~app:*`, `%W~app:*`,
//! `allkeys`; `&news.*`, `allchannels`.
//!
//! A [`Scope`] is what one role says of them. As an allowance it must permit all that a request touches, as a
//! denial it must miss all of it; what cannot be told is not permitted and not missed.

use thiserror::Error;

use crate::glob::Glob;
use crate::touch::{Access, Touch};

/// How channels of keyspace notifications begin: they tell keys, in their name or in their messages. Redis 8.8 has
/// those of the fields of hashes.
const NOTIFICATIONS: [&[u8]; 6] = [
    b"__keyspace@",
    b"__keyevent@",
    b"__subkeyspace@",
    b"__subkeyevent@",
    b"__subkeyspaceitem@",
    b"__subkeyspaceevent@",
];

/// Longest pattern, in bytes.
pub const MOST_PATTERN: usize = 512;

/// A rule that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScopeError {
    /// No rule on keys.
    #[error("'{0}' is no rule on keys: write ~app:*, %R~app:*, %W~app:* or allkeys")]
    Key(String),
    /// No rule on channels.
    #[error("'{0}' is no rule on channels: write &news.* or allchannels")]
    Channel(String),
}

/// Which keys and channels; what is not limited is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    keys: Option<Vec<KeyRule>>,
    channels: Option<Vec<Glob>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyRule {
    access: Access,
    glob: Glob,
    /// `~*` and `allkeys`, which mean the empty key too.
    all: bool,
}

impl KeyRule {
    fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("allkeys") || text == "~*" {
            return Some(Self { access: Access::BOTH, glob: Glob::new(b"*"), all: true });
        }
        let (marks, pattern) = text.split_once('~')?;
        let access = match marks {
            "" => Access::BOTH,
            _ => marks.strip_prefix('%').filter(|marks| !marks.is_empty())?.chars().try_fold(
                Access::NONE,
                |access, mark| match mark {
                    'R' | 'r' => Some(access.and(Access::READ)),
                    'W' | 'w' => Some(access.and(Access::WRITE)),
                    _ => None,
                },
            )?,
        };
        is_pattern(pattern).then(|| Self { access, glob: Glob::new(pattern.as_bytes()), all: false })
    }

    fn matches(&self, key: &[u8]) -> bool {
        self.all || self.glob.matches(key)
    }
}

/// As the servers have it: no blanks; and not longer than anybody needs.
fn is_pattern(pattern: &str) -> bool {
    !pattern.is_empty()
        && pattern.len() <= MOST_PATTERN
        && !pattern.bytes().any(|byte| byte.is_ascii_whitespace() || byte == b'\x0b' || byte == 0)
}

impl Scope {
    /// Reads the rules of one role; an empty list limits nothing.
    ///
    /// # Errors
    /// [`ScopeError`] for the first rule that means nothing.
    pub fn compile<T: AsRef<str>>(keys: &[T], channels: &[T]) -> Result<Self, ScopeError> {
        let mut rules: Vec<KeyRule> = Vec::with_capacity(keys.len());
        for text in keys.iter().map(AsRef::as_ref) {
            let rule = KeyRule::parse(text).ok_or_else(|| ScopeError::Key(text.to_owned()))?;
            // As on the server: `%R~a %W~a` is `~a`, and one rule has to allow all that a command does.
            match rules.iter_mut().find(|known| known.glob == rule.glob) {
                Some(known) => {
                    known.access = known.access.and(rule.access);
                    known.all |= rule.all;
                }
                None => rules.push(rule),
            }
        }
        let globs = channels
            .iter()
            .map(AsRef::as_ref)
            .map(|text| channel_glob(text).ok_or_else(|| ScopeError::Channel(text.to_owned())))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            keys: (!keys.is_empty()).then_some(rules),
            channels: (!channels.is_empty()).then_some(globs),
        })
    }

    /// Whether it limits keys.
    #[must_use]
    pub fn limits_keys(&self) -> bool {
        self.keys.as_ref().is_some_and(|rules| !rules.iter().any(|rule| rule.all))
    }

    /// Whether it limits channels.
    #[must_use]
    pub fn limits_channels(&self) -> bool {
        self.channels.as_ref().is_some_and(|globs| !globs.iter().any(Glob::is_everything))
    }

    /// Whether it says anything at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_none() && self.channels.is_none()
    }

    /// As an allowance: whether this may be touched.
    #[inline]
    #[must_use]
    pub fn permits(&self, touch: Touch<'_>) -> bool {
        match touch {
            Touch::Key(key, access) => {
                // Valkey 9.1 finds the empty key in no pattern but that of all keys.
                self.permits_keys(|rule| rule.access.contains(access) && !key.is_empty() && rule.matches(key))
            }
            Touch::KeysFrom(prefix) => {
                self.permits_keys(|rule| rule.access.contains(Access::READ) && rule.glob.covers(prefix))
            }
            Touch::AnyKey(access) => {
                self.permits_keys(|rule| rule.access.contains(access) && rule.glob.is_everything())
            }
            Touch::Unseen => {
                self.permits_keys(|rule| rule.access == Access::BOTH && rule.glob.is_everything())
            }
            Touch::Listen(channel) => {
                self.permits_channels(|glob| glob.matches(channel))
                    && (!tells_keys(channel) || self.may_hear_of_keys())
            }
            // A pattern is taken literally: the rules have to have this very one.
            Touch::ListenPattern(pattern) => {
                self.permits_channels(|glob| glob.source() == pattern)
                    && (!may_tell_keys(pattern) || self.may_hear_of_keys())
            }
            Touch::Publish(channel) => self.permits_channels(|glob| glob.matches(channel)),
            Touch::AnyChannel => self.permits_channels(Glob::is_everything),
        }
    }

    /// As a denial: whether this is, or could be, among what is denied.
    #[must_use]
    pub fn hits(&self, touch: Touch<'_>) -> bool {
        let keys = self.keys.as_deref().unwrap_or_default();
        let channels = self.channels.as_deref().unwrap_or_default();
        match touch {
            Touch::Key(key, access) => keys
                .iter()
                .any(|rule| (access == Access::NONE || rule.access.meets(access)) && rule.matches(key)),
            Touch::KeysFrom(prefix) => {
                keys.iter().any(|rule| rule.access.meets(Access::READ) && rule.glob.may_reach(prefix))
            }
            Touch::AnyKey(access) => keys.iter().any(|rule| rule.access.meets(access)),
            Touch::Unseen => !keys.is_empty(),
            Touch::Listen(channel) => {
                channels.iter().any(|glob| glob.matches(channel)) || (!keys.is_empty() && tells_keys(channel))
            }
            Touch::ListenPattern(pattern) => {
                let own = Glob::new(pattern);
                channels.iter().any(|glob| glob.may_meet(&own))
                    || (!keys.is_empty() && may_tell_keys(pattern))
            }
            Touch::Publish(channel) => channels.iter().any(|glob| glob.matches(channel)),
            Touch::AnyChannel => !channels.is_empty(),
        }
    }

    fn permits_keys(&self, permits: impl Fn(&KeyRule) -> bool) -> bool {
        self.keys.as_ref().is_none_or(|rules| rules.iter().any(|rule| rule.all || permits(rule)))
    }

    fn permits_channels(&self, permits: impl Fn(&Glob) -> bool) -> bool {
        self.channels
            .as_ref()
            .is_none_or(|globs| globs.iter().any(|glob| glob.is_everything() || permits(glob)))
    }

    /// Who has rules on keys hears of keys only where rules on channels say so.
    fn may_hear_of_keys(&self) -> bool {
        !self.limits_keys() || self.channels.is_some()
    }
}

fn channel_glob(text: &str) -> Option<Glob> {
    if text.eq_ignore_ascii_case("allchannels") {
        return Some(Glob::new(b"*"));
    }
    text.strip_prefix('&').filter(|pattern| is_pattern(pattern)).map(|pattern| Glob::new(pattern.as_bytes()))
}

fn tells_keys(channel: &[u8]) -> bool {
    NOTIFICATIONS.iter().any(|start| channel.starts_with(start))
}

fn may_tell_keys(pattern: &[u8]) -> bool {
    let pattern = Glob::new(pattern);
    NOTIFICATIONS.iter().any(|start| pattern.may_reach(start))
}

#[cfg(test)]
#[path = "key_rules_tests.rs"]
mod tests;
