//! What became of a session's pieces, whoever is left to listen.
//!
//! Invariant: every segment that a session stores is reported as long as the process lives, even if the camera's task
//! was cut off, or is gone by a bug.

use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;

use super::reporter::Told;
use crate::archive::writer::Done;

/// Gives out what a writer has done. When it is dropped before the writer has ended, a task of its own takes over and
/// reports what is stored from then on.
pub(super) struct Outcomes {
    /// `None` after the last.
    dones: Option<UnboundedReceiver<Done>>,
    told: Told,
}

impl Outcomes {
    pub(super) const fn new(dones: UnboundedReceiver<Done>, told: Told) -> Self {
        Self { dones: Some(dones), told }
    }

    /// The next; `None` after the last. Loses nothing when cancelled.
    pub(super) async fn next(&mut self) -> Option<Done> {
        let done = self.dones.as_mut()?.recv().await;
        if done.is_none() {
            self.dones = None;
        }
        done
    }
}

impl Drop for Outcomes {
    fn drop(&mut self) {
        let Some(dones) = self.dones.take() else { return };
        match Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(report_rest(dones, self.told.clone()));
            }
            // The process ends; the next start repairs what is left.
            Err(_) => tracing::debug!("no runtime left to report what is stored"),
        }
    }
}

async fn report_rest(mut dones: UnboundedReceiver<Done>, told: Told) {
    let camera_id = told.identity.camera_id;
    while let Some(done) = dones.recv().await {
        match done {
            // The task that would have told it as the end of a break is gone.
            Done::Durable { .. } => {}
            Done::Stored(stored) => {
                tracing::info!(%camera_id, key = stored.file.key, "stored after its recording was cut off");
                told.stored(stored);
            }
            Done::Failed(error) => {
                tracing::error!(%camera_id, %error, "not stored after its recording was cut off");
            }
        }
    }
}
