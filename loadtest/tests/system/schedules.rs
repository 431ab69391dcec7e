//! Cameras with a schedule: recorded in its windows, at peace outside of them.

use std::time::Duration;

use longwatch_events::event::Event;
use longwatch_events::fact::{Cause, Fact};
use longwatch_events::id::CameraId;
use longwatch_events::position::Position;
use longwatch_events::reason::FinishReason;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock, Timestamp};
use longwatch_loadtest::system::moves::{How, ends, moves};
use longwatch_loadtest::system::process;
use reqwest::Method;
use serde_json::{Value, json};

use crate::failover::{Given as Fleet, RECORDING_WITHIN, camera_of};
use crate::given::{Given, millis, until};
use crate::recording::assert_no_frame_lost;

const CAMERAS: &str = "/v1/tenants/default/cameras";
/// Longer than the longest lead before a window.
const FAR_MS: i64 = 25_000;
const WINDOW_MS: i64 = 8_000;
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Of the simulator's cameras.
const GOP_MS: i64 = 2_000;

/// The next whole second after so many milliseconds from now.
fn whole_second_in(millis: i64) -> Timestamp {
    Timestamp::from_millis((SystemClock.now().as_millis() + millis) / 1_000 * 1_000 + 1_000)
}

/// What a clock in UTC reads then.
fn reads(at: Timestamp) -> String {
    at.to_string()[11..19].to_owned()
}

fn schedule(from: Timestamp, to: Timestamp) -> Value {
    let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let window = json!({ "days": days, "from": reads(from), "to": reads(to) });
    json!({ "mode": "schedule", "schedule": { "time_zone": "UTC", "weekly": [window] } })
}

async fn until_idle(given: &Given, id: &str) {
    until("the camera is idle", Duration::from_secs(40), async || {
        let camera = given.camera(id).await?;
        let is_idle = camera["state"] == "idle" && camera["state_reason"] == "not_scheduled";
        if is_idle { Ok(()) } else { Err(camera) }
    })
    .await;
}

#[tokio::test]
async fn a_scheduled_camera_is_recorded_in_its_window_only() {
    let given = Given::start(60_000, 1).await;
    let begins = whole_second_in(FAR_MS);
    let ends = begins.plus_millis(WINDOW_MS);
    let body = json!({
        "name": "at night",
        "source": { "url": given.cameras.url("/small/1") },
        "recording": schedule(begins, ends),
    });
    let added = given.api.call(Method::POST, CAMERAS, Some(&body)).await.unwrap();
    let id = added["id"].as_str().unwrap().to_owned();

    // Given a camera whose window has not begun, then it is idle, nothing waits for it, and nothing comes from it; …
    until_idle(&given, &id).await;
    until("nobody waits for the camera", Duration::from_secs(10), async || {
        let server = given.api.list("/v1/servers").await.unwrap().remove(0);
        let is_settled = server["unsettled"] == 0 && server["load"]["cameras"] == 1;
        if is_settled && server["load"]["received_bytes_per_s"] == 0 { Ok(()) } else { Err(server) }
    })
    .await;
    assert!(SystemClock.now() < begins, "the machine was too slow for this test");
    assert_eq!(given.timeline(&id).await["segments"], json!([]));
    // … when the window begins, then it is recorded, and when it ends it is idle again.
    given.until_recording(&id).await;
    until_idle(&given, &id).await;
    let segments = until("its segment is there", Duration::from_secs(10), async || {
        let timeline = given.timeline(&id).await;
        let segments = timeline["segments"].as_array().unwrap().clone();
        if segments.is_empty() { Err(timeline) } else { Ok(segments) }
    })
    .await;
    let [segment] = &segments[..] else { panic!("{segments:#?}") };
    let (start_ms, end_ms) = (millis(&segment["start"]), millis(&segment["end"]));
    let early_ms = begins.as_millis() - start_ms;
    assert!((0..=GOP_MS).contains(&early_ms), "it begins {early_ms} ms before its window");
    let late_ms = end_ms - ends.as_millis();
    assert!((0..=200).contains(&late_ms), "it ends {late_ms} ms after its window");

    // A worker that is killed while nothing is wanted of it has lost nothing.
    let killed = given.single.pid_of("worker").unwrap();
    process::kill_9(killed).unwrap();
    until("there is another worker", Duration::from_secs(30), async || {
        let again = given.single.pid_of("worker").filter(|pid| *pid != killed);
        again.map(|_| ()).ok_or_else(|| Value::from("no other worker"))
    })
    .await;
    let back = SystemClock.now().as_millis();
    until("all that is missing has its cause", Duration::from_secs(30), async || {
        let timeline = given.timeline(&id).await;
        let gaps = timeline["gaps"].as_array().unwrap();
        let after: Vec<_> = gaps.iter().filter(|gap| millis(&gap["start"]) >= end_ms).collect();
        let is_right = after.len() == 1
            && after[0]["cause"] == "not_scheduled"
            && millis(&after[0]["end"]) > back + 3_000;
        if is_right { Ok(()) } else { Err(timeline) }
    })
    .await;
    until_idle(&given, &id).await;
    let timeline = given.timeline(&id).await;
    for gap in timeline["gaps"].as_array().unwrap() {
        // Until its worker had heard of it, nobody could say so.
        let is_beginning = matches!(gap["cause"].as_str(), Some("unplaced" | "connecting"))
            && millis(&gap["end"]) - millis(&gap["start"]) < 5_000;
        assert!(gap["cause"] == "not_scheduled" || is_beginning, "{timeline:#}");
    }
    given.stop().await;
    let frames = assert_no_frame_lost(&given.files(&id));
    let expected = u64::try_from((end_ms - start_ms) / 40).unwrap();
    assert!(frames.abs_diff(expected) <= 1, "{frames} frames, {expected} expected");
}

