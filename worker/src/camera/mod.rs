//! One camera: connect, record, and after a failure wait and connect again, until told to stop.
//!
//! A task per camera. It reads the source; a [`Writer`] task of each session writes. Facts go out over an unbounded
//! channel: they are tiny and few (some a minute per camera), the receiver appends them to a file, and a bounded channel
//! would either lose them or stop the recording, which are the two things that must not happen.
//!
//! Invariants: nothing is reported as stored before it is durable; after every break the first durable keyframe is
//! reported and then the gap before it, once; the camera's memory stays under [`Settings::max_held_bytes`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use longwatch_events::fact::{
    Cause, Codec, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentStored, Started,
};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::archive::writer::{Done, Piece, Stored, Writer};
use crate::backoff::Backoff;
use crate::rotation::Lengths;
use crate::source::{Failure, Received, Session, Source};

mod recorder;
mod stats;

pub use recorder::{Identity, Recorder};
pub use stats::{CameraState, Stats};

/// How long stopping may take: the last fragment must reach the disk and the camera be told.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How a camera is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Of segments and fragments.
    pub lengths: Lengths,
    /// Frames that may wait for the disk, in bytes. Over it, frames are dropped up to the next keyframe.
    pub max_held_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { lengths: Lengths::default(), max_held_bytes: 16 << 20 }
    }
}

/// A break in the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Break {
    /// End of the last frame before it.
    pub end: Timestamp,
    /// Why it began.
    pub cause: Cause,
}

/// Everything a camera's task needs.
pub struct CameraTask<S> {
    /// Whose recording it is.
    pub identity: Identity,
    /// Where frames come from.
    pub source: S,
    /// How it is recorded.
    pub settings: Settings,
    /// Where to.
    pub archive: Archive,
    /// Takes what happened.
    pub facts: UnboundedSender<Fact>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Lets others see.
    pub stats: Arc<Stats>,
    /// Ends the task.
    pub cancel: CancellationToken,
    /// Up to when this camera is stored already, and why it stopped then; `None` if it never was.
    pub resume: Option<Break>,
}

/// What a stopped task leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// End of the last durable frame of this task; `None` if there was none.
    pub stored_until: Option<Timestamp>,
    /// The break that was open when it stopped: what a later task should resume from.
    pub open_break: Option<Break>,
    /// Whether everything that was to be stored was, or is known not to be. If not, a segment may have become durable
    /// that no fact tells.
    pub drained: bool,
}

/// Records until cancelled. Then the open segment is closed, which takes at most [`STOP_LIMIT`].
pub async fn run<S: Source>(task: CameraTask<S>) -> Stopped {
    let CameraTask { identity, source, settings, archive, facts, clock, stats, cancel, resume } = task;
    let reporter = Reporter { identity, facts, clock: Arc::clone(&clock), stats, interrupted: None };
    let mut camera = Camera {
        settings,
        archive,
        clock,
        cancel: cancel.clone(),
        reporter,
        open_break: resume,
        unconfirmed: VecDeque::new(),
        stored_until: None,
        drained: true,
    };
    let mut backoff = Backoff::default();
    loop {
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            opened = source.open() => opened,
        };
        let (failure, recorded) = match opened {
            Ok(session) => match camera.record(session).await {
                Ended { failure: Some(failure), recorded } => (failure, recorded),
                Ended { failure: None, .. } => break,
            },
            Err(failure) => (failure, Duration::ZERO),
        };
        let delay = backoff.next_delay(recorded, failure.cause, rand::random());
        camera.reporter.interrupted(camera.stored_until, failure, delay);
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(delay) => {}
        }
    }
    let Camera { stored_until, open_break, drained, .. } = camera;
    Stopped { stored_until, open_break, drained }
}

/// How a session ended.
struct Ended {
    /// `None` if the task was cancelled.
    failure: Option<Failure>,
    /// For how long frames had reached the disk.
    recorded: Duration,
}

struct Camera {
    settings: Settings,
    archive: Archive,
    clock: Arc<dyn Clock>,
    cancel: CancellationToken,
    reporter: Reporter,
    /// The break that the next segment to resume will end.
    open_break: Option<Break>,
    /// What each segment that resumes, and is not durable yet, will have ended.
    unconfirmed: VecDeque<Option<Break>>,
    stored_until: Option<Timestamp>,
    /// Whether every session's writer was waited for to its end.
    drained: bool,
}

