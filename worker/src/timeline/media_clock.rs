//! One clock of what a camera's tells: a jump is taken out of it, and told.
//!
//! Cameras that are set by NTP, or wrap a counter too early, move their media clock by an hour in the middle of a group of
//! pictures. The pictures themselves are well. So what follows a jump is moved to where it would have been without: no
//! frame is lost, decode times go on, and the log has the jump.
//!
//! Pure. Compares media time with a monotonic clock, never with the wall clock: when somebody sets the server's clock,
//! that is no fault of the cameras. Drift of up to 1000 ppm is followed and forgiven, however long the session lasts.
//! Invariant: times that are told apart by less than a jump keep their distance.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use super::to_micros;

/// How far media time may be from what the monotonic clock expects.
pub const MAX_JUMP_US: i64 = 10_000_000;
/// How far a picture may be shown before one that came earlier: more than any order of decoding asks for.
pub const MAX_REORDER_US: i64 = 1_000_000;
/// Jumps within [`JUMPS_WITHIN_US`] that are taken out; a clock that jumps more often is none.
pub const MAX_JUMPS: usize = 20;
/// See [`MAX_JUMPS`].
pub const JUMPS_WITHIN_US: i64 = 60_000_000;
/// Drift that is followed.
const MAX_DRIFT_PPM: i64 = 1_000;

/// Where a frame belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its media time, in the timescale, without the jumps so far.
    pub media_time: i64,
    /// By how many microseconds the camera's clock jumped just before it.
    pub jumped_us: Option<i64>,
}

/// A clock that jumps all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the camera's clock jumped more than {MAX_JUMPS} times within a minute, the last time by {by_ms} ms")]
pub struct Restless {
    /// The last jump.
    pub by_ms: i64,
}

/// The clock of one track of a session.
#[derive(Debug, Clone)]
pub struct MediaClock {
    timescale: NonZeroU32,
    /// What is added to the camera's time.
    correction: i64,
    running: Option<Running>,
    /// When it jumped, by the monotonic clock; the newest last.
    jumps: VecDeque<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Running {
    /// The latest time that was given, in the timescale.
    latest: i64,
    /// The last step from one latest time to the next.
    step: i64,
    /// When the latest was received.
    latest_at_us: i64,
    /// Media time minus monotonic time, in microseconds, as it is expected.
    lead_us: i64,
    monotonic_us: i64,
}

impl MediaClock {
    /// Of a track with so many units of media time in a second.
    pub const fn new(timescale: NonZeroU32) -> Self {
        Self { timescale, correction: 0, running: None, jumps: VecDeque::new() }
    }

    /// Where a time belongs that is told beside the frames, such as a report's.
    pub const fn place(&self, media_time: i64) -> i64 {
        media_time.saturating_add(self.correction)
    }

    /// Where the next frame belongs, in decoding order.
    ///
    /// # Errors
    ///
    /// [`Restless`]: then nothing that this clock told is to be relied on.
    pub fn read(&mut self, media_time: i64, monotonic_us: i64) -> Result<Placed, Restless> {
        let placed = self.place(media_time);
        let Some(mut running) = self.running else {
            self.running = Some(Running {
                latest: placed,
                step: i64::from(self.timescale.get()) / 25,
                latest_at_us: monotonic_us,
                lead_us: self.lead_us(placed, monotonic_us),
                monotonic_us,
            });
            return Ok(Placed { media_time: placed, jumped_us: None });
        };
        let off_us = self.lead_us(placed, monotonic_us).saturating_sub(running.lead_us);
        let back_us = to_micros(running.latest.saturating_sub(placed), self.timescale);
        if off_us.saturating_abs() > MAX_JUMP_US || back_us > MAX_REORDER_US {
            return self.jump(running, placed, monotonic_us);
        }
        let passed_us = monotonic_us.saturating_sub(running.monotonic_us).max(0);
        let bound_us = passed_us / (1_000_000 / MAX_DRIFT_PPM);
        running.lead_us = running.lead_us.saturating_add(off_us.clamp(-bound_us, bound_us));
        running.monotonic_us = running.monotonic_us.max(monotonic_us);
        if placed > running.latest {
            running.step = placed.saturating_sub(running.latest);
            running.latest = placed;
            running.latest_at_us = monotonic_us;
        }
        self.running = Some(running);
        Ok(Placed { media_time: placed, jumped_us: None })
    }

    /// Takes a jump out: the frame is where the one before it, and the time since, say.
    fn jump(&mut self, before: Running, placed: i64, monotonic_us: i64) -> Result<Placed, Restless> {
        let waited_us = monotonic_us.saturating_sub(before.latest_at_us);
        // What has come in one look came at one moment: within it, the pace of the frames before tells more.
        let waited = i128::from(waited_us) * i128::from(self.timescale.get()) / 1_000_000;
        let step =
            if waited_us > MAX_REORDER_US { i64::try_from(waited).unwrap_or(i64::MAX) } else { before.step };
        let expected = before.latest.saturating_add(step.max(1));
        let by = placed.saturating_sub(expected);
        self.correction = self.correction.saturating_sub(by);
        self.running = Some(Running {
            latest: expected,
            step: before.step,
            latest_at_us: monotonic_us,
            lead_us: self.lead_us(expected, monotonic_us),
            monotonic_us,
        });
        let jumped_us = to_micros(by, self.timescale);
        self.jumps.retain(|at| monotonic_us.saturating_sub(*at) < JUMPS_WITHIN_US);
        self.jumps.push_back(monotonic_us);
        if self.jumps.len() > MAX_JUMPS {
            return Err(Restless { by_ms: jumped_us / 1_000 });
        }
        Ok(Placed { media_time: expected, jumped_us: Some(jumped_us) })
    }

