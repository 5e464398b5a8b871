//! Patterns of keys (`KEYS`, `SCAN … MATCH`) that can only match keys of one slot.

use keystile_resp::slot;

/// The slot of all keys that a glob pattern can match, where that is one.
///
/// That is so where a whole hash tag stands before the first special character, or where the pattern is a
/// plain key. Servers of version 7.4 on know the same; older ones only scan more than they need.
#[must_use]
pub fn slot_of(pattern: &[u8]) -> Option<u16> {
    let special = pattern.iter().position(|byte| matches!(byte, b'*' | b'?' | b'[' | b'\\'));
    let plain = pattern.get(..special.unwrap_or(pattern.len()))?;
    let tag = plain.iter().position(|byte| *byte == b'{').and_then(|open| {
        let behind = plain.get(open + 1..)?;
        let length = behind.iter().position(|byte| *byte == b'}')?;
        plain.get(..open + 1 + length + 1).filter(|_| length > 0)
    });
    match (tag, special) {
        (Some(tagged), _) => Some(slot::of_key(tagged)),
        (None, None) => Some(slot::of_key(pattern)),
        (None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_before_anything_special_pins_the_slot() {
        for (pattern, key) in [
            ("{cart}*", Some("{cart}1")),
            ("a{cart}?", Some("{cart}")),
            ("plain", Some("plain")),
            ("{}plain", Some("{}plain")),
            ("{a}{b}*", Some("{a}")),
            ("*{cart}", None),
            ("{ca*t}", None),
            ("{ca\\rt}x", None),
            ("{}*", None),
            ("{}{a}*", None),
            ("cart:[ab]", None),
            ("{cart*", None),
        ] {
            assert_eq!(slot_of(pattern.as_bytes()), key.map(|key| slot::of_key(key.as_bytes())), "{pattern}");
        }
    }
}
