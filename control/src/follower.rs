//! Follows the log streams and folds them: `LOG` into State and read model, `RECORDINGS` into the read model,
//! `HEARTBEATS` into what is observed.
//!
//! Invariants: State is folded before the rows, and [`Progress`](crate::service::Progress) moves only when both are there,
//! whichever replica wrote the rows; a database that was set back (restored, or replaced by a copy that lagged) is written
//! anew from there;
//! a record of `LOG` that cannot be folded, or a log that is not the one the read model was derived from, halts the
//! fold, and nothing of such a log is folded, not even what it sends before it is known to be another. No decision depends on `RECORDINGS`: a worker's report that cannot be read is set aside, visibly, so that one
//! broken worker, or one newer than control, stops nobody else. It stays in the log; a rebuild reads it again.

use std::path::Path;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use longwatch_events::envelope::Envelope;
use longwatch_events::event::{Event, ServerAdded, ServerAdopted, ServerJoined, ServerReturned};
use longwatch_events::fold;
use longwatch_events::hash::Sha256;
use longwatch_events::id::{ServerId, TenantId};
use longwatch_events::log::Record;
use longwatch_events::position::Position;
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use rand::RngExt as _;
use tokio::time::{sleep, timeout};

use crate::observed::Pace;
use crate::read_model::projection::{self, Before};
use crate::read_model::rows::Change;
use crate::read_model::{Applied, Batch, KnownRecord, Written};
use crate::service::Service;
use crate::snapshots;

mod same_log;

pub(crate) use same_log::check_ends;
use same_log::{another_log, replaced, rolled_back};

/// How many records are folded, and written to the read model, at once.
const BATCH: usize = 1_000;
/// Between tries to write to the read model, or to open the log, at most; at least half of it.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a database that was set back may go unnoticed while nothing happens.
const LOOK_AFTER_ROWS_EVERY: Duration = Duration::from_secs(10);
/// So many leases back heartbeats are read at the start: enough to hear of every server that is there.
const LEASES_AT_START: i64 = 2;

/// Folds `LOG` for ever, or until it halts.
///
/// Begins with the State in the file `snapshot`, if that may be trusted.
pub async fn follow_log(service: &Service, snapshot: Option<&Path>) {
    let stream = LogStream::Log;
    // In this order: another replica may append to the log and write the rows meanwhile.
    let first_tenant =
        with_retries(service, "read the default tenant", || service.read_model().tenant(TenantId::DEFAULT))
            .await;
    let first_created = first_tenant.map(|tenant| tenant.created_at);
    let last = last_written(service, stream).await;
    let written = last.position;
    let connection = service.log().connection();
    let end = with_retries(service, "read the end of LOG", || service.log().end(stream)).await;
    if let Some(why) = rolled_back(stream, written, end) {
        return service.halt(why);
    }
    let replaced =
        with_retries(service, "look whether LOG is the same", || replaced(service, stream, last.record));
    if let Some(why) = replaced.await {
        return service.halt(why);
    }
    service.advance(|progress| progress.connection = connection);
    if let Some(known) = last.record {
        service.has_read(stream, known);
    }
    if let Some(file) = snapshot {
        let state = snapshots::load(service, file, written).await;
        service.observed().begin_with_pace(pace(&state));
        for (server_id, server) in state.servers() {
            service.observed().came(server_id, server.version);
        }
        *service.state_to_fold() = state;
    }
    let from = service.state().position;
    let mut batches = log_behind(service, from).await;
    if from >= end {
        catch_up(service, end);
    }
    let mut known = written;
    while let Some(records) = next_or_none(&mut batches).await {
        if !records.is_empty() && !service.is_same_log(stream).await {
            return;
        }
        let (batch, halt) = fold_into_service(service, known, records);
        if let Some(why) = another_log(service, first_created, written) {
            return service.halt(why);
        }
        if let Err(why) = write_log(service, &batch).await {
            return service.halt(why);
        }
        let up_to = batch.up_to;
        known = known.max(up_to);
        service.advance(|progress| progress.log = up_to);
        if up_to >= end && !service.progress().borrow().caught_up {
            catch_up(service, end);
        }
        if let Some(why) = halt {
            return service.halt(why);
        }
    }
    service.halt(LOG_ENDED.to_owned());
}

