//! The log on NATS JetStream. Together with the `bus` of each binary the only place that names `async-nats`.
//!
//! Invariants: an append is tried again only with the same event id, and "wrong last sequence" counts as success when
//! the record that stands behind the expected one is our own; a follower resumes right behind the last record it gave out, whatever
//! happened to the connection or the consumer.

mod backlog;
mod connect;
mod lease;
mod read;
mod streams;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::client::Request;
use async_nats::connection::State;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM, NATS_MESSAGE_ID,
};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::consumer::{DeliverPolicy, push};
use async_nats::jetstream::context::{ContextBuilder, PublishError, PublishErrorKind};
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use rand::RngExt as _;
use tokio::time::{Instant, sleep};

use super::{Entry, Error, Follow, Log, Record};
use crate::position::Position;
use crate::subject::LogStream;
use crate::time::Timestamp;

pub use connect::{Error as ConnectError, connect};
pub use lease::Lease;
pub use streams::Settings;

/// How long one answer of the log may take before the append is tried again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an append is tried in all before its caller is told.
const APPEND_DEADLINE: Duration = Duration::from_secs(8);
/// Pauses between tries: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// A log in NATS JetStream. Cloning it gives another handle.
#[derive(Clone)]
pub struct JetStreamLog {
    context: Arc<Context>,
    client: async_nats::Client,
}

impl JetStreamLog {
    /// A log reached through `client`. Nothing is sent yet.
    pub fn new(client: async_nats::Client) -> Self {
        let context = ContextBuilder::new()
            .timeout(ANSWER_TIMEOUT)
            .backpressure_on_inflight(true)
            .build(client.clone());
        Self { context: Arc::new(context), client }
    }

