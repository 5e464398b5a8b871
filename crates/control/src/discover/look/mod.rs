//! Looks at every account, region and type that the matchers name, all places at once, and joins what
//! belongs together. Judges nothing: a list that failed is kept with its reason.
//!
//! [`listing`] looks at one place; [`tags`] joins the tags in.

mod listing;
mod tags;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use keystile_model::cloud::{List, Place, Record};
use keystile_model::database::{AssumeRole, DatabaseKind};
use tokio::task::JoinSet;

use super::seen::{Known, Seen};
use crate::matchers::ReadyMatcher;
use crate::reading::Reader;
use listing::PlaceLook;

/// What the run already knows and wants, for all places.
#[derive(Debug, Clone)]
pub struct Looking {
    /// The matchers.
    pub matchers: std::sync::Arc<Vec<ReadyMatcher>>,
    /// What was known.
    pub known: std::sync::Arc<Known>,
    /// When the details of groups were last read, by account and region, in Unix seconds.
    pub details_read: std::sync::Arc<BTreeMap<String, i64>>,
    /// Our own account.
    pub home_account: String,
    /// Our own region: where the account API is asked.
    pub home_region: String,
    /// Whether only db users are wanted.
    pub only_users: bool,
    /// Now, in Unix seconds.
    pub now: i64,
}

/// Sees everything.
pub async fn look(reader: &Reader, looking: &Looking) -> Seen {
    let mut seen = Seen {
        home_account: looking.home_account.clone(),
        looked_for_caches: !looking.only_users,
        ..Seen::default()
    };
    let places = places(reader, looking, &mut seen.uncertain).await;
    let mut tasks = JoinSet::new();
    for ((account, _), (place, kinds)) in places {
        let reader = reader.clone();
        let looking = looking.clone();
        tasks.spawn(async move { PlaceLook { reader, looking, account, place, kinds }.look().await });
    }
    while let Some(done) = tasks.join_next().await {
        let Ok(found) = done else { continue };
        seen.scopes.extend(found.scopes);
        seen.users.extend(found.users);
        seen.details_read.extend(found.details_read);
    }
    seen.scopes.sort_by(|a, b| a.id.cmp(&b.id));
    seen.users.sort_by(|a, b| a.id.cmp(&b.id));
    seen
}

type Places = BTreeMap<(String, String), (Place, BTreeSet<DatabaseKind>)>;

/// Account and region of each place, with the types to look for. Of several roles into one account the first
/// matcher's is used.
async fn places(reader: &Reader, looking: &Looking, uncertain: &mut BTreeMap<String, String>) -> Places {
    let mut places = Places::new();
    let mut enabled: HashMap<Option<AssumeRole>, Result<Vec<String>, String>> = HashMap::new();
    for matcher in looking.matchers.iter() {
        let role = matcher.role();
        let mut regions: BTreeSet<String> =
            matcher.spec.regions.iter().filter(|region| *region != "*").cloned().collect();
        if matcher.spec.regions.contains("*") {
            if !enabled.contains_key(&role) {
                let answer = enabled_regions(reader, looking, role.clone()).await;
                enabled.insert(role.clone(), answer);
            }
            match &enabled[&role] {
                Ok(all) => regions.extend(all.iter().cloned()),
                Err(why) => {
                    uncertain.insert(matcher.account.clone(), why.clone());
                }
            }
        }
        for region in regions {
            let place = || Place { role: role.clone(), region: region.clone() };
            let key = (matcher.account.clone(), region.clone());
            let entry = places.entry(key).or_insert_with(|| (place(), BTreeSet::new()));
            entry.1.extend(matcher.spec.types.iter().copied());
        }
    }
    places
}

async fn enabled_regions(
    reader: &Reader,
    looking: &Looking,
    role: Option<AssumeRole>,
) -> Result<Vec<String>, String> {
    let place = Place { role, region: looking.home_region.clone() };
    let read = reader.all(&place, &List::Regions).await;
    match read.failure {
        Some(error) => Err(error.to_string()),
        None => Ok(read
            .records
            .into_iter()
            .filter_map(|record| if let Record::Region(name) = record { Some(name) } else { None })
            .collect()),
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
