//! Records replayed clips into a real archive and lets ffprobe judge the files.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Clip, ClipFrame, clip, number, probe};
use longwatch_events::fact::{Cause, Codec, Fact, Gap, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, SystemIds, TenantId};
use longwatch_events::position::Epoch;
use longwatch_events::time::{SystemClock, Timestamp};
use longwatch_worker::archive::layout::{COPY, PART, UNSYNCED};
use longwatch_worker::archive::{Archive, repair};
use longwatch_worker::camera::{
    self, Break, CameraState, CameraTask, Hold, Identity, Settings, Stats, Stopped,
};
use longwatch_worker::dials::Dials;
use longwatch_worker::frame::Beside;
use longwatch_worker::rotation::Lengths;
use longwatch_worker::source::{Failure, Received, Session, Source};
use longwatch_worker::tick::Ticker;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const START: Timestamp = Timestamp::from_micros(1_795_420_800_123_456);
const H264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "0"];
const H264_B: &[&str] =
    &["-c:v", "libx264", "-preset", "veryfast", "-g", "25", "-bf", "3", "-flags", "+cgop"];
const H265_OPEN_GOP: &[&str] = &[
    "-c:v",
    "libx265",
    "-preset",
    "ultrafast",
    "-x265-params",
    "log-level=error:keyint=25:min-keyint=25:open-gop=1:bframes=2",
    "-tag:v",
    "hvc1",
];

/// Plays one clip per session, as fast as it is read, and then fails; after the last clip it stays connected.
struct Replay {
    clips: Vec<Clip>,
    opened: AtomicUsize,
}

struct Playing {
    items: std::vec::IntoIter<Received>,
    more: bool,
}

impl Source for Replay {
    type Session = Playing;

    async fn open(&self) -> Result<Playing, Failure> {
        let n = self.opened.fetch_add(1, Ordering::Relaxed);
        let Some(clip) = self.clips.get(n) else {
            return Err(Failure::new(Cause::Refused, "no more clips"));
        };
        let frames = clip.frames.iter().cloned().map(|frame| match frame {
            ClipFrame::Video(frame) => Received::Video(frame),
            ClipFrame::Audio(frame) => Received::Beside(Beside::Audio(frame)),
        });
        let items: Vec<_> =
            std::iter::once(Received::Tracks(Arc::clone(&clip.tracks))).chain(frames).collect();
        Ok(Playing { items: items.into_iter(), more: n + 1 < self.clips.len() })
    }
}

impl Session for Playing {
    async fn next(&mut self) -> Result<Received, Failure> {
        match self.items.next() {
            Some(item) => Ok(item),
            None if self.more => Err(Failure::new(Cause::Closed, "end of clip")),
            None => std::future::pending().await,
        }
    }

    async fn close(self) {}
}

struct Recorded {
    facts: Vec<Fact>,
    stopped: Stopped,
    identity: Identity,
}

impl Recorded {
    fn segments(&self) -> Vec<&SegmentStored> {
        self.facts
            .iter()
            .filter_map(|fact| match fact {
                Fact::SegmentStored(stored) => Some(stored),
                Fact::Started(_)
                | Fact::FirstKeyframeDurable(_)
                | Fact::SegmentUploaded(_)
                | Fact::SegmentDeleted(_)
                | Fact::SegmentChecked(_)
                | Fact::Interrupted(_)
                | Fact::Gap(_)
                | Fact::TimestampJumped(_)
                | Fact::RecordingTriggered(_) => None,
            })
            .collect()
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.facts
            .iter()
            .map(|fact| match fact {
                Fact::Started(_) => "started",
                Fact::FirstKeyframeDurable(_) => "durable",
                Fact::SegmentStored(_) => "stored",
                Fact::SegmentUploaded(_) => "uploaded",
                Fact::SegmentDeleted(_) => "deleted",
                Fact::SegmentChecked(_) => "checked",
                Fact::Interrupted(_) => "interrupted",
                Fact::Gap(_) => "gap",
                Fact::TimestampJumped(_) => "jumped",
                Fact::RecordingTriggered(_) => "triggered",
            })
            .collect()
    }
}

