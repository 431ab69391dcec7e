//! What ffmpeg makes of recorded files: it plays them without a word of complaint, and finds in them what was sent.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs one of ffmpeg's programs; what it printed. Panics if it has anything to complain about.
fn run(program: &str, file: &Path, before: &[&str], behind: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(["-v", "error"])
        .args(before)
        .arg(file)
        .args(behind)
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed: run `tools/install.sh ffmpeg`: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{program} {}: {complaints}", file.display());
    output.stdout
}

/// One stream of a file, as ffprobe sees it.
#[derive(Debug)]
pub(crate) struct Played {
    /// ffprobe's name.
    pub(crate) codec: String,
    /// Of the picture; 0 for sound.
    pub(crate) width: u64,
    /// Samples in the file.
    pub(crate) packets: u64,
    /// What they decode to.
    pub(crate) frames: u64,
}

/// Decodes all streams of a file, the video first.
pub(crate) fn play(file: &Path) -> Vec<Played> {
    let asked = ["-show_streams", "-count_packets", "-count_frames", "-of", "json"];
    let probed: Value = serde_json::from_slice(&run("ffprobe", file, &asked, &[])).unwrap();
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let streams = probed["streams"].as_array().unwrap().iter().map(|stream| Played {
        codec: stream["codec_name"].as_str().unwrap_or("?").to_owned(),
        width: stream["width"].as_u64().unwrap_or(0),
        packets: number(&stream["nb_read_packets"]),
        frames: number(&stream["nb_read_frames"]),
    });
    streams.collect()
}

/// The octets of a file's audio track, as they came, in a form that has nothing beside them.
pub(crate) fn sound(file: &Path, format: &str) -> Vec<u8> {
    run("ffmpeg", file, &["-i"], &["-map", "0:a", "-c", "copy", "-f", format, "-"])
}
