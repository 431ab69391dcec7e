//! One camera session's way to the disk: takes pieces in order, makes them durable, tells what became of them.
//!
//! A task of its own, so that a slow disk never keeps a camera's socket from being read. It has no bound of its own:
//! whoever sends pieces watches [`Held`] and stops when too much is waiting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use longwatch_events::fact::Codec;
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::layout::SegmentName;
use super::local::{OpenSegment, StoredFile};
use super::{Archive, Error};
use crate::fmp4::Fragment;

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
}

/// The sending end: dropping it ends the writer once all is written.
#[derive(Debug)]
pub struct Writer {
    pieces: UnboundedSender<Piece>,
    held: Held,
}

impl Writer {
    /// Starts a writer. What became of the pieces comes out of the receiver, in order; it ends after the last. A segment
    /// that is still open when the writer is dropped is closed where its last fragment ends.
    pub fn start(archive: Archive, clock: Arc<dyn Clock>) -> (Self, UnboundedReceiver<Done>) {
        let (pieces, pieces_out) = mpsc::unbounded_channel();
        let (done, done_out) = mpsc::unbounded_channel();
        let held = Held::default();
        tokio::spawn(write(archive, clock, held.clone(), pieces_out, done));
        (Self { pieces, held }, done_out)
    }

    /// Hands over a piece.
    pub fn send(&self, piece: Piece) {
        let bytes = piece.len();
        self.held.0.fetch_add(bytes, Ordering::Relaxed);
        if self.pieces.send(piece).is_err() {
            // It stopped after a failure, which its receiver reports.
            self.held.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes handed over and not yet durable.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes()
    }
}

/// The segment that is open, and what will be said of it.
#[derive(Debug)]
struct Open {
    segment: OpenSegment,
    name: SegmentName,
    codecs: Codecs,
    until: Timestamp,
    video_frames: u64,
}

async fn write(
    archive: Archive,
    clock: Arc<dyn Clock>,
    held: Held,
    mut pieces: UnboundedReceiver<Piece>,
    done: UnboundedSender<Done>,
) {
    let mut open = None;
    let mut batch = VecDeque::new();
    while let Some(piece) = pieces.recv().await {
        batch.push_back(piece);
        // Whatever gathered while the disk was busy goes in one visit.
        while let Ok(piece) = pieces.try_recv() {
            batch.push_back(piece);
        }
        let work = std::mem::take(&mut batch);
        let (clock, held, report) = (Arc::clone(&clock), held.clone(), done.clone());
        let before = open.take();
        let after = archive.run(move |root| write_batch(root, &*clock, &held, before, work, &report)).await;
        match after {
            Ok(Ok(still_open)) => open = still_open,
            // Already reported; whoever listens ends the session.
            Ok(Err(Stopped)) => return,
            Err(e) => {
                let _ = done.send(Done::Failed(e));
                return;
            }
        }
    }
    // Nobody said where it ends: whoever recorded is gone, by a bug or cut off.
    if let Some(open) = open {
        let report = done.clone();
        if let Err(e) = archive.run(move |_| close(open, &report)).await {
            let _ = done.send(Done::Failed(e));
        }
    }
}

/// Closes a segment where its last fragment ends.
fn close(open: Open, report: &UnboundedSender<Done>) {
    let Open { segment, name, codecs, until, video_frames } = open;
    let _ = report.send(match segment.close() {
        Ok(file) => Done::Stored(Stored { name, codecs, file, end: until, video_frames }),
        Err(e) => Done::Failed(e),
    });
}

/// The writer gave up.
struct Stopped;

fn write_batch(
    root: &std::path::Path,
    clock: &dyn Clock,
    held: &Held,
    mut open: Option<Open>,
    pieces: VecDeque<Piece>,
    report: &UnboundedSender<Done>,
) -> Result<Option<Open>, Stopped> {
    for piece in pieces {
        let bytes = piece.len();
        let result = write_piece(root, clock, &mut open, piece, report);
        held.0.fetch_sub(bytes, Ordering::Relaxed);
        if let Err(e) = result {
            if let Some(open) = open {
                save(open, &e, report);
            }
            let _ = report.send(Done::Failed(e));
            return Err(Stopped);
        }
    }
    Ok(open)
}

fn write_piece(
    root: &std::path::Path,
    clock: &dyn Clock,
    open: &mut Option<Open>,
    piece: Piece,
    report: &UnboundedSender<Done>,
) -> Result<(), Error> {
    let durable = |began, until| {
        let _ = report.send(Done::Durable { began, until, at: clock.now() });
    };
    match piece {
        Piece::Begin { name, codecs, resumes, mut header, fragment, until } => {
            header.extend_from_slice(&fragment.head);
            let segment = OpenSegment::create(root, &name, &header, &fragment.samples)?;
            *open = Some(Open { segment, name, codecs, until, video_frames: fragment.video_frames.into() });
            durable(Some(Began { start: name.start, resumes }), until);
        }
        Piece::More { fragment, until } => {
            if let Some(open) = open {
                open.segment.append(&fragment.head, &fragment.samples)?;
                open.until = until;
                open.video_frames += u64::from(fragment.video_frames);
                durable(None, until);
            }
        }
        Piece::End { at } => {
            if let Some(Open { segment, name, codecs, video_frames, .. }) = open.take() {
                let file = segment.close()?;
                let _ = report.send(Done::Stored(Stored { name, codecs, file, end: at, video_frames }));
            }
        }
    }
    Ok(())
}

/// Keeps what is whole of a segment that can grow no more.
fn save(open: Open, after: &Error, report: &UnboundedSender<Done>) {
    let Open { segment, name, codecs, until, video_frames } = open;
    let key = segment.key().to_owned();
    match segment.salvage(after) {
        Ok(Some(file)) => {
            let _ = report.send(Done::Stored(Stored { name, codecs, file, end: until, video_frames }));
        }
        Ok(None) => {
            tracing::error!(key, "segment put off: its disk failed to sync; the next start copies it")
        }
        Err(e) => tracing::error!(key, error = %e, "segment could not be saved; the next start will try"),
    }
}
