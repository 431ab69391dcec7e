//! What a recorder makes of pictures and what accompanies them, of changes, jumps and pauses.

use std::num::NonZeroU32;

use bytes::Bytes;
use longwatch_events::fact::Codec;

use super::*;
use crate::frame::{Arrival, MetadataTrack, VideoTrack};

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
        metadata: None,
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

fn with_metadata() -> Arc<Tracks> {
    let metadata = Some(MetadataTrack { sample_entry: Bytes::from_static(b"metx") });
    Arc::new(Tracks { metadata, ..(*tracks(b"one")).clone() })
}

#[test]
fn metadata_that_comes_begins_a_segment_and_changes_nothing_of_the_pictures() {
    // Given a document beside each picture,
    let record = |recorder: &mut Recorder, pictures: std::ops::Range<i64>| {
        let mut pieces = Vec::new();
        for n in pictures {
            let VideoFrame { media_time, arrival, .. } = picture(n);
            pieces.extend(take(recorder, picture(n)));
            let data = Bytes::from_static(b"<document/>");
            recorder.beside(Beside::Metadata(Document { data, media_time, arrival }));
        }
        pieces
    };
    let mut recorder = recorder();
    let mut pieces = record(&mut recorder, 0..30);
    // when its track comes and goes, then nothing of what came before is of no use …
    assert!(!recorder.change_tracks(with_metadata()));
    pieces.extend(record(&mut recorder, 30..130));
    assert!(!recorder.change_tracks(tracks(b"one")));
    pieces.extend(record(&mut recorder, 130..160));
    pieces.extend(recorder.interrupt());
    // … segments follow each other, and one in three has the documents of its pictures.
    let headers: Vec<_> = begins(&pieces)
        .iter()
        .map(|(at, resumes, header)| (*at, *resumes, header.windows(4).any(|window| window == b"metx")))
        .collect();
    let at = |n: i64| START.plus_millis(n * 40);
    assert_eq!(headers, [(at(0), true, false), (at(50), false, true), (at(150), false, false)]);
    assert_eq!(ends(&pieces), [at(50), at(150), at(160)]);
    let bytes: usize = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Begin { fragment, .. } | Piece::More { fragment, .. } => fragment.samples.len(),
            Piece::End { .. } => 0,
        })
        .sum();
    assert_eq!(bytes, 160 * b"picture".len() + 100 * b"<document/>".len());
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
