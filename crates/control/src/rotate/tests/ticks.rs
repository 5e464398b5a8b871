//! Whole ticks: what discovery's reports say of a tag that is gone, and what a dry run tells.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use keystile_model::cloud::Tags;
use keystile_model::db_user::DbUserService;
use keystile_model::feed::Entity;
use keystile_model::policy::Policy;
use keystile_model::report::{DiscoveryReport, Planned, ScopeReport, UsersReport};
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::NewSecret;
use keystile_model::rotation::report::RotationReport;
use keystile_model::rotation::row::{RotationRow, RotationState, row_key};
use keystile_model::rotation::secret::teleport_secret_name;
use keystile_model::runtime::{DISCOVER, REPORTS};
use keystile_model::store::{RuntimeKey, RuntimeStore};
use secrecy::SecretString;

use super::super::{Ask, Ports, Rotate, Settings};
use super::figure::{Told, db_user};
use super::twin::{ACCOUNT, Manner, REGION, Twin, user_arn};
use crate::audit::AuditMemory;
use crate::discover::users::user_scope;

struct Bench {
    twin: Arc<Twin>,
    job: Rotate,
    begun: tokio::time::Instant,
    minutes: u64,
}

impl Bench {
    fn new() -> Self {
        let twin = Twin::new(1, Manner { update_ms: (2_000, 2_000), ..Manner::default() });
        twin.world().add_user("app", &["g"], 1, &["first-password-first"]);
        twin.follow_tokio();
        let ports = Ports {
            users: twin.clone(),
            secrets: twin.clone(),
            runtime: twin.clone(),
            entropy: twin.clone(),
            clock: twin.clone(),
        };
        let policy = Arc::new(Told(Mutex::new((0, Policy::new(Vec::new())))));
        let settings = Settings::new("test", ACCOUNT);
        let job = Rotate { ports, policy, audit: Arc::new(AuditMemory::default()), settings };
        Self { twin, job, begun: tokio::time::Instant::now(), minutes: 0 }
    }

    async fn report(&self, managed: bool, ask: &Ask) -> RotationReport {
        let mut user = db_user("app", "g");
        user.managed = managed;
        let policy = Policy::new(vec![Entity::DbUser(Box::new(user))]);
        self.job.tick(&policy, ask).await.unwrap()
    }

    /// What a dry run says: who would be taken over, who is left alone, and who is queued.
    async fn foretold(&self, force: bool) -> (Vec<String>, Vec<String>, Vec<String>) {
        let before = self.twin.world().items.clone();
        let report = self.report(true, &Ask { dry_run: true, force, ..Ask::default() }).await;
        assert_eq!(self.twin.world().items, before, "a dry run writes nothing");
        let reasons = |list: Vec<Planned>| list.into_iter().map(|line| line.reason).collect();
        (reasons(report.take_over), reasons(report.left_alone), reasons(report.queued))
    }

    /// A tick in the next minute, where discovery says that the user is tagged, or not.
    async fn tick(&mut self, managed: bool) -> RotationState {
        self.minutes += 1;
        tokio::time::sleep_until(self.begun + Duration::from_secs(self.minutes * 60)).await;
        let report = self.report(managed, &Ask::default()).await;
        assert!(report.alarms.is_empty() && report.failed.is_empty(), "{report:?}");
        let item = self.twin.read(&row_key(&user_arn("app"))).await.unwrap().unwrap();
        serde_json::from_value::<RotationRow>(item.body).unwrap().state
    }

    async fn discovery_ran(&self, started: &str) {
        let scope = user_scope(ACCOUNT, REGION, DbUserService::Elasticache);
        let scopes = vec![ScopeReport { scope, complete: true, ..ScopeReport::default() }];
        let users = UsersReport { scopes, ..UsersReport::default() };
        let report = DiscoveryReport { started: started.to_owned(), users, ..DiscoveryReport::default() };
        let key = RuntimeKey::new(REPORTS, DISCOVER);
        self.twin.write(&key, None, None, serde_json::to_value(&report).unwrap()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn two_listings_without_the_tag_count_though_nothing_else_happens() {
    let mut bench = Bench::new();
    for _ in 0..12 {
        bench.tick(true).await;
    }
    assert_eq!(bench.tick(true).await, RotationState::Ready);
    bench.discovery_ran("2026-01-01T00:00:00.000Z").await;
    assert_eq!(bench.tick(false).await, RotationState::Ready, "one listing is not enough");
    bench.discovery_ran("2026-01-01T00:05:00.000Z").await;
    for _ in 0..4 {
        bench.tick(false).await;
    }
    assert!(matches!(bench.tick(false).await, RotationState::Withdrawn { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_tells_what_a_run_would_do() {
    let mut bench = Bench::new();
    let (take, alone, queued) = bench.foretold(false).await;
    assert_eq!(take, ["would be taken over: its password of now ends"]);
    assert!(alone.is_empty() && queued.is_empty());
    let name = teleport_secret_name("teleport/", DbUserService::Elasticache, &user_arn("app"), "app");
    let new = NewSecret {
        name: name.clone(),
        token: VersionId::new("t0"),
        value: SecretString::from("made-by-teleport-made-by-teleport"),
        description: String::new(),
        kms_key: None,
        tags: Tags::new(),
    };
    bench.twin.world().create(&new).unwrap();
    let (take, alone, _) = bench.foretold(false).await;
    assert!(take.is_empty() && alone.len() == 1 && alone[0].contains("Teleport"), "{take:?} {alone:?}");
    tokio::time::sleep(Duration::from_secs(40 * 60)).await;
    let (take, alone, _) = bench.foretold(false).await;
    assert!(alone.is_empty() && take.len() == 1 && take[0].contains(&name), "{take:?} {alone:?}");
    bench.minutes = 40;
    for _ in 0..12 {
        bench.tick(true).await;
    }
    assert_eq!(bench.foretold(false).await, Default::default(), "nothing is due");
    assert_eq!(bench.foretold(true).await.2, ["its turn is due"]);
}
