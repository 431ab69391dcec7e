//! One camera session's way to the disk: hands pieces to one of its [threads](super::disk), which makes them durable and
//! tells what became of them, in order.
//!
//! Never waits, so that a slow disk never keeps a camera's socket from being read. It has no bound of its own: whoever
//! sends pieces watches [`Held`] and stops when too much is waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longwatch_events::fact::Codec;
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::disk::{Ends, Message, Queue};
use super::layout::SegmentName;
use super::local::StoredFile;
use super::{Archive, Error};
use crate::fmp4::Fragment;
use crate::plan::Key;

/// A piece of work, in the order of the segment: begin, more of them, end.
#[derive(Debug)]
pub enum Piece {
    /// Begins a segment with its header and first fragment.
    Begin {
        /// Which.
        name: SegmentName,
        /// What is in it.
        codecs: Codecs,
        /// Set if what comes before it is missing: it is the first of a session, or frames were dropped.
        resumes: bool,
        /// `ftyp` and `moov`.
        header: Vec<u8>,
        /// Its first fragment.
        fragment: Fragment,
        /// Time at which the fragment ends.
        until: Timestamp,
    },
    /// Adds a fragment to the segment that is open.
    More {
        /// The fragment.
        fragment: Fragment,
        /// Time at which it ends.
        until: Timestamp,
    },
    /// Ends the open segment.
    End {
        /// Time at which it ends.
        at: Timestamp,
    },
}

impl Piece {
    /// Bytes of memory it holds.
    pub fn len(&self) -> usize {
        match self {
            Self::Begin { header, fragment, .. } => header.len() + fragment.len(),
            Self::More { fragment, .. } => fragment.len(),
            Self::End { .. } => 0,
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What became of a piece.
#[derive(Debug)]
pub enum Done {
    /// A fragment is on the disk.
    Durable {
        /// Set if it was the first of a segment.
        began: Option<Began>,
        /// Time at which the fragment ends.
        until: Timestamp,
        /// When it had been flushed.
        at: Timestamp,
    },
    /// A segment is complete.
    Stored(Stored),
    /// The disk failed; everything that was sent after it is dropped, and so will be what follows.
    Failed(Error),
}

/// A segment whose first fragment is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Began {
    /// Time of its first picture, a keyframe.
    pub start: Timestamp,
    /// See [`Piece::Begin`].
    pub resumes: bool,
}

/// The codecs of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codecs {
    /// Of its video.
    pub video: Codec,
    /// Of its audio, if there is any.
    pub audio: Option<Codec>,
}

/// A segment that is complete, durable and hashed.
#[derive(Debug)]
pub struct Stored {
    /// Which.
    pub name: SegmentName,
    /// What is in it.
    pub codecs: Codecs,
    /// Where, how large, which hash.
    pub file: StoredFile,
    /// Time at which it ends.
    pub end: Timestamp,
    /// Pictures in it.
    pub video_frames: u64,
}

/// Bytes on their way to the disk.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<AtomicUsize>);

impl Held {
    /// How many.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The sending end: dropping it ends the writer once all is written.
#[derive(Debug)]
pub struct Writer {
    /// `None`: there is no volume.
    queue: Option<Queue>,
    ends: Arc<Ends>,
}

impl Writer {
    /// Starts a writer. What became of the pieces comes out of the receiver, in order; it ends after the last. A segment
    /// that is still open when the writer is dropped is closed where its last fragment ends. All that it takes goes to one
    /// volume, which is chosen now; if there is none, that is told as a failure.
    pub fn start(archive: &Archive, camera: Key, clock: Arc<dyn Clock>) -> (Self, UnboundedReceiver<Done>) {
        let (done, done_out) = mpsc::unbounded_channel();
        let queue = archive.queue(camera);
        if queue.is_none() {
            done.send(Done::Failed(Error::NoVolume)).expect("invariant: the receiver is right here");
        }
        let ends = Arc::new(Ends::new(Held::default(), done, clock));
        (Self { queue, ends }, done_out)
    }

    /// Hands over a piece.
    pub fn send(&self, piece: Piece) {
        // It was told that there is no volume.
        let Some(queue) = &self.queue else { return };
        self.ends.held.add(piece.len());
        queue.send(Message::Piece(Arc::clone(&self.ends), piece));
    }

    /// Bytes handed over and not yet durable.
    pub fn held_bytes(&self) -> usize {
        self.ends.held.bytes()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.send(Message::Over(Arc::clone(&self.ends)));
        }
    }
}
