//! Follows the log streams and folds them: `LOG` into State and read model, `RECORDINGS` into the read model,
//! `HEARTBEATS` into what is observed.
//!
//! Invariants: State is folded before the rows, and [`Progress`](crate::service::Progress) moves only when both are there;
//! a record of `LOG` that cannot be folded, or a log that is not the one the read model was derived from, halts the
//! fold. No decision depends on `RECORDINGS`: a worker's report that cannot be read is set aside, visibly, so that one
//! broken worker, or one newer than control, stops nobody else. It stays in the log; a rebuild reads it again.

use std::time::Duration;

use futures::StreamExt;
use longwatch_events::envelope::Envelope;
use longwatch_events::event::Event;
use longwatch_events::fold;
use longwatch_events::id::TenantId;
use longwatch_events::log::Record;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use rand::RngExt as _;
use tokio::time::sleep;

use crate::read_model::{projection, rows::Change};
use crate::service::Service;

/// How many records are folded, and written to the read model, at once.
const BATCH: usize = 1_000;
/// Between tries to write to the read model, or to open the log, at most; at least half of it.
const PAUSE: Duration = Duration::from_millis(500);
/// How far back heartbeats are read at the start: enough to hear of a large fleet at once.
const HEARTBEATS_AT_START: u64 = 5_000;

/// Folds `LOG` for ever, or until it halts.
pub async fn follow_log(service: &Service) {
    let end = with_retries(service, "read the end of LOG", || service.log().end(LogStream::Log)).await;
    let written = position_of(service, LogStream::Log).await;
    if let Some(why) = rolled_back(LogStream::Log, written, end) {
        return service.halt(why);
    }
    let first_tenant =
        with_retries(service, "read the default tenant", || service.read_model().tenant(TenantId::DEFAULT))
            .await;
    let first_created = first_tenant.map(|tenant| tenant.created_at);
    let from = service.state().position;
    let records = with_retries(service, "follow LOG", || service.log().follow(LogStream::Log, from)).await;
    let mut batches = records.ready_chunks(BATCH);
    if from >= end {
        catch_up(service, end);
    }
    while let Some(batch) = batches.next().await {
        let folded = fold_log_batch(service, written, batch);
        if let Some((up_to, changes)) = folded.progress {
            if let Some(why) = another_log(service, first_created, written) {
                return service.halt(why);
            }
            with_retries(service, "write to the read model", || {
                service.read_model().apply(LogStream::Log, up_to, changes.clone())
            })
            .await;
            service.advance(|progress| progress.log = up_to);
            if up_to >= end && !service.progress().borrow().caught_up {
                catch_up(service, end);
            }
        }
        if let Some(why) = folded.halt {
            return service.halt(why);
        }
    }
    service.halt("the log ended; it never should".to_owned());
}

fn catch_up(service: &Service, end: Position) {
    tracing::info!(position = %end, "the log has been replayed");
    service.advance(|progress| progress.caught_up = true);
}

async fn position_of(service: &Service, stream: LogStream) -> Position {
    with_retries(service, "read the position of the read model", || service.read_model().position(stream))
        .await
}

/// What is to be done when the log is not the one the read model was derived from.
const ANOTHER_LOG: &str = "restore the store of NATS; or, to take the log as it is, remove the read model's database, \
                           which is then made anew";

/// Why the log cannot be the one the read model was derived from, if it ends too early.
fn rolled_back(stream: LogStream, written: Position, end: Position) -> Option<String> {
    (end < written).then(|| {
        format!(
            "{stream} ends at position {end}, but the read model was derived from it up to {written}: it was rolled back \
             or replaced; {ANOTHER_LOG}"
        )
    })
}

