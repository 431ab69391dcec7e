//! A log in memory that is slow, refuses, or does not answer; and counts how it is asked.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, pending};
use longwatch_events::log::memory::MemoryLog;
use longwatch_events::log::{self, Entry, Follow, Log, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use tokio::time::sleep;

/// What the log does with what is appended to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It takes a moment.
    Slow(Duration),
    /// Of several events together one has lost a race.
    RefusesBatches,
    /// It takes nothing.
    Away,
    /// It does not say where it ends.
    EndsNowhere,
}

/// A log in memory with a mood, which counts how it is asked.
pub(crate) struct Moody {
    pub(crate) log: MemoryLog,
    mood: Mood,
    batches: AtomicUsize,
    singles: AtomicUsize,
    under_way: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Moody {
    pub(crate) fn new(log: MemoryLog, mood: Mood) -> Self {
        let counted = || AtomicUsize::new(0);
        let (batches, singles, under_way, most_at_once) = (counted(), counted(), counted(), counted());
        Self { log, mood, batches, singles, under_way, most_at_once }
    }

    /// How many batches were to be appended.
    pub(crate) fn batches(&self) -> usize {
        self.batches.load(Ordering::SeqCst)
    }

    /// How many single entries were.
    pub(crate) fn singles(&self) -> usize {
        self.singles.load(Ordering::SeqCst)
    }

    /// How many of them at once.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most_at_once.load(Ordering::SeqCst)
    }
}

impl Log for Moody {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<Position, log::Error>> {
        async move {
            self.singles.fetch_add(1, Ordering::SeqCst);
            let at_once = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            sleep(if let Mood::Slow(pause) = self.mood { pause } else { Duration::from_millis(1) }).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            match self.mood {
                Mood::Away => Err(log::Error::Unavailable("it is away".to_owned())),
                Mood::Slow(_) | Mood::RefusesBatches | Mood::EndsNowhere => self.log.append(entry).await,
            }
        }
        .boxed()
    }

    fn append_atomically(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Position, log::Error>> {
        async move {
            self.batches.fetch_add(1, Ordering::SeqCst);
            match self.mood {
                Mood::Slow(pause) => {
                    sleep(pause).await;
                    self.log.append_atomically(entries).await
                }
                Mood::RefusesBatches => Err(log::Error::Conflict { subject: entries[0].subject.clone() }),
                Mood::Away => Err(log::Error::Unavailable("it is away".to_owned())),
                Mood::EndsNowhere => self.log.append_atomically(entries).await,
            }
        }
        .boxed()
    }

    fn follow(&self, stream: LogStream, after: Position) -> BoxFuture<'_, Result<Follow, log::Error>> {
        self.log.follow(stream, after)
    }

    fn connection(&self) -> Option<u64> {
        self.log.connection()
    }

    fn end(&self, stream: LogStream) -> BoxFuture<'_, Result<Position, log::Error>> {
        if self.mood == Mood::EndsNowhere { pending().boxed() } else { self.log.end(stream) }
    }

    fn last<'a>(
        &'a self,
        stream: LogStream,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<Record>, log::Error>> {
        self.log.last(stream, subject)
    }

    fn get(
        &self,
        stream: LogStream,
        position: Position,
    ) -> BoxFuture<'_, Result<Option<Record>, log::Error>> {
        self.log.get(stream, position)
    }

    fn ask(
        &self,
        subject: String,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, log::Error>> {
        self.log.ask(subject, payload, limit)
    }

    fn since(&self, stream: LogStream, at: Timestamp) -> BoxFuture<'_, Result<Position, log::Error>> {
        self.log.since(stream, at)
    }

    fn signal(&self, subject: String) -> BoxFuture<'_, Result<(), log::Error>> {
        self.log.signal(subject)
    }

    fn read(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> BoxFuture<'_, Result<Vec<Record>, log::Error>> {
        self.log.read(stream, after, up_to)
    }
}
