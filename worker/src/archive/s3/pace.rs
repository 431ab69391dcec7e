//! How fast bytes may go: so many a second, over all that share it.
//!
//! Pure: time is given. The bound is kept by spacing (the generic cell rate algorithm of ATM Forum TM 4.0 with a small
//! tolerance): what is taken now pushes back whatever is taken next. Invariant: over any stretch of time no more goes than
//! the rate allows, plus [`BURST`] of it.

use std::time::Duration;

/// How much of what was not used may be made up for at once.
const BURST: Duration = Duration::from_millis(100);

/// A rate, and how far it is used up.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes_per_s: u64,
    /// When all that was taken will have gone, at this rate.
    free_at: Duration,
}

impl Pace {
    /// So many bytes a second; at least one.
    pub const fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s: if bytes_per_s == 0 { 1 } else { bytes_per_s }, free_at: Duration::ZERO }
    }

    /// Takes `bytes` at monotonic time `now`; how long to wait before they may go.
    pub fn take(&mut self, now: Duration, bytes: u64) -> Duration {
        let begins = self.free_at.max(now.saturating_sub(BURST));
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_s);
        let lasts = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        self.free_at = begins.saturating_add(lasts);
        begins.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_taken_pushes_back_what_comes_next() {
        let mut pace = Pace::new(1_000);
        let now = Duration::from_secs(10);
        assert_eq!(pace.take(now, 500), Duration::ZERO);
        // The first 100 ms of it were made up for.
        assert_eq!(pace.take(now, 500), Duration::from_millis(400));
        assert_eq!(pace.take(now, 1), Duration::from_millis(900));
        // After a pause there is no more to make up for than that.
        assert_eq!(pace.take(now * 2, 200), Duration::ZERO);
        assert_eq!(pace.take(now * 2, 1), Duration::from_millis(100));
    }

    proptest! {
        #[test]
        fn no_more_goes_than_the_rate_allows(
            rate in 1_u64..1_000_000,
            taken in proptest::collection::vec((0_u64..200_000, 0_u64..3_000), 1..100),
        ) {
            let (mut pace, mut now, mut gone) = (Pace::new(rate), Duration::from_secs(1), 0_u128);
            for (bytes, pause_ms) in taken {
                now += Duration::from_millis(pause_ms);
                let goes_at = now + pace.take(now, bytes);
                // All before it may have gone until then, and no more.
                let micros = (goes_at - Duration::from_secs(1) + BURST).as_micros() + 100;
                prop_assert!(gone <= micros * u128::from(rate) / 1_000_000 + u128::from(rate) / 1_000 + 100);
                gone += u128::from(bytes);
            }
        }
    }
}
