//! What time it is, by a clock that does not step: when somebody sets the server's clock, recordings go on as they were.
//!
//! A session counts from the wall-clock time at its beginning by the monotonic clock, and moves towards the wall clock by
//! at most [`MAX_SLEW_PPM`] while the two differ by little, as they do when NTP keeps a clock right. A difference of
//! more than [`MAX_FOLLOWED_US`] is a clock that was set. It is not followed: the next session begins with the new
//! time, and the worker reports the step by itself.
//!
//! Pure. Invariant: time never goes back as long as the monotonic clock does not.

use longwatch_events::time::Timestamp;

use super::MAX_SLEW_PPM;

/// The largest difference that is followed.
pub const MAX_FOLLOWED_US: i64 = 2_000_000;

/// The clock of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SteadyClock {
    /// Wall-clock time minus monotonic time.
    offset_us: i64,
    read_us: i64,
}

impl SteadyClock {
    /// Begins at `wall`, when the monotonic clock shows `monotonic_us`.
    pub const fn new(wall: Timestamp, monotonic_us: i64) -> Self {
        Self { offset_us: wall.as_micros().saturating_sub(monotonic_us), read_us: monotonic_us }
    }

    /// The time now, when the server's wall clock shows `wall`.
    pub fn read(&mut self, wall: Timestamp, monotonic_us: i64) -> Timestamp {
        let off_us = wall.as_micros().saturating_sub(monotonic_us).saturating_sub(self.offset_us);
        let passed_us = monotonic_us.saturating_sub(self.read_us).max(0);
        if off_us.saturating_abs() <= MAX_FOLLOWED_US {
            let bound_us = passed_us / (1_000_000 / MAX_SLEW_PPM);
            self.offset_us = self.offset_us.saturating_add(off_us.clamp(-bound_us, bound_us));
            // What is too short to move by counts towards the next time.
            if bound_us > 0 {
                self.read_us = monotonic_us;
            }
        } else {
            self.read_us = self.read_us.max(monotonic_us);
        }
        Timestamp::from_micros(self.offset_us.saturating_add(monotonic_us))
    }
}

/// How far a server's wall clock may be from where it was expected before it counts as set, in microseconds.
pub const MIN_STEP_US: i64 = 500_000;

/// Notices that somebody set the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepWatch {
    /// Wall-clock time minus monotonic time.
    offset_us: i64,
    /// All steps together.
    stepped_us: i64,
}

impl StepWatch {
    /// Begins at `wall`, when the monotonic clock shows `monotonic_us`.
    pub const fn new(wall: Timestamp, monotonic_us: i64) -> Self {
        Self { offset_us: wall.as_micros().saturating_sub(monotonic_us), stepped_us: 0 }
    }

    /// Looks at both clocks; returns by how many microseconds the wall clock was set since the last look, if it was.
    /// Differences too small for that are followed.
    pub const fn look(&mut self, wall: Timestamp, monotonic_us: i64) -> Option<i64> {
        let offset_us = wall.as_micros().saturating_sub(monotonic_us);
        let off_us = offset_us.saturating_sub(self.offset_us);
        self.offset_us = offset_us;
        if off_us.saturating_abs() < MIN_STEP_US {
            return None;
        }
        self.stepped_us = self.stepped_us.saturating_add(off_us);
        Some(off_us)
    }

    /// By how many microseconds the wall clock was set since the beginning, all steps together.
    pub const fn stepped_us(&self) -> i64 {
        self.stepped_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);
    const SECOND: i64 = 1_000_000;

    #[test]
    fn a_clock_that_is_set_by_an_hour_disturbs_nothing() {
        for hour in [3_600 * SECOND, -3_600 * SECOND] {
            let (mut clock, mut watch) = (SteadyClock::new(START, 0), StepWatch::new(START, 0));
            for second in 1..100 {
                let set = if second < 50 { 0 } else { hour };
                let wall = START.plus_micros(second * SECOND + set);
                assert_eq!(clock.read(wall, second * SECOND), START.plus_micros(second * SECOND));
                assert_eq!(watch.look(wall, second * SECOND), (second == 50).then_some(hour));
            }
            assert_eq!(watch.stepped_us(), hour);
        }
    }

    #[test]
    fn a_clock_that_is_kept_right_is_followed() {
        // Given a wall clock that is found to be 300 ms behind, when an hour has passed, then it was caught up with, by
        // no more than 500 ppm.
        let mut clock = SteadyClock::new(START, 0);
        let mut last = START;
        for tick in 1..3_600 * 5 {
            let (now, wall) = (tick * SECOND / 5, START.plus_micros(tick * SECOND / 5 + 300_000));
            let read = clock.read(wall, now);
            assert!((200_000 - 200..=200_000 + 200).contains(&read.micros_since(last)), "{tick}");
            last = read;
            if tick > 5 * 700 {
                assert_eq!(read, wall);
            }
        }
    }

    #[test]
    fn drift_is_no_step() {
        let mut watch = StepWatch::new(START, 0);
        for second in 0..86_400 {
            assert_eq!(watch.look(START.plus_micros(second * 1_000_200), second * SECOND), None);
        }
        assert_eq!(watch.stepped_us(), 0);
    }

    proptest! {
        #[test]
        fn time_never_goes_back(readings in proptest::collection::vec((any::<i64>(), 0..10 * SECOND), 1..100)) {
            let (mut clock, mut now, mut last) = (SteadyClock::new(START, 0), 0, START);
            for (wall, passed) in readings {
                now += passed;
                let read = clock.read(Timestamp::from_micros(wall), now);
                prop_assert!(read >= last);
                last = read;
            }
        }

        /// Whatever the wall clock shows, time runs as fast as the monotonic clock, within 500 ppm.
        #[test]
        fn time_runs_steadily(offsets in proptest::collection::vec(-4 * SECOND..4 * SECOND, 1..100)) {
            let mut clock = SteadyClock::new(START, 0);
            for (second, offset) in (1..).zip(offsets) {
                let read = clock.read(START.plus_micros(second * SECOND + offset), second * SECOND);
                let off = read.micros_since(START.plus_micros(second * SECOND)).abs();
                prop_assert!(off <= second * MAX_SLEW_PPM, "{off} after {second} s");
            }
        }
    }
}
