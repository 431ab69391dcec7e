//! Reading what stands in a log stream without a consumer: direct get
//! ([ADR-31](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md)), the only thing an
//! auditor may ask for.
//!
//! Invariant: in a cluster any replica answers, and one that lags may not have the newest records yet; what it answers
//! is in the log for good.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind};

use super::{JetStreamLog, micros, unavailable};
use crate::log::{Error, Record};
use crate::position::Position;
use crate::subject::LogStream;

impl JetStreamLog {
    pub(super) async fn last_record(
        &self,
        stream: LogStream,
        subject: &str,
    ) -> Result<Option<Record>, Error> {
        let handle = self.context.get_stream_no_info(stream.name()).await.map_err(unavailable)?;
        found(handle.direct_get_last_for_subject(subject).await)
    }

    pub(super) async fn record_at(
        &self,
        stream: LogStream,
        position: Position,
    ) -> Result<Option<Record>, Error> {
        if position == Position::START {
            return Ok(None);
        }
        let handle = self.context.get_stream_no_info(stream.name()).await.map_err(unavailable)?;
        found(handle.direct_get(position.0).await)
    }
}

fn found(answer: Result<StreamMessage, DirectGetError>) -> Result<Option<Record>, Error> {
    match answer {
        Ok(message) => Ok(Some(record(message))),
        Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

fn record(message: StreamMessage) -> Record {
    Record {
        position: Position(message.sequence),
        stored_at: micros(message.time.unix_timestamp_nanos()),
        subject: message.subject.to_string(),
        payload: message.payload,
    }
}
