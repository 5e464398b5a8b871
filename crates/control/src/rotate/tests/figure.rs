//! The figure: 1,000 users in 100 groups, changes of four minutes, one a group at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use keystile_model::db_user::{DbUser, DbUserAuth, DbUserService};
use keystile_model::feed::{Change, Entity, Feed, Head, LogEntry};
use keystile_model::name::DbUserName;
use keystile_model::policy::Policy;
use keystile_model::rotation::row::ROWS;
use keystile_model::store::{CommitError, Consistency, PolicyStore, RuntimeStore, StoreError};

use super::super::{Ask, Ports, Rotate, Settings};
use super::twin::{ACCOUNT, Manner, Twin, user_arn};
use crate::audit::AuditMemory;

/// A feed that is its policy.
pub(super) struct Told(pub(super) Mutex<(u64, Policy)>);

#[async_trait]
impl PolicyStore for Told {
    async fn set_up(&self, feed: Feed) -> Result<Head, StoreError> {
        self.head(feed, Consistency::Strong).await
    }
    async fn head(&self, _: Feed, _: Consistency) -> Result<Head, StoreError> {
        let revision = self.0.lock().unwrap().0;
        Ok(Head { generation: "g".to_owned(), revision, min_log_revision: 1, min_reader: 1 })
    }
    async fn entities(&self, _: Feed) -> Result<Vec<Entity>, StoreError> {
        Ok(self.0.lock().unwrap().1.entities())
    }
    async fn log_after(&self, _: Feed, _: u64) -> Result<Vec<LogEntry>, StoreError> {
        Ok(Vec::new())
    }
    async fn commit(
        &self,
        feed: Feed,
        _: &Head,
        _: &str,
        _: i64,
        changes: &[Change],
    ) -> Result<Head, CommitError> {
        {
            let mut told = self.0.lock().unwrap();
            told.0 += 1;
            for change in changes {
                told.1.apply(change.clone());
            }
        }
        Ok(self.head(feed, Consistency::Strong).await?)
    }
}

pub(super) fn db_user(id: &str, group: &str) -> DbUser {
    DbUser {
        arn: user_arn(id),
        id: id.to_owned(),
        name: DbUserName::parse(id).unwrap(),
        service: DbUserService::Elasticache,
        auth: DbUserAuth::Password,
        status: "active".to_owned(),
        access_string: String::new(),
        groups: [group.to_owned()].into(),
        managed: true,
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_users_in_a_hundred_groups_turn_in_the_least_period() {
    const GROUPS: usize = 100;
    const IN_GROUP: usize = 10;
    const UPDATE_S: i64 = 240;
    let manner = Manner { update_ms: (UPDATE_S * 1_000, UPDATE_S * 1_000), call_ms: 50, ..Manner::default() };
    let twin = Twin::new(1, manner);
    let mut users = Vec::new();
    for index in 0..GROUPS * IN_GROUP {
        let (id, group) = (format!("u{index}"), format!("g{}", index % GROUPS));
        twin.world().add_user(&id, &[&group], 1, &["first-password-first"]);
        users.push(Entity::DbUser(Box::new(db_user(&id, &group))));
    }
    twin.follow_tokio();
    let store = Arc::new(Told(Mutex::new((0, Policy::new(users)))));
    let ports = Ports {
        users: twin.clone(),
        secrets: twin.clone(),
        runtime: twin.clone(),
        entropy: twin.clone(),
        clock: twin.clone(),
    };
    let settings = Settings { concurrency: 16, ..Settings::new("test", ACCOUNT) };
    let job = Rotate { ports, policy: store.clone(), audit: Arc::new(AuditMemory::default()), settings };
    let mut turned: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let (mut longest, mut calls_before) = (Duration::ZERO, 0);
    let begun = tokio::time::Instant::now();
    // The takeover is the first round; two more follow.
    for minute in 0..125_u64 {
        tokio::time::sleep_until(begun + Duration::from_secs(minute * 60)).await;
        let policy = store.0.lock().unwrap().1.clone();
        let began = tokio::time::Instant::now();
        let report = job.tick(&policy, &Ask::default()).await.unwrap();
        longest = longest.max(began.elapsed());
        assert!(
            report.alarms.is_empty() && report.failed.is_empty(),
            "{:?} {:?}",
            report.alarms,
            report.failed
        );
        for moved in report.moved.iter().filter(|moved| moved.from == "proving" && moved.to == "ready") {
            turned.entry(moved.name.clone()).or_default().push(i64::try_from(minute).unwrap() * 60);
        }
        if minute == 60 {
            calls_before = aws_calls(&twin);
        }
    }
    let calls = aws_calls(&twin) - calls_before;
    let least = UPDATE_S * i64::try_from(IN_GROUP).unwrap();
    let mut periods: Vec<i64> =
        turned.values().filter_map(|at| Some(at.last()? - at.get(at.len().checked_sub(2)?)?)).collect();
    periods.sort_unstable();
    assert_eq!(periods.len(), GROUPS * IN_GROUP, "somebody did not turn twice");
    let mean = periods.iter().sum::<i64>() / i64::try_from(periods.len()).unwrap();
    let turns = turned.values().flatten().filter(|at| **at > 60 * 60).count();
    let rows = twin.list(ROWS).await.unwrap();
    eprintln!(
        "least {least} s, mean {mean} s, longest {} s; the longest tick {longest:?}; {:.1} calls a turn; {} rows",
        periods[periods.len() - 1],
        calls as f64 / turns as f64,
        rows.len()
    );
    assert!(mean * 10 <= least * 11, "{mean} s on average, {least} s are possible");
    assert!(periods[periods.len() - 1] <= least * 12 / 10, "{} s at worst", periods[periods.len() - 1]);
    assert!(longest < Duration::from_secs(20), "a tick took {longest:?}");
    assert!(calls <= u64::try_from(turns).unwrap() * 8, "{calls} calls for {turns} turns");
}

fn aws_calls(twin: &Twin) -> u64 {
    let world = twin.world();
    let pages = 10;
    let of = |(name, count): (&&str, &u64)| match *name {
        "users" => count * pages,
        name if name.starts_with("row") => 0,
        _ => *count,
    };
    world.calls.iter().map(of).sum()
}
