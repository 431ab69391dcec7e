//! Reading what stands in a log stream without a consumer: direct get
//! ([ADR-31](https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-31.md)), the only thing an
//! auditor may ask for.
//!
//! Invariant: in a cluster any replica answers, and one that lags may not have the newest records yet; what it answers
//! is in the log for good.

use async_nats::header::NATS_LAST_SEQUENCE;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{DirectGetError, DirectGetErrorKind};
use async_nats::{Message, Request, StatusCode};
use futures::StreamExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, JetStreamLog, micros, unavailable};
use crate::log::{Error, Log as _, MAX_PAGE, Record};
use crate::position::Position;
use crate::subject::LogStream;
use crate::time::Timestamp;

/// The status of the message that ends a page.
const END_OF_PAGE: u16 = 204;
/// The status of the only answer if there is no record.
const NOTHING_THERE: u16 = 404;

fn direct_get(stream: LogStream) -> String {
    format!("$JS.API.DIRECT.GET.{}", stream.name())
}

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
        let answer =
            self.context.client().send_request(direct_get(stream), request).await.map_err(unavailable)?;
        match answer.status {
            None => {
                let first = StreamMessage::try_from(answer).map_err(unavailable)?;
                Ok(Position(first.sequence).previous())
            }
            Some(StatusCode::NOT_FOUND) => Ok(end),
            Some(status) => Err(Error::Refused(format!("the server answers {status}"))),
        }
    }

    pub(super) async fn page(
        &self,
        stream: LogStream,
        after: Position,
        up_to: Position,
    ) -> Result<Vec<Record>, Error> {
        let wanted = up_to.0.saturating_sub(after.0).min(MAX_PAGE as u64);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let client = self.context.client();
        let inbox = client.new_inbox();
        let mut answers = client.subscribe(inbox.clone()).await.map_err(unavailable)?;
        let question = json!({ "seq": after.next().0, "batch": wanted }).to_string();
        let subject = direct_get(stream);
        client.publish_with_reply(subject, inbox, question.into()).await.map_err(unavailable)?;
        let mut page: Vec<Record> = Vec::new();
        loop {
            let answer = timeout(ANSWER_TIMEOUT, answers.next()).await;
            let answer =
                answer.map_err(unavailable)?.ok_or_else(|| unavailable("the connection is closed"))?;
            match next_of_page(answer, page.last())? {
                Some(record) => page.push(record),
                None => break,
            }
        }
        // Where records are missing, as many as were wanted reach beyond.
        page.retain(|record| record.position <= up_to);
        Ok(page)
    }
}

/// The record in an answer of a page; `None` ends the page. An answer that got lost on the way shows: each tells which
/// record came before it, 0 for none.
fn next_of_page(answer: Message, before: Option<&Record>) -> Result<Option<Record>, Error> {
    let status = answer.status.map(|status| status.as_u16());
    let ends = match status {
        None => false,
        Some(END_OF_PAGE) => true,
        Some(NOTHING_THERE) => return Ok(None),
        Some(status) => return Err(Error::Refused(format!("the server answers {status}"))),
    };
    let follows = answer.headers.as_ref().and_then(|headers| headers.get(NATS_LAST_SEQUENCE));
    let before = before.map_or(Position::START, |before| before.position);
    if follows.map(|sequence| sequence.as_str().parse()) != Some(Ok(before.0)) {
        return Err(Error::Unavailable(format!("an answer behind position {before} was lost")));
    }
    if ends {
        return Ok(None);
    }
    StreamMessage::try_from(answer).map(record).map(Some).map_err(unavailable)
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
