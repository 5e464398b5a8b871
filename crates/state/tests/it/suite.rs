//! What every store promises.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keystile_model::feed::{
    Change, Entity, EntityKey, EntityKind, Feed, Head, LOG_RETENTION_S, MAX_CHANGES, MAX_LOG_BYTES,
    READER_VERSION,
};
use keystile_model::store::{CommitError, Consistency, PolicyStore, RuntimeKey, RuntimeStore, StoreError};
use keystile_state::memory::ManualClock;
use keystile_state::reader::{FeedReader, Step, load, load_feed};
use serde_json::json;
use time::OffsetDateTime;

use crate::bench::{Bench, Benches};
use crate::samples::{NOW, db_user, delete, entity, key, mark, put, rotation};
use crate::torn::{Faults, TornStore};

type Store = Arc<dyn PolicyStore>;

/// Runs everything; `rounds` is how many changes the concurrent parts write.
pub(crate) async fn all(benches: &dyn Benches, rounds: u64) {
    set_up_makes_a_head_once(&*benches.fresh().await).await;
    a_change_is_seen_whole(&*benches.fresh().await).await;
    a_change_on_an_old_head_is_a_conflict(&*benches.fresh().await).await;
    rotations_are_entities_of_their_own(&*benches.fresh().await).await;
    what_is_not_legal_is_not_written(&*benches.fresh().await).await;
    the_log_is_kept_for_its_time(&*benches.fresh().await).await;
    many_pages_are_read(&*benches.fresh().await).await;
    a_restored_table_is_read_anew(&*benches.fresh().await).await;
    an_aged_out_log_is_read_anew(&*benches.fresh().await).await;
    what_is_not_understood_is_refused(&*benches.fresh().await).await;
    a_newer_feed_is_refused(&*benches.fresh().await).await;
    a_dropped_writer_leaves_no_half(&*benches.fresh().await, rounds).await;
    runtime_items(&*benches.fresh().await.runtime()).await;
    runtime_writers_do_not_lose_counts(benches.fresh().await.runtime(), rounds).await;
    for faults in
        [Faults::default(), Faults { lagging: 50, hidden: 5, throttled: 5, lost: 10, delay_us: 3_000 }]
    {
        writers_lose_nothing(&*benches.fresh().await, faults, rounds).await;
        a_reader_sees_each_change_once(&*benches.fresh().await, faults, rounds).await;
    }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(OffsetDateTime::from_unix_timestamp(NOW).unwrap()))
}

fn reader(store: &Store, feed: Feed) -> FeedReader<dyn PolicyStore> {
    FeedReader::new(Arc::clone(store), feed, clock())
}

async fn both_set_up(bench: &dyn Bench) -> Store {
    for feed in Feed::ALL {
        bench.policy().set_up(feed).await.unwrap();
    }
    bench.policy()
}

/// Commits on top of what is there.
async fn write(store: &Store, feed: Feed, changes: &[Change]) -> Head {
    let head = store.head(feed, Consistency::Strong).await.unwrap();
    store.commit(feed, &head, "suite", NOW, changes).await.unwrap()
}

/// Marks by id, as the store has them.
async fn marks(store: &Store, feed: Feed) -> BTreeMap<String, i64> {
    let (_, entities) = load_feed(&**store, feed).await.unwrap();
    entities.iter().map(|entity| (entity.key().id, mark(entity))).collect()
}

fn map(of: &[(&str, i64)]) -> BTreeMap<String, i64> {
    of.iter().map(|(id, mark)| ((*id).to_owned(), *mark)).collect()
}

async fn set_up_makes_a_head_once(bench: &dyn Bench) {
    let store = bench.policy();
    let missing = store.head(Feed::Access, Consistency::Strong).await;
    assert!(matches!(missing, Err(StoreError::NotSetUp("access"))), "{missing:?}");
    let head = store.set_up(Feed::Access).await.unwrap();
    assert_eq!((head.revision, head.min_log_revision, head.min_reader), (0, 1, READER_VERSION));
    assert_eq!(store.set_up(Feed::Access).await.unwrap(), head);
    let after = write(&store, Feed::Access, &[put(Feed::Access, "alice", 1)]).await;
    assert_eq!(store.set_up(Feed::Access).await.unwrap(), after);
    assert!(matches!(store.head(Feed::Inventory, Consistency::Strong).await, Err(StoreError::NotSetUp(_))));
    let other = store.set_up(Feed::Inventory).await.unwrap();
    assert_ne!(other.generation, head.generation);
}

