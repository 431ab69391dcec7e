//! A clip: one MP4, cut into packets once and shared by all cameras that show it.

use std::path::PathBuf;

use crate::camera::metadata::{self, Metadata};
use crate::camera::packet::{self, MAX_PAYLOAD, Unit};
use crate::camera::timeline::Looped;
use crate::mp4::{self, Format, Movie, Sample, Track, VideoFormat};
use crate::nal;

/// Ticks per second of RTP timestamps of video.
pub const VIDEO_RATE: u32 = 90_000;

/// The same of G.711, and samples per second.
const G711_RATE: u32 = 8_000;
/// The same of Opus, whatever was encoded (RFC 7587, section 4.1).
const OPUS_RATE: u32 = 48_000;
/// A second has so many packets of sound.
const SOUND_PACKETS_A_SECOND: u32 = 50;
/// Packets of Opus before they begin anew: 2 s.
pub const OPUS_PACKETS: u16 = 100;

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
    /// Its metadata, if it has any.
    pub metadata: Option<Media>,
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
    /// How it is coded.
    pub coding: Coding,
    /// 1 mono, 2 stereo.
    pub channels: u16,
}

/// How audio is coded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Coding {
    /// AAC.
    Aac {
        /// AudioSpecificConfig.
        config: Vec<u8>,
    },
    /// Another.
    Sound(Sound),
}

/// Sound that is no part of any file of video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// Opus: silence, in packets of 20 ms with a number in each, see [`opus_packet`].
    Opus,
    /// G.722 in name only: it is offered, and holds nothing that could be played.
    G722,
}

/// How a clip is made of its files.
#[derive(Debug, Clone, Copy)]
pub struct Make {
    /// Largest RTP payload of video in bytes.
    pub max_payload: usize,
    /// Bytes of filler data (H.264 only, `nal_unit_type` 12) in each keyframe.
    pub keyframe_filler: usize,
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
    fn new(rate: u32, timescale: u32, samples: &[Sample], units: Vec<Unit>) -> Option<Self> {
        let timeline = Looped::new(timescale, samples.iter().map(|sample| sample.duration))?;
        let first = samples.first()?.composition_offset;
        let scaled = |ticks: i64| ticks.saturating_mul(i64::from(rate)) / i64::from(timescale.max(1));
        let composition =
            samples.iter().map(|sample| scaled(sample.composition_offset.saturating_sub(first)));
        let composition = composition.collect();
        Some(Self::with(rate, timeline, composition, units))
    }

