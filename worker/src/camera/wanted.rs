//! What a camera's task does about when its camera is [wanted](Wish): not connect it, hold its frames shortly before, end
//! the recording in time.
//!
//! Invariant: what is not recorded because it is not wanted is told as that and as nothing else; what is missing of what is
//! wanted never is.

use std::time::Duration;

use longwatch_events::fact::Cause;
use longwatch_events::id::CameraId;
use longwatch_events::time::Timestamp;
use tokio::sync::watch;

use super::intake::Take;
use super::preroll::Held;
use super::selector::Act;
use super::{Break, Camera};
use crate::archive::writer::Piece;
use crate::frame::VideoFrame;
use crate::source::Failure;
use crate::wish::{self, Wish};

/// The runtime's timers do not count while the machine is suspended, and its clock may be set: none is trusted for longer.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// How far a camera's clock may be ahead of ours, in milliseconds, much more than reports that are taken for sane say: so
/// long after the end of a window, by the camera's clock, it is over by ours too.
const AHEAD_MS: i64 = 10_000;

/// What was missing so long ago, in milliseconds, no event that is told now can be about; and whoever tells what events want
/// forgets none so early.
const SETTLED_MS: i64 = 300_000;

/// When one camera is wanted, as it was told last.
pub(super) struct Wanted {
    told: watch::Receiver<Wish>,
    pub(super) wish: Wish,
    camera: CameraId,
    /// A recording has ended for it, and that is not told yet.
    rests: Option<Rests>,
    /// The time of the picture at which the last session ended for it.
    shut_at: Option<Timestamp>,
}

/// What is still to become durable of a recording that is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rests {
    /// Its segment.
    Ended,
    /// All up to this moment; the segment may go on.
    Paused(Timestamp),
}

impl Wanted {
    pub(super) fn new(mut told: watch::Receiver<Wish>, camera: CameraId) -> Self {
        let wish = told.borrow_and_update().clone();
        Self { told, wish, camera, rests: None, shut_at: None }
    }

    /// Whether it is wanted at this moment.
    pub(super) fn is_now(&self, at: Timestamp) -> bool {
        self.wish.is_on(at)
    }

    /// `now`, or when a window was found to be over, if that is a little later.
    fn not_before_shut(&self, now: Timestamp) -> Timestamp {
        let shut_at = self.shut_at.filter(|shut_at| shut_at.millis_since(now) <= AHEAD_MS);
        shut_at.map_or(now, |shut_at| shut_at.max(now))
    }

    /// Whether it is to be connected at this moment.
    fn is_soon(&self, at: Timestamp) -> bool {
        self.wish.connect_at(at, self.camera).is_some_and(|connects| connects <= at)
    }

    /// The gap that a recording ends which begins at `start`, piece by piece.
    pub(super) fn gap(&self, Break { end, cause }: Break, start: Timestamp) -> Vec<wish::Piece> {
        self.wish.pieces(end, start, cause)
    }

    fn why_not(&self, at: Timestamp) -> Failure {
        let cause = self.wish.cause();
        let why = match self.wish.next_change(at) {
            _ if self.wish.is_of_events() => "no event wants it recorded".to_owned(),
            Some(begins) => format!("its schedule does not want it recorded before {begins}"),
            None => "its schedule never wants it recorded".to_owned(),
        };
        Failure::new(cause, why)
    }

    /// Waits for a change of what is told, for so long at most; for that long, once nobody can make one.
    async fn changed(&mut self, limit: Duration) {
        match tokio::time::timeout(limit, self.told.changed()).await {
            Ok(Ok(())) => self.told.mark_changed(),
            Ok(Err(_)) => tokio::time::sleep(limit).await,
            Err(_) => {}
        }
    }
}

