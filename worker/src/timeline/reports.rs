//! Whether a camera's sender reports (RFC 3550, section 6.4.1) can be believed.
//!
//! A report says which wall-clock time a moment of the camera's media clock had: better than the time at which frames
//! arrive, because neither the network nor the encoder is in it, and the same on whichever server records. But many
//! cameras count from 1970, from when they were switched on, or by the wrong time zone.
//!
//! Pure. Invariant: what is believed is within [`MAX_AHEAD_US`] and [`MAX_BEHIND_US`] of this server's clock.

use std::num::NonZeroU32;

use longwatch_events::time::Timestamp;

use super::to_micros;

/// A moment cannot be reported before it was: more than this is a clock that is wrong, ours or the camera's.
pub const MAX_AHEAD_US: i64 = 500_000;
/// How long a report may take to us. Encoders and radio links hold frames back for a second and more.
pub const MAX_BEHIND_US: i64 = 2_000_000;
/// How far apart two reports may put the same moment, besides drift: cameras read their two clocks one after the other.
pub const MAX_UNSTEADY_US: i64 = 100_000;
/// How long a report tells the time after its own moment: cameras send one every five seconds or so, some every minute.
pub const MAX_AGE_US: i64 = 120_000_000;
/// Drift between the camera's two clocks.
const MAX_DRIFT_PPM: i64 = 1_000;

/// What one report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// The moment, by the camera's media clock.
    pub media_time: i64,
    /// The same moment, by its wall clock.
    pub at: Timestamp,
}

/// The reports of one track.
#[derive(Debug, Clone)]
pub struct Reports {
    timescale: NonZeroU32,
    last: Option<Report>,
    /// The newest that is believed.
    believed: Option<Report>,
}

impl Reports {
    /// Of a track with so many units of media time in a second.
    pub const fn new(timescale: NonZeroU32) -> Self {
        Self { timescale, last: None, believed: None }
    }

    /// Takes note of a report that arrived at `arrived_at`; returns whether it is believed.
    pub fn take(&mut self, report: Report, arrived_at: Timestamp) -> bool {
        let off_us = report.at.micros_since(arrived_at);
        let plausible = (-MAX_BEHIND_US..=MAX_AHEAD_US).contains(&off_us);
        let steady = self.last.is_none_or(|last| self.agree(last, report));
        self.last = Some(report);
        self.believed = (plausible && steady).then_some(report);
        self.believed.is_some()
    }

    /// The wall-clock time of `media_time`, if there is a report near enough to tell it by.
    pub fn time_of(&self, media_time: i64) -> Option<Timestamp> {
        let Report { media_time: told, at } = self.believed?;
        let since_us = to_micros(media_time.saturating_sub(told), self.timescale);
        (since_us.saturating_abs() <= MAX_AGE_US).then(|| at.plus_micros(since_us))
    }

    fn agree(&self, one: Report, two: Report) -> bool {
        let media_us = to_micros(two.media_time.saturating_sub(one.media_time), self.timescale);
        let wall_us = two.at.micros_since(one.at);
        let allowed_us =
            MAX_UNSTEADY_US.saturating_add(media_us.saturating_abs() / (1_000_000 / MAX_DRIFT_PPM));
        media_us >= 0 && wall_us.saturating_sub(media_us).saturating_abs() <= allowed_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
    const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

    /// A report every 5 s, `off_ms` beside the moment at which it arrives.
    fn believed(off_ms: impl Fn(i64) -> i64) -> Vec<bool> {
        let mut reports = Reports::new(SCALE);
        let take = |n: i64| {
            let arrived_at = START.plus_millis(n * 5_000);
            reports.take(
                Report { media_time: n * 5 * 90_000, at: arrived_at.plus_millis(off_ms(n)) },
                arrived_at,
            )
        };
        (0..6).map(take).collect()
    }

    #[test]
    fn a_camera_that_is_right_or_a_little_late_is_believed() {
        for off_ms in [0, -300, -1_900, 400] {
            assert_eq!(believed(|_| off_ms), [true; 6], "{off_ms}");
        }
        // Its wall clock drifts against its media clock by 600 ppm.
        assert_eq!(believed(|n| n * 3), [true; 6]);
    }

    #[test]
    fn a_camera_that_counts_from_somewhere_else_is_not() {
        for off_ms in [-3_600_000, 3_600_000, -20 * 365 * 86_400_000, 2_000, -2_100] {
            assert_eq!(believed(|_| off_ms), [false; 6], "{off_ms}");
        }
    }

    #[test]
    fn a_report_that_contradicts_the_one_before_is_not() {
        let set = |n| if n < 3 { 0 } else { -1_500 };
        assert_eq!(believed(set), [true, true, true, false, true, true]);
    }

    #[test]
    fn the_newest_report_tells_the_time() {
        let mut reports = Reports::new(SCALE);
        assert_eq!(reports.time_of(0), None);
        reports.take(Report { media_time: 90_000, at: START }, START.plus_millis(300));
        assert_eq!(reports.time_of(0), Some(START.plus_millis(-1_000)));
        assert_eq!(reports.time_of(180_000), Some(START.plus_millis(1_000)));
        assert_eq!(reports.time_of(122 * 90_000), None, "it is too old for that");
        reports.take(Report { media_time: 95_000, at: START.plus_millis(9_000) }, START);
        assert_eq!(reports.time_of(0), None);
    }

    proptest! {
        #[test]
        fn what_is_believed_is_near_this_servers_clock(
            told in proptest::collection::vec((any::<i64>(), any::<i64>(), any::<i64>(), -3_000_000..3_000_000_i64), 1..50),
            wild: bool,
        ) {
            let mut reports = Reports::new(SCALE);
            for (media_time, at, arrived, off) in told {
                let arrived_at = Timestamp::from_micros(arrived);
                let at = if wild { Timestamp::from_micros(at) } else { arrived_at.plus_micros(off) };
                if reports.take(Report { media_time, at }, arrived_at) {
                    let off_us = at.micros_since(arrived_at);
                    prop_assert!((-MAX_BEHIND_US..=MAX_AHEAD_US).contains(&off_us));
                    prop_assert_eq!(reports.time_of(media_time), Some(at));
                }
            }
        }
    }
}