#[tokio::test]
async fn a_recording_goes_on_through_a_change_to_a_schedule_that_is_on() {
    let given = Given::start(60_000, 1).await;
    let id = given.record("gate", "/small/1").await;
    let ends = whole_second_in(6_000);
    let body = json!({ "recording": schedule(ends.plus_millis(-DAY_MS / 2), ends) });
    given.api.call(Method::PATCH, &format!("{CAMERAS}/{id}"), Some(&body)).await.unwrap();
    until_idle(&given, &id).await;
    given.stop().await;
    let files = given.files(&id);
    assert_eq!(files.len(), 1, "one segment, not torn: {files:?}");
    assert_no_frame_lost(&files);
}

#[tokio::test]
async fn a_camera_outside_its_schedule_moves_without_a_keyframe() {
    let given = Fleet::start(1, &["high"]).await;
    let begins = whole_second_in(DAY_MS / 2);
    let camera = json!({
        "name": "at night",
        "source": { "url": given.camera_url(90) },
        "recording": schedule(begins, begins.plus_millis(3_600_000)),
    });
    let api = given.cluster.api(0);
    let added = api.call(Method::POST, CAMERAS, Some(&camera)).await.unwrap();
    let id: CameraId = added["id"].as_str().unwrap().parse().unwrap();
    let until_idle_at = async |allowed: &dyn Fn(&str) -> bool| {
        until("the camera is idle there", RECORDING_WITHIN, async || {
            let camera = camera_of(api, id).await?;
            let server = camera["assignment"]["server_id"].as_str().unwrap_or_default();
            let is_there = allowed(server) && camera["placements"][0]["moving_to"].is_null();
            if is_there && camera["state"] == "idle" { Ok(server.to_owned()) } else { Err(camera) }
        })
        .await
    };
    let old = until_idle_at(&|server| !server.is_empty()).await;
    let asked = SystemClock.now();
    api.call(Method::POST, &format!("/v1/servers/{old}:drain"), Some(&json!({}))).await.unwrap();
    let new = until_idle_at(&|server| server != old).await;
    assert_ne!(new, old);

    // What ended the move is that the new server has it, not that its time was over.
    let log = given.history(LogStream::Log).await;
    let mut its = moves(&log, Position::START);
    its.retain(|moved| moved.camera_id == id);
    assert_eq!(ends(&its), Some([How::Finished(FinishReason::FirstKeyframe)].into()), "{its:?}");
    let told: Vec<_> = given
        .history(LogStream::Recordings)
        .await
        .into_iter()
        .filter_map(|entry| {
            let Event::RecordingReported(report) = entry.event else { return None };
            Some(report.facts)
        })
        .flatten()
        .filter(|fact| fact.camera_id() == id)
        .collect();
    let rests = |fact: &Fact| matches!(fact, Fact::Interrupted(f) if f.cause == Cause::NotScheduled);
    assert!(told.len() >= 2 && told.iter().all(rests), "since {asked}: {told:#?}");
}
