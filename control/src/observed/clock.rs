//! The log's clock, as far as silence is measured by it: what passed while the log ran. Not the time of day.
//!
//! Invariant: it follows from the records of `HEARTBEATS` in their order, and never goes back, whatever the clock of NATS
//! is set to. Between two records no more counts than control's tick allows: in what is beyond that the log stood still,
//! or its clock was set, and nobody could be heard.

use longwatch_events::time::Timestamp;

use super::TICK_MS;

/// How much later than it should a tick of control may come without that being a pause, in milliseconds. And by so much the
/// clocks of the servers of NATS may differ, each of which stores in its turn.
const JITTER_MS: i64 = 100;
const JITTER_US: i64 = JITTER_MS * 1_000;
/// More between two records is not time in which the log ran, in microseconds.
const RUNS_US: i64 = TICK_MS as i64 * 1_000 + JITTER_US;

/// What the clock shows, in microseconds since the first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Reading {
    /// Between records, forwards: what a clock shows that is never set back.
    pub(super) passed_us: i64,
    /// The part of it in which the log ran.
    pub(super) ran_us: i64,
    /// For how long the log stood still, or by how much its clock was set back.
    pub(super) stood_us: i64,
}

impl Reading {
    /// The same, so much of running time later.
    pub(super) const fn plus_ran_millis(self, millis: i64) -> Self {
        Self { ran_us: self.ran_us.saturating_add(millis.saturating_mul(1_000)), ..self }
    }

    /// The one that has run longer.
    pub(super) fn later(self, other: Self) -> Self {
        if other.ran_us > self.ran_us { other } else { self }
    }

    /// For how long the log ran from `earlier` on, in milliseconds.
    pub(super) const fn ran_millis_since(self, earlier: Self) -> i64 {
        self.ran_us.saturating_sub(earlier.ran_us) / 1_000
    }

    /// For how long it stood from `earlier` on, in milliseconds.
    pub(super) const fn stood_millis_since(self, earlier: Self) -> i64 {
        self.stood_us.saturating_sub(earlier.stood_us) / 1_000
    }
}

/// The clock. It stands until the first record is read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LogClock {
    /// When the first and the newest record were stored.
    ends: Option<(Timestamp, Timestamp)>,
    reading: Reading,
}

impl LogClock {
    /// The next record was stored at `at`. Says for how long the log stood still before it, in milliseconds; `None`: nobody
    /// knows, for its clock was set back.
    pub(super) fn read(&mut self, at: Timestamp) -> Option<i64> {
        let Some((first, newest)) = self.ends else {
            self.ends = Some((at, at));
            return Some(0);
        };
        self.ends = Some((first, at));
        let us = at.micros_since(newest);
        let passed_us = us.max(0);
        let ran_us = passed_us.min(RUNS_US);
        // Nothing tells how long it was until a clock that was set back was read: by how much it went back stands for that.
        let stood_us = us.saturating_abs().saturating_sub(ran_us);
        self.reading.passed_us = self.reading.passed_us.saturating_add(passed_us);
        self.reading.ran_us = self.reading.ran_us.saturating_add(ran_us);
        self.reading.stood_us = self.reading.stood_us.saturating_add(stood_us);
        (us >= -JITTER_US).then_some(stood_us / 1_000)
    }

    /// For so long it stood, as is known from elsewhere, in milliseconds.
    pub(super) fn stood(&mut self, millis: i64) {
        self.reading.stood_us = self.reading.stood_us.saturating_add(millis.saturating_mul(1_000));
    }

    /// What it shows.
    pub(super) const fn reading(&self) -> Reading {
        self.reading
    }

    /// When the first record was stored that it was read from.
    pub(super) fn first(&self) -> Option<Timestamp> {
        self.ends.map(|(first, _)| first)
    }

    /// When the newest record was stored, by the clock that NATS had then.
    pub(super) fn newest(&self) -> Option<Timestamp> {
        self.ends.map(|(_, newest)| newest)
    }
}
