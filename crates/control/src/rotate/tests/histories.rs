//! Histories by the thousand: each is a seed. `KEYSTILE_HISTORIES_S` says for how many seconds (3 by default;
//! `make test` takes 60), `KEYSTILE_HISTORY` plays one seed again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keystile_model::rotation::VersionId;
use keystile_model::rotation::ports::Stage;

use super::super::machine::Wanted;
use super::super::ops::Operation;
use super::history::{APP, History};
use super::twin::{Dice, Manner};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn whatever_fails_the_current_password_logs_in_everywhere() {
    if let Some(seed) = number("KEYSTILE_HISTORY") {
        tell(seed);
        return;
    }
    let until = Instant::now() + Duration::from_secs(number("KEYSTILE_HISTORIES_S").unwrap_or(3));
    // Another beginning each time; a failure names its seed.
    let begin = number("KEYSTILE_HISTORIES_FROM")
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() << 24));
    let (next, rotations, checks) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while Instant::now() < until && !stop.load(Ordering::Relaxed) {
                    let seed = begin + next.fetch_add(1, Ordering::Relaxed);
                    let told = std::panic::catch_unwind(|| tell(seed));
                    let Ok((rotated, checked)) = told else {
                        stop.store(true, Ordering::Relaxed);
                        panic!("history {seed} failed: play it again with KEYSTILE_HISTORY={seed}");
                    };
                    rotations.fetch_add(rotated, Ordering::Relaxed);
                    checks.fetch_add(checked, Ordering::Relaxed);
                }
            });
        }
    });
    let (told, rotations) = (next.into_inner(), rotations.into_inner());
    eprintln!("{told} histories, {rotations} rotations, {} moments checked", checks.into_inner());
    assert!(told >= 5 && rotations > told, "{told} histories with {rotations} rotations show nothing");
}

/// One history; answers its rotations and checks.
fn tell(seed: u64) -> (u64, u64) {
    let mut dice = Dice::new(seed);
    let slow = dice.permille(500);
    let manner = Manner {
        update_ms: if slow { (30_000, 400_000) } else { (1, 5_000) },
        list_lag_ms: if dice.permille(300) { 20_000 } else { 0 },
        group_shows: dice.permille(300),
        stepwise: true,
        ..Manner::default()
    };
    let mut history = History::new(seed, manner);
    history.proxies = dice.permille(600);
    let nodes = usize::try_from(1 + dice.below(3)).unwrap();
    let first: &[&str] = match dice.below(4) {
        0 => &[],
        1 => &["old-password-old-password"],
        _ => &["old-password-old-password", "other-password-other"],
    };
    {
        let mut world = history.twin.world();
        world.add_user(APP, &["g", "h"], nodes, first);
        if dice.permille(400) {
            world.add_user("other", &["g"], 1, &["other-user-password-1"]);
        }
        let chaos = dice.below(3);
        world.manner.failing = [0, 60, 200][usize::try_from(chaos).unwrap()];
        world.manner.killing = [20, 60, 150][usize::try_from(dice.below(3)).unwrap()];
    }
    if history.twin.world().users.contains_key("other") {
        history.ids.push("other");
    }
    let meddling = dice.permille(500);
    for _ in 0..30 + dice.below(30) {
        if meddling && dice.permille(60) {
            meddle(&mut history, &mut dice);
        } else if dice.permille(100) {
            trouble(&mut history, &mut dice);
        }
        let twice = dice.permille(250);
        history.tick(twice);
        // Ticks are a minute apart, but for those that people ask for.
        let gap =
            if dice.permille(850) { 60_000 } else { 1_000 + i64::try_from(dice.below(50_000)).unwrap() };
        history.pass(gap);
    }
    history.wanted = Wanted::Yes;
    history.twin.world().skew_ms = 0;
    history.jumped_until = history.twin.world().now() + 180_000;
    history.operate(Operation::Resume);
    history.calm_until(60, |history| history.settled().is_ok());
    history.operate(Operation::Force);
    let before = history.current().map(|(version, _)| version);
    let version = |history: &History| history.current().map(|(version, _)| version);
    history.calm_until(60, |history| version(history) != before && history.settled().is_ok());
    if let Err(why) = history.settled() {
        panic!("after failures ceased {why}");
    }
    assert!(
        before != version(&history) || history.ever_meddled,
        "it does not rotate any more: {:#?}",
        history.row()
    );
    let rotations = history.told.rotations.load(Ordering::Relaxed);
    (rotations, history.checks)
}

/// What happens by itself, and what people may do without harm.
fn trouble(history: &mut History, dice: &mut Dice) {
    match dice.below(7) {
        0 => history.twin.world().manner.key_refuses ^= true,
        1 => history.twin.world().occupy(APP, 200_000),
        2 => history.operate(Operation::Force),
        3 => history.operate(if dice.permille(300) { Operation::Pause } else { Operation::Resume }),
        4 => {
            // A clock that is wrong by up to a day, for a while.
            let ms = i64::try_from(dice.below(172_800_000)).unwrap() - 86_400_000;
            let now = {
                let mut world = history.twin.world();
                world.skew_ms = if world.skew_ms == 0 { ms } else { 0 };
                world.now()
            };
            history.jumped_until = now + 180_000;
        }
        5 => history.operate(Operation::Lock),
        _ => history.proxies ^= true,
    }
}

/// What people do to a user or a secret behind our back.
fn meddle(history: &mut History, dice: &mut Dice) {
    let name = history.secret_name();
    match dice.below(6) {
        0 => {
            let one = vec!["changed-by-hand-changed".to_owned()];
            let changed = history.twin.world().set(APP, one).is_ok();
            if changed {
                history.meddled();
            }
        }
        1 => {
            let gone = history.twin.world().secrets.remove(&name).is_some();
            if gone {
                history.meddled();
            }
        }
        2 => {
            // Deleted and created again, by the same name.
            let (nodes, groups) = {
                let world = history.twin.world();
                (world.users[APP].nodes.len(), world.users[APP].groups.clone())
            };
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            history.twin.world().users.remove(APP);
            history.meddled();
            history.tick(false);
            history.pass(60_000);
            history.tick(false);
            history.pass(60_000);
            history.tick(false);
            history.meddled();
            history.twin.world().add_user(APP, &groups, nodes, &["created-again-created-again"]);
        }
        3 => {
            // The current stage moves to a version of somebody else's.
            let moved = {
                let mut world = history.twin.world();
                let now = world.now();
                world.secrets.get_mut(&name).is_some_and(|secret| {
                    let foreign = VersionId::new(format!("foreign-{now}"));
                    secret.versions.insert(foreign.clone(), ("{}".to_owned(), now));
                    secret.stages.insert(Stage::Current, foreign);
                    true
                })
            };
            if moved {
                history.meddled();
            }
        }
        4 => {
            history.wanted = Wanted::No;
            for _ in 0..dice.below(8) {
                history.tick(false);
                history.pass(60_000);
            }
            history.wanted = Wanted::Yes;
        }
        _ => {
            // Scheduled for deletion by hand: restored, but nothing can be read until then.
            let now = history.twin.world().now();
            if let Some(secret) = history.twin.world().secrets.get_mut(&name) {
                secret.deleted_at = Some(now);
            }
        }
    }
}
