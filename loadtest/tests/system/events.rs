//! Cameras that are recorded around events, told of over the API.

use std::time::Duration;

use longwatch_events::id::CameraId;
use longwatch_events::time::{Clock as _, SystemClock};
use reqwest::Method;
use serde_json::json;

use crate::failover::{Given as Fleet, RECORDING_WITHIN, camera_of, timeline};
use crate::given::{Given, millis, until};
use crate::recording::assert_no_frame_lost;

const CAMERAS: &str = "/v1/tenants/default/cameras";
/// Of the simulator's cameras.
const GOP_MS: i64 = 2_000;
const PRE_MS: i64 = 3_000;

async fn until_idle(given: &Given, id: &str) {
    until("the camera waits for events", Duration::from_secs(40), async || {
        let camera = given.camera(id).await?;
        let is_idle = camera["state"] == "idle" && camera["state_reason"] == "no_event";
        if is_idle { Ok(()) } else { Err(camera) }
    })
    .await;
}

#[tokio::test]
async fn a_camera_is_recorded_from_before_an_event_until_after_the_last_one() {
    let given = Given::start(60_000, 1).await;
    let body = json!({
        "name": "gate", "source": { "url": given.cameras.url("/small/1") },
        "recording": { "mode": "event", "event": { "pre_ms": PRE_MS, "post_ms": 4_000 } },
    });
    let added = given.api.call(Method::POST, CAMERAS, Some(&body)).await.unwrap();
    let id = added["id"].as_str().unwrap().to_owned();
    // Given a camera at which nothing has happened for a while, then there is nothing of it, and nobody waits for it.
    until_idle(&given, &id).await;
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    assert_eq!(given.timeline(&id).await["segments"], json!([]));
    assert_eq!(given.files(&id), Vec::<std::path::PathBuf>::new());

    // When something happens, and something else before that is over, …
    let events = format!("{CAMERAS}/{id}/events");
    let tell = async |kind: &str| {
        let told = given.api.call(Method::POST, &events, Some(&json!({ "kind": kind }))).await.unwrap();
        assert_eq!(
            (&told["records"], told["servers"].as_array().map(Vec::len)),
            (&json!(true), Some(1)),
            "{told}"
        );
        told
    };
    let first = tell("motion").await;
    given.until_recording(&id).await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    let second = tell("door_opened").await;
    assert!(millis(&second["at"]) < millis(&first["until"]), "the machine was too slow for this test");
    until_idle(&given, &id).await;
    // … then one segment holds all of it, from a keyframe before it to the end of the last.
    let timeline = until("its segment is there", Duration::from_secs(15), async || {
        let timeline = given.timeline(&id).await;
        if timeline["segments"] == json!([]) { Err(timeline) } else { Ok(timeline) }
    })
    .await;
    let [segment] = &timeline["segments"].as_array().unwrap()[..] else { panic!("{timeline:#}") };
    let early_ms = millis(&first["from"]) - millis(&segment["start"]);
    assert!((0..=GOP_MS + 100).contains(&early_ms), "it begins {early_ms} ms before what is wanted");
    let late_ms = millis(&segment["end"]) - millis(&second["until"]);
    assert!((0..=200).contains(&late_ms), "it ends {late_ms} ms after what is wanted");
    let told: Vec<_> = timeline["events"].as_array().unwrap().iter().map(|event| &event["kind"]).collect();
    assert_eq!(told, [&json!("motion"), &json!("door_opened")]);
    assert_eq!(timeline["events"][0]["id"], first["event_id"]);
    for gap in timeline["gaps"].as_array().unwrap() {
        // Until its worker had heard of it, nobody could say so.
        let is_beginning = matches!(gap["cause"].as_str(), Some("unplaced" | "connecting"))
            && millis(&gap["end"]) - millis(&gap["start"]) < 5_000;
        assert!(gap["cause"] == "no_event" || is_beginning, "{timeline:#}");
    }
    // What is told too late, or too early, is refused.
    let tomorrow = SystemClock.now().plus_millis(86_400_000).to_string();
    let refused =
        given.api.call(Method::POST, &events, Some(&json!({ "kind": "motion", "at": tomorrow }))).await;
    assert!(refused.is_err(), "{:?}", refused.ok());

    given.stop().await;
    let frames = assert_no_frame_lost(&given.files(&id));
    let expected = u64::try_from((millis(&segment["end"]) - millis(&segment["start"])) / 40).unwrap();
    assert!(frames.abs_diff(expected) <= 1, "{frames} frames, {expected} expected");
}

#[tokio::test]
async fn an_event_outlives_its_server() {
    // Given a camera whose server is lost in the middle of an event,
    let mut given = Fleet::start(1, &["high"]).await;
    let body = json!({
        "name": "gate", "source": { "url": given.camera_url(90) },
        "recording": { "mode": "event", "event": { "pre_ms": 1_000, "post_ms": 20_000 } },
    });
    let added = given.cluster.api(0).call(Method::POST, CAMERAS, Some(&body)).await.unwrap();
    let id: CameraId = added["id"].as_str().unwrap().parse().unwrap();
    let until_state = async |given: &Fleet, state: &str, not_at: &str| {
        until(&format!("the camera is {state}"), RECORDING_WITHIN, async || {
            let camera = camera_of(given.cluster.api(0), id).await?;
            let server = camera["assignment"]["server_id"].as_str().unwrap_or_default();
            if camera["state"] == state && server != not_at { Ok(server.to_owned()) } else { Err(camera) }
        })
        .await
    };
    until_state(&given, "idle", "").await;
    let events = format!("{CAMERAS}/{id}/events");
    let told =
        given.cluster.api(0).call(Method::POST, &events, Some(&json!({ "kind": "motion" }))).await.unwrap();
    let old = until_state(&given, "recording", "").await;
    assert_eq!(told["servers"], json!([old]));
    let victim = given.cluster.server_with(&old).unwrap();
    given.cluster.worker(victim).kill().unwrap();
    // then the server that takes it over records on, until the end of the event,
    let new = until_state(&given, "recording", &old).await;
    let again = SystemClock.now().as_millis();
    assert!(again < millis(&told["until"]), "the machine was too slow for this test");
    until_state(&given, "idle", &old).await;
    // and both tell of the same event.
    let told_by = until("its segments are there", RECORDING_WITHIN, async || {
        let timeline = timeline(given.cluster.api(0), id).await?;
        let segments = timeline["segments"].as_array().unwrap();
        let last =
            segments.iter().filter(|one| one["server_id"] == *new).map(|one| millis(&one["end"])).max();
        let ends = last.is_some_and(|end| (0..=200).contains(&(end - millis(&told["until"]))));
        if ends { Ok(timeline) } else { Err(timeline) }
    })
    .await;
    let events = told_by["events"].as_array().unwrap();
    assert_eq!(events.iter().map(|event| &event["id"]).collect::<Vec<_>>(), [&told["event_id"]]);
}
