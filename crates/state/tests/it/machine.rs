//! A simple model drives the store and a reader: commits, torn reads, restores, aged-out logs, outages.
//!
//! The model is a list of maps, one for each revision. Whatever happened, a reader that stands at revision r
//! must have the map of r, and once nothing happens any more it must arrive at the last.

use std::collections::BTreeMap;
use std::sync::Arc;

use keystile_model::feed::{Change, Feed};
use keystile_model::store::{CommitError, Consistency, PolicyStore, StoreError};
use keystile_state::memory::{Backup, ManualClock, MemoryStore};
use keystile_state::reader::{FeedReader, Step};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use time::OffsetDateTime;

use crate::samples::{NOW, delete, mark, put};
use crate::torn::{Faults, TornStore};

const FEED: Feed = Feed::Access;
const IDS: [&str; 4] = ["a", "b", "c", "d"];

/// One step for each of [`IDS`]: leave it, put this mark, or delete it.
type Steps = [Option<Option<i64>>; 4];
type Marks = BTreeMap<String, i64>;

#[derive(Debug, Clone)]
enum Action {
    Commit(Steps),
    CommitOnOldHead(Steps),
    /// A poll in the middle of whose queries these changes land.
    Poll(Vec<Steps>),
    NewReader,
    BackUp,
    Restore,
    /// The log keeps this many entries; the flag says whether the head knows.
    AgeOut(u64, bool),
    PollInOutage,
    Settle,
}

#[derive(Debug, Clone)]
struct Model {
    revisions: Vec<Marks>,
    backup: Option<Vec<Marks>>,
}

impl Model {
    fn commit(&mut self, steps: &Steps) {
        let mut next = self.revisions.last().cloned().unwrap_or_default();
        for (id, step) in IDS.iter().zip(steps) {
            match step {
                None => {}
                Some(Some(mark)) => drop(next.insert((*id).to_owned(), *mark)),
                Some(None) => drop(next.remove(*id)),
            }
        }
        self.revisions.push(next);
    }
}

fn steps() -> impl Strategy<Value = Steps> {
    prop::array::uniform4(prop::option::of(prop::option::weighted(0.7, 0..1_000_i64)))
        .prop_filter("a change changes something", |steps| steps.iter().any(Option::is_some))
}

fn changes(steps: &Steps) -> Vec<Change> {
    let step = |(id, step): (&&str, &Option<Option<i64>>)| match step {
        None => None,
        Some(Some(mark)) => Some(put(FEED, id, *mark)),
        Some(None) => Some(delete(FEED, id)),
    };
    IDS.iter().zip(steps).filter_map(step).collect()
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Action;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self { revisions: vec![Marks::new()], backup: None }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Action> {
        prop_oneof![
            6 => steps().prop_map(Action::Commit),
            1 => steps().prop_map(Action::CommitOnOldHead),
            8 => prop::collection::vec(steps(), 0..4).prop_map(Action::Poll),
            1 => Just(Action::NewReader),
            1 => Just(Action::BackUp),
            1 => Just(Action::Restore),
            1 => (0..4_u64, any::<bool>()).prop_map(|(kept, told)| Action::AgeOut(kept, told)),
            1 => Just(Action::PollInOutage),
            1 => Just(Action::Settle),
        ]
        .boxed()
    }

    fn preconditions(state: &Self, action: &Action) -> bool {
        match action {
            Action::Restore => state.backup.is_some(),
            Action::CommitOnOldHead(_) => state.revisions.len() > 1,
            _ => true,
        }
    }

    fn apply(mut state: Self, action: &Action) -> Self {
        match action {
            Action::Commit(steps) => state.commit(steps),
            Action::Poll(landing) => landing.iter().for_each(|steps| state.commit(steps)),
            Action::BackUp => state.backup = Some(state.revisions.clone()),
            Action::Restore => state.revisions = state.backup.clone().unwrap_or_default(),
            _ => {}
        }
        state
    }
}

struct System {
    runtime: tokio::runtime::Runtime,
    memory: Arc<MemoryStore>,
    torn: Arc<TornStore>,
    reader: FeedReader<TornStore>,
    seen: Marks,
    backup: Option<Backup>,
}

