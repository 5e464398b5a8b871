//! A cluster in memory, of nodes that behave as real ones do, whose slots move and whose nodes fail over while
//! it is walked.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use keystile_model::database::Node;

use super::*;

/// The slots that have keys: neighbours, ends, and some between.
const WORDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[derive(Clone, Debug)]
struct Server {
    address: Endpoint,
    /// Decides the order of its keys: another on each node.
    seed: u64,
    keys: BTreeSet<String>,
    leaving: BTreeMap<u16, usize>,
    coming: BTreeSet<u16>,
}

#[derive(Clone, Debug)]
struct Simulated {
    servers: Vec<Server>,
    /// Runs of slots: the first, and who serves it, up to the next.
    runs: BTreeMap<u16, usize>,
    cursors: Cursors,
    may: Rights,
    next_port: u16,
}

fn mix(seed: u64, key: &str) -> u64 {
    let hash = key.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    // 16 bits, never 0: the inner cursor.
    (hash ^ hash >> 29) % 65_535 + 1
}

fn slot_of(key: &str) -> u16 {
    slot::of_key(key.as_bytes())
}

impl Simulated {
    fn new(count: usize, cursors: Cursors, may: Rights) -> Self {
        let servers = (0..count).map(|place| Server {
            address: Endpoint { host: "h".to_owned(), port: 7_000 + place as u16 },
            seed: place as u64 + 1,
            keys: BTreeSet::new(),
            leaving: BTreeMap::new(),
            coming: BTreeSet::new(),
        });
        let runs = (0..count).map(|place| ((place * usize::from(SLOTS) / count) as u16, place));
        Self { servers: servers.collect(), runs: runs.collect(), cursors, may, next_port: 8_000 }
    }

    fn ranges(&self, place: usize) -> Vec<(u16, u16)> {
        let ends = self.runs.keys().skip(1).map(|next| next - 1).chain([SLOTS - 1]);
        self.runs
            .iter()
            .zip(ends)
            .filter(|((_, owner), _)| **owner == place)
            .map(|((first, _), end)| (*first, end))
            .collect()
    }

    fn map(&self) -> SlotMap {
        let nodes = self.servers.iter().enumerate().map(|(place, server)| Node {
            id: String::new(),
            role: String::new(),
            endpoint: Some(server.address.clone()),
            slots: self.ranges(place),
        });
        SlotMap::from_discovery(&nodes.collect::<Vec<_>>()).unwrap()
    }

    fn owner(&self, slot: u16) -> usize {
        *self.runs.range(..=slot).next_back().unwrap().1
    }

    fn assign(&mut self, slot: u16, to: usize) {
        let behind = self.owner((slot + 1).min(SLOTS - 1));
        self.runs.insert(slot, to);
        if slot + 1 < SLOTS {
            self.runs.insert(slot + 1, behind);
        }
    }

    fn add(&mut self, key: &str) {
        let slot = slot_of(key);
        let owner = self.owner(slot);
        // A new key of a slot that leaves is made at its new home.
        let place = self.servers[owner].leaving.get(&slot).copied().unwrap_or(owner);
        if !self.servers[owner].keys.contains(key) {
            self.servers[place].keys.insert(key.to_owned());
        }
    }

    fn remove(&mut self, key: &str) {
        self.servers.iter_mut().for_each(|server| {
            server.keys.remove(key);
        });
    }

    fn open(&mut self, slot: u16, to: usize) {
        let owner = self.owner(slot);
        if owner != to && !self.servers[owner].leaving.contains_key(&slot) {
            self.servers[owner].leaving.insert(slot, to);
            self.servers[to].coming.insert(slot);
        }
    }

    /// Moves up to `count` keys of an open slot; once none is left and `closes`, the slot too.
    fn migrate(&mut self, slot: u16, count: usize, closes: bool) {
        let owner = self.owner(slot);
        let Some(&to) = self.servers[owner].leaving.get(&slot) else { return };
        let keys: Vec<String> =
            self.servers[owner].keys.iter().filter(|key| slot_of(key) == slot).take(count).cloned().collect();
        for key in keys {
            self.servers[owner].keys.remove(&key);
            self.servers[to].keys.insert(key);
        }
        if closes && !self.servers[owner].keys.iter().any(|key| slot_of(key) == slot) {
            self.servers[owner].leaving.remove(&slot);
            self.servers[to].coming.remove(&slot);
            self.assign(slot, to);
        }
    }

