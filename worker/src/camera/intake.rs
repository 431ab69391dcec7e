//! What becomes of what a session yields: told, dropped, held or handed to the writer.
//!
//! Invariant: frames are dropped only up to the next keyframe, and what is missing by it is told.

use std::sync::Arc;

use longwatch_events::fact::Cause;
use longwatch_events::time::Timestamp;
use tokio::time::Instant;

use super::selector::Selector;
use super::{Break, Camera, Pace, Recorder};
use crate::archive::writer::{Piece, Writer};
use crate::frame::{Beside, Tracks, VideoFrame};
use crate::source::{Failure, Received};
use crate::tick::Hurry;

/// One session's recording: from the source's frames to the writer.
pub(super) struct Take {
    /// Since when the camera plays.
    pub(super) plays_since: Timestamp,
    pub(super) writer: Writer,
    pub(super) recorder: Option<Recorder>,
    /// What came while nothing was wanted, and what is wanted of it.
    pub(super) selector: Selector,
    /// The recording is open, and what comes is not wanted.
    pub(super) paused: bool,
    /// It was not told yet that the camera plays.
    pub(super) untold: Option<Arc<Tracks>>,
    /// Too much waits for the disk: frames are being dropped.
    pub(super) dropping: bool,
    /// It was logged that metadata had to be dropped.
    pub(super) spared: bool,
    /// So much was read that the others must have their turn first.
    pub(super) resting: bool,
    /// Until the first keyframe is durable.
    pub(super) hurry: Option<Hurry>,
    pub(super) pace: Pace,
}

impl Take {
    /// Bytes that wait; `None` before anything is known of the tracks.
    fn held_bytes(&self) -> Option<usize> {
        let recorder = self.recorder.as_ref()?;
        Some(self.writer.held_bytes() + recorder.pending_bytes() + self.selector.bytes())
    }
}

impl Camera {
    pub(super) fn received(&mut self, received: Received, take: &mut Take) -> Result<(), Failure> {
        let stats = &self.reporter.stats;
        match received {
            Received::Tracks(tracks) => match &mut take.recorder {
                Some(recorder) => {
                    if recorder.change_tracks(tracks) {
                        take.selector.clear();
                    }
                }
                None => {
                    take.untold = Some(Arc::clone(&tracks));
                    if self.wanted.is_now(self.clock.now()) || self.wanted.wish.is_of_events() {
                        self.tell_started(take);
                    }
                    take.recorder =
                        Some(Recorder::new(self.reporter.identity(), self.settings.lengths, tracks));
                }
            },
            Received::Video(frame) => {
                stats.count_picture(frame.data.len(), frame.arrival.at);
                if self.has_room(take, frame.data.len()) {
                    self.picture(frame, take)?;
                }
            }
            Received::Report(report) => {
                if let Some(recorder) = &mut take.recorder {
                    recorder.report(report);
                }
            }
            Received::Beside(beside) => {
                stats.count_bytes(beside.len());
                let has_room = match &beside {
                    Beside::Audio(frame) => self.has_room(take, frame.data.len()),
                    Beside::Metadata(document) => self.has_room_to_spare(take, document.data.len()),
                };
                if has_room
                    && let Some(recorder) = &mut take.recorder
                    && let Some(beside) = take.selector.beside(beside, recorder.is_open())
                {
                    recorder.beside(beside);
                }
            }
        }
        Ok(())
    }

    fn picture(&mut self, mut frame: VideoFrame, take: &mut Take) -> Result<(), Failure> {
        let Some(recorder) = &mut take.recorder else {
            return Ok(());
        };
        if let Some(by_us) = recorder.place(&mut frame)? {
            self.reporter.jumped(frame.arrival.at, by_us);
        }
        let paused = recorder.pause_before(&frame);
        if paused.is_some() {
            take.selector.clear();
        }
        let was_wanted = !take.paused;
        if let Some(pause_us) = paused
            && self.break_off(take, if was_wanted { Cause::Stalled } else { self.wanted.wish.cause() })
            && was_wanted
        {
            let why = format!("no picture for {} ms of the camera's time", pause_us / 1_000);
            self.reporter.interrupted(self.stored_until, Failure::new(Cause::Stalled, why), None);
        }
        self.let_pass(frame, take)
    }

    /// Whether a frame may be kept. When too much waits for the disk, the open segment is ended, so that what follows
    /// begins with a keyframe; frames are dropped until half of it is written.
    fn has_room(&mut self, take: &mut Take, bytes: usize) -> bool {
        let limit = self.settings.max_held_bytes;
        let Some(held) = take.held_bytes() else {
            return false;
        };
        if take.dropping {
            take.dropping = held > limit / 2;
        } else if held + bytes > limit {
            take.dropping = true;
            take.selector.clear();
            self.break_off(take, Cause::StorageError);
            let why = format!("frames are dropped: {held} bytes wait for the disk");
            self.reporter.interrupted(self.stored_until, Failure::new(Cause::StorageError, why), None);
        }
        !take.dropping
    }

    /// Whether metadata may be kept: only while enough room is left for pictures, which must not be dropped for it.
    fn has_room_to_spare(&self, take: &mut Take, bytes: usize) -> bool {
        let limit = self.settings.max_held_bytes * 3 / 4;
        let has_room = !take.dropping && take.held_bytes().is_some_and(|held| held + bytes <= limit);
        if !has_room && take.recorder.is_some() && !std::mem::replace(&mut take.spared, true) {
            let camera_id = self.reporter.identity().camera_id;
            tracing::warn!(%camera_id, "metadata dropped: too much waits for the disk");
        }
        has_room
    }

    /// Ends the open segment, so that what follows begins with a keyframe and tells what is missing before it. Returns
    /// whether one was open: otherwise the break before it goes on.
    fn break_off(&mut self, take: &mut Take, cause: Cause) -> bool {
        let pieces = take.recorder.as_mut().map(Recorder::interrupt).unwrap_or_default();
        let ended = pieces.iter().rev().find_map(|piece| match piece {
            Piece::End { at } => Some(*at),
            Piece::Begin { .. } | Piece::More { .. } => None,
        });
        self.send(take, pieces);
        take.paused = false;
        if let Some(end) = ended {
            self.open_break = Some(Break { end, cause });
        }
        ended.is_some()
    }

    pub(super) fn send(&mut self, take: &mut Take, pieces: Vec<Piece>) {
        for piece in pieces {
            if let Piece::Begin { resumes: true, .. } = &piece {
                self.unconfirmed.push_back(self.open_break.take());
            }
            if take.writer.held_bytes() == 0 {
                take.pace.moved_at = Some(Instant::now());
            }
            take.writer.send(piece);
        }
    }
}
