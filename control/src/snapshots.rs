//! Snapshots of State on disk, so that a start does not grow with the log.
//!
//! Invariants: a snapshot is made from the one before and from the log, never from the State that decides: making one
//! holds nobody up, and tries the one before. It replaces the file whole or not at all. One that does not fit the log is
//! put aside by folding the log from its beginning.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_events::hash::Sha256;
use longwatch_events::position::Position;
use longwatch_events::snapshot::{self, Snapshot};
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::replay;
use crate::service::Service;

/// How often it is looked whether the log has grown enough for a new one.
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// So much the log grows between two of them. Folding it takes a fraction of a second.
const RECORDS_BETWEEN: u64 = 10_000;

/// Why none was made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot write {}: {source}", .path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("the log: {0}")]
    Log(#[from] longwatch_events::log::Error),
    #[error(transparent)]
    Replay(#[from] replay::Error),
    #[error("the log has no record at position {0}")]
    Missing(Position),
    #[error("a bug: {0}")]
    Aborted(#[from] tokio::task::JoinError),
}

/// State as `file` has it, if that fits the log and nothing else needs what came before it: rows up to `written` are there.
pub(crate) async fn load(service: &Service, file: &Path, written: Position) -> State {
    let found = find(service, file).await;
    match found {
        Ok(Some(state)) if state.position <= written => {
            tracing::info!(position = %state.position, "State begins with a snapshot");
            state
        }
        Ok(Some(state)) => {
            tracing::info!(position = %state.position, %written, "the read model is behind the snapshot; the log is folded from its beginning");
            State::default()
        }
        Ok(None) => State::default(),
        Err(why) => {
            tracing::warn!(file = %file.display(), why, "the snapshot is not used; the log is folded from its beginning");
            State::default()
        }
    }
}

/// The State in `file`; `None` if there is no file.
async fn find(service: &Service, file: &Path) -> Result<Option<State>, String> {
    let path = file.to_owned();
    let read = spawn_blocking(move || read(&path)).await.map_err(|error| error.to_string())?;
    let Some(Snapshot { state, record }) = read? else { return Ok(None) };
    match service.log().get(LogStream::Log, state.position).await {
        Ok(Some(found)) if Sha256::of(&found.payload) == record => Ok(Some(state)),
        Ok(_) => Err(format!("the log holds another record at position {}, or none", state.position)),
        Err(error) => Err(error.to_string()),
    }
}

/// Blocks.
fn read(path: &Path) -> Result<Option<Snapshot>, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    snapshot::read(BufReader::with_capacity(1 << 20, file)).map(Some).map_err(|error| error.to_string())
}

/// Makes snapshots for ever.
pub async fn keep(service: &Service, file: &Path) {
    let mut last = Position::START;
    loop {
        sleep(LOOK_EVERY).await;
        let folded = service.progress().borrow().log;
        if folded.0 < last.0.saturating_add(RECORDS_BETWEEN) || service.halted().is_some() {
            continue;
        }
        match make(service, file, folded).await {
            Ok(()) => {
                last = folded;
                tracing::debug!(position = %folded, "a snapshot was made");
                metrics::counter!("longwatch_snapshots_total").increment(1);
            }
            Err(error) => tracing::warn!(%error, "no snapshot was made; the next start takes longer"),
        }
    }
}

/// Folds the log behind the snapshot before up to `position`, and writes what comes of it.
async fn make(service: &Service, file: &Path, position: Position) -> Result<(), Error> {
    let mut state = find(service, file).await.ok().flatten().unwrap_or_default();
    if state.position > position {
        state = State::default();
    }
    state = replay::fold_up_to(service.log(), state, position).await?;
    let record = service.log().get(LogStream::Log, position).await?.ok_or(Error::Missing(position))?;
    let (path, record) = (file.to_owned(), Sha256::of(&record.payload));
    spawn_blocking(move || write(&path, &state, record)).await?
}

/// Replaces the file, whole or not at all. Blocks.
fn write(path: &Path, state: &State, record: Sha256) -> Result<(), Error> {
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let new = path.with_extension("new");
    let mut to = BufWriter::with_capacity(1 << 20, File::create(&new).map_err(failed)?);
    snapshot::write(state, record, &mut to).map_err(failed)?;
    to.flush().map_err(failed)?;
    to.get_ref().sync_all().map_err(failed)?;
    fs::rename(&new, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use longwatch_events::id::TenantId;

    use super::*;
    use crate::decide::command::Command;
    use crate::testing::TestControl;

    async fn rename(control: &TestControl, name: &str) {
        let expected = control.service.state().tenant(TenantId::DEFAULT).unwrap().version;
        control
            .execute(Command::ChangeTenant { tenant_id: TenantId::DEFAULT, expected, name: name.into() })
            .await;
    }

    #[tokio::test]
    async fn a_snapshot_is_made_from_the_one_before_and_fits_its_log_only() {
        let control = TestControl::start().await;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.snapshot");
        for round in 0..3 {
            rename(&control, &round.to_string()).await;
            let position = control.service.state().position;
            make(&control.service, &file, position).await.unwrap();
            let loaded = load(&control.service, &file, position).await;
            assert_eq!(loaded, *control.service.state());
        }
        // Rows that lack what stands in it would never be written.
        assert_eq!(load(&control.service, &file, Position(1)).await, State::default());

        let another = TestControl::start().await;
        for _ in 0..5 {
            rename(&another, "another").await;
        }
        let written = another.service.state().position;
        assert_eq!(load(&another.service, &file, written).await, State::default(), "of another log");
        fs::write(&file, b"{").unwrap();
        assert_eq!(load(&control.service, &file, written).await, State::default(), "damaged");
        // The next one is made from the beginning.
        let position = control.service.state().position;
        make(&control.service, &file, position).await.unwrap();
        assert_eq!(load(&control.service, &file, position).await, *control.service.state());
    }
}
