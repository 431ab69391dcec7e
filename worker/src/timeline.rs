//! Which wall-clock time a frame has.
//!
//! Cameras count time by crystals of their own; what a person asks for is wall-clock time. A session is anchored at
//! what the camera's first sender report says, if that is sane, or else at its first frame's arrival; inside a segment
//! wall-clock time then runs exactly with media time, and at each segment's end it moves towards the reports, or the arrival
//! times, by at most 500 ppm. Consecutive segments of a session therefore touch, and neither a jittering network nor a
//! stepping clock tears the archive. (The design is that of moonfire-nvr, `design/time.md`, with reports added.)
//!
//! Pure. Invariant: wall-clock time never goes back within a session whose media time does not.

use std::num::NonZeroU32;

use longwatch_events::time::Timestamp;

pub mod media_clock;
pub mod reports;
pub mod steady;

/// How far a segment's end may move, in microseconds per second of media.
pub const MAX_SLEW_PPM: i64 = 500;

/// Media time and wall-clock time of one session.
#[derive(Debug, Clone)]
pub struct Timeline {
    timescale: NonZeroU32,
    anchor_media: i64,
    anchor_at: Timestamp,
    /// The smallest delay between a frame's time here and its arrival since the anchor, in microseconds. The smallest,
    /// because networks only ever add to it.
    least_delay_us: Option<i64>,
    /// How much later the newest sane report since the anchor says that its moment was, in microseconds.
    reported_us: Option<i64>,
}

/// `units` of a timescale in microseconds, rounded down.
pub fn to_micros(units: i64, timescale: NonZeroU32) -> i64 {
    let micros = (i128::from(units) * 1_000_000).div_euclid(i128::from(timescale.get()));
    i64::try_from(micros).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}

impl Timeline {
    /// A session in which `media_time` was at `at`.
    pub const fn anchored(timescale: NonZeroU32, media_time: i64, at: Timestamp) -> Self {
        Self { timescale, anchor_media: media_time, anchor_at: at, least_delay_us: None, reported_us: None }
    }

    /// The wall-clock time of `media_time`.
    pub fn at(&self, media_time: i64) -> Timestamp {
        self.anchor_at.plus_micros(to_micros(media_time.saturating_sub(self.anchor_media), self.timescale))
    }

    /// Says that `media_time` is at `at`: a segment begins exactly where the one before it ended.
    pub const fn begin_segment(&mut self, media_time: i64, at: Timestamp) {
        self.anchor_media = media_time;
        self.anchor_at = at;
    }

    /// Takes note of a frame's arrival.
    pub fn observe(&mut self, media_time: i64, arrived_at: Timestamp) {
        let delay = arrived_at.micros_since(self.at(media_time));
        self.least_delay_us = Some(self.least_delay_us.map_or(delay, |least| least.min(delay)));
    }

    /// Takes note of what a [sane](reports::Reports) report says: `media_time` was at `at`. For the segment that is open
    /// it counts for more than any arrival.
    pub fn reported(&mut self, media_time: i64, at: Timestamp) {
        self.reported_us = Some(at.micros_since(self.at(media_time)));
    }

    /// Ends a segment at `media_time` and says when that was. Whatever comes next starts from exactly there.
    pub fn close_segment(&mut self, media_time: i64) -> Timestamp {
        let lasted_us = to_micros(media_time.saturating_sub(self.anchor_media), self.timescale).max(0);
        let bound_us =
            i64::try_from(i128::from(lasted_us) * i128::from(MAX_SLEW_PPM) / 1_000_000).unwrap_or(i64::MAX);
        let arrived_us = self.least_delay_us.take().unwrap_or(0);
        let slew_us = self.reported_us.take().unwrap_or(arrived_us).clamp(-bound_us, bound_us);
        let end = self.at(media_time).plus_micros(slew_us);
        self.anchor_media = media_time;
        self.anchor_at = end;
        end
    }
}

/// A picture that comes this much later than the one before it, in microseconds of media time, was not waited for
/// without loss: what is missing between them is told as a gap. From the promise that no gap over 2 s is without a cause.
pub const MIN_PAUSE_US: i64 = 2_000_000;
/// Cameras with a picture every few seconds exist: a pause is also this many times longer than the step before it.
const PAUSE_STEPS: i64 = 3;

/// Notices a camera that stopped sending pictures for a while and went on, in the same session and with a right clock.
#[derive(Debug, Clone, Default)]
pub struct PauseGuard {
    /// Latest presentation time so far, in microseconds. Pictures that are shown before it say nothing about the pace.
    latest_us: Option<i64>,
    step_us: Option<i64>,
}

