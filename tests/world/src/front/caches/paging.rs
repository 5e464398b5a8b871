//! Pages of a list and the tokens between them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One page of a list and the token of the next one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<String>,
}

/// Cuts the page that follows `token` out of a list in the order of its keys. A token of another
/// list, or one that was made up, is an error.
pub(crate) fn page<T>(
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> String,
    list: &str,
    token: Option<&str>,
    size: usize,
) -> Result<Page<T>, String> {
    let after = token.map(|token| read(token, list)).transpose()?;
    let mut rest = items.filter(|item| after.as_ref().is_none_or(|after| key(item) > *after)).peekable();
    let taken: Vec<T> = rest.by_ref().take(size.max(1)).collect();
    let next = rest.peek().and(taken.last()).map(|last| token_of(list, &key(last)));
    Ok(Page { items: taken, next })
}

pub(crate) fn token_of(list: &str, last: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{list}\n{last}"))
}

pub(crate) fn read(token: &str, list: &str) -> Result<String, String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    match text.split_once('\n') {
        Some((have, last)) if have == list => Ok(last.to_owned()),
        _ => Err(format!("The token '{token}' is not one of this list.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_and_end_without_a_token() {
        let list = ["a", "b", "c", "d"];
        let get =
            |token: Option<&str>| page(list.iter().copied(), |s| (*s).to_owned(), "L", token, 2).unwrap();
        let first = get(None);
        assert_eq!(first.items, ["a", "b"]);
        let second = get(first.next.as_deref());
        assert_eq!((second.items, second.next), (vec!["c", "d"], None));
        assert!(page(list.iter(), |s| (**s).to_owned(), "M", first.next.as_deref(), 2).is_err());
    }
}
