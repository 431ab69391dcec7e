//! One camera: connect, record, and after a failure wait and connect again, until told to stop.
//!
//! A task per camera. It reads the source; a [`Writer`] task of each session writes. Facts go out over an unbounded
//! channel: they are tiny and few (some a minute per camera), the receiver appends them to a file, and a bounded channel
//! would either lose them or stop the recording, which are the two things that must not happen.
//!
//! Invariants: nothing is reported as stored before it is durable; after every break the first durable keyframe is
//! reported and then the gap before it, once; the camera's memory stays under [`Settings::max_held_bytes`]; a camera is
//! asked only while its [`Hold`] lasts, and is not connected when it cannot be [wanted](Wish) soon.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::archive::writer::{Done, Writer};
use crate::backoff::Backoff;
use crate::dials::Dials;
use crate::rotation::Lengths;
use crate::source::{Failure, Received, Session, Source};
use crate::tick::Ticker;
use crate::wish::Wish;

mod hold;
mod intake;
mod outcomes;
mod preroll;
mod recorder;
mod reporter;
mod selector;
mod stats;
mod wanted;

use intake::Take;
use outcomes::Outcomes;
use reporter::{Reporter, Told};
use selector::Selector;

pub use hold::Hold;
pub use recorder::{Identity, Recorder};
pub use stats::{CameraState, Stats};
use wanted::Wanted;

/// How long stopping may take: the last fragment must reach the disk and the camera be told.
pub const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How long pieces may wait without any of them becoming durable before the disk counts as failing. It may still come
/// back, and then nothing is lost as long as they can be held; but nobody should believe meanwhile that all is well.
pub const DISK_STALL: Duration = Duration::from_secs(5);

/// How long opening a camera keeps its thread from sleeping: one that is there has answered by then, and one that is not
/// must not cost the others of its thread their tick.
const HURRY_OPENING: Duration = Duration::from_secs(2);

/// How long waiting for the first durable keyframe does.
const HURRY_BEGINNING: Duration = Duration::from_secs(5);

/// What is read of one camera before the others have their turn; far more than a camera sends in a tick.
const MAX_BYTES_A_TURN: usize = 4 << 20;

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
    /// Whether the camera may be had.
    pub hold: Hold,
    /// When it is wanted recorded; may change at any time.
    pub wish: watch::Receiver<Wish>,
    /// How the thread ticks that the task runs on.
    pub ticker: Ticker,
    /// Where it waits for its turn to connect, and how important it is there: 0 goes first.
    pub dials: (Dials, u8),
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
    let CameraTask {
        identity,
        source,
        settings,
        archive,
        facts,
        clock,
        stats,
        cancel,
        hold,
        wish,
        ticker,
        dials,
        resume,
    } = task;
    let (dials, rank) = dials;
    let reporter = Reporter::new(Told { identity, facts }, Arc::clone(&clock), stats);
    let mut camera = Camera {
        settings,
        archive,
        clock,
        cancel: cancel.clone(),
        hold: hold.clone(),
        wanted: Wanted::new(wish, identity.camera_id),
        ticker: ticker.clone(),
        reporter,
        open_break: resume,
        segment_start: None,
        unconfirmed: VecDeque::new(),
        stored_until: None,
        drained: true,
        volume_failed: false,
    };
    let mut backoff = Backoff::default();
    let mut tried = false;
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = camera.until_wanted() => {}
        }
        // That a process which has just begun has no contact yet is nothing to tell.
        if std::mem::replace(&mut tried, true) && !hold.is_held() {
            camera.reporter.interrupted(camera.stored_until, hold::expired(), None);
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = hold.begins() => {}
        }
        let turn = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            turn = dials.turn(rank, backoff.failures()) => turn,
        };
        let hurry = ticker.hurry(HURRY_OPENING);
        let opened = tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            () = hold.ends(&ticker) => Err(hold::expired()),
            opened = source.open() => opened,
        };
        drop((hurry, turn));
        let (failure, recorded) = match opened {
            Ok(session) => match camera.record(session).await {
                Ended { failure: Some(failure), recorded } => (failure, recorded),
                Ended { failure: None, .. } => break,
            },
            Err(failure) => (failure, Duration::ZERO),
        };
        if failure.cause == Cause::NotScheduled {
            // The schedule says when to go on.
            continue;
        }
        camera.blame(failure.cause);
        if failure.cause == Cause::LeaseExpired {
            // The lease says when to go on, not how often the camera failed.
            camera.reporter.interrupted(camera.stored_until, failure, None);
            continue;
        }
        // The camera did nothing wrong, and there is another volume, or will be another server.
        let delay = if std::mem::take(&mut camera.volume_failed) && archive_has_volume(&camera.archive) {
            Duration::ZERO
        } else {
            backoff.next_delay(recorded, failure.cause, rand::random())
        };
        let delay = camera.failed(failure, delay);
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
    hold: Hold,
    wanted: Wanted,
    ticker: Ticker,
    reporter: Reporter,
    /// The break that the next segment to resume will end.
    open_break: Option<Break>,
    /// Where the segment begins that became durable last.
    segment_start: Option<Timestamp>,
    /// What each segment that resumes, and is not durable yet, will have ended.
    unconfirmed: VecDeque<Option<Break>>,
    stored_until: Option<Timestamp>,
    /// Whether every session's writer was waited for to its end.
    drained: bool,
    /// The volume that the last session was written to failed.
    volume_failed: bool,
}

