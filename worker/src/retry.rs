//! When to ask again for what did not work, and when to say so: for everything that is not a camera (those have
//! [`crate::backoff`]).
//!
//! Pure: time and randomness are given. Invariant: every delay lies between half the first and the limit.

use std::time::Duration;

/// Between two reports of one failure that goes on.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Exponential backoff with jitter, and a memory of what was last said about it.
#[derive(Debug, Clone)]
pub struct Retry {
    first: Duration,
    limit: Duration,
    failures: u32,
    said: Option<Said>,
}

/// How long to wait after a failure that came after `failures` others. `random` is drawn uniformly from 0 to 1.
pub fn delay(first: Duration, limit: Duration, failures: u32, random: f64) -> Duration {
    let ceiling = first.saturating_mul(1 << failures.min(20)).min(limit);
    let least = (first / 2).min(ceiling);
    least + (ceiling - least).mul_f64(random.clamp(0.0, 1.0))
}

#[derive(Debug, Clone)]
struct Said {
    what: String,
    when: Duration,
}

impl Retry {
    /// Waits about `first` after the first failure, twice as long after each further one, never above `limit`.
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0, said: None }
    }

    /// It failed: how long to wait. `random` is drawn uniformly from 0 to 1.
    pub fn failed(&mut self, random: f64) -> Duration {
        let wait = delay(self.first, self.limit, self.failures, random);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// It worked: the next failure is a first one. Returns how many failures came before.
    pub fn worked(&mut self) -> u32 {
        self.said = None;
        std::mem::take(&mut self.failures)
    }

    /// Whether `what` is worth a warning at monotonic time `now`: it is new, or went unsaid for a minute.
    pub fn is_news(&mut self, what: &str, now: Duration) -> bool {
        let news = self
            .said
            .as_ref()
            .is_none_or(|said| said.what != what || now.saturating_sub(said.when) >= SAY_AGAIN);
        if news {
            self.said = Some(Said { what: what.to_owned(), when: now });
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: Duration = Duration::from_millis(500);
    const LIMIT: Duration = Duration::from_secs(30);

    proptest! {
        #[test]
        fn delays_stay_within_their_bounds(randoms in proptest::collection::vec(0.0..=1.0_f64, 1..60)) {
            let mut retry = Retry::new(FIRST, LIMIT);
            for random in randoms {
                prop_assert!((FIRST / 2..=LIMIT).contains(&retry.failed(random)));
            }
        }
    }

    #[test]
    fn delays_grow_until_it_works() {
        let mut retry = Retry::new(FIRST, LIMIT);
        let delays: Vec<_> = (0..8).map(|_| retry.failed(1.0)).collect();
        assert!(delays.is_sorted());
        assert_eq!((delays[0], delays[7]), (FIRST, LIMIT));
        assert_eq!(retry.worked(), 8);
        assert_eq!(retry.failed(1.0), FIRST);
    }

    #[test]
    fn the_same_failure_is_said_once_a_minute() {
        let mut retry = Retry::new(FIRST, LIMIT);
        assert!(retry.is_news("no answer", Duration::ZERO));
        assert!(!retry.is_news("no answer", Duration::from_secs(59)));
        assert!(retry.is_news("refused", Duration::from_secs(59)));
        assert!(retry.is_news("refused", Duration::from_secs(119)));
        retry.worked();
        assert!(retry.is_news("refused", Duration::from_secs(120)));
    }
}
