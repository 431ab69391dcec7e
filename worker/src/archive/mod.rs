//! Recorded video on disk: where it lies ([`layout`]), how it gets there safely ([`local`], [`writer`]), and what is
//! done about what a crash left behind ([`repair`]).
//!
//! Invariant: what was reported as stored is durable, and is never changed again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Semaphore;

pub mod layout;
pub mod local;
pub mod repair;
pub mod writer;

/// Why something could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk said no.
    #[error("cannot {step} segment {key}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// The segment's key.
        key: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Segments are never overwritten.
    #[error("segment {key} exists already")]
    Exists {
        /// The segment's key.
        key: String,
    },
    /// A file operation panicked or was cancelled with the runtime.
    #[error("the file operation did not finish")]
    Aborted,
}

/// The archive of this server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    root: Arc<Path>,
    /// Bounds the threads that wait for the disk.
    permits: Arc<Semaphore>,
}

impl Archive {
    /// The archive in the folder `root`, with at most `parallel` file operations at once. More of them do not make a
    /// disk faster; 16 keep one busy.
    pub fn new(root: PathBuf, parallel: usize) -> Self {
        Self { root: root.into(), permits: Arc::new(Semaphore::new(parallel.max(1))) }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs blocking file work away from the async threads.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] if `work` panics or the runtime shuts down.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| Error::Aborted)?;
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&root);
            drop(permit);
            result
        });
        done.await.map_err(|_| Error::Aborted)
    }
}
