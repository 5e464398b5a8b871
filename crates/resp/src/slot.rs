//! Which of a cluster's 16,384 slots a key lives in.

/// Slots of a cluster.
pub const SLOTS: u16 = 16_384;

/// The slot of `key`: CRC16 of its hash tag, the bytes between the first `{` and the next `}`, where
/// there is a tag that is not empty, else of the whole key.
#[must_use]
pub fn of_key(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = memchr::memchr(b'{', key).and_then(|open| key.get(open + 1..)).and_then(|behind| {
        let close = memchr::memchr(b'}', behind)?;
        behind.get(..close)
    });
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0, not reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, &byte| {
        let index = (crc >> 8) as u8 ^ byte;
        (crc << 8) ^ TABLE.get(usize::from(index)).copied().unwrap_or_default()
    })
}

static TABLE: [u16; 256] = table();

#[expect(clippy::indexing_slicing, reason = "a const loop below the table's own length")]
const fn table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `CLUSTER KEYSLOT` of Valkey 8.0 answers.
    #[test]
    fn agrees_with_cluster_keyslot() {
        for (key, slot) in SERVER {
            assert_eq!(of_key(key.as_bytes()), *slot, "{key}");
        }
    }

    const SERVER: &[(&str, u16)] = &[
        ("", 0),
        ("foo", 12182),
        ("bar", 5061),
        ("123456789", 12739),
        ("{user1000}.following", 3443),
        ("{user1000}.followers", 3443),
        ("foo{}{bar}", 8363),
        ("foo{{bar}}zap", 4015),
        ("foo{bar}{zap}", 5061),
        ("{}", 15257),
        ("{a", 10276),
        ("a}b{c}d", 7365),
        ("orders:1", 12707),
        ("café", 5735),
    ];
}
