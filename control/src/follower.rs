//! Follows the log streams and folds them: `LOG` into State and read model, `RECORDINGS` into the read model,
//! `HEARTBEATS` into what is observed.
//!
//! Invariants: State is folded before the rows, and [`Progress`](crate::service::Progress) moves only when both are there;
//! a record that cannot be folded halts the fold at its position, except a worker's unreadable report, which is
//! rejected with an error so that one broken worker stops nobody else.

use std::time::Duration;

use futures::StreamExt;
use longwatch_events::envelope::{self, Envelope};
use longwatch_events::event::Event;
use longwatch_events::fold;
use longwatch_events::log::Record;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::wire;
use tokio::time::sleep;

use crate::read_model::{projection, rows::Change};
use crate::service::Service;

/// How many records are folded, and written to the read model, at once.
const BATCH: usize = 1_000;
/// Between tries to write to the read model, or to open the log.
const PAUSE: Duration = Duration::from_millis(500);
/// How far back heartbeats are read at the start: enough to hear of a large fleet at once.
const HEARTBEATS_AT_START: u64 = 5_000;

/// Folds `LOG` for ever, or until it halts.
pub async fn follow_log(service: &Service) {
    let end = with_retries("read the end of LOG", || service.log().end(LogStream::Log)).await;
    let written =
        with_retries("read the position of the read model", || service.read_model().position(LogStream::Log))
            .await;
    catch_up_if_at(service, end);
    let from = service.state().position;
    let records = with_retries("follow LOG", || service.log().follow(LogStream::Log, from)).await;
    let mut batches = records.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let folded = fold_log_batch(service, written, batch);
        if let Some((up_to, changes)) = folded.progress {
            with_retries("write to the read model", || {
                service.read_model().apply(LogStream::Log, up_to, changes.clone())
            })
            .await;
            service.advance(|progress| progress.log = up_to);
            catch_up_if_at(service, end);
        }
        if let Some(why) = folded.halt {
            return service.halt(why);
        }
    }
    service.halt("the log ended; it never should".to_owned());
}

fn catch_up_if_at(service: &Service, end: Position) {
    if !service.progress().borrow().caught_up && service.state().position >= end {
        tracing::info!(position = %end, "the log has been replayed");
        service.advance(|progress| progress.caught_up = true);
    }
}

/// What folding a batch led to: rows up to a position, and perhaps a halt behind it.
struct Folded {
    progress: Option<(Position, Vec<Change>)>,
    halt: Option<String>,
}

fn fold_log_batch(
    service: &Service,
    written: Position,
    batch: Vec<Result<Record, longwatch_events::log::Error>>,
) -> Folded {
    let mut state = service.state_to_fold();
    let mut changes = Vec::new();
    let mut progress = None;
    for record in batch {
        let step = record.map_err(|error| error.to_string()).and_then(|record| {
            let position = record.position;
            let envelope = Envelope::decode(&record.payload)
                .map_err(|error| format!("position {position} of LOG cannot be read: {error}"))?;
            let outcome = fold::apply(&mut state, position, record.stored_at, &envelope.event)
                .map_err(|error| error.to_string())?;
            Ok((record, envelope, outcome))
        });
        match step {
            Ok((record, envelope, outcome)) => {
                log_outcome(record.position, &envelope, outcome);
                if record.position > written {
                    changes.extend(projection::of_log(
                        &state,
                        record.position,
                        record.stored_at,
                        &envelope.event,
                    ));
                }
                progress = Some(record.position);
            }
            Err(why) => {
                return Folded { progress: progress.map(|up_to| (up_to, changes)), halt: Some(why) };
            }
        }
    }
    Folded { progress: progress.map(|up_to| (up_to, changes)), halt: None }
}

fn log_outcome(position: Position, envelope: &Envelope, outcome: fold::Outcome) {
    match outcome {
        fold::Outcome::Applied | fold::Outcome::Seen => {}
        fold::Outcome::Stale(parts) => {
            tracing::info!(%position, event_id = %envelope.id, parts, "an event lost a race and changed nothing");
        }
    }
}

