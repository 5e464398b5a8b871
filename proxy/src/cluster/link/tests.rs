use super::*;
use crate::session::expected::Topic;

#[test]
fn what_is_owed_is_settled_in_order() {
    let endpoint = Endpoint { host: "localhost".to_owned(), port: 1 };
    let mut link = Link::dialing(endpoint, Purpose::Main, Box::pin(std::future::pending()));
    link.send(b"a", 1, 0);
    link.send(b"b", 2, 0);
    link.ask(b"q", Own::Slots);
    link.send(b"c", 3, 0);
    link.greet(b"hello", 1);
    assert_eq!(link.staged, b"helloabqc");
    assert_eq!(link.owes_own(), Some(Own::Needed));
    link.settle();
    assert!(link.owes_client() && link.is_asked(Own::Slots) && link.has_work());
    link.settle();
    link.settle();
    assert_eq!((link.owes_own(), link.last), (Some(Own::Slots), (3, 0)));
    link.settle();
    link.settle();
    assert!(!link.owes());
}

#[test]
fn nothing_of_ours_comes_between_the_bytes_of_a_request() {
    let endpoint = Endpoint { host: "localhost".to_owned(), port: 1 };
    let mut link = Link::dialing(endpoint, Purpose::Main, Box::pin(std::future::pending()));
    link.send(b"<head", 1, 0);
    link.begin_request();
    link.ask(b"[ask]", Own::Slots);
    link.send_more(b" body");
    link.whisper(b"[whisper]", Whisper { topic: Topic::Channel, adds: true, left: 1 });
    link.send(b"[send]", 2, 0);
    assert_eq!(link.staged, b"<head body");
    link.send_more(b" end>");
    link.end_request();
    link.ask(b"[later]", Own::Swallow);
    assert_eq!(link.staged, b"<head body end>[ask][whisper][send][later]");
    assert!(link.owes_client());
    link.settle();
    assert_eq!(link.owes_own(), Some(Own::Slots));
}

#[test]
fn confirmations_are_counted_in_their_place() {
    let endpoint = Endpoint { host: "localhost".to_owned(), port: 1 };
    let mut link = Link::dialing(endpoint, Purpose::Main, Box::pin(std::future::pending()));
    let whisper = Whisper { topic: Topic::Channel, adds: true, left: 2 };
    link.send(b"a", 1, 0);
    link.whisper(b"w", whisper);
    link.whisper(b"u", Whisper { topic: Topic::Shard, adds: false, left: 1 });
    link.send(b"b", 2, 0);
    link.confirmed(Topic::Channel, true);
    assert!(link.owes_client() && link.owes_whisper().is_none(), "the client's comes first");
    link.settle();
    link.confirmed(Topic::Shard, false);
    assert_eq!(link.owes_whisper(), Some(whisper), "another one");
    link.confirmed(Topic::Channel, true);
    link.confirmed(Topic::Channel, true);
    assert!(!link.is_doubtful() && link.owes_whisper().is_some_and(|next| !next.adds));
    link.confirmed(Topic::Shard, false);
    assert!(link.is_doubtful() && link.owes_client());
    link.settle();
    assert!(!link.is_doubtful() && !link.owes());
}
