//! What happened, as the log tells it: every event of a log stream with the moment it was stored.

use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::log::jetstream::{JetStreamLog, connect};
use longwatch_events::log::{Log as _, Record};
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use tokio::time::timeout;

/// How long the log may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An event in its place.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where.
    pub position: Position,
    /// When, by the log's clock, which is this machine's in a cluster on this machine.
    pub stored_at: Timestamp,
    /// What.
    pub event: Event,
}

impl Entry {
    /// Reads a record.
    ///
    /// # Errors
    /// If it is no event this version knows.
    pub fn of(record: &Record) -> anyhow::Result<Self> {
        let envelope = Envelope::decode(&record.payload)
            .with_context(|| format!("cannot read what stands at {}", record.position))?;
        Ok(Self { position: record.position, stored_at: record.stored_at, event: envelope.event })
    }
}

/// The log of the NATS at `url`.
///
/// # Errors
/// If the address cannot be used; a NATS that is away is no error.
pub async fn open(url: &str) -> anyhow::Result<JetStreamLog> {
    Ok(JetStreamLog::new(connect(url, None, "longwatch-loadtest").await?))
}

/// Everything that stands in `stream` now.
///
/// # Errors
/// If the log does not answer, or holds something unknown.
pub async fn read(log: &JetStreamLog, stream: LogStream) -> anyhow::Result<Vec<Entry>> {
    let reading = async {
        let end = log.end(stream).await?;
        let mut entries = Vec::new();
        if end == Position::START {
            return Ok(entries);
        }
        let mut records = log.follow(stream, Position::START).await?;
        while let Some(record) = records.next().await {
            let entry = Entry::of(&record?)?;
            let is_last = entry.position >= end;
            entries.push(entry);
            if is_last {
                break;
            }
        }
        anyhow::Ok(entries)
    };
    timeout(ANSWER_WITHIN, reading).await.with_context(|| format!("{stream} cannot be read in time"))?
}
