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
use crate::frame::{AudioFrame, SenderReport, Tracks, VideoFrame};
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
    /// It was logged that audio had to be dropped.
    audio_flood: bool,
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
            audio_flood: false,
            open: None,
            follows: None,
        }
    }

    /// The camera changed its parameters: they hold from the next keyframe on, which begins a new segment. Pictures
    /// before it stay in the open one, where they belong in time even if they can no longer be decoded.
    ///
    /// Returns whether there was a change.
    pub fn change_tracks(&mut self, tracks: Arc<Tracks>) -> bool {
        let changed = *tracks != *self.tracks;
        if changed {
            self.tracks = tracks;
            self.rotation.renew_segment();
        }
        changed
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

    /// Takes the next audio frame; it is dropped while no segment is open, and when far too many come without a picture.
    pub fn audio(&mut self, mut frame: AudioFrame) {
        let (Some(open), Some(clock)) = (&mut self.open, &mut self.audio_clock) else { return };
        match clock.read(frame.media_time, frame.arrival.monotonic_us) {
            Ok(placed) => frame.media_time = placed.media_time,
            // The pictures' clock says what is to be done.
            Err(restless) => {
                tracing::debug!(camera_id = %self.identity.camera_id, %restless, "audio dropped");
                return;
            }
        }
        if self.rotation.count_audio(frame.data.len()) {
            open.muxer.push_audio(&frame);
        } else if !std::mem::replace(&mut self.audio_flood, true) {
            tracing::warn!(camera_id = %self.identity.camera_id, "audio dropped: too many frames without a picture");
        }
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
mod tests {
    use std::num::NonZeroU32;

    use bytes::Bytes;
    use longwatch_events::fact::Codec;

    use super::*;
    use crate::frame::{Arrival, VideoTrack};

    const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

    fn tracks(sample_entry: &'static [u8]) -> Arc<Tracks> {
        Arc::new(Tracks {
            video: VideoTrack {
                codec: Codec::H264,
                timescale: NonZeroU32::new(90_000).unwrap(),
                sample_entry: Bytes::from_static(sample_entry),
                width: 640,
                height: 360,
            },
            audio: None,
            not_recorded: Vec::new(),
        })
    }

    fn recorder() -> Recorder {
        let identity = Identity {
            tenant_id: TenantId::DEFAULT,
            camera_id: "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d".parse().unwrap(),
            epoch: Epoch(7),
            server_id: "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7e".parse().unwrap(),
        };
        Recorder::new(identity, Lengths::default(), tracks(b"one"))
    }

    /// Picture `n` of a camera with 25 pictures and one keyframe a second.
    fn picture(n: i64) -> VideoFrame {
        VideoFrame {
            data: Bytes::from_static(b"picture"),
            media_time: n * 3_600,
            random_access: n % 25 == 0,
            arrival: Arrival { at: START.plus_millis(n * 40), monotonic_us: n * 40_000 },
        }
    }

    fn take(recorder: &mut Recorder, mut frame: VideoFrame) -> Vec<Piece> {
        recorder.place(&mut frame).unwrap();
        recorder.video(frame).unwrap()
    }

    fn record(recorder: &mut Recorder, pictures: std::ops::Range<i64>) -> Vec<Piece> {
        pictures.flat_map(|n| take(recorder, picture(n))).collect()
    }

    fn ends(pieces: &[Piece]) -> Vec<Timestamp> {
        let end = |piece: &Piece| match piece {
            Piece::End { at } => Some(*at),
            Piece::Begin { .. } | Piece::More { .. } => None,
        };
        pieces.iter().filter_map(end).collect()
    }

    fn begins(pieces: &[Piece]) -> Vec<(Timestamp, bool, &[u8])> {
        let begin = |piece| match piece {
            &Piece::Begin { ref name, resumes, ref header, .. } => Some((name.start, resumes, &header[..])),
            Piece::More { .. } | Piece::End { .. } => None,
        };
        pieces.iter().filter_map(begin).collect()
    }

    #[test]
    fn new_parameters_begin_a_new_segment_at_the_next_keyframe() {
        let mut recorder = recorder();
        let mut pieces = record(&mut recorder, 0..30);
        recorder.change_tracks(tracks(b"two"));
        pieces.extend(record(&mut recorder, 30..60));
        pieces.extend(recorder.interrupt());
        let begun = begins(&pieces);
        let [(_, true, first), (second_start, false, second)] = begun[..] else { panic!("{begun:?}") };
        assert_eq!(second_start, START.plus_millis(50 * 40));
        assert_eq!(ends(&pieces), [second_start, START.plus_millis(60 * 40)]);
        let holds = |header: &[u8], entry: &[u8]| header.windows(3).any(|window| window == entry);
        assert!(holds(first, b"one") && holds(second, b"two") && !holds(second, b"one"));
    }

    #[test]
    fn the_same_parameters_again_change_nothing() {
        let mut recorder = recorder();
        let mut pieces = record(&mut recorder, 0..30);
        recorder.change_tracks(tracks(b"one"));
        pieces.extend(record(&mut recorder, 30..60));
        assert_eq!(begins(&pieces).len(), 1);
    }

    #[test]
    fn a_jump_of_the_cameras_clock_is_told_and_costs_no_picture() {
        for hour in [3_600 * 90_000, -3_600 * 90_000] {
            let mut recorder = recorder();
            let mut pieces = record(&mut recorder, 0..40);
            for n in 40..60 {
                let mut jumped = VideoFrame { media_time: n * 3_600 + hour, ..picture(n) };
                let by_us = recorder.place(&mut jumped).unwrap();
                assert_eq!(by_us, (n == 40).then_some(hour / 90_000 * 1_000_000));
                pieces.extend(recorder.video(jumped).unwrap());
            }
            pieces.extend(recorder.interrupt());
            assert_eq!(ends(&pieces), [START.plus_millis(60 * 40)]);
            assert_eq!(begins(&pieces).len(), 1);
        }
    }

    #[test]
    fn a_clock_that_jumps_all_the_time_ends_the_session() {
        let mut recorder = recorder();
        let failed = (0..100).find_map(|n| {
            let mut jumped = VideoFrame { media_time: n * 3_600 * 90_000, ..picture(n) };
            recorder.place(&mut jumped).err()
        });
        assert_eq!(failed.unwrap().cause, Cause::TimestampJump);
    }

    /// A report on picture `n` that says it was `off_ms` later than it arrives.
    fn report(n: i64, off_ms: i64) -> SenderReport {
        let VideoFrame { media_time, arrival, .. } = picture(n);
        SenderReport { media_time, ntp: ntp::of(arrival.at.plus_millis(off_ms)), arrival }
    }

    #[test]
    fn a_sane_report_says_when_a_session_begins() {
        for (off_ms, expected_ms) in [(-700, -700), (-3_600_000, 0), (3_600_000, 0)] {
            let mut recorder = recorder();
            recorder.report(report(0, off_ms));
            let pieces = record(&mut recorder, 0..30);
            assert_eq!(begins(&pieces)[0].0, START.plus_millis(expected_ms), "{off_ms}");
        }
    }

    #[test]
    fn a_report_moves_a_segment_that_is_open_by_its_share() {
        // Given 100 s of video, of which a report says that it is 700 ms older than it seems, then it lasts 50 ms less.
        let mut recorder = recorder();
        let mut pieces = record(&mut recorder, 0..50);
        recorder.report(report(50, -700));
        pieces.extend(record(&mut recorder, 50..2_500));
        pieces.extend(recorder.interrupt());
        let end = *ends(&pieces).last().unwrap();
        assert_eq!(end, START.plus_millis(2_500 * 40 - 50));
    }

    #[test]
    fn after_an_interruption_the_next_keyframe_resumes_at_its_own_time() {
        let mut recorder = recorder();
        record(&mut recorder, 0..30);
        recorder.interrupt();
        let mut pieces = record(&mut recorder, 40..60);
        pieces.extend(recorder.interrupt());
        assert_eq!(
            begins(&pieces).iter().map(|begun| (begun.0, begun.1)).collect::<Vec<_>>(),
            [(START.plus_millis(2_000), true)]
        );
    }

    #[test]
    fn a_rest_ends_the_segment_exactly_and_what_follows_has_its_own_time() {
        let mut recorder = recorder();
        let mut pieces = record(&mut recorder, 0..30);
        assert!(recorder.is_open());
        pieces.extend(recorder.rest(picture(30).media_time));
        assert!(!recorder.is_open());
        assert_eq!(ends(&pieces), [START.plus_millis(30 * 40)]);
        // An hour later its clock is a second behind.
        let later = |n: i64| {
            let Arrival { at, monotonic_us } = picture(n).arrival;
            VideoFrame { arrival: Arrival { at: at.plus_millis(1_000), monotonic_us }, ..picture(n) }
        };
        assert_eq!(recorder.time_of(&later(90_000)), later(90_000).arrival.at);
        let pieces: Vec<_> = (90_000..90_030).flat_map(|n| take(&mut recorder, later(n))).collect();
        assert_eq!(begins(&pieces)[0].0, later(90_000).arrival.at);
        assert!(begins(&pieces)[0].1, "it resumes");
    }

    #[test]
    fn nothing_is_recorded_of_a_session_without_a_keyframe() {
        let mut recorder = recorder();
        let mut pieces = record(&mut recorder, 1..25);
        pieces.extend(recorder.interrupt());
        assert!(pieces.is_empty());
    }
}
