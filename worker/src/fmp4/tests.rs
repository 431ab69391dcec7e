//! What is written is read back by another library, mp4-atom, and by our own [`scan`].

use std::num::NonZeroU32;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;
use mp4_atom::{Decode, Moof};
use proptest::prelude::*;

use super::init::{DEPENDENT_SAMPLE, SYNC_SAMPLE};
use super::*;
use crate::frame::{
    Arrival, AudioFrame, AudioTrack, Document, MetadataTrack, Tracks, VideoFrame, VideoTrack,
};

const ARRIVAL: Arrival = Arrival { at: Timestamp::UNIX_EPOCH, monotonic_us: 0 };
/// Of AAC.
const FRAME: NonZeroU32 = NonZeroU32::new(1_024).unwrap();
const START: Timestamp = Timestamp::from_micros(1_795_420_800_123_456);

/// `beside`: with audio and metadata.
fn tracks(beside: bool) -> Tracks {
    Tracks {
        video: VideoTrack {
            codec: Codec::H264,
            timescale: NonZeroU32::new(90_000).unwrap(),
            sample_entry: Bytes::from_static(b"\0\0\0\x08avc1"),
            width: 640,
            height: 360,
        },
        audio: beside.then(|| AudioTrack {
            codec: Codec::Aac,
            timescale: NonZeroU32::new(16_000).unwrap(),
            sample_entry: Bytes::from_static(b"\0\0\0\x08mp4a"),
        }),
        metadata: beside
            .then(|| MetadataTrack { sample_entry: metadata::sample_entry(metadata::Packing::Xml) }),
        not_recorded: Vec::new(),
    }
}

/// What happens to a muxer.
#[derive(Debug, Clone)]
enum Op {
    Video { media_time: i64, sync: bool, bytes: usize },
    Audio { media_time: i64, bytes: usize },
    Document { media_time: i64, bytes: usize },
    Cut { next_known: bool },
}

fn ops(media_time: impl Strategy<Value = i64> + Clone + 'static) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (media_time.clone(), any::<bool>(), 0..40_usize)
            .prop_map(|(media_time, sync, bytes)| Op::Video { media_time, sync, bytes }),
        3 => (media_time.clone(), 0..40_usize)
            .prop_map(|(media_time, bytes)| Op::Audio { media_time, bytes }),
        2 => (media_time, 0..40_usize).prop_map(|(media_time, bytes)| Op::Document { media_time, bytes }),
        1 => any::<bool>().prop_map(|next_known| Op::Cut { next_known }),
    ];
    proptest::collection::vec(op, 0..120)
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct ReadSample {
    data: Vec<u8>,
    decoded: i64,
    presented: i64,
    flags: Option<u32>,
    duration: u32,
}

/// Reads the samples of one track out of a file, with nothing but mp4-atom and the offsets it finds.
fn read_track(file: &[u8], track: u32) -> Vec<ReadSample> {
    let mut samples = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let header = scan::box_header(&file[at..]).unwrap();
        if &header.kind == b"moof" {
            let moof = Moof::decode(&mut &file[at..]).unwrap();
            for traf in moof.traf.iter().filter(|traf| traf.tfhd.track_id == track) {
                let mut decoded = i64::try_from(traf.tfdt.as_ref().unwrap().base_media_decode_time).unwrap();
                for run in &traf.trun {
                    let mut offset = at + usize::try_from(run.data_offset.unwrap()).unwrap();
                    for entry in run.samples.iter() {
                        let size = usize::try_from(entry.size.unwrap()).unwrap();
                        samples.push(ReadSample {
                            data: file[offset..offset + size].to_vec(),
                            decoded,
                            presented: decoded + entry.cts.unwrap_or(0),
                            flags: entry.flags,
                            duration: entry.duration.unwrap(),
                        });
                        offset += size;
                        decoded += i64::from(entry.duration.unwrap());
                    }
                }
            }
        }
        at += usize::try_from(header.bytes).unwrap();
    }
    samples
}

struct Played {
    file: Vec<u8>,
    /// Sizes of the file after the header and after each fragment.
    borders: Vec<usize>,
    zero: i64,
    end: i64,
    video: Vec<(Vec<u8>, i64, bool)>,
    audio: Vec<Vec<u8>>,
    documents: Vec<(Vec<u8>, i64)>,
}