impl PauseGuard {
    /// Takes note of a picture; returns the length of the pause before it in microseconds, if there was one. Not before
    /// the third picture: without a step to compare with, a slow camera and a pause look alike.
    pub fn check(&mut self, media_us: i64) -> Option<i64> {
        let latest = self.latest_us.replace(media_us.max(self.latest_us.unwrap_or(media_us)));
        let step = latest.map(|latest| media_us.saturating_sub(latest)).filter(|step| *step > 0)?;
        let before = self.step_us.replace(step)?;
        (step > MIN_PAUSE_US.max(before.saturating_mul(PAUSE_STEPS))).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
    const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

    #[test]
    fn wall_clock_time_runs_with_media_time_inside_a_segment() {
        let mut timeline = Timeline::anchored(SCALE, 1_000, START);
        timeline.observe(91_000, START.plus_millis(1_400));
        assert_eq!(timeline.at(91_000), START.plus_millis(1_000));
    }

    #[test]
    fn segments_touch_and_follow_a_slow_camera() {
        // A camera whose second lasts 100 ppm longer than ours, for an hour of one-minute segments.
        let mut timeline = Timeline::anchored(SCALE, 0, START);
        let minute = 60 * 90_000;
        for n in 0..60 {
            let (begin, end) = (n * minute, (n + 1) * minute);
            for frame in (begin..end).step_by(90_000) {
                let arrived_us = to_micros(frame, SCALE) * 1_000_100 / 1_000_000;
                timeline.observe(frame, START.plus_micros(arrived_us));
            }
            let closed_at = timeline.close_segment(end);
            assert_eq!(timeline.at(end), closed_at);
        }
        let true_end = START.plus_micros(3_600_000_000 * 1_000_100 / 1_000_000);
        assert!(timeline.at(60 * minute).micros_since(true_end).abs() < 20_000);
    }

    #[test]
    fn a_stepped_clock_moves_time_by_no_more_than_500_ppm() {
        let mut timeline = Timeline::anchored(SCALE, 0, START);
        timeline.observe(0, START.plus_millis(-3_600_000));
        let end = timeline.close_segment(60 * 90_000);
        assert_eq!(end, START.plus_millis(60_000 - 30));
    }

    #[test]
    fn reports_count_for_more_than_arrivals() {
        // Given frames that arrive 400 ms late, of a camera whose reports say when they were taken,
        let mut timeline = Timeline::anchored(SCALE, 0, START.plus_millis(400));
        let minute = 60 * 90_000;
        let mut begin = START.plus_millis(400);
        for n in 0..20 {
            timeline.observe(n * minute, START.plus_millis(n * 60_000 + 400));
            timeline.reported(n * minute, START.plus_millis(n * 60_000));
            let end = timeline.close_segment((n + 1) * minute);
            // then each minute lasts 30 ms less, until it is right.
            assert!((59_970..=60_000).contains(&end.millis_since(begin)), "{n}");
            begin = end;
        }
        assert_eq!(begin, START.plus_millis(20 * 60_000));
    }

    proptest! {
        #[test]
        fn time_never_goes_back(
            segments in proptest::collection::vec((1..10_000_000_i64, any::<i64>(), any::<Option<i64>>()), 1..40),
        ) {
            let mut timeline = Timeline::anchored(SCALE, 0, START);
            let (mut media, mut last) = (0_i64, START);
            for (length, noise, reported) in segments {
                timeline.observe(media, Timestamp::from_micros(noise));
                if let Some(at) = reported {
                    timeline.reported(media, Timestamp::from_micros(at));
                }
                prop_assert_eq!(timeline.at(media), last);
                media += length;
                let end = timeline.close_segment(media);
                prop_assert!(end >= last);
                last = end;
            }
        }

        #[test]
        fn no_time_is_too_wild(a in any::<i64>(), b in any::<i64>(), c in any::<i64>()) {
            let mut timeline = Timeline::anchored(SCALE, a, Timestamp::from_micros(b));
            timeline.observe(c, Timestamp::from_micros(a));
            timeline.reported(b, Timestamp::from_micros(c));
            timeline.close_segment(b);
            let mut pauses = PauseGuard::default();
            for time in [a, b, c] {
                prop_assert!(pauses.check(time).is_none_or(|pause| pause > MIN_PAUSE_US));
            }
        }
    }

    fn pauses(times_ms: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut guard = PauseGuard::default();
        times_ms.into_iter().filter_map(|ms| guard.check(ms * 1_000)).collect()
    }

    #[test]
    fn a_pause_is_longer_than_two_seconds_and_than_three_steps() {
        let with_pause = |ms: i64| (0..50).map(move |n| n * 40 + if n < 25 { 0 } else { ms });
        assert_eq!(pauses(with_pause(1_950)), [0_i64; 0]);
        assert_eq!(pauses(with_pause(8_000)), [8_040_000]);
        assert_eq!(pauses((0..50).map(|n| n * 5_000)), [0_i64; 0], "a picture every 5 s is a pace");
        // One that slows down for good is a pause once.
        assert_eq!(pauses([0, 40, 80, 5_080, 10_080, 15_080]), [5_000_000]);
    }

    #[test]
    fn pictures_out_of_order_are_no_pause() {
        assert_eq!(pauses([0, 3, 1, 2, 6, 4, 5, 9, 7, 8].map(|second| second * 900)), [0_i64; 0]);
    }
}