    fn lead_us(&self, placed: i64, monotonic_us: i64) -> i64 {
        to_micros(placed, self.timescale).saturating_sub(monotonic_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCALE: NonZeroU32 = NonZeroU32::new(90_000).unwrap();
    const HOUR: i64 = 3_600 * 90_000;

    /// Frames 40 ms apart, each moved by what `offset` says of its number.
    fn play(frames: i64, offset: impl Fn(i64) -> i64) -> Vec<Placed> {
        let mut clock = MediaClock::new(SCALE);
        (0..frames).map(|n| clock.read(n * 3_600 + offset(n), n * 40_000).unwrap()).collect()
    }

    #[test]
    fn a_jump_is_taken_out_and_told_once() {
        for by in [HOUR, -HOUR, 11 * 90_000, -2 * 90_000] {
            let placed = play(200, |n| if n < 100 { 0 } else { by });
            for (n, placed) in (0..).zip(&placed) {
                assert_eq!(placed.media_time, n * 3_600, "{by}: frame {n}");
                let jumped = (n == 100).then(|| to_micros(by, SCALE));
                assert_eq!(placed.jumped_us, jumped, "{by}: frame {n}");
            }
        }
    }

    #[test]
    fn a_month_of_drift_and_b_pictures_are_no_jump() {
        let mut clock = MediaClock::new(SCALE);
        for second in 0..30 * 24 * 3_600_i64 {
            // 60 ppm of drift: 155 s in a month.
            let media = second * 90_000 + second * 90_000 * 60 / 1_000_000;
            let placed = clock.read(media, second * 1_000_000).unwrap();
            assert_eq!(placed, Placed { media_time: media, jumped_us: None });
        }
        let mut clock = MediaClock::new(SCALE);
        for (n, shown) in (0..).zip([0, 3, 1, 2, 6, 4, 5, 9, 7, 8_i64]) {
            let placed = clock.read(shown * 3_600, n * 40_000).unwrap();
            assert_eq!(placed, Placed { media_time: shown * 3_600, jumped_us: None });
        }
    }

    #[test]
    fn a_stall_with_a_burst_behind_it_is_no_jump() {
        let mut clock = MediaClock::new(SCALE);
        clock.read(0, 0).unwrap();
        for frame in 1..250 {
            assert_eq!(clock.read(frame * 3_600, 9_900_000).unwrap().jumped_us, None, "{frame}");
        }
    }

    #[test]
    fn a_clock_that_never_rests_is_given_up() {
        let mut clock = MediaClock::new(SCALE);
        let told = (0..100).map(|n| clock.read(n * HOUR, n * 40_000)).take_while(Result::is_ok).count();
        assert_eq!(told, MAX_JUMPS + 1);
        // One that jumps now and then is not.
        let mut clock = MediaClock::new(SCALE);
        for n in 0..1_000 {
            assert!(clock.read(n * HOUR, n * 10_000_000).is_ok(), "{n}");
        }
    }

    #[test]
    fn what_is_told_beside_the_frames_moves_with_them() {
        let mut clock = MediaClock::new(SCALE);
        clock.read(0, 0).unwrap();
        clock.read(HOUR, 40_000).unwrap();
        assert_eq!(clock.place(HOUR + 3_600), 3_600 + 3_600);
    }

    proptest! {
        /// Whatever a camera's clock does, what is made of it follows the monotonic one and never goes back by more than
        /// pictures may be reordered.
        #[test]
        fn time_goes_on(steps in proptest::collection::vec((-(1_i64 << 48)..1 << 48, 0..500_000_i64), 1..100)) {
            let mut clock = MediaClock::new(SCALE);
            let (mut now, mut latest, mut first) = (0, i64::MIN, None);
            for (media, passed) in steps {
                now += passed;
                let Ok(placed) = clock.read(media, now) else { return Ok(()) };
                let (start_time, start_at) = *first.get_or_insert((placed.media_time, now));
                let behind = latest.saturating_sub(placed.media_time);
                prop_assert!(to_micros(behind, SCALE) <= MAX_REORDER_US);
                latest = latest.max(placed.media_time);
                // Each jump may add the step before it, and what a clock may be off before it counts as one.
                let ran_us = to_micros(latest.saturating_sub(start_time), SCALE);
                let jumps = i64::try_from(MAX_JUMPS).unwrap() + 1;
                prop_assert!(ran_us <= now - start_at + jumps * 3 * (MAX_JUMP_US + 1_000_000), "{} {}", ran_us, now);
            }
        }
    }
}
