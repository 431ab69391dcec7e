//! The endless timeline of a looped track: when the frame at a position is due. Pure, exact, without drift.
//!
//! A position counts frames from the start of the first loop and never wraps. Ticks are in the track's timescale.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// When each frame of a looped track is due.
#[derive(Debug, Clone)]
pub struct Looped {
    timescale: u32,
    period: u64,
    starts: Vec<u64>,
}

impl Looped {
    /// A track whose frames last `durations` ticks of 1/`timescale` s each. `None` if it would not last at all.
    pub fn new(timescale: u32, durations: impl IntoIterator<Item = u32>) -> Option<Self> {
        let mut period = 0_u64;
        let starts: Vec<u64> = durations
            .into_iter()
            .map(|duration| {
                let start = period;
                period = period.saturating_add(u64::from(duration));
                start
            })
            .collect();
        (timescale > 0 && period > 0).then_some(Self { timescale, period, starts })
    }

    /// Frames in one loop; at least 1.
    pub fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// Never true; here because there is a `len`.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// How long one frame lasts on average.
    pub fn mean_interval(&self) -> Duration {
        nanos(u128::from(self.period) * NANOS / u128::from(self.timescale) / u128::from(self.len()))
    }

    /// Splits a position into the loop's number and the frame's index in the loop.
    pub fn split(&self, position: u64) -> (u64, usize) {
        let index = usize::try_from(position % self.len()).expect("invariant: less than the length of a Vec");
        (position / self.len(), index)
    }

    /// Ticks from position 0 to `position`.
    pub fn ticks(&self, position: u64) -> u128 {
        let (round, index) = self.split(position);
        u128::from(round) * u128::from(self.period) + u128::from(self.starts[index])
    }

    /// Time from position 0 to `position`.
    pub fn at(&self, position: u64) -> Duration {
        nanos(self.ticks(position) * NANOS / u128::from(self.timescale))
    }

    /// The same in units of 1/`rate` s.
    pub fn units(&self, position: u64, rate: u32) -> u128 {
        self.ticks(position) * u128::from(rate) / u128::from(self.timescale)
    }

    /// The first position that is due later than `time`.
    pub fn first_after(&self, time: Duration) -> u64 {
        let ticks = time.as_nanos() * u128::from(self.timescale) / NANOS;
        let round = u64::try_from(ticks / u128::from(self.period)).unwrap_or(u64::MAX / self.len());
        let within = ticks % u128::from(self.period);
        let mut position =
            round * self.len() + self.starts.partition_point(|start| u128::from(*start) <= within) as u64;
        // Both roundings are below one tick: at most a step (or frames of no duration) to go.
        while position > 0 && self.at(position - 1) > time {
            position -= 1;
        }
        while self.at(position) <= time {
            position += 1;
        }
        position
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loops_join_without_a_seam() {
        let looped = Looped::new(12_800, [512; 250]).unwrap();
        assert_eq!(looped.at(249), Duration::from_millis(9_960));
        assert_eq!(looped.at(250), Duration::from_secs(10));
        assert_eq!(looped.units(251, 90_000), 903_600);
        assert_eq!(looped.mean_interval(), Duration::from_millis(40));
    }

    #[test]
    fn a_track_that_does_not_last_is_refused() {
        assert!(Looped::new(90_000, []).is_none());
        assert!(Looped::new(90_000, [0, 0]).is_none());
        assert!(Looped::new(0, [1]).is_none());
    }

    proptest! {
        #[test]
        fn the_first_after_a_time_is_later_and_the_one_before_is_not(
            timescale in 1_u32..200_000,
            durations in proptest::collection::vec(0_u32..10_000, 1..40),
            millis in 0_u64..10_000_000,
        ) {
            let Some(looped) = Looped::new(timescale, durations) else { return Ok(()) };
            let time = Duration::from_millis(millis);
            let position = looped.first_after(time);
            prop_assert!(looped.at(position) > time);
            prop_assert!(position == 0 || looped.at(position - 1) <= time);
        }
    }
}
