//! How often a user can be rotated: what was asked, or what its groups allow. Pure.

use keystile_model::rotation::MIN_PERIOD_S;
use keystile_model::rotation::row::RotationRow;

/// How long a change takes where nobody measured it yet, in seconds: about 4 minutes (AWS-wide average).
pub const USUAL_UPDATE_S: u32 = 240;
/// The part of a period by which turns are spread: a tenth.
const JITTER: u64 = 10;

/// A period that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Seconds.
    pub seconds: u64,
    /// Why that is longer than asked; empty when it is not.
    pub widened: String,
}

/// The period of a user: `groups` are its groups with their managed users, `update_s` is how long a change takes.
/// AWS takes one change a group at a time, so a group of ten users and changes of four minutes cannot do better
/// than 40 minutes.
#[must_use]
pub fn period(asked: u64, groups: &[(&str, usize)], update_s: u32) -> Period {
    let asked = asked.max(MIN_PERIOD_S);
    let least = |users: usize| u64::try_from(users).unwrap_or(u64::MAX).saturating_mul(u64::from(update_s));
    let worst = groups.iter().max_by_key(|(_, users)| *users);
    match worst {
        Some((group, users)) if least(*users) > asked => Period {
            seconds: least(*users),
            widened: format!(
                "group {group} has {users} managed users, a change takes {update_s} s, and AWS allows one at a time"
            ),
        },
        _ => Period { seconds: asked, widened: String::new() },
    }
}

/// How much later than its period a user's next turn is, in seconds: up to a tenth, the same for the same
/// password, so that users found together do not stay together. Where the period is widened the group's queue
/// spreads them.
#[must_use]
pub fn jitter_s(row: &RotationRow) -> i64 {
    if !row.widened.is_empty() {
        return 0;
    }
    let text = format!("{}{}", row.arn, row.current.as_ref().map_or("", |version| version.as_str()));
    // FNV-1a: any even spread will do.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    i64::try_from(hash % (row.period_s / JITTER).max(1)).unwrap_or(0)
}

/// The middle one of what was measured; [`USUAL_UPDATE_S`] if nothing was.
#[must_use]
pub fn usual_update_s(mut measured: Vec<u32>) -> u32 {
    measured.sort_unstable();
    measured.get(measured.len() / 2).copied().unwrap_or(USUAL_UPDATE_S).clamp(1, 3_600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_group_widens_the_period_and_says_why() {
        let widened = period(900, &[("a", 2), ("b", 10)], 240);
        assert_eq!(widened.seconds, 2_400);
        assert!(widened.widened.contains("group b has 10 managed users"), "{}", widened.widened);
        assert_eq!(period(900, &[("a", 3)], 240), Period { seconds: 900, widened: String::new() });
        assert_eq!(period(1, &[], 240).seconds, 900);
        assert_eq!(period(86_400, &[("b", 10)], 240).seconds, 86_400);
    }

    #[test]
    fn the_usual_time_is_the_median() {
        assert_eq!(usual_update_s(vec![]), 240);
        assert_eq!(usual_update_s(vec![9, 1, 5]), 5);
        assert_eq!(usual_update_s(vec![0]), 1);
    }
}