/// Runs a muxer; what never made it into a fragment (audio and documents behind the last picture) are not listed.
fn play(ops: &[Op], beside: bool) -> Played {
    let tracks = tracks(beside);
    let mut muxer = Muxer::new(&tracks);
    let file = init::header(&tracks, START);
    let mut played = Played {
        borders: vec![file.len()],
        file,
        zero: 0,
        end: 0,
        video: vec![],
        audio: vec![],
        documents: vec![],
    };
    let mut waiting = (vec![], vec![], vec![]);
    let finish = [Op::Cut { next_known: false }];
    for (n, op) in ops.iter().chain(&finish).enumerate() {
        let fill = u8::try_from(n % 251).unwrap();
        match *op {
            Op::Video { media_time, sync, bytes } => {
                let data = vec![fill; bytes];
                waiting.0.push((data.clone(), media_time, sync));
                let data = data.into();
                muxer.push_video(&VideoFrame { data, media_time, random_access: sync, arrival: ARRIVAL });
            }
            Op::Audio { media_time, bytes } => {
                let data = vec![fill; bytes];
                if beside {
                    waiting.1.push(data.clone());
                }
                muxer.push_audio(&AudioFrame {
                    data: data.into(),
                    media_time,
                    duration: FRAME,
                    arrival: ARRIVAL,
                });
            }
            Op::Document { media_time, bytes } => {
                let data = vec![fill; bytes];
                if beside {
                    waiting.2.push((data.clone(), media_time));
                }
                muxer.push_document(&Document { data: data.into(), media_time, arrival: ARRIVAL });
            }
            Op::Cut { next_known } => {
                let next = ops[n.min(ops.len())..].iter().find_map(|op| match op {
                    Op::Video { media_time, .. } => Some(*media_time),
                    Op::Audio { .. } | Op::Document { .. } | Op::Cut { .. } => None,
                });
                if let Some(fragment) = muxer.finish_fragment(next.filter(|_| next_known)).unwrap() {
                    assert_eq!(
                        fragment.len(),
                        fragment.head.len() + fragment.samples.iter().map(<[u8]>::len).sum::<usize>()
                    );
                    played.zero = fragment.zero;
                    played.end = fragment.end;
                    played.file.extend_from_slice(&fragment.head);
                    fragment.samples.iter().for_each(|sample| played.file.extend_from_slice(sample));
                    played.borders.push(played.file.len());
                    played.video.append(&mut waiting.0);
                    played.audio.append(&mut waiting.1);
                    played.documents.append(&mut waiting.2);
                }
            }
        }
    }
    played
}

fn assert_strictly_increasing(samples: &[ReadSample]) {
    assert!(samples.windows(2).all(|pair| pair[0].decoded < pair[1].decoded), "{samples:?}");
    assert!(samples.iter().all(|sample| sample.duration > 0 && sample.decoded >= 0), "{samples:?}");
}

fn check_bytes_order_and_flags(played: &Played) {
    let video = read_track(&played.file, VIDEO_TRACK);
    assert_eq!(
        video.iter().map(|sample| (sample.data.clone(), sample.flags.unwrap())).collect::<Vec<_>>(),
        played
            .video
            .iter()
            .map(|(data, _, sync)| (data.clone(), if *sync { SYNC_SAMPLE } else { DEPENDENT_SAMPLE }))
            .collect::<Vec<_>>()
    );
    assert_strictly_increasing(&video);
    let audio = read_track(&played.file, AUDIO_TRACK);
    assert_eq!(audio.iter().map(|sample| sample.data.clone()).collect::<Vec<_>>(), played.audio);
    assert_strictly_increasing(&audio);
    let documents = read_track(&played.file, METADATA_TRACK);
    assert!(documents.iter().map(|sample| &sample.data).eq(played.documents.iter().map(|(data, _)| data)));
    assert_strictly_increasing(&documents);
}

proptest! {
    #[test]
    fn whatever_comes_is_read_back(ops in ops(any::<i64>()), beside: bool) {
        check_bytes_order_and_flags(&play(&ops, beside));
    }

    #[test]
    fn presentation_times_are_kept(ops in ops(-100_000_000..100_000_000_i64), beside: bool) {
        let played = play(&ops, beside);
        check_bytes_order_and_flags(&played);
        let presented: Vec<_> = read_track(&played.file, VIDEO_TRACK).iter().map(|sample| sample.presented).collect();
        let expected: Vec<_> = played.video.iter().map(|(_, media_time, _)| media_time - played.zero).collect();
        prop_assert_eq!(presented, expected);
    }

    #[test]
    fn any_cut_is_found_again(ops in ops(-1_000_000_000..1_000_000_000_i64), share in 0.0..1.0_f64, flip: u8) {
        let played = play(&ops, true);
        let first = played.borders[0];
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let cut = (played.file.len() as f64 * share) as usize;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("torn");
        std::fs::write(&path, &played.file[..cut]).unwrap();
        let name = crate::archive::layout::SegmentName {
            tenant_id: longwatch_events::id::TenantId::DEFAULT,
            camera_id: "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7d".parse().unwrap(),
            start: Timestamp::from_millis(START.as_millis()),
            epoch: longwatch_events::position::Epoch(1),
            server_id: "01989c5e-7c1f-7d6e-8f6b-0d3f4a5b6c7e".parse().unwrap(),
        };
        let whole = played.borders.iter().copied().filter(|border| *border <= cut && *border > first).max();
        match crate::archive::repair::describe(&path, name) {
            Ok((segment, bytes)) => {
                prop_assert_eq!(Some(usize::try_from(bytes).unwrap()), whole);
                prop_assert_eq!(segment.name.start, START);
                prop_assert_eq!(segment.audio, Some(Codec::Aac));
            }
            Err(_) => prop_assert_eq!(whole, None),
        }
        // And a flipped byte anywhere is no reason to panic.
        let mut broken = played.file.clone();
        if let Some(byte) = broken.get_mut(cut) {
            *byte ^= flip;
            std::fs::write(&path, &broken).unwrap();
            let _ = crate::archive::repair::describe(&path, name);
        }
    }
}

