//! Reading what stands in a log stream without a consumer: direct get
//! ([ADR-31](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md)), the only thing an
//! auditor may ask for.
//!
//! Invariant: in a cluster any replica answers, and one that lags may not have the newest records yet; what it answers
//! is in the log for good.

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind};
use async_nats::{Request, StatusCode};
use serde_json::json;

use super::{ANSWER_TIMEOUT, JetStreamLog, micros, unavailable};
use crate::log::{Error, Log as _, Record};
use crate::position::Position;
use crate::subject::LogStream;
use crate::time::Timestamp;

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

    pub(super) async fn position_since(&self, stream: LogStream, at: Timestamp) -> Result<Position, Error> {
        // Asked first: what is stored between the two questions is new enough, and stands behind this end.
        let end = self.end(stream).await?;
        // The server counts nanoseconds since 1970 in an i64; nothing was or will be stored beyond what that can tell.
        let at = Timestamp::from_micros(at.as_micros().clamp(0, i64::MAX / 1_000));
        let question = json!({ "start_time": at }).to_string();
        let request = Request::new().payload(question.into()).timeout(Some(ANSWER_TIMEOUT));
        let subject = format!("$JS.API.DIRECT.GET.{}", stream.name());
        let answer = self.context.client().send_request(subject, request).await.map_err(unavailable)?;
        match answer.status {
            None => {
                let first = StreamMessage::try_from(answer).map_err(unavailable)?;
                Ok(Position(first.sequence).previous())
            }
            Some(StatusCode::NOT_FOUND) => Ok(end),
            Some(status) => Err(Error::Refused(format!("the server answers {status}"))),
        }
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
