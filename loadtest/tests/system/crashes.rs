//! `kill -9` of each part, one after the other: each comes back by itself, the others go on, and the timeline tells
//! the truth about what was lost.

use std::time::Duration;

use longwatch_loadtest::frames;
use longwatch_loadtest::system::process;
use serde_json::Value;
use tokio::time::sleep;

use crate::given::{Given, millis, until};
use crate::recording::assert_no_frame_lost;

const BACK_WITHIN: Duration = Duration::from_secs(15);
const SEGMENT_MS: u64 = 5_000;

/// Kills a part and waits until another process has taken its place.
async fn kill(given: &Given, part: &str) {
    let old = given.single.pid_of(part).unwrap_or_else(|| panic!("{part} does not run"));
    process::kill_9(old).unwrap();
    until(&format!("{part} is back"), BACK_WITHIN, async || match given.single.pid_of(part) {
        Some(new) if new != old => Ok(()),
        _ => Err(Value::from("not yet")),
    })
    .await;
    until("the API answers", BACK_WITHIN, async || {
        if given.api.is_ready().await { Ok(()) } else { Err(Value::from("not ready")) }
    })
    .await;
}

/// Waits until so many segments of the camera are in its timeline.
async fn until_segments(given: &Given, id: &str, count: usize) -> Value {
    until(&format!("{count} segments are in the timeline"), Duration::from_secs(60), async || {
        let timeline = given.timeline(id).await;
        if timeline["segments"].as_array().map_or(0, Vec::len) >= count {
            Ok(timeline)
        } else {
            Err(timeline)
        }
    })
    .await
}

#[tokio::test]
async fn killing_nats_and_control_costs_no_frame() {
    let given = Given::start(SEGMENT_MS, 1).await;
    let id = given.record("camera", "/small/1").await;
    until_segments(&given, &id, 1).await;
    kill(&given, "nats-server").await;
    kill(&given, "control").await;
    // Both at once, as when a machine is short of memory.
    process::kill_9(given.single.pid_of("nats-server").unwrap()).unwrap();
    kill(&given, "control").await;
    let before = given.timeline(&id).await["segments"].as_array().map_or(0, Vec::len);
    let timeline = until_segments(&given, &id, before + 2).await;

    let segments = timeline["segments"].as_array().unwrap();
    let first = millis(&segments[0]["start"]);
    let lost: Vec<_> =
        timeline["gaps"].as_array().unwrap().iter().filter(|gap| millis(&gap["end"]) > first).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_no_frame_lost(&given.files(&id));
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn killing_the_worker_costs_a_second_and_the_timeline_says_so() {
    let given = Given::start(SEGMENT_MS, 1).await;
    let id = given.record("camera", "/small/1").await;
    until_segments(&given, &id, 1).await;
    // In the middle of a segment.
    sleep(Duration::from_millis(2_500)).await;
    kill(&given, "worker").await;
    given.until_recording(&id).await;
    let (timeline, gap) = until("a segment follows the gap", Duration::from_secs(60), async || {
        let timeline = given.timeline(&id).await;
        let told = timeline["gaps"]
            .as_array()
            .unwrap()
            .iter()
            .find(|gap| gap["cause"] == "worker_restarted")
            .cloned();
        let segments = timeline["segments"].as_array().unwrap();
        match told {
            Some(gap) if segments.iter().any(|segment| segment["start"] == gap["end"]) => Ok((timeline, gap)),
            Some(_) | None => Err(timeline),
        }
    })
    .await;
    let first = millis(&timeline["segments"][0]["start"]);
    let since: Vec<_> =
        timeline["gaps"].as_array().unwrap().iter().filter(|gap| millis(&gap["end"]) > first).collect();
    assert_eq!(since, [&gap], "one crash, one gap");
    let gap_ms = millis(&gap["end"]) - millis(&gap["start"]);
    assert!((1..10_000).contains(&gap_ms), "a gap of {gap_ms} ms");

    // What the files hold agrees with what the timeline says: frames are missing in one place, and about as many as
    // the gap is long.
    let files = given.files(&id);
    let mut numbers = Vec::new();
    for file in &files {
        let report = frames::inspect(file).unwrap();
        assert!(report.is_clean() && !report.truncated, "{}: {report:?}", file.display());
        numbers.extend(report.numbers);
    }
    let continuity = &frames::continuity(&numbers)[0];
    assert_eq!((continuity.holes.len(), continuity.doubled), (1, 0), "{continuity:?}");
    let missing_ms = i64::try_from(continuity.missing).unwrap() * 40;
    assert!(
        (missing_ms - gap_ms).abs() < 500,
        "{missing_ms} ms of frames missing, a gap of {gap_ms} ms reported"
    );
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_restarts_while_nats_is_away_records_from_what_it_knows() {
    let given = Given::start(SEGMENT_MS, 1).await;
    let id = given.record("camera", "/small/1").await;
    until_segments(&given, &id, 1).await;
    // NATS is stopped, not killed: its supervisor sees it alive and does not replace it.
    let nats = given.single.pid_of("nats-server").unwrap();
    process::pause(nats).unwrap();
    let worker = given.single.pid_of("worker").unwrap();
    process::kill_9(worker).unwrap();
    let files_before = given.files(&id).len();
    until("a new segment is on disk", Duration::from_secs(30), async || {
        let files = given.files(&id).len();
        if files > files_before + 1 { Ok(()) } else { Err(Value::from(files)) }
    })
    .await;
    process::resume(nats).unwrap();
    let timeline = until("the timeline knows of it", Duration::from_secs(60), async || {
        let timeline = given.timeline(&id).await;
        let gaps = timeline["gaps"].as_array().unwrap();
        if gaps.iter().any(|gap| gap["cause"] == "worker_restarted") { Ok(timeline) } else { Err(timeline) }
    })
    .await;
    let unknown = timeline["gaps"].as_array().unwrap().iter().any(|gap| gap["cause"] == "unknown");
    assert!(!unknown, "{timeline:#}");
    given.single.stop().await.unwrap();
}
