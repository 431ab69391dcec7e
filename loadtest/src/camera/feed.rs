//! One camera as a pure function of time: which frame is due when, and how its packets are numbered.
//!
//! Time is the time since the server's start. Frames are counted from 0 at the start, in decode order, for ever;
//! that count is the number in the SEI. Cameras that show the same clip start at different frames of it and at
//! different moments within a frame's time, so that neither keyframes nor frames of many cameras come in one burst;
//! camera 1 starts at the clip's first frame, at once. Audio and metadata have counts of their own from the same moment.

use std::sync::Arc;
use std::time::Duration;

use crate::camera::clip::{Clip, Media};
use crate::camera::oddity::Traits;
use crate::camera::packet::Stamp;
use crate::sei::FrameNumber;

/// A camera.
#[derive(Debug, Clone)]
pub struct Feed {
    number: u32,
    clip: Arc<Clip>,
    /// The clip's frame that is this camera's frame 0.
    shift: u64,
    /// When frame 0 is due.
    phase: Duration,
    traits: Traits,
}

/// Which of a camera's tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// H.264 or H.265.
    Video,
    /// AAC, G.711 or Opus.
    Audio,
    /// Documents.
    Metadata,
}

/// Where a track starts for a client: what `RTP-Info` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Sequence number of the first packet.
    pub sequence: u16,
    /// RTP timestamp of the moment the playing starts at.
    pub time: u32,
}

/// Bytes of a sender report with its source description, framed for interleaving.
pub const REPORT_LEN: usize = 4 + 28 + 20;

impl Feed {
    /// Camera `number` (its identity in SEI and SSRC) showing `clip`; `index` (from 0) spreads cameras over time.
    pub fn new(number: u32, index: u32, clip: Arc<Clip>) -> Self {
        // Multiples of an irrational number, modulo 1, never bunch up however many there are (Weyl's sequence).
        // Two different ones, so that the two spreads are independent.
        let golden = spread(index, 0x9e37_79b9);
        let silver = spread(index, 0x6a09_e668);
        let interval = u64::try_from(clip.video.timeline.mean_interval().as_nanos()).unwrap_or(u64::MAX);
        let shift = part(clip.video.timeline.len(), golden);
        let phase = Duration::from_nanos(part(interval, silver));
        Self { number, shift, phase, clip, traits: Traits::default() }
    }

    /// The same camera with these traits.
    pub fn with_traits(self, traits: Traits) -> Self {
        Self { traits, ..self }
    }

    /// How it differs from a good one.
    pub fn traits(&self) -> &Traits {
        &self.traits
    }

    /// The camera's number.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// What it shows.
    pub fn clip(&self) -> &Clip {
        &self.clip
    }

    /// When `frame` is due.
    pub fn due(&self, frame: u64) -> Duration {
        let timeline = &self.clip.video.timeline;
        (self.phase + timeline.at(self.shift + frame)).saturating_sub(timeline.at(self.shift))
    }

    /// The first frame that is due later than `now`.
    pub fn first_after(&self, now: Duration) -> u64 {
        let timeline = &self.clip.video.timeline;
        let Some(running) = now.checked_sub(self.phase) else { return 0 };
        timeline.first_after(running + timeline.at(self.shift)).saturating_sub(self.shift)
    }

    /// The first keyframe at or after `frame`.
    pub fn keyframe_from(&self, frame: u64) -> u64 {
        let keyframes = &self.clip.keyframes;
        let start = self.clip.video.timeline.split(self.shift + frame).1;
        let ahead = keyframes.iter().cycle().skip(start).take_while(|keyframe| !**keyframe).count();
        frame + ahead as u64
    }

    /// What accompanies the pictures.
    fn beside(&self, kind: Kind) -> Option<&Media> {
        match kind {
            Kind::Video => None,
            Kind::Audio => self.clip.audio.as_ref().map(|audio| &audio.media),
            Kind::Metadata => self.clip.metadata.as_ref(),
        }
    }

