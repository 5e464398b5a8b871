//! However bytes are cut on their way, the scanners see the same requests and replies, and see what
//! a second, independent reading of the protocol sees.

mod reference;

use keystile_resp::{reply, request};
use proptest::prelude::*;
use reference::drive::{check_replies, check_requests};

/// Small limits, so that short inputs reach them.
const REQUESTS: [request::Limits; 4] = [
    request::Limits::SIGNED_IN,
    request::Limits { args: 4, bulk: 40, inline: 30, total: 90, whole: 48, before_auth_total: None },
    request::Limits { args: 4, bulk: 40, inline: 30, total: 90, whole: 48, before_auth_total: Some(60) },
    request::Limits { args: 100, bulk: 400, inline: 50, total: 300, whole: 0, before_auth_total: None },
];

const REPLIES: [reply::Limits; 3] = [
    reply::Limits::DEFAULT,
    reply::Limits { depth: 3, bulk: 40, elements: 6, whole: 24 },
    reply::Limits { depth: 8, bulk: 400, elements: 60, whole: 160 },
];

const REQUEST_SAMPLES: &[&[u8]] = &[
    b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*0\r\n*-1\r\n\r\n\n*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*6\r\n$4\r\nMSET\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n$1\r\ne\r\n",
    b"*2\r\n$3\r\nGET\r\n$60\r\n012345678901234567890123456789012345678901234567890123456789\r\n",
    b"PING\r\nset \"a\\x41\\n\" 'it\\'s' b\n  get  x  \r\n",
    b"set \"a\"b\r\n",
    b"set 'a\r\n",
    b"set \"a\\\r\n",
    b"se\0t a\r\n",
    b"GET / HTTP/1.1\r\n",
    b"POST / foo\r\n",
    b"*2\r\n$4\r\npost\r\n$1\r\n/\r\n",
    b"*1\r\n$5\r\nHost:\r\n",
    b"*1\r\n+PING\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$4\r\nPINGxx",
    b"*x\r\n",
    b"*01\r\n",
    b"*99999999999\r\n",
    b"*999999999999999999999999\r\n",
    b"*1111111111111111111111111111111111111111111\r\n",
    b"*1\r\n$1111111111111111111111111111111111111111111\r\n",
    b"*1\r\n$536870913\r\n",
    b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
];

const REPLY_SAMPLES: &[&[u8]] = &[
    b"+OK\r\n:1\r\n$-1\r\n$5\r\nhello\r\n*-1\r\n*0\r\n_\r\n#t\r\n,1.5\r\n(123\r\n",
    b"-WRONGPASS invalid username-password pair\r\n+OK\r\n",
    b"!21\r\nSYNTAX invalid syntax\r\n=15\r\ntxt:Some string\r\n",
    b"*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi\r\n>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"*2\r\n*2\r\n:1\r\n*1\r\n*0\r\n%2\r\n+a\r\n:1\r\n+b\r\n~2\r\n:1\r\n:2\r\n+x\r\n",
    b"|1\r\n+ttl\r\n:3600\r\n*2\r\n|1\r\n$1\r\na\r\n+b\r\n$1\r\nx\r\n:2\r\n+OK\r\n",
    b"$?\r\n;4\r\nHell\r\n;5\r\no wor\r\n;0\r\n*?\r\n:1\r\n*?\r\n.\r\n.\r\n%?\r\n+a\r\n:1\r\n.\r\n|?\r\n+a\r\n:1\r\n.\r\n+OK\r\n",
    b"|0\r\n+OK\r\n%0\r\n~0\r\n>0\r\n",
    b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
    b"*1\r\n$30\r\n012345678901234567890123456789\r\n+0123456789012345678901234567890\r\n",
    b"$40\r\n0123456789012345678901234567890123456789\r\n-0123456789012345678901234567890\r\n",
    b"%?\r\n+a\r\n.\r\n",
    b".\r\n",
    b";1\r\na\r\n",
    b"*1\r\n>1\r\n:1\r\n",
    b"@\r\n",
    b"+a\rb\r\n",
    b"$3\r\nabcd\r\n",
    b"$-2\r\n",
    b"%-1\r\n",
    b"*9223372036854775807\r\n",
    b"%9223372036854775807\r\n",
    b"$9223372036854775807\r\n",
    b"$+1\r\n",
    b"*?x\r\n",
];

#[test]
fn requests_cut_at_every_byte_read_the_same() {
    for sample in REQUEST_SAMPLES {
        for limits in REQUESTS {
            for cut in 1..=sample.len() {
                check_requests(sample, &[cut, sample.len()], limits, false);
                check_requests(sample, &[cut, sample.len()], limits, true);
                check_requests(sample, &[cut], limits, cut % 2 == 0);
            }
        }
    }
}

#[test]
fn replies_cut_at_every_byte_read_the_same() {
    for sample in REPLY_SAMPLES {
        for limits in REPLIES {
            for cut in 1..=sample.len() {
                check_replies(sample, &[cut, sample.len()], limits, false);
                check_replies(sample, &[cut, sample.len()], limits, true);
                check_replies(sample, &[cut], limits, cut % 2 == 0);
            }
        }
    }
}

/// Pieces of the language, whole and broken, in any order.
fn piece(samples: &'static [&'static [u8]]) -> impl Strategy<Value = Vec<u8>> {
    let crumbs: Vec<&'static [u8]> = vec![
        b"*", b"$", b"|", b"%", b">", b"?", b";", b".", b"1", b"2", b"0", b"-", b"\r", b"\n", b"\r\n", b"\"",
        b"'", b"\\", b"x", b" ",
    ];
    prop_oneof![
        4 => prop::sample::select(samples).prop_map(<[u8]>::to_vec),
        2 => prop::sample::select(crumbs).prop_map(<[u8]>::to_vec),
        1 => prop::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| {
            let mut bulk = format!("${}\r\n", bytes.len()).into_bytes();
            bulk.extend(bytes);
            bulk.extend(b"\r\n");
            bulk
        }),
        1 => (0..6usize).prop_map(|count| format!("*{count}\r\n").into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_requests_read_as_the_slow_reading_says(
        pieces in prop::collection::vec(piece(REQUEST_SAMPLES), 0..12),
        cuts in prop::collection::vec(1..40usize, 1..6),
        limits in prop::sample::select(&REQUESTS[..]),
        eager: bool,
    ) {
        check_requests(&pieces.concat(), &cuts, limits, eager);
    }

    #[test]
    fn any_replies_read_as_the_slow_reading_says(
        pieces in prop::collection::vec(piece(REPLY_SAMPLES), 0..12),
        cuts in prop::collection::vec(1..40usize, 1..6),
        limits in prop::sample::select(&REPLIES[..]),
        eager: bool,
    ) {
        check_replies(&pieces.concat(), &cuts, limits, eager);
    }
}
