//! When to try again after a failure: exponential, with full jitter ("Exponential Backoff And Jitter", AWS
//! Architecture Blog 2015), so that a thousand cameras that vanished together do not come back together.
//!
//! Pure: time and randomness are given. Invariant: every delay lies between [`SHORTEST`] and the limit of its cause.

use std::time::Duration;

use longwatch_events::fact::Cause;

/// No retry comes sooner.
pub const SHORTEST: Duration = Duration::from_millis(250);
/// No retry comes later, unless credentials were refused.
pub const LONGEST: Duration = Duration::from_secs(15);
/// No retry comes later after refused credentials: cameras lock accounts that knock too often.
pub const LONGEST_UNAUTHORIZED: Duration = Duration::from_secs(60);
/// A recording that lasted this long was a success: the next failure starts from the shortest delay again. Short,
/// because some cameras close every session after 20 s or so, and the delays between them are all that is lost; long
/// enough that a camera that fails right after its first keyframe is not knocked at several times a second.
pub const SETTLED: Duration = Duration::from_secs(5);

/// How often it has failed since it last went well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How often it has failed since it last went well.
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// The delay before the next attempt, after one that recorded for `recorded` and ended with `cause`.
    /// `random` is drawn uniformly from 0 to 1.
    pub fn next_delay(&mut self, recorded: Duration, cause: Cause, random: f64) -> Duration {
        if recorded >= SETTLED {
            self.failures = 0;
        }
        let limit = if cause == Cause::Unauthorized { LONGEST_UNAUTHORIZED } else { LONGEST };
        // The first step is doubled so that even the first delay has room for jitter.
        let steps = (self.failures + 1).min(16);
        let ceiling = SHORTEST.saturating_mul(1 << steps).min(limit);
        self.failures = self.failures.saturating_add(1);
        SHORTEST + (ceiling - SHORTEST).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(
            randoms in proptest::collection::vec(0.0..=1.0_f64, 1..40),
            recorded_ms in 0..60_000_u64,
        ) {
            let mut backoff = Backoff::default();
            for random in randoms {
                let delay = backoff.next_delay(Duration::from_millis(recorded_ms), Cause::Refused, random);
                prop_assert!((SHORTEST..=LONGEST).contains(&delay), "{delay:?}");
            }
        }
    }

    #[test]
    fn delays_grow_until_a_recording_settles() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..8).map(|_| backoff.next_delay(Duration::ZERO, Cause::Closed, 1.0)).collect();
        assert!(delays.is_sorted());
        assert_eq!((delays[0], delays[7]), (Duration::from_millis(500), LONGEST));
        assert_eq!(backoff.next_delay(SETTLED, Cause::Closed, 1.0), delays[0]);
    }

    #[test]
    fn a_camera_that_closes_every_twenty_seconds_waits_the_shortest_delay_each_time() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> =
            (0..20).map(|_| backoff.next_delay(Duration::from_secs(20), Cause::Closed, 1.0)).collect();
        assert!(delays.iter().all(|delay| *delay == SHORTEST * 2), "{delays:?}");
        // One that fails sooner is still given time.
        let last = (0..8).map(|_| backoff.next_delay(Duration::from_secs(4), Cause::Closed, 1.0)).last();
        assert_eq!(last, Some(LONGEST));
    }

    #[test]
    fn refused_credentials_wait_longest() {
        let mut backoff = Backoff::default();
        let last = (0..40).map(|_| backoff.next_delay(Duration::ZERO, Cause::Unauthorized, 1.0)).last();
        assert_eq!(last, Some(LONGEST_UNAUTHORIZED));
    }
}
