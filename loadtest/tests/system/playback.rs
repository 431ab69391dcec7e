//! What was recorded is played as a viewer does it: by a playlist of control, from the servers that have it.

use longwatch_events::id::CameraId;
use longwatch_events::time::{Clock as _, SystemClock};
use longwatch_loadtest::frames;
use longwatch_loadtest::sei::FrameNumber;
use longwatch_loadtest::system::archive::Segment;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

use crate::failover::{Given, timeline};
use crate::given::{millis, until};
use crate::playing::play_list;

/// A segment, as a playlist tells of it.
#[derive(Debug)]
struct Listed {
    init: String,
    media: String,
    is_new: bool,
}

/// The segments of a playlist, in order.
fn listed(playlist: &str) -> Vec<Listed> {
    let (mut segments, mut init, mut is_new) = (Vec::new(), String::new(), false);
    for line in playlist.lines() {
        if let Some(rest) = line.strip_prefix("#EXT-X-MAP:URI=\"") {
            init = rest.trim_end_matches('"').to_owned();
        } else if line == "#EXT-X-DISCONTINUITY" {
            is_new = true;
        } else if !line.starts_with('#') && !line.is_empty() {
            segments.push(Listed { init: init.clone(), media: line.to_owned(), is_new });
            is_new = false;
        }
    }
    segments
}

async fn read(client: &Client, address: &str) -> Vec<u8> {
    let answer = client.get(address).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{address}");
    answer.bytes().await.unwrap().to_vec()
}

/// The frames that a viewer gets to see.
async fn seen(client: &Client, playlist: &str) -> Vec<FrameNumber> {
    let mut numbers = Vec::new();
    for Listed { init, media, .. } in listed(playlist) {
        let file = [read(client, &init).await, read(client, &media).await].concat();
        numbers.extend(frames::report(&file).unwrap().numbers);
    }
    numbers
}

/// The playlist of all that there is of a camera, once every server gives out what it has.
async fn playlist(given: &Given, camera: CameraId) -> String {
    let path = format!("/v1/tenants/default/cameras/{camera}/playlist.m3u8");
    until("nothing is out of reach", super::failover::RECORDING_WITHIN, async || {
        let playlist = given.cluster.api(0).text(&path).await;
        let playlist = playlist.map_err(|error| Value::from(error.to_string()))?;
        if playlist.contains("server_away") { Err(playlist.into()) } else { Ok(playlist) }
    })
    .await
}

/// The last part of a segment's key.
fn file_name(segment: &Segment) -> &str {
    segment.path.file_name().and_then(|name| name.to_str()).unwrap()
}

/// ffmpeg plays as many frames without a word of complaint.
fn assert_plays(playlist: &str, frames: usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("playlist.m3u8");
    std::fs::write(&file, playlist).unwrap();
    let streams = play_list(&file);
    assert_eq!(usize::try_from(streams[0].packets).unwrap(), frames, "{streams:?}");
    assert_eq!(streams[0].frames, streams[0].packets, "{streams:?}");
}

