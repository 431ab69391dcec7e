//! The log streams themselves: made at the start, and how each is kept.

use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use async_nats::jetstream::stream::{
    Compression, Config, DiscardPolicy, Republish, RetentionPolicy, StorageType,
};

use super::{JetStreamLog, unavailable};
use crate::log::Error;
use crate::subject::{self, LogStream};

/// How the log streams are kept.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// On how many NATS servers each record stands: 1 for Single, 3 in a cluster.
    pub replicas: usize,
    /// How long heartbeats are kept.
    pub heartbeats_max_age: Duration,
    /// How many bytes of heartbeats are kept.
    pub heartbeats_max_bytes: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 1,
            heartbeats_max_age: Duration::from_secs(7 * 24 * 3600),
            heartbeats_max_bytes: 1 << 30,
        }
    }
}

impl JetStreamLog {
    /// Creates the log streams, or brings the settings of existing ones up to date.
    ///
    /// # Errors
    /// If NATS does not answer, has no JetStream, or refuses (for example a subject that another stream holds).
    pub async fn ensure_streams(&self, settings: Settings) -> Result<(), Error> {
        for stream in LogStream::ALL {
            let made = self.context.create_or_update_stream(config(stream, settings)).await;
            made.map_err(|error| not_made(stream, &error))?;
        }
        self.ensure_backlog_consumer().await
    }

    /// Changes how long and how many bytes of heartbeats are kept, from now on; what is over either bound is dropped.
    /// Costs nothing but a look if they are so already.
    ///
    /// # Errors
    /// As [`Self::ensure_streams`], for example a `max_age` under 100 ms.
    pub async fn set_heartbeats_retention(&self, max_age: Duration, max_bytes: i64) -> Result<(), Error> {
        let stream = LogStream::Heartbeats;
        let handle = self.context.get_stream(stream.name()).await.map_err(unavailable)?;
        let now = &handle.cached_info().config;
        let wanted = heartbeats(now.clone(), max_age, max_bytes);
        if *now == wanted {
            return Ok(());
        }
        let updated = self.context.update_stream(wanted).await;
        updated.map(|_| ()).map_err(|error| not_made(stream, &error))
    }
}

/// How long the server remembers ids, unless a log stream says otherwise: its default.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// `config` with these bounds.
fn heartbeats(config: Config, max_age: Duration, max_bytes: i64) -> Config {
    // The server refuses to remember an id for longer than its record.
    Config { max_age, max_bytes, duplicate_window: max_age.min(DUPLICATE_WINDOW), ..config }
}

fn not_made(stream: LogStream, error: &CreateStreamError) -> Error {
    let text = format!("cannot create or change the log stream {stream}: {error}");
    if matches!(error.kind(), CreateStreamErrorKind::TimedOut) {
        Error::Unavailable(text)
    } else {
        Error::Refused(text)
    }
}

/// The settings of architecture.md, section "Log streams".
fn config(stream: LogStream, settings: Settings) -> Config {
    let base = Config {
        name: stream.name().to_owned(),
        subjects: vec![stream.subjects().to_owned()],
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        num_replicas: settings.replicas,
        allow_direct: true,
        // Without a positive limit of its own a stream takes only 1,000 consumers.
        max_consumers: 100_000,
        max_message_size: 1 << 20,
        ..Config::default()
    };
    match stream {
        LogStream::Log => Config {
            description: Some("Longwatch: everything that was ever decided".to_owned()),
            deny_delete: true,
            deny_purge: true,
            compression: Some(Compression::S2),
            allow_atomic_publish: true,
            ..base
        },
        LogStream::Heartbeats => {
            let bounded = heartbeats(base, settings.heartbeats_max_age, settings.heartbeats_max_bytes);
            Config {
                description: Some("Longwatch: signs of life".to_owned()),
                discard: DiscardPolicy::Old,
                ..bounded
            }
        }
        LogStream::Recordings => Config {
            description: Some("Longwatch: facts of workers".to_owned()),
            deny_delete: true,
            compression: Some(Compression::S2),
            // A worker repeats what was not acknowledged; an hour covers every outage but the long ones, and
            // folding a fact twice changes nothing.
            duplicate_window: Duration::from_secs(3600),
            ..base
        },
        LogStream::Backlog => Config {
            description: Some("Longwatch: cameras that no server has room for".to_owned()),
            // Put again, a camera counts once.
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            ..base
        },
        LogStream::Assignments => Config {
            description: Some("Longwatch: what each server is to record".to_owned()),
            max_messages_per_subject: 1,
            allow_atomic_publish: true,
            republish: Some(Republish {
                source: subject::REPUBLISH_FROM.to_owned(),
                destination: subject::REPUBLISH_TO.to_owned(),
                headers_only: false,
            }),
            ..base
        },
    }
}
