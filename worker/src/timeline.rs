//! Which wall-clock time a frame has.
//!
//! Cameras count time by crystals of their own; what a person asks for is wall-clock time. A session is anchored at
//! its first frame's arrival; inside a segment wall-clock time then runs exactly with media time, and at each segment's
//! end it moves towards the arrival times by at most 500 ppm. Consecutive segments of a session therefore touch, and
//! neither a jittering network nor a stepping clock tears the archive.
//!
//! Pure. Invariant: wall-clock time never goes back within a session whose media time does not.

use std::num::NonZeroU32;

use longwatch_events::time::Timestamp;

/// How far a segment's end may move, in microseconds per second of media.
const MAX_SLEW_PPM: i64 = 500;

/// Media time and wall-clock time of one session.
#[derive(Debug, Clone)]
pub struct Timeline {
    timescale: NonZeroU32,
    anchor_media: i64,
    anchor_at: Timestamp,
    /// The smallest delay between a frame's time here and its arrival since the anchor, in microseconds. The smallest,
    /// because networks only ever add to it.
    least_delay_us: Option<i64>,
}

/// `units` of a timescale in microseconds, rounded down.
pub fn to_micros(units: i64, timescale: NonZeroU32) -> i64 {
    let micros = (i128::from(units) * 1_000_000).div_euclid(i128::from(timescale.get()));
    i64::try_from(micros).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX })
}

impl Timeline {
    /// A session whose first frame has `media_time` and arrived at `at`.
    pub const fn anchored(timescale: NonZeroU32, media_time: i64, at: Timestamp) -> Self {
        Self { timescale, anchor_media: media_time, anchor_at: at, least_delay_us: None }
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

    /// Ends a segment at `media_time` and says when that was. Whatever comes next starts from exactly there.
    pub fn close_segment(&mut self, media_time: i64) -> Timestamp {
        let lasted_us = to_micros(media_time.saturating_sub(self.anchor_media), self.timescale).max(0);
        let bound_us =
            i64::try_from(i128::from(lasted_us) * i128::from(MAX_SLEW_PPM) / 1_000_000).unwrap_or(i64::MAX);
        let slew_us = self.least_delay_us.take().unwrap_or(0).clamp(-bound_us, bound_us);
        let end = self.at(media_time).plus_micros(slew_us);
        self.anchor_media = media_time;
        self.anchor_at = end;
        end
    }
}

/// Notices a camera whose media clock jumps.
///
/// Compares media time with a monotonic clock, never with the wall clock: when somebody sets the server's clock, that
/// is no fault of the cameras. Drift of up to 1000 ppm is followed and forgiven, however long the session lasts.
#[derive(Debug, Clone, Default)]
pub struct JumpGuard {
    reference: Option<Reference>,
}

#[derive(Debug, Clone, Copy)]
struct Reference {
    /// Media time minus monotonic time, in microseconds.
    lead_us: i64,
    monotonic_us: i64,
}

/// How far media time may be from what the monotonic clock expects.
pub const MAX_JUMP_US: i64 = 10_000_000;
const MAX_DRIFT_PPM: i64 = 1_000;

impl JumpGuard {
    /// Takes note of a frame; returns by how many microseconds its media time jumped, if that is too far.
    pub fn check(&mut self, media_us: i64, monotonic_us: i64) -> Result<(), i64> {
        let lead_us = media_us.saturating_sub(monotonic_us);
        let Some(reference) = &mut self.reference else {
            self.reference = Some(Reference { lead_us, monotonic_us });
            return Ok(());
        };
        let off_us = lead_us.saturating_sub(reference.lead_us);
        if off_us.saturating_abs() > MAX_JUMP_US {
            return Err(off_us);
        }
        let passed_us = monotonic_us.saturating_sub(reference.monotonic_us).max(0);
        let bound_us = passed_us / (1_000_000 / MAX_DRIFT_PPM);
        reference.lead_us = reference.lead_us.saturating_add(off_us.clamp(-bound_us, bound_us));
        reference.monotonic_us = reference.monotonic_us.max(monotonic_us);
        Ok(())
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

    proptest! {
        #[test]
        fn time_never_goes_back(
            segments in proptest::collection::vec((1..10_000_000_i64, any::<i64>()), 1..40),
        ) {
            let mut timeline = Timeline::anchored(SCALE, 0, START);
            let (mut media, mut last) = (0_i64, START);
            for (length, noise) in segments {
                timeline.observe(media, Timestamp::from_micros(noise));
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
            timeline.close_segment(b);
            let mut guard = JumpGuard::default();
            let _ = guard.check(a, b);
            let _ = guard.check(b, c);
            let mut pauses = PauseGuard::default();
            for time in [a, b, c] {
                prop_assert!(pauses.check(time).is_none_or(|pause| pause > MIN_PAUSE_US));
            }
        }
    }

    #[test]
    fn an_hours_jump_is_noticed_and_a_month_of_drift_is_not() {
        let mut guard = JumpGuard::default();
        for second in 0..30 * 24 * 3_600_i64 {
            // 60 ppm of drift: 155 s in a month.
            let media_us = second * 1_000_060;
            assert_eq!(guard.check(media_us, second * 1_000_000), Ok(()));
        }
        let now_us = 30 * 24 * 3_600 * 1_000_000;
        assert!(guard.check(now_us + 3_600_000_000, now_us).is_err());
        assert!(guard.check(now_us - 3_600_000_000, now_us).is_err());
    }

    #[test]
    fn a_stall_with_a_burst_behind_it_is_no_jump() {
        let mut guard = JumpGuard::default();
        assert_eq!(guard.check(0, 0), Ok(()));
        for frame in 1..250 {
            assert_eq!(guard.check(frame * 40_000, 9_900_000), Ok(()));
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
