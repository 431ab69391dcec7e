//! A simulated JetStream: log streams with positions, conditions on the last record of a subject, event ids by which a
//! retry is recognised, atomic batches, and a clock of its own.
//!
//! Keeps every record it ever stored, also those that a log stream would have dropped: it can be rolled back to any
//! moment, as when an operator restores an older store.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use longwatch_events::assignment::AssignmentSet;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::id::{BootId, EventId, ServerId};
use longwatch_events::position::Position;
use longwatch_events::subject::{self, LogStream};
use longwatch_events::time::Timestamp;

use super::happening::{Ends, Found};

/// Something to append.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) id: EventId,
    pub(super) event: Event,
    /// What its writer takes the time for.
    pub(super) time: Timestamp,
    /// Only if the last record of its subject stands here.
    pub(super) expected_last: Option<Position>,
    /// Up to where its writer had folded the log.
    pub(super) folded: Position,
    /// Up to where it had read `HEARTBEATS`.
    pub(super) heard: Position,
}

/// Something that stands in the log.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) position: Position,
    /// By the clock that NATS has.
    pub(super) stored_at: Timestamp,
    /// What time it really was.
    pub(super) really_at: Timestamp,
    pub(super) subject: String,
    pub(super) id: EventId,
    pub(super) event: Event,
    /// Of what is read as bytes by somebody.
    pub(super) payload: Bytes,
    pub(super) folded: Position,
    pub(super) heard: Position,
}

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody else appended to the subject first.
    Conflict,
    /// Some of the events of a batch stand there already.
    Torn,
    /// No answer.
    Unavailable,
}

/// What came of an append.
pub(super) struct Appended {
    pub(super) position: Position,
    /// None if the retry was recognised.
    pub(super) records: Vec<Rc<Stored>>,
}

/// What time it is.
#[derive(Clone, Copy)]
struct Now {
    stored_at: Timestamp,
    really_at: Timestamp,
}

#[derive(Default)]
struct Stream {
    records: Vec<Rc<Stored>>,
    by_id: BTreeMap<EventId, Position>,
    last_of: BTreeMap<String, Position>,
}

pub(super) struct Nats {
    pub(super) is_up: bool,
    /// How wrong its clock is, in milliseconds.
    pub(super) clock_ms: i64,
    /// The latest time it told.
    latest: Timestamp,
    streams: BTreeMap<LogStream, Stream>,
    /// Who plans, and until when.
    planner: Option<(BootId, Timestamp)>,
}

impl Stream {
    fn end(&self) -> Position {
        self.records.last().map_or(Position::START, |record| record.position)
    }

    fn last_of(&self, subject: &str) -> Position {
        self.last_of.get(subject).copied().unwrap_or(Position::START)
    }

    fn get(&self, position: Position) -> Option<&Rc<Stored>> {
        self.records.get(usize::try_from(position.0).ok()?.checked_sub(1)?)
    }

    fn push(&mut self, draft: &Draft, subject: String, payload: Bytes, now: Now) -> Rc<Stored> {
        let Draft { id, ref event, folded, heard, .. } = *draft;
        let Now { stored_at, really_at } = now;
        let position = self.end().next();
        let event = event.clone();
        let stored = Stored { position, stored_at, really_at, subject, id, event, payload, folded, heard };
        let stored = Rc::new(stored);
        self.note(&stored);
        self.records.push(Rc::clone(&stored));
        stored
    }

    fn note(&mut self, stored: &Stored) {
        self.by_id.insert(stored.id, stored.position);
        self.last_of.insert(stored.subject.clone(), stored.position);
    }
}

impl Nats {
    pub(super) fn new() -> Self {
        let streams = LogStream::ALL.into_iter().map(|stream| (stream, Stream::default())).collect();
        Self { is_up: true, clock_ms: 0, latest: Timestamp::UNIX_EPOCH, streams, planner: None }
    }

    fn stream(&self, stream: LogStream) -> &Stream {
        self.streams.get(&stream).expect("invariant: every log stream is there")
    }

    fn stream_mut(&mut self, stream: LogStream) -> &mut Stream {
        self.streams.get_mut(&stream).expect("invariant: every log stream is there")
    }

    /// Appends all of `drafts` or none, one right behind the other. `encode` makes the bytes of those that somebody
    /// reads as bytes. With `recognise` a draft that stands there already is not appended again.
    pub(super) fn append(
        &mut self,
        drafts: &[Draft],
        now: Timestamp,
        recognise: bool,
        mut encode: impl FnMut(&Envelope) -> Bytes,
    ) -> Result<Appended, Refused> {
        let (log_stream, _) = subject::of(&drafts[0].event);
        let stream = self.stream_mut(log_stream);
        if recognise {
            let known: Vec<_> = drafts.iter().filter_map(|draft| stream.by_id.get(&draft.id)).collect();
            match known.last() {
                Some(last) if known.len() == drafts.len() => {
                    return Ok(Appended { position: **last, records: Vec::new() });
                }
                Some(_) => return Err(Refused::Torn),
                None => {}
            }
        }
        for draft in drafts {
            let last = stream.last_of(&subject::of(&draft.event).1);
            if draft.expected_last.is_some_and(|expected| expected != last) {
                return Err(Refused::Conflict);
            }
        }
        let now = Now { stored_at: now.plus_millis(self.clock_ms), really_at: now };
        self.latest = self.latest.max(now.stored_at);
        let stream = self.stream_mut(log_stream);
        let push = |draft: &Draft| {
            let payload = match log_stream {
                LogStream::Log | LogStream::Assignments => encode(&envelope(draft)),
                LogStream::Heartbeats | LogStream::Recordings | LogStream::Backlog => Bytes::new(),
            };
            stream.push(draft, subject::of(&draft.event).1, payload, now)
        };
        let records: Vec<_> = drafts.iter().map(push).collect();
        let position = self.stream(log_stream).end();
        Ok(Appended { position, records })
    }

