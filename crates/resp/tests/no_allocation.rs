//! The common path allocates nothing: not for a command, not for its look-up, not for its reply.

use keystile_resp::command;
use keystile_resp::reply::{self, ReplyScanner};
use keystile_resp::request::{self, Scanner};
use keystile_resp::rules::CommandSet;

/// Heap allocations of this thread while `work` runs.
fn allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[test]
fn the_count_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1_u8]))), 1);
}

#[test]
fn commands_are_found_decided_and_passed_without_allocating() {
    let pipeline =
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*2\r\n$6\r\nclient\r\n$4\r\ninfo\r\nPING\r\n"
            .repeat(1000);
    let rules = CommandSet::compile("+@read +set +client|info +@connection").unwrap();
    let mut scanner = Scanner::new(request::Limits::SIGNED_IN);
    let mut allowed = 0;
    let count = allocations(|| {
        let mut at = 0;
        while let Ok(request::Step::Request(request)) = scanner.scan(&pipeline[at..]) {
            let rest = &pipeline[at..];
            let (name, sub) = (request.name(rest).unwrap(), request.arg(rest, 1));
            allowed += usize::from(rules.permits(command::resolve(&name, sub.as_deref())));
            at += request.len;
        }
        assert_eq!(at, pipeline.len());
    });
    assert_eq!((count, allowed), (0, 3000));
}

#[test]
fn flat_replies_are_counted_without_allocating() {
    let bytes =
        b"+OK\r\n$5\r\nvalue\r\n:1\r\n$-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n-ERR x\r\n>2\r\n+a\r\n:1\r\n"
            .repeat(1000);
    let mut scanner = ReplyScanner::new(reply::Limits::DEFAULT);
    let mut frames = 0;
    let count = allocations(|| {
        let mut at = 0;
        while let Ok(reply::Step::Frame(frame)) = scanner.scan(&bytes[at..]) {
            frames += 1;
            at += frame.len;
        }
        assert_eq!(at, bytes.len());
    });
    assert_eq!((count, frames), (0, 7000));
}
