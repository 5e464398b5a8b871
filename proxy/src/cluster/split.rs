//! A command of keys of several slots, taken apart into one request for each slot, and its reply.
//!
//! By slot and not by shard: a server takes the keys of one command only from one slot, even where it serves
//! both.

use std::collections::HashMap;

use keystile_resp::{encode, slot};

use super::merge::{self, Answer};
use super::plan::{Merge, Split};
use super::value::Value;

/// The parts of a command, in the order in which their first keys stand.
#[derive(Clone, Debug)]
pub struct Parts {
    split: Split,
    parts: Vec<Part>,
    /// For each key its part.
    order: Vec<usize>,
}

/// What goes to one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The slot of all its keys.
    pub slot: u16,
    /// The request.
    pub request: Vec<u8>,
}

/// Takes the request `args` (the name first) apart.
#[must_use]
pub fn split<A: AsRef<[u8]>>(args: &[A], split: Split) -> Parts {
    let step = if split == Split::AllSucceeded { 2 } else { 1 };
    let (name, keys) = match args.split_first() {
        Some((name, keys)) => (name.as_ref(), keys),
        None => (b"".as_slice(), args),
    };
    let mut groups: Vec<(u16, Vec<&[u8]>)> = Vec::new();
    let mut places: HashMap<u16, usize> = HashMap::new();
    let mut order = Vec::with_capacity(keys.len() / step);
    for pair in keys.chunks(step) {
        let slot = pair.first().map_or(0, |key| slot::of_key(key.as_ref()));
        let place = *places.entry(slot).or_insert_with(|| {
            groups.push((slot, vec![name]));
            groups.len() - 1
        });
        if let Some((_, words)) = groups.get_mut(place) {
            words.extend(pair.iter().map(AsRef::as_ref));
        }
        order.push(place);
    }
    let parts = groups.into_iter().map(|(slot, words)| {
        let mut request = Vec::new();
        encode::request(&mut request, &words);
        Part { slot, request }
    });
    Parts { split, parts: parts.collect(), order }
}

impl Parts {
    /// The parts: send each to the shard of its slot.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The same, for good: what is left knows how to make one reply of theirs.
    pub fn take_parts(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }

    /// One reply of the parts' whole replies, given in the order of the parts; at most `limit` bytes long.
    ///
    /// An error of one part is the reply, although others may have been done.
    #[must_use]
    pub fn join(&self, replies: &[&[u8]], limit: usize) -> Vec<u8> {
        let answers: Vec<Answer<'_>> = replies.iter().map(|reply| Answer { node: "", reply }).collect();
        match self.split {
            Split::Sum => merge::merge(Merge::Sum, &answers, limit),
            Split::AllSucceeded => merge::merge(Merge::AllSucceeded, &answers, limit),
            Split::Values if replies.iter().map(|reply| reply.len()).sum::<usize>() > limit => {
                merge::too_long(replies.len(), limit)
            }
            Split::Values => self.in_order(replies).unwrap_or_else(|| {
                // An error of a part, or what cannot be merged: the error for that.
                merge::merge(Merge::Sum, &answers, limit)
            }),
        }
    }

    fn in_order(&self, replies: &[&[u8]]) -> Option<Vec<u8>> {
        let values = replies.iter().copied().map(|reply| Value::read(reply)?.items());
        let mut values = values.collect::<Option<Vec<_>>>()?;
        let mut out = Vec::with_capacity(replies.iter().map(|reply| reply.len()).sum());
        encode::array_header(&mut out, self.order.len());
        for place in &self.order {
            out.extend_from_slice(values.get_mut(*place)?.next()?);
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn requests(parts: &Parts) -> Vec<String> {
        parts
            .parts()
            .iter()
            .map(|part| String::from_utf8(part.request.clone()).unwrap().replace("\r\n", " "))
            .collect()
    }

    #[test]
    fn a_part_for_each_slot_and_the_values_in_order() {
        let parts = split(&["MGET", "{a}1", "{b}1", "{a}2"], Split::Values);
        assert_eq!(requests(&parts), ["*3 $4 MGET $4 {a}1 $4 {a}2 ", "*2 $4 MGET $4 {b}1 "]);
        assert_eq!(parts.parts()[1].slot, slot::of_key(b"b"));
        let joined = parts.join(&[b"*2\r\n$1\r\n1\r\n$-1\r\n", b"*1\r\n$1\r\n2\r\n"], 1_000);
        assert_eq!(joined, b"*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n");
    }

    #[test]
    fn sums_and_pairs() {
        let parts = split(&["DEL", "a", "b", "a"], Split::Sum);
        assert_eq!(requests(&parts), ["*3 $3 DEL $1 a $1 a ", "*2 $3 DEL $1 b "]);
        assert_eq!(parts.join(&[b":1\r\n", b":1\r\n"], 100), b":2\r\n");
        let parts = split(&["MSET", "a", "1", "b", "2"], Split::AllSucceeded);
        assert_eq!(requests(&parts), ["*3 $4 MSET $1 a $1 1 ", "*3 $4 MSET $1 b $1 2 "]);
        assert_eq!(parts.join(&[b"+OK\r\n", b"+OK\r\n"], 100), b"+OK\r\n");
    }

    #[test]
    fn one_error_is_the_reply() {
        let parts = split(&["MGET", "a", "b"], Split::Values);
        assert_eq!(parts.join(&[b"*1\r\n$1\r\n1\r\n", b"-NOPERM no\r\n"], 100), b"-NOPERM no\r\n");
        assert!(parts.join(&[b"*1\r\n$1\r\n1\r\n", b"*0\r\n"], 100).starts_with(b"-ERR keystile: "));
        assert!(
            parts.join(&[b"*1\r\n$1\r\n1\r\n", b"*1\r\n$1\r\n1\r\n"], 20).starts_with(b"-ERR keystile: ")
        );
    }

    proptest! {
        /// As a server of all slots would answer.
        #[test]
        fn mget_gives_each_key_its_value(keys in prop::collection::vec("[a-z]{1,2}", 1..40)) {
            let mut args = vec!["MGET".to_owned()];
            args.extend(keys.iter().cloned());
            let parts = split(&args, Split::Values);
            let replies: Vec<Vec<u8>> = parts.parts().iter().map(|part| {
                let mut words = Value::read(&part.request).unwrap().items().unwrap();
                words.next();
                let mut reply = Vec::new();
                encode::array_header(&mut reply, words.len());
                for word in words {
                    let key = Value::read(word).unwrap().text().unwrap();
                    assert_eq!(slot::of_key(key), part.slot);
                    encode::bulk(&mut reply, &[key, b"!"].concat());
                }
                reply
            }).collect();
            let replies: Vec<&[u8]> = replies.iter().map(Vec::as_slice).collect();
            let joined = parts.join(&replies, 10_000);
            let values: Vec<Vec<u8>> = Value::read(&joined).unwrap().items().unwrap()
                .map(|item| Value::read(item).unwrap().text().unwrap().to_vec()).collect();
            let expected: Vec<Vec<u8>> = keys.iter().map(|key| format!("{key}!").into_bytes()).collect();
            prop_assert_eq!(values, expected);
        }
    }
}
