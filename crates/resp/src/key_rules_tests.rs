use super::*;

fn scope(keys: &[&str], channels: &[&str]) -> Scope {
    Scope::compile(keys, channels).unwrap()
}

#[test]
fn one_rule_has_to_allow_all_that_is_done_to_a_key() {
    for (rules, key, access, permitted) in [
        (&["~cart:*"][..], "cart:1", Access::BOTH, true),
        (&["~cart:*"], "order:1", Access::NONE, false),
        (&["~cart:*", "~order:*"], "order:1", Access::BOTH, true),
        (&["%R~a*"], "a", Access::READ, true),
        (&["%R~a*"], "a", Access::NONE, true),
        (&["%R~a*"], "a", Access::WRITE, false),
        (&["%R~a*", "%W~ab*"], "ab", Access::BOTH, false),
        (&["%R~a*", "%W~a*"], "ab", Access::BOTH, true),
        (&["%WR~a*"], "ab", Access::BOTH, true),
        (&["%rw~a*"], "ab", Access::BOTH, true),
        (&["allkeys"], "", Access::BOTH, true),
        (&["~*"], "", Access::BOTH, true),
        (&["%RW~*"], "", Access::BOTH, false),
        (&["~x", "AllKeys"], "a", Access::BOTH, true),
        (&["~a~b*"], "a~b", Access::BOTH, true),
    ] {
        assert_eq!(
            scope(rules, &[]).permits(Touch::Key(key.as_bytes(), access)),
            permitted,
            "{rules:?} {key}"
        );
    }
    assert!(Scope::default().permits(Touch::Unseen) && Scope::default().permits(Touch::AnyChannel));
}

#[test]
fn more_than_keys_needs_more_than_patterns() {
    let cart = scope(&["~cart:*"], &[]);
    assert!(!cart.permits(Touch::AnyKey(Access::READ)) && !cart.permits(Touch::Unseen));
    assert!(cart.permits(Touch::KeysFrom(b"cart:1")) && !cart.permits(Touch::KeysFrom(b"car")));
    assert!(!scope(&["%W~cart:*"], &[]).permits(Touch::KeysFrom(b"cart:1")));
    let reader = scope(&["%R~*", "~cart:*"], &[]);
    assert!(reader.permits(Touch::AnyKey(Access::READ)) && !reader.permits(Touch::AnyKey(Access::WRITE)));
    assert!(!reader.permits(Touch::Unseen) && scope(&["~*"], &[]).permits(Touch::Unseen));
    assert!(cart.limits_keys() && reader.limits_keys() && !scope(&["~*"], &[]).limits_keys());
}

#[test]
fn channels_match_and_patterns_are_taken_literally() {
    let news = scope(&[], &["&news.*"]);
    assert!(news.permits(Touch::Listen(b"news.a")) && !news.permits(Touch::Listen(b"olds")));
    assert!(news.permits(Touch::Publish(b"news.a")) && !news.permits(Touch::Publish(b"olds")));
    assert!(news.permits(Touch::ListenPattern(b"news.*")) && !news.permits(Touch::ListenPattern(b"news.a*")));
    assert!(!news.permits(Touch::ListenPattern(b"news.*\0")) && !news.permits(Touch::AnyChannel));
    let all = scope(&[], &["allchannels"]);
    assert!(
        all.permits(Touch::ListenPattern(b"x*")) && all.permits(Touch::AnyChannel) && !all.limits_channels()
    );
}

#[test]
fn notifications_tell_keys() {
    let cart = scope(&["~cart:*"], &[]);
    assert!(cart.permits(Touch::Listen(b"news")) && cart.permits(Touch::ListenPattern(b"news.*")));
    assert!(!cart.permits(Touch::Listen(b"__keyevent@0__:set")));
    for pattern in ["*", "__key*", "_*", "__keyspace@0__:cart:*", "[_]*", "?"] {
        assert!(!cart.permits(Touch::ListenPattern(pattern.as_bytes())), "{pattern}");
    }
    assert!(cart.permits(Touch::Publish(b"__keyevent@0__:set")));
    let told = scope(&["~cart:*"], &["&__keyspace@0__:cart:*"]);
    assert!(told.permits(Touch::Listen(b"__keyspace@0__:cart:1")));
    assert!(!told.permits(Touch::Listen(b"__keyspace@0__:order:1")));
    assert!(told.permits(Touch::ListenPattern(b"__keyspace@0__:cart:*")));
    assert!(scope(&["~*"], &[]).permits(Touch::ListenPattern(b"__key*")));
}

#[test]
fn a_denial_hits_what_it_could_mean() {
    let secret = scope(&["%R~secret:*"], &["&secret.*"]);
    assert!(secret.hits(Touch::Key(b"secret:1", Access::BOTH)));
    assert!(secret.hits(Touch::Key(b"secret:1", Access::NONE)));
    assert!(!secret.hits(Touch::Key(b"secret:1", Access::WRITE)), "only reading is denied");
    assert!(!secret.hits(Touch::Key(b"cart:1", Access::BOTH)));
    assert!(secret.hits(Touch::AnyKey(Access::READ)) && !secret.hits(Touch::AnyKey(Access::WRITE)));
    assert!(secret.hits(Touch::Unseen) && secret.hits(Touch::AnyChannel));
    assert!(secret.hits(Touch::KeysFrom(b"sec")) && !secret.hits(Touch::KeysFrom(b"cart")));
    assert!(secret.hits(Touch::ListenPattern(b"s*")) && !secret.hits(Touch::ListenPattern(b"news*")));
    assert!(secret.hits(Touch::ListenPattern(b"*")) && secret.hits(Touch::Listen(b"__keyevent@0__:set")));
    assert!(scope(&["allkeys"], &[]).hits(Touch::Key(b"", Access::READ)));
}

#[test]
fn what_is_no_rule() {
    for bad in ["app:*", "%~a", "%X~a", "%R", "~", "%R~", "~a b", "~a\tb", "R~a", "resetkeys", ""] {
        assert!(Scope::compile(&[bad], &[]).is_err(), "{bad:?}");
    }
    for bad in ["news", "&", "& a", "resetchannels", ""] {
        assert!(Scope::compile(&[], &[bad]).is_err(), "{bad:?}");
    }
    assert!(Scope::compile(&[format!("~{}", "a".repeat(MOST_PATTERN + 1))], &[]).is_err());
}
