//! Reading a segment back after a crash: how much of it is whole, when it begins and ends.
//!
//! Reads the shape that [`super::init`] and [`super::mux`] write, and says [`None`] to anything else. Pure: the caller
//! reads the boxes from the file. Invariant: no bytes make it panic or allocate more than they are.

use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;

use super::{AUDIO_TRACK, METADATA_TRACK, VIDEO_TRACK};
use crate::ntp;

/// The header of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHeader {
    /// Its type.
    pub kind: [u8; 4],
    /// Size of the header itself, in bytes.
    pub header_bytes: u64,
    /// Size of the whole box, in bytes.
    pub bytes: u64,
}

/// As many bytes of a file as are needed to read any box header.
pub const HEADER_BYTES: usize = 16;

/// Reads a box header (ISO/IEC 14496-12, section 4.2.2) from the first bytes of a box.
pub fn box_header(bytes: &[u8]) -> Option<BoxHeader> {
    let mut read = Reader(bytes);
    let size = read.u32()?;
    let kind = read.array()?;
    let (header_bytes, bytes) = if size == 1 { (16, read.u64()?) } else { (8, u64::from(size)) };
    (bytes >= header_bytes).then_some(BoxHeader { kind, header_bytes, bytes })
}

/// What `moov` says of the tracks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movie {
    /// Units of media time in a second of video.
    pub video_timescale: u32,
    /// Codec of the video track.
    pub video: Codec,
    /// Codec of the audio track, if there is one.
    pub audio: Option<Codec>,
    /// Whether there is a track of metadata.
    pub metadata: bool,
}

/// What one `moof` says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Pictures in it.
    pub video_frames: u64,
    /// Where its last picture ends, in the video timescale from the segment's beginning.
    pub video_end: u64,
    /// Bytes of samples its `mdat` must hold.
    pub sample_bytes: u64,
}

/// Reads the content of a `moov` box.
pub fn movie(content: &[u8]) -> Option<Movie> {
    let (mut video, mut audio, mut metadata) = (None, None, false);
    for (kind, track) in children(content) {
        if &kind != b"trak" {
            continue;
        }
        let id = Reader(find(track, b"tkhd")?.get(12..)?).u32()?;
        let media = find(track, b"mdia")?;
        let timescale = Reader(find(media, b"mdhd")?.get(12..)?).u32().filter(|timescale| *timescale > 0)?;
        let descriptions = find(find(find(media, b"minf")?, b"stbl")?, b"stsd")?;
        let entry = box_header(descriptions.get(8..)?)?.kind;
        match (id, &entry) {
            (VIDEO_TRACK, b"avc1") => video = Some((timescale, Codec::H264)),
            (VIDEO_TRACK, b"hvc1") => video = Some((timescale, Codec::H265)),
            (AUDIO_TRACK, b"mp4a") => audio = Some(Codec::Aac),
            (AUDIO_TRACK, b"ulaw") => audio = Some(Codec::Pcmu),
            (AUDIO_TRACK, b"alaw") => audio = Some(Codec::Pcma),
            (AUDIO_TRACK, b"Opus") => audio = Some(Codec::Opus),
            (METADATA_TRACK, b"metx") => metadata = true,
            _ => return None,
        }
    }
    let (video_timescale, video) = video?;
    Some(Movie { video_timescale, video, audio, metadata })
}

/// Reads the content of a `moof` box.
pub fn fragment(content: &[u8]) -> Option<FragmentInfo> {
    let mut info = FragmentInfo::default();
    for (kind, track) in children(content) {
        if &kind != b"traf" {
            continue;
        }
        let id = Reader(find(track, b"tfhd")?.get(4..)?).u32()?;
        let mut end = Reader(find(track, b"tfdt")?.get(4..)?).u64()?;
        let video = id == VIDEO_TRACK;
        let mut run = Reader(find(track, b"trun")?.get(4..)?);
        let samples = run.u32()?;
        run.u32()?; // data offset
        for _ in 0..samples {
            end = end.checked_add(u64::from(run.u32()?))?;
            info.sample_bytes = info.sample_bytes.checked_add(u64::from(run.u32()?))?;
            if video {
                run.u64()?; // flags, composition offset
            }
        }
        if video {
            info.video_frames = u64::from(samples);
            info.video_end = end;
        }
    }
    (info.video_frames > 0).then_some(info)
}

/// Reads the content of a `prft` box: the wall-clock time of media time 0. `near` tells which era of NTP's 136 years.
pub fn reference_time(content: &[u8], near: Timestamp) -> Option<Timestamp> {
    Some(ntp::read(Reader(content.get(8..)?).u64()?, near))
}

/// The boxes directly inside `content`, up to the first broken one.
fn children(mut content: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let header = box_header(content)?;
        let (head, size) = (usize::try_from(header.header_bytes).ok()?, usize::try_from(header.bytes).ok()?);
        let body = content.get(head..size)?;
        content = &content[size..];
        Some((header.kind, body))
    })
}

fn find<'a>(content: &'a [u8], wanted: &[u8; 4]) -> Option<&'a [u8]> {
    children(content).find(|(kind, _)| kind == wanted).map(|(_, body)| body)
}

/// Takes integers off the front of a slice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_reference_time_reads_back_to_the_microsecond(micros in 0..4_000_000_000_000_000_i64, off_s in -1_000_000..1_000_000_i64) {
            let at = Timestamp::from_micros(micros);
            let mut content = vec![0; 8];
            content.extend_from_slice(&ntp::of(at).to_be_bytes());
            content.extend_from_slice(&[0; 8]);
            prop_assert_eq!(reference_time(&content, at.plus_millis(off_s * 1_000)), Some(at));
        }

        #[test]
        fn broken_boxes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            box_header(&bytes);
            movie(&bytes);
            fragment(&bytes);
            reference_time(&bytes, Timestamp::UNIX_EPOCH);
        }
    }
}
