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
    /// `video`, `audio` or `data`.
    pub(crate) kind: String,
    /// ffprobe's name; the name of its sample entry if that has none.
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
    play_by(&[], file)
}

/// The same of a playlist in a file, whose segments are on servers.
pub(crate) fn play_list(file: &Path) -> Vec<Played> {
    // It would use one connection for all, and complain of the second server that it is another.
    let apart = ["-http_persistent", "0"];
    play_by(&[["-protocol_whitelist", "file,http,tcp"], ["-allowed_extensions", "ALL"], apart].concat(), file)
}

fn play_by(by: &[&str], file: &Path) -> Vec<Played> {
    let asked = [by, &["-show_streams", "-count_packets", "-count_frames", "-of", "json"]].concat();
    let probed: Value = serde_json::from_slice(&run("ffprobe", file, &asked, &[])).unwrap();
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    let text = |stream: &Value, key: &str| stream[key].as_str().map(ToOwned::to_owned);
    let streams = probed["streams"].as_array().unwrap().iter().map(|stream| Played {
        kind: text(stream, "codec_type").unwrap_or_default(),
        codec: text(stream, "codec_name").or(text(stream, "codec_tag_string")).unwrap_or_default(),
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

/// The documents of a file: when each was, in milliseconds of its video, and what it is.
pub(crate) fn documents(file: &Path) -> Vec<(i64, Vec<u8>)> {
    let asked = ["-select_streams", "d", "-show_packets", "-of", "json"];
    let probed: Value = serde_json::from_slice(&run("ffprobe", file, &asked, &[])).unwrap();
    let all = run("ffmpeg", file, &["-i"], &["-map", "0:d", "-c", "copy", "-f", "data", "-"]);
    let mut rest = all.as_slice();
    let packets = probed["packets"].as_array().unwrap().iter().map(|packet| {
        let number = |key: &str| packet[key].as_str().unwrap().parse::<f64>().unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a short file")]
        let (at_ms, bytes) = ((number("pts_time") * 1_000.0).round() as i64, number("size") as usize);
        let (document, behind) = rest.split_at(bytes);
        rest = behind;
        (at_ms, document.to_vec())
    });
    let documents = packets.collect();
    assert!(rest.is_empty(), "{} bytes of no document in {}", rest.len(), file.display());
    documents
}
