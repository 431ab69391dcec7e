//! Real video for tests: clips made by ffmpeg, replayed as a camera would send them, and files judged by ffprobe.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod rig;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use longwatch_events::fact::Codec;
use longwatch_events::time::Timestamp;
use longwatch_worker::frame::{
    Arrival, AudioFrame, AudioTrack, Tracks, VideoFrame, VideoTrack, is_random_access,
};
use serde_json::Value;

/// Runs a program that the tests cannot do without; returns what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| {
        panic!("{program} is needed for this test (Debian: apt-get install ffmpeg): {e}")
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} failed: {said}");
    output.stdout
}

/// Makes a clip of `seconds` at 25 pictures a second in `folder`. `encoder` are ffmpeg's options for the video.
pub(crate) fn clip(folder: &Path, name: &str, seconds: u32, encoder: &[&str], audio: bool) -> PathBuf {
    let path = folder.join(name);
    let video = format!("testsrc2=size=320x240:rate=25:duration={seconds}");
    let sound = format!("sine=frequency=440:sample_rate=16000:duration={seconds}");
    let mut arguments = vec!["-v", "error", "-f", "lavfi", "-i", &video];
    if audio {
        arguments.extend(["-f", "lavfi", "-i", &sound, "-c:a", "aac", "-b:a", "32k"]);
    }
    arguments.extend(encoder);
    let text = path.to_str().unwrap();
    arguments.extend(["-video_track_timescale", "90000", "-y", text]);
    run("ffmpeg", &arguments);
    path
}

/// One frame of a clip.
#[derive(Debug, Clone)]
pub(crate) enum ClipFrame {
    Video(VideoFrame),
    Audio(AudioFrame),
}

/// A clip as a camera sends it: tracks and frames in decoding order.
#[derive(Debug, Clone)]
pub(crate) struct Clip {
    pub(crate) tracks: Arc<Tracks>,
    pub(crate) frames: Vec<ClipFrame>,
}

impl Clip {
    /// Reads a clip. Every frame arrives at `start` plus its decode time.
    pub(crate) fn read(path: &Path, codec: Codec, start: Timestamp) -> Self {
        let file = std::fs::read(path).unwrap();
        let probed = probe(path);
        let entries = sample_entries(&file);
        let track = |kind: &str| {
            probed["streams"].as_array().unwrap().iter().position(|stream| stream["codec_type"] == kind)
        };
        let (video, audio) = (track("video").unwrap(), track("audio"));
        let tracks = Tracks {
            video: VideoTrack {
                codec,
                timescale: NonZeroU32::new(90_000).unwrap(),
                sample_entry: entries[video].clone(),
                width: 320,
                height: 240,
            },
            audio: audio.map(|index| AudioTrack {
                codec: Codec::Aac,
                timescale: NonZeroU32::new(16_000).unwrap(),
                sample_entry: entries[index].clone(),
            }),
            metadata: None,
            not_recorded: Vec::new(),
        };
        let file = Bytes::from(file);
        let frames = probed["packets"].as_array().unwrap().iter().map(|packet| {
            let begin = usize::try_from(number(&packet["pos"])).unwrap();
            let data = file.slice(begin..begin + usize::try_from(number(&packet["size"])).unwrap());
            let media_time = number(&packet["pts"]);
            if number(&packet["stream_index"]) == i64::try_from(video).unwrap() {
                let decoded_us = number(&packet["dts"]) * 1_000_000 / 90_000;
                ClipFrame::Video(VideoFrame {
                    random_access: is_random_access(codec, &data),
                    data,
                    media_time,
                    arrival: Arrival { at: start.plus_micros(decoded_us), monotonic_us: decoded_us },
                })
            } else {
                let duration = NonZeroU32::new(1_024).unwrap();
                let heard_us = media_time * 1_000_000 / 16_000;
                let arrival = Arrival { at: start.plus_micros(heard_us), monotonic_us: heard_us };
                ClipFrame::Audio(AudioFrame { data, media_time, duration, arrival })
            }
        });
        Self { tracks: Arc::new(tracks), frames: frames.collect() }
    }

    pub(crate) fn pictures(&self) -> impl Iterator<Item = &VideoFrame> {
        self.frames.iter().filter_map(|frame| match frame {
            ClipFrame::Video(frame) => Some(frame),
            ClipFrame::Audio(_) => None,
        })
    }
}

/// A number that ffprobe writes as a number or as a text.
pub(crate) fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Streams and packets of a file, as ffprobe sees them.
pub(crate) fn probe(path: &Path) -> Value {
    let path = path.to_str().unwrap();
    let arguments =
        ["-v", "error", "-show_streams", "-show_packets", "-show_data_hash", "sha256", "-of", "json", path];
    serde_json::from_slice(&run("ffprobe", &arguments)).unwrap()
}

/// The first sample entry of each track of an MP4 file.
fn sample_entries(file: &[u8]) -> Vec<Bytes> {
    let moov = children(file).into_iter().find(|(kind, _)| kind == b"moov").unwrap().1;
    children(moov)
        .into_iter()
        .filter(|(kind, _)| kind == b"trak")
        .map(|(_, track)| {
            let mut content = track;
            for wanted in [b"mdia", b"minf", b"stbl", b"stsd"] {
                content = children(content).into_iter().find(|(kind, _)| kind == wanted).unwrap().1;
            }
            let entry = &content[8..];
            let size = usize::try_from(u32::from_be_bytes(entry[..4].try_into().unwrap())).unwrap();
            Bytes::copy_from_slice(&entry[..size])
        })
        .collect()
}

fn children(mut content: &[u8]) -> Vec<([u8; 4], &[u8])> {
    let mut found = Vec::new();
    while content.len() >= 8 {
        let size = usize::try_from(u32::from_be_bytes(content[..4].try_into().unwrap())).unwrap();
        found.push((content[4..8].try_into().unwrap(), &content[8..size]));
        content = &content[size..];
    }
    found
}