    /// When frame `frame` of what accompanies the pictures is due. `Duration::MAX` if there is none.
    pub fn due_beside(&self, kind: Kind, frame: u64) -> Duration {
        self.beside(kind).map_or(Duration::MAX, |media| self.phase + media.timeline.at(frame))
    }

    /// The first of these that is due later than `time`; 0 if there is none.
    pub fn first_beside_after(&self, kind: Kind, time: Duration) -> u64 {
        match (self.beside(kind), time.checked_sub(self.phase)) {
            (Some(media), Some(running)) => media.timeline.first_after(running),
            (None, _) | (_, None) => 0,
        }
    }

    /// Appends the packets of video frame `frame`; see [`crate::camera::packet::Unit::write`] for `channels`.
    pub fn write_video(&self, frame: u64, out: &mut Vec<u8>, channels: &mut Vec<usize>) {
        let number = FrameNumber { camera: self.number, frame };
        let stamp = Stamp {
            sequence: self.sequence(Kind::Video, &self.clip.video, self.shift + frame),
            time: self.video_time(frame),
            ssrc: self.ssrc(Kind::Video),
        };
        self.clip.video.unit(self.shift + frame).write(out, channels, stamp, Some(number));
    }

    /// Appends the packets of frame `frame` of what accompanies the pictures, if there is any.
    pub fn write_beside(&self, kind: Kind, frame: u64, out: &mut Vec<u8>, channels: &mut Vec<usize>) {
        if let Some(media) = self.beside(kind) {
            let shift = self.traits.clockwork.shift(self.due_beside(kind, frame), media.rate);
            let stamp = Stamp {
                sequence: self.sequence(kind, media, frame),
                time: self.time_origin(kind).wrapping_add(media.rtp_time(frame)).wrapping_add(shift),
                ssrc: self.ssrc(kind),
            };
            let number = FrameNumber { camera: self.number, frame };
            media.unit(frame).write(out, channels, stamp, Some(number));
        }
    }

    /// The RTP timestamp of video frame `frame`.
    fn video_time(&self, frame: u64) -> u32 {
        let (media, clockwork) = (&self.clip.video, &self.traits.clockwork);
        let frame = clockwork.stamped_as(frame);
        let exact = self.time_origin(Kind::Video).wrapping_add(media.rtp_time(self.shift + frame));
        exact.wrapping_add(clockwork.shift(self.due(frame), media.rate))
    }

    /// Where the tracks start for a client whose first frame of video is `frame`; its first of the others is the
    /// first due after that.
    pub fn start(&self, kind: Kind, frame: u64) -> Option<Start> {
        match kind {
            Kind::Video => {
                let sequence = self.sequence(kind, &self.clip.video, self.shift + frame);
                Some(Start { sequence, time: self.video_time(frame) })
            }
            Kind::Audio | Kind::Metadata => {
                let media = self.beside(kind)?;
                let position = self.first_beside_after(kind, self.due(frame));
                let time = self.clock(kind, media.rate, self.due(frame));
                Some(Start { sequence: self.sequence(kind, media, position), time })
            }
        }
    }

    /// Writes an RTCP sender report (RFC 3550, 6.4.1) with a CNAME, framed for `channel`. `now` is the time since
    /// the start and `ntp` the same moment as NTP timestamp. `None` if the camera has no such track, or sends none.
    pub fn sender_report(
        &self,
        kind: Kind,
        channel: u8,
        now: Duration,
        ntp: u64,
    ) -> Option<[u8; REPORT_LEN]> {
        let (media, position, origin) = match kind {
            Kind::Video => (&self.clip.video, self.shift + self.first_after(now), self.shift),
            Kind::Audio | Kind::Metadata => (self.beside(kind)?, self.first_beside_after(kind, now), 0),
        };
        let (sent, before) = (media.sent_before(position), media.sent_before(origin));
        let (ssrc, ntp) = (self.ssrc(kind).to_be_bytes(), self.traits.reports.tell(ntp)?);
        let mut report = [0; REPORT_LEN];
        report[..8].copy_from_slice(&[b'$', channel, 0, 48, 0x80, 200, 0, 6]);
        report[8..12].copy_from_slice(&ssrc);
        report[12..20].copy_from_slice(&ntp.to_be_bytes());
        report[20..24].copy_from_slice(&self.clock(kind, media.rate, now).to_be_bytes());
        report[24..28].copy_from_slice(&low32(u128::from(sent.0 - before.0)).to_be_bytes());
        report[28..32].copy_from_slice(&low32(u128::from(sent.1 - before.1)).to_be_bytes());
        report[32..36].copy_from_slice(&[0x81, 202, 0, 4]);
        report[36..40].copy_from_slice(&ssrc);
        report[40..50].copy_from_slice(b"\x01\x08longwtch");
        Some(report)
    }

