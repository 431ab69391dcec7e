//! Cameras that are odd, and can be recorded all the same: no frame of them is lost, and what is stored plays.

#![allow(clippy::wildcard_enum_match_arm, reason = "of what is told only a part is looked at")]

use std::path::PathBuf;
use std::time::Duration;

use longwatch_events::event::Event;
use longwatch_events::fact::Fact;
use longwatch_events::subject::LogStream;
use longwatch_loadtest::camera::clip::{OPUS_PACKET, OPUS_PACKETS, embedded, opus_packet};
use longwatch_loadtest::camera::metadata;
use longwatch_loadtest::frames;
use longwatch_loadtest::sei::FrameNumber;
use longwatch_loadtest::system::cameras::Cameras;
use longwatch_loadtest::system::cluster::{Cluster, Options};
use longwatch_loadtest::system::history;
use longwatch_testing::tls::TlsFront;
use serde_json::Value;
use tokio::time::sleep;

use crate::given::{Given, until};
use crate::playing::{documents, play, sound};
use crate::recording::assert_no_frame_lost;

/// Long enough for every change that a camera makes by itself.
const RECORDED: Duration = Duration::from_secs(25);

/// A camera: its path, its codec as ffprobe names it, and that of its sound.
type Kind = (&'static str, &'static str, Option<&'static str>);

const CODECS: [Kind; 10] = [
    ("/odd/pcmu/1", "h264", Some("pcm_mulaw")),
    ("/odd/pcma/1", "h264", Some("pcm_alaw")),
    ("/odd/opus/1", "h264", Some("opus")),
    ("/odd/h265-open-gop/1", "hevc", None),
    ("/bframes/1", "h264", None),
    ("/odd/sps-change/1", "h264", None),
    ("/odd/metadata/1", "h264", None),
    ("/odd/metadata-garbage/1", "h264", None),
    ("/odd/metadata-huge/1", "h264", None),
    ("/odd/metadata-endless/1", "h264", None),
];

const PACKAGING: [Kind; 7] = [
    ("/odd/no-sps/1", "h264", None),
    ("/odd/wrong-sps/1", "h264", None),
    ("/odd/long-gop/1", "h264", None),
    ("/odd/50fps/1", "h264", None),
    ("/odd/large-keyframes/1", "h264", None),
    ("/odd/large-packets/1", "h264", Some("aac")),
    ("/odd/zero-durations/1", "h264", None),
];

/// Records all of them for [`RECORDED`], stops, and gives each one's files. Nothing of them is lost and everything plays.
async fn record(kinds: &[Kind]) -> (Given, Vec<Vec<PathBuf>>) {
    let given = Given::start(5_000, 1).await;
    let mut ids = Vec::new();
    for (path, ..) in kinds {
        ids.push(given.api.add_camera(path, &given.cameras.url(path)).await.unwrap());
    }
    for id in &ids {
        given.until_recording(id).await;
    }
    sleep(RECORDED).await;
    for (id, (path, ..)) in ids.iter().zip(kinds) {
        let camera = given.camera(id).await.unwrap();
        assert_eq!(camera["state"], "recording", "{path}: {camera:#}");
    }
    given.stop().await;
    let files: Vec<_> = ids.iter().map(|id| given.files(id)).collect();
    for (kind, files) in kinds.iter().zip(&files) {
        assert_plays(*kind, files);
    }
    (given, files)
}

fn assert_plays((path, codec, sound): Kind, files: &[PathBuf]) {
    let frames = assert_no_frame_lost(files);
    assert!(frames >= RECORDED.as_secs() * 25, "{path}: {frames} frames");
    for file in files {
        let streams = play(file);
        let [video, others @ ..] = streams.as_slice() else {
            panic!("{path}: nothing in {}", file.display())
        };
        assert_eq!(video.codec, codec, "{path}");
        // Behind a CRA picture at the beginning, what is shown before it cannot be decoded, and need not be.
        let leading = if path.contains("open-gop") { 2 } else { 0 };
        let decoded = video.packets - leading..=video.packets;
        assert!(decoded.contains(&video.frames), "{path}: {video:?} in {}", file.display());
        let (documents, others): (Vec<_>, Vec<_>) = others.iter().partition(|other| other.kind == "data");
        assert_eq!(others.first().map(|other| other.codec.as_str()), sound, "{path}: {others:?}");
        assert!(others.iter().all(|other| other.packets > 0 && other.frames > 0), "{path}: {others:?}");
        let found: Vec<_> =
            documents.iter().map(|stream| (stream.codec.as_str(), stream.packets > 0)).collect();
        // What is too large or never ends is not kept.
        let is_kept = !path.contains("huge") && !path.contains("endless");
        let expected: &[_] = if path.contains("metadata") { &[("metx", is_kept)] } else { &[] };
        assert_eq!(found, expected, "{path}: {documents:?}");
    }
}

#[tokio::test]
async fn every_codec_is_recorded_as_it_came() {
    let (given, files) = record(&CODECS).await;
    for (files, format, sent) in [(&files[0], "mulaw", embedded::PCMU), (&files[1], "alaw", embedded::PCMA)] {
        let endless = sent.repeat(8);
        let mut all = 0;
        // Where a segment ends is not known, so one of them may be short: the last one ends with the recording.
        for file in files {
            let octets = sound(file, format);
            assert!(!octets.is_empty(), "{}: no sound", file.display());
            let found = endless.windows(octets.len()).any(|part| part == octets);
            assert!(found, "{}: not what was sent", file.display());
            all += octets.len() as u64;
        }
        // 8,000 a second, and one picture's worth is not yet complete at either end.
        assert!(all > (RECORDED.as_secs() - 1) * 8_000, "{format}: {all} octets");
    }
    assert_no_opus_lost(&files[2]);
    assert_no_document_lost(&files[6]);
    let garbage: Vec<_> = files[7].iter().flat_map(|file| documents(file)).map(|(_, bytes)| bytes).collect();
    assert!(
        garbage.len() > 50 && garbage.iter().all(|bytes| (0..10).any(|n| *bytes == metadata::garbage(n)))
    );
    let widths: Vec<u64> = files[5].iter().map(|file| play(file)[0].width).collect();
    assert!(widths.contains(&320) && widths.contains(&480), "new parameters, new segment: {widths:?}");
    drop(given);
}

/// All packets that were sent from the first to the last one are there, in order, across all segments.
fn assert_no_opus_lost(files: &[PathBuf]) {
    let packets: Vec<u8> = files.iter().flat_map(|file| sound(file, "data")).collect();
    let packets = packets.chunks_exact(OPUS_PACKET);
    assert!(packets.remainder().is_empty(), "not whole packets");
    let mut packets = packets.peekable();
    let first = *packets.peek().expect("no sound").last_chunk().unwrap();
    let all = packets.len() as u64;
    let begins = u16::from_be_bytes(first);
    let expected = (0..OPUS_PACKETS).map(opus_packet).cycle().skip(usize::from(begins));
    for (place, (packet, expected)) in packets.zip(expected).enumerate() {
        assert_eq!(packet, expected, "packet {place} of {all}");
    }
    // 50 a second.
    assert!(all > (RECORDED.as_secs() - 1) * 50, "{all} packets");
}

/// All documents that were sent from the first to the last one are there as they were, each where it was beside the video.
fn assert_no_document_lost(files: &[PathBuf]) {
    let mut next: Option<FrameNumber> = None;
    let mut all = 0;
    for file in files {
        // Document n is sent with picture 5n: this camera's first picture came at once.
        let first = frames::inspect(file).unwrap().numbers[0];
        for (at_ms, document) in documents(file) {
            let number = next.get_or_insert_with(|| {
                let near = (first.frame.saturating_sub(50) / 5..).map(|frame| FrameNumber { frame, ..first });
                let mut near = near.take(100);
                near.find(|number| metadata::document(*number) == document).expect("one of these documents")
            });
            assert!(metadata::document(*number) == document, "not document {number:?} in {}", file.display());
            let expected_ms =
                i64::try_from(number.frame * 200).unwrap() - i64::try_from(first.frame * 40).unwrap();
            // What was before the segment's first picture is kept with it.
            let off_ms = at_ms - expected_ms.max(0);
            assert!(off_ms.abs() <= 5, "document {number:?} is off by {off_ms} ms in {}", file.display());
            number.frame += 1;
            all += 1;
        }
    }
    // 5 a second; its connection is opened behind that of the video.
    assert!(all > (RECORDED.as_secs() - 2) * 5, "{all} documents");
}

#[tokio::test]
async fn however_it_is_packed_no_frame_is_lost() {
    record(&PACKAGING).await;
}

#[tokio::test]
async fn within_tls_no_frame_is_lost() {
    // The front must know where the cameras are, and the server the front's certificate.
    let behind = Cameras::start(1).unwrap();
    let front =
        TlsFront::start(behind.url("").trim_start_matches("rtsp://").parse().unwrap(), &["127.0.0.1"]).await;
    let folder = tempfile::tempdir().unwrap();
    let certificates = folder.path().join("cameras.pem");
    std::fs::write(&certificates, &front.certificate).unwrap();
    let believes = ("LONGWATCH_RTSPS_CA", certificates.display().to_string());
    let given = Given::start_with(5_000, 1, vec![believes]).await;
    let url = format!("rtsps://{}/cam/1", front.address);
    let id = given.api.add_camera("within TLS", &url).await.unwrap();
    given.until_recording(&id).await;
    sleep(RECORDED).await;
    given.stop().await;
    assert_plays(("/cam/1", "h264", Some("aac")), &given.files(&id));
}

#[tokio::test]
async fn what_cannot_be_recorded_says_so() {
    let given = Given::start(5_000, 1).await;
    let url = given.cameras.url("/hostile/audio-only");
    let id = given.api.add_camera("sound", &url).await.unwrap();
    until("a camera without video says what it offers", Duration::from_secs(20), async || {
        let camera = given.camera(&id).await?;
        let detail = camera["state_detail"].as_str().unwrap_or_default();
        let told = camera["state_reason"] == "unsupported_codec"
            && detail.contains("audio/pcmu")
            && detail.contains("H.264 or H.265");
        if told { Ok(()) } else { Err(camera) }
    })
    .await;
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn the_log_tells_what_is_left_out_and_what_jumped() {
    let folder = tempfile::tempdir().unwrap();
    let cameras = Cameras::start(1).unwrap();
    let options = Options {
        folder: folder.path().to_owned(),
        controls: 1,
        database: None,
        servers: 1,
        capacity: None,
        segment_ms: Some(5_000),
        object_store: None,
    };
    let cluster = Cluster::start(&options).await.unwrap();
    let api = cluster.api(0);
    let g722 = api.add_camera("g722", &cameras.url("/odd/g722/1")).await.unwrap();
    let jumping = api.add_camera("jumping", &cameras.url("/odd/jump-back/1")).await.unwrap();
    let log = cluster.log().await.unwrap();
    let (left_out, jumped) = until("both are told", Duration::from_secs(40), async || {
        let entries = history::read(&log, LogStream::Recordings).await.map_err(|e| e.to_string())?;
        let facts = entries.into_iter().filter_map(|entry| match entry.event {
            Event::RecordingReported(report) => Some(report.facts),
            _ => None,
        });
        let (mut left_out, mut jumped) = (None, None);
        for fact in facts.flatten() {
            let camera = fact.camera_id().to_string();
            match fact {
                Fact::Started(started) if camera == g722 => left_out = Some(started.not_recorded),
                Fact::TimestampJumped(told) if camera == jumping => jumped = Some(told.by_ms),
                Fact::Gap(gap) if camera == jumping => panic!("a jump that cost frames: {gap:?}"),
                _ => {}
            }
        }
        left_out.zip(jumped).ok_or(Value::from("not yet"))
    })
    .await;
    assert_eq!(left_out, ["audio/g722"]);
    // What it jumped by, and a frame or so more: where the frame should have been is not known better.
    assert!((jumped + 3_600_000).abs() < 1_000, "{jumped}");
}