    /// A replica takes over: the same keys in another order at another address.
    fn fail_over(&mut self, place: usize) {
        self.next_port += 1;
        let server = &mut self.servers[place];
        server.address.port = self.next_port;
        server.seed = u64::from(self.next_port);
    }

    fn reply(&self, node: &Endpoint, request: &[&[u8]], asking: bool) -> Option<Vec<u8>> {
        let place = self.servers.iter().position(|server| server.address == *node)?;
        let server = &self.servers[place];
        let mut out = Vec::new();
        match request[0] {
            b"ASKING" => encode::simple(&mut out, "OK"),
            b"CLUSTER" if self.may.nodes => encode::bulk(&mut out, self.nodes_text(node).as_bytes()),
            b"EXISTS" if self.may.exists => {
                let slot = slot::of_key(request[1]);
                let is_closed = self.owner(slot) == place && !server.leaving.contains_key(&slot);
                if server.coming.contains(&slot) && asking || is_closed {
                    encode::integer(&mut out, 0);
                } else if let Some(to) = server.leaving.get(&slot) {
                    encode::error(&mut out, "ASK", &format!("{slot} {}", self.servers[*to].address));
                } else {
                    let owner = &self.servers[self.owner(slot)].address;
                    encode::error(&mut out, "MOVED", &format!("{slot} {owner}"));
                }
            }
            b"SCAN" => self.scan(server, request, &mut out),
            _ => encode::error(&mut out, "NOPERM", "no"),
        }
        Some(out)
    }

    fn nodes_text(&self, me: &Endpoint) -> String {
        let mut text = String::new();
        for (place, server) in self.servers.iter().enumerate() {
            let flags = if server.address == *me { "myself,master" } else { "master" };
            text += &format!("n{place} {}@1 {flags} - 0 0 1 connected", server.address);
            for (first, last) in self.ranges(place) {
                text += &format!(" {first}-{last}");
            }
            if server.address == *me {
                server.leaving.iter().for_each(|(slot, to)| text += &format!(" [{slot}->-n{to}]"));
                server.coming.iter().for_each(|slot| text += &format!(" [{slot}-<-nx]"));
            }
            text.push('\n');
        }
        text
    }

    /// As servers do: at least the keys that are there all the time, in an order of the node's own.
    fn scan(&self, server: &Server, request: &[&[u8]], out: &mut Vec<u8>) {
        let cursor: u64 = std::str::from_utf8(request[1]).unwrap().parse().unwrap();
        let count = 3;
        let mut keys: Vec<(u16, u64, &String)> = server
            .keys
            .iter()
            .map(|key| {
                (if self.cursors == Cursors::OfSlots { slot_of(key) } else { 0 }, mix(server.seed, key), key)
            })
            .collect();
        keys.sort();
        let (slot, inner) = match self.cursors {
            Cursors::OfSlots => ((cursor & 16_383) as u16, cursor >> 14),
            _ => (0, cursor),
        };
        keys.retain(|(at, place, _)| (*at, *place) >= (slot, inner));
        // A bucket is never cut.
        let end = keys.get(count).map(|next| (next.0, next.1));
        let page: Vec<&String> = keys
            .iter()
            .filter(|(at, place, _)| end.is_none_or(|end| (*at, *place) < end))
            .map(|key| key.2)
            .collect();
        // Nothing below `end` (equal places of the first three): go on behind them.
        let next = match end {
            None => 0,
            Some((at, place)) if self.cursors == Cursors::OfSlots => place << 14 | u64::from(at),
            Some((_, place)) => place,
        };
        encode::array_header(out, 2);
        encode::bulk(out, next.to_string().as_bytes());
        encode::array_header(out, page.len());
        page.iter().for_each(|key| encode::bulk(out, key.as_bytes()));
    }
}

