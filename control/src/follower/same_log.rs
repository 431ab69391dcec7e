//! Whether the log is the one that was folded: it may have been rolled back, or replaced by another, while nobody looked.
//!
//! Invariant: that shows by where a log stream ends, and if it has grown since, by what stands where it was read to last.

use std::time::Duration;

use longwatch_events::hash::Sha256;
use longwatch_events::id::TenantId;
use longwatch_events::log;
use longwatch_events::position::Position;
use longwatch_events::subject::LogStream;
use longwatch_events::time::Timestamp;
use tokio::time::timeout;

use crate::read_model::KnownRecord;
use crate::service::Service;

/// A log stream says where it ends within this, or is asked again: the connection may have been lost, and it may be another one.
const END_WITHIN: Duration = Duration::from_secs(1);
/// The same on a new connection, where nothing is decided before it is known: a server that many come back to takes longer.
const NEW_END_WITHIN: Duration = Duration::from_secs(3);
/// What is to be done when the log is not the one the read model was derived from.
const ANOTHER_LOG: &str = "restore the store of NATS; or, to take the log as it is, remove the read model's database, \
                           which is then made anew";

/// Why the log cannot be the one the read model was derived from, if it ends too early.
pub(super) fn rolled_back(stream: LogStream, written: Position, end: Position) -> Option<String> {
    (end < written).then(|| {
        format!(
            "{stream} ends at position {end}, but the read model was derived from it up to {written}: it was rolled back \
             or replaced; {ANOTHER_LOG}"
        )
    })
}

/// The same, if another record stands where `known` was read. One that is no longer kept shows nothing.
pub(super) async fn replaced(
    service: &Service,
    stream: LogStream,
    known: Option<KnownRecord>,
) -> Result<Option<String>, log::Error> {
    let Some(KnownRecord { position, sha256 }) = known else { return Ok(None) };
    let found = service.log().get(stream, position).await?;
    let is_another = found.is_some_and(|found| Sha256::of(&found.payload) != sha256);
    Ok(is_another.then(|| {
        format!(
            "at position {position} of {stream} stands another record than the read model was derived from: it was rolled \
             back or replaced, and has grown since; {ANOTHER_LOG}"
        )
    }))
}

/// Why the log cannot be the one the read model was derived from, if its first tenant was not created when the rows say.
pub(super) fn another_log(
    service: &Service,
    rows_say: Option<Timestamp>,
    written: Position,
) -> Option<String> {
    let state = service.state();
    let log_says = state.tenant(TenantId::DEFAULT).map(|tenant| tenant.created_at);
    let is_known = log_says.is_some() || state.position >= written;
    (is_known && rows_say.is_some() && rows_say != log_says).then(|| {
        format!("the read model was derived from another log than this one: its first tenant differs; {ANOTHER_LOG}")
    })
}

/// Halts the fold if a log stream ends before what was folded of it, or on a new connection holds something else there: it
/// was rolled back while this process ran. A stream that cannot be asked is in trouble, which the health shows. Until `LOG`
/// was asked on a new connection nothing is decided.
pub(crate) async fn check_ends(service: &Service) {
    const PART: &str = "the log streams";
    for stream in [LogStream::Log, LogStream::Recordings] {
        // A fold that halted asks LOG no more; RECORDINGS goes on.
        if stream == LogStream::Log && service.halted().is_some() {
            continue;
        }
        match check(service, stream).await {
            Ok(None) => {}
            Ok(Some(why)) => return service.halt(why),
            Err(error) => return service.trouble(PART, format!("{stream} does not answer: {error}")),
        }
    }
    service.trouble_over(PART);
}

/// Why `stream` cannot be the one that is folded.
async fn check(service: &Service, stream: LogStream) -> Result<Option<String>, String> {
    let (connection, progress) = (service.log().connection(), *service.progress().borrow());
    let is_known = progress.connection_of(stream) == connection;
    let within = if is_known { END_WITHIN } else { NEW_END_WITHIN };
    let known = service.last_read(stream);
    let folded = if stream == LogStream::Recordings {
        progress.recordings
    } else {
        // Rows follow State, and it is by State that is decided.
        service.state().position.max(progress.log)
    };
    let folded = known.map_or(folded, |known| folded.max(known.position));
    let looking = async {
        let end = service.log().end(stream).await?;
        let why = rolled_back(stream, folded, end);
        if why.is_some() || is_known {
            return Ok(why);
        }
        replaced(service, stream, known).await
    };
    let looked = timeout(within, looking).await.map_err(|elapsed| elapsed.to_string())?;
    let why = looked.map_err(|error: log::Error| error.to_string())?;
    if why.is_none() && connection.is_some() && !is_known {
        if stream == LogStream::Recordings {
            service.advance(|progress| progress.recordings_connection = connection);
        } else {
            service.observed().connected_anew(service.take_unheard_ms());
            service.advance(|progress| progress.connection = connection);
        }
    }
    Ok(why)
}
