//! The log: where events stand, in order, for good. A trait with two implementations that behave alike:
//! [`memory`] (deterministic, for tests and simulation) and [`jetstream`] (NATS JetStream).
//!
//! Invariants: positions within a log stream only grow; what was acknowledged is never lost; an append with the
//! same event id happens once however often it is tried; what is appended atomically stands there whole or not at all;
//! a follower sees every record once and in order.

mod backlog;
#[cfg(feature = "jetstream")]
pub mod jetstream;
pub mod memory;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::id::EventId;
use crate::position::Position;
use crate::subject::LogStream;
use crate::time::Timestamp;

pub use backlog::Backlog;

/// Something to append.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Which log stream.
    pub stream: LogStream,
    /// Under which subject.
    pub subject: String,
    /// By which a retry is recognised.
    pub id: EventId,
    /// The exact bytes.
    pub payload: Bytes,
    /// `Some(p)`: only if the last record of `subject` stands at `p` (0: there is none).
    pub expected_last: Option<Position>,
    /// `Some(c)`: only on the connection `c`; see [`Log::connection`]. What was decided by what was known there may be wrong on
    /// another one.
    pub connection: Option<u64>,
}

impl Entry {
    /// Whether it may be appended on `connection`.
    fn is_for(&self, connection: Option<u64>) -> bool {
        self.connection.is_none_or(|wanted| connection == Some(wanted))
    }
}

/// Something that stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where.
    pub position: Position,
    /// When it was stored, by the log's clock: the only clock decisions may use.
    pub stored_at: Timestamp,
    /// Under which subject.
    pub subject: String,
    /// The exact bytes.
    pub payload: Bytes,
}

/// Why an append or a read did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else appended to the subject first. Nothing was written.
    #[error("`{subject}` was appended to by another writer first")]
    Conflict {
        /// Where.
        subject: String,
    },
    /// The log did not answer in time. What was to be appended may or may not stand there; trying again with the
    /// same event id is safe.
    #[error("the log does not answer: {0}")]
    Unavailable(String),
    /// The connection on which it was to be appended is gone. Whether it was appended is not known, if it was begun before;
    /// trying again with the same event id is safe, once it is known that the log is still the same.
    #[error("the connection to the log was lost")]
    Disconnected,
    /// The log answered no, and would again.
    #[error("the log refused: {0}")]
    Refused(String),
}

/// Records from a position on, without end: first those that stand there, then those to come. An `Err` ends it.
pub type Follow = BoxStream<'static, Result<Record, Error>>;

/// An ordered, append-only log of several streams.
pub trait Log: Send + Sync {
    /// Appends one entry and answers its position once it is durable.
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<Position, Error>>;

    /// Appends all `entries` or none, one right behind the other, and answers the position of the last once they are
    /// durable. They go to one log stream, at most [`MAX_ATOMIC_ENTRIES`] of them, and at least one is conditional: by
    /// that one a retry finds out that the first try did arrive. Several may stand under one subject, in a log stream
    /// that keeps them all; a condition is then the first one's, as where the others stand follows from it. Anything
    /// else is refused.
    fn append_atomically(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Position, Error>>;

    /// Every record of `stream` behind `after`, in order, each once, across reconnects.
    fn follow(&self, stream: LogStream, after: Position) -> BoxFuture<'_, Result<Follow, Error>>;

    /// Which connection this is, counted from the first; `None` while there is none. Whoever answers on another one than
    /// before may have been started with an older store: what is known of its ends is to be asked again before anything is
    /// decided by it.
    ///
    /// An [`Entry`] for another connection is refused when it is about to be sent. What breaks between that look and the socket
    /// may still come through on the next one; then only its condition keeps it from a log that was set back.
    fn connection(&self) -> Option<u64>;

    /// The position of the newest record of `stream`; [`Position::START`] if it is empty.
    fn end(&self, stream: LogStream) -> BoxFuture<'_, Result<Position, Error>>;

    /// The newest record under `subject`.
    fn last<'a>(
        &'a self,
        stream: LogStream,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<Record>, Error>>;

    /// The record at `position`. In a cluster a replica answers that may not yet have the very newest.
    fn get(&self, stream: LogStream, position: Position) -> BoxFuture<'_, Result<Option<Record>, Error>>;

    /// Behind which position stands what was stored at `at` or later, by the log's clock: to follow from there is to
    /// see all of it. The end, if nothing is that new. Exact while the log's clock does not go back.
    fn since(&self, stream: LogStream, at: Timestamp) -> BoxFuture<'_, Result<Position, Error>>;

    /// Says something that nobody keeps: an empty message under `subject`, for whoever listens right now.
    fn signal(&self, subject: String) -> BoxFuture<'_, Result<(), Error>>;

    /// Asks whoever listens under `subject` right now, and answers with the first answer; `None`: nobody listens, or nobody
    /// answers within `limit`.
    fn ask(
        &self,
        subject: String,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Error>>;

    /// The first records of `stream` behind `after` and not behind `up_to`, in order: a page of at most [`MAX_PAGE`],
    /// by their number and bytes perhaps a shorter one. Empty only if there are none. Unlike [`Self::follow`] it
    /// needs no consumer, which an auditor may not make; as with [`Self::get`], a replica of a cluster answers.
    fn read(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>>;
}

/// How many records a page of [`Log::read`] has at most.
pub const MAX_PAGE: usize = 1_000;

/// The bytes of the largest payload there can be; the limit of a message, headers included, is the same.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// How many entries can be appended atomically: nats-server's default for a batch
/// ([ADR-50](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md)).
pub const MAX_ATOMIC_ENTRIES: usize = 1_000;

/// The log stream of `entries`, unless they cannot be appended atomically, whatever stands in the log.
fn check_atomic(entries: &[Entry]) -> Result<LogStream, Error> {
    let refuse = |why: String| Err(Error::Refused(why));
    let Some(first) = entries.first() else { return refuse("there is nothing to append".to_owned()) };
    if entries.iter().any(|entry| entry.stream != first.stream) {
        return refuse("entries of several log streams cannot be appended atomically".to_owned());
    }
    if entries.len() > MAX_ATOMIC_ENTRIES {
        return refuse(format!("{} entries are more than can be appended atomically", entries.len()));
    }
    let mut subjects = BTreeSet::new();
    for entry in entries {
        if subjects.insert(&entry.subject) {
            continue;
        }
        if first.stream.keeps_last_only() {
            return refuse(format!("of two entries under `{}` only one would be kept", entry.subject));
        }
        if entry.expected_last.is_some() {
            return refuse(format!("only the first entry under `{}` can be conditional", entry.subject));
        }
    }
    if entries.iter().all(|entry| entry.expected_last.is_none()) {
        return refuse("none of the entries to append atomically is conditional".to_owned());
    }
    match entries.iter().map(|entry| entry.payload.len()).find(|bytes| *bytes > MAX_PAYLOAD_BYTES) {
        Some(bytes) => refuse(format!("an event is too large: {bytes} bytes")),
        None => Ok(first.stream),
    }
}