    async fn append_with_retries(&self, entries: &[Entry]) -> Result<Position, Error> {
        let deadline = Instant::now() + APPEND_DEADLINE;
        let mut pause = FIRST_PAUSE;
        loop {
            // The client keeps what it is given while it is not connected, and sends it on the next connection.
            let connection = self.connection();
            if !entries.iter().all(|entry| entry.is_for(connection)) {
                return Err(Error::Disconnected);
            }
            let attempt = match entries {
                [entry] => self.append_once(entry).await,
                entries => self.append_batch_once(entries).await,
            };
            let error = match attempt {
                Ok(position) => return Ok(position),
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Again(error)) => error,
            };
            if Instant::now() + pause > deadline {
                return Err(Error::Unavailable(error));
            }
            if let Some(Entry { stream, id, .. }) = entries.first() {
                tracing::warn!(%stream, event_id = %id, error, "append is tried again");
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn append_once(&self, entry: &Entry) -> Result<Position, Attempt> {
        match self.acknowledged(entry, headers(entry)).await {
            Ok(position) => Ok(position),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => {
                self.own_or_conflict(entry).await
            }
            Err(error) => Err(refused_or_again(&error)),
        }
    }

    /// One atomic batch (NATS ADR-50; nats-server 2.12 or newer): the server keeps the messages until the last one
    /// commits them, and only that one is answered. A batch that was not committed is thrown away by the server, so
    /// every try is a batch of its own.
    async fn append_batch_once(&self, entries: &[Entry]) -> Result<Position, Attempt> {
        let Some((last, others)) = entries.split_last() else {
            return Err(Attempt::Final(Error::Refused("there is nothing to append".to_owned())));
        };
        let batch_id = format!("{:032x}", rand::rng().random::<u128>());
        let in_batch = |entry: &Entry, number: usize| {
            let mut headers = headers(entry);
            headers.insert(NATS_BATCH_ID, batch_id.as_str());
            headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
            headers
        };
        let client = self.context.client();
        for (number, entry) in (1..).zip(others) {
            client
                .publish_with_headers(entry.subject.clone(), in_batch(entry, number), entry.payload.clone())
                .await
                .map_err(|error| Attempt::Again(error.to_string()))?;
        }
        let mut headers = in_batch(last, entries.len());
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        match self.acknowledged(last, headers).await {
            Ok(position) => Ok(position),
            Err(error) if is_repeated(&error) => self.own_batch_or_conflict(entries).await,
            Err(error) => Err(refused_or_again(&error)),
        }
    }

    /// Whether the batch stands there already: then its conditional entry does, and the others right around it. The
    /// first of its subject is the conditional one, so it is the first record of the subject behind the expected one.
    async fn own_batch_or_conflict(&self, entries: &[Entry]) -> Result<Position, Attempt> {
        let conditional = entries.iter().rev().zip(0_u64..).find(|(entry, _)| entry.expected_last.is_some());
        let (Some((entry, behind)), Some(last)) = (conditional, entries.last()) else {
            return Err(Attempt::Final(Error::Refused("no entry is conditional".to_owned())));
        };
        let Position(at) = self.own_or_conflict(entry).await?;
        let end = Position(at.saturating_add(behind));
        let handle = self.handle(entry.stream).await?;
        match handle.get_raw_message(end.0).await {
            Ok(found) if message_id(&found) != last.id.to_string() => {
                Err(Attempt::Final(Error::Refused("some of the events stand there already".to_owned())))
            }
            Ok(_) => Ok(end),
            // Replaced by a newer one of its subject since.
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(end),
            Err(error) => Err(Attempt::Again(error.to_string())),
        }
    }

    async fn handle(&self, stream: LogStream) -> Result<Stream<()>, Attempt> {
        self.context.get_stream_no_info(stream.name()).await.map_err(|e| Attempt::Again(e.to_string()))
    }

    async fn acknowledged(&self, entry: &Entry, headers: HeaderMap) -> Result<Position, PublishError> {
        let message = PublishMessage::build().payload(entry.payload.clone()).headers(headers);
        let acknowledgement = self.context.send_publish(entry.subject.clone(), message).await?;
        Ok(Position(acknowledgement.await?.sequence))
    }

    /// R1 says "wrong last sequence" to a retry whose first try did arrive. If it did, then as the first record of its
    /// subject behind the expected one; others may have appended behind it since. The leader is asked: a replica that
    /// lags would turn our own record into a conflict.
    async fn own_or_conflict(&self, entry: &Entry) -> Result<Position, Attempt> {
        let handle = self.handle(entry.stream).await?;
        let behind = entry.expected_last.unwrap_or(Position::START).next();
        let conflict = || Attempt::Final(Error::Conflict { subject: entry.subject.clone() });
        match handle.get_first_raw_message_by_subject(&entry.subject, behind.0).await {
            Ok(first) if message_id(&first) == entry.id.to_string() => Ok(Position(first.sequence)),
            Ok(_) => Err(conflict()),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Err(conflict()),
            Err(error) => Err(Attempt::Again(error.to_string())),
        }
    }

    async fn consume(&self, stream: LogStream, after: Position) -> Result<push::Ordered, Error> {
        let handle = self.context.get_stream(stream.name()).await.map_err(unavailable)?;
        let config = push::OrderedConfig {
            deliver_subject: self.context.client().new_inbox(),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after.next().0 },
            ..Default::default()
        };
        let consumer = handle.create_consumer(config).await.map_err(unavailable)?;
        consumer.messages().await.map_err(unavailable)
    }
}

/// `pause`, or up to half of it less, so that many who wait do not come back in one moment.
fn jittered(pause: Duration) -> Duration {
    rand::rng().random_range(pause / 2..=pause)
}

/// How one try to append ended.
enum Attempt {
    /// Trying again would not help.
    Final(Error),
    /// It might.
    Again(String),
}

/// Where a follower is.
struct Following {
    log: JetStreamLog,
    stream: LogStream,
    last: Position,
    messages: Option<push::Ordered>,
    pause: Duration,
}

impl Following {
    async fn next(&mut self) -> Record {
        loop {
            let Some(messages) = &mut self.messages else {
                self.reopen().await;
                continue;
            };
            match messages.next().await {
                Some(Ok(message)) => {
                    self.pause = FIRST_PAUSE;
                    match record(&message) {
                        Ok(record) if record.position > self.last => {
                            self.last = record.position;
                            return record;
                        }
                        Ok(_) => {}
                        Err(error) => self.drop_consumer(&error),
                    }
                }
                Some(Err(error)) => self.drop_consumer(&error.to_string()),
                None => self.drop_consumer("the consumer ended"),
            }
        }
    }

    fn drop_consumer(&mut self, error: &str) {
        tracing::warn!(stream = %self.stream, position = %self.last, error, "following is resumed");
        self.messages = None;
    }

    async fn reopen(&mut self) {
        match self.log.consume(self.stream, self.last).await {
            Ok(messages) => self.messages = Some(messages),
            Err(error) => {
                tracing::warn!(stream = %self.stream, position = %self.last, %error, "following is tried again");
                sleep(jittered(self.pause)).await;
                self.pause = (self.pause * 2).min(LAST_PAUSE);
            }
        }
    }
}

impl Log for JetStreamLog {
    fn append(&self, entry: Entry) -> BoxFuture<'_, Result<Position, Error>> {
        async move { self.append_with_retries(&[entry]).await }.boxed()
    }

