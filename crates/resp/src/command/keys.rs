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

/// The keys of this request cannot be located.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the keys of this command cannot be located")]
pub struct KeysUnknown;

/// Calls `found` for each key of the request `args` (the name first; of a subcommand the container's).
///
/// # Errors
/// [`KeysUnknown`] where a spec does not tell, or tells more than the request has. Keys that were
/// found before stay reported.
pub fn key_positions<A: AsRef<[u8]>>(
    command: CommandId,
    args: &[A],
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

fn keys_of_spec<A: AsRef<[u8]>>(
    spec: &KeySpec,
    args: &[A],
    found: &mut impl FnMut(Key),
) -> Result<(), KeysUnknown> {
    let count = i64::try_from(args.len()).map_err(|_| KeysUnknown)?;
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
            let told = args.get(index(begin + i64::from(at))?).ok_or(KeysUnknown)?;
            let number = std::str::from_utf8(told.as_ref()).ok().and_then(|text| text.parse::<u32>().ok());
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

fn beginning<A: AsRef<[u8]>>(begin: Begin, args: &[A], count: i64) -> Result<Option<i64>, KeysUnknown> {
    match begin {
        Begin::Index(at) => Ok(Some(i64::from(at))),
        Begin::Unknown => Err(KeysUnknown),
        Begin::Keyword { word, from } => {
            let is_word = |at: &i64| {
                let arg = usize::try_from(*at).ok().and_then(|at| args.get(at));
                arg.is_some_and(|arg| arg.as_ref().eq_ignore_ascii_case(word.as_bytes()))
            };
            // The last argument cannot be the word: no key would follow it.
            let place = if from > 0 {
                (i64::from(from)..count - 1).find(is_word)
            } else {
                (2..=count + i64::from(from)).rev().find(is_word)
            };
            Ok(place.map(|place| place + 1))
        }
    }
}

fn index(at: i64) -> Result<usize, KeysUnknown> {
    usize::try_from(at).map_err(|_| KeysUnknown)
}