/// Whether any volume has not failed.
fn archive_has_volume(archive: &Archive) -> bool {
    (0..archive.volumes()).any(|volume| !archive.has_failed(volume))
}

/// How the disk keeps up during one session.
struct Pace {
    /// Since when frames reach the disk.
    durable_since: Option<Instant>,
    /// When something became durable last, or began to wait while nothing else did; `None` once it was told that the
    /// disk has stalled since.
    moved_at: Option<Instant>,
}

impl Pace {
    /// Waits until nothing has moved for [`DISK_STALL`]; forever, if that was told already.
    async fn stalled(moved_at: Option<Instant>) {
        match moved_at {
            Some(at) => tokio::time::sleep_until(at + DISK_STALL).await,
            None => std::future::pending().await,
        }
    }
}

impl Camera {
    async fn record<T: Session>(&mut self, mut session: T) -> Ended {
        let plays_since = self.clock.now();
        let (writer, dones) =
            Writer::start(&self.archive, self.reporter.identity().key(), Arc::clone(&self.clock));
        let mut outcomes = Outcomes::new(dones, self.reporter.told.clone());
        let pace = Pace { durable_since: None, moved_at: None };
        let hurry = Some(self.ticker.hurry(HURRY_BEGINNING));
        let mut take = Take {
            plays_since,
            writer,
            recorder: None,
            selector: Selector::default(),
            paused: false,
            untold: None,
            dropping: false,
            spared: false,
            resting: false,
            hurry,
            pace,
        };
        let (cancel, hold, ticker) = (self.cancel.clone(), self.hold.clone(), self.ticker.clone());
        let mut hold_ends = pin!(hold.ends(&ticker));
        let failure = loop {
            let step = tokio::select! {
                biased;
                () = cancel.cancelled() => break None,
                () = &mut hold_ends => Err(hold::expired()),
                done = outcomes.next() => {
                    take.hurry = None;
                    match done {
                        Some(done) => self.done(done, &mut take.pace),
                        None => Err(Failure::new(Cause::StorageError, "the writer stopped")),
                    }
                }
                () = Pace::stalled(take.pace.moved_at), if take.writer.held_bytes() > 0 => {
                    self.disk_stalled(&mut take.pace);
                    Ok(())
                }
                // A timer, for it is looked at only when all others have had their turn.
                () = tokio::time::sleep(Duration::from_millis(1)), if take.resting => {
                    take.resting = false;
                    Ok(())
                }
                received = session.next(), if !take.resting => self.take_turn(received, &mut session, &mut take),
            };
            if let Err(failure) = step {
                break Some(failure);
            }
        };
        // Whoever is told to stop was last looked at a tick ago: what has come since belongs to the recording.
        if failure.is_none()
            && !take.resting
            && let Some(received) = session.next().now_or_never()
            && let Err(last) = self.take_turn(received, &mut session, &mut take)
        {
            tracing::debug!(error = %last.detail, "the session failed as it was ended");
        }
        if let Some(pieces) = take.recorder.as_mut().map(Recorder::interrupt) {
            self.send(&mut take, pieces);
        }
        let Take { writer, mut pace, .. } = take;
        drop(writer);
        let _hurry = ticker.hurry(STOP_LIMIT);
        let settled = async { tokio::join!(session.close(), self.settle(&mut outcomes, &mut pace)).1 };
        let late = tokio::select! {
            biased;
            late = settled => late,
            () = async { cancel.cancelled().await; tokio::time::sleep(STOP_LIMIT).await } => {
                tracing::warn!(camera_id = %self.reporter.identity().camera_id, "stopped before all was stored");
                self.drained = false;
                None
            }
        };
        let failure = failure.map(|failure| late.unwrap_or(failure));
        self.open_break = self.break_left(failure.as_ref());
        Ended { failure, recorded: pace.durable_since.map_or(Duration::ZERO, |since| since.elapsed()) }
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
    async fn settle(&mut self, outcomes: &mut Outcomes, pace: &mut Pace) -> Option<Failure> {
        let mut failure = None;
        // The writer does not end before everything is written: all that is left of it is waited for.
        pace.moved_at = Some(Instant::now());
        loop {
            tokio::select! {
                biased;
                done = outcomes.next() => match done {
                    Some(done) => failure = self.done(done, pace).err().or(failure),
                    None => return failure,
                },
                () = Pace::stalled(pace.moved_at) => self.disk_stalled(pace),
            }
        }
    }

    /// Takes what the session yielded and everything else that has come already.
    fn take_turn<T: Session>(
        &mut self,
        mut next: Result<Received, Failure>,
        session: &mut T,
        take: &mut Take,
    ) -> Result<(), Failure> {
        let begun_bytes = self.reporter.stats.bytes();
        loop {
            // Before anything else is done after a pause of this process: it may have come out of any wait.
            if next.is_ok() && !self.hold.is_held() {
                return Err(hold::expired());
            }
            self.received(next?, take)?;
            if self.reporter.stats.bytes() - begun_bytes > MAX_BYTES_A_TURN as u64 {
                take.resting = true;
                return Ok(());
            }
            match session.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(()),
            }
        }
    }