const LOG_ENDED: &str = "the log ended; it never should";

/// Records that came together.
type Records = Vec<Result<Record, longwatch_events::log::Error>>;

/// `LOG` behind `after`.
async fn log_behind(service: &Service, after: Position) -> BoxStream<'static, Records> {
    let records = with_retries(service, "follow LOG", || service.log().follow(LogStream::Log, after)).await;
    records.ready_chunks(BATCH).boxed()
}

/// The next records; none of them if none came for a while, so that the rows are looked after all the same.
async fn next_or_none(batches: &mut (impl Stream<Item = Records> + Unpin)) -> Option<Records> {
    timeout(LOOK_AFTER_ROWS_EVERY, batches.next()).await.unwrap_or_else(|_| Some(Vec::new()))
}

/// Writes until it is written, by whomever.
async fn apply(service: &Service, batch: &Batch) -> Applied {
    with_retries(service, "write to the read model", || service.read_model().apply(batch)).await
}

/// Sees to it that all rows up to the end of `batch` are there.
///
/// # Errors
/// If the log cannot be folded again; it could be before.
async fn write_log(service: &Service, batch: &Batch) -> Result<(), String> {
    const PART: &str = "the rows of LOG";
    loop {
        let position = match apply(service, batch).await {
            Applied::Written | Applied::Seen => return Ok(()),
            Applied::Behind { position } => position,
        };
        let (known, stream) = (batch.after, batch.stream);
        tracing::warn!(%position, %known, %stream, "the read model was set back; its rows are written again");
        service.trouble(
            PART,
            format!("the database was set back to position {position}; they are written again"),
        );
        let written = write_log_again(service, position, known).await;
        service.trouble_over(PART);
        written?;
    }
}

/// Writes the rows between `from` and `up_to` again, which follow from the State of that time. If the database is set back
/// once more meanwhile, it does not come that far.
async fn write_log_again(service: &Service, from: Position, up_to: Position) -> Result<(), String> {
    let mut state = State::default();
    let mut known = from;
    let mut batches = log_behind(service, Position::START).await;
    while state.position < up_to {
        let records = batches.next().await.ok_or(LOG_ENDED)?;
        if !service.is_same_log(LogStream::Log).await {
            return Ok(());
        }
        let Folded { batch, halt, .. } = fold_log_batch(&mut state, known, records);
        match apply(service, &batch).await {
            Applied::Written | Applied::Seen => known = known.max(batch.up_to),
            Applied::Behind { .. } => return Ok(()),
        }
        if let Some(why) = halt {
            return Err(why);
        }
    }
    Ok(())
}

fn catch_up(service: &Service, end: Position) {
    tracing::info!(position = %end, "the log has been replayed");
    service.advance(|progress| progress.caught_up = true);
}

async fn last_written(service: &Service, stream: LogStream) -> Written {
    with_retries(service, "read the position of the read model", || service.read_model().written(stream))
        .await
}

/// What folding records led to: what there is to write, and perhaps a halt behind it.
struct Folded {
    batch: Batch,
    /// By which silence is measured from when on.
    news: Vec<(Position, News)>,
    halt: Option<String>,
}

/// Something in `LOG` by which silence is measured.
enum News {
    /// Servers may be silent for so long from now on.
    Pace(Pace),
    /// A server has come, or come back.
    Came(ServerId),
}

