//! One account and region in a tick: under a lease, its users are listed once, turns are dealt out, and each
//! row takes its step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keystile_model::arn::Arn;
use keystile_model::cloud::Place;
use keystile_model::db_user::DbUserService;
use keystile_model::report::DiscoveryReport;
use keystile_model::rotation::ports::{CacheUser, CallError, UserStatus};
use keystile_model::rotation::report::{Failed, RotationReport};
use keystile_model::rotation::row::RotationRow;
use keystile_model::runtime::rotate_lease;
use tokio::sync::Semaphore;

use super::Stored;
use super::about::About;
use super::groups::{Grant, Member, grants};
use super::log::Events;
use super::machine::Wanted;
use super::period::{Period, period, usual_update_s};
use super::settings::Settings;
use super::step::{Done, Outcome, Ports, Turn, foresee, step};
use super::telling::{foretell, take};
use super::wanted::{self, Listings};
use crate::lease;

/// How long a tick keeps others away, in seconds.
const LEASE_S: i64 = 60;

/// One account and region.
#[derive(Debug)]
pub(crate) struct Scope {
    pub(crate) account: String,
    pub(crate) region: String,
    pub(crate) users: Vec<Known>,
}

/// A row with what the policy says of it.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) stored: Stored,
    pub(crate) about: About,
}

/// What all scopes of a tick share.
pub(crate) struct ScopeJob {
    pub(crate) ports: Ports,
    pub(crate) settings: Settings,
    pub(crate) events: Events,
    pub(crate) listing: Option<DiscoveryReport>,
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
    pub(crate) allow_removals: bool,
    pub(crate) deadline: tokio::time::Instant,
}

/// What came of a scope.
#[derive(Debug, Default)]
pub(crate) struct ScopeDone {
    pub(crate) rows: Vec<RotationRow>,
    pub(crate) forgotten: Vec<Arn>,
    pub(crate) report: RotationReport,
}

impl ScopeJob {
    /// Moves every row of the scope by at most one step.
    pub(crate) async fn run(self: &Arc<Self>, scope: Scope) -> ScopeDone {
        let mut done = ScopeDone::default();
        let name = rotate_lease(&scope.account, &scope.region);
        let owner = uuid::Uuid::new_v4().to_string();
        let now = self.ports.clock.now().unix_timestamp();
        let held = if self.dry_run {
            None
        } else {
            match lease::acquire(&*self.ports.runtime, &name, &owner, now, LEASE_S).await {
                Ok(Some(held)) => Some(held),
                Ok(None) => {
                    let text = format!("{} {}: another tick is under way", scope.account, scope.region);
                    done.report.warnings.push(text);
                    return done;
                }
                Err(error) => {
                    done.report.alarms.push(format!("{} {}: {error}", scope.account, scope.region));
                    return done;
                }
            }
        };
        self.under_lease(scope, now, &mut done).await;
        if let Some(held) = held
            && let Err(error) = lease::release(&*self.ports.runtime, held).await
        {
            tracing::warn!(%error, "the lease was not given back; it ends by itself");
        }
        done
    }

    async fn under_lease(self: &Arc<Self>, scope: Scope, now: i64, done: &mut ScopeDone) {
        let label = format!("{} {}", scope.account, scope.region);
        let Some((place, users)) = self.list(&scope, &label, done).await else { return };
        let by_arn: BTreeMap<&str, &CacheUser> =
            users.iter().map(|(_, user)| (user.arn.as_str(), user)).collect();
        let turns = self.turns(scope, &place, &users, &by_arn, &label, now, done);
        if self.dry_run {
            return self.foretell(turns, now, done).await;
        }
        let room = Arc::new(Semaphore::new(self.settings.concurrency.max(1)));
        let slow = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut tasks = tokio::task::JoinSet::new();
        for turn in turns {
            let (job, room, slow) = (Arc::clone(self), Arc::clone(&room), Arc::clone(&slow));
            tasks.spawn(async move { job.one(turn, &room, &slow).await });
        }
        while let Some(result) = tasks.join_next().await {
            match result {
                Ok((before, finished)) => take(before, finished, now, done),
                Err(error) => done.report.alarms.push(format!("{label}: a step was not finished: {error}")),
            }
        }
    }

