//! Where a request's keys stand, by the key specs of the table.
//!
//! What the table cannot tell for sure is an error, never a guess: callers that limit keys refuse it.

use thiserror::Error;

use super::{Begin, CommandId, Find, KeyFlags, KeySpec};

/// One key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its position among the arguments; the command's name is 0.
    pub index: usize,
    /// What the command does to it.
    pub flags: KeyFlags,
}

/// The words of a request as far as they are there; the command's name is the first.
pub trait Arguments {
    /// How many words the request has, those that did not come yet included.
    fn count(&self) -> usize;

    /// The word at `index`; `None` behind the end, and where it did not come yet.
    fn word(&self, index: usize) -> Option<&[u8]>;
}

impl<A: AsRef<[u8]>> Arguments for [A] {
    fn count(&self) -> usize {
        self.len()
    }

    fn word(&self, index: usize) -> Option<&[u8]> {
        self.get(index).map(AsRef::as_ref)
    }
}

impl<A: AsRef<[u8]>> Arguments for Vec<A> {
    fn count(&self) -> usize {
        self.len()
    }

    fn word(&self, index: usize) -> Option<&[u8]> {
        self.as_slice().word(index)
    }
}

/// A word as servers compare options: they take it for a C string, so nothing behind a NUL byte counts.
#[must_use]
pub fn c_string(word: &[u8]) -> &[u8] {
    word.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The keys of this request cannot be located.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the keys of this command cannot be located")]
pub struct KeysUnknown;

/// Calls `found` for each key of the request `args` (the name first; of a subcommand the container's).
///
/// # Errors
/// [`KeysUnknown`] where a spec does not tell, tells more than the request has, or speaks of words that did
/// not come yet. Keys that were found before stay reported.
pub fn key_positions<A: Arguments + ?Sized>(
    command: CommandId,
    args: &A,
    mut found: impl FnMut(Key),
) -> Result<(), KeysUnknown> {
    for spec in command.command().keys {
        if spec.flags.contains(KeyFlags::NOT_KEY) {
            continue;
        }
        if spec.flags.contains(KeyFlags::INCOMPLETE) {
            return Err(KeysUnknown);
        }
        keys_of_spec(spec, args, &mut found)?;
    }
    Ok(())
}

fn keys_of_spec<A: Arguments + ?Sized>(
    spec: &KeySpec,
    args: &A,
    found: &mut impl FnMut(Key),
) -> Result<(), KeysUnknown> {
    let count = i64::try_from(args.count()).map_err(|_| KeysUnknown)?;
    let Some(begin) = beginning(spec.begin, args, count)? else { return Ok(()) };
    let (first, last, step) = match spec.find {
        Find::Range { last, step, limit } => {
            let last = match (last, limit) {
                (0.., _) => begin + i64::from(last),
                (_, 0 | 1) => count + i64::from(last),
                (_, limit) => begin + (count - begin) / i64::from(limit) + i64::from(last),
            };
            (begin, last, i64::from(step))
        }
        Find::KeyNum { at, first, step } => {
            let told = args.word(index(begin + i64::from(at))?).ok_or(KeysUnknown)?;
            let number = std::str::from_utf8(told).ok().and_then(|text| text.parse::<u32>().ok());
            let first = begin + i64::from(first);
            let number = i64::from(number.ok_or(KeysUnknown)?);
            (first, first + (number - 1) * i64::from(step), i64::from(step))
        }
        Find::Unknown => return Err(KeysUnknown),
    };
    if last >= count || step < 1 {
        return Err(KeysUnknown);
    }
    let mut at = first;
    while at <= last {
        found(Key { index: index(at)?, flags: spec.flags });
        at += step;
    }
    Ok(())
}

fn beginning<A: Arguments + ?Sized>(begin: Begin, args: &A, count: i64) -> Result<Option<i64>, KeysUnknown> {
    match begin {
        Begin::Index(at) => Ok(Some(i64::from(at))),
        Begin::Unknown => Err(KeysUnknown),
        Begin::Keyword { word, from } => {
            // The last argument cannot be the word: no key would follow it.
            let place = if from > 0 {
                search(i64::from(from)..count - 1, word, args)?
            } else {
                search((2..=count + i64::from(from)).rev(), word, args)?
            };
            Ok(place.map(|place| place + 1))
        }
    }
}

fn search<A: Arguments + ?Sized>(
    places: impl IntoIterator<Item = i64>,
    wanted: &str,
    args: &A,
) -> Result<Option<i64>, KeysUnknown> {
    for place in places {
        let word = args.word(index(place)?).ok_or(KeysUnknown)?;
        if c_string(word).eq_ignore_ascii_case(wanted.as_bytes()) {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

fn index(at: i64) -> Result<usize, KeysUnknown> {
    usize::try_from(at).map_err(|_| KeysUnknown)
}