async fn a_change_is_seen_whole(bench: &dyn Bench) {
    let store = both_set_up(bench).await;
    for feed in Feed::ALL {
        let first = [put(feed, "a", 1), put(feed, "b", 1)];
        let second = [put(feed, "a", 2), delete(feed, "b"), delete(feed, "never"), put(feed, "c", 2)];
        write(&store, feed, &first).await;
        let head = write(&store, feed, &second).await;
        assert_eq!(head, store.head(feed, Consistency::Strong).await.unwrap());
        assert_eq!(head.revision, 2);
        assert_eq!(marks(&store, feed).await, map(&[("a", 2), ("c", 2)]));
        let log = store.log_after(feed, 0).await.unwrap();
        assert_eq!(log.iter().map(|entry| entry.revision).collect::<Vec<_>>(), [1, 2]);
        assert_eq!((&log[0].changes[..], &log[1].changes[..]), (&first[..], &second[..]));
        assert_eq!((log[1].author.as_str(), log[1].at), ("suite", NOW));
        assert_eq!(log[1].generation, head.generation);
        assert_eq!(store.log_after(feed, 1).await.unwrap(), log[1..]);
        assert_eq!(store.log_after(feed, 2).await.unwrap(), []);
    }
    let loaded = load(&*store).await.unwrap();
    assert_eq!(loaded.policy.users().len(), 2);
    assert_eq!(loaded.policy.name_claims().count(), 2);
    assert_eq!((loaded.access.revision, loaded.inventory.revision), (2, 2));
}

/// Rotate's entities beside discovery's of the same ARN: each kind is a partition of its own, which is what IAM
/// separates the two writers by.
async fn rotations_are_entities_of_their_own(bench: &dyn Bench) {
    let store = both_set_up(bench).await;
    let (user, turning) = (db_user("app"), rotation("app"));
    let arn = user.arn.clone();
    let both = [
        Change::Put(Entity::DbUser(Box::new(user.clone()))),
        Change::Put(Entity::Rotation(Box::new(turning.clone()))),
    ];
    write(&store, Feed::Inventory, &both).await;
    let policy = load(&*store).await.unwrap().policy;
    assert_eq!(policy.rotation(&arn).map(|found| (**found).clone()), Some(turning.clone()));
    assert_eq!(policy.db_users().count(), 1);
    let log = store.log_after(Feed::Inventory, 0).await.unwrap();
    assert_eq!(log[0].changes, both);
    let key = EntityKey { kind: EntityKind::Rotation, id: arn.to_string() };
    write(&store, Feed::Inventory, &[Change::Delete(key.clone())]).await;
    let policy = load(&*store).await.unwrap().policy;
    assert_eq!((policy.rotation(&arn), policy.db_users().count()), (None, 1));
    // A newer shape is refused, not half-read.
    let newer =
        json!({"kind": "rotation", "body": {"arn": arn, "phase": "ready", "generation": 1, "moon": 1}});
    bench.plant_entity(key, newer.to_string()).await;
    assert!(matches!(load(&*store).await, Err(StoreError::Unreadable { .. })));
}

async fn a_change_on_an_old_head_is_a_conflict(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Inventory);
    let old = write(&store, feed, &[put(feed, "a", 1)]).await;
    write(&store, feed, &[put(feed, "a", 2)]).await;
    let late = store.commit(feed, &old, "late", NOW, &[put(feed, "a", 3), put(feed, "b", 3)]).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    let head = store.head(feed, Consistency::Strong).await.unwrap();
    let ahead = Head { revision: head.revision + 1, ..head.clone() };
    let foreign = Head { generation: "another".to_owned(), ..head.clone() };
    for wrong in [ahead, foreign] {
        let refused = store.commit(feed, &wrong, "late", NOW, &[put(feed, "b", 3)]).await;
        assert!(matches!(refused, Err(CommitError::Conflict)), "{refused:?}");
    }
    assert_eq!(marks(&store, feed).await, map(&[("a", 2)]));
    assert_eq!(store.head(feed, Consistency::Strong).await.unwrap(), head);
}

