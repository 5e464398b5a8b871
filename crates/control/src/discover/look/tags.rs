//! Joins tags in: those of the bulk list, and one by one, within bounds, what that list cannot say.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use keystile_model::arn::Arn;
use keystile_model::cloud::{CacheRecord, CloudError, GroupRecord, Record, Tags, UserRecord};
use keystile_model::db_user::DbUserService;
use tokio::task::JoinSet;

use super::super::seen::{SeenCache, SeenScope, SeenTags, SeenUsers};
use super::super::users::user_scope;
use super::listing::{Listed, PlaceLook};
use super::millis;
use crate::reading::Read;

/// Resources whose tags are asked for one by one in a place and run, at most.
const MAX_SINGLE_TAG_CALLS: usize = 200;
/// The bulk list of tags is eventually consistent: a resource younger than this that it lacks may have tags
/// all the same, in seconds.
const TAGS_SETTLE_S: i64 = 3_600;

impl PlaceLook {
    /// Joins tags in. What the bulk list cannot say is asked one by one, within bounds.
    pub(super) async fn with_tags(&self, mut listed: Listed, index: &TagIndex) -> SeenScope {
        let known = self.looking.known.by_arn();
        let mut tags: HashMap<String, SeenTags> = HashMap::new();
        let mut ask = Vec::new();
        for (cache, _) in &listed.caches {
            let known = known.get(cache.arn.as_str()).and_then(|k| k.values().next()).copied();
            match index.answer(cache, known.is_some()) {
                TagAnswer::Read(found) => {
                    tags.insert(cache.arn.clone(), SeenTags::Read(found.clone()));
                }
                TagAnswer::Absent if self.surely_untagged(cache, known) => {
                    tags.insert(cache.arn.clone(), SeenTags::Read(Tags::new()));
                }
                TagAnswer::Absent | TagAnswer::NotAllowed if ask.len() < MAX_SINGLE_TAG_CALLS => {
                    ask.extend(Arn::parse(cache.arn.clone()));
                }
                TagAnswer::Absent | TagAnswer::NotAllowed | TagAnswer::Failed => {}
            }
        }
        listed.calls += ask.len() as u64;
        tags.extend(self.ask_singly(ask).await);
        if let Some(failure) = index.failure.as_ref().filter(|failure| !not_allowed(failure)) {
            listed.failure = listed.failure.take().or_else(|| Some(failure.clone()));
        }
        let caches = std::mem::take(&mut listed.caches)
            .into_iter()
            .map(|(record, detail)| SeenCache {
                tags: tags.remove(&record.arn).unwrap_or(SeenTags::Unread),
                record,
                detail,
            })
            .collect();
        self.scope(listed, caches)
    }

    /// Whether a resource that the bulk list lacks has no tags for sure: it is old enough for that list, and
    /// nothing says that it had some.
    fn surely_untagged(
        &self,
        cache: &CacheRecord,
        known: Option<&keystile_model::database::Database>,
    ) -> bool {
        match known {
            Some(known) => {
                let labelled = known
                    .labels
                    .keys()
                    .any(|key| known.import_tags.contains(key) && !known.fixed_labels.contains_key(key));
                let wanted = self.looking.matchers.iter().any(|m| {
                    m.covers(&self.account, &self.place.region, cache.kind) && m.wants(&Tags::new())
                });
                !labelled && wanted
            }
            None => cache.created_at.is_some_and(|at| self.looking.now - at > TAGS_SETTLE_S),
        }
    }

    async fn ask_singly(&self, arns: Vec<Arn>) -> HashMap<String, SeenTags> {
        let mut tasks = JoinSet::new();
        for arn in arns {
            let (reader, place) = (self.reader.clone(), self.place.clone());
            tasks.spawn(async move {
                let answer = reader.tags_of(&place, &arn).await;
                (arn.to_string(), answer.map_or(SeenTags::Unread, SeenTags::Read))
            });
        }
        let mut answers = HashMap::new();
        while let Some(done) = tasks.join_next().await {
            answers.extend(done);
        }
        answers
    }

    pub(super) fn with_user_tags(
        &self,
        reads: Vec<(DbUserService, Read, Read)>,
        index: &TagIndex,
        mut extra_calls: u64,
    ) -> Vec<SeenUsers> {
        let mut all = Vec::new();
        for (service, users, groups) in reads {
            let failure = [&users.failure, &groups.failure, &index.failure];
            let failure = failure.into_iter().flatten().next().map(ToString::to_string);
            let calls = users.calls + groups.calls + std::mem::take(&mut extra_calls);
            let took = users.took.max(groups.took);
            let members = members_of(groups);
            let users = users.records.into_iter().filter_map(user).map(|mut user| {
                user.groups.extend(members.get(&user.id).into_iter().flatten().cloned());
                let tags = match index.tags.get(&user.arn) {
                    Some(tags) => SeenTags::Read(tags.clone()),
                    // A user that the bulk list lacks has no tags, or gets them with the next run.
                    None if index.failure.is_none() => SeenTags::Read(Tags::new()),
                    None => SeenTags::Unread,
                };
                (user, tags)
            });
            all.push(SeenUsers {
                id: user_scope(&self.account, &self.place.region, service),
                service,
                users: users.collect(),
                failure,
                calls,
                duration_ms: millis(took),
            });
        }
        all
    }
}

/// The bulk list of tags of a place.
pub(super) struct TagIndex {
    tags: HashMap<String, Tags>,
    failure: Option<CloudError>,
    pub(super) calls: u64,
    pub(super) took: Duration,
}

/// What the bulk list says of a resource.
enum TagAnswer<'a> {
    Read(&'a Tags),
    Absent,
    NotAllowed,
    Failed,
}

impl TagIndex {
    pub(super) fn new(read: Read) -> Self {
        let pair = |record| match record {
            Record::Tagged { arn, tags } => Some((arn, tags)),
            _ => None,
        };
        Self {
            tags: read.records.into_iter().filter_map(pair).collect(),
            failure: read.failure,
            calls: read.calls,
            took: read.took,
        }
    }

    fn answer(&self, cache: &CacheRecord, known: bool) -> TagAnswer<'_> {
        match (self.tags.get(&cache.arn), &self.failure) {
            (Some(tags), _) => TagAnswer::Read(tags),
            (None, None) => TagAnswer::Absent,
            // A known one keeps its labels; asking for each of thousands would not be bulk.
            (None, Some(failure)) if not_allowed(failure) && !known => TagAnswer::NotAllowed,
            (None, Some(_)) => TagAnswer::Failed,
        }
    }
}

/// Groups of each user, by the user's id.
fn members_of(groups: Read) -> HashMap<String, BTreeSet<String>> {
    let mut members: HashMap<String, BTreeSet<String>> = HashMap::new();
    for record in groups.records {
        if let Record::Group(GroupRecord { id, users }) = record {
            for user in users {
                members.entry(user).or_default().insert(id.clone());
            }
        }
    }
    members
}

fn not_allowed(failure: &CloudError) -> bool {
    matches!(failure, CloudError::Forbidden(_))
}

fn user(record: Record) -> Option<UserRecord> {
    if let Record::User(user) = record { Some(user) } else { None }
}
