//! From frames to pieces of segments: joins [`crate::rotation`], [`crate::timeline`] and [`crate::fmp4`] for one session.
//!
//! Pure: no clock, no disk, no network. Invariant: every frame that it takes ends up in exactly one piece, in order.

use std::sync::Arc;

use longwatch_events::fact::Cause;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::Timestamp;

use crate::archive::layout::SegmentName;
use crate::archive::writer::{Codecs, Piece};
use crate::fmp4::{Muxer, init};
use crate::frame::{AudioFrame, Beside, Document, SenderReport, Tracks, VideoFrame};
use crate::ntp;
use crate::plan::Key;
use crate::rotation::{Lengths, Rotation, Step};
use crate::source::Failure;
use crate::timeline::media_clock::{MediaClock, Restless};
use crate::timeline::reports::{Report, Reports};
use crate::timeline::{PauseGuard, Timeline, to_micros};

/// Whose recording it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Owner of the camera.
    pub tenant_id: TenantId,
    /// The camera.
    pub camera_id: CameraId,
    /// The assignment under which it is recorded.
    pub epoch: Epoch,
    /// This server.
    pub server_id: ServerId,
}

impl Identity {
    /// Whose recording it is, whichever assignment it is under.
    pub const fn key(&self) -> Key {
        Key { tenant_id: self.tenant_id, camera_id: self.camera_id }
    }
}

/// One session's recording.
#[derive(Debug)]
pub struct Recorder {
    identity: Identity,
    rotation: Rotation,
    /// Of the next segment.
    tracks: Arc<Tracks>,
    timeline: Option<Timeline>,
    reports: Reports,
    video_clock: MediaClock,
    audio_clock: Option<MediaClock>,
    pauses: PauseGuard,
    /// It was logged that audio or metadata had to be dropped.
    flood: bool,
    open: Option<Open>,
    /// Where the segment before ended, if the next one follows without a break.
    follows: Option<Timestamp>,
}

#[derive(Debug)]
struct Open {
    tracks: Arc<Tracks>,
    muxer: Muxer,
    /// Media time at which its last complete fragment ends; `None` before the first.
    end: Option<i64>,
}

impl Recorder {
    /// Begins a session that sends `tracks`.
    pub fn new(identity: Identity, lengths: Lengths, tracks: Arc<Tracks>) -> Self {
        Self {
            identity,
            rotation: Rotation::new(lengths, identity.camera_id),
            timeline: None,
            reports: Reports::new(tracks.video.timescale),
            video_clock: MediaClock::new(tracks.video.timescale),
            audio_clock: tracks.audio.as_ref().map(|audio| MediaClock::new(audio.timescale)),
            tracks,
            pauses: PauseGuard::default(),
            flood: false,
            open: None,
            follows: None,
        }
    }

    /// The camera changed its parameters: they hold from the next keyframe on, which begins a new segment. Pictures
    /// before it stay in the open one, where they belong in time even if they can no longer be decoded.
    ///
    /// Returns whether what comes can no longer be decoded by what was before: metadata that comes or goes changes the next
    /// segment's header, and nothing of the pictures.
    pub fn change_tracks(&mut self, tracks: Arc<Tracks>) -> bool {
        let before = std::mem::replace(&mut self.tracks, tracks);
        if before != self.tracks {
            self.rotation.renew_segment();
        }
        (&before.video, &before.audio) != (&self.tracks.video, &self.tracks.audio)
    }

    /// Takes the jumps of the camera's clock out of this picture's media time, which comes next; returns by how many
    /// microseconds it jumped just before.
    ///
    /// # Errors
    ///
    /// [`Cause::TimestampJump`]: it jumps all the time, and the session should end.
    pub fn place(&mut self, frame: &mut VideoFrame) -> Result<Option<i64>, Failure> {
        let placed = self.video_clock.read(frame.media_time, frame.arrival.monotonic_us);
        let placed = placed.map_err(|e: Restless| Failure::new(Cause::TimestampJump, e.to_string()))?;
        frame.media_time = placed.media_time;
        Ok(placed.jumped_us)
    }

