//! Each failure by name; `docs/ROTATION.md` lists them.

use std::sync::atomic::Ordering;

use keystile_model::cloud::Tags;
use keystile_model::db_user::{DbUserAuth, DbUserService};
use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::{NewSecret, Stage};
use keystile_model::rotation::proof::Proven;
use keystile_model::rotation::row::{LeftAlone, RotationState};
use keystile_model::rotation::secret::{GROUP_TAG, teleport_secret_name};
use secrecy::SecretString;

use super::super::machine::{VERSIONS_A_DAY, Wanted};
use super::super::ops::Operation;
use super::history::{APP, History};
use super::twin::{Manner, user_arn};

const OLD: &str = "old-password-old-password";

/// A user with one password, two nodes, changes that take a second; no failures.
fn calm() -> History {
    let history = History::new(7, Manner { update_ms: (500, 1_000), stepwise: true, ..Manner::default() });
    history.twin.world().add_user(APP, &["g"], 2, &[OLD]);
    history
}

/// The same, taken over.
fn taken() -> History {
    let mut history = calm();
    history.calm(8);
    history.settled().unwrap();
    history
}

fn left_alone(history: &History) -> Option<LeftAlone> {
    super::super::left_alone(&history.row()?)
}

fn version(history: &History) -> Option<VersionId> {
    history.current().map(|(version, _)| version)
}

#[test]
fn a_takeover_ends_the_password_of_before_and_rotations_follow() {
    let mut history = taken();
    let row = history.row().unwrap();
    assert!(row.taken && row.rotated_at.is_some());
    assert_eq!(row.proof.as_ref().unwrap().outcome, Proven::Everywhere);
    assert_eq!((row.proof.as_ref().unwrap().nodes_ok, row.proof.unwrap().nodes), (2, 2));
    assert_eq!(history.twin.world().refusing(APP, OLD), [0, 1]);
    assert_eq!(history.told.takeovers.load(Ordering::Relaxed), 1);
    let first = version(&history);
    history.calm(30);
    assert_ne!(version(&history), first);
    assert_eq!(history.told.takeovers.load(Ordering::Relaxed), 1);
    assert_eq!(history.twin.world().users[APP].told.len(), 2);
}

#[test]
fn a_user_without_a_password_is_taken_over() {
    let mut history = calm();
    history.set_auth(DbUserAuth::None);
    history.calm(8);
    history.settled().unwrap();
}

#[test]
fn no_proxy_in_reach_is_shown_as_unproven() {
    let mut history = calm();
    history.proxies = false;
    history.calm(12);
    let proof = history.row().unwrap().proof.unwrap();
    assert_eq!(proof.outcome, Proven::Silent);
    assert!(proof.active_s >= 120, "{proof:?}");
}

#[test]
fn an_iam_user_is_left_alone() {
    let mut history = calm();
    history.set_auth(DbUserAuth::Iam);
    history.calm(8);
    assert_eq!(left_alone(&history), Some(LeftAlone::Iam));
    assert!(history.twin.world().secrets.is_empty());
    history.set_auth(DbUserAuth::Password);
    history.calm(16);
    history.settled().unwrap();
}

#[test]
fn a_password_changed_by_hand_is_reported_and_taken_back_only_by_force() {
    let mut history = taken();
    history.calm(25);
    history.pass(5_000);
    let mine = "made-by-somebody-else".to_owned();
    history.twin.world().set(APP, vec![mine.clone()]).unwrap();
    history.meddled();
    history.calm(30);
    assert_eq!(left_alone(&history), Some(LeftAlone::PasswordChanged));
    assert!(history.row().unwrap().projection().reason.contains("--force"));
    assert!(history.twin.world().refusing(APP, &mine).is_empty(), "it was left alone");
    history.operate(Operation::Force);
    history.calm(10);
    assert!(history.row().unwrap().taken && left_alone(&history).is_none());
    assert_eq!(history.twin.world().refusing(APP, &mine), [0, 1]);
}

