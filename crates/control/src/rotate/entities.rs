//! What the proxies must know: rotate's entities of the inventory feed, made equal to the rows.

use keystile_model::arn::Arn;
use keystile_model::feed::{Change, Entity, EntityKey, EntityKind, Feed};
use keystile_model::policy::Policy;
use keystile_model::rotation::row::{RotationRow, RotationState};
use keystile_model::store::{Consistency, PolicyStore};

use super::AUTHOR;
use crate::commit::{self, Outcome, Unit};

/// How often a change is tried again because discovery wrote at the same time.
const TRIES: usize = 10;

/// One entity: written alone or with others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told(Vec<Change>);

impl Unit for Told {
    fn changes(&self) -> &[Change] {
        &self.0
    }
}

/// What differs between the rows and what the feed says.
pub(crate) fn changes(policy: &Policy, rows: &[RotationRow], forgotten: &[Arn]) -> Vec<Told> {
    let mut changes = Vec::new();
    for row in rows {
        let known = policy.rotation(&row.arn);
        if matches!(row.state, RotationState::Withdrawn { .. }) {
            changes.extend(known.map(|_| delete(&row.arn)));
            continue;
        }
        let wanted = row.projection();
        if known.is_none_or(|known| **known != wanted) {
            changes.push(Told(vec![Change::Put(Entity::Rotation(Box::new(wanted)))]));
        }
    }
    changes.extend(forgotten.iter().filter(|arn| policy.rotation(arn).is_some()).map(delete));
    changes
}

fn delete(arn: &Arn) -> Told {
    Told(vec![Change::Delete(EntityKey { kind: EntityKind::Rotation, id: arn.to_string() })])
}

/// Writes them: nobody else writes these entities, so after a conflict the same changes are tried again on the
/// new head. Answers how many changes of the feed that were.
pub(crate) async fn write(store: &dyn PolicyStore, now: i64, changes: &[Told]) -> Result<usize, String> {
    let (mut rest, mut commits, mut why) = (changes, 0, String::new());
    for _ in 0..TRIES {
        if rest.is_empty() {
            return Ok(commits);
        }
        let head =
            store.head(Feed::Inventory, Consistency::Strong).await.map_err(|error| error.to_string())?;
        let (written, made, outcome) = commit::write(store, Feed::Inventory, head, AUTHOR, now, rest).await;
        commits += made;
        rest = rest.get(written..).unwrap_or_default();
        match outcome {
            Outcome::Done => return Ok(commits),
            Outcome::Stale(reason) => why = reason,
            Outcome::Failed(error) => return Err(error.to_string()),
        }
    }
    Err(why)
}
