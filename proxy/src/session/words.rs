//! The words of a request that lies in a buffer, as far as they came.

use std::borrow::Cow;

use keystile_resp::command::Arguments;
use keystile_resp::request::{Form, Request};

/// So many words need no allocation.
const FEW: usize = 16;

/// The words of one request.
pub struct Words<'b> {
    count: usize,
    few: [&'b [u8]; FEW],
    seen: usize,
    /// In place of `few` where they are more, or had to be unquoted.
    many: Vec<Cow<'b, [u8]>>,
}

impl<'b> Words<'b> {
    /// The words of `request`, with which `buf` begins; of a request whose end did not come, those that did.
    #[must_use]
    pub fn of(request: &Request, buf: &'b [u8]) -> Self {
        let count = usize::try_from(request.argc).unwrap_or(usize::MAX);
        let mut words = Self { count, few: [&[]; FEW], seen: 0, many: Vec::new() };
        if request.form == Form::Inline || count > FEW {
            words.many = request.args(buf).collect();
        }
        if words.many.is_empty() {
            words.fill(request, buf);
        }
        words
    }

    fn fill(&mut self, request: &Request, buf: &'b [u8]) {
        // What the scanner kept is there at once, also of a request that it still walks over.
        let kept = (0..request.known()).map_while(|index| request.arg(buf, index));
        let behind = (request.known() < self.count).then(|| request.args(buf).skip(request.known()));
        for (slot, word) in self.few.iter_mut().zip(kept.chain(behind.into_iter().flatten())) {
            let Cow::Borrowed(word) = word else { return };
            *slot = word;
            self.seen += 1;
        }
    }
}

impl Arguments for Words<'_> {
    fn count(&self) -> usize {
        self.count
    }

    fn word(&self, index: usize) -> Option<&[u8]> {
        if !self.many.is_empty() {
            return self.many.get(index).map(AsRef::as_ref);
        }
        self.few.get(..self.seen)?.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use keystile_resp::request::{Limits, Scanner, Step};

    use super::*;

    fn seen(words: &Words<'_>) -> Vec<String> {
        let text = |index| words.word(index).map(|word| String::from_utf8_lossy(word).into_owned());
        (0..words.count()).map_while(text).collect()
    }

    fn array(words: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        keystile_resp::encode::request(&mut bytes, words);
        bytes
    }

    #[test]
    fn whole_requests_show_all() {
        for words in [vec!["GET", "a"], vec!["MSET", "a", "1", "b", "2"], vec!["DEL"; 40]] {
            let bytes = array(&words);
            let Ok(Step::Request(request)) = Scanner::new(Limits::SIGNED_IN).scan(&bytes) else { panic!() };
            assert_eq!(seen(&Words::of(&request, &bytes)), words);
        }
        let line = b"SET \"a b\" 'c'\r\n";
        let Ok(Step::Request(request)) = Scanner::new(Limits::SIGNED_IN).scan(line) else { panic!() };
        assert_eq!(seen(&Words::of(&request, line)), ["SET", "a b", "c"]);
    }

    #[test]
    fn begun_requests_show_what_came() {
        let limits = Limits { whole: 64, ..Limits::SIGNED_IN };
        for words in [vec!["SET", "a"], vec!["MSET", "a", "1", "b", "2", "c"]] {
            let long = "x".repeat(100);
            let mut all = words.clone();
            all.push(&long);
            let bytes = array(&all);
            let Ok(Step::Head(request)) = Scanner::new(limits).scan(&bytes) else { panic!() };
            let shown = Words::of(&request, &bytes);
            assert_eq!(
                (seen(&shown), shown.count()),
                (words.iter().map(|w| (*w).to_owned()).collect(), all.len())
            );
            let mut scanner = Scanner::new(Limits::SIGNED_IN);
            assert_eq!(scanner.scan(&bytes[..bytes.len() - 50]), Ok(Step::NeedMore));
            let shown = Words::of(scanner.pending().unwrap(), &bytes);
            assert_eq!(
                (seen(&shown), shown.count()),
                (words[..words.len().min(4)].iter().map(|w| (*w).to_owned()).collect(), all.len())
            );
        }
    }
}