/// Records `clips` until the last picture of the last one was received, then stops.
async fn record(root: &Path, clips: Vec<Clip>, resume: Option<Break>, settings: Settings) -> Recorded {
    let (facts, mut facts_out) = mpsc::unbounded_channel();
    let (stats, cancel) = (Arc::new(Stats::default()), CancellationToken::new());
    let pictures: usize = clips.iter().map(|clip| clip.pictures().count()).sum();
    let identity = Identity {
        tenant_id: TenantId::DEFAULT,
        camera_id: CameraId::generate(&SystemIds),
        epoch: Epoch(7),
        server_id: ServerId::generate(&SystemIds),
    };
    let task = tokio::spawn(camera::run(CameraTask {
        identity,
        source: Replay { clips, opened: AtomicUsize::new(0) },
        settings,
        archive: Archive::new(root.into(), 4).unwrap(),
        facts,
        clock: Arc::new(SystemClock),
        stats: Arc::clone(&stats),
        cancel: cancel.clone(),
        hold: Hold::always(),
        wish: tokio::sync::watch::channel(longwatch_worker::wish::Wish::Always).1,
        ticker: Ticker::none(),
        dials: (Dials::new(1), 0),
        resume,
    }));
    let all_received = async {
        while stats.frames() < pictures as u64 || stats.state() != CameraState::Recording {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all_received).await.expect("all pictures within 30 s");
    cancel.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(6), task).await.expect("stops in time").unwrap();
    let mut all = Vec::new();
    while let Some(fact) = facts_out.recv().await {
        all.push(fact);
    }
    Recorded { facts: all, stopped, identity }
}

fn settings(segment_ms: u32) -> Settings {
    Settings {
        lengths: Lengths { segment_ms, fragment_ms: 500, ..Lengths::default() },
        ..Settings::default()
    }
}

/// What ffprobe says of one stream's packets: (dts, pts, is key, hash of the data).
fn packets(probed: &serde_json::Value, kind: &str) -> Vec<(i64, i64, bool, String)> {
    let of_kind = probed["packets"].as_array().unwrap().iter().filter(|packet| packet["codec_type"] == kind);
    of_kind
        .map(|packet| {
            let key = packet["flags"].as_str().unwrap().starts_with('K');
            let hash = packet["data_hash"].as_str().unwrap().to_owned();
            (number(&packet["dts"]), number(&packet["pts"]), key, hash)
        })
        .collect()
}

/// Everything that must be true of the files of one session; returns the hashes of all pictures in order.
fn check_files(root: &Path, recorded: &Recorded, codec: &str, audio: bool) -> Vec<String> {
    let segments = recorded.segments();
    for pair in segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "segments of a session touch");
    }
    let mut hashes = Vec::new();
    for segment in segments {
        let path = root.join(&segment.key);
        let content = std::fs::read(&path).unwrap();
        assert_eq!((segment.bytes, segment.sha256), (content.len() as u64, Sha256::of(&content)));
        let probed = probe(&path);
        assert_eq!(probed["streams"][0]["codec_name"], codec);
        assert_eq!(probed["streams"].as_array().unwrap().len(), if audio { 2 } else { 1 });
        let video = packets(&probed, "video");
        assert_eq!(video.len() as u64, segment.video_frames);
        assert!(video[0].2, "starts with a keyframe");
        for kind in ["video", "audio"] {
            let packets = packets(&probed, kind);
            assert!(
                packets.windows(2).all(|pair| pair[0].0 < pair[1].0),
                "decode times of {kind}: {packets:?}"
            );
        }
        let last = video.iter().map(|packet| packet.1).max().unwrap() + 3_600
            - video.iter().map(|p| p.1).min().unwrap();
        let lasts_ms = segment.end.millis_since(segment.start);
        assert!((last / 90 - lasts_ms).abs() <= 42, "{last} {lasts_ms}");
        hashes.extend(video.into_iter().map(|packet| packet.3));
    }
    hashes
}

fn clip_hashes(path: &Path) -> Vec<String> {
    packets(&probe(path), "video").into_iter().map(|packet| packet.3).collect()
}

async fn records_every_frame(encoder: &[&str], codec: Codec, codec_name: &str, audio: bool) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("archive");
    std::fs::create_dir(&root).unwrap();
    let path = clip(folder.path(), "clip.mp4", 8, encoder, audio);
    let recorded = record(&root, vec![Clip::read(&path, codec, START)], None, settings(2_000)).await;

    let hashes = check_files(&root, &recorded, codec_name, audio);
    assert_eq!(hashes, clip_hashes(&path), "no picture lost, none doubled");
    let segments = recorded.segments();
    assert!(segments.len() >= 4, "{}", segments.len());
    assert!(segments.iter().all(|segment| segment.audio == audio.then_some(Codec::Aac) && !segment.repaired));
    assert_eq!(recorded.kinds()[..2], ["started", "durable"]);
    assert!(!recorded.kinds().contains(&"gap"), "{:?}", recorded.facts);
    assert_eq!(recorded.stopped.stored_until, segments.last().map(|segment| segment.end));
}