/// One call of a client's, with what happens in its midst; `None` where a node was gone.
fn call(
    cluster: &mut Simulated,
    map: &mut SlotMap,
    rights: &mut Rights,
    args: &[&str],
    mut between: impl FnMut(&mut Simulated),
) -> Option<(u64, Vec<String>)> {
    let mut scan = Scan::begin(args, cluster.cursors).unwrap();
    for _ in 0..100 {
        match scan.step(map, *rights) {
            Step::Done(reply) => {
                let mut items = Value::read(&reply).unwrap().items().unwrap_or_else(|| panic!("{reply:?}"));
                let cursor = items.next_value().unwrap().text().and_then(number).unwrap();
                let keys = items.next_value().unwrap().items().unwrap();
                let text =
                    |key| String::from_utf8(Value::read(key).unwrap().text().unwrap().to_vec()).unwrap();
                return Some((cursor, keys.map(text).collect()));
            }
            Step::Ask { node, mut requests, replies } => {
                let mut answers = Vec::new();
                let mut asking = false;
                while !requests.is_empty() {
                    let (request, end) = Value::read_first(&requests).unwrap();
                    let words: Vec<&[u8]> = request
                        .items()
                        .unwrap()
                        .map(|word| Value::read(word).unwrap().text().unwrap())
                        .collect();
                    answers.push(cluster.reply(&node, &words, asking)?);
                    asking = words[0] == b"ASKING";
                    requests.drain(..end);
                }
                assert_eq!(answers.len(), replies);
                let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
                scan.take(&answers, rights);
                if let Some(redirect) = scan.learned() {
                    map.moved(redirect.slot, &redirect.to);
                }
                between(cluster);
            }
        }
    }
    panic!("a page that never ends")
}

/// Walks a cluster that stands still.
fn walk(cluster: &mut Simulated, pattern: Option<&str>) -> (BTreeSet<String>, usize) {
    let (mut map, mut rights, mut cursor) = (cluster.map(), Rights::default(), 0);
    let (mut seen, mut total) = (BTreeSet::new(), 0);
    for _ in 0..10_000 {
        let text = cursor.to_string();
        let mut args = vec!["SCAN", &text];
        args.extend(pattern.iter().flat_map(|pattern| ["MATCH", pattern]));
        let (next, keys) = call(cluster, &mut map, &mut rights, &args, |_| {}).unwrap();
        total += keys.len();
        seen.extend(keys);
        cursor = next;
        if cursor == 0 {
            return (seen, total);
        }
    }
    panic!("a walk that never ends")
}

#[test]
fn a_cluster_that_stands_still_gives_each_key_once() {
    for cursors in [Cursors::OfSlots, Cursors::OfNode] {
        for may in [(true, true), (false, true), (true, false), (false, false)] {
            let may = Rights { nodes: may.0, exists: may.1 };
            let mut cluster = Simulated::new(3, cursors, may);
            let keys: BTreeSet<String> =
                (0..60).map(|number| format!("{{{}}}{number}", WORDS[number % WORDS.len()])).collect();
            keys.iter().for_each(|key| cluster.add(key));
            assert_eq!(walk(&mut cluster, None), (keys.clone(), 60), "{cursors:?} {may:?}");
            // A pattern of one slot walks that slot alone (of a node's own pages, servers match the pattern).
            let (seen, total) = walk(&mut cluster, Some("{a}*"));
            assert_eq!((seen.len(), total), (10, 10), "{cursors:?} {may:?}");
        }
    }
}

#[test]
fn an_empty_cluster_ends() {
    let mut cluster = Simulated::new(3, Cursors::OfSlots, Rights::default());
    assert_eq!(walk(&mut cluster, None), (BTreeSet::new(), 0));
}

#[test]
fn what_a_server_would_refuse() {
    for cursor in ["x", "-1", "+1", "", "99999999999999999999"] {
        let refused = Scan::begin(&["SCAN", cursor], Cursors::OfSlots).map(|_| ());
        assert_eq!(refused, Err(b"-ERR invalid cursor\r\n".to_vec()), "{cursor}");
    }
    let map = SlotMap::of_one(Endpoint { host: "h".to_owned(), port: 1 });
    let mut rights = Rights::default();
    let mut scan = Scan::begin(&["SCAN", "0", "FOO"], Cursors::OfSlots).unwrap();
    let _ = scan.step(&map, rights);
    scan.take(&[b"-ERR syntax error\r\n"], &mut rights);
    assert_eq!(scan.step(&map, rights), Step::Done(b"-ERR syntax error\r\n".to_vec()));
}

