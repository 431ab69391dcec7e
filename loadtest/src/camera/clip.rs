//! A clip: one MP4, cut into packets once and shared by all cameras that show it.

use std::path::PathBuf;

use crate::camera::packet::{self, Unit};
use crate::camera::timeline::Looped;
use crate::mp4::{self, Format, Movie, Track, VideoFormat};
use crate::nal;

/// Ticks per second of RTP timestamps of video.
pub const VIDEO_RATE: u32 = 90_000;

/// Why a clip cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such file, no permission, …
    #[error("cannot read clip {path}; give an MP4 that exists and may be read")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Read, but of no use.
    #[error(
        "cannot use clip {name}: {reason}; give an MP4 with an H.264 or H.265 track (ffmpeg -c copy makes one)"
    )]
    Unusable {
        /// The file.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A clip, ready to be sent.
#[derive(Debug)]
pub struct Clip {
    /// How the video is coded.
    pub format: VideoFormat,
    /// Its frames.
    pub video: Media,
    /// For each frame of video, whether decoding can start at it.
    pub keyframes: Vec<bool>,
    /// Its audio, if it has any.
    pub audio: Option<Audio>,
    /// Frames per second, on average.
    pub frame_rate: f64,
    /// Bits per second of all packets.
    pub bitrate_bps: u64,
}

/// The audio of a clip. It is looped on its own, so it need not be as long as the video.
#[derive(Debug)]
pub struct Audio {
    /// Its frames.
    pub media: Media,
    /// AudioSpecificConfig.
    pub config: Vec<u8>,
    /// 1 mono, 2 stereo.
    pub channels: u16,
}

/// The frames of one track, with what is needed to number their packets without counting.
#[derive(Debug)]
pub struct Media {
    /// Ticks per second of RTP timestamps.
    pub rate: u32,
    /// When each frame is due.
    pub timeline: Looped,
    /// In decode order.
    pub units: Vec<Unit>,
    /// For each frame: presentation minus decode time in units of 1/`rate` s, the first frame's taken as 0.
    pub composition: Vec<i64>,
    /// Packets and payload octets before each frame of the loop, and at the end of all.
    totals: Vec<(u64, u64)>,
}

impl Media {
    fn new(rate: u32, track: &Track, units: Vec<Unit>) -> Option<Self> {
        let timeline = Looped::new(track.timescale, track.samples.iter().map(|sample| sample.duration))?;
        let first = track.samples.first()?.composition_offset;
        let scaled = |ticks: i64| ticks.saturating_mul(i64::from(rate)) / i64::from(track.timescale.max(1));
        let composition =
            track.samples.iter().map(|sample| scaled(sample.composition_offset.saturating_sub(first)));
        let mut sum = (0, 0);
        let mut totals = vec![sum];
        for unit in &units {
            sum = (sum.0 + unit.packet_count(), sum.1 + unit.payload_octets());
            totals.push(sum);
        }
        Some(Self { rate, timeline, composition: composition.collect(), units, totals })
    }

    /// The frame at a position of the endless loop.
    pub fn unit(&self, position: u64) -> &Unit {
        &self.units[self.timeline.split(position).1]
    }

    /// Packets and payload octets sent before `position`, counted from position 0.
    pub fn sent_before(&self, position: u64) -> (u64, u64) {
        let (round, index) = self.timeline.split(position);
        let (packets, octets) = self.totals[self.units.len()];
        (round * packets + self.totals[index].0, round * octets + self.totals[index].1)
    }

    /// Presentation time of the frame at `position` in units of 1/`rate` s, wrapped to RTP's 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "RTP timestamps wrap")]
    pub fn rtp_time(&self, position: u64) -> u32 {
        let composition = self.composition[self.timeline.split(position).1];
        (self.timeline.units(position, self.rate) as u32).wrapping_add(composition as u32)
    }
}

impl Clip {
    /// The same without its audio.
    pub fn without_audio(self) -> Self {
        let bitrate_bps = bitrate(&self.video);
        Self { audio: None, bitrate_bps, ..self }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(path: &std::path::Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Self::from_mp4(&path.display().to_string(), &bytes)
    }

    /// Prepares a clip that is in memory; `name` is for the error.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub fn from_mp4(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Unusable { name: name.to_owned(), reason };
        let movie = mp4::read(bytes).map_err(|error| unusable(error.to_string()))?;
        Self::from_movie(&movie, bytes).map_err(|reason| unusable(reason.to_owned()))
    }

    fn from_movie(movie: &Movie, bytes: &[u8]) -> Result<Self, &'static str> {
        let (track, format) =
            movie.tracks.iter().find_map(as_video).ok_or("it has no H.264 or H.265 track")?;
        let mut units = Vec::with_capacity(track.samples.len());
        let mut keyframes = Vec::with_capacity(track.samples.len());
        for sample in &track.samples {
            let nals = nal::split(&bytes[sample.data.clone()], format.length_size)
                .map_err(|_| "a frame's NAL units are malformed")?;
            let keyframe = nals.iter().any(|nal| format.standard.is_keyframe_slice(nal));
            let sets: &[Vec<u8>] = if keyframe { &format.parameter_sets } else { &[] };
            units.push(packet::video_unit(format.standard, sets, &nals));
            keyframes.push(keyframe);
        }
        if !keyframes.contains(&true) {
            return Err("its video has no keyframe");
        }
        let audio = movie.tracks.iter().find_map(|track| match &track.format {
            Format::Aac { config, channels } => Some((track, config.clone(), *channels)),
            Format::Video(_) | Format::Other => None,
        });
        let audio = match audio {
            None => None,
            Some((track, config, channels)) => {
                let frames =
                    track.samples.iter().map(|sample| packet::audio_unit(&bytes[sample.data.clone()]));
                let units: Option<Vec<Unit>> = frames.collect();
                let units = units.ok_or("an audio frame does not fit a packet")?;
                let media = Media::new(track.timescale, track, units).ok_or("its audio has no duration")?;
                Some(Audio { media, config, channels })
            }
        };
        let video = Media::new(VIDEO_RATE, track, units).ok_or("its video has no duration")?;
        let bitrate_bps = bitrate(&video) + audio.as_ref().map_or(0, |audio| bitrate(&audio.media));
        let frame_rate = 1.0 / video.timeline.mean_interval().as_secs_f64();
        Ok(Self { format: format.clone(), video, keyframes, audio, frame_rate, bitrate_bps })
    }
}

