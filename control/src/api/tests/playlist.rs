//! What a player is told.

use longwatch_events::fact::{Codec, Fact, SegmentStored};
use longwatch_events::hash::Sha256;
use longwatch_events::id::{CameraId, ServerId, TenantId};
use longwatch_events::media::{Part, Refused};
use longwatch_events::position::Epoch;
use longwatch_events::segment_name::SegmentName;
use longwatch_events::settings::Capacity;
use longwatch_events::time::Timestamp;
use m3u8_rs::{MediaPlaylist, Playlist, parse_playlist_res};

use super::*;
use crate::testing::START;

const URL: &str = "http://rec-1.example.com:8554";

fn at(second: i64) -> Timestamp {
    START.plus_millis(second * 1_000)
}

/// A segment of so many seconds, under a key of this camera.
fn stored(tenant: TenantId, camera_id: CameraId, epoch: Epoch, (from, to): (i64, i64)) -> SegmentStored {
    let server_id = ServerId::from_uuid(camera_id.as_uuid());
    let name = SegmentName { tenant_id: tenant, camera_id, start: at(from), epoch, server_id };
    SegmentStored {
        tenant_id: TenantId::DEFAULT,
        camera_id,
        epoch,
        key: name.key(),
        start: at(from),
        end: at(to),
        bytes: 15_000_000,
        sha256: Sha256::of(b"x"),
        video_frames: 1_500,
        video: Codec::H264,
        audio: None,
        repaired: false,
    }
}

fn parse(text: &str) -> MediaPlaylist {
    let Ok(Playlist::MediaPlaylist(playlist)) = parse_playlist_res(text.as_bytes()) else { panic!("{text}") };
    playlist
}

/// A camera with two segments, a minute each, of which the second begins 30 s after the first has ended.
async fn recorded(api: &Api) -> (String, ServerId, CameraId, Epoch) {
    let (path, server_id, camera_id, epoch) = api.placed_camera().await;
    let facts = [(0, 60), (90, 150)].map(|range| stored(TenantId::DEFAULT, camera_id, epoch, range));
    api.report(server_id, facts.map(Fact::SegmentStored).into()).await;
    api.control.clock.advance_millis(200_000);
    (path, server_id, camera_id, epoch)
}

#[tokio::test]
async fn a_playlist_names_each_segment_by_an_address_that_holds_for_it_alone() {
    let api = Api::start().await;
    let (path, server_id, camera_id, epoch) = recorded(&api).await;
    api.heartbeat_with(server_id, 1, Some(URL)).await;
    let answer = api.get(&format!("{path}/playlist.m3u8?from={}&to={}", at(10), at(150))).await.expect(200);
    assert_eq!(answer.header("content-type"), "application/vnd.apple.mpegurl");
    assert_eq!(answer.header("cache-control"), "private, no-store");
    let playlist = parse(&answer.text);
    let lengths: Vec<_> = playlist.segments.iter().map(|one| (one.duration, one.discontinuity)).collect();
    assert_eq!(lengths, [(60.0, false), (60.0, true)], "{}", answer.text);
    assert_eq!(playlist.start.map(|start| start.time_offset), Some(10.0));
    assert!(answer.text.contains("CLASS=\"longwatch.gap\""), "{}", answer.text);

    let key = api.control.service.media_key(server_id).unwrap().unwrap();
    for (segment, from) in playlist.segments.iter().zip([0, 90]) {
        let addresses = [(&segment.map.as_ref().unwrap().uri, Part::Init), (&segment.uri, Part::Media)];
        for (address, part) in addresses {
            let address = address.strip_prefix(URL).unwrap();
            let ticket = key.check("GET", address, at(0)).unwrap();
            let of = stored(TenantId::DEFAULT, camera_id, epoch, (from, from + 60)).key;
            assert_eq!((ticket.key, ticket.part, ticket.start, ticket.until), (of, part, at(from), None));
            // An hour longer than the range lasts, from when it was asked for.
            assert_eq!(ticket.expires, at(200 + 140 + 3_600));
            assert_eq!(key.check("GET", address, ticket.expires), Err(Refused::Expired));
        }
    }
    let other = api.control.add_server("south", Capacity::default()).await;
    let others = api.control.service.media_key(other).unwrap().unwrap();
    let address = playlist.segments[0].uri.strip_prefix(URL).unwrap();
    assert_eq!(
        others.check("GET", address, at(0)),
        Err(Refused::NotSigned),
        "each server has a key of its own"
    );
}

#[tokio::test]
async fn what_is_there_and_cannot_be_reached_is_said_to_be_so() {
    let api = Api::start().await;
    let (path, server_id, ..) = recorded(&api).await;
    let asked = format!("{path}/playlist.m3u8?from={}&to={}", at(0), at(150));
    api.heartbeat(server_id, 1).await;
    let problem = api.get(&asked).await.problem(404, "not_found");
    assert!(problem["detail"].as_str().unwrap().contains("--media-listen"), "{problem}");
    api.heartbeat_with(server_id, 2, Some(URL)).await;
    api.get(&asked).await.expect(200);
    // And when nothing was recorded, what is missing.
    let before = format!("{path}/playlist.m3u8?from={}&to={}", at(61), at(80));
    let problem = api.get(&before).await.problem(404, "not_found");
    assert!(problem["detail"].as_str().unwrap().contains("missing: "), "{problem}");
}

#[tokio::test]
async fn a_key_of_another_tenant_that_a_server_reports_gets_no_address() {
    let api = Api::start().await;
    let (path, server_id, camera_id, epoch) = recorded(&api).await;
    api.heartbeat_with(server_id, 1, Some(URL)).await;
    let other = TenantId::generate(api.control.service.ids());
    let stolen = stored(other, camera_id, epoch, (60, 75));
    let key = stolen.key.clone();
    let none = SegmentStored {
        key: format!("{}/{camera_id}/\"\n#EXT-X-ENDLIST", TenantId::DEFAULT),
        ..stored(TenantId::DEFAULT, camera_id, epoch, (75, 90))
    };
    api.report(server_id, vec![Fact::SegmentStored(stolen), Fact::SegmentStored(none)]).await;
    let playlist = api.get(&format!("{path}/playlist.m3u8?from={}&to={}", at(0), at(150))).await.expect(200);
    assert!(
        !playlist.text.contains(&key) && !playlist.text.contains(&other.to_string()),
        "{}",
        playlist.text
    );
    assert_eq!(parse(&playlist.text).segments.len(), 2);
    assert_eq!(playlist.text.matches("#EXT-X-ENDLIST").count(), 1);
}

#[tokio::test]
async fn a_range_is_a_day_at_most() {
    let api = Api::start().await;
    let (path, ..) = recorded(&api).await;
    let asked = format!("{path}/playlist.m3u8?from={}&to={}", at(-86_401), at(0));
    let problem = api.get(&asked).await.problem(400, "invalid_parameters");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("one day"), "{problem}");
    api.get("/v1/tenants/default/cameras/01935700-0000-7000-8003-000000000006/playlist.m3u8")
        .await
        .problem(404, "not_found");
}
