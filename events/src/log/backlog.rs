//! The backlog: which cameras wait for a server with room. A set on top of the log stream [`LogStream::Backlog`], whose
//! size is what a scaler reads.
//!
//! It is derived: State says which cameras are unplaced, and whoever compares the two can always mend it. Invariant: a
//! copy of a camera counts once, however often it was put there.
//!
//! [`LogStream::Backlog`]: crate::subject::LogStream::Backlog

use std::collections::BTreeSet;

use futures::future::BoxFuture;

use super::Error;
use crate::id::CameraId;
use crate::subject::backlogged;

/// What waits. Put there with [`Log::append`](super::Log::append) of
/// [`Event::CameraBacklogged`](crate::event::Event::CameraBacklogged), which replaces what stood there of the same copy.
pub trait Backlog: Send + Sync {
    /// Takes a copy of a camera out; does nothing if it does not wait.
    fn remove(&self, camera: CameraId, copy: u8) -> BoxFuture<'_, Result<(), Error>>;

    /// Every copy of a camera that waits. While others put and remove, what they touch may be there or not.
    fn list(&self) -> BoxFuture<'_, Result<BTreeSet<(CameraId, u8)>, Error>>;

    /// How many wait: the number a scaler reads. It follows a put or a removal within a moment.
    fn pending(&self) -> BoxFuture<'_, Result<u64, Error>>;
}

/// What waits under `subject`.
pub(super) fn waiting(subject: &str) -> Result<(CameraId, u8), Error> {
    backlogged(subject).ok_or_else(|| Error::Refused(format!("`{subject}` in BACKLOG is no camera's")))
}
