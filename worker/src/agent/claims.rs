//! Who is at which segment of the spool: a segment is uploaded or deleted, never both at once, so that none is told as
//! deleted for want of room that is in the object store.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::archive::layout::SegmentName;

/// Shared by whoever uploads and whoever deletes.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    taken: BTreeSet<SegmentName>,
    /// Deleted since it was asked last.
    deleted: Vec<SegmentName>,
}

/// Nobody else is at this segment while it lives.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    name: SegmentName,
}

impl Claims {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a whole one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a segment; `None` if somebody has it.
    pub(super) fn take(self: &Arc<Self>, name: SegmentName) -> Option<Claim> {
        self.state().taken.insert(name).then(|| Claim { claims: Arc::clone(self), name })
    }

    /// Whether somebody has it.
    pub(super) fn is_taken(&self, name: &SegmentName) -> bool {
        self.state().taken.contains(name)
    }

    /// Segments that were deleted since it was asked last.
    pub(super) fn deleted(&self) -> Vec<SegmentName> {
        std::mem::take(&mut self.state().deleted)
    }
}

impl Claim {
    /// Of which segment.
    pub(super) const fn name(&self) -> SegmentName {
        self.name
    }

    /// The segment was deleted.
    pub(super) fn note_deleted(&self) {
        self.claims.state().deleted.push(self.name);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.state().taken.remove(&self.name);
    }
}