fn new_reader(torn: &Arc<TornStore>) -> FeedReader<TornStore> {
    let clock = ManualClock::new(OffsetDateTime::from_unix_timestamp(NOW).unwrap());
    FeedReader::new(Arc::clone(torn), FEED, Arc::new(clock))
}

impl System {
    fn poll(&mut self) -> Result<(), StoreError> {
        let before = self.reader.place().cloned();
        let step = self.runtime.block_on(self.reader.poll());
        let place = self.reader.place().cloned();
        match step? {
            Step::Nothing => {}
            Step::Reloaded { entities, revision } => {
                assert_eq!(place.map(|place| place.revision), Some(revision));
                self.seen = entities.iter().map(|entity| (entity.key().id, mark(entity))).collect();
            }
            Step::Delivered { changes, revision } => {
                let (before, place) = (before.unwrap(), place.unwrap());
                assert_eq!((&place.generation, place.revision), (&before.generation, revision));
                assert!(revision > before.revision && !changes.is_empty());
                for change in changes {
                    match change {
                        Change::Put(entity) => drop(self.seen.insert(entity.key().id, mark(&entity))),
                        Change::Delete(key) => drop(self.seen.remove(&key.id)),
                    }
                }
            }
        }
        Ok(())
    }

    fn commit(&self, steps: &Steps, back: u64) -> Result<(), CommitError> {
        self.runtime.block_on(async {
            let mut head = self.memory.head(FEED, Consistency::Strong).await?;
            head.revision -= back;
            self.memory.commit(FEED, &head, "machine", NOW, &changes(steps)).await.map(drop)
        })
    }

    /// What the reader has is what there was at the revision where it stands.
    fn check(&self, model: &Model) {
        let Some(place) = self.reader.place() else { return };
        let head = self.runtime.block_on(self.memory.head(FEED, Consistency::Strong)).unwrap();
        if place.generation != head.generation {
            return;
        }
        let expected = usize::try_from(place.revision).ok().and_then(|at| model.revisions.get(at));
        assert_eq!(Some(&self.seen), expected, "at revision {}", place.revision);
    }
}

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let memory = Arc::new(MemoryStore::new());
        runtime.block_on(memory.set_up(FEED)).unwrap();
        let faults = Faults { lagging: 40, hidden: 30, ..Faults::default() };
        let torn = Arc::new(TornStore::new(Arc::clone(&memory) as _, faults, 11));
        let reader = new_reader(&torn);
        Self { runtime, memory, torn, reader, seen: Marks::new(), backup: None }
    }

    fn apply(mut system: Self, model: &Model, action: Action) -> Self {
        match action {
            Action::Commit(steps) => system.commit(&steps, 0).unwrap(),
            Action::CommitOnOldHead(steps) => {
                assert!(matches!(system.commit(&steps, 1), Err(CommitError::Conflict)));
            }
            Action::Poll(landing) => {
                landing.iter().for_each(|steps| system.torn.land(FEED, changes(steps)));
                system.poll().unwrap();
                system.runtime.block_on(system.torn.land_rest());
                system.check(model);
            }
            Action::NewReader => {
                system.reader = new_reader(&system.torn);
                system.seen.clear();
            }
            Action::BackUp => system.backup = Some(system.memory.backup()),
            Action::Restore => system.memory.restore(system.backup.as_ref().unwrap()),
            Action::AgeOut(kept, told) => {
                let newest = u64::try_from(model.revisions.len()).unwrap();
                system.memory.age_out_log(FEED, newest.saturating_sub(kept).max(1), told);
            }
            Action::PollInOutage => {
                system.memory.set_outage(Some(StoreError::Unavailable("away".to_owned())));
                let (place, at) = (system.reader.place().cloned(), system.reader.current_at());
                assert!(system.poll().is_err());
                assert_eq!((system.reader.place().cloned(), system.reader.current_at()), (place, at));
                system.memory.set_outage(None);
            }
            Action::Settle => {
                // Ten polls see the head strongly once, five more give up on a gap.
                for _ in 0..15 {
                    system.poll().unwrap();
                }
                let last = u64::try_from(model.revisions.len()).unwrap() - 1;
                assert_eq!(system.reader.place().map(|place| place.revision), Some(last));
                system.check(model);
            }
        }
        system
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_has_what_there_was(sequential 1..40 => System);
}