/// One session's recording: from the source's frames to the writer.
struct Take {
    writer: Writer,
    recorder: Option<Recorder>,
    /// Too much waits for the disk: frames are being dropped.
    dropping: bool,
    /// Since when frames reach the disk.
    durable_since: Option<Instant>,
}

impl Camera {
    async fn record<T: Session>(&mut self, mut session: T) -> Ended {
        let (writer, mut dones) = Writer::start(self.archive.clone(), Arc::clone(&self.clock));
        let mut take = Take { writer, recorder: None, dropping: false, durable_since: None };
        let cancel = self.cancel.clone();
        let failure = loop {
            let step = tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                done = dones.recv() => match done {
                    Some(done) => self.done(done, &mut take.durable_since),
                    None => Err(Failure::new(Cause::StorageError, "the writer stopped")),
                },
                received = session.next() => match received {
                    Ok(received) => self.received(received, &mut take),
                    Err(failure) => Err(failure),
                },
            };
            if let Err(failure) = step {
                break Some(failure);
            }
        };
        let Take { writer, recorder, mut durable_since, .. } = take;
        if let Some(mut recorder) = recorder {
            self.send(&writer, recorder.interrupt());
        }
        drop(writer);
        let settled = async { tokio::join!(session.close(), self.settle(&mut dones, &mut durable_since)).1 };
        let late = tokio::select! {
            biased;
            late = settled => late,
            () = async { cancel.cancelled().await; tokio::time::sleep(STOP_LIMIT).await } => {
                tracing::warn!(camera_id = %self.reporter.identity.camera_id, "stopped before all was stored");
                self.drained = false;
                None
            }
        };
        let failure = failure.map(|failure| late.unwrap_or(failure));
        self.open_break = self.break_left(failure.as_ref());
        Ended { failure, recorded: durable_since.map_or(Duration::ZERO, |since| since.elapsed()) }
    }

    /// The break that is open now that a session is over.
    fn break_left(&mut self, failure: Option<&Failure>) -> Option<Break> {
        let cause = failure.map_or(Cause::WorkerStopped, |failure| failure.cause);
        // A segment that should have ended a break but never became durable: that break is still open.
        let still_open = self.unconfirmed.drain(..).flatten().next().or(self.open_break.take());
        match (still_open, self.stored_until) {
            // When the disk fails, a break may begin earlier than was thought.
            (Some(open), Some(stored)) => Some(Break { end: open.end.min(stored), ..open }),
            (Some(open), None) => Some(open),
            (None, stored) => stored.map(|end| Break { end, cause }),
        }
    }

    /// Waits for the writer to finish; returns its failure, if it failed.
    async fn settle(
        &mut self,
        dones: &mut UnboundedReceiver<Done>,
        durable_since: &mut Option<Instant>,
    ) -> Option<Failure> {
        let mut failure = None;
        while let Some(done) = dones.recv().await {
            failure = self.done(done, durable_since).err().or(failure);
        }
        failure
    }

    fn received(&mut self, received: Received, take: &mut Take) -> Result<(), Failure> {
        let stats = &self.reporter.stats;
        match received {
            Received::Tracks(tracks) => match &mut take.recorder {
                Some(recorder) => recorder.change_tracks(tracks),
                None => {
                    self.reporter.started(tracks.video.codec, tracks.audio.as_ref().map(|audio| audio.codec));
                    take.recorder =
                        Some(Recorder::new(self.reporter.identity, self.settings.lengths, tracks));
                }
            },
            Received::Video(frame) => {
                stats.count_picture(frame.data.len(), frame.arrival.at);
                if self.has_room(take, frame.data.len())
                    && let Some(recorder) = &mut take.recorder
                {
                    let pieces = recorder.video(frame)?;
                    self.send(&take.writer, pieces);
                }
            }
            Received::Audio(frame) => {
                stats.count_bytes(frame.data.len());
                if self.has_room(take, frame.data.len())
                    && let Some(recorder) = &mut take.recorder
                {
                    recorder.audio(frame);
                }
            }
        }
        Ok(())
    }

    /// Whether a frame may be kept. When too much waits for the disk, the open segment is ended, so that what follows
    /// begins with a keyframe; frames are dropped until half of it is written.
    fn has_room(&mut self, take: &mut Take, bytes: usize) -> bool {
        let limit = self.settings.max_held_bytes;
        let Some(recorder) = &mut take.recorder else {
            return false;
        };
        let held = take.writer.held_bytes() + recorder.pending_bytes();
        if take.dropping {
            take.dropping = held > limit / 2;
        } else if held + bytes > limit {
            tracing::warn!(camera_id = %self.reporter.identity.camera_id, held, "disk too slow, frames dropped");
            take.dropping = true;
            let pieces = recorder.interrupt();
            let ended = pieces.iter().rev().find_map(|piece| match piece {
                Piece::End { at } => Some(*at),
                Piece::Begin { .. } | Piece::More { .. } => None,
            });
            self.send(&take.writer, pieces);
            if let Some(end) = ended {
                self.open_break = Some(Break { end, cause: Cause::StorageError });
            }
        }
        !take.dropping
    }

    fn send(&mut self, writer: &Writer, pieces: Vec<Piece>) {
        for piece in pieces {
            if let Piece::Begin { resumes: true, .. } = &piece {
                self.unconfirmed.push_back(self.open_break.take());
            }
            writer.send(piece);
        }
    }

    /// Takes note of what became of a piece.
    fn done(&mut self, done: Done, durable_since: &mut Option<Instant>) -> Result<(), Failure> {
        match done {
            Done::Durable { began, until, at } => {
                if let Some(began) = began.filter(|began| began.resumes) {
                    durable_since.get_or_insert_with(Instant::now);
                    let ended = self.unconfirmed.pop_front().flatten();
                    self.reporter.resumed(began.start, at, ended);
                }
                self.stored_until = Some(until);
            }
            Done::Stored(stored) => {
                self.stored_until = Some(stored.end);
                self.reporter.stored(stored);
            }
            Done::Failed(e) => return Err(Failure::new(Cause::StorageError, e.to_string())),
        }
        Ok(())
    }
}

