//! Recorded video on disk: where it lies ([`layout`], [`volume`]), how it gets there safely ([`local`], [`disk`],
//! [`writer`]), what there is ([`inventory`]), how it goes ([`tombs`]), and what is done about what a crash left behind
//! ([`repair`]).
//!
//! Invariant: what was reported as stored is durable, and is never changed again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;

use disk::{Disk, Message, Queue};

pub mod disk;
pub mod inventory;
pub mod layout;
pub mod local;
pub mod repair;
pub mod tombs;
pub mod volume;
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
        source: io::Error,
    },
    /// Segments are never overwritten.
    #[error("segment {key} exists already")]
    Exists {
        /// The segment's key.
        key: String,
    },
    /// A file operation panicked.
    #[error("the file operation did not finish")]
    Aborted,
}

/// The archive of this server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Archive {
    root: Arc<Path>,
    disk: Arc<Disk>,
}

impl Archive {
    /// The archive in the folder `root`, written by so many threads, at least one. More of them do not make a disk
    /// faster, for each waits for many files at once; a few keep it busy.
    ///
    /// # Errors
    ///
    /// If the system has no room for the threads.
    pub fn new(root: PathBuf, threads: usize) -> io::Result<Self> {
        let root: Arc<Path> = root.into();
        let disk = Arc::new(Disk::start(&root, threads)?);
        Ok(Self { root, disk })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The queue of a thread that writes.
    fn queue(&self) -> Queue {
        self.disk.queue()
    }

    /// Runs blocking file work on one of the threads that write, between what is written there.
    ///
    /// # Errors
    ///
    /// [`Error::Aborted`] if `work` panics.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (done, done_out) = oneshot::channel();
        // Nobody waits any more: so be it.
        self.queue().send(Message::Work(Box::new(move |root| drop(done.send(work(root))))));
        done_out.await.map_err(|_| Error::Aborted)
    }
}