    /// Tells that nothing reaches the disk any more. What waits goes on waiting.
    fn disk_stalled(&mut self, pace: &mut Pace) {
        pace.moved_at = None;
        let why = format!("nothing reached the disk for {} ms", DISK_STALL.as_millis());
        self.reporter.interrupted(self.stored_until, Failure::new(Cause::StorageError, why), None);
    }

    /// Takes note of what became of a piece.
    fn done(&mut self, done: Done, pace: &mut Pace) -> Result<(), Failure> {
        pace.moved_at = Some(Instant::now());
        match done {
            Done::Durable { began, until, at } => {
                self.stored_until = Some(until);
                self.segment_start = began.map(|began| began.start).or(self.segment_start);
                if let Some(began) = began.filter(|began| began.resumes) {
                    pace.durable_since.get_or_insert_with(Instant::now);
                    let ended = self.unconfirmed.pop_front().flatten();
                    let gap = ended.map_or_else(Vec::new, |ended| self.wanted.gap(ended, began.start));
                    self.reporter.resumed(began.start, at, gap);
                    self.still_broken();
                } else if let Some(start) = self.segment_start
                    && self.reporter.is_interrupted()
                    && self.open_break.is_none()
                    && self.unconfirmed.is_empty()
                {
                    // The disk had stalled and nothing was lost: the recording goes on where it was.
                    self.reporter.resumed(start, at, Vec::new());
                }
                self.tell_pause();
            }
            Done::Stored(stored) => {
                self.stored_until = Some(stored.end);
                self.reporter.told.stored(stored);
                self.tell_rest();
            }
            Done::Failed(e) => {
                self.volume_failed |= e.is_of_volume();
                return Err(Failure::new(Cause::StorageError, e.to_string()));
            }
        }
        Ok(())
    }

    /// What was resumed may have been broken off again before it reached the disk: then that break still holds.
    fn still_broken(&mut self) {
        // That it is not wanted any more is told once all of it is stored.
        let broken = self.unconfirmed.front().copied().flatten().or(self.open_break);
        if let Some(Break { end, cause }) = broken.filter(|broken| !broken.cause.is_by_wish()) {
            let why = "what was held reached the disk; what came after it was not kept";
            self.reporter.interrupted(Some(end), Failure::new(cause, why), None);
        }
    }
}
