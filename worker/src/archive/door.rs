//! The one door to a disk: everything that writes a segment asks here first, and tests say here that the disk failed.
//!
//! A running worker has nothing behind it: asking costs one look at a pointer.

use std::fmt;
use std::io;
use std::sync::Arc;

/// What a disk is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Create a file.
    Create,
    /// Write to it.
    Write,
    /// Make durable what was written.
    Sync,
    /// Make a name durable.
    SyncFolder,
    /// Cut it to its length.
    Cut,
    /// Give it its name.
    Rename,
}

/// Says whether a step fails, and how; `None`: the disk itself is asked.
pub type Faults = dyn Fn(Step) -> Option<io::Error> + Send + Sync;

/// The door. Cheap to clone.
#[derive(Clone, Default)]
pub struct Door(Option<Arc<Faults>>);

impl Door {
    /// A door behind which steps fail as `faults` says.
    pub fn with_faults(faults: impl Fn(Step) -> Option<io::Error> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(faults)))
    }

    /// Whether the disk may be asked to do this.
    ///
    /// # Errors
    ///
    /// What the disk would say if it had failed.
    pub fn ask(&self, step: Step) -> io::Result<()> {
        match self.0.as_ref().and_then(|faults| faults(step)) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Door").field(&self.0.is_some()).finish()
    }
}