    /// Takes note of what the camera says of its clocks.
    pub fn report(&mut self, report: SenderReport) {
        let arrived_at = report.arrival.at;
        let media_time = self.video_clock.place(report.media_time);
        let at = ntp::read(report.ntp, arrived_at);
        self.reports.take(Report { media_time, at }, arrived_at);
    }

    /// The wall-clock time of this [placed](Self::place) picture: that of the segment it would be in.
    pub fn time_of(&self, frame: &VideoFrame) -> Timestamp {
        let told = || self.reports.time_of(frame.media_time).unwrap_or(frame.arrival.at);
        self.timeline.as_ref().map_or_else(told, |timeline| timeline.at(frame.media_time))
    }

    /// Whether a segment is open.
    pub const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How long the camera paused before this [placed](Self::place) picture, in microseconds of media time; `None` if it
    /// did not. After a pause [`Self::interrupt`] should be called, or the picture before it lasts until this one.
    pub fn pause_before(&mut self, frame: &VideoFrame) -> Option<i64> {
        self.pauses.check(to_micros(frame.media_time, self.tracks.video.timescale))
    }

    /// Takes the next [placed](Self::place) picture; returns what it completed.
    ///
    /// # Errors
    ///
    /// If a fragment grew larger than one can be: its frames are lost, and the session should end.
    pub fn video(&mut self, frame: VideoFrame) -> Result<Vec<Piece>, Failure> {
        let timescale = self.tracks.video.timescale;
        let media_us = to_micros(frame.media_time, timescale);
        let at = self.time_of(&frame);
        self.timeline
            .get_or_insert_with(|| Timeline::anchored(timescale, frame.media_time, at))
            .observe(frame.media_time, frame.arrival.at);
        let mut pieces = Vec::new();
        match self.rotation.next(media_us / 1_000, frame.random_access, frame.data.len()) {
            Step::Skip => return Ok(pieces),
            Step::Append => {}
            Step::Fragment => self.cut(Some(frame.media_time), &mut pieces)?,
            Step::Segment => {
                self.close(Some(frame.media_time), &mut pieces)?;
                let tracks = Arc::clone(&self.tracks);
                self.open = Some(Open { muxer: Muxer::new(&tracks), tracks, end: None });
            }
        }
        if let Some(open) = &mut self.open {
            open.muxer.push_video(&frame);
        }
        Ok(pieces)
    }

    /// Takes the next of what accompanies the pictures; it is dropped while no segment is open, and when far too much comes
    /// without a picture.
    pub fn beside(&mut self, beside: Beside) {
        match beside {
            Beside::Audio(frame) => self.audio(frame),
            Beside::Metadata(document) => self.metadata(document),
        }
    }

    fn audio(&mut self, mut frame: AudioFrame) {
        let (Some(_), Some(clock)) = (&self.open, &mut self.audio_clock) else { return };
        match clock.read(frame.media_time, frame.arrival.monotonic_us) {
            Ok(placed) => frame.media_time = placed.media_time,
            // The pictures' clock says what is to be done.
            Err(restless) => {
                tracing::debug!(camera_id = %self.identity.camera_id, %restless, "audio dropped");
                return;
            }
        }
        if self.has_room(frame.data.len())
            && let Some(open) = &mut self.open
        {
            open.muxer.push_audio(&frame);
        }
    }

    fn metadata(&mut self, mut document: Document) {
        if self.open.as_ref().is_none_or(|open| open.tracks.metadata.is_none()) {
            return;
        }
        document.media_time = self.video_clock.place(document.media_time);
        if self.has_room(document.data.len())
            && let Some(open) = &mut self.open
        {
            open.muxer.push_document(&document);
        }
    }

    /// Whether the open fragment takes so many bytes more of what accompanies the pictures.
    fn has_room(&mut self, bytes: usize) -> bool {
        let has_room = self.rotation.count_beside(bytes);
        if !has_room && !std::mem::replace(&mut self.flood, true) {
            tracing::warn!(
                camera_id = %self.identity.camera_id,
                "audio or metadata dropped: too much of it without a picture"
            );
        }
        has_room
    }

