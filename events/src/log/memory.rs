//! A log in memory. Deterministic: positions and times follow from the order of the calls and the given clock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::future::{BoxFuture, FutureExt, ready};
use futures::stream::{self, StreamExt};

use super::{Backlog, Entry, Error, Follow, Log, MAX_PAGE, MAX_PAYLOAD_BYTES, Record};
use crate::id::{CameraId, EventId};
use crate::position::Position;
use crate::subject::{self, LogStream};
use crate::time::{Clock, Timestamp};

/// A log that lives as long as the process. Cloning it gives another handle to the same log.
#[derive(Clone)]
pub struct MemoryLog {
    clock: Arc<dyn Clock>,
    streams: Arc<Mutex<BTreeMap<LogStream, Stream>>>,
    signals: Arc<Mutex<Vec<String>>>,
    answers: Arc<Mutex<Option<Answers>>>,
    connection: Arc<AtomicU64>,
}

/// Answers what is asked under a subject, if anybody does.
type Answers = Box<dyn FnMut(&str, &[u8]) -> Option<Bytes> + Send>;

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

impl Stream {
    fn last_of(&self, subject: &str) -> Position {
        self.last_of_subject.get(subject).copied().unwrap_or(Position::START)
    }

    fn check_expectation(&self, entry: &Entry) -> Result<(), Error> {
        let last = self.last_of(&entry.subject);
        if entry.expected_last.is_some_and(|expected| expected != last) {
            return Err(Error::Conflict { subject: entry.subject.clone() });
        }
        Ok(())
    }

    /// Forgets what stands behind `end`. Of a stream that keeps the last record of a subject only, the ones before do not come
    /// back.
    fn set_back(&mut self, end: Position) {
        self.end = self.end.min(end);
        self.records.split_off(&end.next());
        self.by_id.retain(|_, position| *position <= end);
        self.last_of_subject = BTreeMap::new();
        for (position, record) in &self.records {
            self.last_of_subject.insert(record.subject.clone(), *position);
        }
    }

    fn push(&mut self, entry: Entry, stored_at: Timestamp) -> Position {
        let position = self.end.next();
        let last = self.last_of(&entry.subject);
        let record = Record { position, stored_at, subject: entry.subject.clone(), payload: entry.payload };
        self.end = position;
        self.by_id.insert(entry.id, position);
        self.last_of_subject.insert(entry.subject, position);
        if entry.stream.keeps_last_only() {
            self.records.remove(&last);
        }
        self.followers.retain(|follower| {
            position <= follower.after || follower.sender.unbounded_send(record.clone()).is_ok()
        });
        self.records.insert(position, record);
        position
    }
}

