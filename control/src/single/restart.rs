//! When a dead child is started again. PURE: how long it lived and the dice come from the caller.

use std::time::Duration;

/// The longest wait after a first death.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait of all: a child that cannot start costs little at this pace, and is back soon once it can.
const LONGEST: Duration = Duration::from_secs(5);
/// Dying younger than this counts as never having got going.
const YOUNG: Duration = Duration::from_secs(5);
/// Having lived this long, earlier deaths are forgotten.
const SETTLED: Duration = Duration::from_secs(30);

/// One child's record of early deaths.
///
/// Only deaths before [`YOUNG`] lengthen the wait: a worker that was killed after ten seconds of recording should
/// record again at once, however often that happens.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Restarts {
    early_deaths: u32,
}

impl Restarts {
    /// How long to wait before the next start. `dice` in `0.0..=1.0` spreads the waits over their upper half, so that
    /// children which died of one cause do not come back in step.
    pub(super) fn after_death(&mut self, lived: Duration, dice: f64) -> Duration {
        if lived >= SETTLED {
            self.early_deaths = 0;
        }
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(self.early_deaths)).min(LONGEST);
        if lived < YOUNG {
            self.early_deaths = self.early_deaths.saturating_add(1);
        }
        doubled.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(3);

    #[test]
    fn early_deaths_double_the_wait_up_to_the_longest() {
        let mut restarts = Restarts::default();
        let waits: Vec<u128> = (0..8).map(|_| restarts.after_death(AT_ONCE, 1.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_child_that_got_going_comes_back_at_once_however_often_it_is_killed() {
        let mut restarts = Restarts::default();
        for _ in 0..100 {
            assert_eq!(restarts.after_death(Duration::from_secs(6), 1.0), FIRST);
        }
    }

    #[test]
    fn a_settled_life_is_a_clean_slate_and_a_short_one_is_not() {
        let mut restarts = Restarts::default();
        for _ in 0..5 {
            restarts.after_death(AT_ONCE, 1.0);
        }
        assert!(restarts.clone().after_death(Duration::from_secs(29), 1.0) > FIRST);
        assert_eq!(restarts.after_death(SETTLED, 1.0), FIRST);
    }

    proptest! {
        #[test]
        fn every_wait_is_bounded_and_never_nothing(lives in proptest::collection::vec((0_u64..100_000, 0.0_f64..=1.0), 1..200)) {
            let mut restarts = Restarts::default();
            for (lived_ms, dice) in lives {
                let wait = restarts.after_death(Duration::from_millis(lived_ms), dice);
                prop_assert!(wait >= FIRST / 2 && wait <= LONGEST, "{wait:?}");
            }
        }
    }
}
