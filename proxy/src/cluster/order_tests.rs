use super::super::budget::Budget;
use super::super::fan::Join;
use super::*;

fn plain(order: &mut Order, request: &[u8]) {
    order.push(Entry::new(Awaiting::Held, 7, false), request);
}

#[test]
fn requests_are_kept_until_they_are_answered() {
    let mut order = Order::default();
    assert!(size_of::<Entry>() <= 64, "{}", size_of::<Entry>());
    for round in 0..1_000_u32 {
        plain(&mut order, round.to_string().as_bytes());
        plain(&mut order, b"");
        order.push(Entry::new(Awaiting::Answer(Box::from(*b"+OK\r\n")), 7, false), b"");
        if round % 3 != 0 {
            let first = order.first();
            let kept = order.request(first).to_vec();
            assert_eq!(order.pop().unwrap().kept as usize, kept.len());
        }
        let last = order.next() - 3;
        assert_eq!(order.request(last), round.to_string().as_bytes());
    }
    while order.pop().is_some() {}
    assert!(order.is_empty() && order.window.capacity() == 0 && order.answers == 0);
    assert_eq!(order.first(), 3_000);
}

#[test]
fn who_waits_next_for_a_link() {
    let mut order = Order::default();
    for link in [1, 2, 1, 2] {
        order.push(Entry::new(Awaiting::Link(link), 7, false), b"");
    }
    order.pop();
    assert_eq!([order.next_on(1, 1), order.next_on(2, 2), order.next_on(4, 1)], [Some(2), Some(3), None]);
    let mut fan = Fan::new(vec![Part::of_slot(0, Vec::new())], Join::Done, &Budget::new(0).purse("alice"));
    fan.set(0, Progress::Sent(1));
    order.at(1).unwrap().awaiting = Awaiting::Fan(Box::new(fan));
    assert_eq!([order.next_on(1, 1), order.next_on(2, 1)], [None, Some(2)], "a part comes before it");
}

#[test]
fn a_way_leads_behind_what_stands_before() {
    let mut order = Order::default();
    for (slot, awaiting) in [
        (1, Awaiting::Link(5)),
        (1, Awaiting::Held),
        (1, Awaiting::Link(6)),
        (2, Awaiting::Answer(Box::from(*b"+OK\r\n"))),
    ] {
        let mut entry = Entry::new(awaiting, 7, false);
        entry.slot = slot;
        order.push(entry, b"");
    }
    let mut fan = Fan::new(
        (1..4).map(|slot| Part::of_slot(slot, Vec::new())).collect(),
        Join::Done,
        &Budget::new(0).purse("alice"),
    );
    fan.set(0, Progress::Sent(7));
    fan.set(1, Progress::Done(Vec::new()));
    order.push(Entry::new(Awaiting::Fan(Box::new(fan)), 7, false), b"");
    let way = |numbers: Range<u64>| {
        let mut ways = HashMap::new();
        order.add_ways(&mut ways, numbers);
        [1, 2, 3].map(|slot| ways.get(&slot).copied())
    };
    assert_eq!(way(0..0), [None; 3]);
    assert_eq!(way(0..1), [Some(Way::Behind(5)), None, None]);
    assert_eq!(way(0..2), [Some(Way::None), None, None]);
    assert_eq!(way(2..4), [Some(Way::Behind(6)), None, None]);
    assert_eq!(way(0..9), [Some(Way::Behind(7)), None, Some(Way::None)]);
}

#[test]
fn what_is_held_is_found_at_once() {
    let mut order = Order::default();
    let many = 60_000_u64;
    for _ in 0..many {
        order.push(Entry::new(Awaiting::Link(0), 7, false), b"");
    }
    assert!(!order.has_held());
    for number in [many - 1, many - 3] {
        order.at(number).unwrap().awaiting = Awaiting::Held;
        order.note_held(number);
    }
    let began = std::time::Instant::now();
    for _ in 0..many - 3 {
        assert!(order.has_held());
        order.pop();
    }
    order.at(many - 3).unwrap().awaiting = Awaiting::Link(0);
    assert!(order.has_held(), "there is one more");
    order.at(many - 1).unwrap().awaiting = Awaiting::Link(0);
    assert!(!order.has_held());
    plain(&mut order, b"");
    order.note_held(many);
    assert!(order.has_held());
    assert!(began.elapsed().as_secs() < 2, "each is looked at once: {:?}", began.elapsed());
}

#[test]
fn the_window_has_a_bound() {
    let mut order = Order::default();
    while order.has_room(usize::MAX) {
        plain(&mut order, &[b'x'; 1_000]);
    }
    assert!((WINDOW..WINDOW + 1_000).contains(&order.window.len()));
    order.pop();
    assert!(order.has_room(usize::MAX));
}

#[test]
fn commands_in_parts_have_a_bound_of_their_own() {
    let fan = |parts: u16| {
        let parts = (0..parts).map(|slot| Part::of_slot(slot, Vec::new())).collect();
        Awaiting::Fan(Box::new(Fan::new(parts, Join::Done, &Budget::new(0).purse("alice"))))
    };
    let mut order = Order::default();
    for _ in 0..5 {
        order.push(Entry::new(fan(4_000), 7, false), b"");
    }
    assert!(!order.has_room(usize::MAX));
    order.answer(1, b"+OK\r\n".to_vec());
    assert!(order.has_room(usize::MAX));
    order.pop();
    order.pop();
    for _ in 0..2 {
        order.push(Entry::new(fan(4_000), 7, false), b"");
    }
    assert!(!order.has_room(usize::MAX));
    while order.pop().is_some() {}
    assert!(order.has_room(usize::MAX) && order.parts == 0);
}