#[test]
fn a_deleted_secret_is_made_again() {
    let mut history = taken();
    let name = history.secret_name();
    history.twin.world().secrets.remove(&name);
    history.meddled();
    history.calm(40);
    history.settled().unwrap();
    assert_eq!(history.row().unwrap().generation, 2);
}

#[test]
fn a_secret_marked_for_deletion_is_restored() {
    let mut history = taken();
    let name = history.secret_name();
    let now = history.twin.world().now();
    history.twin.world().secrets.get_mut(&name).unwrap().deleted_at = Some(now);
    history.calm(40);
    assert!(history.twin.world().secrets[&name].deleted_at.is_none());
    assert_eq!(history.row().unwrap().generation, 1);
    history.settled().unwrap();
}

#[test]
fn a_proxy_group_that_no_longer_serves_the_user_loses_its_tag() {
    let mut history = taken();
    let name = history.secret_name();
    let groups = |history: &History| -> Vec<String> {
        let world = history.twin.world();
        world.secrets[&name].tags.keys().filter(|key| key.starts_with(GROUP_TAG)).cloned().collect()
    };
    history.settings.proxy_groups = vec!["default".to_owned(), "eu".to_owned()];
    history.calm(40);
    assert_eq!(groups(&history), ["keystile.dev/group/default", "keystile.dev/group/eu"]);
    history.settings.proxy_groups = vec!["eu".to_owned()];
    history.calm(40);
    assert_eq!(groups(&history), ["keystile.dev/group/eu"]);
    let kept = history.twin.world().secrets[&name].tags.len();
    assert_eq!(kept, 3, "whose secret it is stays on it");
    history.settled().unwrap();
}

#[test]
fn a_secret_of_another_owner_is_not_touched() {
    let mut history = calm();
    let new = NewSecret {
        name: history.secret_name(),
        token: VersionId::new("foreign"),
        value: SecretString::from("foreign"),
        description: String::new(),
        kms_key: None,
        tags: Tags::new(),
    };
    history.twin.world().create(&new).unwrap();
    history.calm(20);
    assert_eq!(left_alone(&history), Some(LeftAlone::SecretOfAnother));
    assert!(history.twin.world().refusing(APP, OLD).is_empty());
    assert_eq!(history.twin.world().secrets[&new.name].versions.len(), 1);
}

#[test]
fn a_current_version_of_somebody_else_is_reported() {
    let mut history = taken();
    let name = history.secret_name();
    {
        let mut world = history.twin.world();
        let now = world.now();
        let secret = world.secrets.get_mut(&name).unwrap();
        secret.versions.insert(VersionId::new("foreign"), ("{}".to_owned(), now));
        secret.stages.insert(Stage::Current, VersionId::new("foreign"));
    }
    history.meddled();
    history.calm(30);
    assert_eq!(left_alone(&history), Some(LeftAlone::SecretChanged));
    history.operate(Operation::Force);
    history.calm(10);
    assert!(history.row().unwrap().taken);
}

#[test]
fn a_key_that_refuses_is_reported_and_the_old_password_stays() {
    let mut history = taken();
    let before = version(&history);
    history.pass(960_000);
    for _ in 0..20 {
        history.twin.world().manner.key_refuses = true;
        history.tick(false);
        history.pass(60_000);
    }
    let row = history.row().unwrap();
    assert_eq!(row.failure.as_ref().unwrap().kind, "key");
    assert!(row.projection().reason.contains("KMS"), "{:?}", row.projection());
    assert_eq!(version(&history), before);
    history.calm(30);
    assert_ne!(version(&history), before);
    assert!(history.row().unwrap().failure.is_none());
}

#[test]
fn a_quota_of_versions_skips_turns_and_harms_nothing() {
    let mut history = taken();
    for _ in 0..900 {
        history.operate(Operation::Force);
        history.tick(false);
        history.pass(20_000);
    }
    assert!(history.twin.world().quota_hits > 0);
    assert_eq!(history.row().unwrap().failure.unwrap().kind, "quota");
    // By itself it would not have come so far.
    let mut history = taken();
    history.calm(1_500);
    assert_eq!(history.twin.world().quota_hits, 0);
    let a_day = history.row().unwrap().puts.values().sum::<u32>();
    assert!((80..=VERSIONS_A_DAY).contains(&a_day), "{a_day}");
}