#[tokio::test]
async fn a_camera_is_played_across_a_failover() {
    let mut given = Given::start(1, &["high"]).await;
    // Given a camera whose server dies, that goes on elsewhere, and whose first server is back with what it recorded.
    let lost = 1;
    let its = given.movable(&given.places().await, lost);
    let [camera, ..] = its[..] else { panic!("no camera is at server {lost}") };
    given.cluster.worker(lost).kill().unwrap();
    given.until_elsewhere(&its, lost).await;
    given.until_segments_after(SystemClock.now()).await;
    given.cluster.worker(lost).start().unwrap();
    given.until_server(lost, "online").await;
    // It has repaired what it was writing, and told so.
    let path = format!("/v1/tenants/default/cameras/{camera}/playlist.m3u8");
    until("all that the first server has is played", crate::failover::RECORDING_WITHIN, async || {
        let text = given.cluster.api(0).text(&path).await;
        let text = text.map_err(|error| Value::from(error.to_string()))?;
        let its = given.segments(lost, camera);
        let is_played = |segment: &Segment| !segment.open && text.contains(file_name(segment));
        if its.iter().all(is_played) { Ok(()) } else { Err(text.into()) }
    })
    .await;

    let text = playlist(&given, camera).await;
    let told = timeline(given.cluster.api(0), camera).await.unwrap();
    let segments = listed(&text);
    let breaks = segments.iter().filter(|segment| segment.is_new).count();
    assert_eq!(breaks, 1, "a player begins anew where the other server does, and only there:\n{text}");
    // What is missing between the two servers' recordings stands in it, as in the timeline.
    let first_end = millis(&told["segments"][0]["end"]);
    let missing: Vec<_> =
        told["gaps"].as_array().unwrap().iter().filter(|gap| millis(&gap["start"]) >= first_end).collect();
    assert!(!missing.is_empty(), "{told:#}");
    for gap in missing {
        let (start, cause) =
            (gap["start"].as_str().unwrap().trim_end_matches('Z'), gap["cause"].as_str().unwrap());
        let stands = |line: &&str| {
            line.starts_with("#EXT-X-DATERANGE") && line.contains(start) && line.contains(cause)
        };
        assert_eq!(text.lines().filter(stands).count(), 1, "{gap}\n{text}");
    }

    // Then a viewer sees every frame that lies on the disks of both, in order and once.
    let client = Client::new();
    let all: Vec<Segment> =
        (0..crate::failover::SERVERS).flat_map(|server| given.segments(server, camera)).collect();
    let on_disk = |listed: &Listed| {
        let segment = all.iter().find(|segment| listed.media.contains(file_name(segment)));
        segment.unwrap_or_else(|| panic!("{} is on no disk", listed.media)).numbers().unwrap()
    };
    let recorded: Vec<_> = segments.iter().flat_map(on_disk).collect();
    let seen = seen(&client, &text).await;
    assert!(seen.len() > 200, "{} frames", seen.len());
    assert_eq!(seen, recorded);

    assert_plays(&text, seen.len());

    // Whoever changes an address gets nothing.
    let address = &segments[0].media;
    let other = "01935700-0000-7000-8003-000000000006";
    for changed in [
        address.replace(&camera.to_string(), other),
        address.replace("media.m4s", "segment.mp4"),
        address.replace("expires=1", "expires=2"),
        address.split("&signature").next().unwrap().to_owned(),
    ] {
        let answer = client.get(&changed).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{changed}");
    }
    let answer = client.get(address).header("range", "bytes=0-99").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.bytes().await.unwrap().len(), 100);
}

#[tokio::test]
async fn in_a_planned_move_a_viewer_misses_nothing_and_sees_hardly_anything_twice() {
    let given = Given::start(1, &["high"]).await;
    let drained = 1;
    let its = given.movable(&given.places().await, drained);
    let [camera, ..] = its[..] else { panic!("no camera is at server {drained}") };
    let path = format!("/v1/servers/{}:drain", given.cluster.server_id(drained));
    given.cluster.api(0).call(Method::POST, &path, Some(&json!({}))).await.unwrap();
    given.until_elsewhere(&its, drained).await;
    given.until_segments_after(SystemClock.now()).await;

    // The new server began before the old one had ended: from there on it is the one that is played.
    let text = playlist(&given, camera).await;
    assert!(text.contains("&until="), "{text}");
    assert!(!text.contains("server_away"), "{text}");
    let seen = seen(&Client::new(), &text).await;
    let [continuity] = &frames::continuity(&seen)[..] else { panic!("frames of another camera") };
    assert_eq!(continuity.missing, 0, "{continuity:?}");
    // A fragment is given out whole: up to a second of the old server's goes on beside the new one's.
    assert!(continuity.doubled <= 50, "{continuity:?}");
    assert_plays(&text, seen.len());
}