    fn append_atomically(&self, entries: Vec<Entry>) -> BoxFuture<'_, Result<Position, Error>> {
        async move {
            super::check_atomic(&entries)?;
            self.append_with_retries(&entries).await
        }
        .boxed()
    }

    fn follow(&self, stream: LogStream, after: Position) -> BoxFuture<'_, Result<Follow, Error>> {
        async move {
            let messages = self.consume(stream, after).await?;
            let following = Following {
                log: self.clone(),
                stream,
                last: after,
                messages: Some(messages),
                pause: FIRST_PAUSE,
            };
            let records = stream::unfold(following, |mut following| async move {
                let record = following.next().await;
                Some((Ok(record), following))
            });
            Ok(records.boxed())
        }
        .boxed()
    }

    fn connection(&self) -> Option<u64> {
        let is_connected = self.client.connection_state() == State::Connected;
        is_connected.then(|| self.client.statistics().connects.load(Ordering::Relaxed))
    }

    fn end(&self, stream: LogStream) -> BoxFuture<'_, Result<Position, Error>> {
        async move {
            let handle = self.context.get_stream(stream.name()).await.map_err(unavailable)?;
            Ok(Position(handle.cached_info().state.last_sequence))
        }
        .boxed()
    }

    fn last<'a>(
        &'a self,
        stream: LogStream,
        subject: &'a str,
    ) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        self.last_record(stream, subject).boxed()
    }

    fn get(&self, stream: LogStream, position: Position) -> BoxFuture<'_, Result<Option<Record>, Error>> {
        self.record_at(stream, position).boxed()
    }

    fn signal(&self, subject: String) -> BoxFuture<'_, Result<(), Error>> {
        let client = self.context.client();
        async move { client.publish(subject, Bytes::new()).await.map_err(unavailable) }.boxed()
    }

    fn ask(
        &self,
        subject: String,
        payload: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Option<Bytes>, Error>> {
        let client = self.context.client();
        async move {
            let request = Request::new().payload(payload).timeout(Some(limit));
            match client.send_request(subject, request).await {
                Ok(answer) => Ok(Some(answer.payload)),
                Err(error) => match error.kind() {
                    RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Ok(None),
                    RequestErrorKind::InvalidSubject
                    | RequestErrorKind::MaxPayloadExceeded
                    | RequestErrorKind::Other => Err(unavailable(error)),
                },
            }
        }
        .boxed()
    }

    fn since(&self, stream: LogStream, at: Timestamp) -> BoxFuture<'_, Result<Position, Error>> {
        self.position_since(stream, at).boxed()
    }

    fn read(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> BoxFuture<'_, Result<Vec<Record>, Error>> {
        self.page(stream, after, up_to).boxed()
    }
}

fn headers(entry: &Entry) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, entry.id.to_string());
    headers.insert(NATS_EXPECTED_STREAM, entry.stream.name());
    if let Some(expected) = entry.expected_last {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.0.to_string());
    }
    headers
}

fn refused_or_again(error: &PublishError) -> Attempt {
    if server_code(error) == Some(ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH) {
        return Attempt::Final(Error::Refused(format!("too many entries to append atomically: {error}")));
    }
    match error.kind() {
        PublishErrorKind::MaxPayloadExceeded => {
            Attempt::Final(Error::Refused(format!("the event is too large: {error}")))
        }
        PublishErrorKind::StreamNotFound
        | PublishErrorKind::WrongLastSequence
        | PublishErrorKind::WrongLastMessageId
        | PublishErrorKind::TimedOut
        | PublishErrorKind::BrokenPipe
        | PublishErrorKind::MaxAckPending
        | PublishErrorKind::Other => Attempt::Again(error.to_string()),
    }
}

/// Whether the server says that a batch was committed before, by its ids or by its conditions.
fn is_repeated(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::WrongLastSequence
        || server_code(error) == Some(ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE)
}

/// What the server answered, if it did.
fn server_code(error: &PublishError) -> Option<ErrorCode> {
    let answer = std::error::Error::source(error)?.downcast_ref::<jetstream::Error>()?;
    Some(answer.error_code())
}

fn message_id(message: &StreamMessage) -> &str {
    message.headers.get(NATS_MESSAGE_ID).map_or("", |id| id.as_str())
}

fn record(message: &jetstream::Message) -> Result<Record, String> {
    let info = message.info().map_err(|error| error.to_string())?;
    Ok(Record {
        position: Position(info.stream_sequence),
        stored_at: micros(info.published.unix_timestamp_nanos()),
        subject: message.subject.to_string(),
        payload: Bytes::clone(&message.payload),
    })
}

fn micros(nanos: i128) -> Timestamp {
    Timestamp::from_micros(i64::try_from(nanos / 1_000).unwrap_or(i64::MAX))
}

fn unavailable(error: impl std::fmt::Display) -> Error {
    Error::Unavailable(error.to_string())
}