#[tokio::test]
async fn h264_with_audio() {
    records_every_frame(H264, Codec::H264, "h264", true).await;
}

#[tokio::test]
async fn h264_with_b_pictures() {
    records_every_frame(H264_B, Codec::H264, "h264", true).await;
}

#[tokio::test]
async fn h265_with_open_gops() {
    records_every_frame(H265_OPEN_GOP, Codec::H265, "hevc", false).await;
}

#[tokio::test]
async fn presentation_times_of_b_pictures_survive() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(folder.path(), "clip.mp4", 4, H264_B, false);
    let recorded =
        record(folder.path(), vec![Clip::read(&path, Codec::H264, START)], None, settings(60_000)).await;
    let stored = packets(&probe(&folder.path().join(&recorded.segments()[0].key)), "video");
    let given = packets(&probe(&path), "video");
    let steps = |packets: &[(i64, i64, bool, String)]| -> Vec<i64> {
        let least = packets.iter().map(|packet| packet.1).min().unwrap();
        packets.iter().map(|packet| packet.1 - least).collect()
    };
    let until = stored.len();
    assert_eq!(steps(&stored), steps(&given[..until]));
}

#[tokio::test]
async fn a_reconnect_tells_its_gap() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = clip(root, "clip.mp4", 3, H264, false);
    let later = START.plus_millis(10_000);
    let clips = vec![Clip::read(&path, Codec::H264, START), Clip::read(&path, Codec::H264, later)];
    // Given a camera that was stored up to a second before, by a worker that then was restarted …
    let before = Break { end: START.plus_millis(-1_000), cause: Cause::WorkerRestarted };
    // … when its connection closes after three seconds and is there again ten seconds after the start …
    let recorded = record(root, clips, Some(before), settings(60_000)).await;
    // … then both breaks are told, each after the keyframe that ended it.
    let told: Vec<_> = recorded.kinds().into_iter().filter(|kind| *kind != "stored").collect();
    assert_eq!(told, ["started", "durable", "gap", "interrupted", "started", "durable", "gap"]);
    let gaps: Vec<_> = recorded
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Gap(Gap { start, end, cause, .. }) => Some((*start, *end, *cause)),
            Fact::Started(_)
            | Fact::FirstKeyframeDurable(_)
            | Fact::Interrupted(_)
            | Fact::SegmentUploaded(_)
            | Fact::SegmentDeleted(_)
            | Fact::SegmentChecked(_)
            | Fact::SegmentStored(_)
            | Fact::TimestampJumped(_)
            | Fact::RecordingTriggered(_) => None,
        })
        .collect();
    let end = recorded.segments()[0].end;
    assert_eq!(gaps[0], (before.end, START, Cause::WorkerRestarted));
    assert_eq!(gaps[1], (end, recorded.segments()[1].start, Cause::Closed));
    assert!(end.millis_since(START) >= 2_950, "{end}");
}

