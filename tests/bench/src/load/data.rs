//! Keys, values and requests. A value follows from its seed and number, so nobody has to keep it to check it.

/// Some keys and their values.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Dataset {
    /// What every key starts with.
    #[arg(long)]
    prefix: String,
    /// How many keys.
    #[arg(long)]
    pub(super) keys: usize,
    /// The length of each value.
    #[arg(long)]
    value_bytes: usize,
    /// Another seed, other values: a value that an earlier run wrote cannot pass for this one's.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Dataset {
    fn key(&self, number: usize) -> String {
        format!("{}{number:08}", self.prefix)
    }

    fn value(&self, number: usize) -> Vec<u8> {
        let mut random = Random::new(self.seed ^ (number as u64).rotate_left(32));
        let mut value = Vec::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            value.extend_from_slice(&random.next().to_le_bytes());
        }
        value.truncate(self.value_bytes);
        value
    }

    /// The request that reads a key.
    pub(super) fn get(&self, number: usize) -> Vec<u8> {
        command(&[b"GET", self.key(number).as_bytes()])
    }

    /// The request that writes a key.
    pub(super) fn set(&self, number: usize) -> Vec<u8> {
        command(&[b"SET", self.key(number).as_bytes(), &self.value(number)])
    }

    /// The request that removes a key.
    pub(super) fn unlink(&self, number: usize) -> Vec<u8> {
        command(&[b"UNLINK", self.key(number).as_bytes()])
    }

    /// The reply to a GET of a key.
    pub(super) fn bulk(&self, number: usize) -> Vec<u8> {
        let mut reply = Vec::with_capacity(self.value_bytes + 24);
        push_bulk(&mut reply, &self.value(number));
        reply
    }
}

/// A request as it goes over the wire.
pub(super) fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        push_bulk(&mut request, word);
    }
    request
}

fn push_bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Numbers that look random and are the same each time (the splitmix64 sequence).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        let wide = u128::from(self.next()) * limit as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_are_resp() {
        let data = Dataset { prefix: "b:".into(), keys: 2, value_bytes: 3, seed: 7 };
        assert_eq!(data.get(1), b"*2\r\n$3\r\nGET\r\n$10\r\nb:00000001\r\n");
        assert!(data.bulk(1).starts_with(b"$3\r\n") && data.bulk(1).ends_with(b"\r\n"));
        assert_eq!(data.bulk(1).len(), 9);
        assert!(data.set(1).ends_with(&data.bulk(1)));
    }

    #[test]
    fn values_differ_by_number_and_by_seed() {
        let one = Dataset { prefix: String::new(), keys: 2, value_bytes: 64, seed: 1 };
        let other = Dataset { seed: 2, ..one.clone() };
        assert_eq!(one.value(0), one.value(0));
        assert_ne!(one.value(0), one.value(1));
        assert_ne!(one.value(0), other.value(0));
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut random = Random::new(3);
        let mut seen = [false; 10];
        for _ in 0..1_000 {
            seen[random.below(10)] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}