#[test]
fn a_user_deleted_and_created_again_is_taken_over_again() {
    let mut history = taken();
    history.twin.world().users.remove(APP);
    history.meddled();
    history.calm(3);
    assert_eq!(history.row().unwrap().state, RotationState::Found);
    history.meddled();
    history.twin.world().add_user(APP, &["g"], 2, &[OLD]);
    history.calm(12);
    let row = history.row().unwrap();
    assert!(row.taken && row.generation > 1, "{row:?}");
}

fn teleports(history: &History, age_ms: i64) -> String {
    let name = teleport_secret_name("teleport/", DbUserService::Elasticache, &user_arn(APP), APP);
    let new = NewSecret {
        name: name.clone(),
        token: VersionId::new("teleport"),
        value: SecretString::from(OLD),
        description: String::new(),
        kms_key: None,
        tags: Tags::new(),
    };
    let mut world = history.twin.world();
    world.create(&new).unwrap();
    for (_, at) in world.secrets.get_mut(&name).unwrap().versions.values_mut() {
        *at -= age_ms;
    }
    name
}

#[test]
fn teleports_password_stays_valid_until_the_first_rotation() {
    let mut history = calm();
    teleports(&history, 7_200_000);
    history.calm(8);
    history.settled().unwrap();
    assert!(history.twin.world().refusing(APP, OLD).is_empty(), "Teleport's password is the second one");
    history.calm(25);
    assert_eq!(history.twin.world().refusing(APP, OLD), [0, 1]);
}

#[test]
fn a_user_that_teleport_still_rotates_is_left_alone() {
    let mut history = calm();
    teleports(&history, 600_000);
    history.calm(20);
    assert_eq!(left_alone(&history), Some(LeftAlone::TeleportRotates));
    assert!(history.twin.world().refusing(APP, OLD).is_empty());
    history.calm(20);
    history.settled().unwrap();
}

#[test]
fn a_user_that_lost_its_tag_is_scrubbed_and_its_secret_can_come_back() {
    let mut history = taken();
    let (_, password) = history.current().unwrap();
    history.wanted = Wanted::Unsure;
    history.calm(30);
    assert_eq!(history.row().unwrap().state, RotationState::Ready, "nothing is begun, nothing is given up");
    history.wanted = Wanted::No;
    history.calm(6);
    assert!(matches!(history.row().unwrap().state, RotationState::Withdrawn { .. }));
    assert_eq!(history.twin.world().refusing(APP, &password), [0, 1]);
    let name = history.secret_name();
    assert!(history.twin.world().secrets[&name].deleted_at.is_some());
    history.wanted = Wanted::Yes;
    history.calm(12);
    history.settled().unwrap();
    assert!(history.twin.world().secrets[&name].deleted_at.is_none());
}

#[test]
fn a_scrub_that_is_denied_says_so_and_is_made_up_for_by_force() {
    let mut history = taken();
    let (_, password) = history.current().unwrap();
    history.wanted = Wanted::No;
    history.twin.world().manner.change_denied = true;
    history.calm(20);
    let row = history.row().unwrap();
    assert!(matches!(row.state, RotationState::Withdrawn { .. }) && row.unscrubbed, "{row:?}");
    assert!(row.reason().contains("keystile.dev/managed=false"), "{}", row.reason());
    assert!(history.twin.world().secrets[&history.secret_name()].deleted_at.is_some());
    assert!(history.twin.world().refusing(APP, &password).is_empty(), "nobody could replace it");
    history.twin.world().manner.change_denied = false;
    history.operate(Operation::Force);
    history.calm(6);
    let row = history.row().unwrap();
    assert!(matches!(row.state, RotationState::Withdrawn { .. }) && !row.unscrubbed, "{row:?}");
    assert_eq!(history.twin.world().refusing(APP, &password), [0, 1]);
    history.operate(Operation::Force);
    history.calm(2);
    assert!(matches!(history.row().unwrap().state, RotationState::Withdrawn { .. }), "nothing is left to do");
}