/// Folds `records` into the State of `service`: what there is to write, and perhaps why it halts.
fn fold_into_service(service: &Service, known: Position, records: Records) -> (Batch, Option<String>) {
    let mut state = service.state_to_fold();
    let Folded { batch, news, halt } = fold_log_batch(&mut state, known, records);
    note_read(service, &batch);
    // Before anybody sees this State: who judges by it knows by then who has only just come.
    for (told, news) in news {
        match news {
            News::Pace(pace) => service.observed().set_pace(pace, told),
            News::Came(server_id) => service.observed().came(server_id, told),
        }
    }
    (batch, halt)
}

/// Folds `records` into `state`. Of the rows, those up to `known` are written.
fn fold_log_batch(state: &mut State, known: Position, records: Records) -> Folded {
    let (stream, up_to) = (LogStream::Log, state.position);
    let mut batch = Batch { stream, after: known, up_to, record: None, changes: Vec::new() };
    let (mut news, mut last, mut halt) = (Vec::new(), None, None);
    for record in records {
        let step = record.map_err(|error| error.to_string()).and_then(|record| {
            let position = record.position;
            let envelope = Envelope::decode(&record.payload)
                .map_err(|error| format!("position {position} of LOG cannot be read: {error}"))?;
            let before = Before::of(state, &envelope.event);
            let outcome = fold::apply(state, position, record.stored_at, &envelope.event)
                .map_err(|error| error.to_string())?;
            Ok((record, envelope, before, outcome))
        });
        let (Record { position, stored_at, payload, .. }, envelope, before, outcome) = match step {
            Ok(folded) => folded,
            Err(why) => {
                halt = Some(why);
                break;
            }
        };
        last = Some(payload);
        log_outcome(position, &envelope, outcome);
        batch.up_to = position;
        if changes_pace(&envelope.event) {
            news.push((position, News::Pace(pace(state))));
        }
        news.extend(who_comes(&envelope.event).map(|server_id| (position, News::Came(server_id))));
        if position > known {
            let changes = projection::of_log(&before, state, position, stored_at, &envelope.event);
            batch.changes.extend(changes.into_iter().map(|change| (position, change)));
        }
    }
    batch.record = last.map(|payload| Sha256::of(&payload));
    Folded { batch, news, halt }
}

/// Takes note of where a log stream was read to, if `batch` holds anything of it.
fn note_read(service: &Service, batch: &Batch) {
    if let Some(sha256) = batch.record {
        service.has_read(batch.stream, KnownRecord { position: batch.up_to, sha256 });
    }
}

/// How long servers may be silent, as policy says for as many of them as there are.
fn pace(state: &State) -> Pace {
    Pace::of(&state.policy.liveness, state.fleet())
}

/// The server that is there from this event on.
const fn who_comes(event: &Event) -> Option<ServerId> {
    if let Event::ServerAdded(ServerAdded { server_id, .. })
    | Event::ServerJoined(ServerJoined { server_id, .. })
    | Event::ServerAdopted(ServerAdopted { server_id })
    | Event::ServerReturned(ServerReturned { server_id, .. }) = event
    {
        Some(*server_id)
    } else {
        None
    }
}

/// Whether servers may be silent for another time than before.
const fn changes_pace(event: &Event) -> bool {
    matches!(
        event,
        Event::PolicyChanged(_) | Event::ServerJoined(_) | Event::ServerAdopted(_) | Event::ServerDetached(_)
    )
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
    // In this order: another replica may write the rows meanwhile.
    let last = last_written(service, stream).await;
    let written = last.position;
    let connection = service.log().connection();
    let end = with_retries(service, "read the end of RECORDINGS", || service.log().end(stream)).await;
    if let Some(why) = rolled_back(stream, written, end) {
        return service.halt(why);
    }
    let replaced = with_retries(service, "look whether RECORDINGS is the same", || {
        replaced(service, stream, last.record)
    });
    if let Some(why) = replaced.await {
        return service.halt(why);
    }
    service.advance(|progress| {
        progress.recordings = written;
        progress.recordings_caught_up = written >= end;
        progress.recordings_connection = connection;
    });
    if let Some(known) = last.record {
        service.has_read(stream, known);
    }
    let mut known = written;
    loop {
        match fold_recordings(service, known, end).await {
            Ended::SetBack(position) => {
                tracing::warn!(%position, %known, %stream, "the read model was set back; its rows are written again");
                known = position;
            }
            Ended::Halt(why) => return service.halt(why),
            Ended::Halted => return,
        }
    }
}

