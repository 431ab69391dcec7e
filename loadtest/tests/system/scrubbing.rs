//! Stored video that rots, vanishes, or comes from nowhere is found while recording goes on, told once, and never touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use serde_json::Value;

use crate::given::{Given, until};
use crate::recording::assert_no_frame_lost;

const SEGMENT_MS: u64 = 2_000;
const WITHIN: Duration = Duration::from_secs(60);
/// By so much the orphan is older than the segment that it is made of.
const OLDER_MS: i64 = 10 * 60_000;

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn start_of(segment: &Value) -> Timestamp {
    segment["start"].as_str().unwrap().parse().unwrap()
}

/// The file of a segment: its name says when it begins, in milliseconds.
fn file_of<'a>(files: &'a [PathBuf], segment: &Value) -> &'a Path {
    let start = start_of(segment).to_string();
    let time = start[11..23].replace(':', "-");
    let is_it = |file: &&PathBuf| file.file_name().unwrap().to_str().unwrap().starts_with(&time);
    files.iter().find(is_it).unwrap_or_else(|| panic!("no file begins at {time}: {files:?}"))
}

/// A copy of a segment that says of itself, in its name and inside, that it is older. Returns when it begins.
fn put_orphan(file: &Path, start: Timestamp) -> Timestamp {
    let older = start.plus_millis(-OLDER_MS);
    let mut bytes = fs::read(file).unwrap();
    // The time of a fragment stands in its `prft` (ISO/IEC 14496-12, 8.16.5), behind version, flags and track: seconds
    // in the first half of an NTP time.
    let boxes: Vec<_> =
        bytes.windows(4).enumerate().filter(|(_, w)| *w == b"prft").map(|(at, _)| at).collect();
    assert!(!boxes.is_empty());
    for at in boxes {
        let seconds: [u8; 4] = bytes[at + 12..at + 16].try_into().unwrap();
        let older = u32::from_be_bytes(seconds) - u32::try_from(OLDER_MS / 1_000).unwrap();
        bytes[at + 12..at + 16].copy_from_slice(&older.to_be_bytes());
    }
    let text = older.to_string();
    let behind_time = file.file_name().unwrap().to_str().unwrap().split_once('_').unwrap().1.to_owned();
    let day = file.parent().unwrap().with_file_name(&text[..10]);
    fs::create_dir_all(&day).unwrap();
    fs::write(day.join(format!("{}Z_{behind_time}", text[11..23].replace(':', "-"))), bytes).unwrap();
    older
}

/// How often control has folded each kind of finding.
async fn findings(given: &Given) -> Vec<String> {
    let text = reqwest::get(format!("{}/metrics", given.api.base())).await.unwrap().text().await.unwrap();
    let mut lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("longwatch_segments_checked_total{"))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Waits until a round of scrubbing that begins after now is over; what it found.
async fn next_round(given: &Given) -> Value {
    let now = SystemClock.now();
    until("a round of scrubbing is over", WITHIN, async || {
        let servers = given.api.get("/v1/servers").await.map_err(|error| Value::String(error.to_string()))?;
        let scrub = servers["items"][0]["load"]["scrub"].clone();
        let time = |name: &str| scrub[name].as_str().and_then(|text| text.parse::<Timestamp>().ok());
        match (time("began_at"), time("completed_at")) {
            (Some(began), Some(completed)) if began > now && completed > began => Ok(scrub),
            _ => Err(scrub),
        }
    })
    .await
}

#[tokio::test]
async fn what_rots_vanishes_or_comes_from_nowhere_is_told_once_and_recording_goes_on() {
    // A round every two seconds or so.
    let settings = vec![("LONGWATCH_SCRUB_EVERY_DAYS", "0.00002".to_owned())];
    let given = Given::start_with(SEGMENT_MS, 1, settings).await;
    let id = given.record("camera", "/small/1").await;
    let timeline = until("five segments are in the timeline", WITHIN, async || {
        let timeline = given.timeline(&id).await;
        if list(&timeline["segments"]).len() >= 5 { Ok(timeline) } else { Err(timeline) }
    })
    .await;
    let segments = list(&timeline["segments"]).to_vec();
    assert!(segments.iter().all(|segment| segment["damage"].is_null()), "{segments:?}");
    let files = given.files(&id);
    let (rots, goes) = (file_of(&files, &segments[1]), file_of(&files, &segments[2]));
    let (of_rotten, of_gone) = (fs::read(rots).unwrap(), fs::read(goes).unwrap());

    // When a bit of one flips, another one is removed, and a third one comes from nowhere …
    let mut rotten = of_rotten.clone();
    let middle = rotten.len() / 2;
    rotten[middle] ^= 1;
    fs::write(rots, &rotten).unwrap();
    fs::remove_file(goes).unwrap();
    let orphan_start = put_orphan(file_of(&files, &segments[0]), start_of(&segments[0]));

    // … then all three are in the timeline, and the one that is gone is a gap that says so …
    let find = |timeline: &Value, start: Timestamp| {
        list(&timeline["segments"]).iter().find(|segment| start_of(segment) == start).cloned()
    };
    until("all of it is told", WITHIN, async || {
        let timeline = given.timeline(&id).await;
        let damage =
            |n: usize| find(&timeline, start_of(&segments[n])).map(|segment| segment["damage"].clone());
        let gap = list(&timeline["gaps"])
            .iter()
            .any(|gap| gap["cause"] == "segment_missing" && gap["start"] == segments[2]["start"]);
        let told = damage(1) == Some("corrupt".into()) && damage(2) == Some("missing".into());
        if told && gap && find(&timeline, orphan_start).is_some() { Ok(()) } else { Err(timeline) }
    })
    .await;
    assert_eq!(fs::read(rots).unwrap(), rotten, "it is left as it is");

    // … and the rounds after it find the same, and say nothing new.
    let expected = [
        r#"longwatch_segments_checked_total{found="corrupt"} 1"#,
        r#"longwatch_segments_checked_total{found="missing"} 1"#,
    ];
    for _ in 0..2 {
        let scrub = next_round(&given).await;
        assert_eq!(
            (&scrub["missing"], &scrub["corrupt"], &scrub["orphans"]),
            (&1.into(), &1.into(), &0.into())
        );
        assert!(scrub["checked"].as_u64().unwrap() >= 6, "{scrub}");
        assert_eq!(findings(&given).await, expected);
    }

    // What is put back is right again.
    fs::write(rots, &of_rotten).unwrap();
    fs::write(goes, &of_gone).unwrap();
    until("all is right again", WITHIN, async || {
        let timeline = given.timeline(&id).await;
        let damaged = list(&timeline["segments"]).iter().any(|segment| !segment["damage"].is_null());
        let missing = list(&timeline["gaps"]).iter().any(|gap| gap["cause"] == "segment_missing");
        if damaged || missing { Err(timeline) } else { Ok(()) }
    })
    .await;

    // All the while no frame was lost.
    given.stop().await;
    let all = given.files(&id);
    let orphan = |file: &&PathBuf| !files.contains(*file) && file_name(file) < file_name(&files[0]);
    let recorded: Vec<_> = all.iter().filter(|file| !orphan(file)).cloned().collect();
    assert_eq!(all.len() - recorded.len(), 1, "{all:?}");
    assert!(recorded.len() > 5);
    assert_no_frame_lost(&recorded);
}

fn file_name(file: &Path) -> String {
    let parts: Vec<_> = file.iter().rev().take(2).map(|part| part.to_string_lossy().into_owned()).collect();
    format!("{}/{}", parts[1], parts[0])
}
