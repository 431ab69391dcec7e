//! Planned moves between real servers: the new one begins before the old one ends, so that no frame is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use longwatch_events::id::CameraId;
use longwatch_events::position::Position;
use longwatch_events::reason::FinishReason;
use longwatch_events::subject::LogStream;
use longwatch_events::time::{Clock as _, SystemClock};
use longwatch_loadtest::system::footage::Footage;
use longwatch_loadtest::system::moves::{How, ends, moves};
use reqwest::Method;
use serde_json::{Value, json};

use crate::failover::{Given, RECORDING_WITHIN, SERVERS, STOPPED_WITHIN, camera_of, get, missing, timeline};
use crate::given::until;

/// Several key frames, and moves one after the other.
const MOVED_WITHIN: Duration = Duration::from_secs(60);

impl Given {
    async fn post(&self, path: &str, body: &Value) {
        let answer = self.cluster.api(0).call(Method::POST, path, Some(body)).await;
        answer.unwrap_or_else(|error| panic!("POST {path}: {error}"));
    }

    async fn until_at(&self, cameras: &[CameraId], server: usize) {
        until("the cameras are recorded there and nowhere else", MOVED_WITHIN, async || {
            for id in cameras {
                let camera = camera_of(self.cluster.api(0), *id).await?;
                let is_there = camera["assignment"]["server_id"] == self.cluster.server_id(server);
                if !is_there || !camera["placements"][0]["moving_to"].is_null() {
                    return Err(camera);
                }
            }
            Ok(())
        })
        .await;
    }

    /// Over all servers together every frame of a camera is there, and the timeline has no gap.
    async fn assert_whole(&mut self, cameras: &[CameraId]) {
        self.until_segments_after(SystemClock.now()).await;
        for id in cameras {
            let timeline = timeline(self.cluster.api(0), *id).await.unwrap();
            assert!(missing(&timeline).is_empty(), "{id}: {timeline:#}");
        }
        self.cluster.stop_workers(STOPPED_WITHIN).await.unwrap();
        let archives = (0..SERVERS).map(|server| self.cluster.archive(server));
        let footage = Footage::read(archives).unwrap();
        for id in cameras {
            assert!(!footage.of(*id).is_empty(), "{id}");
            assert_eq!(footage.holes(*id), [], "{id}");
        }
    }
}

#[tokio::test]
async fn a_drain_and_a_failback_lose_no_frame() {
    let mut given = Given::start(1, &["high", "medium"]).await;
    let drained = 1;
    let its = given.movable(&given.places().await, drained);
    let all: Vec<_> = given.ids.iter().map(|(id, _)| *id).collect();
    let server = format!("/v1/servers/{}", given.cluster.server_id(drained));
    let policy = json!({ "failback": { "stable_s": 1 } });
    given.cluster.api(0).call(Method::PATCH, "/v1/policy", Some(&policy)).await.unwrap();

    // When a server is drained, then its cameras leave it,
    given.post(&format!("{server}:drain"), &json!({})).await;
    given.until_elsewhere(&its, drained).await;
    until("the server holds nothing any more", MOVED_WITHIN, async || {
        let read = get(given.cluster.api(0), &server).await?;
        if read["cameras"] == 0 && read["state"] == "draining" { Ok(()) } else { Err(read) }
    })
    .await;
    // and when it is taken into use again they come home,
    given.post(&format!("{server}:resume"), &json!({})).await;
    given.until_at(&its, drained).await;

    // and nothing is missing: not a frame, not a second of the timeline.
    let moves = moves(&given.history(LogStream::Log).await, Position::START);
    assert_eq!(moves.len(), 2 * its.len(), "each camera left and came back: {moves:?}");
    assert_eq!(ends(&moves), Some(BTreeSet::from([How::Finished(FinishReason::FirstKeyframe)])));
    given.assert_whole(&all).await;
}

#[tokio::test]
async fn two_copies_survive_the_loss_of_one_server() {
    let mut given = Given::start(1, &["high"]).await;
    let camera = json!({
        "name": "twice",
        "source": { "url": given.camera_url(90) },
        "copies": 2,
    });
    let added =
        given.cluster.api(0).call(Method::POST, "/v1/tenants/default/cameras", Some(&camera)).await.unwrap();
    let id: CameraId = added["id"].as_str().unwrap().parse().unwrap();
    let both = until("both copies are recorded", RECORDING_WITHIN, async || {
        let camera = camera_of(given.cluster.api(0), id).await?;
        let copies = camera["placements"].as_array().cloned().unwrap_or_default();
        let recording = copies.iter().filter(|copy| copy["state"] == "recording").count();
        if recording == 2 { Ok(copies) } else { Err(camera) }
    })
    .await;
    let on = |copy: usize| {
        given.cluster.server_with(both[copy]["assignment"]["server_id"].as_str().unwrap()).unwrap()
    };
    let (first, second) = (on(0), on(1));
    assert_ne!(first, second, "two copies are on two servers");

    given.cluster.worker(first).kill().unwrap();
    given.until_server(first, "lost").await;
    until("there are two copies again", RECORDING_WITHIN, async || {
        let camera = camera_of(given.cluster.api(0), id).await?;
        let copies = camera["placements"].as_array().cloned().unwrap_or_default();
        let healthy = copies.iter().filter(|copy| copy["state"] == "recording").count();
        if healthy == 2 { Ok(()) } else { Err(camera) }
    })
    .await;
    // A segment is in the timeline only once it is whole.
    given.ids.push((id, "medium"));
    given.until_segments_after(SystemClock.now()).await;
    let timeline = timeline(given.cluster.api(0), id).await.unwrap();
    assert!(missing(&timeline).is_empty(), "the other copy went on: {timeline:#}");
}