fn bitrate(media: &Media) -> u64 {
    let frames = media.units.len() as u64;
    let millis = media.timeline.at(frames).as_millis().max(1);
    let bits = u128::from(media.sent_before(frames).1) * 8;
    u64::try_from(bits * 1000 / millis).unwrap_or(u64::MAX)
}

fn as_video(track: &Track) -> Option<(&Track, &VideoFormat)> {
    match &track.format {
        Format::Video(format) if !track.samples.is_empty() => Some((track, format)),
        Format::Video(_) | Format::Aac { .. } | Format::Other => None,
    }
}

/// The clips that are built into the program, made by `clips/make.sh`.
pub mod embedded {
    /// 1080p25 H.264 at 2 Mbps with AAC, keyframe every 2 s: the usual camera.
    pub const H264: &[u8] = include_bytes!("../../clips/h264-1080p25-2mbps-aac.mp4");
    /// 720p25 H.265 at 1 Mbps, no audio.
    pub const H265: &[u8] = include_bytes!("../../clips/h265-720p25.mp4");
    /// 320x180 H.264 at 150 kbps, keyframe every second, no audio.
    pub const SMALL: &[u8] = include_bytes!("../../clips/h264-small.mp4");
    /// The same with B-frames.
    pub const BFRAMES: &[u8] = include_bytes!("../../clips/h264-bframes.mp4");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nal::Standard;

    #[test]
    fn the_embedded_clips_are_what_they_are_said_to_be() {
        let h264 = Clip::from_mp4("h264", embedded::H264).unwrap();
        assert_eq!((h264.format.standard, h264.units_per_keyframe()), (Standard::H264, 50));
        assert!((1_900_000..2_200_000).contains(&h264.bitrate_bps), "{}", h264.bitrate_bps);
        assert_eq!(h264.audio.as_ref().map(|audio| audio.media.rate), Some(16_000));
        let h265 = Clip::from_mp4("h265", embedded::H265).unwrap();
        assert_eq!((h265.format.standard, h265.units_per_keyframe()), (Standard::H265, 50));
        assert_eq!(h265.format.parameter_sets.len(), 3);
        let small = Clip::from_mp4("small", embedded::SMALL).unwrap();
        assert_eq!((small.units_per_keyframe(), small.audio.is_none()), (25, true));
        let bframes = Clip::from_mp4("bframes", embedded::BFRAMES).unwrap();
        assert!(bframes.video.composition.iter().any(|offset| *offset != 0));
    }

    impl Clip {
        fn units_per_keyframe(&self) -> usize {
            self.keyframes.len() / self.keyframes.iter().filter(|keyframe| **keyframe).count()
        }
    }

    #[test]
    fn an_unusable_clip_says_what_would_do() {
        let error = Clip::from_mp4("x.txt", b"not a film").unwrap_err().to_string();
        assert!(error.contains("x.txt") && error.contains("H.264"), "{error}");
    }
}