    /// Ends the open segment, because frames will be missing or the session is over. What comes next begins with a
    /// keyframe and [resumes](Piece::Begin).
    pub fn interrupt(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Err(e) = self.close(None, &mut pieces) {
            tracing::error!(camera_id = %self.identity.camera_id, error = %e, "last fragment lost");
        }
        self.rotation.interrupt();
        self.follows = None;
        pieces
    }

    /// Completes what is open before the [placed](Self::place) picture of this media time, so that all of it can become
    /// durable. The segment stays open: it may go on with that picture.
    pub fn complete(&mut self, next: i64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Err(e) = self.cut(Some(next), &mut pieces) {
            tracing::error!(camera_id = %self.identity.camera_id, error = %e, "last fragment lost");
        }
        pieces
    }

    /// Up to when pieces hold the open segment; `None`: none does, or none is open.
    pub fn complete_until(&self) -> Option<Timestamp> {
        let end = self.open.as_ref()?.end?;
        self.timeline.as_ref().map(|timeline| timeline.at(end))
    }

    /// Ends the open segment at the [placed](Self::place) picture of this media time, which is not wanted. What comes next
    /// begins with a keyframe, [resumes](Piece::Begin), and has its time anew: nothing tells how the clocks went on meanwhile.
    pub fn rest(&mut self, next: i64) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if let Err(e) = self.close(Some(next), &mut pieces) {
            tracing::error!(camera_id = %self.identity.camera_id, error = %e, "last fragment lost");
        }
        self.rotation.interrupt();
        self.follows = None;
        self.timeline = None;
        pieces
    }

    /// Bytes of frames that no piece holds yet.
    pub fn pending_bytes(&self) -> usize {
        self.open.as_ref().map_or(0, |open| open.muxer.pending_bytes())
    }

    /// Completes the open fragment. `next` is the media time of the picture after it.
    fn cut(&mut self, next: Option<i64>, pieces: &mut Vec<Piece>) -> Result<(), Failure> {
        let (Some(open), Some(timeline)) = (&mut self.open, &mut self.timeline) else {
            return Ok(());
        };
        let fragment = open.muxer.finish_fragment(next);
        let Some(fragment) = fragment.map_err(|e| Failure::new(Cause::ProtocolError, e.to_string()))? else {
            return Ok(());
        };
        let begins = open.end.is_none();
        open.end = Some(fragment.end);
        if !begins {
            let until = timeline.at(fragment.end);
            pieces.push(Piece::More { fragment, until });
            return Ok(());
        }
        let resumes = self.follows.is_none();
        let start = self.follows.take().unwrap_or_else(|| timeline.at(fragment.zero));
        timeline.begin_segment(fragment.zero, start);
        let Identity { tenant_id, camera_id, epoch, server_id } = self.identity;
        pieces.push(Piece::Begin {
            name: SegmentName { tenant_id, camera_id, start, epoch, server_id },
            codecs: Codecs {
                video: open.tracks.video.codec,
                audio: open.tracks.audio.as_ref().map(|audio| audio.codec),
            },
            resumes,
            header: init::header(&open.tracks, start),
            until: timeline.at(fragment.end),
            fragment,
        });
        Ok(())
    }

    /// Completes the open segment.
    fn close(&mut self, next: Option<i64>, pieces: &mut Vec<Piece>) -> Result<(), Failure> {
        let cut = self.cut(next, pieces);
        let end = self.open.take().and_then(|open| open.end);
        if let (Some(end), Some(timeline)) = (end, &mut self.timeline) {
            if let Some(told) = self.reports.time_of(end) {
                timeline.reported(end, told);
            }
            let at = timeline.close_segment(end);
            self.follows = Some(at);
            pieces.push(Piece::End { at });
        }
        cut
    }
}

#[cfg(test)]
mod tests;
