//! A log in memory. Deterministic: positions and times follow from the order of the calls and the given clock.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::channel::mpsc;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, StreamExt};

use super::{Entry, Error, Follow, Log, Record};
use crate::id::EventId;
use crate::position::Position;
use crate::subject::LogStream;
use crate::time::Clock;

/// A log that lives as long as the process. Cloning it gives another handle to the same log.
#[derive(Clone)]
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    streams: Arc<Mutex<BTreeMap<LogStream, Stream>>>,
}

#[derive(Default)]
struct Stream {
    end: Position,
    records: BTreeMap<Position, Record>,
    by_id: BTreeMap<EventId, Position>,
    last_of_subject: BTreeMap<String, Position>,
    followers: Vec<Follower>,
}

struct Follower {
    after: Position,
    sender: mpsc::UnboundedSender<Record>,
}

/// As JetStream is set up: payload and headers of one message.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

impl MemoryLog {
    /// An empty log whose records are stored at the times `clock` tells.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, streams: Arc::default() }
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<LogStream, Stream>> {
        // No code below panics between two changes that belong together.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, entry: Entry) -> Result<Position, Error> {
        if entry.payload.len() > MAX_MESSAGE_BYTES {
            return Err(Error::Refused(format!("the event is too large: {} bytes", entry.payload.len())));
        }
        let mut streams = self.streams();
        let stream = streams.entry(entry.stream).or_default();
        if let Some(position) = stream.by_id.get(&entry.id) {
            return Ok(*position);
        }
        let last = stream.last_of_subject.get(&entry.subject).copied().unwrap_or(Position::START);
        if entry.expected_last.is_some_and(|expected| expected != last) {
            return Err(Error::Conflict { subject: entry.subject });
        }
        let position = stream.end.next();
        let record = Record {
            position,
            stored_at: self.clock.now(),
            subject: entry.subject.clone(),
            payload: entry.payload,
        };
        stream.end = position;
        stream.by_id.insert(entry.id, position);
        stream.last_of_subject.insert(entry.subject, position);
        if entry.stream == LogStream::Assignments {
            stream.records.remove(&last);
        }
        stream.followers.retain(|follower| {
            position <= follower.after || follower.sender.unbounded_send(record.clone()).is_ok()
        });
        stream.records.insert(position, record);
        Ok(position)
    }

    fn follow_now(&self, stream: LogStream, after: Position) -> Follow {
        let mut streams = self.streams();
        let stream = streams.entry(stream).or_default();
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let standing: Vec<_> = stream.records.range(behind).map(|(_, record)| Ok(record.clone())).collect();
        let (sender, receiver) = mpsc::unbounded();
        stream.followers.push(Follower { after, sender });
        stream::iter(standing).chain(receiver.map(Ok)).boxed()
    }
}

impl Log for MemoryLog {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<Position, Error>> {
        ready(self.append_now(entry)).boxed()
    }

    fn follow(&self, stream: LogStream, after: Position) -> BoxFuture<'_, Result<Follow, Error>> {
        ready(Ok(self.follow_now(stream, after))).boxed()
    }

    fn end(&self, stream: LogStream) -> BoxFuture<'_, Result<Position, Error>> {
        let end = self.streams().get(&stream).map_or(Position::START, |stream| stream.end);
        ready(Ok(end)).boxed()
    }

    fn last<'a>(
        &'a self,
        stream: LogStream,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        let streams = self.streams();
        let last =
            streams.get(&stream).and_then(|stream| stream.records.get(stream.last_of_subject.get(subject)?));
        ready(Ok(last.cloned())).boxed()
    }
}
