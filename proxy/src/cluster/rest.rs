//! Shard channels that one command asks for although they are of several slots.

use std::collections::VecDeque;

use keystile_resp::slot;

/// Names that are yet to be asked for.
#[derive(Debug)]
pub(super) struct Rest(VecDeque<Box<[u8]>>);

impl Rest {
    /// These names, in their order.
    pub(super) fn new(names: impl Iterator<Item = Box<[u8]>>) -> Self {
        Self(names.collect())
    }

    /// Takes out the first one and all behind it that are of the same slot. The others stay where they are: there may
    /// be as many runs as names.
    pub(super) fn take_run(&mut self) -> (u16, Vec<Box<[u8]>>) {
        let slot = self.0.front().map_or(0, |name| slot::of_key(name));
        let run = self.0.iter().take_while(|name| slot::of_key(name) == slot).count();
        (slot, self.0.drain(..run).collect())
    }

    /// Whether none is left.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_in_order_and_the_rest_is_not_moved() {
        let names = ["{a}1", "{a}2", "{b}1", "{a}3", "{b}2"];
        let mut rest = Rest::new(names.iter().map(|name| Box::from(name.as_bytes())));
        let mut runs = Vec::new();
        while !rest.is_empty() {
            let last = rest.0.back().map(std::ptr::from_ref);
            let (slot, run) = rest.take_run();
            assert!(run.iter().all(|name| slot::of_key(name) == slot));
            assert!(rest.is_empty() || rest.0.back().map(std::ptr::from_ref) == last, "it was moved");
            runs.push(run.len());
        }
        assert_eq!(runs, [2, 1, 1, 1]);
    }
}
