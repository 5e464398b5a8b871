//! Which labels change: pure, from the tags that were read and the databases that stand.

use std::collections::{BTreeSet, HashMap};

use keystile_model::cloud::Tags;
use keystile_model::database::Database;
use keystile_model::feed::{Change, Entity};
use keystile_model::labels::{self, Labels};

use crate::commit::Unit;

/// A database whose labels change.
#[derive(Debug, Clone)]
pub struct LabelStep {
    /// As it stood.
    pub before: Database,
    /// With its new labels.
    pub after: Database,
    changes: [Change; 1],
}

impl Unit for LabelStep {
    fn changes(&self) -> &[Change] {
        &self.changes
    }
}

/// What to write. `tags` has only resources whose tags were read; any other keeps its labels, and so does one
/// with faulty tags.
#[must_use]
pub fn plan_sync<'a>(
    tags: &HashMap<String, Tags>,
    databases: impl IntoIterator<Item = &'a Database>,
) -> Vec<LabelStep> {
    let mut steps: Vec<LabelStep> = databases
        .into_iter()
        .filter_map(|database| {
            let tags = tags.get(database.arn.as_ref()?.as_str())?;
            if labels::tag_fault(tags).is_some() {
                return None;
            }
            let labels = labels_of(database, tags);
            (labels != database.labels).then(|| {
                let after = Database { labels, ..database.clone() };
                let changes = [Change::Put(Entity::Database(Box::new(after.clone())))];
                LabelStep { before: database.clone(), after, changes }
            })
        })
        .collect();
    steps.sort_by(|a, b| a.before.name.cmp(&b.before.name));
    steps
}

/// Its own labels as they are; the rest from the tags, fixed ones over them.
fn labels_of(database: &Database, tags: &Tags) -> Labels {
    let owned = database.labels.iter().filter(|(key, _)| labels::is_owned(key));
    let mut all = labels::imported(tags, &database.import_tags, &database.fixed_labels);
    all.extend(owned.map(|(key, value)| (key.clone(), value.clone())));
    all
}

/// Key, before and after, of each label that differs.
#[must_use]
pub fn label_differences(before: &Labels, after: &Labels) -> Vec<(String, Option<String>, Option<String>)> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| (key.clone(), before.get(key).cloned(), after.get(key).cloned()))
        .collect()
}