#[test]
fn a_forced_turn_waits_while_proxies_may_hold_the_password_that_it_ends() {
    let mut history = taken();
    let promoted = |history: &History| history.row().unwrap().rotated_at.unwrap();
    let first = promoted(&history);
    history.operate(Operation::Force);
    second_by_second(&mut history, |history| promoted(history) > first);
    let second = promoted(&history);
    history.operate(Operation::Force);
    second_by_second(&mut history, |history| {
        matches!(history.row().unwrap().state, RotationState::Settling { .. })
    });
    let told = history.ports.clock.now().unix_timestamp() - second;
    assert!(told >= history.settings.held_s, "told {told} s after the last promotion");
}

/// Ticks that follow each other at once, until `done`.
fn second_by_second(history: &mut History, done: impl Fn(&History) -> bool) {
    for _ in 0..3_000 {
        history.tick(false);
        if done(history) {
            return;
        }
        history.pass(1_000);
    }
    panic!("it never came: {:#?}", history.row());
}

#[test]
fn break_glass_replaces_both_passwords() {
    let mut history = taken();
    history.calm(25);
    let leaked = history.twin.world().users[APP].told.clone();
    assert_eq!(leaked.len(), 2);
    history.operate(Operation::Lock);
    assert!(history.row().unwrap().projection().refusal().unwrap().contains("locked"));
    history.calm(8);
    let row = history.row().unwrap();
    assert!(!row.lock && row.taken, "{row:?}");
    for password in leaked {
        assert_eq!(history.twin.world().refusing(APP, &password), [0, 1]);
    }
    assert_eq!(history.twin.world().users[APP].told.len(), 1);
    history.calm(25);
    history.settled().unwrap();
}

#[test]
fn break_glass_also_replaces_a_pending_password() {
    let mut history = taken();
    history.operate(Operation::Force);
    history.calm(2);
    assert!(history.row().unwrap().state.pending().is_some());
    let pending = history.twin.world().password(&history.secret_name(), Stage::Pending).unwrap();
    history.operate(Operation::Lock);
    history.calm(10);
    assert!(!history.row().unwrap().lock);
    assert_eq!(history.twin.world().refusing(APP, &pending.1), [0, 1]);
}

#[test]
fn paused_begins_nothing() {
    let mut history = taken();
    let before = version(&history);
    history.operate(Operation::Pause);
    history.calm(60);
    assert_eq!(version(&history), before);
    history.operate(Operation::Resume);
    history.calm(10);
    assert_ne!(version(&history), before);
}

#[test]
fn a_user_modified_by_hand_waits() {
    let mut history = taken();
    let before = version(&history);
    history.twin.world().occupy(APP, 3_600_000);
    history.calm(50);
    assert_eq!(version(&history), before);
    history.calm(20);
    assert_ne!(version(&history), before);
}

#[test]
fn a_clock_that_jumps_neither_hurries_nor_stops_it() {
    for skew in [-86_400_000, 86_400_000, -3_000_000, 3_000_000] {
        let mut history = taken();
        history.twin.world().skew_ms = skew;
        history.calm(20);
        history.twin.world().skew_ms = 0;
        let before = version(&history);
        history.calm(30);
        assert_ne!(version(&history), before, "skew {skew}");
        history.settled().unwrap();
    }
}

#[test]
fn a_tick_at_rest_calls_nothing_and_writes_nothing() {
    let mut history = taken();
    history.calm(1);
    let before = history.twin.world().calls.clone();
    history.calm(5);
    let after = history.twin.world().calls.clone();
    let more = |name: &str| after.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0);
    assert_eq!(more("users"), 5);
    assert_eq!((more("row write"), more("describe"), more("read")), (0, 0, 0));
}
