//! How far the log streams were read, and on which connection they are known to be the ones that are folded.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use longwatch_events::subject::LogStream;
use tokio::time::Instant;

use super::{Progress, Service};
use crate::read_model::KnownRecord;

/// When records of `HEARTBEATS` came to this process, by its own clock.
pub(super) struct Hearing {
    last: Instant,
    /// The longest that none came.
    longest: Duration,
}

impl Default for Hearing {
    fn default() -> Self {
        Self { last: Instant::now(), longest: Duration::ZERO }
    }
}

impl Service {
    fn last_records(&self) -> MutexGuard<'_, BTreeMap<LogStream, KnownRecord>> {
        self.last_read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `stream` is known to be the one that is folded, on the connection that there is now. What was read is
    /// folded only then: behind a new connection it may be of another log, and rows of both would look like rows of one.
    /// False: the fold has halted.
    pub async fn is_same_log(&self, stream: LogStream) -> bool {
        let (mut progress, mut halted) = (self.progress.subscribe(), self.halted.subscribe());
        let is_known = |progress: &Progress| {
            let connection = self.log.connection();
            connection.is_some() && progress.connection_of(stream) == connection
        };
        tokio::select! {
            // A fold that halted for something else says nothing of this log stream.
            biased;
            _ = progress.wait_for(is_known) => true,
            _ = halted.wait_for(Option::is_some) => false,
        }
    }

    /// `stream` was read up to this record, and is the one that is folded. While it is read from the beginning, what the rows
    /// say of its end counts.
    pub fn has_read(&self, stream: LogStream, last: KnownRecord) {
        let mut records = self.last_records();
        let known = records.entry(stream).or_insert(last);
        if last.position >= known.position {
            *known = last;
        }
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record of `HEARTBEATS` came.
    pub fn has_heard(&self) {
        let mut hearing = self.hearing();
        hearing.longest = hearing.longest.max(hearing.last.elapsed());
        hearing.last = Instant::now();
    }

    /// For how long nothing of `HEARTBEATS` came to this process, at most, since it was asked last; in milliseconds, by its own
    /// clock.
    pub fn take_unheard_ms(&self) -> i64 {
        let mut hearing = self.hearing();
        let longest = std::mem::take(&mut hearing.longest).max(hearing.last.elapsed());
        i64::try_from(longest.as_millis()).unwrap_or(i64::MAX)
    }

    /// The last record of `stream` that was read and is of the log that is folded.
    pub fn last_read(&self, stream: LogStream) -> Option<KnownRecord> {
        self.last_records().get(&stream).copied()
    }
}
