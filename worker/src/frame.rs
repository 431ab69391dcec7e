//! What a camera sends, in the worker's own terms: tracks, then frames of them.
//!
//! Not a decoder: samples stay as they came, in the format MP4 wants (length-prefixed NAL units, raw AAC, G.711 octets, packets of Opus).
//! Invariant: media times of all tracks of one session count from the same moment.

use std::num::NonZeroU32;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;

/// The video track of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoTrack {
    /// H.264 or H.265.
    pub codec: Codec,
    /// Units of media time in a second.
    pub timescale: NonZeroU32,
    /// The whole `avc1` or `hvc1` box with the parameter sets in it.
    pub sample_entry: Bytes,
    /// Width of the picture in pixels.
    pub width: u16,
    /// Height of the picture in pixels.
    pub height: u16,
}

/// The audio track of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioTrack {
    /// AAC, G.711 or Opus.
    pub codec: Codec,
    /// Units of media time in a second.
    pub timescale: NonZeroU32,
    /// The whole `mp4a`, `ulaw`, `alaw` or `Opus` box.
    pub sample_entry: Bytes,
}

/// The metadata track of a session. Its times are in the video's timescale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataTrack {
    /// The whole `metx` box.
    pub sample_entry: Bytes,
}

/// What a session records. Two sets of tracks that are equal can share a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracks {
    /// There is no recording without video.
    pub video: VideoTrack,
    /// The first audio stream this version can store, if any.
    pub audio: Option<AudioTrack>,
    /// The first metadata stream, if there is one and it can be had.
    pub metadata: Option<MetadataTrack>,
    /// What the camera offers besides, as `media/encoding`: told, and not recorded.
    pub not_recorded: Vec<String>,
}

/// When something was received, by two clocks that never step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// By the wall clock, without its steps: see [`crate::timeline::steady`].
    pub at: Timestamp,
    /// In microseconds since some moment before the session.
    pub monotonic_us: i64,
}

/// One coded picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoFrame {
    /// NAL units, each after its length in four bytes (ISO/IEC 14496-15, section 5.3.4.2.1).
    pub data: Bytes,
    /// Presentation time in the track's timescale. Frames come in decoding order, so this may go back.
    pub media_time: i64,
    /// Decoding can begin here.
    pub random_access: bool,
    /// When its last packet was received.
    pub arrival: Arrival,
}

/// One coded audio frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioFrame {
    /// A raw AAC frame, the octets of one G.711 packet, or a packet of Opus.
    pub data: Bytes,
    /// Presentation time in the track's timescale.
    pub media_time: i64,
    /// How long it lasts, in the track's timescale. Packets of G.711 may be of any length, those of Opus of some.
    pub duration: NonZeroU32,
    /// When it was received.
    pub arrival: Arrival,
}

/// One document of a camera's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// As it came.
    pub data: Bytes,
    /// When it was, in the timescale of the video track.
    pub media_time: i64,
    /// When it was received.
    pub arrival: Arrival,
}

/// What accompanies the pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// Sound.
    Audio(AudioFrame),
    /// Metadata.
    Metadata(Document),
}

impl Beside {
    /// How many bytes it has.
    pub const fn len(&self) -> usize {
        match self {
            Self::Audio(frame) => frame.data.len(),
            Self::Metadata(document) => document.data.len(),
        }
    }

    /// Whether it has none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a camera's sender report says of its two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// A moment by the clock of the video track, in its timescale.
    pub media_time: i64,
    /// The same by the camera's wall clock, as an NTP timestamp.
    pub ntp: u64,
    /// When the report was received.
    pub arrival: Arrival,
}

/// The types of the NAL units of one sample, as their first header byte shows them; ends at the first broken length.
fn nal_headers(mut data: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let nal = rest.get(..length)?;
        data = &rest[length..];
        nal.first().copied()
    })
}

/// Whether decoding can begin at this sample: an IDR picture in H.264 (`nal_unit_type` 5, ITU-T H.264 table 7-1), any
/// intra random access point in H.265 (types 16 to 21: BLA, IDR and CRA, ITU-T H.265 table 7-1). The first NAL unit
/// that belongs to a picture decides.
///
/// Done here because the RTSP library calls only IDR pictures random access, and a camera with open GOPs sends no
/// other IDR than its first.
pub fn is_random_access(codec: Codec, data: &[u8]) -> bool {
    match codec {
        Codec::H264 => {
            nal_headers(data).map(|header| header & 0x1f).find(|kind| (1..=5).contains(kind)) == Some(5)
        }
        Codec::H265 => nal_headers(data)
            .map(|header| (header >> 1) & 0x3f)
            .find(|kind| *kind < 32)
            .is_some_and(|kind| (16..=21).contains(&kind)),
        Codec::Aac | Codec::Pcmu | Codec::Pcma | Codec::Opus => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter()
            .flat_map(|nal| {
                let length = u32::try_from(nal.len()).unwrap().to_be_bytes();
                length.into_iter().chain(nal.iter().copied())
            })
            .collect()
    }

    #[test]
    fn an_idr_picture_is_found_behind_sei_and_delimiter() {
        assert!(is_random_access(Codec::H264, &sample(&[&[0x09, 0xf0], &[0x06, 1], &[0x65, 0x88]])));
        assert!(!is_random_access(Codec::H264, &sample(&[&[0x09, 0xf0], &[0x41, 0x9a]])));
    }

    #[test]
    fn every_kind_of_h265_random_access_counts() {
        for kind in 0..32_u8 {
            let picture = sample(&[&[39 << 1, 1, 0], &[kind << 1, 1, 0]]);
            assert_eq!(is_random_access(Codec::H265, &picture), (16..=21).contains(&kind), "type {kind}");
        }
    }

    proptest! {
        #[test]
        fn broken_samples_never_panic(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            is_random_access(Codec::H264, &data);
            is_random_access(Codec::H265, &data);
        }
    }
}