/// Halts the fold if a log stream ends before what was folded of it: it was rolled back while this process ran. A stream
/// that cannot be asked is in trouble, which the health shows.
pub(crate) async fn check_ends(service: &Service) {
    const PART: &str = "the log streams";
    let progress = *service.progress().borrow();
    if service.halted().is_some() {
        return;
    }
    for (stream, folded) in [(LogStream::Log, progress.log), (LogStream::Recordings, progress.recordings)] {
        match service.log().end(stream).await {
            Ok(end) => {
                if let Some(why) = rolled_back(stream, folded, end) {
                    return service.halt(why);
                }
            }
            Err(error) => return service.trouble(PART, format!("{stream} does not answer: {error}")),
        }
    }
    service.trouble_over(PART);
}

/// Why the log cannot be the one the read model was derived from, if its first tenant was not created when the rows say.
fn another_log(service: &Service, rows_say: Option<Timestamp>, written: Position) -> Option<String> {
    let state = service.state();
    let log_says = state.tenant(TenantId::DEFAULT).map(|tenant| tenant.created_at);
    let is_known = log_says.is_some() || state.position >= written;
    (is_known && rows_say.is_some() && rows_say != log_says).then(|| {
        format!("the read model was derived from another log than this one: its first tenant differs; {ANOTHER_LOG}")
    })
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

/// Folds `RECORDINGS` for ever, or until it turns out to be another log stream than before.
pub async fn follow_recordings(service: &Service) {
    let stream = LogStream::Recordings;
    let end = with_retries(service, "read the end of RECORDINGS", || service.log().end(stream)).await;
    let from = position_of(service, stream).await;
    if let Some(why) = rolled_back(stream, from, end) {
        return service.halt(why);
    }
    service.advance(|progress| {
        progress.recordings = from;
        progress.recordings_caught_up = from >= end;
    });
    let records = with_retries(service, "follow RECORDINGS", || service.log().follow(stream, from)).await;
    let mut batches = records.ready_chunks(BATCH);
    while let Some(batch) = batches.next().await {
        let mut changes = Vec::new();
        let mut up_to = None;
        let mut halt = None;
        for record in batch {
            match record {
                Ok(record) => {
                    changes.extend(changes_of_report(&record));
                    up_to = Some(record.position);
                }
                Err(error) => halt = Some(error.to_string()),
            }
        }
        if let Some(up_to) = up_to {
            with_retries(service, "write to the read model", || {
                service.read_model().apply(stream, up_to, changes.clone())
            })
            .await;
            service.advance(|progress| {
                progress.recordings = up_to;
                progress.recordings_caught_up |= up_to >= end;
            });
        }
        if let Some(why) = halt {
            return service.halt(why);
        }
    }
    service.halt("the log stream RECORDINGS ended; it never should".to_owned());
}

/// The rows of one worker's report. One that cannot be read becomes a row that says so.
fn changes_of_report(record: &Record) -> Vec<Change> {
    let position = record.position;
    let reject = |why: String| {
        tracing::error!(%position, subject = record.subject, why, "a worker's report cannot be read and is set aside");
        metrics::counter!("longwatch_reports_rejected_total").increment(1);
        vec![Change::RejectFact { position, fact: 0, why }]
    };
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::RecordingReported(report), .. }) => {
            if record.subject != longwatch_events::subject::recording(report.server_id) {
                return reject("it speaks for another server than the subject it was sent under".to_owned());
            }
            projection::of_recording(position, &report)
        }
        Ok(Envelope { .. }) => reject("it is not a report of recordings".to_owned()),
        Err(error) => reject(error.to_string()),
    }
}