    /// The track's RTP clock at a moment, to which the timestamps of its frames belong.
    fn clock(&self, kind: Kind, rate: u32, now: Duration) -> u32 {
        let origin = match kind {
            Kind::Video => self.clip.video.timeline.at(self.shift),
            Kind::Audio | Kind::Metadata => Duration::ZERO,
        };
        let running = (now + origin).saturating_sub(self.phase);
        let ticks = running.as_nanos() * u128::from(rate) / 1_000_000_000;
        let exact = self.time_origin(kind).wrapping_add(low32(ticks));
        exact.wrapping_add(self.traits.clockwork.shift(now, rate))
    }

    fn sequence(&self, kind: Kind, media: &Media, position: u64) -> u16 {
        let origin = mix(self.number, kind) >> 7;
        low16(u64::from(origin) + media.sent_before(position).0)
    }

    fn time_origin(&self, kind: Kind) -> u32 {
        mix(self.number, kind).rotate_left(11)
    }

    fn ssrc(&self, kind: Kind) -> u32 {
        mix(self.number, kind)
    }
}

/// `index * factor / 2^32` modulo 1, in units of 1/2^32.
fn spread(index: u32, factor: u32) -> u32 {
    index.wrapping_mul(factor)
}

/// That part of `whole`.
fn part(whole: u64, fraction: u32) -> u64 {
    u64::try_from((u128::from(whole) * u128::from(fraction)) >> 32).unwrap_or(0)
}

/// A number that looks random but is the same each time for one track of one camera, never 0 and different for
/// each (a bijection of 32 bits).
fn mix(number: u32, kind: Kind) -> u32 {
    let track = match kind {
        Kind::Video => 1,
        Kind::Audio => 2,
        Kind::Metadata => 3,
    };
    let mut hash = number.wrapping_mul(4).wrapping_add(track);
    hash = (hash ^ hash >> 16).wrapping_mul(0x7feb_352d);
    hash = (hash ^ hash >> 15).wrapping_mul(0x846c_a68b);
    hash ^ hash >> 16
}

#[expect(clippy::cast_possible_truncation, reason = "RTP counters wrap")]
fn low32(value: u128) -> u32 {
    value as u32
}