fn video(media_time: i64) -> Op {
    Op::Video { media_time, sync: media_time == 0, bytes: 3 }
}

#[test]
fn without_b_pictures_decode_and_presentation_times_are_equal() {
    let ops = [video(0), video(3_600), Op::Cut { next_known: true }, video(7_200), video(12_000)];
    let played = play(&ops, false);
    let read = read_track(&played.file, VIDEO_TRACK);
    let times: Vec<_> =
        read.iter().map(|sample| (sample.decoded, sample.presented, sample.duration)).collect();
    assert_eq!(times, [(0, 0, 3_600), (3_600, 3_600, 3_600), (7_200, 7_200, 4_800), (12_000, 12_000, 4_800)]);
    assert_eq!(played.end, 16_800);
}

#[test]
fn b_pictures_get_signed_offsets() {
    let ops =
        [video(0), video(3), video(1), video(2), Op::Cut { next_known: true }, video(6), video(4), video(5)];
    let read = read_track(&play(&ops, false).file, VIDEO_TRACK);
    let times: Vec<_> = read.iter().map(|sample| (sample.decoded, sample.presented)).collect();
    assert_eq!(times, [(0, 0), (1, 3), (2, 1), (3, 2), (4, 6), (5, 4), (6, 5)]);
}

#[test]
fn audio_counts_from_the_first_picture_and_never_below() {
    let audio = |media_time| Op::Audio { media_time, bytes: 2 };
    // Media time 90,000 of video is media time 16,000 of audio.
    let ops = [audio(15_900), video(90_000), audio(16_500), audio(17_524), video(180_000)];
    let read = read_track(&play(&ops, true).file, AUDIO_TRACK);
    assert_eq!(read.iter().map(|sample| sample.decoded).collect::<Vec<_>>(), [0, 500, 1_524]);
    assert_eq!(read.last().unwrap().duration, 1_024, "the last one lasts as long as it says");
}

#[test]
fn documents_keep_their_times_across_fragments() {
    let document = |media_time| Op::Document { media_time, bytes: 5 };
    let cut = || Op::Cut { next_known: true };
    // One is of before the first picture, one of before the end of the fragment that went before it.
    let ops = [
        video(90_000),
        document(80_000),
        document(93_600),
        video(97_200),
        cut(),
        video(100_800),
        document(98_000),
        document(101_000),
        document(101_000),
    ];
    let read = read_track(&play(&ops, true).file, METADATA_TRACK);
    assert_eq!(
        read.iter().map(|sample| sample.decoded).collect::<Vec<_>>(),
        [0, 3_600, 8_000, 11_000, 11_001]
    );
    assert_eq!(read.iter().map(|sample| sample.duration).collect::<Vec<_>>(), [3_600, 1, 3_000, 1, 1]);
}

#[test]
fn a_fragment_needs_a_picture() {
    let mut muxer = Muxer::new(&tracks(true));
    muxer.push_audio(&AudioFrame {
        data: Bytes::from_static(b"a"),
        media_time: 0,
        duration: FRAME,
        arrival: ARRIVAL,
    });
    assert!(muxer.finish_fragment(None).unwrap().is_none());
}

#[test]
fn the_header_tells_the_tracks() {
    let header = init::header(&tracks(true), START);
    let ftyp = usize::try_from(scan::box_header(&header).unwrap().bytes).unwrap();
    let moov = scan::box_header(&header[ftyp..]).unwrap();
    assert_eq!(&moov.kind, b"moov");
    let movie = scan::movie(&header[ftyp + 8..ftyp + usize::try_from(moov.bytes).unwrap()]);
    let expected =
        scan::Movie { video_timescale: 90_000, video: Codec::H264, audio: Some(Codec::Aac), metadata: true };
    assert_eq!(movie, Some(expected));
}