    pub(super) fn ends(&self) -> Ends {
        Ends {
            log: self.stream(LogStream::Log).end(),
            recordings: self.stream(LogStream::Recordings).end(),
            heartbeats: self.stream(LogStream::Heartbeats).end(),
        }
    }

    pub(super) fn get(&self, stream: LogStream, position: Position) -> Option<&Rc<Stored>> {
        self.stream(stream).get(position)
    }

    /// The records behind `after`, in order.
    pub(super) fn behind(&self, stream: LogStream, after: Position) -> impl Iterator<Item = Rc<Stored>> + '_ {
        let after = usize::try_from(after.0).unwrap_or(usize::MAX);
        self.stream(stream).records.get(after..).unwrap_or_default().iter().map(Rc::clone)
    }

    /// Behind which position stands what was stored at `at` or later.
    pub(super) fn since(&self, stream: LogStream, at: Timestamp) -> Position {
        let records = &self.stream(stream).records;
        let older = records.iter().position(|record| record.stored_at >= at).unwrap_or(records.len());
        Position(older as u64)
    }

    /// By how much the latest time that stands in it is ahead of its clock, at `now`, in milliseconds.
    pub(super) fn set_back_ms(&self, now: Timestamp) -> i64 {
        self.latest.millis_since(now.plus_millis(self.clock_ms)).max(0)
    }

    /// When it really was that the newest sign of life was stored that the writer of `record` had heard.
    pub(super) fn heard_at(&self, record: &Stored) -> Timestamp {
        let heard = self.get(LogStream::Heartbeats, record.heard);
        heard.map_or(record.really_at, |heard| heard.really_at)
    }

    /// The newest record under a subject.
    fn last(&self, stream: LogStream, subject: &str) -> Option<&Rc<Stored>> {
        let stream = self.stream(stream);
        stream.get(stream.last_of(subject))
    }

    fn part(&self, server_id: ServerId, part: u32) -> Option<(&Rc<Stored>, &AssignmentSet)> {
        let record = self.last(LogStream::Assignments, &subject::assignment(server_id, part))?;
        let Event::AssignmentsPublished(set) = &record.event else {
            unreachable!("only assignments stand in ASSIGNMENTS, not {:?}", record.event);
        };
        Some((record, set))
    }

    /// What stands for a server, as control reads it.
    pub(super) fn standing(&self, server_id: ServerId) -> Option<Found> {
        let (record, first) = self.part(server_id, 1)?;
        let mut others = Vec::new();
        for number in 2..=first.parts {
            let part = self.part(server_id, number).map(|(_, set)| set.clone());
            let is_missing = part.is_none();
            others.push(part);
            if is_missing {
                break;
            }
        }
        Some(Found { first: first.clone(), first_at: record.position, others })
    }

    /// What stands for a server, as its worker reads it, and whether nothing of it was missing.
    pub(super) fn parts(&self, server_id: ServerId) -> (Vec<Bytes>, bool) {
        let Some((record, first)) = self.part(server_id, 1) else { return (Vec::new(), true) };
        let mut parts = vec![record.payload.clone()];
        for number in 2..=first.parts {
            match self.part(server_id, number) {
                Some((record, part)) if (part.revision, part.set_id) == (first.revision, first.set_id) => {
                    parts.push(record.payload.clone());
                }
                Some(_) | None => return (parts, false),
            }
        }
        (parts, true)
    }

    /// Whether `replica` plans: it does, or nobody did.
    pub(super) fn holds_lease(&mut self, replica: BootId, now: Timestamp, ttl_ms: i64) -> bool {
        let is_free = self.planner.is_none_or(|(holder, until)| holder == replica || until < now);
        if is_free {
            self.planner = Some((replica, now.plus_millis(ttl_ms)));
        }
        is_free
    }

    /// Forgets everything that was stored at `from`, really, or later.
    pub(super) fn roll_back(&mut self, from: Timestamp) {
        for stream in self.streams.values_mut() {
            let keep = stream.records.partition_point(|record| record.really_at < from);
            let records = std::mem::take(&mut stream.records);
            *stream = Stream::default();
            for record in records.into_iter().take(keep) {
                stream.note(&record);
                stream.records.push(record);
            }
        }
    }
}

fn envelope(draft: &Draft) -> Envelope {
    Envelope {
        id: draft.id,
        source: "/control/simulated".to_owned(),
        time: draft.time,
        tenant: None,
        actor: "system".to_owned(),
        causation: None,
        event: draft.event.clone(),
    }
}
