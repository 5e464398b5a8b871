//! The one macro that redis-rs's tests need from its repository and that no package holds: `#[async_test]`.
//!
//! It makes plain tests of an `async fn`, on tokio. A parameter is either a switch, and the test is run with both of
//! its values, or a connection, and it is given one of a fresh test context.

use proc_macro::{Delimiter, TokenStream, TokenTree};

#[proc_macro_attribute]
pub fn async_test(_: TokenStream, item: TokenStream) -> TokenStream {
    let parts = parts_of(item);
    let cases = match parts.parameters.as_str() {
        "" => test(&parts, "", "", ""),
        one if one.ends_with("bool") => test(&parts, "_false", "", "false") + &test(&parts, "_true", "", "true"),
        _ => test(&parts, "", CONNECTION, "connection"),
    };
    cases.parse().unwrap()
}

const CONNECTION: &str = "
    let context = crate::support::TestContext::new();
    let connection = context.async_connection().await.unwrap();";

struct Parts {
    attributes: String,
    name: String,
    parameters: String,
    result: String,
    body: String,
}

/// `#[attributes] async fn name(parameters) -> result { body }`, in pieces.
fn parts_of(item: TokenStream) -> Parts {
    let tokens: Vec<TokenTree> = item.into_iter().collect();
    let text = |range: &[TokenTree]| range.iter().cloned().collect::<TokenStream>().to_string();
    let is_word = |word: &str| tokens.iter().position(|token| token.to_string() == word).unwrap();
    let (begin, function) = (is_word("async"), is_word("fn"));
    let parameters = match &tokens[function + 2] {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => group.stream().to_string(),
        other => panic!("an async test has parameters behind its name, not {other}"),
    };
    let last = tokens.len() - 1;
    Parts {
        attributes: text(&tokens[..begin]),
        name: tokens[function + 1].to_string(),
        parameters: parameters.trim().trim_end_matches(',').trim().to_owned(),
        result: text(&tokens[function + 3..last]),
        body: tokens[last].to_string(),
    }
}

fn test(parts: &Parts, suffix: &str, prepare: &str, argument: &str) -> String {
    let Parts { attributes, name, parameters, result, body } = parts;
    format!(
        "{attributes} #[test] fn {name}{suffix}() {{
            async fn the_test({parameters}) {result} {body}
            let run = async {{ {prepare} the_test({argument}).await }};
            let _ = crate::support::block_on_all(run, crate::support::RuntimeType::Tokio);
        }}"
    )
}