#[tokio::test]
async fn a_torn_segment_is_whole_after_repair() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("archive");
    std::fs::create_dir(&root).unwrap();
    let path = clip(folder.path(), "clip.mp4", 8, H264, true);
    let recorded = record(&root, vec![Clip::read(&path, Codec::H264, START)], None, settings(3_000)).await;
    let last = (*recorded.segments().last().unwrap()).clone();
    let stored = root.join(&last.key);
    let part = root.join(last.key.clone() + PART);
    // Given the last segment as a crash leaves it: open, and torn in the middle of a fragment …
    let whole = std::fs::read(&stored).unwrap();
    std::fs::write(&part, &whole[..whole.len() - 100]).unwrap();
    std::fs::remove_file(&stored).unwrap();
    // … and another one that makes no sense …
    let nonsense = part.with_file_name("nonsense.mp4.part");
    std::fs::write(&nonsense, b"nonsense").unwrap();

    let report = repair::scan(&root, 2);

    // … then the first is cut, renamed and playable, and the other one is out of the way.
    let [repaired] = &report.repaired[..] else { panic!("{report:?}") };
    assert_eq!((repaired.file.key.as_str(), repaired.segment.name.start), (last.key.as_str(), last.start));
    assert!(
        repaired.segment.end < last.end && repaired.segment.end.millis_since(last.end) >= -1_100,
        "{report:?}"
    );
    let content = std::fs::read(&stored).unwrap();
    assert_eq!((repaired.file.bytes, repaired.file.sha256), (content.len() as u64, Sha256::of(&content)));
    assert_eq!(packets(&probe(&stored), "video").len() as u64, repaired.segment.video_frames);
    assert!(!part.exists() && !nonsense.exists());
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(std::fs::read_dir(root.join(".longwatch/unreadable")).unwrap().count(), 1);
    let camera = (recorded.identity.tenant_id, recorded.identity.camera_id);
    assert_eq!(report.latest[&camera], repaired.segment);
    // And doing it again changes nothing.
    let again = repair::scan(&root, 2);
    assert_eq!((again.repaired.len(), again.problems.len(), again.latest), (0, 0, report.latest));
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = clip(folder.path(), "clip.mp4", 2, H264, false);
    // Given an archive whose root is a file …
    let root = folder.path().join("archive");
    std::fs::write(&root, b"").unwrap();
    let (facts, mut facts_out) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let stats = Arc::new(Stats::default());
    let clip = Clip::read(&path, Codec::H264, START);
    let task = tokio::spawn(camera::run(CameraTask {
        identity: Identity {
            tenant_id: TenantId::DEFAULT,
            camera_id: CameraId::generate(&SystemIds),
            epoch: Epoch(7),
            server_id: ServerId::generate(&SystemIds),
        },
        source: Replay { clips: vec![clip.clone(), clip.clone(), clip], opened: AtomicUsize::new(0) },
        settings: settings(60_000),
        archive: Archive::new(root.clone(), 1).unwrap(),
        facts,
        clock: Arc::new(SystemClock),
        stats: Arc::clone(&stats),
        cancel: cancel.clone(),
        hold: Hold::always(),
        wish: tokio::sync::watch::channel(longwatch_worker::wish::Wish::Always).1,
        ticker: Ticker::none(),
        dials: (Dials::new(1), 0),
        resume: None,
    }));
    let next = async |facts: &mut mpsc::UnboundedReceiver<Fact>| {
        tokio::time::timeout(Duration::from_secs(10), facts.recv()).await.expect("a fact in time").unwrap()
    };
    assert!(matches!(next(&mut facts_out).await, Fact::Started(_)));
    let Fact::Interrupted(interrupted) = next(&mut facts_out).await else {
        panic!("the failure is told next")
    };
    assert_eq!(interrupted.cause, Cause::StorageError);
    // … when the archive is there again, then so is the recording.
    std::fs::remove_file(&root).unwrap();
    std::fs::create_dir(&root).unwrap();
    while !matches!(next(&mut facts_out).await, Fact::FirstKeyframeDurable(_)) {}
    assert_eq!(stats.state(), CameraState::Recording);
    cancel.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_segment_whose_sync_failed_is_copied_and_never_named_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("archive");
    std::fs::create_dir(&root).unwrap();
    let path = clip(folder.path(), "clip.mp4", 4, H264, true);
    let recorded = record(&root, vec![Clip::read(&path, Codec::H264, START)], None, settings(60_000)).await;
    let last = (*recorded.segments().last().unwrap()).clone();
    let stored = root.join(&last.key);
    // Given a segment that was marked when its disk failed to sync it, with half a fragment at its end, …
    let marked = root.join(last.key.clone() + PART + UNSYNCED);
    let whole = std::fs::read(&stored).unwrap();
    std::fs::write(&marked, &whole[..whole.len() - 100]).unwrap();
    std::fs::remove_file(&stored).unwrap();
    let original = std::fs::metadata(&marked).unwrap().ino();
    // … and a copy of it that a crash cut short …
    std::fs::write(root.join(last.key.clone() + COPY), b"cut short").unwrap();

    let report = repair::scan(&root, 2);

    // … then another file has the name, with the whole fragments, …
    let [repaired] = &report.repaired[..] else { panic!("{report:?}") };
    let content = std::fs::read(&stored).unwrap();
    assert_ne!(std::fs::metadata(&stored).unwrap().ino(), original);
    assert_eq!((repaired.file.bytes, repaired.file.sha256), (content.len() as u64, Sha256::of(&content)));
    assert_eq!(content, whole[..content.len()]);
    assert_eq!(packets(&probe(&stored), "video").len() as u64, repaired.segment.video_frames);
    // … the original is out of the way, whole, and a person is told.
    let aside: Vec<_> = std::fs::read_dir(root.join(".longwatch/unreadable")).unwrap().collect();
    let [Ok(aside)] = &aside[..] else { panic!("{aside:?}") };
    assert_eq!(aside.metadata().unwrap().ino(), original);
    assert_eq!(std::fs::read(aside.path()).unwrap(), whole[..whole.len() - 100]);
    assert_eq!(report.problems.len(), 1, "{report:?}");
    assert_eq!(std::fs::read_dir(stored.parent().unwrap()).unwrap().count(), 1);
    let again = repair::scan(&root, 2);
    assert_eq!((again.repaired.len(), again.problems.len(), again.latest), (0, 0, report.latest));
}
