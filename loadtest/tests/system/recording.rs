//! What is recorded is what was sent: every frame once, in files that other programs play.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use longwatch_loadtest::frames;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::given::{Given, millis};

/// As the issue asks: three minutes, across many segment borders.
const RECORDED: Duration = Duration::from_secs(180);
const SEGMENT_MS: u64 = 15_000;

/// What ffprobe says of a file.
fn ffprobe(file: &Path) -> Value {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_format", "-show_streams", "-of", "json"])
        .arg(file)
        .output()
        .expect("ffprobe is needed: run `make test`, or `tools/install.sh ffmpeg`");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{}: {complaints}", file.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

fn seconds(value: &Value) -> f64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no duration"))
}

/// All of a camera's frames, over all its files: no hole, no double.
pub(crate) fn assert_no_frame_lost(files: &[PathBuf]) -> u64 {
    let mut numbers = Vec::new();
    for file in files {
        let report = frames::inspect(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(report.is_clean(), "{}: {report:?}", file.display());
        numbers.extend(report.numbers);
    }
    let continuity = frames::continuity(&numbers);
    assert!(continuity.len() == 1 && continuity[0].is_clean(), "{continuity:?}");
    continuity[0].count
}

#[tokio::test]
async fn three_minutes_of_every_kind_of_camera_miss_no_frame() {
    let given = Given::start(SEGMENT_MS, 1).await;
    // family, codec as ffprobe names it, width, whether there is audio
    let kinds = [
        ("/cam/1", "h264", 1920, true),
        ("/h265/1", "hevc", 1280, false),
        ("/small/1", "h264", 320, false),
        ("/bframes/1", "h264", 320, false),
    ];
    let mut ids = Vec::new();
    for (path, ..) in kinds {
        let added = Instant::now();
        ids.push(given.record(path, path).await);
        // Well above what it takes, well below what the README promises.
        assert!(added.elapsed() < Duration::from_secs(5), "{path} took {:?}", added.elapsed());
    }
    sleep(RECORDED).await;
    for id in &ids {
        assert_timeline_is_whole(id, &given.timeline(id).await);
    }
    given.stop().await;
    let files = ids.iter().map(|id| given.files(id));
    for ((path, codec, width, audio), files) in kinds.into_iter().zip(files) {
        assert!(files.len() >= 12, "{path}: {files:?}");
        let frames = assert_no_frame_lost(&files);
        assert!(frames >= RECORDED.as_secs() * 25, "{path}: {frames} frames");
        for file in &files {
            assert_plays(file, codec, width, audio);
        }
    }
}

/// No gap since recording began, and each segment begins where the one before it ended.
fn assert_timeline_is_whole(id: &str, timeline: &Value) {
    let segments = timeline["segments"].as_array().unwrap();
    assert!(segments.len() >= 10, "{id}: {timeline:#}");
    for pair in segments.windows(2) {
        assert_eq!(pair[0]["end"], pair[1]["start"], "{id}");
    }
    let first = millis(&segments[0]["start"]);
    let late: Vec<_> =
        timeline["gaps"].as_array().unwrap().iter().filter(|gap| millis(&gap["end"]) > first).collect();
    assert!(late.is_empty(), "{id}: gaps since recording began: {late:?}");
    assert!(timeline["recording"].is_object(), "{id}: the live end is missing: {timeline:#}");
}

fn assert_plays(file: &Path, codec: &str, width: u64, audio: bool) {
    let probed = ffprobe(file);
    let streams = probed["streams"].as_array().unwrap();
    let video = streams.iter().find(|stream| stream["codec_type"] == "video").unwrap();
    assert_eq!((video["codec_name"].as_str(), video["width"].as_u64()), (Some(codec), Some(width)));
    let has_audio = streams.iter().any(|stream| stream["codec_name"] == "aac");
    assert_eq!(has_audio, audio, "{}", file.display());
    let report = frames::inspect(file).unwrap();
    let (ours, theirs) = (report.duration_ms as f64 / 1_000.0, seconds(&probed["format"]["duration"]));
    assert!((ours - theirs).abs() < 0.2, "{}: {ours} s of video, ffprobe says {theirs} s", file.display());
    let size = std::fs::metadata(file).unwrap().len();
    assert_eq!(probed["format"]["size"].as_str(), Some(size.to_string().as_str()));
}
