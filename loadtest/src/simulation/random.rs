//! Everything that is left to chance, from one seed.

use std::ops::RangeInclusive;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

/// The only source of randomness of one run.
pub(super) struct Random(StdRng);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// True in so many cases of a hundred.
    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    pub(super) fn number(&mut self, range: RangeInclusive<i64>) -> i64 {
        self.0.random_range(range)
    }

    pub(super) fn count(&mut self, range: RangeInclusive<u32>) -> u32 {
        self.0.random_range(range)
    }

    /// From 0 to 1.
    pub(super) fn share(&mut self) -> f64 {
        self.0.random()
    }

    /// Between the two, short ones as often as long ones: each doubling is as likely as any other.
    pub(super) fn spread(&mut self, shortest: i64, longest: i64) -> i64 {
        let doublings = (longest / shortest.max(1)).max(1).ilog2();
        let least = shortest << self.0.random_range(0..=doublings);
        self.number(least..=(2 * least).min(longest).max(least))
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.0.random_range(0..from.len())].clone())
    }

    pub(super) fn one_of<T: Clone, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.0.random_range(0..N)].clone()
    }

    /// An id whose order says nothing and whose end is `number`, so that a trace can name it.
    pub(super) fn id(&mut self, number: u32) -> Uuid {
        let order: u64 = self.0.random();
        numbered(order >> 16, number)
    }
}

/// The id that begins with `order`, of 48 bits, and ends with `number`.
pub(super) fn numbered(order: u64, number: u32) -> Uuid {
    let form = 0x0000_0000_0000_7000_8000_0000_0000_0000_u128;
    Uuid::from_u128((u128::from(order) << 80) | form | u128::from(number))
}
