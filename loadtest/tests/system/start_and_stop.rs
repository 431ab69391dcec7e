//! Starting shows that it works; stopping leaves nothing behind; starting again goes on where it was.

use std::time::Duration;

use longwatch_loadtest::system::Single;
use longwatch_loadtest::system::process;
use serde_json::Value;

use crate::given::{Given, options, until};

const PARTS: [&str; 3] = ["nats-server", "control", "worker"];

#[tokio::test]
async fn a_stop_ends_every_child_and_a_start_goes_on_recording() {
    let given = Given::start(60_000, 1).await;
    let id = given.record("camera", "/small/1").await;
    let pids: Vec<_> = PARTS.iter().map(|part| given.single.pid_of(part).unwrap()).collect();
    given.stop().await;
    until("everything has stopped", Duration::from_secs(30), async || {
        let alive: Vec<_> = pids.iter().filter(|pid| process::is_alive(**pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(Value::from(format!("{alive:?} live"))) }
    })
    .await;
    assert_eq!(given.files(&id).len(), 1, "the open segment was closed");

    let mut again = Single::start(&options(given.folder(), 60_000)).unwrap();
    let api = again.ready().await.unwrap();
    until("the camera is recorded again", Duration::from_secs(20), async || {
        let recording = api.recording().await.map_err(|error| Value::from(error.to_string()))?;
        if recording == 1 { Ok(()) } else { Err(Value::from(recording)) }
    })
    .await;
    let timeline = api.get(&format!("/v1/tenants/default/cameras/{id}/timeline")).await.unwrap();
    let gaps = timeline["gaps"].as_array().unwrap();
    assert!(gaps.iter().any(|gap| gap["cause"] == "worker_stopped"), "{timeline:#}");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn nothing_outlives_a_supervisor_that_is_killed() {
    let given = Given::start(60_000, 1).await;
    let pids: Vec<_> = PARTS.iter().map(|part| given.single.pid_of(part).unwrap()).collect();
    process::kill_9(given.single.pid()).unwrap();
    until("every child has ended", Duration::from_secs(20), async || {
        let alive: Vec<_> = pids.iter().filter(|pid| process::is_alive(**pid)).collect();
        if alive.is_empty() { Ok(()) } else { Err(Value::from(format!("{alive:?} live"))) }
    })
    .await;
}

#[tokio::test]
async fn one_folder_takes_one_single() {
    let given = Given::start(60_000, 1).await;
    let mut second = Single::start(&options(given.folder(), 60_000)).unwrap();
    let error = second.ready().await.err().expect("a second Single must not start").to_string();
    assert!(error.contains("in use by another"), "{error}");
    given.single.stop().await.unwrap();
}