    /// What the tick would do.
    async fn foretell(self: &Arc<Self>, turns: Vec<Turn>, now: i64, done: &mut ScopeDone) {
        let room = Arc::new(Semaphore::new(self.settings.concurrency.max(1)));
        let mut tasks = tokio::task::JoinSet::new();
        for turn in turns {
            let (job, room) = (Arc::clone(self), Arc::clone(&room));
            tasks.spawn(async move {
                let _room = room.acquire().await;
                // Only a takeover depends on more than the row: on secrets of Teleport's, or somebody else's.
                let looked = if turn.row.taken {
                    None
                } else {
                    let look = foresee(&job.ports, &job.settings, &job.events, turn.clone());
                    let late = |_| Err("there was no time for it".to_owned());
                    Some(tokio::time::timeout_at(job.deadline, look).await.unwrap_or_else(late))
                };
                (turn, looked)
            });
        }
        while let Some(Ok((turn, looked))) = tasks.join_next().await {
            foretell(&turn, looked, self.force, now, &mut done.report);
            done.rows.push(turn.row);
        }
        done.report.take_over.sort();
        done.report.queued.sort();
        done.report.left_alone.sort();
    }

    /// One row's step, within the tick's time; after a throttled call nothing else of the scope is begun.
    async fn one(
        &self,
        turn: Turn,
        room: &Semaphore,
        slow: &std::sync::atomic::AtomicBool,
    ) -> (RotationRow, Done) {
        use std::sync::atomic::Ordering;
        let before = turn.row.clone();
        let _room = room.acquire().await;
        let waited = |why| Done { row: before.clone(), forgotten: false, outcome: Outcome::Waited(why) };
        if slow.load(Ordering::Relaxed) {
            let done = waited("AWS asked for fewer calls");
            return (before, done);
        }
        let work = step(&self.ports, &self.settings, &self.events, turn);
        let done = match tokio::time::timeout_at(self.deadline, work).await {
            Ok(done) => done,
            Err(_) => Done {
                row: before.clone(),
                forgotten: false,
                outcome: Outcome::Stale("the tick ran out of time".to_owned()),
            },
        };
        if matches!(done.outcome, Outcome::Failed(CallError::Throttled(_))) {
            slow.store(true, Ordering::Relaxed);
        }
        (before, done)
    }

    /// Lists the users of the services that matter; none if that was not possible.
    async fn list(
        &self,
        scope: &Scope,
        label: &str,
        done: &mut ScopeDone,
    ) -> Option<(Place, Vec<(DbUserService, CacheUser)>)> {
        let Some(reachable) = scope.users.iter().find(|known| known.about.reachable) else {
            done.rows.extend(scope.users.iter().map(|known| known.stored.row.clone()));
            done.report
                .warnings
                .push(format!("{label}: no matcher names a role for this account: nothing is rotated"));
            return None;
        };
        let place = Place { role: reachable.about.role.clone(), region: scope.region.clone() };
        let services: BTreeSet<DbUserService> =
            scope.users.iter().map(|known| known.stored.row.service).collect();
        let mut users = Vec::new();
        for service in services {
            done.report.calls += 1;
            let listed = self.ports.users.users(&place, service);
            match tokio::time::timeout_at(self.deadline, listed).await {
                Ok(Ok(found)) => users.extend(found.into_iter().map(|user| (service, user))),
                Ok(Err(error)) => {
                    done.report.failed.push(Failed {
                        name: label.to_owned(),
                        arn: String::new(),
                        kind: error.kind().to_owned(),
                        text: format!("the users could not be listed: {error}"),
                    });
                    done.report.complete = false;
                    done.rows.extend(scope.users.iter().map(|known| known.stored.row.clone()));
                    return None;
                }
                Err(_) => {
                    done.report.warnings.push(format!("{label}: the users could not be listed in time"));
                    done.rows.extend(scope.users.iter().map(|known| known.stored.row.clone()));
                    return None;
                }
            }
        }
        Some((place, users))
    }