    fn with(rate: u32, timeline: Looped, composition: Vec<i64>, units: Vec<Unit>) -> Self {
        let mut sum = (0, 0);
        let mut totals = vec![sum];
        for unit in &units {
            sum = (sum.0 + unit.packet_count(), sum.1 + unit.payload_octets());
            totals.push(sum);
        }
        Self { rate, timeline, composition, units, totals }
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

/// Octets of a packet of Opus.
pub const OPUS_PACKET: usize = 5;

/// A packet of Opus that decodes to 20 ms of silence: one CELT frame of the full band (RFC 6716, section 3.1: configuration 31), whose first
/// symbol says that it is silent. What stands behind that is not decoded, and has room for `number`.
pub fn opus_packet(number: u16) -> [u8; OPUS_PACKET] {
    let [high, low] = number.to_be_bytes();
    [31 << 3, 0xff, 0xfe, high, low]
}

impl Clip {
    /// The same without its audio.
    pub fn without_audio(self) -> Self {
        let bitrate_bps = bitrate(&self.video);
        Self { audio: None, bitrate_bps, ..self }
    }

    /// The same with this sound in place of its audio.
    pub fn with_sound(self, sound: Sound) -> Self {
        let g711 = |octets: &[u8], payload_type| -> Vec<Unit> {
            octets.chunks_exact(160).map(|octets| packet::sound_unit(payload_type, octets)).collect()
        };
        let (rate, channels, units) = match sound {
            Sound::Pcmu => (G711_RATE, 1, g711(embedded::PCMU, packet::PCMU_PAYLOAD_TYPE)),
            Sound::Pcma => (G711_RATE, 1, g711(embedded::PCMA, packet::PCMA_PAYLOAD_TYPE)),
            Sound::G722 => (G711_RATE, 1, g711(embedded::PCMU, packet::G722_PAYLOAD_TYPE)),
            Sound::Opus => {
                let packets = (0..OPUS_PACKETS).map(opus_packet);
                let unit =
                    |packet: [u8; OPUS_PACKET]| packet::sound_unit(packet::AUDIO_PAYLOAD_TYPE, &packet);
                (OPUS_RATE, 2, packets.map(unit).collect())
            }
        };
        let count = units.len();
        let timeline = Looped::new(rate, std::iter::repeat_n(rate / SOUND_PACKETS_A_SECOND, count))
            .expect("invariant: the built-in sound lasts");
        let media = Media::with(rate, timeline, vec![0; count], units);
        let bitrate_bps = bitrate(&self.video) + bitrate(&media);
        Self { audio: Some(Audio { media, coding: Coding::Sound(sound), channels }), bitrate_bps, ..self }
    }

    /// The same with this metadata beside it.
    pub fn with_metadata(self, metadata: Metadata) -> Self {
        let pieces = metadata.pieces();
        let timeline = Looped::new(metadata::RATE, pieces.iter().map(|piece| piece.ticks))
            .expect("invariant: the built-in metadata lasts");
        let composition = pieces.iter().map(|piece| -piece.since).collect();
        let units = pieces.into_iter().map(|piece| piece.unit).collect();
        Self { metadata: Some(Media::with(metadata::RATE, timeline, composition, units)), ..self }
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
        Self::made(name, &[bytes], Make { max_payload: MAX_PAYLOAD, keyframe_filler: 0 })
    }

    /// Prepares a clip of the video of these files, one after the other, with the first one's audio.
    ///
    /// # Errors
    /// [`Error::Unusable`].
    pub fn made(name: &str, files: &[&[u8]], make: Make) -> Result<Self, Error> {
        let unusable = |reason: String| Error::Unusable { name: name.to_owned(), reason };
        let movies: Vec<(Movie, &[u8])> = files
            .iter()
            .map(|bytes| Ok((mp4::read(bytes).map_err(|error| unusable(error.to_string()))?, *bytes)))
            .collect::<Result<_, Error>>()?;
        Self::from_movies(&movies, make).map_err(|reason| unusable(reason.to_owned()))
    }

    fn from_movies(movies: &[(Movie, &[u8])], make: Make) -> Result<Self, &'static str> {
        let (mut units, mut keyframes, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        let mut of_first = None;
        for (movie, bytes) in movies {
            let (track, format) =
                movie.tracks.iter().find_map(as_video).ok_or("it has no H.264 or H.265 track")?;
            for sample in &track.samples {
                let (unit, keyframe) = unit(sample, format, bytes, make)?;
                units.push(unit);
                keyframes.push(keyframe);
            }
            samples.extend(track.samples.iter().cloned());
            let (timescale, _) = *of_first.get_or_insert((track.timescale, format));
            if track.timescale != timescale {
                return Err("its files have different timescales");
            }
        }
        let (timescale, format) = of_first.ok_or("it has no file")?;
        if !keyframes.contains(&true) {
            return Err("its video has no keyframe");
        }
        let (movie, bytes) = &movies[0];
        let audio = movie.tracks.iter().find_map(|track| match &track.format {
            Format::Aac { config, channels } => Some((track, config.clone(), *channels)),
            Format::Video(_) | Format::G711 | Format::Other => None,
        });
        let audio = match audio {
            None => None,
            Some((track, config, channels)) => {
                let frames =
                    track.samples.iter().map(|sample| packet::audio_unit(&bytes[sample.data.clone()]));
                let units: Option<Vec<Unit>> = frames.collect();
                let units = units.ok_or("an audio frame does not fit a packet")?;
                let media = Media::new(track.timescale, track.timescale, &track.samples, units)
                    .ok_or("its audio has no duration")?;
                Some(Audio { media, coding: Coding::Aac { config }, channels })
            }
        };
        let video = Media::new(VIDEO_RATE, timescale, &samples, units).ok_or("its video has no duration")?;
        let bitrate_bps = bitrate(&video) + audio.as_ref().map_or(0, |audio| bitrate(&audio.media));
        let frame_rate = 1.0 / video.timeline.mean_interval().as_secs_f64();
        Ok(Self { format: format.clone(), video, keyframes, audio, metadata: None, frame_rate, bitrate_bps })
    }
}

/// The packets of a frame, and whether it is a keyframe.
fn unit(
    sample: &Sample,
    format: &VideoFormat,
    bytes: &[u8],
    make: Make,
) -> Result<(Unit, bool), &'static str> {
    let mut nals = nal::split(&bytes[sample.data.clone()], format.length_size)
        .map_err(|_| "a frame's NAL units are malformed")?;
    let keyframe = nals.iter().any(|nal| format.standard.is_keyframe_slice(nal));
    let sets: &[Vec<u8>] = if keyframe { &format.parameter_sets } else { &[] };
    // H.264, 7.3.2.7: ones, and the bit that stops them.
    let mut filler = vec![0xff; if keyframe { make.keyframe_filler } else { 0 }];
    if let [first, .., last] = filler.as_mut_slice() {
        (*first, *last) = (12, 0x80);
        nals.push(&filler);
    }
    Ok((packet::video_unit(format.standard, sets, &nals, make.max_payload), keyframe))
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
        Format::Video(_) | Format::Aac { .. } | Format::G711 | Format::Other => None,
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
    /// 480x270 H.264.
    pub const WIDE: &[u8] = include_bytes!("../../clips/h264-wide.mp4");
    /// 320x180 H.264 with one keyframe in 12 s.
    pub const LONG_GOP: &[u8] = include_bytes!("../../clips/h264-long-gop.mp4");
    /// 320x180 H.264 with 50 pictures a second.
    pub const FPS50: &[u8] = include_bytes!("../../clips/h264-50fps.mp4");
    /// 320x180 H.265 with B-frames and open GOPs.
    pub const H265_OPEN_GOP: &[u8] = include_bytes!("../../clips/h265-open-gop.mp4");
    /// 2 s of G.711 µ-law, octet by octet.
    pub const PCMU: &[u8] = include_bytes!("../../clips/sine.ulaw");
    /// The same with A-law.
    pub const PCMA: &[u8] = include_bytes!("../../clips/sine.alaw");
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

    #[test]
    fn files_follow_one_another_with_parameter_sets_of_their_own() {
        let usual = Make { max_payload: MAX_PAYLOAD, keyframe_filler: 0 };
        let clip = Clip::made("both", &[embedded::SMALL, embedded::WIDE], usual).unwrap();
        let (small, wide) = (
            Clip::from_mp4("small", embedded::SMALL).unwrap(),
            Clip::from_mp4("wide", embedded::WIDE).unwrap(),
        );
        assert_ne!(small.format.parameter_sets, wide.format.parameter_sets);
        assert_eq!(clip.video.units.len(), small.video.units.len() + wide.video.units.len());
        assert_eq!(
            clip.video.sent_before(clip.video.timeline.len()).1,
            small.video.sent_before(100).1 + wide.video.sent_before(100).1
        );
    }

    #[test]
    fn keyframes_can_be_made_large() {
        let make = Make { max_payload: MAX_PAYLOAD, keyframe_filler: 100_000 };
        let clip = Clip::made("large", &[embedded::SMALL], make).unwrap();
        assert!(clip.video.units[0].payload_octets() > 100_000);
        assert!(clip.video.units[1].payload_octets() < 10_000);
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