/// Listens to heartbeats for ever.
pub async fn follow_heartbeats(service: &Service) {
    let end =
        with_retries(service, "read the end of HEARTBEATS", || service.log().end(LogStream::Heartbeats))
            .await;
    let from = Position(end.0.saturating_sub(HEARTBEATS_AT_START));
    let mut records =
        with_retries(service, "follow HEARTBEATS", || service.log().follow(LogStream::Heartbeats, from))
            .await;
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

/// Tries until it works: there is nothing else a follower could do. Every failure is logged and shown in the health.
async fn with_retries<T, E, F>(service: &Service, what: &'static str, mut attempt: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    loop {
        match attempt().await {
            Ok(value) => {
                service.trouble_over(what);
                return value;
            }
            Err(error) => {
                tracing::warn!(%error, what, "it is tried again");
                service.trouble(what, format!("cannot {what}: {error}"));
            }
        }
        let pause = rand::rng().random_range(PAUSE / 2..=PAUSE);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use longwatch_events::id::{EventId, ServerId, SystemIds};
    use longwatch_events::log::Log as _;
    use longwatch_events::log::memory::MemoryLog;
    use longwatch_events::subject;
    use longwatch_events::time::{Clock as _, ManualClock};

    use super::*;
    use crate::decide::command::Command;
    use crate::service::CommandError;
    use crate::testing::TestControl;

    fn rename(control: &TestControl, name: &str) -> Command {
        let expected = control.service.state().tenant(TenantId::DEFAULT).unwrap().version;
        Command::ChangeTenant { tenant_id: TenantId::DEFAULT, expected, name: name.into() }
    }

    #[tokio::test]
    async fn a_report_that_cannot_be_read_stops_nobody_and_is_set_aside() {
        let control = TestControl::start().await;
        let server_id = ServerId::generate(&SystemIds);
        let newer = r#"{"specversion":"1.0","id":"01935700-0000-7000-8004-000000000001","source":"/server/x",
            "type":"longwatch.recording.reported.v2","time":"2026-11-23T08:00:00Z","actor":"x","data":{}}"#;
        for payload in [newer, "no JSON"] {
            let subject = subject::recording(server_id);
            control.append_raw(LogStream::Recordings, subject, payload.to_owned()).await;
        }
        control.until_progress(|progress| progress.recordings == Position(2)).await;
        assert_eq!(control.service.halted(), None);
        control.execute(rename(&control, "renamed")).await;
    }

    #[tokio::test]
    async fn behind_poison_nothing_is_written() {
        let control = TestControl::start().await;
        control.append_raw(LogStream::Log, "lw.log.provider.server.x".to_owned(), "poison".to_owned()).await;
        halted(&control).await;
        let end = control.log.end(LogStream::Log).await.unwrap();
        let refused =
            control.service.execute("test", EventId::generate(&SystemIds), rename(&control, "renamed")).await;
        assert!(matches!(refused, Err(CommandError::Halted(why)) if why.contains("position 2")));
        assert_eq!(control.log.end(LogStream::Log).await.unwrap(), end);
        assert!(!control.service.health().ready);
    }

    /// Why it halted; it must.
    async fn halted(control: &TestControl) -> String {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(why) = control.service.halted() {
                return why;
            }
            assert!(tokio::time::Instant::now() < deadline, "it goes on");
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_log_that_was_rolled_back_or_replaced_halts() {
        let first = TestControl::start().await;
        let clock = first.clock.clone();
        for n in 0..3 {
            first.execute(rename(&first, &n.to_string())).await;
        }
        let folder = first.into_folder();
        let empty = MemoryLog::new(clock.clone());
        let second = TestControl::with_rows_of(folder, empty, clock.clone()).await;
        assert!(halted(&second).await.contains("LOG ends at position 0, but"));

        // A log of another system, as long as the first.
        let folder = second.into_folder();
        let later = Arc::new(ManualClock::starting_at(clock.now().plus_millis(60_000)));
        let log = MemoryLog::new(later.clone());
        let another = TestControl::on(log.clone(), later.clone()).await;
        another.until_progress(|progress| progress.caught_up).await;
        let data_key = another.service.new_data_key(TenantId::DEFAULT).unwrap();
        let tenant_id = TenantId::DEFAULT;
        another.execute(Command::CreateTenant { tenant_id, name: "Another".into(), data_key }).await;
        for n in 0..5 {
            another.execute(rename(&another, &n.to_string())).await;
        }
        let third = TestControl::with_rows_of(folder, log, later).await;
        assert!(halted(&third).await.contains("derived from another log"));
    }
}
