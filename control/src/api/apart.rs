//! Work that takes long, apart from the threads that answer: so much of it at once and no more, whoever asks.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use super::App;
use super::problem::Problem;
use crate::service::Service;

/// So many pieces of work are done at once: a machine of two cores goes on answering.
const AT_ONCE: usize = 2;

/// The places there are for such work.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_ONCE))
}

/// Waits for a place. It is free again when the permit is dropped.
pub(super) async fn place(app: &App) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&app.apart).acquire_owned().await.map_err(|error| Problem::internal(&error))
}

/// Does `work` on a thread that may be blocked. It goes on to its end even if nobody waits for it any more, and keeps its
/// place until then.
pub(super) async fn run<T: Send + 'static>(
    app: &App,
    place: OwnedSemaphorePermit,
    work: impl FnOnce(&Service) -> T + Send + 'static,
) -> Result<T, Problem> {
    let service = Arc::clone(&app.service);
    let done = spawn_blocking(move || {
        let _place = place;
        work(&service)
    });
    done.await.map_err(|error| Problem::internal(&error))
}
