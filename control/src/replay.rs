//! Folds `LOG` up to a position of the past, apart from the State that decides: for snapshots and for explanations.
//!
//! Pages are read and folded one after the other, so the log is never held in memory; it takes as long as the log is.

use longwatch_events::envelope::Envelope;
use longwatch_events::fold;
use longwatch_events::log::{self, Log, Record};
use longwatch_events::position::Position;
use longwatch_events::state::State;
use longwatch_events::subject::LogStream;
use tokio::task::spawn_blocking;

/// Why the log cannot be folded up to there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not answer.
    #[error("the log: {0}")]
    Log(#[from] log::Error),
    /// It holds what this program cannot fold.
    #[error("position {position} cannot be folded: {why}")]
    Fold {
        /// Where.
        position: Position,
        /// Why not.
        why: String,
    },
    /// It does not reach that far.
    #[error("the log has no record at position {0}")]
    Missing(Position),
    /// A panic.
    #[error("a bug: {0}")]
    Aborted(#[from] tokio::task::JoinError),
}

/// Folds what stands in `LOG` behind `state`, up to `position`.
///
/// # Errors
/// See [`Error`].
pub async fn fold_up_to(log: &dyn Log, mut state: State, position: Position) -> Result<State, Error> {
    while state.position < position {
        let page = log.read(LogStream::Log, state.position, position).await?;
        if page.is_empty() {
            return Err(Error::Missing(state.position.next()));
        }
        state = spawn_blocking(move || fold_page(state, &page)).await??;
    }
    Ok(state)
}

fn fold_page(mut state: State, page: &[Record]) -> Result<State, Error> {
    for record in page {
        let position = record.position;
        let envelope = Envelope::decode(&record.payload)
            .map_err(|error| Error::Fold { position, why: error.to_string() })?;
        fold::apply(&mut state, position, record.stored_at, &envelope.event)
            .map_err(|error| Error::Fold { position, why: error.to_string() })?;
    }
    Ok(state)
}