/// Folds `RECORDINGS` for ever, or until it halts.
pub async fn follow_recordings(service: &Service) {
    let from = with_retries("read the position of the read model", || {
        service.read_model().position(LogStream::Recordings)
    })
    .await;
    service.advance(|progress| progress.recordings = from);
    let records =
        with_retries("follow RECORDINGS", || service.log().follow(LogStream::Recordings, from)).await;
    let mut batches = records.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut changes = Vec::new();
        let mut up_to = None;
        let mut halt = None;
        for record in batch {
            match record.map_err(|error| error.to_string()).and_then(|record| {
                let of_record = changes_of_report(&record)?;
                Ok((record, of_record))
            }) {
                Ok((record, of_record)) => {
                    changes.extend(of_record);
                    up_to = Some(record.position);
                }
                Err(why) => {
                    halt = Some(why);
                    break;
                }
            }
        }
        if let Some(up_to) = up_to {
            with_retries("write to the read model", || {
                service.read_model().apply(LogStream::Recordings, up_to, changes.clone())
            })
            .await;
            service.advance(|progress| progress.recordings = up_to);
        }
        if let Some(why) = halt {
            return service.halt(why);
        }
    }
    service.halt("the log stream RECORDINGS ended; it never should".to_owned());
}

/// The rows of one worker's report. A kind this version does not know is an `Err`: skipping it would lose facts.
fn changes_of_report(record: &Record) -> Result<Vec<Change>, String> {
    let position = record.position;
    let reject = |why: &str| {
        tracing::error!(%position, subject = record.subject, why, "a worker's report cannot be read and is rejected");
        metrics::counter!("longwatch_reports_rejected_total").increment(1);
        Ok(Vec::new())
    };
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::RecordingReported(report), .. }) => {
            if record.subject != longwatch_events::subject::recording(report.server_id) {
                return reject("it speaks for another server than the subject it was sent under");
            }
            Ok(projection::of_recording(position, &report))
        }
        Ok(Envelope { .. }) => reject("it is not a report of recordings"),
        Err(envelope::Error::Event(wire::Error::UnknownKind(kind))) => Err(format!(
            "position {position} of RECORDINGS is of type `{kind}`, which this version does not know: upgrade control"
        )),
        Err(error) => reject(&error.to_string()),
    }
}

/// Listens to heartbeats for ever.
pub async fn follow_heartbeats(service: &Service) {
    let end = with_retries("read the end of HEARTBEATS", || service.log().end(LogStream::Heartbeats)).await;
    let from = Position(end.0.saturating_sub(HEARTBEATS_AT_START));
    let mut records =
        with_retries("follow HEARTBEATS", || service.log().follow(LogStream::Heartbeats, from)).await;
    if from >= end {
        service.observed().go_live();
    }
    while let Some(record) = records.next().await {
        match record {
            Ok(record) => {
                observe(service, &record);
                if record.position >= end {
                    service.observed().go_live();
                }
            }
            Err(error) => tracing::warn!(%error, "heartbeats cannot be followed"),
        }
    }
    service.halt("the log stream HEARTBEATS ended; it never should".to_owned());
}

fn observe(service: &Service, record: &Record) {
    metrics::counter!("longwatch_heartbeats_total").increment(1);
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::ServerHeartbeat(heartbeat), .. })
            if record.subject == longwatch_events::subject::heartbeat(heartbeat.server_id) =>
        {
            service.observed().heartbeat(&heartbeat, record.position, record.stored_at);
        }
        Ok(Envelope { event: Event::ControlTicked(_), .. }) => service.observed().tick(record.stored_at),
        Ok(_) => {
            tracing::warn!(position = %record.position, subject = record.subject, "not a heartbeat of its subject")
        }
        Err(error) => tracing::warn!(position = %record.position, %error, "a heartbeat cannot be read"),
    }
}

/// Tries until it works: there is nothing else a follower could do, and every failure is logged.
async fn with_retries<T, E, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => tracing::warn!(%error, what, "it is tried again"),
        }
        sleep(PAUSE).await;
    }
}
