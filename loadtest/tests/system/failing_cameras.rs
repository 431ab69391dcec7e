//! A camera that misbehaves is told apart by its state, and its neighbour loses nothing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::given::{Given, until};
use crate::recording::assert_no_frame_lost;

/// Path, and the causes that tell the truth about it.
const HOSTILE: [(&str, &[&str]); 7] = [
    ("/hostile/401", &["unauthorized"]),
    ("/hostile/404", &["not_found"]),
    ("/hostile/hang", &["timeout"]),
    ("/hostile/garbage", &["protocol_error"]),
    ("/hostile/garbage-after-play", &["protocol_error"]),
    ("/hostile/close", &["closed"]),
    ("/hostile/hang-after-play", &["stalled", "timeout"]),
];

#[tokio::test]
async fn each_failing_camera_says_why_and_hurts_nobody() {
    let given = Given::start(5_000, 1).await;
    let good = given.record("good", "/small/1").await;
    let mut failing = Vec::new();
    for (path, causes) in HOSTILE {
        failing.push((given.api.add_camera(path, &given.cameras.url(path)).await.unwrap(), path, causes));
    }
    let refused = free_port();
    let url = format!("rtsp://127.0.0.1:{refused}/1");
    failing.push((given.api.add_camera("refused", &url).await.unwrap(), "refused", &["refused"]));
    // Not in 127.0.0.0/8, which is all this Single was told to allow.
    let url = "rtsp://[::1]:554/1";
    failing.push((given.api.add_camera("not allowed", url).await.unwrap(), "not allowed", &["not_allowed"]));

    for (id, what, causes) in &failing {
        until(&format!("{what} is offline with {causes:?}"), Duration::from_secs(60), async || {
            let camera = given.camera(id).await?;
            let reason = camera["state_reason"].as_str().unwrap_or_default();
            let told = camera["state"] == "offline" && causes.contains(&reason);
            if told { Ok(()) } else { Err(camera) }
        })
        .await;
    }
    given.until_recording(&good).await;
    assert_no_frame_lost(&given.files(&good));
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn a_password_opens_a_camera_and_is_never_shown() {
    let given = Given::start(5_000, 1).await;
    let url = given.cameras.url("/auth/1");
    let camera =
        json!({ "name": "locked", "source": { "url": url, "username": "user", "password": "wrong" } });
    let added =
        given.api.call(reqwest::Method::POST, "/v1/tenants/default/cameras", Some(&camera)).await.unwrap();
    let id = added["id"].as_str().unwrap().to_owned();
    until("the wrong password is refused", Duration::from_secs(20), async || {
        let camera = given.camera(&id).await?;
        if camera["state_reason"] == "unauthorized" { Ok(()) } else { Err(camera) }
    })
    .await;
    let path = format!("/v1/tenants/default/cameras/{id}");
    let right = json!({ "source": { "password": "pass" } });
    let changed = given.api.call(reqwest::Method::PATCH, &path, Some(&right)).await.unwrap();
    assert!(!changed.to_string().contains("pass\""), "{changed}");
    given.until_recording(&id).await;
    // Nor is it anywhere in what Longwatch keeps, but for the camera's own address.
    for canary in [&b"\"pass\""[..], b"user:pass", b"\"wrong\""] {
        let found = files_with(given.folder(), canary);
        assert!(found.is_empty(), "{canary:?} stands in {found:?}");
    }
    given.single.stop().await.unwrap();
}

fn files_with(folder: &std::path::Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, needle));
        } else if std::fs::read(&path)
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
        {
            found.push(path);
        }
    }
    found
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A camera that comes back is recorded again, and the gap says why it was missed.
#[tokio::test]
async fn a_camera_that_closes_is_recorded_again() {
    let given = Given::start(5_000, 1).await;
    let id = given.record("flaky", "/hostile/close-after-5s").await;
    let timeline = until("a gap of a closed connection", Duration::from_secs(60), async || {
        let timeline = given.timeline(&id).await;
        let gaps = timeline["gaps"].as_array().unwrap();
        if gaps.iter().any(|gap| gap["cause"] == "closed") { Ok(timeline) } else { Err(timeline) }
    })
    .await;
    assert_ne!(timeline["segments"], Value::Array(Vec::new()));
    given.single.stop().await.unwrap();
}