/// Why [`fold_recordings`] ended.
enum Ended {
    /// The rows stand at this position, where they had been further: fold again from there.
    SetBack(Position),
    /// For good.
    Halt(String),
    /// Somebody else has halted the fold.
    Halted,
}

/// Folds `RECORDINGS` behind `known`, up to where the rows are written. At `end` it has caught up.
async fn fold_recordings(service: &Service, mut known: Position, end: Position) -> Ended {
    let stream = LogStream::Recordings;
    let records = with_retries(service, "follow RECORDINGS", || service.log().follow(stream, known)).await;
    let mut batches = records.ready_chunks(BATCH);
    while let Some(records) = next_or_none(&mut batches).await {
        if !records.is_empty() && !service.is_same_log(stream).await {
            return Ended::Halted;
        }
        let mut batch = Batch { stream, after: known, up_to: known, record: None, changes: Vec::new() };
        let (mut last, mut halt) = (None, None);
        for record in records {
            match record {
                Ok(record) => {
                    let position = record.position;
                    batch.up_to = position;
                    batch
                        .changes
                        .extend(changes_of_report(&record).into_iter().map(|change| (position, change)));
                    last = Some(record.payload);
                }
                Err(error) => {
                    halt = Some(error.to_string());
                    break;
                }
            }
        }
        batch.record = last.map(|payload| Sha256::of(&payload));
        note_read(service, &batch);
        match apply(service, &batch).await {
            Applied::Written | Applied::Seen => known = batch.up_to,
            Applied::Behind { position } => return Ended::SetBack(position),
        }
        service.advance(|progress| {
            progress.recordings = known;
            progress.recordings_caught_up |= known >= end;
        });
        if let Some(why) = halt {
            return Ended::Halt(why);
        }
    }
    Ended::Halt("the log stream RECORDINGS ended; it never should".to_owned())
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

/// Behind which position the signs of life stand that count, of a log stream that ends at `end`.
async fn recent(service: &Service, end: Position) -> Result<Position, longwatch_events::log::Error> {
    let stream = LogStream::Heartbeats;
    let Some(newest) = service.log().get(stream, end).await? else { return Ok(end) };
    let back_ms = LEASES_AT_START * i64::from(service.observed().pace().lease_ms);
    service.log().since(stream, newest.stored_at.plus_millis(-back_ms)).await
}

/// Listens to heartbeats for ever.
pub async fn follow_heartbeats(service: &Service) {
    let end =
        with_retries(service, "read the end of HEARTBEATS", || service.log().end(LogStream::Heartbeats))
            .await;
    // Only the log tells how long servers may be silent. A fold that halted will not tell any more.
    let (mut progress, mut halted) = (service.progress(), service.subscribe_halted());
    tokio::select! {
        _ = progress.wait_for(|progress| progress.caught_up) => {}
        _ = halted.wait_for(Option::is_some) => {}
    }
    let from = with_retries(service, "find where to begin in HEARTBEATS", || recent(service, end)).await;
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
    service.has_heard();
    metrics::counter!("longwatch_heartbeats_total").increment(1);
    match Envelope::decode(&record.payload) {
        Ok(Envelope { event: Event::ServerHeartbeat(heartbeat), .. })
            if record.subject == longwatch_events::subject::heartbeat(heartbeat.server_id) =>
        {
            service.observed().heartbeat(&heartbeat, record.position, record.stored_at);
        }
        Ok(Envelope { event: Event::ControlTicked(tick), .. }) => {
            service.observed().tick_of_control(tick.folded, record.stored_at);
        }
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
mod tests;
