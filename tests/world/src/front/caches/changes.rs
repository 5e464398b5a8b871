//! Changes that take a while: `modifying`, then one server after another, then `active`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use tracing::warn;

use super::users::effects;
use super::{Cache, Clouds, Family, World};
use crate::fixture::CacheAuth;
use crate::servers::Node;
use crate::world::paths::replace_file;

/// What a server must be told of one user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Set { name: String, auth: CacheAuth, access: String },
    Remove { name: String },
}

/// A change in flight: what it keeps `modifying`, and whom it is about.
#[derive(Debug)]
#[must_use = "a change that is not run stays in flight for ever"]
pub(crate) struct Change {
    account: String,
    region: String,
    family: Family,
    /// The users that change themselves.
    about: Vec<String>,
    /// All users that are `modifying` by it: those, and all of the touched groups.
    held: BTreeSet<String>,
    groups: Vec<String>,
}

impl Change {
    /// Marks the users, the groups and all users of these groups.
    pub(crate) fn start(world: &mut World, family: Family, about: Vec<String>, groups: Vec<String>) -> Self {
        let mut held: BTreeSet<String> = about.iter().cloned().collect();
        for id in &groups {
            if let Some(group) = world.groups.get_mut(&(family, id.clone())) {
                group.busy += 1;
                held.extend(group.users.iter().chain(&group.to_add).cloned());
            }
        }
        for id in &held {
            if let Some(user) = world.users.get_mut(&(family, id.clone())) {
                user.busy += 1;
            }
        }
        let (account, region) = (world.account.clone(), world.region.clone());
        Self { account, region, family, about, held, groups }
    }

    /// Everything settles: members come and go, deleted users vanish.
    fn finish(self, world: &mut World) {
        for id in &self.groups {
            if let Some(group) = world.groups.get_mut(&(self.family, id.clone())) {
                let (add, remove) = (std::mem::take(&mut group.to_add), std::mem::take(&mut group.to_remove));
                group.users.retain(|user| !remove.contains(user));
                group.users.extend(add);
                group.busy -= 1;
            }
        }
        for id in &self.held {
            let key = (self.family, id.clone());
            if let Some(user) = world.users.get_mut(&key) {
                user.busy -= 1;
                if user.deleting {
                    world.users.remove(&key);
                    let arn = world.arn(self.family, "user", id);
                    world.tags.remove(&arn);
                }
            }
        }
    }

    fn steps(&self, world: &World) -> Vec<Step> {
        let groups = self.groups.iter().filter_map(|id| world.groups.get(&(self.family, id.clone())));
        groups
            .flat_map(|group| {
                let effects = effects(world, self.family, &self.about, group);
                world
                    .caches_with(self.family, &group.id)
                    .flat_map(move |cache| steps_of(cache, &effects))
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

/// What one server process must be told.
#[derive(Debug, Clone)]
struct Step {
    node: Node,
    users_file: Option<PathBuf>,
    effects: Vec<Effect>,
}

fn steps_of(cache: &Cache, effects: &[Effect]) -> Vec<Step> {
    // Only real servers have such a file; all others are names in the API.
    if cache.users_file.is_none() {
        return Vec::new();
    }
    let step = |node: &Node| Step {
        node: node.clone(),
        users_file: cache.users_file.clone(),
        effects: effects.to_vec(),
    };
    cache.nodes.iter().map(step).collect()
}

impl Clouds {
    /// Lets a change take its time in the background.
    pub(crate) fn run(self: &Arc<Self>, change: Change) {
        let clouds = Arc::clone(self);
        tokio::spawn(async move {
            let half = clouds.settings.update_delay / 2;
            tokio::time::sleep(half).await;
            let steps = clouds.with(&change.account, &change.region, |world| change.steps(world));
            let pause = half / u32::try_from(steps.len().max(1)).unwrap_or(1);
            for step in &steps {
                clouds.tell(step).await;
                tokio::time::sleep(pause).await;
            }
            if steps.is_empty() {
                tokio::time::sleep(half).await;
            }
            let (account, region) = (change.account.clone(), change.region.clone());
            clouds.with(&account, &region, |world| change.finish(world));
        });
    }

    async fn tell(&self, step: &Step) {
        if let Some(path) = &step.users_file
            && let Err(error) = update_users_file(path, &step.effects)
        {
            warn!("cannot write the users for the IAM module: {error:#}");
        }
        let Some(admin) = &self.admin else { return };
        if let Err(error) = admin.apply(step.node.port, &step.effects).await {
            warn!(node = %step.node.id, "cannot bring users to a server: {error:#}");
        }
    }
}

/// The module reads which users log in with IAM tokens.
fn update_users_file(path: &Path, effects: &[Effect]) -> anyhow::Result<()> {
    let known: serde_json::Value =
        std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let before: BTreeMap<String, serde_json::Value> =
        known.get("users").cloned().and_then(|users| serde_json::from_value(users).ok()).unwrap_or_default();
    let mut users = before.clone();
    for effect in effects {
        match effect {
            Effect::Set { name, auth: CacheAuth::Iam, .. } => {
                users.insert(name.clone(), json!({"auth": "iam"}))
            }
            Effect::Set { name, .. } => users.insert(name.clone(), json!({"auth": "other"})),
            Effect::Remove { name } => users.remove(name),
        };
    }
    if users != before || !path.exists() {
        replace_file(path, json!({ "users": users }).to_string().as_bytes())?;
    }
    Ok(())
}