async fn what_is_not_legal_is_not_written(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Access);
    let head = store.head(feed, Consistency::Strong).await.unwrap();
    let many = |n: usize| (0..n).map(|i| put(feed, &format!("u{i}"), 1)).collect::<Vec<_>>();
    let large = match entity(feed, "large", 1) {
        Entity::User(mut user) => {
            user.traits.insert("x".to_owned(), vec!["y".repeat(MAX_LOG_BYTES)]);
            Change::Put(Entity::User(user))
        }
        other => panic!("{other:?}"),
    };
    let nameless = Change::Delete(EntityKey { id: String::new(), ..key(feed, "x") });
    let table = [
        (vec![], "empty"),
        (many(MAX_CHANGES + 1), "91 entities"),
        (vec![large], "bytes large"),
        (vec![put(feed, "a", 1), delete(feed, "a")], "twice"),
        (vec![put(Feed::Inventory, "a", 1)], "does not belong"),
        (vec![nameless], "bytes"),
    ];
    for (changes, reason) in table {
        match store.commit(feed, &head, "suite", NOW, &changes).await {
            Err(CommitError::Illegal(text)) => assert!(text.contains(reason), "{text}"),
            other => panic!("{reason}: {other:?}"),
        }
    }
    assert_eq!(store.head(feed, Consistency::Strong).await.unwrap(), head);
    store.commit(feed, &head, "suite", NOW, &many(MAX_CHANGES)).await.unwrap();
    assert_eq!(marks(&store, feed).await.len(), MAX_CHANGES);
}

async fn the_log_is_kept_for_its_time(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Inventory);
    let mut behind = reader(&store, feed);
    behind.poll().await.unwrap();
    let mut head = store.head(feed, Consistency::Strong).await.unwrap();
    let day = 24 * 3_600;
    for n in 0..3 {
        head = store.commit(feed, &head, "suite", NOW + n * day, &[put(feed, "a", n)]).await.unwrap();
    }
    assert_eq!(head.min_log_revision, 1);
    // The first is over its time, the second just within.
    let at = NOW + day + LOG_RETENTION_S;
    head = store.commit(feed, &head, "suite", at, &[put(feed, "a", 3)]).await.unwrap();
    assert_eq!((head.revision, head.min_log_revision), (4, 2));
    assert_eq!(store.head(feed, Consistency::Strong).await.unwrap(), head);
    assert!(matches!(behind.poll().await.unwrap(), Step::Reloaded { revision: 4, .. }));
    let far = at + 2 * LOG_RETENTION_S;
    head = store.commit(feed, &head, "suite", far, &[put(feed, "a", 4)]).await.unwrap();
    assert_eq!((head.revision, head.min_log_revision), (5, 5));
    // A reader that was at 4 needs only 5.
    assert!(matches!(behind.poll().await.unwrap(), Step::Delivered { revision: 5, .. }));
}

async fn many_pages_are_read(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Inventory);
    let ids: Vec<String> = (0..60).map(|i| format!("d{i}")).collect();
    let all: Vec<Change> = ids.iter().map(|id| put(feed, id, 1)).collect();
    write(&store, feed, &all).await;
    for id in ids.iter().take(20) {
        write(&store, feed, &[put(feed, id, 2)]).await;
    }
    let marks = marks(&store, feed).await;
    assert_eq!(marks.len(), 60);
    assert_eq!(marks.values().filter(|mark| **mark == 2).count(), 20);
    let log = store.log_after(feed, 1).await.unwrap();
    assert!(log.iter().map(|entry| entry.revision).eq(2..=21));
}

async fn a_restored_table_is_read_anew(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Access);
    write(&store, feed, &[put(feed, "a", 1)]).await;
    bench.back_up().await;
    let mut reader = reader(&store, feed);
    reader.poll().await.unwrap();
    write(&store, feed, &[put(feed, "a", 2), put(feed, "b", 2)]).await;
    assert!(matches!(reader.poll().await.unwrap(), Step::Delivered { revision: 2, .. }));
    let old = store.head(feed, Consistency::Strong).await.unwrap();
    bench.restore().await;
    // The same revision is reached again, by another change.
    write(&store, feed, &[put(feed, "c", 2)]).await;
    let Step::Reloaded { entities, revision } = reader.poll().await.unwrap() else { panic!("no reload") };
    let found: BTreeMap<String, i64> = entities.iter().map(|e| (e.key().id, mark(e))).collect();
    assert_eq!((found, revision), (map(&[("a", 1), ("c", 2)]), 2));
    let late = store.commit(feed, &old, "late", NOW, &[put(feed, "b", 3)]).await;
    assert!(matches!(late, Err(CommitError::Conflict)), "{late:?}");
    write(&store, feed, &[delete(feed, "c")]).await;
    let step = reader.poll().await.unwrap();
    assert_eq!(step, Step::Delivered { changes: vec![delete(feed, "c")], revision: 3 });
}