    #[expect(clippy::too_many_arguments, reason = "one tick's facts, each used once")]
    fn turns(
        &self,
        scope: Scope,
        place: &Place,
        users: &[(DbUserService, CacheUser)],
        by_arn: &BTreeMap<&str, &CacheUser>,
        label: &str,
        now: i64,
        done: &mut ScopeDone,
    ) -> Vec<Turn> {
        let mut known = scope.users;
        let before: Vec<RotationRow> = known.iter().map(|known| known.stored.row.clone()).collect();
        let wanted = self.wanted(&mut known, label, done);
        let rows: BTreeMap<&str, &RotationRow> =
            known.iter().map(|known| (known.stored.row.arn.as_str(), &known.stored.row)).collect();
        let members: Vec<Member<'_>> = users
            .iter()
            .map(|(service, user)| Member {
                arn: &user.arn,
                service: *service,
                groups: &user.groups,
                active: user.status == UserStatus::Active,
                row: rows.get(user.arn.as_str()).copied(),
            })
            .collect();
        let update_s = usual_update_s(rows.values().filter_map(|row| row.update_s).collect());
        let granted = grants(&members, update_s, now);
        let sizes = group_sizes(&members);
        let periods: Vec<Period> =
            known.iter().map(|known| period_of(known, by_arn, &sizes, update_s)).collect();
        let mut turns: Vec<Turn> = known
            .into_iter()
            .zip(before)
            .zip(periods)
            .zip(wanted)
            .map(|(((known, before), period), wanted)| {
                let grant = granted.get(known.stored.row.arn.as_str()).copied().unwrap_or_default();
                turn(known, before, period, wanted, grant, place, by_arn)
            })
            .collect();
        // Changes first: they are what the next tick's changes of the same groups wait for.
        turns.sort_by_key(|turn| !turn.free);
        turns
    }

    /// What discovery says of each row, with the brake.
    fn wanted(&self, known: &mut [Known], label: &str, done: &mut ScopeDone) -> Vec<Wanted> {
        let listings = Listings(self.listing.as_ref());
        let all = known.iter().filter(|known| !wanted::is_leaving(&known.stored.row)).count();
        let mut wanted: Vec<Wanted> = known
            .iter_mut()
            .map(|known| wanted::judge(&mut known.stored.row, known.about.managed, listings))
            .collect();
        let begins = |(known, wanted): (&Known, &Wanted)| {
            *wanted == Wanted::No && !wanted::is_leaving(&known.stored.row)
        };
        let leaving = known.iter().zip(&wanted).filter(|pair| begins(*pair)).count();
        if wanted::too_many(leaving, all) && !self.allow_removals {
            done.report.alarms.push(format!(
                "{label}: {leaving} of {all} managed users lost their tag; none is given up: look, then run with \
                 allow_removals"
            ));
            for (known, wanted) in known.iter().zip(&mut wanted) {
                if begins((known, wanted)) {
                    *wanted = Wanted::Unsure;
                }
            }
        }
        wanted
    }
}

/// Managed users in each group.
fn group_sizes<'a>(members: &[Member<'a>]) -> BTreeMap<(DbUserService, &'a str), usize> {
    let mut sizes = BTreeMap::new();
    for member in members.iter().filter(|member| member.row.is_some_and(|row| !wanted::is_leaving(row))) {
        for group in member.groups {
            *sizes.entry((member.service, group.as_str())).or_insert(0) += 1;
        }
    }
    sizes
}

fn period_of(
    known: &Known,
    by_arn: &BTreeMap<&str, &CacheUser>,
    sizes: &BTreeMap<(DbUserService, &str), usize>,
    update_s: u32,
) -> Period {
    let row = &known.stored.row;
    let groups: Vec<(&str, usize)> = by_arn
        .get(row.arn.as_str())
        .into_iter()
        .flat_map(|user| &user.groups)
        .filter_map(|group| sizes.get(&(row.service, group.as_str())).map(|size| (group.as_str(), *size)))
        .collect();
    period(known.about.asked_s, &groups, update_s)
}

fn turn(
    known: Known,
    before: RotationRow,
    period: Period,
    wanted: Wanted,
    grant: Grant,
    place: &Place,
    by_arn: &BTreeMap<&str, &CacheUser>,
) -> Turn {
    let user = by_arn.get(known.stored.row.arn.as_str()).map(|user| (**user).clone());
    Turn {
        before,
        row: known.stored.row,
        stored: known.stored.version,
        place: place.clone(),
        user,
        wanted,
        free: grant.free,
        probe: grant.probe,
        explained: grant.explained,
        nodes: known.about.nodes,
        period,
    }
}
