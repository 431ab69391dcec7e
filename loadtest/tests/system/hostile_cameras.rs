//! All kinds of bad cameras at once: each says why it is not recorded, or is recorded without loss; the good ones beside
//! them lose no frame.
//!
//! `LONGWATCH_GOOD_CAMERAS=49` records more good ones than `make test` has time for.

#![allow(clippy::print_stdout, reason = "how long a camera was missed is what one runs it for")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use longwatch_loadtest::frames;
use longwatch_loadtest::system::cameras::record_family;
use longwatch_loadtest::system::process;
use longwatch_worker::archive::layout::SegmentName;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::given::{Given, until};
use crate::playing::play;
use crate::recording::assert_no_frame_lost;

/// So long that every clock has jumped twice and every bad camera has failed more than once.
const RECORDED: Duration = Duration::from_secs(30);
/// Of the worker, with all of them: far more than it takes, far less than one camera could send.
const MAX_MEMORY: u64 = 400 << 20;

/// Path, and the causes that tell the truth about it.
const HOSTILE: [(&str, &[&str]); 15] = [
    ("401", &["unauthorized"]),
    ("404", &["not_found"]),
    ("hang", &["timeout"]),
    ("hang-after-play", &["stalled"]),
    ("garbage", &["protocol_error"]),
    ("garbage-after-play", &["protocol_error"]),
    ("close", &["closed"]),
    ("audio-only", &["unsupported_codec"]),
    ("broken-sdp", &["protocol_error", "unsupported_codec"]),
    ("redirect-loop", &["protocol_error"]),
    ("redirect-out", &["not_allowed"]),
    ("redirect-http", &["not_allowed"]),
    // These are recorded for a while, again and again.
    ("stall", &["stalled", ""]),
    ("cut", &["closed", "protocol_error", ""]),
    ("close-after-5s", &["closed", ""]),
];

/// Recorded without loss, whatever their clocks do.
const ODD: [&str; 8] = [
    "/small/1",
    "/odd/jump-forward/1",
    "/odd/jump-back/1",
    "/odd/fast-clock/1",
    "/odd/reports-behind/1",
    "/odd/reports-wrong/1",
    "/odd/no-reports/1",
    "/odd/slow/1",
];