async fn an_aged_out_log_is_read_anew(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Access);
    for told in [true, false] {
        let mut reader = reader(&store, feed);
        reader.poll().await.unwrap();
        for n in 0..4 {
            write(&store, feed, &[put(feed, "a", n), delete(feed, "b")]).await;
        }
        let head = store.head(feed, Consistency::Strong).await.unwrap();
        bench.age_out(feed, head.revision - 1, told).await;
        let mut polls = 0;
        let step = loop {
            polls += 1;
            match reader.poll().await.unwrap() {
                Step::Nothing => assert!(polls < 10, "it never gives up on the gap"),
                step => break step,
            }
        };
        assert_eq!(polls == 1, told, "{polls} polls");
        assert!(matches!(step, Step::Reloaded { revision, .. } if revision == head.revision), "{step:?}");
        write(&store, feed, &[put(feed, "b", 9)]).await;
        assert!(matches!(reader.poll().await.unwrap(), Step::Delivered { .. }));
    }
}

async fn what_is_not_understood_is_refused(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Access);
    write(&store, feed, &[put(feed, "alice", 1)]).await;
    let mut reader = reader(&store, feed);
    reader.poll().await.unwrap();
    let named = |error: StoreError, name: &str| match error {
        StoreError::Unreadable { key, .. } => assert_eq!(key, name),
        other => panic!("{other:?}"),
    };
    let strange = [
        json!({"kind": "user", "body": {"name": "alice", "colour": "red"}}),
        json!({"kind": "user", "body": {"name": "alice"}, "extra": 1}),
        json!({"kind": "wizard", "body": {"name": "alice"}}),
        json!({"kind": "user", "body": {"name": "bob"}}),
        json!({"kind": "user", "body": {"name": ""}}),
        json!("alice"),
    ];
    for body in strange {
        bench.plant_entity(key(feed, "alice"), body.to_string()).await;
        named(load(&*store).await.unwrap_err(), "access#user/alice");
    }
    // The reader has what it had, and follows the log until that is not understood.
    assert_eq!(reader.poll().await.unwrap(), Step::Nothing);
    write(&store, feed, &[put(feed, "alice", 2)]).await;
    assert!(matches!(reader.poll().await.unwrap(), Step::Delivered { revision: 2, .. }));
    assert!(load(&*store).await.is_ok());
    bench.plant_log(feed, json!({"revision": 3, "sorcery": true}).to_string()).await;
    named(reader.poll().await.unwrap_err(), "access#log/3");
    assert_eq!(reader.place().unwrap().revision, 2);
}

async fn a_newer_feed_is_refused(bench: &dyn Bench) {
    let (store, feed) = (both_set_up(bench).await, Feed::Inventory);
    let mut reader = reader(&store, feed);
    reader.poll().await.unwrap();
    bench.set_min_reader(feed, READER_VERSION + 1).await;
    let current_at = reader.current_at();
    for _ in 0..2 {
        let error = reader.poll().await.unwrap_err();
        assert!(error.to_string().contains("upgrade"), "{error}");
        assert!(matches!(error, StoreError::Unreadable { .. }), "{error:?}");
    }
    assert_eq!(reader.current_at(), current_at);
    assert!(load(&*store).await.is_err());
    let head = store.head(feed, Consistency::Strong).await.unwrap();
    let refused = store.commit(feed, &head, "old", NOW, &[put(feed, "a", 1)]).await;
    assert!(matches!(refused, Err(CommitError::Store(StoreError::Unreadable { .. }))), "{refused:?}");
}