/// Says what happened.
struct Reporter {
    identity: Identity,
    facts: UnboundedSender<Fact>,
    clock: Arc<dyn Clock>,
    stats: Arc<Stats>,
    /// The cause that was reported last and still holds.
    interrupted: Option<Cause>,
}

impl Reporter {
    fn report(&self, fact: Fact) {
        if self.facts.send(fact).is_err() {
            tracing::error!(camera_id = %self.identity.camera_id, "fact lost: nobody takes facts any more");
        }
    }

    fn started(&self, video: Codec, audio: Option<Codec>) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity;
        self.stats.set_state(CameraState::Connecting);
        self.report(Fact::Started(Started {
            tenant_id,
            camera_id,
            epoch,
            at: self.clock.now(),
            video,
            audio,
        }));
    }

    fn resumed(&mut self, start: Timestamp, durable_at: Timestamp, ended: Option<Break>) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity;
        self.interrupted = None;
        self.stats.set_state(CameraState::Recording);
        self.report(Fact::FirstKeyframeDurable(FirstKeyframeDurable {
            tenant_id,
            camera_id,
            epoch,
            start,
            durable_at,
        }));
        if let Some(Break { end, cause }) = ended.filter(|ended| ended.end < start) {
            self.report(Fact::Gap(Gap { tenant_id, camera_id, epoch, start: end, end: start, cause }));
        }
    }

    fn stored(&self, stored: Stored) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity;
        self.report(Fact::SegmentStored(SegmentStored {
            tenant_id,
            camera_id,
            epoch,
            key: stored.file.key,
            start: stored.name.start,
            end: stored.end,
            bytes: stored.file.bytes,
            sha256: stored.file.sha256,
            video_frames: stored.video_frames,
            video: stored.codecs.video,
            audio: stored.codecs.audio,
            repaired: false,
        }));
    }

    /// Reports a failure if its cause is new.
    fn interrupted(&mut self, stored_until: Option<Timestamp>, failure: Failure, retry_in: Duration) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity;
        let Failure { cause, detail } = failure;
        self.stats.set_state(CameraState::Failing(cause));
        tracing::info!(%camera_id, %cause, detail, retry_in_ms = retry_in.as_millis(), "camera interrupted");
        if self.interrupted != Some(cause) {
            // The first cause explains what is missing from the last frame on; a later one only from now on.
            let at = stored_until.filter(|_| self.interrupted.is_none()).unwrap_or_else(|| self.clock.now());
            self.interrupted = Some(cause);
            self.report(Fact::Interrupted(Interrupted { tenant_id, camera_id, epoch, at, cause, detail }));
        }
    }
}