#[test]
fn a_strange_cursor_begins_anew() {
    let mut cluster = Simulated::new(2, Cursors::OfSlots, Rights::default());
    cluster.add("{a}1");
    let (mut map, mut rights) = (cluster.map(), Rights::default());
    let mut seen = Vec::new();
    let mut cursor = 12_345;
    while cursor != 0 {
        let text = cursor.to_string();
        let (next, keys) = call(&mut cluster, &mut map, &mut rights, &["SCAN", &text], |_| {}).unwrap();
        seen.extend(keys);
        cursor = next;
    }
    assert_eq!(seen, ["{a}1"]);
}

#[derive(Clone, Debug)]
enum Event {
    Open {
        word: usize,
        to: usize,
    },
    Migrate {
        word: usize,
        count: usize,
        closes: bool,
    },
    FailOver(usize),
    Add(usize, u8),
    Remove(usize, u8),
    /// The session learns the map anew, or another session of another proxy goes on.
    Refresh,
    Nothing,
}

fn event() -> impl Strategy<Value = Event> {
    let word = 0..WORDS.len();
    prop_oneof![
        3 => (word.clone(), 0_usize..4).prop_map(|(word, to)| Event::Open { word, to }),
        6 => (word.clone(), 1_usize..9, any::<bool>())
            .prop_map(|(word, count, closes)| Event::Migrate { word, count, closes }),
        1 => (0_usize..4).prop_map(Event::FailOver),
        2 => (word.clone(), any::<u8>()).prop_map(|(word, number)| Event::Add(word, number)),
        2 => (word, any::<u8>()).prop_map(|(word, number)| Event::Remove(word, number)),
        1 => Just(Event::Refresh),
        6 => Just(Event::Nothing),
    ]
}

fn happen(cluster: &mut Simulated, event: &Event) {
    let churn = |word: usize, number: u8| format!("{{{}}}churn{number}", WORDS[word]);
    match event {
        Event::Open { word, to } => cluster.open(slot_of(WORDS[*word]), to % cluster.servers.len()),
        Event::Migrate { word, count, closes } => cluster.migrate(slot_of(WORDS[*word]), *count, *closes),
        Event::FailOver(place) => cluster.fail_over(place % cluster.servers.len()),
        Event::Add(word, number) => cluster.add(&churn(*word, *number)),
        Event::Remove(word, number) => cluster.remove(&churn(*word, *number)),
        Event::Refresh | Event::Nothing => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_key_that_is_there_all_the_time_comes(
        of_slots: bool,
        nodes in prop::bool::weighted(0.8),
        servers in 2_usize..5,
        keys in prop::collection::vec(0_usize..WORDS.len(), 1..60),
        before in prop::collection::vec(event(), 0..10),
        events in prop::collection::vec(event(), 0..200),
    ) {
        let cursors = if of_slots { Cursors::OfSlots } else { Cursors::OfNode };
        let mut cluster = Simulated::new(servers, cursors, Rights { nodes, exists: true });
        let keys: BTreeSet<String> =
            keys.iter().enumerate().map(|(number, word)| format!("{{{}}}{number}", WORDS[*word])).collect();
        keys.iter().for_each(|key| cluster.add(key));
        let mut map = cluster.map();
        // What happens before makes a map that is old already.
        before.iter().for_each(|event| happen(&mut cluster, event));
        let mut events = events.iter();
        let (mut rights, mut cursor, mut seen) = (Rights::default(), 0, BTreeSet::new());
        let mut calls = 0;
        loop {
            let text = cursor.to_string();
            let mut refresh = false;
            let page = call(&mut cluster, &mut map, &mut rights, &["SCAN", &text], |cluster| {
                let event = events.next().unwrap_or(&Event::Nothing);
                refresh |= matches!(event, Event::Refresh);
                happen(cluster, event);
            });
            match page {
                // A node was gone: the client gets an error, the map is learned anew, and it asks again.
                None => map = cluster.map(),
                Some((next, keys)) => {
                    seen.extend(keys);
                    cursor = next;
                    if cursor == 0 {
                        break;
                    }
                }
            }
            if refresh {
                map = cluster.map();
                rights = Rights::default();
            }
            calls += 1;
            prop_assert!(calls < 5_000, "a walk that never ends");
        }
        let missed: Vec<&String> = keys.iter().filter(|key| !seen.contains(*key)).collect();
        prop_assert!(missed.is_empty(), "missed {:?}", missed);
    }
}