#[expect(clippy::cast_possible_truncation, reason = "RTP sequence numbers wrap")]
fn low16(value: u64) -> u16 {
    value as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::camera::clip::embedded;
    use proptest::prelude::*;

    fn feed(index: u32) -> Feed {
        let clip = Arc::new(Clip::from_mp4("h264", embedded::H264).unwrap());
        Feed::new(index + 1, index, clip)
    }

    fn sequences(wire: &[u8]) -> Vec<u16> {
        let mut rest = wire;
        let mut found = Vec::new();
        while let [b'$', _, high, low, tail @ ..] = rest {
            found.push(u16::from_be_bytes([tail[2], tail[3]]));
            rest = &tail[usize::from(u16::from_be_bytes([*high, *low]))..];
        }
        found
    }

    fn timestamp(wire: &[u8]) -> u32 {
        u32::from_be_bytes(wire[8..12].try_into().unwrap())
    }

    fn video(feed: &Feed, frame: u64) -> Vec<u8> {
        let mut out = Vec::new();
        feed.write_video(frame, &mut out, &mut Vec::new());
        out
    }

    #[test]
    fn camera_one_starts_at_once_with_a_keyframe() {
        let feed = feed(0);
        assert_eq!(feed.due(0), Duration::ZERO);
        assert_eq!(feed.keyframe_from(0), 0);
        assert_eq!(feed.keyframe_from(1), 50);
        assert_eq!(feed.due(25), Duration::from_secs(1));
    }

    #[test]
    fn packets_are_numbered_on_across_the_seam_of_the_loop() {
        // Given the frames around the end of the clip's first loop, when sent one after the other,
        let feed = feed(3);
        let wires: Vec<Vec<u8>> = (0..600).map(|frame| video(&feed, frame)).collect();
        // then sequence numbers rise by one and timestamps by one frame's time, everywhere.
        let all: Vec<u16> = wires.iter().flat_map(|wire| sequences(wire)).collect();
        assert!(all.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
        assert!(wires.windows(2).all(|pair| timestamp(&pair[1]).wrapping_sub(timestamp(&pair[0])) == 3600));
    }

    #[test]
    fn a_start_names_the_first_packet() {
        let feed = feed(2);
        let frame = feed.keyframe_from(feed.first_after(Duration::from_secs(100)));
        let start = feed.start(Kind::Video, frame).unwrap();
        let wire = video(&feed, frame);
        assert_eq!((start.sequence, start.time), (sequences(&wire)[0], timestamp(&wire)));
        // Audio starts within a frame (64 ms) of the moment of the first picture.
        let mut audio = Vec::new();
        feed.write_beside(
            Kind::Audio,
            feed.first_beside_after(Kind::Audio, feed.due(frame)),
            &mut audio,
            &mut Vec::new(),
        );
        let start = feed.start(Kind::Audio, frame).unwrap();
        assert_eq!(start.sequence, sequences(&audio)[0]);
        assert!(timestamp(&audio).wrapping_sub(start.time) <= 1024);
    }

    #[test]
    fn a_report_relates_the_rtp_clock_to_the_wall_clock() {
        let feed = feed(4);
        let due = feed.due(1000);
        let report = feed.sender_report(Kind::Video, 1, due, 0x0123_4567_89ab_cdef).unwrap();
        assert_eq!(report[..2], [b'$', 1]);
        assert_eq!(report[12..20], 0x0123_4567_89ab_cdef_u64.to_be_bytes());
        let clock = u32::from_be_bytes(report[20..24].try_into().unwrap());
        let frame = timestamp(&video(&feed, 1000));
        assert!(frame.wrapping_sub(clock).min(clock.wrapping_sub(frame)) <= 1, "{clock} {frame}");
    }

    #[test]
    fn cameras_are_spread_over_time() {
        let feeds: Vec<Feed> = (0..100).map(feed_of(Arc::clone(&feed(0).clip))).collect();
        let mut first_keyframes: Vec<u64> = feeds.iter().map(|feed| feed.keyframe_from(0) / 10).collect();
        first_keyframes.sort_unstable();
        let in_first_tenth = first_keyframes.iter().filter(|tenth| **tenth == 0).count();
        assert!((10..=30).contains(&in_first_tenth), "of 100 keyframes in 5 slots: {in_first_tenth}");
    }

    fn feed_of(clip: Arc<Clip>) -> impl Fn(u32) -> Feed {
        move |index| Feed::new(index + 1, index, Arc::clone(&clip))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_next_frame_is_due_later_and_the_one_before_is_not(index in 0_u32..5000, millis in 0_u64..1_000_000_000) {
            let feed = feed(index);
            let now = Duration::from_millis(millis);
            let frame = feed.first_after(now);
            prop_assert!(feed.due(frame) > now);
            prop_assert!(frame == 0 || feed.due(frame - 1) <= now);
            let audio = feed.first_beside_after(Kind::Audio, now);
            prop_assert!(feed.due_beside(Kind::Audio, audio) > now);
            prop_assert!(audio == 0 || feed.due_beside(Kind::Audio, audio - 1) <= now);
        }
    }
}
