//! Files and frames.

use std::num::NonZeroU32;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;
use longwatch_loadtest::camera::clip::embedded;
use longwatch_loadtest::mp4::{self, Sample};
use longwatch_loadtest::nal::{self, Standard};
use longwatch_loadtest::{frames, sei};
use longwatch_worker::fmp4::metadata::{self, Packing};
use longwatch_worker::fmp4::{Muxer, init, opus, scan};
use longwatch_worker::frame::{
    Arrival, AudioFrame, AudioTrack, Document, MetadataTrack, Tracks, VideoFrame, VideoTrack,
    is_random_access,
};

const START: Timestamp = Timestamp::from_millis(1_795_420_800_000);

/// Boxes of a segment that a crash tore, read as the repair does.
pub(crate) fn segment_boxes(data: &[u8]) {
    let mut rest = data;
    while let Some(header) = scan::box_header(rest) {
        assert!(header.bytes >= header.header_bytes, "{header:?} is smaller than its header");
        let (Ok(begin), Ok(end)) = (usize::try_from(header.header_bytes), usize::try_from(header.bytes))
        else {
            return;
        };
        let Some(content) = rest.get(begin..end.min(rest.len())) else { return };
        if let Some(movie) = scan::movie(content) {
            assert!(movie.video_timescale > 0);
        }
        if let Some(fragment) = scan::fragment(content) {
            assert!(fragment.video_frames > 0);
        }
        scan::reference_time(content, START);
        let Some(behind) = rest.get(end..) else { return };
        rest = behind;
    }
}

/// Any MP4 file: every sample that is found lies within it.
pub(crate) fn mp4_file(data: &[u8]) {
    let Ok(movie) = mp4::read(data) else { return };
    for sample in movie.tracks.iter().flat_map(|track| &track.samples) {
        assert!(sample.data.start <= sample.data.end && sample.data.end <= data.len(), "{sample:?}");
    }
    let _ = frames::report(data);
}

/// A sample of video, and the frame number in it; the same as a packet of Opus.
pub(crate) fn nal_units(data: &[u8]) {
    for codec in [Codec::H264, Codec::H265] {
        is_random_access(codec, data);
    }
    opus::duration(data);
    for length_size in 1..=4 {
        if let Ok(nals) = nal::split(data, length_size) {
            let length: usize = nals.iter().map(|nal| nal.len() + length_size).sum();
            assert_eq!(length, data.len(), "NAL units that do not add up to their sample");
        }
    }
    for standard in [Standard::H264, Standard::H265] {
        if let Some(number) = sei::decode(standard, data) {
            assert_eq!(sei::decode(standard, &sei::encode(standard, number)), Some(number));
        }
    }
}

/// What a frame is made of: five bytes of `data`.
struct Step {
    kind: u8,
    media_time: i64,
    bytes: usize,
}

fn steps(data: &[u8]) -> impl Iterator<Item = Step> {
    data.chunks_exact(5).map(|chunk| Step {
        kind: chunk[0],
        media_time: i64::from(i32::from_be_bytes([chunk[1], chunk[2], chunk[3], 0])),
        bytes: usize::from(chunk[4]),
    })
}

/// What was put into one track.
type Samples = Vec<Vec<u8>>;

/// Frames with any times, in any order, cut anywhere: another parser finds in the file what was put into it.
pub(crate) fn fragmenter(data: &[u8]) {
    let tracks = tracks();
    let mut muxer = Muxer::new(&tracks);
    let mut file = init::header(&tracks, START);
    let (mut put, mut waiting): ([Samples; 3], [Samples; 3]) = Default::default();
    let arrival = Arrival { at: START, monotonic_us: 0 };
    for (n, Step { kind, media_time, bytes }) in (0_u8..=u8::MAX).cycle().zip(steps(data)) {
        let content = vec![n; bytes + 1];
        match kind % 8 {
            0..=3 => {
                waiting[0].push(content.clone());
                let random_access = kind >= 128;
                muxer.push_video(&VideoFrame { data: content.into(), media_time, random_access, arrival });
            }
            6 => {
                waiting[2].push(content.clone());
                muxer.push_document(&Document { data: content.into(), media_time, arrival });
            }
            4..=5 => {
                waiting[1].push(content.clone());
                let duration = NonZeroU32::MIN.saturating_add(u32::from(kind));
                muxer.push_audio(&AudioFrame { data: content.into(), media_time, duration, arrival });
            }
            _ => cut(&mut muxer, (kind >= 128).then_some(media_time), &mut file, &mut put, &mut waiting),
        }
    }
    cut(&mut muxer, None, &mut file, &mut put, &mut waiting);
    let movie = mp4::read(&file).unwrap_or_else(|error| panic!("cannot be read: {error}"));
    assert!(!movie.truncated);
    for (track, put) in movie.tracks.iter().zip(&put) {
        let read: Vec<&[u8]> = track.samples.iter().map(|sample| &file[sample.data.clone()]).collect();
        assert!(read.iter().eq(put.iter()), "another parser reads {} of {} samples", read.len(), put.len());
        let times = |pair: &[Sample]| pair[0].decode_time < pair[1].decode_time;
        assert!(track.samples.windows(2).all(times), "decode times do not increase");
    }
}

fn cut(
    muxer: &mut Muxer,
    next: Option<i64>,
    file: &mut Vec<u8>,
    put: &mut [Samples; 3],
    waiting: &mut [Samples; 3],
) {
    if let Ok(Some(fragment)) = muxer.finish_fragment(next) {
        file.extend_from_slice(&fragment.head);
        fragment.samples.iter().for_each(|sample| file.extend_from_slice(sample));
        for (put, waiting) in put.iter_mut().zip(waiting) {
            put.append(waiting);
        }
    }
}

/// H.264, G.711 and metadata.
fn tracks() -> Tracks {
    let scale = |hz| NonZeroU32::new(hz).unwrap_or(NonZeroU32::MIN);
    let entry = init::g711_sample_entry(Codec::Pcmu, 1, scale(8_000)).unwrap_or_default();
    Tracks {
        video: VideoTrack {
            codec: Codec::H264,
            timescale: scale(90_000),
            sample_entry: video_entry(),
            width: 320,
            height: 180,
        },
        audio: Some(AudioTrack { codec: Codec::Pcmu, timescale: scale(8_000), sample_entry: entry.into() }),
        metadata: Some(MetadataTrack { sample_entry: metadata::sample_entry(Packing::Xml) }),
        not_recorded: Vec::new(),
    }
}

/// The `avc1` box of a real clip.
fn video_entry() -> Bytes {
    let clip = embedded::SMALL;
    // The header of a full box and how many entries there are stand between.
    let described = clip.windows(4).position(|window| window == b"stsd").unwrap_or_default();
    let entry = clip.get(described + 12..).unwrap_or_default();
    let size = scan::box_header(entry).and_then(|header| usize::try_from(header.bytes).ok());
    Bytes::copy_from_slice(entry.get(..size.unwrap_or_default()).unwrap_or_default())
}