fn from_env(name: &str, usual: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[tokio::test]
async fn bad_cameras_hurt_neither_the_good_ones_nor_the_odd_ones() {
    let good = from_env("LONGWATCH_GOOD_CAMERAS", 10);
    let given = Given::start(10_000, good.max(1)).await;
    let add = async |path: &str| given.api.add_camera(path, &given.cameras.url(path)).await.unwrap();
    let (mut fine, mut odd, mut hostile) = (Vec::new(), Vec::new(), Vec::new());
    for (name, causes) in HOSTILE {
        hostile.push((add(&format!("/hostile/{name}")).await, name, causes));
    }
    for number in 1..=good {
        fine.push(add(&format!("/silent/{number}")).await);
    }
    for path in ODD {
        odd.push(add(path).await);
    }
    for id in fine.iter().chain(&odd) {
        given.until_recording(id).await;
    }
    sleep(RECORDED).await;
    for (id, name, causes) in &hostile {
        until(&format!("{name} is told apart: {causes:?}"), Duration::from_secs(60), async || {
            let camera = given.camera(id).await?;
            let reason = camera["state_reason"].as_str().unwrap_or_default();
            if causes.contains(&reason) { Ok(()) } else { Err(camera) }
        })
        .await;
    }
    let servers = given.api.get("/v1/servers").await.unwrap();
    let memory = servers["items"][0]["load"]["memory_bytes"].as_u64().unwrap();
    assert!(memory < MAX_MEMORY, "the worker has {memory} bytes");
    given.stop().await;

    for id in &fine {
        assert!(assert_no_frame_lost(&given.files(id)) >= RECORDED.as_secs() * 25);
    }
    for (id, path) in odd.iter().zip(ODD) {
        let files = given.files(id);
        let frames = assert_no_frame_lost(&files);
        assert!(frames + 100 >= RECORDED.as_secs() * 25, "{path}: {frames} frames");
        files.iter().for_each(|file| assert_eq!(play(file)[0].frames, play(file)[0].packets, "{path}"));
    }
    assert_times(&odd.iter().map(|id| given.files(id)).collect::<Vec<_>>());
}

/// When frame 0 of a camera would have been, in milliseconds, by the name of its first segment.
fn frame_zero(files: &[PathBuf]) -> i64 {
    let file: &Path = &files[0];
    let key: Vec<_> = file.iter().rev().take(4).map(|part| part.to_str().unwrap()).collect();
    let key = key.into_iter().rev().collect::<Vec<_>>().join("/");
    let name = SegmentName::parse(&key).unwrap_or_else(|| panic!("{key}"));
    let first = frames::inspect(file).unwrap().numbers[0].frame;
    name.start.as_millis() - i64::try_from(first).unwrap() * 40
}

/// All of these cameras send the same frame at the same moment; what their reports say of it differs.
fn assert_times(odd: &[Vec<PathBuf>]) {
    let zero: Vec<i64> = odd.iter().map(|files| frame_zero(files)).collect();
    let since = |path: &str| zero[ODD.iter().position(|odd| *odd == path).unwrap()] - zero[0];
    // Arrivals are late by what the way and a look at the sockets take.
    let arrival = -50..=600;
    for path in ["/odd/no-reports/1", "/odd/reports-wrong/1"] {
        assert!(arrival.contains(&since(path)), "{path}: {} ms", since(path));
    }
    let behind = since("/odd/reports-behind/1");
    assert!((-1_050..=-950).contains(&behind), "what a sane report says holds: {behind} ms");
}

#[tokio::test]
async fn a_camera_of_one_session_is_left_so_that_it_can_be_had_again_at_once() {
    let given = Given::start(5_000, 1).await;
    // Given a camera that keeps a session for a minute unless it is torn down,
    let id = given.record("stale", "/hostile/stale").await;
    // when its source changes, so that it is recorded anew,
    let before = given.camera(&id).await.unwrap()["assignment"].clone();
    let url = given.cameras.url("/hostile/stale/");
    let path = format!("/v1/tenants/default/cameras/{id}");
    let changed = json!({ "source": { "url": url } });
    given.api.call(reqwest::Method::PATCH, &path, Some(&changed)).await.unwrap();
    // then it is had again long before that minute is over.
    until("a new segment after the change", Duration::from_secs(20), async || {
        let timeline = given.timeline(&id).await;
        let gaps = timeline["gaps"].as_array().unwrap();
        let changed = gaps.iter().any(|gap| gap["cause"] == "reassigned");
        let camera = given.camera(&id).await?;
        if changed && camera["state"] == "recording" {
            Ok(())
        } else {
            Err(json!([camera, timeline, before]))
        }
    })
    .await;
    given.single.stop().await.unwrap();
}

/// By hand: `cargo test -p longwatch-loadtest --test system dead_session -- --ignored`.
#[tokio::test]
#[ignore = "the camera forgets only after a minute"]
async fn a_camera_that_keeps_a_dead_session_is_had_again_when_it_forgets() {
    let given = Given::start(5_000, 1).await;
    let id = given.record("stale", "/hostile/stale").await;
    // Given a worker that is killed, so that nobody tears the session down,
    let killed = Instant::now();
    process::kill_9(given.single.pid_of("worker").unwrap()).unwrap();
    until("the camera refuses", Duration::from_secs(30), async || {
        let camera = given.camera(&id).await?;
        if camera["state_reason"] == "protocol_error" { Ok(()) } else { Err(camera) }
    })
    .await;
    // then it is recorded again soon after the camera has forgotten.
    until("it is had again", Duration::from_secs(90), async || {
        let camera = given.camera(&id).await?;
        if camera["state"] == "recording" { Ok(()) } else { Err(camera) }
    })
    .await;
    println!("had again {:.1} s after the worker was killed", killed.elapsed().as_secs_f64());
    assert!(killed.elapsed() < Duration::from_secs(60 + 20));
    given.single.stop().await.unwrap();
}

/// `LONGWATCH_RETURNING_CAMERAS=1000` has more of them come back than `make test` has time for.
#[tokio::test]
async fn cameras_that_vanished_together_come_back_together() {
    let count = from_env("LONGWATCH_RETURNING_CAMERAS", 80);
    let mut given = Given::start(60_000, count).await;
    let within = Duration::from_secs(300);
    let server = until("the server has joined", Duration::from_secs(20), async || {
        let servers = given.api.get("/v1/servers").await.unwrap();
        let id = servers["items"][0]["id"].as_str().map(|id| format!("/v1/servers/{id}"));
        id.ok_or(servers)
    })
    .await;
    let roomy = json!({ "capacity": { "max_cameras": count } });
    given.api.call(reqwest::Method::PATCH, &server, Some(&roomy)).await.unwrap();
    record_family(&given.api, &given.cameras, "small", count, within).await.unwrap();
    // Given cameras that all lose their power for longer than anybody waits for a picture, when it is back,
    given.cameras.switch_off_for(Duration::from_secs(12)).await.unwrap();
    let back = Instant::now();
    // then 95 of a hundred are recorded within a minute, and the others, too.
    let mut most = None;
    let all = loop {
        assert!(back.elapsed() < within, "only {} of {count}", given.api.recording().await.unwrap());
        let recording = u32::try_from(given.api.recording().await.unwrap()).unwrap();
        if recording * 100 >= count * 95 {
            most.get_or_insert(back.elapsed());
        }
        if recording == count {
            break back.elapsed();
        }
        sleep(Duration::from_millis(100)).await;
    };
    let most = most.unwrap();
    println!("{count} cameras are back: 95 % after {most:.1?}, all after {all:.1?}");
    assert!(most < Duration::from_secs(60), "{most:?}");
    given.single.stop().await.unwrap();
}

#[tokio::test]
async fn passwords_are_told_as_the_camera_may_hear_them() {
    let given = Given::start(5_000, 1).await;
    let add = async |path: &str| {
        let source = json!({ "url": given.cameras.url(path), "username": "user", "password": "pass" });
        let camera = json!({ "name": path, "source": source });
        let added = given.api.call(reqwest::Method::POST, "/v1/tenants/default/cameras", Some(&camera)).await;
        added.unwrap()["id"].as_str().unwrap().to_owned()
    };
    let (md5, sha256, basic, elsewhere) =
        (add("/auth/1").await, add("/sha256/1").await, add("/basic/1").await, add("/redirect/1").await);
    for id in [&md5, &sha256, &elsewhere] {
        given.until_recording(id).await;
    }
    until("Basic is not told", Duration::from_secs(20), async || {
        let camera = given.camera(&basic).await?;
        let detail = camera["state_detail"].as_str().unwrap_or_default();
        let told = camera["state_reason"] == "unauthorized" && detail.contains("--rtsp-allow-basic");
        if told { Ok(()) } else { Err(camera) }
    })
    .await;
    given.single.stop().await.unwrap();
}