impl Camera {
    /// Takes note of what is told now; returns whether that is something else. `held`: when the first picture was of those
    /// that came and are still held.
    fn note_wish(&mut self, held: Option<Timestamp>) -> bool {
        let Wanted { told, .. } = &mut self.wanted;
        if !told.has_changed().unwrap_or(false) {
            return false;
        }
        let wish = told.borrow_and_update().clone();
        let now = self.clock.now();
        let (is_only_another_event, records_held) =
            (wish.is_of_events() && self.wanted.wish.is_of_events(), held.filter(|held| wish.is_on(*held)));
        // What was missing until now was missing by what was told until now. But an event may want what came before it.
        let settled = if is_only_another_event {
            now.plus_millis(-SETTLED_MS)
        } else {
            records_held.map_or(now, |held| held.min(now))
        };
        if let Some(open) = self.open_break.as_mut().filter(|open| open.end < settled) {
            let gap = self.wanted.wish.pieces(open.end, settled, open.cause);
            if !is_only_another_event || has_loss(&gap) {
                open.end = settled;
                self.reporter.missing(gap);
            }
        }
        self.wanted.wish = wish;
        self.wanted.shut_at = None;
        true
    }

    /// Waits until the camera is to be connected. Says meanwhile that it is not wanted.
    pub(super) async fn until_wanted(&mut self) {
        loop {
            self.note_wish(None);
            let now = self.wanted.not_before_shut(self.clock.now());
            let Wanted { wish, camera, .. } = &self.wanted;
            let connects = wish.connect_at(now, *camera);
            if connects.is_some_and(|connects| connects <= now) {
                // One that waits for events is told to wait once it is there.
                if !self.wanted.is_now(now) && !self.wanted.wish.is_of_events() {
                    self.tell_unwanted(now);
                }
                return;
            }
            self.tell_unwanted(now);
            let left_ms = connects.map(|connects| connects.millis_since(now));
            let left = left_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
            let wait = left.map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN)).max(Duration::from_millis(1));
            self.wanted.changed(wait).await;
        }
    }

    fn tell_unwanted(&mut self, now: Timestamp) {
        if !self.reporter.is_interrupted_for(Cause::NotScheduled) {
            let why = self.wanted.why_not(now);
            self.reporter.interrupted(self.stored_until, why, None);
        }
    }

    /// What is missing of what is wanted, while a camera was not wanted when its recording broke off, is missing for this.
    pub(super) const fn blame(&mut self, cause: Cause) {
        if let Some(open) = &mut self.open_break
            && open.cause.is_by_wish()
        {
            open.cause = cause;
        }
    }

    /// The camera failed and is to be tried again after `delay`, or when it is wanted, if that is earlier. Nobody misses it
    /// before, unless it should be there for an event. Returns when to try again.
    pub(super) fn failed(&mut self, failure: Failure, delay: Duration) -> Duration {
        let now = self.clock.now();
        if self.wanted.is_now(now) || self.wanted.wish.is_of_events() {
            self.reporter.interrupted(self.stored_until, failure, Some(delay));
            return delay;
        }
        let Failure { cause, detail } = failure;
        let camera_id = self.reporter.identity().camera_id;
        tracing::info!(%camera_id, %cause, detail, "camera failed before it is wanted");
        let begins = self.wanted.wish.next_change(now).map(|begins| begins.millis_since(now));
        let left = begins.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        left.map_or(delay, |left| left.min(delay))
    }

    /// Says that the camera plays, once.
    pub(super) fn tell_started(&mut self, take: &mut Take) {
        if let Some(tracks) = take.untold.take() {
            let audio = tracks.audio.as_ref().map(|audio| audio.codec);
            let not_recorded = tracks.not_recorded.clone();
            self.reporter.started(take.plays_since, tracks.video.codec, audio, not_recorded);
        }
    }

    /// Records the next picture if it is wanted, with what came before it since the last keyframe if it is the first; and
    /// what came before and an event wants.
    ///
    /// # Errors
    /// [`Cause::NotScheduled`]: the session should end, for nothing of it is wanted soon.
    pub(super) fn let_pass(&mut self, frame: VideoFrame, take: &mut Take) -> Result<(), Failure> {
        let Some(recorder) = &take.recorder else {
            return Ok(());
        };
        let at = recorder.time_of(&frame);
        let held = take.selector.first().map(|first| recorder.time_of(first));
        if self.note_wish(held) {
            take.selector.look_again();
        }
        take.selector.video(frame);
        while let Some(recorder) = &mut take.recorder
            && let Some(act) = take.selector.act(
                &self.wanted.wish,
                recorder.is_open(),
                self.settings.max_held_bytes / 2,
                |frame| recorder.time_of(frame),
            )
        {
            self.act(act, take)?;
        }
        if take.selector.is_on() {
            return Ok(());
        }
        self.tell_idle(take);
        if self.wanted.is_soon(at) {
            return Ok(());
        }
        self.wanted.shut_at = Some(at);
        Err(self.wanted.why_not(at))
    }

    fn act(&mut self, act: Act, take: &mut Take) -> Result<(), Failure> {
        match act {
            Act::Record(frames) => {
                self.tell_started(take);
                if take.paused {
                    // It goes on before anybody was told that it does not.
                    self.wanted.rests = None;
                    take.paused = false;
                }
                for held in frames {
                    self.record_held(held, take)?;
                }
            }
            Act::Pause(next) => {
                let Some(recorder) = &mut take.recorder else { return Ok(()) };
                let pieces = recorder.complete(next);
                self.wanted.rests = recorder.complete_until().map(Rests::Paused);
                take.paused = true;
                self.send(take, pieces);
                // It may be durable already.
                self.tell_pause();
            }
            Act::End(next) => {
                take.paused = false;
                let pieces = take.recorder.as_mut().map(|recorder| recorder.rest(next)).unwrap_or_default();
                self.rested(take, pieces);
            }
        }
        Ok(())
    }

    fn record_held(&mut self, held: Held, take: &mut Take) -> Result<(), Failure> {
        let Some(recorder) = &mut take.recorder else {
            return Ok(());
        };
        match held {
            Held::Video(frame) => {
                let pieces = recorder.video(frame)?;
                self.send(take, pieces);
            }
            Held::Beside(beside) => recorder.beside(beside),
        }
        Ok(())
    }

    /// A recording ended because it is not wanted any more. It is told once it is durable.
    fn rested(&mut self, take: &mut Take, pieces: Vec<Piece>) {
        let ended = pieces.iter().rev().find_map(|piece| match piece {
            Piece::End { at } => Some(*at),
            Piece::Begin { .. } | Piece::More { .. } => None,
        });
        self.send(take, pieces);
        if let Some(end) = ended {
            self.open_break = Some(Break { end, cause: self.wanted.wish.cause() });
            self.wanted.rests = Some(Rests::Ended);
        }
    }

    /// Everything is stored of a recording that ended because it is not wanted any more: that is told now.
    pub(super) fn tell_rest(&mut self) {
        if self.wanted.rests == Some(Rests::Ended)
            && let Some(end) = self.stored_until
        {
            self.wanted.rests = None;
            self.tell_unwanted_since(end);
        }
    }

    /// The same of a recording that pauses, if all of it is durable.
    pub(super) fn tell_pause(&mut self) {
        if let Some(Rests::Paused(until)) = self.wanted.rests
            && let Some(end) = self.stored_until.filter(|end| *end >= until)
        {
            self.wanted.rests = None;
            self.tell_unwanted_since(end);
        }
    }

    fn tell_unwanted_since(&mut self, end: Timestamp) {
        let why = self.wanted.why_not(end);
        if !self.reporter.is_interrupted_for(why.cause) {
            self.reporter.interrupted(Some(end), why, None);
        }
    }

    /// A camera that is recorded around events is there, what it sends is held, and nothing of it is wanted: that is told
    /// once, with what was missing until then of what was wanted.
    fn tell_idle(&mut self, take: &mut Take) {
        let is_told = self.reporter.is_interrupted_for(Cause::NoEvent) || self.wanted.rests.is_some();
        let Some((recorder, first)) = take.recorder.as_ref().zip(take.selector.first()) else { return };
        if !self.wanted.wish.is_of_events() || is_told || recorder.is_open() || !self.unconfirmed.is_empty() {
            return;
        }
        let at = recorder.time_of(first);
        self.tell_started(take);
        let open = self.open_break.get_or_insert(Break { end: at, cause: Cause::NoEvent });
        let gap = self.wanted.wish.pieces(open.end, at, open.cause);
        open.cause = Cause::NoEvent;
        if has_loss(&gap) {
            open.end = at;
            self.reporter.missing(gap);
        }
        let why = self.wanted.why_not(at);
        self.reporter.interrupted(self.stored_until, why, None);
    }
}

/// Whether anything is missing that was wanted.
fn has_loss(gap: &[wish::Piece]) -> bool {
    gap.iter().any(|piece| !piece.cause.is_by_wish())
}