impl MemoryLog {
    /// An empty log whose records are stored at the times `clock` tells.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            streams: Arc::default(),
            signals: Arc::default(),
            answers: Arc::default(),
            connection: Arc::default(),
        }
    }

    /// Under which subjects something was said that nobody keeps, in order.
    pub fn signals(&self) -> Vec<String> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets somebody answer what is asked from now on.
    pub fn answer_with(&self, answers: impl FnMut(&str, &[u8]) -> Option<Bytes> + Send + 'static) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(answers));
    }

    /// As if it was started again, with a copy of its store in which `stream` ends at `end`. Whoever follows it hears of what
    /// comes then only.
    pub fn set_back(&self, stream: LogStream, end: Position) {
        self.streams().entry(stream).or_default().set_back(end);
        self.connection.fetch_add(1, Ordering::SeqCst);
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<LogStream, Stream>> {
        // No code below panics between two changes that belong together.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn append_now(&self, entry: Entry) -> Result<Position, Error> {
        self.check_connection(&entry)?;
        if entry.payload.len() > MAX_PAYLOAD_BYTES {
            return Err(Error::Refused(format!("the event is too large: {} bytes", entry.payload.len())));
        }
        let mut streams = self.streams();
        let stream = streams.entry(entry.stream).or_default();
        if let Some(position) = stream.by_id.get(&entry.id) {
            return Ok(*position);
        }
        stream.check_expectation(&entry)?;
        Ok(stream.push(entry, self.clock.now()))
    }

    fn append_atomically_now(&self, entries: Vec<Entry>) -> Result<Position, Error> {
        let log_stream = super::check_atomic(&entries)?;
        entries.iter().try_for_each(|entry| self.check_connection(entry))?;
        let mut streams = self.streams();
        let stream = streams.entry(log_stream).or_default();
        let known: Vec<_> = entries.iter().filter_map(|entry| stream.by_id.get(&entry.id)).collect();
        match known.last() {
            Some(last) if known.len() == entries.len() => return Ok(**last),
            Some(_) => return Err(Error::Refused("some of the events stand there already".to_owned())),
            None => {}
        }
        entries.iter().try_for_each(|entry| stream.check_expectation(entry))?;
        let now = self.clock.now();
        Ok(entries.into_iter().fold(Position::START, |_, entry| stream.push(entry, now)))
    }

    fn check_connection(&self, entry: &Entry) -> Result<(), Error> {
        if entry.is_for(self.connection()) { Ok(()) } else { Err(Error::Disconnected) }
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
    fn connection(&self) -> Option<u64> {
        Some(self.connection.load(Ordering::SeqCst))
    }

    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<Position, Error>> {
        ready(self.append_now(entry)).boxed()
    }

    fn append_atomically(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Position, Error>> {
        ready(self.append_atomically_now(entries)).boxed()
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

    fn get(&self, stream: LogStream, position: Position) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        let streams = self.streams();
        let record = streams.get(&stream).and_then(|stream| stream.records.get(&position));
        ready(Ok(record.cloned())).boxed()
    }

    fn signal(&self, subject: String) -> BoxFuture<'_, Result<(), Error>> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).push(subject);
        ready(Ok(())).boxed()
    }

    fn ask(
        &self,
        subject: String,
        payload: Bytes,
        _: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        ready(Ok(answers.as_mut().and_then(|answers| answers(&subject, &payload)))).boxed()
    }

    fn since(&self, stream: LogStream, at: Timestamp) -> BoxFuture<'_, Result<Position, Error>> {
        let streams = self.streams();
        let since = streams.get(&stream).map_or(Position::START, |stream| {
            let first = stream.records.values().find(|record| record.stored_at >= at);
            first.map_or(stream.end, |record| record.position.previous())
        });
        ready(Ok(since)).boxed()
    }

    fn read(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        let streams = self.streams();
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let records = streams.get(&stream).into_iter().flat_map(|stream| stream.records.range(behind));
        let page = records.map(|(_, record)| record).take_while(|record| record.position <= up_to);
        let page = page.take(MAX_PAGE).cloned().collect();
        ready(Ok(page)).boxed()
    }
}

impl Backlog for MemoryLog {
    fn remove(&self, camera: CameraId, copy: u8) -> BoxFuture<'_, Result<(), Error>> {
        let mut streams = self.streams();
        let stream = streams.entry(LogStream::Backlog).or_default();
        if let Some(position) = stream.last_of_subject.remove(&subject::backlog(camera, copy)) {
            stream.records.remove(&position);
        }
        ready(Ok(())).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<BTreeSet<(CameraId, u8)>, Error>> {
        let streams = self.streams();
        let subjects = streams.get(&LogStream::Backlog).into_iter().flat_map(|s| s.last_of_subject.keys());
        ready(subjects.map(|subject| super::backlog::waiting(subject)).collect()).boxed()
    }

    fn pending(&self) -> BoxFuture<'_, Result<u64, Error>> {
        let streams = self.streams();
        let waiting = streams.get(&LogStream::Backlog).map_or(0, |stream| stream.records.len());
        ready(Ok(waiting as u64)).boxed()
    }
}
