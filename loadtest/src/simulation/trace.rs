//! What happened, as text: the last lines for whoever reads a failure, a hash of all of them to compare two runs by.

use std::collections::VecDeque;
use std::fmt;

use longwatch_events::time::Timestamp;

/// So many lines are shown of a run that fails.
const LAST: usize = 40;
/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>).
const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

pub(super) struct Trace {
    start: Timestamp,
    keep: usize,
    lines: VecDeque<String>,
    hash: u64,
}

impl Trace {
    /// Keeps all lines if `whole`, else the last ones.
    pub(super) const fn new(start: Timestamp, whole: bool) -> Self {
        let keep = if whole { usize::MAX } else { LAST };
        Self { start, keep, lines: VecDeque::new(), hash: OFFSET }
    }

    pub(super) fn line(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        let micros = now.micros_since(self.start);
        let line = format!("{:>6}.{:06} {what}", micros / 1_000_000, micros % 1_000_000);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(PRIME);
        }
        if self.lines.len() >= self.keep {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
