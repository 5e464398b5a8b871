//! Patterns as the servers match them against keys and channels (`stringmatchlen`): `*`, `?`, `[a-z]`, `[^a]`
//! and `\`, on bytes, whatever they are.
//!
//! A match takes at most as many steps as the pattern and the text have bytes, multiplied. The odd cases are
//! the servers' own: a class that does not end goes on to the end of the pattern, `[]` matches nothing, and
//! only the empty pattern matches the empty text. One differs between their machines and is told here as on
//! ARM: a range between an ASCII and another byte.

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    source: Box<[u8]>,
    /// The bytes that come before anything else.
    start: Box<[u8]>,
    rest: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    Any,
    Run,
    Class(Box<[bool; 256]>),
}

impl Token {
    fn takes(&self, byte: u8) -> bool {
        match self {
            Self::Byte(own) => *own == byte,
            Self::Any => true,
            Self::Run => false,
            Self::Class(bytes) => bytes.get(usize::from(byte)).copied().unwrap_or(false),
        }
    }
}

impl Glob {
    /// Reads a pattern; every sequence of bytes is one.
    #[must_use]
    pub fn new(pattern: &[u8]) -> Self {
        let mut start = Vec::new();
        let mut rest = Vec::new();
        let mut left = pattern;
        while let Some((token, after)) = next_token(left) {
            left = after;
            match token {
                Token::Byte(byte) if rest.is_empty() => start.push(byte),
                Token::Run if rest.last() == Some(&Token::Run) => {}
                token => rest.push(token),
            }
        }
        Self { source: pattern.into(), start: start.into(), rest: rest.into() }
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Whether it matches the whole of `text`.
    #[inline]
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.source.is_empty();
        }
        let Some(text) = text.strip_prefix(&*self.start) else { return false };
        match &*self.rest {
            [] => text.is_empty(),
            [Token::Run] => true,
            rest => walk(rest, text),
        }
    }

    /// Whether it is `*`. Others that match as much are not taken for it by the servers either.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self.source == *b"*"
    }

    /// Whether it surely matches everything that begins with `prefix`.
    #[must_use]
    pub fn covers(&self, prefix: &[u8]) -> bool {
        *self.rest == [Token::Run] && prefix.starts_with(&self.start)
    }

    /// Whether it could match something that begins with `prefix`; a yes may be wrong, a no is not.
    #[must_use]
    pub fn may_reach(&self, prefix: &[u8]) -> bool {
        prefix.starts_with(&self.start) || self.start.starts_with(prefix)
    }

    /// Whether something could match both; a yes may be wrong, a no is not.
    #[must_use]
    pub fn may_meet(&self, other: &Self) -> bool {
        self.may_reach(&other.start)
    }
}

/// Goes back to the last run alone: what an earlier one could take, the last one can too.
fn walk(tokens: &[Token], text: &[u8]) -> bool {
    let (mut tokens, mut text) = (tokens, text);
    let mut again: Option<(&[Token], &[u8])> = None;
    while let Some((&byte, behind)) = text.split_first() {
        match tokens.split_first() {
            Some((Token::Run, after)) => {
                if after.is_empty() {
                    return true;
                }
                tokens = after;
                again = Some((after, text));
            }
            Some((token, after)) if token.takes(byte) => (tokens, text) = (after, behind),
            _ => {
                let Some((after, from)) = again else { return false };
                let from = from.get(1..).unwrap_or_default();
                (tokens, text) = (after, from);
                again = Some((after, from));
            }
        }
    }
    tokens.iter().all(|token| *token == Token::Run)
}

fn next_token(pattern: &[u8]) -> Option<(Token, &[u8])> {
    match pattern {
        [] => None,
        [b'*', rest @ ..] => Some((Token::Run, rest)),
        [b'?', rest @ ..] => Some((Token::Any, rest)),
        [b'[', rest @ ..] => Some(class(rest)),
        [b'\\', byte, rest @ ..] | [byte, rest @ ..] => Some((Token::Byte(*byte), rest)),
    }
}

fn class(pattern: &[u8]) -> (Token, &[u8]) {
    let (not, mut pattern) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut bytes = Box::new([false; 256]);
    let mut put = |from: u8, to: u8| {
        for slot in bytes.get_mut(usize::from(from.min(to))..=usize::from(from.max(to))).unwrap_or_default() {
            *slot = true;
        }
    };
    loop {
        pattern = match pattern {
            [] => break,
            [b'\\', byte, rest @ ..] => {
                put(*byte, *byte);
                rest
            }
            [b']', rest @ ..] => {
                pattern = rest;
                break;
            }
            [from, b'-', to, rest @ ..] => {
                put(*from, *to);
                rest
            }
            [byte, rest @ ..] => {
                put(*byte, *byte);
                rest
            }
        };
    }
    if not {
        bytes.iter_mut().for_each(|slot| *slot = !*slot);
    }
    (Token::Class(bytes), pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_on_a_server() {
        for (pattern, text, matches) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", false),
            ("*", "a", true),
            ("cart:*", "cart:", true),
            ("cart:*", "cart:1", true),
            ("cart:*", "carT:1", false),
            ("cart:*", "xcart:1", false),
            ("a*b*c", "aXXbYYbZc", true),
            ("a*b*c", "aXXbYYbZ", false),
            ("*:1", "a:1:1", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("[]", "a", false),
            ("[^]", "a", true),
            ("[", "[", false),
            ("[^", "a", true),
            ("[abc", "b", true),
            ("[\\]]", "]", true),
            ("[a-]", "]", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", true),
            ("a**", "a", true),
            ("**a", "a", true),
        ] {
            assert_eq!(
                Glob::new(pattern.as_bytes()).matches(text.as_bytes()),
                matches,
                "{pattern:?} {text:?}"
            );
        }
        assert!(Glob::new(b"a\0*").matches(b"a\0\xFF") && !Glob::new(b"a\0*").matches(b"a"));
    }

    #[test]
    fn hostile_patterns_end() {
        let begun = std::time::Instant::now();
        for pattern in [["a*".repeat(250), "b".to_owned()].concat(), ["*", &"a".repeat(500), "b"].concat()] {
            assert!(!Glob::new(pattern.as_bytes()).matches(&[b'a'; 20_000]));
        }
        assert!(begun.elapsed().as_secs() < 60);
    }

    #[test]
    fn what_a_pattern_covers_and_may_reach() {
        let cart = Glob::new(b"cart:*");
        assert!(cart.covers(b"cart:") && cart.covers(b"cart:1") && !cart.covers(b"car") && !cart.covers(b""));
        assert!(
            Glob::new(b"*").is_everything() && !Glob::new(b"**").is_everything() && !cart.is_everything()
        );
        assert!(!Glob::new(b"cart:1").covers(b"cart:1") && !Glob::new(b"c?*").covers(b"cart"));
        assert!(cart.may_reach(b"ca") && cart.may_reach(b"cart:1") && !cart.may_reach(b"order"));
        assert!(cart.may_meet(&Glob::new(b"c*")) && !cart.may_meet(&Glob::new(b"o*")));
        assert!(cart.may_meet(&Glob::new(b"[co]*")));
    }
}