/// Writers are dropped in the middle, as a Lambda that is out of time.
async fn a_dropped_writer_leaves_no_half(bench: &dyn Bench, rounds: u64) {
    let (store, feed) = (both_set_up(bench).await, Feed::Inventory);
    for round in 0..rounds {
        let head = store.head(feed, Consistency::Strong).await.unwrap();
        let next = i64::try_from(head.revision).unwrap() + 1;
        let changes = [put(feed, "a", next), put(feed, "b", next), put(feed, "c", next)];
        let limit = Duration::from_micros(round * 400 % 9_000);
        drop(tokio::time::timeout(limit, store.commit(feed, &head, "dropped", NOW, &changes)).await);
    }
    // What was sent may still land.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let head = write(&store, feed, &[put(feed, "d", 0)]).await;
    let log = store.log_after(feed, 0).await.unwrap();
    assert!(log.iter().map(|entry| entry.revision).eq(1..=head.revision));
    let last = i64::try_from(head.revision).unwrap() - 1;
    let mut expected = map(&[("d", 0)]);
    if last > 0 {
        expected.extend(map(&[("a", last), ("b", last), ("c", last)]));
    }
    assert_eq!(marks(&store, feed).await, expected);
}

/// Each writer counts up a shared entity and its own, in one change.
async fn writers_lose_nothing(bench: &dyn Bench, faults: Faults, rounds: u64) {
    const WRITERS: u64 = 4;
    let (plain, feed) = (both_set_up(bench).await, Feed::Access);
    let each = i64::try_from(rounds / WRITERS).unwrap();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|n| {
            let store: Store = Arc::new(TornStore::new(Arc::clone(&plain), faults, n));
            tokio::spawn(async move {
                let own = format!("writer{n}");
                for count in 1..=each {
                    count_up(&store, feed, &own, count).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = each * i64::try_from(WRITERS).unwrap();
    let marks = marks(&plain, feed).await;
    assert_eq!(marks["shared"], total);
    assert!((0..WRITERS).all(|n| marks[&format!("writer{n}")] == each), "{marks:?}");
    let head = plain.head(feed, Consistency::Strong).await.unwrap();
    assert_eq!(head.revision, u64::try_from(total).unwrap(), "a revision was lost or written twice");
    let log = plain.log_after(feed, 0).await.unwrap();
    assert!(log.iter().map(|entry| entry.revision).eq(1..=head.revision));
}

/// Reads, plans, writes; after a conflict or an unknown fate it reads and plans again.
async fn count_up(store: &Store, feed: Feed, own: &str, count: i64) {
    loop {
        let Ok((head, entities)) = load_feed(&**store, feed).await else { continue };
        let found = |id: &str| entities.iter().find(|e| e.key().id == id).map_or(0, mark);
        if found(own) == count {
            return;
        }
        let changes = [put(feed, "shared", found("shared") + 1), put(feed, own, count)];
        match store.commit(feed, &head, own, NOW, &changes).await {
            Ok(_) => return,
            Err(CommitError::Conflict | CommitError::Store(StoreError::Unavailable(_))) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Every change marks all of its entities with its revision, so the reader can tell a half or lost one.
async fn a_reader_sees_each_change_once(bench: &dyn Bench, faults: Faults, rounds: u64) {
    let (plain, feed) = (both_set_up(bench).await, Feed::Inventory);
    let torn: Store = Arc::new(TornStore::new(Arc::clone(&plain), faults, 7));
    let writer = {
        let plain = Arc::clone(&plain);
        tokio::spawn(async move {
            for round in 1..=rounds {
                let n = i64::try_from(round).unwrap();
                let mut changes = vec![put(feed, "clock", n)];
                for id in ["a", "b", "c"] {
                    changes.push(if round % 5 == 0 { delete(feed, id) } else { put(feed, id, n) });
                }
                write(&plain, feed, &changes).await;
                tokio::time::sleep(Duration::from_micros(500 * (round % 4))).await;
            }
        })
    };
    let mut readers: Vec<(FeedReader<dyn PolicyStore>, BTreeMap<String, i64>)> = Vec::new();
    let mut polls = 0_u32;
    while readers.is_empty() || readers.iter().any(|(reader, _)| at(reader) < rounds) {
        polls += 1;
        assert!(polls < 20_000, "a reader does not arrive");
        if readers.len() < 6 {
            readers.push((reader(&torn, feed), BTreeMap::new()));
        }
        for (reader, seen) in &mut readers {
            let before = at(reader);
            let Ok(step) = reader.poll().await else { continue };
            take(step, seen, before);
            whole(seen, at(reader));
        }
        tokio::task::yield_now().await;
    }
    writer.await.unwrap();
    let expected = marks(&plain, feed).await;
    assert!(readers.iter().all(|(_, seen)| *seen == expected));
}

fn at(reader: &FeedReader<dyn PolicyStore>) -> u64 {
    reader.place().map_or(0, |place| place.revision)
}

/// Applies a step, each delivered change of which must be the next one.
fn take(step: Step, seen: &mut BTreeMap<String, i64>, before: u64) {
    match step {
        Step::Nothing => {}
        Step::Reloaded { entities, .. } => {
            *seen = entities.iter().map(|entity| (entity.key().id, mark(entity))).collect();
        }
        Step::Delivered { changes, revision } => {
            let clocks = changes.iter().filter_map(|change| match change {
                Change::Put(entity) if entity.key().id == "clock" => u64::try_from(mark(entity)).ok(),
                _ => None,
            });
            assert!(clocks.eq(before + 1..=revision), "not each change once and in order");
            for change in changes {
                match change {
                    Change::Put(entity) => drop(seen.insert(entity.key().id, mark(&entity))),
                    Change::Delete(key) => drop(seen.remove(&key.id)),
                }
            }
        }
    }
}

fn whole(seen: &BTreeMap<String, i64>, revision: u64) {
    let n = i64::try_from(revision).unwrap();
    let expected = match n {
        0 => map(&[]),
        n if n % 5 == 0 => map(&[("clock", n)]),
        n => map(&[("clock", n), ("a", n), ("b", n), ("c", n)]),
    };
    assert_eq!(*seen, expected, "half a change at revision {n}");
}

async fn runtime_items(store: &dyn RuntimeStore) {
    let key = |sort: &str| RuntimeKey::new("proxy#default", sort);
    assert_eq!(store.read(&key("b")).await.unwrap(), None);
    assert_eq!(store.write(&key("b"), None, Some(NOW), json!({"n": 1})).await.unwrap(), 1);
    assert_eq!(store.write(&key("b"), None, None, json!({"n": 2})).await.unwrap(), 2);
    let item = store.read(&key("b")).await.unwrap().unwrap();
    assert_eq!((item.version, item.expires_at, item.body), (2, None, json!({"n": 2})));
    assert_eq!(store.write(&key("a"), Some(0), Some(NOW), json!([])).await.unwrap(), 1);
    for (sort, expected) in [("a", 0), ("b", 1), ("b", 3), ("c", 1)] {
        let refused = store.write(&key(sort), Some(expected), None, json!(null)).await;
        assert!(matches!(refused, Err(CommitError::Conflict)), "{sort} {expected}: {refused:?}");
    }
    assert_eq!(store.write(&key("b"), Some(2), Some(NOW + 1), json!({"n": 3})).await.unwrap(), 3);
    for n in 0..9 {
        store.write(&key(&format!("c{n}")), None, None, json!(n)).await.unwrap();
    }
    store.write(&RuntimeKey::new("proxy#other", "x"), None, None, json!(1)).await.unwrap();
    let listed = store.list("proxy#default").await.unwrap();
    let sorts: Vec<&str> = listed.iter().map(|item| item.key.sort.as_str()).collect();
    assert_eq!(sorts, ["a", "b", "c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8"]);
    assert_eq!((listed[1].version, listed[1].expires_at), (3, Some(NOW + 1)));
    store.remove(&key("b")).await.unwrap();
    store.remove(&key("b")).await.unwrap();
    assert_eq!(store.read(&key("b")).await.unwrap(), None);
    assert_eq!(store.write(&key("b"), Some(0), None, json!(1)).await.unwrap(), 1);
    for (sort, body) in [("", json!(1)), ("large", json!("x".repeat(350 * 1024)))] {
        let refused = store.write(&key(sort), None, None, body).await;
        assert!(matches!(refused, Err(CommitError::Illegal(_))), "{refused:?}");
    }
}

async fn runtime_writers_do_not_lose_counts(store: Arc<dyn RuntimeStore>, rounds: u64) {
    const WRITERS: u64 = 4;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let key = RuntimeKey::new("prove", "count");
                for _ in 0..rounds / WRITERS {
                    loop {
                        let item = store.read(&key).await.unwrap();
                        let version = item.as_ref().map_or(0, |item| item.version);
                        let count = item.map_or(0, |item| item.body.as_u64().unwrap());
                        match store.write(&key, Some(version), None, json!(count + 1)).await {
                            Ok(_) => break,
                            Err(CommitError::Conflict) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let item = store.read(&RuntimeKey::new("prove", "count")).await.unwrap().unwrap();
    let total = rounds / WRITERS * WRITERS;
    assert_eq!((item.version, item.body), (total, json!(total)));
}
