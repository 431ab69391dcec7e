//! Says what happened to a camera's recording: facts for the log, the state for whoever looks.
//!
//! Invariant: an interruption is told once for each cause, until the recording is told to have resumed.

use std::sync::Arc;
use std::time::Duration;

use longwatch_events::fact::{
    Cause, Codec, Fact, FirstKeyframeDurable, Gap, Interrupted, SegmentStored, Started, TimestampJumped,
};
use longwatch_events::time::{Clock, Timestamp};
use tokio::sync::mpsc::UnboundedSender;

use super::{CameraState, Identity, Stats};
use crate::archive::writer::Stored;
use crate::source::Failure;
use crate::wish::Piece;

/// Takes facts of one camera.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) identity: Identity,
    pub(super) facts: UnboundedSender<Fact>,
}

impl Told {
    fn report(&self, fact: Fact) {
        if self.facts.send(fact).is_err() {
            tracing::error!(camera_id = %self.identity.camera_id, "fact lost: nobody takes facts any more");
        }
    }

    pub(super) fn stored(&self, stored: Stored) {
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
}

/// Says what happened.
pub(super) struct Reporter {
    pub(super) told: Told,
    clock: Arc<dyn Clock>,
    pub(super) stats: Arc<Stats>,
    /// The cause that was reported last and still holds.
    interrupted: Option<Cause>,
}

impl Reporter {
    pub(super) fn new(told: Told, clock: Arc<dyn Clock>, stats: Arc<Stats>) -> Self {
        Self { told, clock, stats, interrupted: None }
    }

    pub(super) const fn identity(&self) -> Identity {
        self.told.identity
    }

    /// Whether an interruption was told that still holds.
    pub(super) const fn is_interrupted(&self) -> bool {
        self.interrupted.is_some()
    }

    /// Whether an interruption for this cause was told last, and still holds.
    pub(super) fn is_interrupted_for(&self, cause: Cause) -> bool {
        self.interrupted == Some(cause)
    }

    /// `at`: when PLAY was answered. What the camera sends may be known only later.
    pub(super) fn started(
        &self,
        at: Timestamp,
        video: Codec,
        audio: Option<Codec>,
        not_recorded: Vec<String>,
    ) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity();
        self.stats.set_state(CameraState::Connecting);
        self.told.report(Fact::Started(Started {
            tenant_id,
            camera_id,
            epoch,
            at,
            video,
            audio,
            not_recorded,
        }));
    }

    /// The camera's media clock jumped by `by_us` at `at`, and nothing was lost by it.
    pub(super) fn jumped(&self, at: Timestamp, by_us: i64) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity();
        let by_ms = by_us / 1_000;
        tracing::info!(%camera_id, by_ms, "the camera's clock jumped");
        self.told.report(Fact::TimestampJumped(TimestampJumped { tenant_id, camera_id, epoch, at, by_ms }));
    }

    /// `gap`: what it ended, piece by piece.
    pub(super) fn resumed(&mut self, start: Timestamp, durable_at: Timestamp, gap: Vec<Piece>) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity();
        self.interrupted = None;
        self.stats.set_state(CameraState::Recording);
        self.told.report(Fact::FirstKeyframeDurable(FirstKeyframeDurable {
            tenant_id,
            camera_id,
            epoch,
            start,
            durable_at,
        }));
        self.missing(gap);
    }

    /// Video is missing, for good.
    pub(super) fn missing(&self, gap: Vec<Piece>) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity();
        for Piece { start, end, cause } in gap {
            self.told.report(Fact::Gap(Gap { tenant_id, camera_id, epoch, start, end, cause }));
        }
    }

    /// Reports a failure if its cause is new. `retry_in`: when the camera is tried again, if it has to be.
    pub(super) fn interrupted(
        &mut self,
        stored_until: Option<Timestamp>,
        failure: Failure,
        retry_in: Option<Duration>,
    ) {
        let Identity { tenant_id, camera_id, epoch, .. } = self.identity();
        let Failure { cause, detail } = failure;
        self.stats.set_state(CameraState::Failing(cause));
        let retry_in_ms = retry_in.map(|delay| delay.as_millis());
        tracing::info!(%camera_id, %cause, detail, retry_in_ms, "camera interrupted");
        if self.interrupted != Some(cause) {
            // The first cause explains what is missing from the last frame on; a later one only from now on.
            let at = stored_until.filter(|_| self.interrupted.is_none()).unwrap_or_else(|| self.clock.now());
            self.interrupted = Some(cause);
            self.told.report(Fact::Interrupted(Interrupted {
                tenant_id,
                camera_id,
                epoch,
                at,
                cause,
                detail,
            }));
        }
    }
}
